"""The networks of the adversarial term: they tell samples from data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ctm._checks import check_number
from ctm.networks.base import LARGEST, draw_weights, is_image


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


class ImageDiscriminator(nn.Module):
    r"""A number :math:`J(x, \tau)` for each image: a function of :math:`2 x / \sqrt{\tau^2
    + \sigma_{data}^2}` and, as a channel of its own, :math:`\log(\tau)/4`.

    Three convolutions halve the sides, two layers of weights follow.

    Args:
        shape: of an image, ``(height, width)`` or ``(channels, height, width)``.
        sigma_data: standard deviation of the data.
        width: channels after the second convolution; the first has half as many, the third
            twice as many.
        seed: seed of the initial weights.
    """

    def __init__(
        self, shape: Sequence[int], sigma_data: float, width: int = 64, seed: int = 0
    ) -> None:
        super().__init__()
        sizes = tuple(check_number(n, "shape", 1, LARGEST, integer=True) for n in shape)
        if len(sizes) not in (2, 3):
            raise ValueError(
                f"shape must be (height, width) or (channels, height, width), got {sizes}"
            )
        self.image = (1, *sizes)[-3:]
        self.sigma_data = check_number(sigma_data, "sigma_data", 0, above=True)
        width = check_number(width, "width", 2, LARGEST, integer=True)
        channels = [self.image[0] + 1, width // 2, width, 2 * width]
        places = math.ceil(self.image[1] / 8) * math.ceil(self.image[2] / 8)
        with torch.device("meta"):  # shapes alone; torch's own generator is not touched
            halving = [
                module
                for a, b in pairwise(channels)
                for module in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU())
            ]
            whole = nn.Linear(2 * width * places, width)
            self.body = nn.Sequential(
                *halving, nn.Flatten(), whole, nn.SiLU(), nn.Linear(width, 1)
            )
        draw_weights(self, seed)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """``x``: ``(n, *shape)``; ``tau``: levels ``(n, 1, ...)``. Returns ``(n,)``."""
        scaled = (2 / torch.sqrt(tau**2 + self.sigma_data**2) * x).reshape(-1, *self.image)
        told = (torch.log(tau) / 4).reshape(-1, 1, 1, 1).expand(-1, 1, *self.image[1:])
        return self.body(torch.cat([scaled, told], 1)).squeeze(1)


class FeatureDiscriminator(nn.Module):
    """A number for each point and each of some features of it, such as a classifier's at
    several depths: small networks on features that stay as they are (projected GANs, Sauer
    et al. 2021).

    Features that are images pass two convolutions, each of which halves their sides, and a
    third to one number a place, of which the mean is taken; vectors pass two layers.

    Args:
        features: a function of points to tensors with n rows each.
        x: a point or more, whose features tell the sizes.
        width: units between the layers.
        seed: seed of the initial weights.
    """

    def __init__(
        self,
        features: Callable[[Tensor], list[Tensor]],
        x: Tensor,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        width = check_number(width, "width", 1, LARGEST, integer=True)
        self.features = lambda x: features(x)  # no part of this: its weights are not ours
        with torch.no_grad():
            sizes = [tuple(seen.shape[1:]) for seen in features(x)]
        if not sizes or any(len(size) not in (1, 3) for size in sizes):
            raise ValueError(
                "features must give tensors (n, d) or (n, channels, height, width), got "
                f"rows of {sizes}"
            )
        with torch.device("meta"):  # shapes alone; torch's own generator is not touched
            self.heads = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(size[0], width, 3, stride=2, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(width, width, 3, stride=2, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(width, 1, 1),
                )
                if len(size) == 3
                else nn.Sequential(
                    nn.Linear(size[0], width), nn.SiLU(), nn.Linear(width, 1)
                )
                for size in sizes
            )
        draw_weights(self, seed)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """``x``: ``(n, *shape)``; ``tau`` is not looked at. Returns ``(n, features)``."""
        seen = zip(self.heads, self.features(x), strict=True)
        return torch.stack([head(h).flatten(1).mean(1) for head, h in seen], 1)


def discriminator_for(
    shape: Sequence[int], sigma_data: float, width: int, seed: int
) -> Discriminator | ImageDiscriminator:
    """An :class:`ImageDiscriminator` for images of 8 pixels a side or more, else a
    :class:`Discriminator`."""
    if is_image(shape):
        return ImageDiscriminator(shape, sigma_data, width, seed)
    return Discriminator(math.prod(shape), sigma_data, width, seed)
