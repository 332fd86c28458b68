"""The one abstraction of the package: anything that can jump along the trajectories of the probability-flow ODE."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from typing import Protocol
class Denoiser(Protocol):
    def denoiser(self, x, t): ...
class Data(Protocol):
    def sample(self, n, *, generator=None): ...
class Conditional(Protocol):
    def given(self, condition): ...
Time = float | Tensor
"""A noise level, one number for all samples, or a tensor with one number per sample."""


class FlowMap(ABC):
    r"""A flow map :math:`G(x, t, s)` of the probability-flow ODE, together with its denoiser.

    Time is the noise level and runs down: :math:`\sigma_{max} \ge t \ge s \ge \sigma_{min}`. Points have shape
    ``(n, *data_shape)``; times are numbers or tensors ``(n,)``. A subclass gives :meth:`G` and :meth:`denoiser`; the rest
    follows from them.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float
    shape = None
    center = 0.0

    @abstractmethod
    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802 (the field's symbol)
        r"""The point :math:`x_s` that the trajectory through :math:`x_t = x` has at noise level ``s <= t``."""

    @abstractmethod
    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D(x, t) = E[x_0 \mid x_t = x]`, the mean of the clean points that could have become ``x``."""

    def score(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`\nabla_x \log p_t(x) = (D(x, t) - x) / t^2` (Tweedie's formula; Efron 2011), for :math:`t > 0`."""
        return (self.denoiser(x, t) - x) / as_column(t, x) ** 2

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`dx/dt = (x - D(x, t)) / t`, the probability-flow ODE with :math:`\sigma(t) = t` (EDM, eq. 1 and 3)."""
        return (x - self.denoiser(x, t)) / as_column(t, x)


def as_column(t: Time, x: Tensor) -> Tensor:
    """``t`` in a shape that broadcasts against ``x``; its values are not checked."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1))
