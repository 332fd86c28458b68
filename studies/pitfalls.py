"""Pitfalls: undertrained or broken? Runs with a gradient through the target, and their controls, for three times the steps.

    python -m studies.pitfalls

Three seeds each. One thread, about a minute and a half; results are kept in studies/pitfalls.json as they come.
"""

from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import flow_map_error
from ctm.pairs import draw_levels, grid_times
from ctm.run import Run
from ctm.training import training_steps
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 1500
RING = ctm.data.ring()


class NoTeacher(Run):
    """Without a teacher: x_t and x_u from one draw of noise; the target is held still."""

    through = False

    def _loss(self) -> torch.Tensor:
        x0 = self._draw(self.recipe.batch)
        noise = torch.randn(x0.shape, generator=self.generator)
        levels = draw_levels(len(x0), 24, "local", 0.4, 0.5, self.generator)
        t, u, s = (grid_times(k, 24, None, *self.limits)[:, None] for k in levels)
        with torch.set_grad_enabled(self.through):
            goal = self.student.G(x0 + u * noise, u, s)
        error = self.student.G(x0 + t * noise, t, s) - goal
        return (error / self.student.output_scale(t, s)).square().mean()


class NoStop(NoTeacher):
    """The fault: the gradient goes through the target, too."""

    through = True


VARIANTS = {"control": NoTeacher, "gradient through the target": NoStop}


def measure(variant: str, seed: int) -> dict[str, Any]:
    """What the doctor says of a model after ``STEPS`` updates, and its error of one step."""
    student = ctm.CTM(ctm.networks.MLP(dim=2, width=64, layers=4, seed=seed), RING.sigma_data)
    training = VARIANTS[variant](student, RING, RING, STEPS, seed, ctm.Recipe(pool=0))
    for _ in training_steps(training):
        pass
    report = ctm.doctor(training.average, RING, n=800, seed=seed)
    figures = {check.name: round(check.value, 3) for check in report.checks}
    error = round(flow_map_error(training.average, RING, n=500), 3)
    return {"semigroup": figures["semigroup"], "spread": figures["spread"], "error": error, "reds": len(report.red)}


def main() -> None:
    run(RESULTS, [{"variant": variant, "seed": seed} for seed in SEEDS for variant in VARIANTS], measure)


if __name__ == "__main__":
    main()
