"""Which choices of the loss and the training matter, what more steps buy, and how three regimes learn.

    python -m studies.training

One factor at a time from the default, 2,000 steps on the ring with the exact teacher; the default at 250 to 8,000 steps;
learning curves with an exact teacher, a learned one and none. Three seeds each. One thread, about twenty minutes; results
are kept in studies/training.json as they come.
"""

import time
from pathlib import Path
from typing import Any

import ctm
from ctm.metrics import error_table, flow_map_error
from ctm.training import training_steps
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 2000
WORLD = ctm.data.ring()
LEVELS = (10.0, 2.0, 0.5, 0.2, 0.05, 0.002)
# name of the variant: (choices of the network, choices of the loss and of the training)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "gain 1": ({"gain": 1.0}, {}),
    "gain 3": ({"gain": 3.0}, {}),
    "gain 20": ({"gain": 20.0}, {}),
    "width 48": ({"width": 48}, {}),
    "width 160": ({"width": 160}, {}),
    "layers 3": ({"layers": 3}, {}),
    "layers 7": ({"layers": 7}, {}),
    "features 1": ({"features": 1}, {}),
    "features 12": ({"features": 12}, {}),
    "levels 12": ({}, {"levels": 12}),
    "levels 18, fixed": ({}, {"levels": 18, "continuous": False}),
    "levels 96, fixed": ({}, {"continuous": False}),
    "from_noise 0": ({}, {"from_noise": 0.0}),
    "to_data 0": ({}, {"to_data": 0.0}),
    "batch 80": ({}, {"batch": 80}),
    "lr 2e-3": ({}, {"lr": 2e-3}),
    "lr 16e-3": ({}, {"lr": 1.6e-2}),
    "ema 0": ({}, {"ema": 0.0}),
    "ema 0.99": ({}, {"ema": 0.99}),
    "reuse 400": ({}, {"reuse": 400}),
}
BUDGETS = (250, 500, 1000, 2000, 4000, 8000)
CURVE_STEPS = 4000


def measure(variant: str, seed: int, steps: int) -> dict[str, Any]:
    network, choices = VARIANTS[variant]
    student = regimes.model(WORLD, seed, **network)
    started = time.process_time()
    regimes.distil(student, WORLD, WORLD, steps, seed, **choices)
    seconds = time.process_time() - started
    table = error_table(student, WORLD, LEVELS, n=1000)
    return {
        "error": round(flow_map_error(student, WORLD), 5),
        "table_error": round(float(table.nanmean()), 5),
        "seconds": round(seconds, 1),
    }


def curve(regime: str, seed: int) -> dict[str, Any]:
    """Loss and flow-map error of the averaged model along training, and of the weights themselves.

    The training of a learned teacher is not shown; without a teacher the denoiser's steps are the first half.
    """
    student = regimes.model(WORLD, seed)
    steps = 2 * CURVE_STEPS if regime == "learned" else CURVE_STEPS
    rows: dict[str, list[float]] = {"step": [], "loss": [], "error": [], "last_error": []}
    losses, before = [], CURVE_STEPS - steps
    for state in regimes.stages(student, WORLD, regime, steps, seed):
        for done, loss in training_steps(state):
            losses.append(loss)
            if done % 200 == 0 and before >= 0:
                rows["step"].append(before + done)
                rows["loss"].append(round(sum(losses) / len(losses), 6))
                rows["error"].append(round(flow_map_error(state.models.average, WORLD, n=1000), 5))
                rows["last_error"].append(round(flow_map_error(state.models.student, WORLD, n=1000), 5))
                losses.clear()
        losses.clear()
        before += state.steps
    return rows


def main() -> None:
    for seed in SEEDS:
        run(RESULTS, [{"regime": regime, "seed": seed} for regime in regimes.REGIMES], curve)
        run(RESULTS, [{"variant": name, "seed": seed, "steps": STEPS} for name in VARIANTS], measure)
        run(RESULTS, [{"variant": "default", "seed": seed, "steps": steps} for steps in BUDGETS], measure)


if __name__ == "__main__":
    main()
