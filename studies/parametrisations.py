"""Which structure around the network learns the ring's flow map best in 2,000 steps?

    python -m studies.parametrisations

Seven pairs of an outer and an inner structure, three seeds each, consistency with the exact teacher. And 500 steps of the
boundary condition left to be learned, with penalties of several weights, and built in; of a form that keeps of x what the
built-in one keeps, but whose factor does not vanish; and of "euler, no_inner" with its own units of the loss and with those
of "euler, edm". One thread, about eight minutes; results are kept in studies/parametrisations.json as they come.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import ctm
from ctm import parametrisations
from ctm.losses import Draw, Models
from ctm.losses.objective import as_term
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
BOUNDARY_STEPS = 500
LENGTHS = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)  # of jumps from t = 2, over t
# name of the form: is the condition built in? weight of a penalty; units of the loss of the other form?
FORMS = {
    "free": (False, 0.0, False),
    "penalty 1": (False, 1.0, False),
    "penalty 10": (False, 10.0, False),
    "penalty 100": (False, 100.0, False),
    "built in": (True, 0.0, False),
    "free, units of built in": (False, 0.0, True),
    "built in, units of free": (True, 0.0, True),
}


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


def free(model: ctm.CTM, t: Tensor, s: Tensor) -> tuple[float, Tensor]:
    """The outer structure G = r_s F, which keeps nothing of x."""
    return 0.0, (s**2 + model.sigma_data**2).sqrt()


def penalty(models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
    """Mean square of G(x_t, t, t) - x_t, in units of r_t."""
    x0, _ = draw()
    t = ctm.noise.rho_times(len(x0), models.student, rng)[:, None]
    xt = ctm.noise.noised(x0, t, rng)
    miss = models.student.jump(xt, t, t) - xt
    return (miss / (t**2 + WORLD.sigma_data**2).sqrt()).square().mean()


def boundary_model(form: str, seed: int) -> Parametrised:
    """An untrained model of one of the FORMS."""
    within, _, exchanged = FORMS[form]
    structures = (parametrisations.euler, parametrisations.edm), (free, parametrisations.no_inner)
    network = ctm.networks.MLP(2, gain=8.0, seed=seed)
    model = Parametrised(network, WORLD.sigma_data, *structures[not within])
    if exchanged:
        other = Parametrised(network, WORLD.sigma_data, *structures[within])
        model.output_scale = other.output_scale  # type: ignore[method-assign]
    return model


@torch.no_grad()
def paths(model: ctm.CTM) -> dict[str, list[float | None]]:
    """Errors of 1, 2, ... 128 jumps composed, and of single jumps of several lengths from t = 2."""
    lands = [(2.0, 2.0 * (1 - eta)) for eta in LENGTHS]
    return {
        "composed": [compose(model, n) for n in JUMPS[:-1]],
        "by_length": [relative(model.G(truth(t, s)[0], t, s) - truth(t, s)[1]) for t, s in lands],
    }


def boundary(variant: str, seed: int) -> dict[str, list[float | None]]:
    model, (_, weight, _) = boundary_model(variant, seed), FORMS[variant]
    loss = ctm.Consistency(WORLD)
    ctm.train(model, WORLD, loss + weight * as_term(penalty) if weight else loss, BOUNDARY_STEPS, seed)
    return paths(model)


def residual(model: ctm.CTM, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The outer structure that keeps of x what the built-in form keeps; its factor does not vanish at s = t."""
    r_t, r_s = ((time**2 + model.sigma_data**2).sqrt() for time in (t, s))
    return (model.sigma_data**2 + s * t) / r_t**2, r_s


def control(variant: str, seed: int) -> dict[str, list[float | None]]:
    """What :func:`boundary` measures, for the form ``residual``."""
    model = Parametrised(ctm.networks.MLP(2, seed=seed), WORLD.sigma_data, residual, parametrisations.no_inner)
    ctm.train(model, WORLD, ctm.Consistency(WORLD), BOUNDARY_STEPS, seed)
    return paths(model)


# name of the variant: inner structure; units of "euler, edm"?
UNITS = {
    "euler, edm": ("edm", False),
    "euler, no_inner": ("no_inner", False),
    "euler, no_inner, units of edm": ("no_inner", True),
}


@torch.no_grad()
def one_jump(model: ctm.CTM, t: float, s: float) -> float:
    """Error of one jump."""
    start, end = truth(t, s)
    return relative(model.G(start, t, s) - end)


def units(variant: str, seed: int) -> dict[str, float]:
    """Error of the jump to the end, from a low level and from the highest."""
    inner, exchanged = UNITS[variant]
    network = ctm.networks.MLP(2, seed=seed)
    structures = (getattr(parametrisations, name) for name in (inner, "edm"))
    model, usual = (Parametrised(network, WORLD.sigma_data, parametrisations.euler, each) for each in structures)
    if exchanged:
        model.output_scale = usual.output_scale  # type: ignore[method-assign]
    ctm.train(model, WORLD, ctm.Consistency(WORLD), BOUNDARY_STEPS, seed)
    return {"at_low": one_jump(model, 0.05, LEVELS[-1]), "at_high": one_jump(model, LEVELS[0], LEVELS[-1])}


def measure(outer: str, inner: str, seed: int) -> dict[str, list[float | None]]:
    return figures(train(outer, inner, seed))


def main() -> None:
    jobs = [{"outer": outer, "inner": inner, "seed": seed} for seed in SEEDS for outer, inner in VARIANTS]
    run(RESULTS, jobs, measure)
    run(RESULTS, [{"variant": form, "seed": seed} for seed in SEEDS for form in FORMS], boundary)
    run(RESULTS, [{"variant": "residual", "seed": seed} for seed in SEEDS], control)
    run(RESULTS, [{"variant": name, "seed": seed} for seed in SEEDS for name in UNITS], units)


if __name__ == "__main__":
    main()
