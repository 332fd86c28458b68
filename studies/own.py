"""The loss of the chapter Build your own: other last steps, a target that learns, and the comparison's equal time.

    python -m studies.own               # all parts
    python -m studies.own tune compare  # some: tune, compare, updates, why, solvers, longer, ends

tune, compare: what studies/family.py does for the methods of its table, for the last step: three settings at two learning
rates on the pinwheel, then the best of the six for three seconds of denoising on the ring, three seeds. updates: 250
updates as the chapter makes them, the last step with four u, its twin whose target learns, and two forms of CTM, three
seeds. why: the same for what the chapter asks of the best and the worst u: a teacher's step from the true trajectory and a
target that learns, both with u = 3 s; the local form on as many levels as u = 1.1 s has links; and u = 1.1 s at other
rates. solvers: updates again, with other solvers' steps of the teacher. longer: the last step after 2,000 updates, and
what the doctor then finds. ends: the last step, its twin and a last step that starts at the wrong time, after 250 updates,
with the errors of shorter jumps too, three seeds. One thread, five minutes; results are kept in studies/own.json as they
come.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.losses import METHODS
from ctm.losses.laws import Batch, Law
from ctm.metrics import flow_map_error
from ctm.solvers import Step, euler_step, heun_step, rk4_step
from studies import family
from studies.harness import load, run, run_parts

RESULTS = Path(__file__).with_suffix(".json")
NAME = "last step"
SEEDS = (0, 1, 2)
RATIOS = (1.1, 1.5, 3.0)


@dataclass(repr=False, eq=False)
class LastStep(Law):
    """A jump to s against the student's own jump to u > s and a last step of the teacher."""

    ratio: float = 1.5
    """The time u over s."""
    held: bool = True
    """Hold the target still; else it learns too."""
    step: Step = rk4_step
    """The step of the teacher from u to s."""

    def goal(self, batch: Batch, u: Tensor) -> Tensor:
        """What the jump to s is compared with."""
        near = (batch.target if self.held else batch.student).jump(batch.xt, batch.t, u)
        return self.step(batch.teacher, near, u, batch.s)

    def error(self, batch: Batch) -> Tensor:
        x, t, s = batch.xt, batch.t, batch.s
        assert batch.teacher is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.held):
            goal = self.goal(batch, torch.minimum(self.ratio * s, t))
        return (batch.student.jump(x, t, s) - goal) / batch.student.output_scale(t, s)


class WrongEnd(LastStep):
    """A mistake: the student's own jump goes to s, and the teacher starts there as if it were u."""

    def goal(self, batch: Batch, u: Tensor) -> Tensor:
        return rk4_step(batch.teacher, batch.target.jump(batch.xt, batch.t, batch.s), u, batch.s)


class OnTrack(LastStep):
    """The teacher's step taken on the exact trajectory, and added to the student's point."""

    def goal(self, batch: Batch, u: Tensor) -> Tensor:
        t, true = batch.t, batch.xt
        for k in range(6):  # to u, by steps even in log t
            true = rk4_step(batch.teacher, true, t * (u / t) ** (k / 6), t * (u / t) ** ((k + 1) / 6))
        return batch.target.jump(batch.xt, t, u) + rk4_step(batch.teacher, true, u, batch.s) - true


