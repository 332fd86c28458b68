"""Do the defaults of `CTM.for_data` and of denoising hold in 1, 2, 16 and 64 dimensions?

    python -m studies.scaling [world ...]

The gain of the network's inputs, 8 min(1, sqrt(2 / dim)) against 8 and 2, and the noise levels of denoising, log-normal
against uniform in t^(1/7): from scratch, 2,000 updates, the first half of which make a denoiser; three seeds. Errors are
those of the denoiser at three noise levels, over the spread of the data, and of one step at the end. One of the two is
changed at a time. One thread, about forty minutes; results are kept in studies/scaling.json as they come.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import flow_map_error
from ctm.noise import lognormal_times, rho_times
from ctm.training import training_steps
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 2000
LEVELS = (0.2, 0.5, 1.5)  # for sigma_data = 0.5
TIMES = {"rho": rho_times, "lognormal": lognormal_times}


def clusters_64() -> ctm.GaussianMixture:
    """64-D: sixteen equal Gaussians at random centres, made as :func:`ctm.data.clusters` is, of spread 0.5."""
    centres = torch.randn((16, 64), generator=torch.Generator().manual_seed(64), dtype=torch.float64)
    raw = ctm.GaussianMixture(centres, 1.0)
    factor = 0.5 / raw.sigma_data
    return ctm.GaussianMixture((centres - centres.mean(0)) * factor, factor)


WORLDS: dict[str, Callable[[], ctm.GaussianMixture]] = {
    "two_gaussians": ctm.data.two_gaussians,
    "ring": ctm.data.ring,
    "two_moons": ctm.data.two_moons,
    "clusters": ctm.data.clusters,
    "clusters_64": clusters_64,
}


def gains(dim: int) -> list[float]:
    """The rule's gain first, then the fixed ones that differ from it."""
    rule = round(8.0 * min(1.0, math.sqrt(2 / dim)), 4)
    return [rule, *(gain for gain in (8.0, 2.0) if gain != rule)]


def denoiser_errors(model: ctm.CTM, world: ctm.GaussianMixture, n: int = 4000) -> dict[str, float]:
    """Root mean square error of the denoiser over ``sigma_data``, by noise level."""
    generator, found = torch.Generator().manual_seed(1), {}
    x0 = world.sample(n, generator=generator)
    for level in LEVELS:
        t = level * world.sigma_data / 0.5
        xt = x0 + t * torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            miss = model.denoiser(xt, t) - world.denoiser(xt, t)
        found[f"denoiser_error_at_{level:g}"] = round(float(miss.square().mean().sqrt()) / world.sigma_data, 5)
    return found


def measure(world: str, gain: float, times: str, steps: int, seed: int) -> dict[str, Any]:
    truth = WORLDS[world]()
    network = ctm.networks.MLP(truth.means[0].numel(), gain=gain, seed=seed)
    student = ctm.CTM.for_data(truth, network)
    term = ctm.Denoising(times=TIMES[times])
    started, row = time.process_time(), {}
    for state in regimes.stages(student, truth, "none", steps, seed, term=term):
        for _ in training_steps(state):
            pass
        row = row or denoiser_errors(state.models.average, truth)
    seconds = time.process_time() - started
    return {**row, "error": round(flow_map_error(student, truth), 5), "seconds": round(seconds, 1)}


def main() -> None:
    for seed in SEEDS:
        for world in sys.argv[1:] or WORLDS:
            rule, *fixed = gains(WORLDS[world]().means[0].numel())  # the defaults, and with one of the two changed
            cells = [(rule, "lognormal"), (rule, "rho"), *((gain, "lognormal") for gain in fixed)]
            jobs = [{"world": world, "gain": gain, "times": times, "steps": STEPS, "seed": seed} for gain, times in cells]
            run(RESULTS, jobs, measure)


if __name__ == "__main__":
    main()
