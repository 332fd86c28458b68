"""How good the stored models of the ring are as densities: score, likelihood by the ODE, likelihood by the jump.

    python -m studies.likelihood

Each model is one training run, so the intervals are over points and not over trainings. One thread, about two minutes;
results are kept in studies/likelihood.json.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.likelihood import encode, invert, jump_log_det, log_likelihood
from ctm.noise import karras_times
from studies.checkpoints import FOLDER
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
MODELS = ("ring_both", "ring_denoiser", "ring_scratch", "ring_exact", "ring_learned", "ring_quick")
WORLD = ctm.data.ring()
POINTS = 3000
# equal steps in log t, both ends included
LEVELS = [WORLD.sigma_min * (WORLD.sigma_max / WORLD.sigma_min) ** (i / 24) for i in range(24)] + [WORLD.sigma_max]


def points(n: int = POINTS, t: float = WORLD.sigma_min, seed: int = 1) -> Tensor:
    """Exact draws from the density at noise level ``t``, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x0 = WORLD.sample(n, generator=generator, dtype=torch.float64)
    return x0 + t * torch.randn(x0.shape, generator=generator, dtype=torch.float64)


def score_error(model: ctm.FlowMap, t: float, n: int = POINTS) -> float:
    """RMS error of the score over the RMS of the exact one, at noise level ``t``."""
    x = points(n, t)
    with torch.no_grad():
        learned = (model.denoiser(x.float(), t).double() - x) / t**2  # the difference in float64
    exact = WORLD.score(x, t)
    return float(((learned - exact).square().sum() / exact.square().sum()).sqrt())


def one_jump(model: ctm.CTM, x: Tensor) -> tuple[Tensor, Tensor]:
    """The log density of one-step samples at ``x``, and the residual of the inversion behind it."""
    t, s = model.sigma_max, model.sigma_min
    z, residual = invert(model, x, t, s, encode(model, x))
    prior = -0.5 * (z / t).square().sum(1) - z.shape[1] / 2 * math.log(2 * math.pi * t**2)
    return prior - jump_log_det(model, z, t, s), residual


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def measure(name: str) -> dict[str, Any]:
    model = ctm.load(FOLDER / f"{name}.safetensors")
    x = points()
    true = WORLD.log_prob(x, WORLD.sigma_min)
    excess, error = mean_and_error(true - log_likelihood(model, x.float()).double())
    jumped, residual = one_jump(model, x[:1000].float())
    found = residual < 1e-5
    jump_excess, jump_error = mean_and_error((true[:1000] - jumped.double())[found])
    rows = {
        "excess": excess,
        "excess_error": error,
        "jump_excess": jump_excess,
        "jump_excess_error": jump_error,
        "jump_found": float(found.float().mean()),
        "karras_median": sorted(score_error(model, t) for t in karras_times(24, WORLD).tolist())[12],
    }
    return {key: round(value, 5) for key, value in rows.items()} | {
        "score_errors": [round(score_error(model, t), 5) for t in LEVELS]
    }


if __name__ == "__main__":
    run(RESULTS, [{"name": name} for name in MODELS], measure)
