"""A small U-Net, for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, silu

from ctm._checks import check_number
from ctm.networks.base import LARGEST, Embedding, ImageNetwork, draw_weights, register


def norm(channels: int) -> nn.GroupNorm:
    """Normalisation in eight groups of channels, or in fewer where eight do not divide them."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Block(nn.Module):
    r"""Two convolutions beside a short way, told the embedding :math:`e` by a scale and a shift:
    :math:`h + W_2 * \mathrm{silu}((1 + a(e))\,N(W_1 * \mathrm{silu}(N(h))) + b(e))`."""

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = norm(before), norm(after)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.told = nn.Linear(width, 2 * after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.short = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``h``: ``(n, before, height, width)``. Returns ``(n, after, height, width)``."""
        scale, shift = self.told(embedding)[:, :, None, None].chunk(2, 1)
        inner = self.first(silu(self.first_norm(h)))
        return self.short(h) + self.second(silu((1 + scale) * self.second_norm(inner) + shift))


@register
class UNet(ImageNetwork):
    r"""A U-Net :math:`F(x, \tau_t, \tau_s \mid c)` (Ronneberger et al. 2015), in the form that
    diffusion models use (Ho et al. 2020), for images ``(n, channels, height, width)`` or
    ``(n, height, width)``.

    Each of ``levels`` levels has half the side and twice the channels of the one above it, ``blocks``
    blocks on the way down and as many on the way up. At first the output is zero, and it does not
    depend on :math:`\tau_s` until it has seen :math:`\tau_s \ne \tau_t` in training, so that
    :math:`g(x, t, s) = D(x, t)` (:class:`ctm.networks.base.Embedding`).

    Args:
        shape: of one image, ``(channels, height, width)`` or ``(height, width)``; both sides
            divisible by :math:`2^{levels - 1}`: 8 by two levels, 28 by three, 32 by up to six.
        width: channels of the first level.
        levels: resolutions.
        blocks: blocks at each level, each way.
        features: frequencies for each time.
        seed: seed of the initial weights.
        conditions: further numbers that the network is told with each sample, such as a class.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 24,
        levels: int = 2,
        blocks: int = 1,
        features: int = 6,
        seed: int = 0,
        conditions: int = 0,
    ) -> None:
        levels = check_number(levels, "levels", 1, 8, integer=True)
        super().__init__(shape, 2 ** (levels - 1), features, conditions)
        width = check_number(width, "width", 1, LARGEST, integer=True)
        blocks = check_number(blocks, "blocks", 1, 16, integer=True)
        told = 4 * width
        with torch.device("meta"):  # shapes alone: nothing is drawn from torch's own generator
            self.embedding = Embedding(features, conditions, told)
            self.enter = nn.Conv2d(self.channels, width, 3, padding=1)
            self.down, self.up = nn.ModuleList(), nn.ModuleList()
            held, above = [], width
            for level in range(levels):
                for _ in range(blocks):
                    self.down.append(Block(above, width * 2**level, told))
                    above = width * 2**level
                    held.append(above)
            self.middle = Block(above, above, told)
            for level in reversed(range(levels)):
                for _ in range(blocks):
                    self.up.append(Block(above + held.pop(), width * 2**level, told))
                    above = width * 2**level
            self.last_norm = norm(width)
            self.leave = nn.Conv2d(width, self.channels, 3, padding=1)
        draw_weights(self, seed)
        for weights in (self.embedding.of_s.weight, *self.leave.parameters()):
            nn.init.zeros_(weights)
        self.blocks = blocks

    def transform(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: ``(n, channels, height, width)``; ``embedding``: ``(n, 4 width)``."""
        h, held = self.enter(x), []
        for i, block in enumerate(self.down):
            if i and i % self.blocks == 0:
                h = avg_pool2d(h, 2)
            h = block(h, embedding)
            held.append(h)
        h = self.middle(h, embedding)
        for i, block in enumerate(self.up):
            if i and i % self.blocks == 0:
                h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = block(torch.cat([h, held.pop()], 1), embedding)
        return self.leave(silu(self.last_norm(h)))
