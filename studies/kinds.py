"""Local, soft and global consistency: what is left of their loss along a trajectory, and what they cost without a pool.

    python -m studies.kinds

residuals: after 1,000 steps on the ring with the exact teacher, the differences between neighbouring jumps along 2,000
trajectories of the training's grid, and how they add up; for local consistency also after 2,000 steps, with a stopped
gradient and with one that passes through the target. cost: a learned teacher, from which the student starts, and the
same number of network calls for every kind; with a pool of trajectories and with pairs that are solved anew. Three seeds.
One thread, about seven minutes; results are kept in studies/kinds.json as they come.
"""

import copy
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.losses import Draw, Models, Route, Trajectories
from ctm.metrics import flow_map_error, relative_error
from ctm.noise import karras_times
from ctm.solvers import heun_step
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 1000
CALLS = 4000  # of a network, on a whole batch: one forward, two backward
TEACHER_STEPS = 500
WORLD = ctm.data.ring()
# name of the variant: choices of regimes.distil
STUDENTS: dict[str, dict[str, Any]] = {
    "global, 96 levels": {},
    "local, 96 levels": {"kind": "local"},
    "local, 24 levels, EMA 0.9": {"kind": "local", "levels": 24, "target_ema": 0.9},
}
# the same after twice the steps, as long as in studies/loss.py
LONGER = {"local, 2,000 steps": False, "local, 2,000 steps, through the target": True}
WAYS: dict[str, dict[str, Any]] = {
    "global, pool": {},
    "global, 32 steps": {"pool": 0, "substeps": 32},
    "global, 8 steps": {"pool": 0, "substeps": 8},
    "soft, 8 steps": {"pool": 0, "substeps": 8, "kind": "soft"},
    "local, 1 step": {"pool": 0, "kind": "local", "levels": 24, "target_ema": 0.9},
}


class Counted:
    """A teacher that counts the points whose denoiser it was asked for."""

    def __init__(self, teacher: ctm.CTM) -> None:
        self.teacher, self.points = teacher, 0

    def denoiser(self, x: Tensor, t: float | Tensor) -> Tensor:
        self.points += len(x)
        return self.teacher.denoiser(x, t)


class Through(ctm.Consistency):
    """Consistency whose gradient passes through the target too: what is descended is the whole loss."""

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        (xt, t, xu, u, s), _ = self.pairs(models, draw, rng)
        student = models.student
        return ((student.jump(xt, t, s) - student.jump(xu, u, s)) / student.output_scale(t, s)).square().mean()


@torch.no_grad()
def leftovers(student: ctm.CTM, world: ctm.GaussianMixture, levels: int, n: int = 2000) -> Tensor:
    """The residuals r_k along ``n`` trajectories, shape ``(levels, n, *data_shape)``: neighbouring jumps' difference."""
    rng, pool = torch.Generator().manual_seed(1), Trajectories()
    limits = student.sigma_min, student.sigma_max
    pool.refill(world.sample(n, generator=rng), Route(levels, False, world, heun_step, 1, limits), rng)
    times = pool.times[0].tolist()
    lands = torch.stack([student.G(pool.points[:, k], t, student.sigma_min) for k, t in enumerate(times)])
    return lands[:-1] - lands[1:]


def residuals(variant: str, seed: int) -> dict[str, Any]:
    student, choices = regimes.model(WORLD, seed), STUDENTS.get(variant, {})
    if variant in LONGER:
        term = (Through if LONGER[variant] else ctm.Consistency)(WORLD, kind="local")
        ctm.train(student, WORLD, term, 2 * STEPS, seed)
    else:
        regimes.distil(student, WORLD, WORLD, STEPS, seed, **choices)
    found = leftovers(student, WORLD, choices.get("levels", 96)) / WORLD.sigma_data
    sizes = found.square().mean((1, 2))
    beside = (found[:-1] * found[1:]).mean() / found.square().mean()
    return {
        "error": round(flow_map_error(student, WORLD), 5),
        "sum": round(found.sum(0).square().mean().sqrt().item(), 5),
        "residual": round(sizes.mean().sqrt().item(), 5),
        "neighbours": round(beside.item(), 3),
        "by_level": [round(v, 5) for v in sizes.sqrt().tolist()],
        "climbed": [round(v, 5) for v in found.flip(0).cumsum(0).square().mean((1, 2)).sqrt().tolist()],
    }


@cache
def denoiser(seed: int) -> ctm.CTM:
    model = regimes.model(WORLD, seed)
    ctm.train(model, WORLD, regimes.denoising(), TEACHER_STEPS, seed)
    return model


def cost(way: str, seed: int) -> dict[str, Any]:
    student = copy.deepcopy(denoiser(seed))
    teacher = copy.deepcopy(student).requires_grad_(False)
    choices = WAYS[way]
    solved = 2 * choices.get("substeps", 1)
    if choices.get("pool") != 0:
        solved = 2 * choices.get("levels", 96) / 48
    calls = solved + 3 + (choices.get("kind", "global") != "global")
    steps, counted = round(CALLS / calls), Counted(teacher)
    started = time.process_time()
    regimes.distil(student, WORLD, counted, steps, seed, **choices)
    seconds = time.process_time() - started
    x = WORLD.sigma_max * torch.randn(4000, 2, generator=torch.Generator().manual_seed(2))
    ends = ctm.samplers.heun(teacher, x, karras_times(192, WORLD.sigma_min, WORLD.sigma_max))
    return {
        "steps": steps,
        "teacher_calls": round(counted.points / (320 * steps), 2),
        "seconds": round(seconds, 1),
        "to_teacher": round(relative_error(ctm.samplers.one_step(student, x), ends, WORLD.sigma_data), 5),
        "error": round(flow_map_error(student, WORLD), 5),
        "teacher_error": round(relative_error(ends, ctm.samplers.one_step(WORLD, x), WORLD.sigma_data), 5),
    }


def main() -> None:
    for seed in SEEDS:
        run(RESULTS, [{"variant": name, "seed": seed} for name in (*STUDENTS, *LONGER)], residuals)
        run(RESULTS, [{"way": name, "seed": seed} for name in WAYS], cost)


if __name__ == "__main__":
    main()