def rk4_in_t(model: Any, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """The classical Runge-Kutta step in t itself, where :func:`ctm.solvers.rk4_step` goes in log t."""
    h, middle = u - t, (t + u) / 2

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return (x - model.denoiser(x, t.flatten())) / t

    first = slope(x, t)
    second = slope(x + h / 2 * first, middle)
    third = slope(x + h / 2 * second, middle)
    last = slope(x + h * third, u)
    return x + h / 6 * (first + 2 * second + 2 * third + last)


def settings(world: Any) -> family.Settings:
    """Three settings by name, as studies/family.py asks for them."""
    return {f"$u = {ratio} s$": LastStep(world, ratio=ratio) for ratio in RATIOS}


def tune() -> None:
    family.SETTINGS[NAME] = settings
    shared = {"part": "tune", "method": NAME, "world": "pinwheel", "budget": 1.5, "seed": 0}
    tries = [shared | {"setting": k, "lr": lr} for k in range(len(RATIOS)) for lr in family.RATES]
    run(RESULTS, tries, family.measure_setting)


def compare() -> None:
    family.SETTINGS[NAME] = settings
    best = min(load("own").where(part="tune"), key=lambda row: row["error"] or 9.0)
    shared = {"part": "compare", "method": NAME, "world": "ring", "budget": 3}
    shared |= {"setting": best["setting"], "lr": best["lr"]}
    run(RESULTS, [shared | {"seed": seed} for seed in SEEDS], family.measure)


VARIANTS = {
    NAME: LastStep,
    "the target learns": lambda world: LastStep(world, held=False),
    **{f"u = {ratio:g} s": functools.partial(LastStep, ratio=ratio) for ratio in (1.1, 3, 10)},
}
WHY = {
    "on track": functools.partial(OnTrack, ratio=3.0),
    "the target learns, u = 3 s": functools.partial(LastStep, ratio=3.0, held=False),
    "CTM, local, 90 levels": functools.partial(ctm.Consistency, kind="local", levels=90),
}
SOLVERS: dict[str, Step] = {"Runge-Kutta in t": rk4_in_t, "Heun": heun_step, "Euler": euler_step}
SOLVED = {
    f"u = {ratio:g} s, {name}": functools.partial(LastStep, ratio=ratio, step=step)
    for ratio in (1.5, 3, 10)
    for name, step in SOLVERS.items()
}
BROKEN = {"wrong end": WrongEnd}
ENDS = (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.002)  # of jumps from the highest noise


def measure_updates(part: str, variant: str, steps: int, seed: int, lr: float | None = None) -> dict[str, Any]:
    ring = ctm.data.ring()
    student = ctm.CTM.for_data(ring, seed=seed)
    objective = (METHODS | VARIANTS | WHY | SOLVED | BROKEN)[variant](ring)
    history = ctm.train(student, ring, objective, steps, seed, lr=lr)
    red = ctm.doctor(student, ring, n=400).red
    row = {"error": round(flow_map_error(student, ring), 4), "loss": round(history.loss[-1], 5), "red": list(red)}
    if part == "ends":
        row["by_end"] = [round(flow_map_error(student, ring, ring.sigma_max, s, n=500), 4) for s in ENDS]
        begun = ring.noised(2000, ring.sigma_max, torch.Generator().manual_seed(0)).float()
        with torch.no_grad():
            landed = student.G(begun, ring.sigma_max, ENDS[0])
        row["spread_at_5"] = round(float(landed.square().mean().sqrt()) / ring.sigma_data, 3)  # over that of the data
    return row


def updates() -> None:
    variants = (*VARIANTS, "CTM, global", "CTM, local")
    jobs = [{"part": "updates", "variant": v, "steps": 250, "seed": seed} for v in variants for seed in SEEDS]
    run(RESULTS, jobs, measure_updates)


def why() -> None:
    shared = {"part": "why", "steps": 250}
    run(RESULTS, [shared | {"variant": v, "seed": seed} for v in WHY for seed in SEEDS], measure_updates)
    run(RESULTS, [shared | {"variant": "u = 1.1 s", "seed": 0, "lr": lr} for lr in (0.001, 0.016)], measure_updates)


def solvers() -> None:
    jobs = [{"part": "solvers", "variant": v, "steps": 250, "seed": seed} for v in SOLVED for seed in SEEDS]
    run(RESULTS, jobs, measure_updates)


def longer() -> None:
    run(RESULTS, [{"part": "longer", "variant": NAME, "steps": 2000, "seed": 0}], measure_updates)


def ends() -> None:
    shared = {"part": "ends", "steps": 250}
    run(
        RESULTS,
        [shared | {"variant": v, "seed": seed} for v in (NAME, *BROKEN, "the target learns") for seed in SEEDS],
        measure_updates,
    )


PARTS = {part.__name__: part for part in (tune, compare, updates, why, solvers, longer, ends)}

if __name__ == "__main__":
    run_parts(PARTS)
