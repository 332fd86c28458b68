"""What matters: one factor of the recipe at a time, on the ring with the exact teacher.

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
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
WORLD = ctm.data.ring()
STEPS = 2000
LEVELS = (10.0, 2.0, 0.5, 0.2, 0.05, 0.002)
# name of the factor: (where it is set, the default, the other values)
FACTORS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "steps": ("train", STEPS, (500, 1000, 4000, 8000)),
    "batch": ("recipe", 320, (80, 160, 640)),
    "lr": ("recipe", 8e-3, (2e-3, 4e-3, 16e-3)),
    "width": ("network", 96, (48, 160)),
    "layers": ("network", 5, (3, 7)),
    "gain": ("network", 8.0, (1.0, 3.0, 20.0)),
    "features": ("network", 6, (1, 3, 12)),
    "ema": ("recipe", 0.999, (0.0, 0.99, 0.9999)),
    "from_noise": ("recipe", 0.4, (0.0, 0.2, 0.8)),
    "to_data": ("recipe", 0.5, (0.0, 0.25, 0.75)),
    "sigma_max": ("model", 10.0, (2.5, 5.0, 20.0)),
    "dsm": ("recipe", 0.0, (0.01, 0.1, 1.0)),
    "compare": ("recipe", "s", ("x0",)),
    "substeps": ("coarse", 8, (1, 2, 4)),  # of a grid with 12 levels, so that the solver's error shows
    "solver": ("recipe", "heun", ("euler",)),
}


def measure(factor: str, value: Any, seed: int) -> dict[str, Any]:
    place = FACTORS[factor][0]
    chosen = {factor: value}
    network = ctm.networks.MLP(2, seed=seed, **(chosen if place == "network" else {}))
    student = ctm.CTM(network, WORLD.sigma_data, **(chosen if place == "model" else {}))
    recipe = ctm.Recipe(**(chosen if place in ("recipe", "coarse") else {}), **({"levels": 12} if place == "coarse" else {}))
    started = time.process_time()
    ctm.train(student, WORLD, WORLD, value if place == "train" else STEPS, seed, recipe)
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
