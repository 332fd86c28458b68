"""CTM: a flow map with a network inside, built so that its boundary conditions hold for any weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctm._checks import check_number, check_order, check_points, check_times
from ctm.flow_map import FlowMap, Time
from ctm.mixture import time_range


def c_skip(t: Tensor, sigma_data: float) -> Tensor:
    r""":math:`c_{skip}(t) = \sigma_{data}^2 / (t^2 + \sigma_{data}^2)` (EDM, table 1)."""
    return sigma_data**2 / (t**2 + sigma_data**2)


def c_out(t: Tensor, sigma_data: float) -> Tensor:
    r""":math:`c_{out}(t) = t\,\sigma_{data} / \sqrt{t^2 + \sigma_{data}^2}` (EDM, table 1)."""
    return t * sigma_data / torch.sqrt(t**2 + sigma_data**2)


def c_in(t: Tensor, sigma_data: float) -> Tensor:
    r""":math:`c_{in}(t) = 1 / \sqrt{t^2 + \sigma_{data}^2}` (EDM, table 1)."""
    return 1 / torch.sqrt(t**2 + sigma_data**2)


def c_noise(t: Tensor) -> Tensor:
    r""":math:`c_{noise}(t) = \log(t) / 4` (EDM, table 1)."""
    return torch.log(t) / 4


class CTM(nn.Module, FlowMap):
    r"""A consistency trajectory model (Kim et al. 2024), in its parametrisation by :math:`g_\theta`.

    .. math::

        G_\theta(x, t, s) &= \frac{s}{t}\, x + \Bigl(1 - \frac{s}{t}\Bigr)\, g_\theta(x, t, s) \\
        g_\theta(x, t, s) &= c_{skip}(t)\, x + c_{out}(t)\, F_\theta\bigl(c_{in}(t)\, x, c_{noise}(t), c_{noise}(s)\bigr)

    so :math:`G_\theta(x, t, t) = x` for any network, and :math:`g_\theta(x, t, t)` is the model's denoiser.

    Args:
        network: a module ``F(x, tau_t, tau_s)`` that returns a tensor like ``x`` (:class:`ctm.networks.MLP`).
        sigma_data: standard deviation of the data, above 0.
        sigma_min, sigma_max: range of the noise levels; 0.004 and 20 times ``sigma_data`` if not given.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        center: float | Tensor = 0.0,
        shift: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
    ) -> None:
        super().__init__()
        self.shape = None if shape is None else tuple(shape)
        self.center, self.shift, self.scale = center, shift, scale
        check_number(sigma_data, "sigma_data", 0, above=True)
        low, high = time_range(sigma_data)
        self.sigma_min = low if sigma_min is None else sigma_min
        self.sigma_max = high if sigma_max is None else sigma_max
        check_number(self.sigma_min, "sigma_min", 0, above=True)
        check_number(self.sigma_max, "sigma_max", self.sigma_min, above=True)
        self.network = network
        self.sigma_data = sigma_data

    @property
    def config(self) -> dict[str, Any]:
        """What a file keeps of the model besides its weights."""
        facts: dict[str, Any] = {
            "kind": type(self).__name__,
            "network": type(self.network).__name__,
            "config": self.network.config,
            "sigma_data": self.sigma_data,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
        }
        if self.shape is not None:
            facts["shape"] = list(self.shape)
        for name in ("center", "shift", "scale"):
            value = getattr(self, name)
            facts[name] = value.tolist() if isinstance(value, Tensor) else value
        return facts

    def g(self, x: Tensor, t: Time, s: Time) -> Tensor:
        r""":math:`g_\theta(x, t, s)`: the clean point that a straight step from ``t`` to ``s`` has to aim at."""
        return self._g(x, *self._times(x, t, s))

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        r"""The jump :math:`G_\theta(x, t, s) = (s/t)\, x + (1 - s/t)\, g_\theta(x, t, s)`."""
        t, s = self._times(x, t, s)
        return jump(x, t, s, self._g(x, t, s))

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D_\theta(x, t) = g_\theta(x, t, t)`."""
        return self.g(x, t, t)

    def output_scale(self, t: Tensor, s: Tensor) -> Tensor:
        r""":math:`c_{out}(t)\,(1 - s/t)`, the factor on the network's output in :meth:`G`; the loss is measured in it."""
        return c_out(t, self.sigma_data) * (1 - s / t)

    @property
    def last_layer(self) -> Tensor:
        """The weights of the network's last layer, where the gradients of two losses are compared."""
        return [weights for weights in self.network.parameters() if weights.ndim > 1][-1]

    def _g(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        n = len(x)
        tau_t, tau_s = (c_noise(time).flatten().expand(n) for time in (t, s))
        skip, scale = self._inner(t)
        return skip * x + scale * self.network(c_in(t, self.sigma_data) * x, tau_t, tau_s)

    def _inner(self, t: Tensor) -> tuple[Tensor | float, Tensor | float]:
        return c_skip(t, self.sigma_data), c_out(t, self.sigma_data)

    def _times(self, x: Tensor, t: Time, s: Time) -> tuple[Tensor, Tensor]:
        check_points(x)
        t = check_times(t, x, "t", self.sigma_min, self.sigma_max)
        s = check_times(s, x, "s", self.sigma_min, self.sigma_max)
        check_order(t, s)
        return t, s


def jump(x: Tensor, t: Tensor, s: Tensor, g: Tensor) -> Tensor:
    r""":math:`(s/t)\, x + (1 - s/t)\, g`: the straight step from ``(x, t)`` towards ``g``, as far as ``s``."""
    return s / t * x + (1 - s / t) * g
