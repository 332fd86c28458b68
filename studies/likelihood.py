"""How good the stored models of the ring are as densities: score, likelihood by the ODE, likelihood by the jump.

    python -m studies.likelihood

Each model is one training run, so the intervals are over points and not over trainings. Beside them the checks of the
chapter: what finer steps change; and for ring_both, whether both densities integrate to 1, whether Newton's method finds
more from other starts, and which points off the modes pass for data. One thread, about six minutes; results are kept in
studies/likelihood.json.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.likelihood import encode, invert, jump_log_det, log_likelihood
from ctm.noise import karras_times
from ctm.samplers import noise, one_step
from studies.checkpoints import FOLDER
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
MODELS = ("ring_both", "ring_denoiser", "ring_scratch", "ring_exact", "ring_learned", "ring_quick")
WORLD = ctm.data.ring()
POINTS = 3000
SPACING = 0.02  # of the grid on which a density is summed: 0.4 widths of a mode
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


def measure_fine(check: str, model: str) -> dict[str, Any]:
    """The excess in 64 steps, and in 256 at the twentieth of the points where model and truth differ most; and how much that
    changed at most, over all of these and over the third of them that differed least."""
    flow_map, x = ctm.load(FOLDER / f"{model}.safetensors"), points()
    true = WORLD.log_prob(x, WORLD.sigma_min)
    coarse = log_likelihood(flow_map, x.float(), steps=64).double()
    rough = (true - coarse).abs().argsort(descending=True)[: len(x) // 20]
    fine = coarse.index_copy(0, rough, log_likelihood(flow_map, x[rough].float(), steps=256).double())
    change = (fine - coarse)[rough].abs()
    excess, error = mean_and_error(true - fine)
    rows = {
        "excess": excess,
        "excess_error": error,
        "excess_64": float((true - coarse).mean()),
        "largest": float((true - fine).max()),
        "change": float(change.max()),
        "change_least": float(change[-len(rough) // 3 :].max()),
    }
    return {key: round(value, 5) for key, value in rows.items()}


def nearest_start(model: ctm.CTM, x: Tensor, n: int = 50_000) -> Tensor:
    """For each point the noise of the one among ``n`` one-step samples that landed nearest to it, where Newton may start."""
    z = noise(model, n, (2,), generator=torch.Generator().manual_seed(2))
    landed = one_step(model, z)
    return z[torch.cat([torch.cdist(part, landed).argmin(1) for part in x.split(500)])]


def by_any_start(model: ctm.CTM, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`one_jump`, and once more from the start of :func:`nearest_start` where it failed: log density, residual, and
    which points needed that."""
    t, s = model.sigma_max, model.sigma_min
    jumped, residual = one_jump(model, x)
    again = (residual >= 1e-5).nonzero()[:, 0]
    z, rest = invert(model, x[again], t, s, nearest_start(model, x[again]))
    density = -0.5 * (z / t).square().sum(1) - math.log(2 * math.pi * t**2) - jump_log_det(model, z, t, s)
    return jumped.index_copy(0, again, density), residual.index_copy(0, again, rest), again


def measure_mass(check: str, model: str) -> dict[str, Any]:
    """The sums of ``exp(log p)`` over a grid, by the ODE and by one jump; the data that the jump does not reach; and the
    share of the grid off the modes, within the ring, that is denser than the sparsest hundredth of the data."""
    flow_map, side = ctm.load(FOLDER / f"{model}.safetensors"), torch.arange(-60, 61, dtype=torch.float64) * SPACING
    grid, cell = torch.cartesian_prod(side, side), SPACING**2
    parts = grid.float().split(2000)
    ode = torch.cat([log_likelihood(flow_map, part) for part in parts]).double()
    jumps = [by_any_start(flow_map, part) for part in parts]
    jump, residual = (torch.cat(column) for column in list(zip(*jumps, strict=True))[:2])
    jump, found = jump.double(), residual < 1e-5
    far = torch.cdist(grid, WORLD.means).amin(1) > 4 * WORLD.stds[0]
    inside = far & (grid.norm(dim=1) < WORLD.means.norm(dim=1).max())
    x = points()[:1000]
    on_data, rest, again = by_any_start(flow_map, x.float())
    reached = rest < 1e-5
    low = {
        "ode": log_likelihood(flow_map, x.float()).double().quantile(0.01),
        "jump": on_data[reached].double().quantile(0.01),
    }
    true = WORLD.log_prob(x, WORLD.sigma_min)
    rows = {
        "mass_true": float(WORLD.log_prob(grid, WORLD.sigma_min).exp().sum()) * cell,
        "mass_ode": float(ode.exp().sum()) * cell,
        "mass_jump": float(jump[found].exp().sum()) * cell,
        "found": float(found.double().mean()),
        "off_ode": float(ode[far].exp().sum()) * cell,
        "off_jump": float(jump[far & found].exp().sum()) * cell,
        "failed": len(again),
        "reached_again": int(reached[again].sum()),
        "excess_all": float((true - on_data.double())[reached].mean()),
        "excess_again": float((true - on_data.double())[again][reached[again]].mean()),
        "passes_ode": float((ode > low["ode"])[inside].double().mean()),
        "passes_jump": float(((jump > low["jump"]) & found)[inside].double().mean()),
    }
    return {key: round(value, 5) for key, value in rows.items()}


if __name__ == "__main__":
    run(RESULTS, [{"name": name} for name in MODELS], measure)
    run(RESULTS, [{"check": "steps", "model": name} for name in MODELS], measure_fine)
    run(RESULTS, [{"check": "mass", "model": "ring_both"}], measure_mass)
