r"""Noise :math:`x_0 + t\,\epsilon` and its levels: the grid that a sampler walks down, and
how the times of a training batch are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ctm._checks import check_number
from ctm.flow_map import Time, as_column

RHO = 7.0  # EDM's spacing: steps are small where the trajectories bend, near the data
Device = torch.device | str


class Levels(Protocol):
    """A model's range of noise levels, and the spread of its data."""

    sigma_min: float
    sigma_max: float
    sigma_data: float


DrawTimes = Callable[[int, Levels, torch.Generator], Tensor]
"""How noise levels are drawn for training, for instance :func:`lognormal_times`."""


def rho_time(fraction: Tensor, low: Any, high: Any) -> Tensor:
    r"""The noise level at ``fraction`` of the way down from ``high`` to ``low``, numbers or
    tensors, with equal steps in :math:`t^{1/\rho}`, :math:`\rho = 7` (EDM, eq. 5):

    .. math:: t = \bigl(high^{1/\rho} + fraction\,(low^{1/\rho} - high^{1/\rho})\bigr)^\rho
    """
    return (high ** (1 / RHO) + fraction * (low ** (1 / RHO) - high ** (1 / RHO))) ** RHO


def karras_times(n: int, sigma_min: Any, sigma_max: float | None = None) -> Tensor:
    """``n`` steps down from ``sigma_max`` to ``sigma_min``: ``n + 1`` noise levels,
    float64, strictly decreasing. ``karras_times(n, model)`` takes both limits from a
    model."""
    n = check_number(n, "n", 1, integer=True)
    if sigma_max is None and hasattr(sigma_min, "sigma_max"):
        sigma_min, sigma_max = sigma_min.sigma_min, sigma_min.sigma_max
    low = check_number(sigma_min, "sigma_min", 0, above=True)
    high = check_number(sigma_max, "sigma_max", low, above=True)
    steps = torch.linspace(0, 1, n + 1, dtype=torch.float64, device="cpu")
    times = rho_time(steps, low, high)
    times[0], times[-1] = high, low  # not the rounded seventh powers
    return times


def randn(
    shape: Sequence[int],
    rng: torch.Generator | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: Device = "cpu",
) -> Tensor:
    r""":math:`N(0, 1)` numbers, drawn where the generator lives, then moved to ``device``:
    a seed gives the same numbers wherever they are used."""
    drawn = torch.randn(tuple(shape), generator=rng, dtype=dtype, device=home(rng))
    return drawn.to(device)


def rand(
    shape: Sequence[int],
    rng: torch.Generator | None,
    *,
    dtype: torch.dtype = torch.float32,
    device: Device = "cpu",
) -> Tensor:
    """Uniform numbers in [0, 1), drawn as :func:`randn` draws."""
    drawn = torch.rand(tuple(shape), generator=rng, dtype=dtype, device=home(rng))
    return drawn.to(device)


def randint(
    high: int, shape: Sequence[int], rng: torch.Generator | None, *, device: Device = "cpu"
) -> Tensor:
    """Whole numbers from 0 to ``high - 1``, drawn as :func:`randn` draws."""
    drawn = torch.randint(high, tuple(shape), generator=rng, device=home(rng))
    return drawn.to(device)


def randn_like(x: Tensor, rng: torch.Generator | None) -> Tensor:
    """:func:`randn` with the shape, dtype and device of ``x``."""
    return randn(x.shape, rng, dtype=x.dtype, device=x.device)


def noised(x0: Tensor, t: Time, rng: torch.Generator | None) -> Tensor:
    r""":math:`x_t = x_0 + t\,\epsilon`, ``t`` a number or one per sample. Shape of x0."""
    return x0 + (as_column(t, x0) if isinstance(t, Tensor) else t) * randn_like(x0, rng)


def rho_times(n: int, model: Levels, rng: torch.Generator) -> Tensor:
    r"""``n`` noise levels uniform in :math:`t^{1/7}` between the model's limits, ``(n,)``,
    where the generator lives."""
    low, high = model.sigma_min, model.sigma_max
    # a seventh power in float32 misses the ends by about 1e-4 of their size
    return rho_time(rand((n,), rng, device=rng.device), low, high).clamp(low, high)


def lognormal_times(n: int, model: Levels, rng: torch.Generator) -> Tensor:
    r"""``n`` noise levels, :math:`\log t \sim N(\log 2\sigma_{data} - 1.2,\, 1)`, kept
    within the model's limits (EDM, table 1, with deviation 1.2); ``(n,)``, where the
    generator lives."""
    middle = math.log(2 * model.sigma_data) - 1.2
    levels = (middle + randn((n,), rng, device=rng.device)).exp()
    return levels.clamp(model.sigma_min, model.sigma_max)


def image_times(n: int, model: Levels, rng: torch.Generator) -> Tensor:
    r"""As :func:`lognormal_times`, but :math:`\log t \sim N(\log 2\sigma_{data},\, 1.2^2)`:
    in an image of many pixels that tell the same, such as a digit, noise hides what is
    shown only at higher levels (Hoogeboom et al. 2023)."""
    wide = 1.2 * randn((n,), rng, device=rng.device)
    levels = 2 * model.sigma_data * wide.exp()
    return levels.clamp(model.sigma_min, model.sigma_max)


def home(rng: torch.Generator | None) -> Device:
    """Where a generator draws; None is PyTorch's own on the CPU."""
    return "cpu" if rng is None else rng.device
