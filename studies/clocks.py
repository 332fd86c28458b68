"""What the pages say of the processor's clock, as ratios: each round times all sides in turn, and the fastest turn counts.

    python -m studies.clocks

split: a step of 320 digits of 8 x 8 pixels in several parts, over the same step in one. passes: a step with the loss of a
student of CIFAR-10's size, and five steps of Heun's method, in passes of the network, where a step of denoising is three.
small, large: the total derivative by forward mode or by a difference, alone and within a step of training, in calls of the
network without gradient, for 40,226 and for 4,230,146 weights. Five rounds each: the spread is that of the machine, not of
seeds. One thread, about three minutes; no test measures any of this anew, as a busy machine would decide it. Results are
kept in studies/clocks.json as they come.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ctm
from ctm.losses import Objective
from ctm.losses.laws import derivative
from ctm.noise import karras_times
from ctm.training.config import load_data
from studies.harness import fastest, run

RESULTS = Path(__file__).with_suffix(".json")
ROUNDS = range(5)
Jobs = dict[Any, Callable[[], Any]]


def timed(jobs: Jobs) -> dict[Any, float]:
    """Processor seconds of each job."""
    return dict(zip(jobs, fastest(*jobs.values(), turns=5), strict=True))


def split() -> dict[str, float]:
    """Of 2, 5 and 10 parts, over one."""
    data = load_data("digits")
    painter = ctm.CTM.for_data(data)
    states = {k: ctm.training.State(painter, data, ctm.Denoising(0), 1, batch=320 // k) for k in (1, 2, 5, 10)}

    def in_parts(k: int) -> None:
        for _ in range(k):
            states[k].loss().backward()

    spent = timed({k: lambda k=k: in_parts(k) for k in states})
    return {f"{k} parts": spent[k] / spent[1] for k in states if k > 1}


def jobs_of_the_plan() -> Jobs:
    """A step of denoising, one with the plan's whole loss, and five of Heun's, of eight images of 3 x 32 x 32."""
    images = ctm.data.Points(np.linspace(-1, 1, 8 * 3 * 32**2).reshape(8, 3, 32, 32))
    denoiser = ctm.CTM.for_data(images, ctm.networks.UNet((3, 32, 32), width=32, levels=3))
    teacher = copy.deepcopy(denoiser).requires_grad_(False)
    denoising = ctm.Denoising(0)

    def a_step(term: Objective) -> Callable[[], None]:
        state = ctm.training.State(denoiser, images, term, 1, batch=8, target_ema=0.999)
        state.loss()  # solves the pool
        return lambda: state.loss().backward()

    start = teacher.sigma_max * torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {
        "denoising": a_step(denoising),
        "student": a_step(ctm.Consistency(teacher, "soft", "x0", pool=8, levels=2) + denoising),
        "solver": lambda: ctm.samplers.heun(teacher, start, karras_times(5, teacher)),
    }


def passes() -> dict[str, float]:
    """In passes of the network."""
    spent = timed(jobs_of_the_plan())
    return {name: 3 * spent[name] / spent["denoising"] for name in ("student", "solver")}


def of_derivative(width: int) -> dict[str, float]:
    """By forward mode and by a difference, alone and within a step, in calls of a network of this width."""
    model = ctm.CTM.for_data(ctm.data.ring(), ctm.networks.MLP(2, width=width))
    rng = torch.Generator().manual_seed(0)
    x, v = 2 * torch.randn((320, 2), generator=rng), torch.randn((320, 2), generator=rng)
    t, s = torch.full((320, 1), 2.0), torch.full((320, 1), 0.1)
    point, direction = (x, t, s), (v, t, -s)  # all three move

    @torch.no_grad()
    def alone(step: float) -> torch.Tensor:
        return derivative(model, point, direction, step)

    def train(step: float) -> None:
        slope = alone(step)
        (model(*point) + slope).square().mean().backward()

    plain = torch.no_grad()(lambda: model(*point))
    jobs: Jobs = {"plain": plain, "forward": lambda: alone(0), "difference": lambda: alone(3e-3)}
    jobs |= {"step, forward": lambda: train(0), "step, difference": lambda: train(3e-3)}
    spent = timed(jobs)
    return {name: spent[name] / spent["plain"] for name in jobs if name != "plain"}


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "split": split,
    "passes": passes,
    "small": lambda: of_derivative(96),
    "large": lambda: of_derivative(1024),
}


def measure(part: str, round: int) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in PARTS[part]().items()}


def main() -> None:
    run(RESULTS, [{"part": part, "round": round} for part in PARTS for round in ROUNDS], measure)


if __name__ == "__main__":
    main()
