"""Teacher or no teacher: an exact one, a learned one and none, at equal numbers of updates, on every world.

    python -m studies.teachers

2,000 updates in all, with the package's own defaults: on the exact teacher; 1,000 for a denoiser and 1,000 for the jumps; or
the same with some denoising beside the jumps, on six worlds. Five seeds on the exact teacher, three of the others. (The one
in 16 dimensions is in studies/sixteen.py.) Three seeds each: in 16 dimensions a longer run on the exact teacher; and 2,000
updates with no teacher, on the ring and in 16 dimensions, split otherwise between denoiser and jumps; 400 such updates of a
smaller network in 16 dimensions; and short runs on the exact teacher of the ring with a share of the pairs set aside for
either end and without. One thread, about thirty minutes; results are kept in studies/teachers.json as they come.
"""

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import flow_map_error
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling
from ctm.training import training_steps
from studies import regimes
from studies.copies import apart
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2, 3, 4)
FEWER = 3  # seeds of all but the exact teacher
STEPS = 2000
WORLDS = tuple(name for name in ctm.data.WORLDS if name != "clusters")
BOTH = ("ring", "two_moons", "checkerboard", "pinwheel", "two_gaussians", "three_gaussians")  # "none" is measured in these
SPLIT, SHARES = ("ring", "clusters"), (0.25, 0.5, 0.75)
BUDGET = 9000  # updates in 16 dimensions at width 160: 90 seconds
WIDE = {"width": 160, "gain": 2.0}
SMALL, FIRST = 400, (100, 300)  # updates in 16 dimensions at width 64, and how many of them for the denoiser
DRAWS: dict[str, dict[str, Any]] = {"default": {}, "even": {"from_noise": 0.0, "to_data": 0.0}}
SHORT = 500  # updates of those


def jumps_error(student: ctm.CTM, world: ctm.GaussianMixture, jumps: int, n: int = 2000) -> float:
    """The one-step error, at the points of ``flow_map_error``, with ``jumps`` jumps in place of one (gamma = 0)."""
    generator = torch.Generator().manual_seed(0)
    x0 = world.sample(n, generator=generator)
    x = x0 + student.sigma_max * torch.randn(x0.shape, generator=generator)
    reached = gamma_sampling(student, x, karras_times(jumps, student))
    difference = reached - world.G(x, student.sigma_max, student.sigma_min)
    return float((difference.square().sum() / x0.square().sum()).sqrt())


def measure(world: str, regime: str, steps: int, seed: int) -> dict[str, Any]:
    truth = ctm.data.WORLDS[world]()
    student = ctm.CTM.for_data(truth, seed=seed)
    started = time.process_time()
    regimes.train(student, truth, regime, steps, seed, term=ctm.Denoising())
    seconds = time.process_time() - started
    return {"error": round(flow_map_error(student, truth), 5), "seconds": round(seconds, 1)}


def measure_wide(world: str, regime: str, steps: int, seed: int, width: int) -> dict[str, Any]:
    truth = ctm.data.WORLDS[world]()
    student = regimes.model(truth, seed, **WIDE)
    started = time.process_time()
    regimes.distil(student, truth, truth, steps, seed, lr=6e-3)
    seconds = time.process_time() - started
    return {"error": round(flow_map_error(student, truth), 5), "seconds": round(seconds, 1)}


def measure_split(world: str, share: float, steps: int, seed: int) -> dict[str, Any]:
    """No teacher, the package's own defaults, ``share`` of the updates for the denoiser: the error and its two parts."""
    truth = ctm.data.WORLDS[world]()
    student = ctm.CTM.for_data(truth, seed=seed)
    teacher = student
    started = time.process_time()
    for stage in regimes.stages(student, truth, "none", steps, seed, first=round(share * steps), term=ctm.Denoising()):
        teacher = copy.deepcopy(student)  # of the second stage: the denoiser
        for _ in training_steps(stage):
            pass
    seconds = time.process_time() - started
    sides = apart(student, teacher, truth) | {"error": round(flow_map_error(student, truth), 5)}
    return {**sides, "seconds": round(seconds, 1)}


def measure_small(world: str, first: int, steps: int, width: int, seed: int) -> dict[str, Any]:
    """No teacher, a network of three layers, the ``first`` updates for the denoiser."""
    truth = ctm.data.WORLDS[world]()
    student = regimes.model(truth, seed, width=width, layers=3, gain=8 * math.sqrt(2 / 16))
    regimes.train(student, truth, "none", steps, seed, first=first, term=ctm.Denoising(256))
    return {"error": round(flow_map_error(student, truth), 5)}


def measure_draws(draws: str, steps: int, seed: int) -> dict[str, Any]:
    """The exact teacher of the ring, a smaller network, the pairs drawn by ``DRAWS``: the errors of one jump and of four."""
    truth = ctm.data.ring()
    student = regimes.model(truth, seed, width=64, layers=4)
    regimes.distil(student, truth, truth, steps, seed, pool=1024, reuse=192, **DRAWS[draws])
    with torch.no_grad():
        one, four = (round(jumps_error(student, truth, jumps), 5) for jumps in (1, 4))
    return {"error": one, "error_4": four}


def main() -> None:
    for seed in SEEDS:
        names = regimes.REGIMES if seed < FEWER else ("exact",)
        cells = [(world, name) for world in WORLDS for name in names if name != "none" or world in BOTH]
        jobs = [{"world": world, "regime": name, "steps": STEPS, "seed": seed} for world, name in cells]
        run(RESULTS, jobs, measure)
        if seed < FEWER:
            wide = {"world": "clusters", "regime": "exact", "steps": BUDGET, "seed": seed, "width": WIDE["width"]}
            run(RESULTS, [wide], measure_wide)
            splits = [{"world": w, "share": share, "steps": STEPS, "seed": seed} for w in SPLIT for share in SHARES]
            run(RESULTS, splits, measure_split)
            small = [{"world": "clusters", "first": n, "steps": SMALL, "width": 64, "seed": seed} for n in FIRST]
            run(RESULTS, small, measure_small)
            run(RESULTS, [{"draws": name, "steps": SHORT, "seed": seed} for name in DRAWS], measure_draws)


if __name__ == "__main__":
    main()
