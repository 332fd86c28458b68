"""A small U-Net, for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    interpolate,
    pixel_shuffle,
    pixel_unshuffle,
    silu,
)

from ctm._checks import check_number
from ctm.networks.base import LARGEST, Embedding, ImageNetwork, draw_weights, register


class Block(nn.Module):
    r"""Two convolutions with a way round them; a scale and a shift tell the embedding:
    :math:`h + W_2 * \rho((1 + a(e))\,N(W_1 * \rho(N(h))) + b(e))`, :math:`\rho` = silu."""

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(math.gcd(8, before), before)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.told = nn.Linear(width, 2 * after)
        self.second_norm = nn.GroupNorm(math.gcd(8, after), after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.short = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``h``: ``(n, before, height, width)``. Returns ``(n, after, height, width)``."""
        scale, shift = self.told(embedding)[:, :, None, None].chunk(2, 1)
        inner = self.second_norm(self.first(silu(self.first_norm(h))))
        return self.short(h) + self.second(silu((1 + scale) * inner + shift))


@register
class UNet(ImageNetwork):
    r"""A U-Net :math:`F(x, \tau_t, \tau_s \mid c)` (Ronneberger et al. 2015, Ho et al.
    2020) for images ``(n, channels, height, width)`` or ``(n, height, width)``.

    Each level has half the side and twice the channels of the one above it. A new network
    returns zero. It does not depend on :math:`\tau_s` until it is trained at :math:`s < t`,
    so that a denoiser's weights are those of a CTM with :math:`g(x, t, s) = D(x, t)`.

    Args:
        shape: of an image, ``(channels, height, width)`` or ``(height, width)``; sides
            divisible by :math:`patch\, 2^{levels - 1}`.
        width: channels of the first level.
        levels: resolutions.
        features, seed, conditions: as for :class:`ctm.networks.MLP`.
        patch: side of the squares of pixels that enter and leave as channels of one place:
            with 2 the first level, the dearest, has a quarter of the places.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 24,
        levels: int = 2,
        features: int = 6,
        seed: int = 0,
        conditions: int = 0,
        patch: int = 1,
    ) -> None:
        levels = check_number(levels, "levels", 1, 8, integer=True)
        patch = check_number(patch, "patch", 1, LARGEST, integer=True)
        super().__init__(shape, patch * 2 ** (levels - 1), features, conditions)
        self.patch = patch
        width = check_number(width, "width", 1, LARGEST, integer=True)
        channels = self.image[0] * patch**2
        sizes = [width * 2**level for level in range(levels)]
        with torch.device("meta"):  # shapes alone; torch's own generator is not touched
            self.embedding = Embedding(self.features, self.conditions, 4 * width)
            self.enter = nn.Conv2d(channels, width, 3, padding=1)
            ways = pairwise([width, *sizes])
            self.down = nn.ModuleList(Block(a, b, 4 * width) for a, b in ways)
            self.middle = Block(sizes[-1], sizes[-1], 4 * width)
            back = pairwise([sizes[-1], *reversed(sizes)])
            self.up = nn.ModuleList(Block(a + b, b, 4 * width) for a, b in back)
            self.norm = nn.GroupNorm(math.gcd(8, width), width)
            self.leave = nn.Conv2d(width, channels, 3, padding=1)
        draw_weights(self, seed)
        for weights in (self.embedding.of_s.weight, *self.leave.parameters()):
            nn.init.zeros_(weights)

    def transform(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: ``(n, channels, height, width)``; ``embedding``: ``(n, 4 width)``."""
        h = self.enter(pixel_unshuffle(x, self.patch))
        held: list[Tensor] = []
        for block in self.down:
            h = block(avg_pool2d(h, 2) if held else h, embedding)
            held.append(h)
        h = self.middle(h, embedding)
        for block in self.up:
            beside = held.pop()
            h = interpolate(h, beside.shape[2:]) if h.shape[2:] != beside.shape[2:] else h
            h = block(torch.cat([h, beside], 1), embedding)
        return pixel_shuffle(self.leave(silu(self.norm(h))), self.patch)
