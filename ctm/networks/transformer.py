"""A small transformer over patches, for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from ctm._checks import check_number
from ctm.networks.base import DEEPEST, LARGEST, Embedding, ImageNetwork, draw_weights, register


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    r""":math:`(1 + scale)\,N(h) + shift`, with :math:`N` over the numbers of each patch."""
    return (1 + scale[:, None]) * layer_norm(h, h.shape[-1:]) + shift[:, None]


class Layer(nn.Module):
    r"""Attention, then a small MLP, each told the embedding (adaLN-Zero of Peebles and Xie 2023):
    :math:`h + g_1 A((1 + a_1) N(h) + b_1)`, then the same with :math:`g_2, M, a_2, b_2`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.told = nn.Linear(width, 6 * width)
        self.asks, self.mixes = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widens, self.narrows = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """``h``: ``(n, patches, width)``; ``embedding``: ``(n, width)``. Returns the shape of ``h``."""
        b1, a1, g1, b2, a2, g2 = self.told(embedding).chunk(6, 1)
        h = h + g1[:, None] * self.attention(modulate(h, b1, a1))
        return h + g2[:, None] * self.narrows(gelu(self.widens(modulate(h, b2, a2))))

    def attention(self, h: Tensor) -> Tensor:
        r""":math:`\mathrm{softmax}(Q K^T / \sqrt{d})\,V` for each head. Written out, because torch's
        fused kernel has no forward-mode derivative."""
        q, k, v = self.asks(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.mixes((weights @ v).transpose(1, 2).flatten(2))


@register
class Transformer(ImageNetwork):
    r"""A transformer :math:`F(x, \tau_t, \tau_s \mid c)` over square patches (Peebles and Xie 2023),
    for images ``(n, channels, height, width)`` or ``(n, height, width)``.

    At first the output is zero, and it does not depend on :math:`\tau_s` until it has seen
    :math:`\tau_s \ne \tau_t` in training, so that :math:`g(x, t, s) = D(x, t)`
    (:class:`ctm.networks.base.Embedding`). Where a patch lies is learned.

    Args:
        shape: of one image, ``(channels, height, width)`` or ``(height, width)``; both sides
            divisible by ``patch``.
        patch: side of a patch.
        width: numbers held for each patch, divisible by ``heads``.
        layers: layers of attention.
        heads: heads in each.
        features: frequencies for each time.
        seed: seed of the initial weights.
        conditions: further numbers that the network is told with each sample, such as a class.
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
        self.patch = check_number(patch, "patch", 1, LARGEST, integer=True)
        super().__init__(shape, patch, features, conditions)
        width = check_number(width, "width", 1, LARGEST, integer=True)
        layers = check_number(layers, "layers", 1, DEEPEST, integer=True)
        heads = check_number(heads, "heads", 1, width, integer=True)
        if width % heads:
            raise ValueError(f"width must be divisible by heads = {heads}, got {width}")
        self.grid = self.height // patch, self.breadth // patch
        numbers = self.channels * patch**2
        with torch.device("meta"):  # shapes alone: nothing is drawn from torch's own generator
            self.embedding = Embedding(features, conditions, width)
            self.place = nn.Parameter(torch.empty(math.prod(self.grid), width))
            self.enter = nn.Linear(numbers, width)
            self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
            self.told = nn.Linear(width, 2 * width)
            self.leave = nn.Linear(width, numbers)
        draw_weights(self, seed)
        zero = [self.told, self.leave, *(layer.told for layer in self.layers)]
        zeros = [weights for module in zero for weights in module.parameters()]
        for weights in (self.embedding.of_s.weight, self.place, *zeros):
            nn.init.zeros_(weights)

    def transform(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: ``(n, channels, height, width)``; ``embedding``: ``(n, width)``."""
        (rows, columns), p = self.grid, self.patch
        cut = x.reshape(len(x), self.channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        h = self.enter(cut.flatten(3).flatten(1, 2)) + self.place
        for layer in self.layers:
            h = layer(h, embedding)
        h = self.leave(modulate(h, *self.told(embedding).chunk(2, 1)))
        whole = h.reshape(len(x), rows, columns, self.channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return whole.reshape(x.shape)
