"""A small transformer over patches, for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from ctm._checks import check_number, seeded
from ctm.networks.base import (
    DEEPEST,
    LARGEST,
    Embedding,
    ImageNetwork,
    draw_weights,
    register,
)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    r""":math:`(1 + scale)\,N(h) + shift`, with :math:`N` over the numbers of each patch."""
    return (1 + scale[:, None]) * layer_norm(h, h.shape[-1:]) + shift[:, None]


class Layer(nn.Module):
    r"""Attention, then an MLP, told the embedding by adaLN-Zero (Peebles and Xie 2023):
    :math:`h + g_1 A((1 + a_1) N(h) + b_1)`, and so with :math:`g_2, M, a_2, b_2`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.told = nn.Linear(width, 6 * width)
        self.asks, self.mixes = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widens, self.narrows = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``h``: ``(n, patches, width)``, returned so; ``embedding``: ``(n, width)``."""
        b1, a1, g1, b2, a2, g2 = self.told(embedding).chunk(6, 1)
        h = h + g1[:, None] * self.attention(modulate(h, b1, a1))
        return h + g2[:, None] * self.narrows(gelu(self.widens(modulate(h, b2, a2))))

    def attention(self, h: Tensor) -> Tensor:
        r""":math:`\mathrm{softmax}(Q K^T / \sqrt{d})\,V` for each head, written out:
        torch's fused kernel has no forward-mode derivative."""
        q, k, v = self.asks(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.mixes((weights @ v).transpose(1, 2).flatten(2))


@register
class Transformer(ImageNetwork):
    r"""A transformer :math:`F(x, \tau_t, \tau_s \mid c)` over patches (Peebles, Xie 2023)
    for images ``(n, channels, height, width)`` or ``(n, height, width)``.

    A new network returns zero. It does not depend on :math:`\tau_s` until it is trained at
    :math:`s < t`, so that a denoiser's weights are those of a CTM with
    :math:`g(x, t, s) = D(x, t)`. What is told of a patch's place is learned.

    Args:
        shape: of an image, ``(channels, height, width)`` or ``(height, width)``; sides
            divisible by ``patch``.
        patch: side of a patch.
        width: numbers held for each patch, divisible by ``heads``.
        layers: layers of attention.
        heads: heads in each.
        features, seed, conditions: as for :class:`ctm.networks.MLP`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 96,
        layers: int = 4,
        heads: int = 4,
        features: int = 6,
        seed: int = 0,
        conditions: int = 0,
    ) -> None:
        patch = check_number(patch, "patch", 1, LARGEST, integer=True)
        super().__init__(shape, patch, features, conditions)
        width = check_number(width, "width", 1, LARGEST, integer=True)
        layers = check_number(layers, "layers", 1, DEEPEST, integer=True)
        heads = check_number(heads, "heads", 1, width, integer=True)
        if width % heads:
            raise ValueError(f"width must be divisible by heads = {heads}, got {width}")
        channels, height, across = self.image
        rows, columns = height // patch, across // patch
        self.cut = channels, rows, patch, columns, patch
        with torch.device("meta"):  # shapes alone; torch's own generator is not touched
            self.embedding = Embedding(self.features, self.conditions, width)
            self.place = nn.Parameter(torch.empty(rows * columns, width))
            self.enter = nn.Linear(channels * patch**2, width)
            stack = [Layer(width, heads) for _ in range(layers)]
            self.layers = nn.ModuleList(stack)
            self.told = nn.Linear(width, 2 * width)
            self.leave = nn.Linear(width, channels * patch**2)
        draw_weights(self, seed)
        zero = nn.ModuleList([self.embedding.of_s, self.told, self.leave])
        zero.extend(layer.told for layer in stack)
        for weights in zero.parameters():
            nn.init.zeros_(weights)
        nn.init.normal_(self.place, std=0.5, generator=seeded(seed))

    def transform(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: ``(n, channels, height, width)``; ``embedding``: ``(n, width)``."""
        cut = x.reshape(-1, *self.cut).permute(0, 2, 4, 1, 3, 5)  # by rows, by columns
        h = self.enter(cut.flatten(3).flatten(1, 2)) + self.place
        for layer in self.layers:
            h = layer(h, embedding)
        h = self.leave(modulate(h, *self.told(embedding).chunk(2, 1)))
        return h.reshape(cut.shape).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
