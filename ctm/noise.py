r"""Noise and its levels: points :math:`x_0 + t\,\epsilon`, the grid of times a sampler walks down,
and how the times of a training batch are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ctm._checks import check_number
from ctm.flow_map import Time, as_column

RHO = 7.0  # EDM's spacing: equal steps in t^(1/7) are small where the trajectories bend, near the data


class Levels(Protocol):
    """A model's range of noise levels, and the spread of its data."""

    sigma_min: float
    sigma_max: float
    sigma_data: float


def rho_time(fraction: Tensor, low: Any, high: Any) -> Tensor:
    r"""The noise level at ``fraction`` of the way down from ``high`` to ``low``, equal steps in
    :math:`t^{1/\rho}`:

    .. math:: t = \bigl(high^{1/\rho} + fraction\,(low^{1/\rho} - high^{1/\rho})\bigr)^\rho

    with :math:`\rho = 7` (EDM, eq. 5). ``low`` and ``high`` are numbers or tensors.
    """
    return (high ** (1 / RHO) + fraction * (low ** (1 / RHO) - high ** (1 / RHO))) ** RHO


def karras_times(n: int, sigma_min: float | Levels, sigma_max: float | None = None) -> Tensor:
    """``n`` steps from ``sigma_max`` down to ``sigma_min``: ``n + 1`` noise levels in float64,
    strictly decreasing. ``karras_times(n, model)`` takes both limits from the model."""
    check_number(n, "n", 1, integer=True)
    low: Any = sigma_min
    if sigma_max is None and hasattr(low, "sigma_max"):
        low, sigma_max = low.sigma_min, low.sigma_max
    check_number(low, "sigma_min", 0, above=True)
    check_number(sigma_max, "sigma_max", low, above=True)
    steps = torch.linspace(0, 1, int(n) + 1, dtype=torch.float64, device="cpu")
    times = rho_time(steps, float(low), float(sigma_max))  # type: ignore[arg-type]
    times[0], times[-1] = sigma_max, low  # not the rounded seventh powers
    return times


def randn(
    shape: Sequence[int],
    rng: torch.Generator | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    r""":math:`N(0, 1)` numbers, drawn where the generator lives and then moved to ``device``:
    one seed gives one set of numbers wherever they are used."""
    return torch.randn(tuple(shape), generator=rng, dtype=dtype, device=_home(rng)).to(device)


def rand(
    shape: Sequence[int],
    rng: torch.Generator | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform numbers in [0, 1), drawn as :func:`randn` draws."""
    return torch.rand(tuple(shape), generator=rng, dtype=dtype, device=_home(rng)).to(device)


def randn_like(x: Tensor, rng: torch.Generator | None) -> Tensor:
    """:func:`randn` with the shape, dtype and device of ``x``."""
    return randn(x.shape, rng, dtype=x.dtype, device=x.device)


def noised(x0: Tensor, t: Time, rng: torch.Generator | None) -> Tensor:
    r""":math:`x_t = x_0 + t\,\epsilon`, ``t`` one number or one per sample. Shape of ``x0``."""
    return x0 + (as_column(t, x0) if isinstance(t, Tensor) else t) * randn_like(x0, rng)


def rho_times(n: int, model: Levels, rng: torch.Generator) -> Tensor:
    r"""``n`` noise levels uniform in :math:`t^{1/7}` between the model's limits, shape ``(n,)``,
    where the generator lives."""
    low, high = model.sigma_min, model.sigma_max
    # a seventh power in float32 misses the ends by about 1e-4 of their size
    return rho_time(rand((n,), rng, device=rng.device), low, high).clamp(low, high)


def lognormal_times(n: int, model: Levels, rng: torch.Generator) -> Tensor:
    r"""``n`` noise levels with :math:`\log t \sim N(\log 2\sigma_{data} - 1.2,\, 1)`, kept within
    the model's limits (EDM, table 1, where the deviation is 1.2). Shape ``(n,)``."""
    middle = math.log(2 * model.sigma_data) - 1.2
    drawn = (randn((n,), rng, device=rng.device) + middle).exp()
    return drawn.clamp(model.sigma_min, model.sigma_max)


def _home(rng: torch.Generator | None) -> torch.device | str:
    return "cpu" if rng is None else rng.device
