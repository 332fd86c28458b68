"""A student against its own teacher: what it has not copied, and what the teacher does not know.

    python -m studies.copies

Half of the updates make a denoiser, the other half distil it. Errors of one jump over the spread of the data: the student's
against the truth and against its own teacher's trajectories, and those trajectories' own, solved with 64 Heun steps.
``defaults`` is "now" for the package's own, a gain of 8 min(1, sqrt(2 / dim)) on the inputs and log-normal noise levels for
denoising, "then" for a gain of 8 and noise levels uniform in t^(1/7). Three seeds. One thread, about seven
minutes; results are kept in studies/copies.json as they come.
"""

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import relative_error
from ctm.noise import karras_times, noised
from ctm.samplers import heun, one_step
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 2000
WORLDS = ("two_gaussians", "ring", "two_moons", "clusters")


def apart(student: ctm.CTM, teacher: ctm.CTM, world: ctm.GaussianMixture, n: int = 2000) -> dict[str, float]:
    """The three sides of the triangle of student, teacher and truth, on the same starts."""
    rng = torch.Generator().manual_seed(0)
    start = noised(world.sample(n, generator=rng), student.sigma_max, rng)
    truth = world.G(start, student.sigma_max, student.sigma_min)
    copied = heun(teacher, start, karras_times(64, teacher.sigma_min, teacher.sigma_max))
    made = one_step(student, start)
    sides = {"error": (made, truth), "not_copied": (made, copied), "not_known": (copied, truth)}
    return {name: round(relative_error(*pair, world.sigma_data), 5) for name, pair in sides.items()}


def measure(world: str, defaults: str, steps: int, seed: int) -> dict[str, Any]:
    truth = ctm.data.WORLDS[world]()
    now = defaults == "now"
    started = time.process_time()
    student = regimes.model(truth, seed, gain=8 * min(1.0, math.sqrt(2 / truth.means[0].numel())) if now else 8.0)
    term = ctm.Denoising() if now else regimes.denoising()
    ctm.train(student, truth, term, steps // 2, seed)
    teacher = copy.deepcopy(student).requires_grad_(False)
    ctm.train(student, truth, ctm.Consistency(teacher), steps - steps // 2, seed)
    seconds = time.process_time() - started
    return {**apart(student, teacher, truth), "seconds": round(seconds, 1)}


def main() -> None:
    cells = [("clusters", "then"), *((world, "now") for world in WORLDS)]
    for world, defaults in cells:
        jobs = [{"world": world, "defaults": defaults, "steps": STEPS, "seed": seed} for seed in SEEDS]
        run(RESULTS, jobs, measure)


if __name__ == "__main__":
    main()
