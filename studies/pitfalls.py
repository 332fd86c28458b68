"""Pitfalls: undertrained or broken? Runs with a gradient through the target, and their controls, for three times the steps.

    python -m studies.pitfalls

Three seeds each. One thread, about a minute and a half; results are kept in studies/pitfalls.json as they come.
"""

from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.losses import Draw, Models, Objective, draw_levels, grid_times
from ctm.metrics import flow_map_error
from ctm.noise import randn
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 1500
RING = ctm.data.ring()


def without_teacher(through: bool) -> Objective:
    """A loss with x_t and x_u from one draw of noise.

    The target is held still, or (the fault) the gradient goes through it.
    """

    def objective(models: Models, draw: Draw, rng: torch.Generator) -> torch.Tensor:
        student, (x0, _) = models.student, draw()
        noise = randn(x0.shape, rng)
        levels = draw_levels(len(x0), 24, "local", 0.4, 0.5, rng)
        t, u, s = (grid_times(k, 24, None, student.sigma_min, student.sigma_max)[:, None] for k in levels)
        with torch.set_grad_enabled(through):
            goal = student.jump(x0 + u * noise, u, s)
        error = student.jump(x0 + t * noise, t, s) - goal
        return (error / student.output_scale(t, s)).square().mean()

    return objective


VARIANTS = {"control": without_teacher(False), "gradient through the target": without_teacher(True)}


def measure(variant: str, seed: int) -> dict[str, Any]:
    """What the doctor says of a model after ``STEPS`` updates, and its error of one step."""
    student = regimes.model(RING, seed, width=64, layers=4)
    ctm.train(student, RING, VARIANTS[variant], STEPS, seed)
    report = ctm.doctor(student, RING, n=800, seed=seed)
    figures = {check.name: round(check.value, 3) for check in report.checks}
    error = round(flow_map_error(student, RING, n=500), 3)
    return {"semigroup": figures["semigroup"], "spread": figures["spread"], "error": error, "reds": len(report.red)}


def main() -> None:
    run(RESULTS, [{"variant": variant, "seed": seed} for seed in SEEDS for variant in VARIANTS], measure)


if __name__ == "__main__":
    main()
