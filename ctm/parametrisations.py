"""Other ways to build a jump around a network: what they keep of the input, and what that
asks of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ctm._checks import check_choice
from ctm.flow_map import Time, fine
from ctm.models import CTM, c_in, c_out, c_skip

Scalings = tuple[Tensor | float, Tensor | float]
Outer = Callable[[CTM, Tensor, Tensor], Scalings]
Inner = Callable[[CTM, Tensor], Scalings]


class Parametrised(CTM):
    r"""A CTM with another outer structure, another inner one, or both.

    .. math::

        G_\theta(x, t, s) &= a(t, s)\, x + b(t, s)\, g_\theta(x, t, s) \\
        g_\theta(x, t, s) &= c(t)\, x
            + d(t)\, F_\theta\bigl(c_{in}(t)\, x, c_{noise}(t), c_{noise}(s)\bigr)

    With ``outer=euler`` and ``inner=edm`` this is :class:`ctm.models.CTM`. Any other pair
    changes what :math:`g_\theta` means, so the denoiser is read off the jump's slope
    (:meth:`denoiser`).

    Args:
        network, sigma_data: as for :class:`ctm.models.CTM`.
        outer: a function of the model, ``t`` and ``s`` that returns :math:`a, b`.
        inner: a function of the model and ``t`` that returns :math:`c, d`.
        options: as for :class:`ctm.models.CTM`.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        outer: Outer | str,
        inner: Inner | str,
        **options: Any,
    ) -> None:
        super().__init__(network, sigma_data, **options)
        for name, value, known in (("outer", outer, OUTER), ("inner", inner, INNER)):
            if not callable(value):
                check_choice(value, name, known)
        self.outer = OUTER[outer] if isinstance(outer, str) else outer
        self.inner = INNER[inner] if isinstance(inner, str) else inner

    @property
    def config(self) -> dict[str, Any]:
        """As for a CTM, with the names of the two structures."""
        return super().config | {"outer": self.outer.__name__, "inner": self.inner.__name__}

    def extra_repr(self) -> str:
        """The names of the two structures: a resumed run must have the same."""
        return f"outer={self.outer.__name__}, inner={self.inner.__name__}"

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D_\theta(x, t) = x - t\, \partial_s G_\theta(x, t, s)` at :math:`s = t`:
        the ODE says :math:`\partial_s G = (x - D)/t` there. By forward-mode
        differentiation."""
        z = fine(x)
        t, s = self._times(z, t, t)
        one = torch.ones_like(s)
        slope = torch.func.jvp(lambda later: self.jump(z, t, later), (s,), (one,))[1]
        return (z - t * slope).to(x.dtype)

    def jump(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        r""":math:`a(t, s)\, x + b(t, s)\, g_\theta(x, t, s)`."""
        keep, aim = self.outer(self, t, s)
        return keep * x + aim * self(x, t, s)

    def scalings(self, t: Tensor) -> tuple[Tensor | float, Tensor | float, Tensor]:
        r""":math:`c(t), d(t), c_{in}(t)`."""
        return *self.inner(self, t), c_in(t, self.sigma_data)

    def output_scale(self, t: Tensor, s: Tensor) -> Tensor:
        r""":math:`b(t, s)\, d(t)`."""
        scale = self.outer(self, t, s)[1] * self.inner(self, t)[1]
        return torch.as_tensor(scale, dtype=t.dtype, device=t.device)


def euler(model: CTM, t: Tensor, s: Tensor) -> Scalings:
    r""":math:`a = s/t,\; b = 1 - s/t`: the form of an Euler step (Kim et al. 2024)."""
    return s / t, 1 - s / t


def variance(model: CTM, t: Tensor, s: Tensor) -> Scalings:
    r""":math:`a = \sqrt{(s^2 + \sigma_{data}^2) / (t^2 + \sigma_{data}^2)},\; b = 1 - s/t`:
    the part kept has the variance that points have at ``s``. "variance" in the official
    code, here without its shift of both times by :math:`\sigma_{min}`."""
    return ((s**2 + model.sigma_data**2) / (t**2 + model.sigma_data**2)).sqrt(), 1 - s / t


def mixed(model: CTM, t: Tensor, s: Tensor) -> Scalings:
    r""":math:`a = (s + a_{variance}) / (t + 1),\; b = 1 - s/t`: "euler_variance_mixed" in
    the official code."""
    return (s + variance(model, t, s)[0]) / (t + 1), 1 - s / t


def no_outer(model: CTM, t: Tensor, s: Tensor) -> Scalings:
    r""":math:`a = 0,\; b = 1`: nothing built in, so that :math:`G_\theta(x, t, t) = x` must
    be learned."""
    return 0.0, 1.0


def edm(model: CTM, t: Tensor) -> Scalings:
    r""":math:`c = c_{skip}(t),\; d = c_{out}(t)` (EDM, table 1)."""
    return c_skip(t, model.sigma_data), c_out(t, model.sigma_data)


def cm(model: CTM, t: Tensor) -> Scalings:
    r""":math:`c_{skip}(t - \sigma_{min})` and
    :math:`(t - \sigma_{min})\, \sigma_{data} / \sqrt{t^2 + \sigma_{data}^2}`, so that
    :math:`g(x, \sigma_{min}, s) = x` (Song et al. 2023, appendix C)."""
    sd = model.sigma_data
    return c_skip(t - model.sigma_min, sd), (t - model.sigma_min) * sd / (
        t**2 + sd**2
    ).sqrt()


def no_inner(model: CTM, t: Tensor) -> Scalings:
    r""":math:`c = 0,\; d = 1`: the network's output is :math:`g` itself."""
    return 0.0, 1.0


OUTER: dict[str, Outer] = {f.__name__: f for f in (euler, variance, mixed, no_outer)}
INNER: dict[str, Inner] = {f.__name__: f for f in (edm, cm, no_inner)}
"""The structures by name, as files say them."""
