"""Which structure around the network learns the ring's flow map best in 2,000 steps?

    python -m studies.parametrisations

Seven pairs of an outer and an inner structure, three seeds each, consistency with the exact teacher. One thread,
about five minutes; results are kept in studies/parametrisations.json as they come.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import ctm
from ctm import parametrisations
from ctm.parametrisations import Parametrised
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 2000
VARIANTS = (
    ("euler", "edm"),
    ("variance", "edm"),
    ("variance", "no_inner"),
    ("mixed", "edm"),
    ("euler", "cm"),
    ("euler", "no_inner"),
    ("no_outer", "edm"),
)
LEVELS = (10.0, 2.0, 0.5, 0.2, 0.05, 0.002)
LONG = [(t, s) for t in LEVELS for s in LEVELS if s < t]
SHORT = [(t, 0.9 * t) for t in LEVELS[:-1]]  # jumps of a tenth of the noise level
JUMPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of which a path from sigma_max to sigma_min is composed
WORLD = ctm.data.ring()
POINTS = 1000


@cache
def truth(t: float, s: float) -> tuple[Tensor, Tensor]:
    """Noised points at ``t`` and their exact places at ``s``."""
    generator = torch.Generator().manual_seed(100)
    x0 = WORLD.sample(POINTS, generator=generator)
    xt = x0 + t * torch.randn(x0.shape, generator=generator)
    return xt, WORLD.G(xt, t, s)


def relative(difference: Tensor) -> float:
    """Root mean square over points, in units of the root mean square of the data."""
    return round(float((difference.double().square().sum(1).mean() / (2 * WORLD.sigma_data**2)).sqrt()), 5)


def compose(model: ctm.CTM, n: int) -> float | None:
    """Error of ``n`` jumps on Karras's grid from the first level to the last; None if they run out of float32's range."""
    start, end = truth(LEVELS[0], LEVELS[-1])
    try:
        found = ctm.samplers.gamma_sampling(model, start, ctm.noise.karras_times(n, LEVELS[-1], LEVELS[0]))
    except ValueError:  # points that are not finite
        return None
    return relative(found - end) if bool(found.isfinite().all()) else None


@torch.no_grad()
def figures(model: ctm.CTM) -> dict[str, list[float | None]]:
    """Errors of the jumps LONG and SHORT, of JUMPS composed, and of the denoiser at LEVELS, all against the exact ones."""
    composed = [compose(model, n) for n in JUMPS]
    denoiser = []
    for t in LEVELS:
        xt, _ = truth(t, LEVELS[-1]) if t > LEVELS[-1] else (truth(LEVELS[0], t)[1], None)
        denoiser.append(relative(model.denoiser(xt, t) - WORLD.denoiser(xt, t)))
    return {
        "long": [relative(model.G(truth(t, s)[0], t, s) - truth(t, s)[1]) for t, s in LONG],
        "short": [relative(model.G(truth(t, s)[0], t, s) - truth(t, s)[1]) for t, s in SHORT],
        "composed": composed,
        "denoiser": denoiser,
    }


def train(outer: str, inner: str, seed: int, steps: int = STEPS) -> Parametrised:
    """A model of that structure, trained with the default consistency term."""
    structure = getattr(parametrisations, outer), getattr(parametrisations, inner)
    model = Parametrised(ctm.networks.MLP(2, gain=8.0, seed=seed), WORLD.sigma_data, *structure)
    ctm.train(model, WORLD, ctm.Consistency(WORLD), steps, seed)
    return model


def measure(outer: str, inner: str, seed: int) -> dict[str, list[float | None]]:
    return figures(train(outer, inner, seed))


def main() -> None:
    jobs = [{"outer": outer, "inner": inner, "seed": seed} for seed in SEEDS for outer, inner in VARIANTS]
    run(RESULTS, jobs, measure)


if __name__ == "__main__":
    main()
