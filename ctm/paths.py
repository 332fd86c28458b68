r"""Other ways to write the same diffusion: points scaled down as they are noised.

A path has points :math:`z = \alpha\,x_0 + \sigma\,\epsilon`. With :math:`t = \sigma/\alpha`
and :math:`x = z/\alpha` they are the book's noised points, and trajectories go over into
trajectories. The jump keeps its form, with the same :math:`g`:

.. math::

    Z(z, t, s) = \alpha_s\, G(z/\alpha_t, t, s)
    = \frac{\sigma_s}{\sigma_t}\, z
    + \Bigl(\alpha_s - \frac{\sigma_s \alpha_t}{\sigma_t}\Bigr)\, g(x, t, s) .

What one path calls a velocity and another an angle is a matter of names; of a loss it
changes the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ctm.flow_map import FlowMap, Time, as_column


class Path(NamedTuple):
    r"""A path, its own time :math:`\tau` running from 0 at the data."""

    alpha: Callable[[Tensor], Tensor]  #: factor on the clean point, of the noise level
    time: Callable[[Tensor], Tensor]  #: the path's time at a noise level
    level: Callable[[Tensor], Tensor]  #: the noise level at the path's time

    def flow(self, flow_map: FlowMap, z: Tensor, start: Time, end: Time) -> Tensor:
        r""":math:`Z`: where the trajectory through ``z`` at the path's time ``start`` is at
        ``end <= start``. Shape of ``z``."""
        # in float64: near the noise a level takes up the last digits of the path's time
        t, s = (self.level(as_column(time, z.double())) for time in (start, end))
        there = flow_map.G(z / self.alpha(t).to(z), t.flatten(), s.flatten())
        return self.alpha(s).to(z) * there

    def velocity(self, flow_map: FlowMap, z: Tensor, time: Time) -> Tensor:
        r""":math:`dz/d\tau`, from the denoiser: :math:`z = \alpha x` and the chain rule.
        Shape of ``z``."""
        tau = as_column(time, z)
        t, one = self.level(tau), torch.ones_like(tau)
        x = z / self.alpha(t)
        rate = torch.func.jvp(self.level, (tau,), (one,))[1]
        shrink = torch.func.jvp(self.alpha, (t,), (one,))[1]
        return rate * (shrink * x + self.alpha(t) * flow_map.velocity(x, t.flatten()))


LINEAR = Path(lambda t: 1 / (1 + t), lambda t: t / (1 + t), lambda r: r / (1 - r))
r"""Flow matching's straight path, :math:`z_r = (1 - r)\,x_0 + r\,\epsilon`, with
:math:`r = t/(1 + t)` (Lipman et al. 2023). Its average velocity from r down to q,
:math:`(z - Z)/(r - q)`, is :math:`(z - g)/r` (MeanFlow; Geng et al. 2025)."""


def trigonometric(sigma_data: float) -> Path:
    r"""TrigFlow's path (Lu and Song 2025), :math:`z = \cos\theta\,x_0 + \sin\theta\,
    \sigma_{data}\,\epsilon`, with :math:`\tan\theta = t/\sigma_{data}`. In it EDM's
    preconditioning reads :math:`g = \cos\theta\,z + \sin\theta\,\sigma_{data} F`, which is
    TrigFlow's own, with the sign of F turned."""
    return Path(
        lambda t: sigma_data / torch.sqrt(t**2 + sigma_data**2),
        lambda t: torch.atan(t / sigma_data),
        lambda theta: sigma_data * torch.tan(theta),
    )
