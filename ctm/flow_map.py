"""The one abstraction of the package: anything that can jump along the trajectories of the
probability-flow ODE; and what the other modules ask of a denoiser, of data and of
conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

Time = float | Tensor
"""A noise level, one number for all samples, or a tensor with one number per sample."""


class Denoiser(Protocol):
    """Anything with ``denoiser(x, t)``: the mean of the clean points that could have become
    ``x``."""

    def denoiser(self, x: Tensor, t: Time) -> Tensor: ...


class Data(Protocol):
    """Anything to draw points from: ``sample(n, generator=g)`` returns ``(n,
    *data_shape)``."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor: ...


class FlowMap(ABC):
    r"""A flow map :math:`G(x, t, s)` of the probability-flow ODE, together with its
    denoiser.

    Time is the noise level and runs down,
    :math:`\sigma_{max} \ge t \ge s \ge \sigma_{min}`. Points have shape
    ``(n, *data_shape)``; times are numbers or tensors ``(n,)``. A
    subclass gives :meth:`G` and :meth:`denoiser`; the rest follows from them.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float
    shape: tuple[int, ...] | None = None  #: of one point; None where any shape will do
    center: float | Tensor = 0.0  #: the mean, about which the spread is

    @abstractmethod
    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802 (the field's symbol)
        r"""Where the trajectory through :math:`x_t = x` is at noise level ``s <= t``."""

    @abstractmethod
    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D(x, t) = E[x_0 \mid x_t = x]`, the mean of the clean points that could
        have become ``x``."""

    def score(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`\nabla_x \log p_t(x) = (D(x, t) - x) / t^2` (Tweedie's formula; Efron
        2011), for :math:`t > 0`."""
        z = fine(x)
        return ((self.denoiser(z, t) - z) / as_column(t, z) ** 2).to(x.dtype)

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`dx/dt = (x - D(x, t)) / t`, the probability-flow ODE with
        :math:`\sigma(t) = t` (EDM, eq. 1 and 3)."""
        z = fine(x)
        return ((z - self.denoiser(z, t)) / as_column(t, z)).to(x.dtype)


class Conditional(Protocol):
    """A family of flow maps: ``given(condition)`` is the one for that condition, one of
    ``classes``."""

    classes: int

    def given(self, condition: Any) -> FlowMap: ...


def fine(x: Tensor) -> Tensor:
    """``x`` in float32 at least: half precision would lose 1 - s/t, and x - D near 0."""
    half = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if half else x


def as_column(t: Time, x: Tensor) -> Tensor:
    """``t`` in a shape that broadcasts against ``x``; its values are not checked."""
    times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    return times.reshape(-1, *[1] * (x.ndim - 1))
