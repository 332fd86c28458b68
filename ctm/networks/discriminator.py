"""The network of the adversarial term: it tells samples from data."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ctm._checks import check_number
from ctm.networks.base import LARGEST, draw_weights


class Discriminator(nn.Module):
    r"""A number :math:`J(x, \tau)` for each point, above 0 where it takes the point for
    data noised to :math:`\tau`: a function of :math:`4 x / \sqrt{\tau^2 + \sigma_{data}^2}`
    and :math:`\log(\tau)/4`.

    Args:
        dim: numbers in a point.
        sigma_data: standard deviation of the data.
        width: units in each of three hidden layers.
        seed: seed of the initial weights.
    """

    def __init__(self, dim: int, sigma_data: float, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        dim = check_number(dim, "dim", 1, LARGEST, integer=True)
        self.sigma_data = check_number(sigma_data, "sigma_data", 0, above=True)
        width = check_number(width, "width", 1, LARGEST, integer=True)
        sizes = [dim + 1, width, width, width]
        with torch.device("meta"):  # shapes alone; torch's own generator is not touched
            hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
            self.body = nn.Sequential(*hidden, nn.Linear(width, 1))
        draw_weights(self, seed)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """``x``: ``(n, *shape)``; ``tau``: levels ``(n, 1, ...)``. Returns ``(n,)``."""
        scaled = 4 / torch.sqrt(tau**2 + self.sigma_data**2) * x
        told = torch.log(tau).flatten(1) / 4
        return self.body(torch.cat([scaled.flatten(1), told], 1)).squeeze(1)
