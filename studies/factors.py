"""What matters: one factor of the loss, the training or the network at a time, on the ring with the exact teacher.

    python -m studies.factors

2,000 updates unless the factor is their number, three seeds each. One thread, about thirty minutes; results are kept in
studies/factors.json as they come.
"""

import time
from pathlib import Path
from typing import Any

import ctm
from ctm.metrics import error_table, flow_map_error, ratio_to_floor
from ctm.samplers import noise, one_step
from ctm.solvers import euler_step, heun_step
from studies import regimes
from studies.harness import Rows, load, run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
WORLD = ctm.data.ring()
STEPS = 2000
LEVELS = (10.0, 2.0, 0.5, 0.2, 0.05, 0.002)
# name of the factor: (where it is set, the default, the other values)
FACTORS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "steps": ("train", STEPS, (500, 1000, 4000, 8000)),
    "batch": ("distil", 320, (80, 160, 640)),
    "lr": ("distil", 8e-3, (2e-3, 4e-3, 16e-3)),
    "width": ("network", 96, (48, 160)),
    "layers": ("network", 5, (3, 7)),
    "gain": ("network", 8.0, (1.0, 3.0, 20.0)),
    "features": ("network", 6, (1, 3, 12)),
    "ema": ("distil", 0.999, (0.0, 0.99, 0.9999)),
    "from_noise": ("distil", 0.4, (0.0, 0.2, 0.8)),
    "to_data": ("distil", 0.5, (0.0, 0.25, 0.75)),
    "sigma_max": ("model", 10.0, (2.5, 5.0, 20.0)),
    "dsm": ("distil", 0.0, (0.01, 0.1, 1.0)),
    "compare": ("distil", "s", ("x0",)),
    "substeps": ("coarse", 8, (1, 2, 4)),  # of a grid with 12 levels, so that the solver's error shows
    "solver": ("distil", "heun", ("euler",)),
}


SOLVERS = {"euler": euler_step, "heun": heun_step}


def setting(factor: str, value: Any) -> Rows:
    """The stored rows of one value of a factor; the default is measured once, under "steps" (and with the coarse grid)."""
    if value == FACTORS[factor][1] and factor != "substeps":
        factor, value = "steps", STEPS
    return load("factors").where(factor=factor, value=value)


def measure(factor: str, value: Any, seed: int) -> dict[str, Any]:
    place = FACTORS[factor][0]
    chosen = {"step": SOLVERS[value]} if factor == "solver" else {factor: value}
    student = regimes.model(WORLD, seed, **(chosen if place == "network" else {}))
    if place == "model":
        student = ctm.CTM(student.network, WORLD.sigma_data, **chosen)
    choices = (chosen if place in ("distil", "coarse") else {}) | ({"levels": 12} if place == "coarse" else {})
    started = time.process_time()
    steps = value if place == "train" else STEPS
    regimes.distil(student, WORLD, WORLD, steps, seed, beside={"references": 0}, **choices)
    seconds = time.process_time() - started
    levels = [min(level, student.sigma_max) for level in LEVELS]
    ratio = ratio_to_floor(lambda n, g: one_step(student, noise(student, n, (2,), generator=g)), WORLD, n=10_000)
    return {
        "error": round(flow_map_error(student, WORLD), 5),
        "table_error": round(float(error_table(student, WORLD, levels, n=1000).nanmean()), 5),
        "ratio": round(ratio.mean, 3),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    jobs = [(factor, value) for factor, (_, default, others) in FACTORS.items() for value in (default, *others)]
    # the default belongs to every factor; it is measured once, under "steps", and with the coarse grid
    jobs = [(f, v) for f, v in jobs if v != FACTORS[f][1] or f in ("steps", "substeps")]
    for seed in SEEDS:
        run(RESULTS, [{"factor": factor, "value": value, "seed": seed} for factor, value in jobs], measure)


if __name__ == "__main__":
    main()
