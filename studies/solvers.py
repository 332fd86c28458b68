"""Solvers: students of an exact teacher on the ring that differ in the grid of its Heun steps.

    python -m studies.solvers

500 updates each, the default network. Errors are root mean squares over the spread of the data, on the 2,000 starts of the
chapter: ``solver`` that of the Heun steps to the exact ends, ``copied`` of the student to the solver's ends, ``student`` of
the student to the exact ones.

Three seeds. One thread, about twenty seconds; results are kept in studies/solvers.json as they come.
"""

from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import relative_error
from ctm.noise import karras_times
from ctm.samplers import heun, one_step
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
RING = ctm.data.ring()


def apart(steps: int, seed: int) -> dict[str, Any]:
    """A student of so many Heun steps: solver to exact, student to solver, student to exact."""
    student = ctm.CTM.for_data(RING, seed=seed)
    ctm.train(student, RING, ctm.Consistency(RING, levels=steps, continuous=False), 500, seed)
    start = RING.sigma_max * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends, solved = one_step(student, start.float()), heun(RING, start, karras_times(steps, RING))
    exact = one_step(RING, start)
    pairs = {"solver": (solved, exact), "copied": (ends, solved), "student": (ends, exact)}
    return {name: round(relative_error(*pair, RING.sigma_data), 5) for name, pair in pairs.items()}


if __name__ == "__main__":
    run(RESULTS, [{"steps": n, "seed": seed} for n in (4, 8, 96) for seed in SEEDS], apart)
