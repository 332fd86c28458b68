"""Teacher or no teacher: an exact one, a learned one and none, at equal numbers of updates, on every world.

    python -m studies.teachers

2,000 updates in all: on the exact teacher; 1,000 for a denoiser and 1,000 for the jumps; or 2,000 with no teacher; five
seeds. Three seeds each: 8,000 updates with no teacher on four worlds, and the error of those worlds' own denoisers, solved
with many steps; in 16 dimensions a longer run on the exact teacher; and 2,000 updates with no teacher, on the ring and in 16
dimensions, split otherwise between denoiser and jumps. One thread, about ninety-five minutes; results are kept in
studies/teachers.json as they come.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.metrics import error_table, flow_map_error, ratio_to_floor
from ctm.noise import karras_times, rho_time
from ctm.samplers import gamma_sampling, heun, noise, one_step
from ctm.training import training_steps
from studies import regimes
from studies.copies import apart
from studies.harness import run
from studies.regimes import model

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2, 3, 4)
FEWER = 3  # seeds of the longer runs
STEPS, MORE = 2000, 8000
LONG = ("two_gaussians", "ring", "two_moons", "clusters")
SPLIT, SHARES = ("ring", "clusters"), (0.25, 0.5, 0.75)
BUDGET = 9000  # updates in 16 dimensions at width 160: 90 seconds
WIDE = {"width": 160, "gain": 2.0}


def end_error(sampler: Callable[[Tensor], Tensor], student: ctm.CTM, world: ctm.GaussianMixture, n: int = 2000) -> float:
    """The one-step error of any way down from ``sigma_max``, with the points of ``flow_map_error``."""
    generator = torch.Generator().manual_seed(0)
    x0 = world.sample(n, generator=generator)
    x = x0 + student.sigma_max * torch.randn(x0.shape, generator=generator)
    difference = sampler(x) - world.G(x, student.sigma_max, student.sigma_min)
    return float((difference.square().sum() / x0.square().sum()).sqrt())


def jumps_error(student: ctm.CTM, world: ctm.GaussianMixture, jumps: int, n: int = 2000) -> float:
    """The one-step error with ``jumps`` jumps in place of one (gamma = 0)."""
    times = karras_times(jumps, student)
    return end_error(lambda x: gamma_sampling(student, x, times), student, world, n)


def figures(student: ctm.CTM, world: ctm.GaussianMixture) -> dict[str, Any]:
    """One jump, four jumps, the mean over a table of jumps, the denoiser, and the samples' distance to the data."""
    levels = rho_time(torch.linspace(0, 1, 5, dtype=torch.float64), student.sigma_min, student.sigma_max)
    levels = levels.clamp(student.sigma_min, student.sigma_max).tolist()
    shape = tuple(world.means.shape[1:])
    ratio = ratio_to_floor(
        lambda n, generator: one_step(student, noise(student, n, shape, generator=generator)),
        world,
        "W1" if shape == (1,) else "sliced W2",
        n=10_000,
    )
    return {
        "error": round(flow_map_error(student, world), 5),
        "four_jumps": round(jumps_error(student, world, 4), 5),
        "table_error": round(float(error_table(student, world, levels, n=1000).nanmean()), 5),
        "ratio": round(ratio.mean, 3),
    }


def measure(world: str, regime: str, steps: int, seed: int) -> dict[str, Any]:
    truth = ctm.data.WORLDS[world]()
    started = time.process_time()
    student = regimes.train(model(truth, seed), truth, regime, steps, seed)
    seconds = time.process_time() - started
    return {**figures(student, truth), "seconds": round(seconds, 1)}


def measure_wide(world: str, regime: str, steps: int, seed: int, width: int) -> dict[str, Any]:
    truth = ctm.data.WORLDS[world]()
    student = model(truth, seed, **WIDE)
    started = time.process_time()
    regimes.distil(student, truth, truth, steps, seed, lr=6e-3)
    seconds = time.process_time() - started
    return {**figures(student, truth), "seconds": round(seconds, 1)}


def measure_denoiser(world: str, denoiser_steps: int, seed: int) -> dict[str, Any]:
    """The one-step error of a student that would copy its learned teacher's trajectories without any error."""
    truth = ctm.data.WORLDS[world]()
    teacher = model(truth, seed)
    ctm.train(teacher, truth, regimes.denoising(), denoiser_steps, seed)
    times = karras_times(64, teacher)
    return {"error": round(end_error(lambda x: heun(teacher, x, times), teacher, truth), 5)}


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


def main() -> None:
    def job(world: str, regime: str, steps: int, seed: int) -> dict[str, Any]:
        return {"world": world, "regime": regime, "steps": steps, "seed": seed}

    for seed in SEEDS:
        run(RESULTS, [job(world, regime, STEPS, seed) for world in ctm.data.WORLDS for regime in regimes.REGIMES], measure)
        if seed < FEWER:
            run(RESULTS, [job("clusters", "exact", BUDGET, seed) | {"width": WIDE["width"]}], measure_wide)
            run(RESULTS, [job(world, "none", MORE, seed) for world in LONG], measure)
            denoisers = [(world, steps // 2) for world in LONG for steps in (STEPS, MORE)]
            splits = [{"world": w, "share": share, "steps": STEPS, "seed": seed} for w in SPLIT for share in SHARES]
            run(RESULTS, splits, measure_split)
            run(RESULTS, [{"world": w, "denoiser_steps": n, "seed": seed} for w, n in denoisers], measure_denoiser)


if __name__ == "__main__":
    main()
