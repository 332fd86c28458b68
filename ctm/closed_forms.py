"""Flow maps to test others with: exact ones in closed form, and wrong ones on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctm.flow_map import FlowMap, Time, as_column, fine
from ctm.mixture import GaussianMixture, time_range


class AffineMap(FlowMap):
    r"""The flow map of one Gaussian :math:`N(\mu, c^2)`, which is affine:

    .. math:: G(x, t, s) = \mu + (x - \mu) \sqrt{\frac{c^2 + s^2}{c^2 + t^2}}, \qquad
        D(x, t) = \frac{c^2 x + t^2 \mu}{c^2 + t^2}

    ``mean`` and ``std`` are numbers, or tensors of the data's shape.
    """

    def __init__(self, mean: float | Tensor = 0.0, std: float | Tensor = 1.0) -> None:
        self.mean, self.std, self.center = mean, std, mean
        self.sigma_data = float((std**2).mean() ** 0.5 if isinstance(std, Tensor) else std)
        self.sigma_min, self.sigma_max = time_range(self.sigma_data)

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        z = fine(x)
        before, after = (self.std**2 + as_column(level, z) ** 2 for level in (t, s))
        return (self.mean + (z - self.mean) * (after / before) ** 0.5).to(x.dtype)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        z = fine(x)
        noise, own = as_column(t, z) ** 2, self.std**2
        return ((own * z + noise * self.mean) / (own + noise)).to(x.dtype)


class Line(FlowMap):
    r"""The flow map of a mixture in one dimension by its quantiles: trajectories cannot
    cross, so :math:`F_s(G(x, t, s)) = F_t(x)`, with :math:`F_t` the distribution function
    of :math:`p_t`. For one ``t`` and one ``s``."""

    def __init__(self, world: GaussianMixture) -> None:
        self.world, self.sigma_data, self.center = world, world.sigma_data, world.center
        self.sigma_min, self.sigma_max, self.shape = world.sigma_min, world.sigma_max, (1,)

    def F(self, x: Tensor, t: float) -> Tensor:  # noqa: N802
        """The distribution function of p_t, shape ``(n,)``."""
        scaled = (x - self.world.means.T) / (self.world.stds**2 + t**2).sqrt()
        return (self.world.weights * torch.special.ndtr(scaled)).sum(1)

    def G(self, x: Tensor, t: Any, s: Any) -> Tensor:  # noqa: N802
        means, reach = self.world.means, 7 * math.hypot(float(self.world.stds.max()), s)
        low, high = float(means.min()) - reach, float(means.max()) + reach
        table = torch.linspace(low, high, 20_001, dtype=torch.float64, device=x.device)
        there = self.F(table[:, None], s).cpu()
        found = np.interp(self.F(x, t).cpu(), there, table.cpu())
        return torch.from_numpy(found)[:, None].to(x)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        return self.world.denoiser(x, t)


class Perturbed(FlowMap):
    """A flow map with an error put in: :math:`G(x, t, s) = exact + error`.

    ``error`` is called with ``x``, ``t``, ``s`` and the exact point at ``s``.
    """

    def __init__(self, exact: FlowMap, error: Callable[..., Tensor]) -> None:
        self.exact, self.error, self.sigma_data = exact, error, exact.sigma_data
        self.sigma_min, self.sigma_max = exact.sigma_min, exact.sigma_max
        self.shape, self.center = exact.shape, exact.center

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        there = self.exact.G(x, t, s)
        return there + self.error(x, t, s, there)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        return self.exact.denoiser(x, t)
