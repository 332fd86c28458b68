"""A fully connected network, for points of a few numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ctm._checks import check_number
from ctm.networks.base import DEEPEST, LARGEST, Timed, draw_weights, register


@register
class MLP(Timed):
    r"""A fully connected network :math:`F(x, \tau_t, \tau_s \mid c)` for ``dim`` numbers.

    The inputs are as EDM scales them: ``x`` of unit variance, :math:`\tau = \log(t)/4`.
    Each time becomes sines and cosines of ``features`` frequencies; ``x`` is multiplied by
    ``gain`` before the first layer, so that the time features do not drown it.

    Args:
        dim: numbers in a point; points ``(n, *shape)`` of any shape with that many will do.
        width: units in each hidden layer.
        layers: hidden layers.
        features: frequencies for each time.
        gain: factor on the points before the first layer; :math:`8 \min(1, \sqrt{2/dim})`
            if None: a point of many dimensions is then no longer than one of two.
        seed: seed of the initial weights.
        conditions: further numbers that are told with each sample, such as a class.
    """

    def __init__(
        self,
        dim: int,
        width: int = 96,
        layers: int = 5,
        features: int = 6,
        gain: float | None = None,
        seed: int = 0,
        conditions: int = 0,
    ) -> None:
        super().__init__(features, conditions)
        self.dim = check_number(dim, "dim", 1, LARGEST, integer=True)
        width = check_number(width, "width", 1, LARGEST, integer=True)
        layers = check_number(layers, "layers", 1, DEEPEST, integer=True)
        gain = 8 * min(1.0, math.sqrt(2 / self.dim)) if gain is None else gain
        self.gain = check_number(gain, "gain", 0, above=True)
        inputs = self.dim + 2 * (2 * self.features + 1) + self.conditions
        sizes = [inputs] + [width] * layers
        with torch.device("meta"):  # shapes alone; torch's own generator is not touched
            hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
            self.body = nn.Sequential(*hidden, nn.Linear(width, self.dim))
        draw_weights(self, seed)

    @torch.no_grad()
    def forget_s(self) -> None:
        r"""Make :math:`F(x, \tau_t, \tau_s) = F(x, \tau_t, \tau_t)` for every
        :math:`\tau_s`: the weights on the features of :math:`\tau_s` are added to those on
        the same features of :math:`\tau_t`, and set to 0."""
        first: nn.Linear = self.body[0]  # type: ignore[assignment]
        columns = torch.arange(2 * (2 * self.features + 1)) + self.dim
        # tau, then its sines, then its cosines, each first of t and then of s
        pairs = [part.chunk(2) for part in columns.split([2, *[2 * self.features] * 2])]
        of_t, of_s = (torch.cat(part) for part in zip(*pairs, strict=True))
        first.weight[:, of_t] += first.weight[:, of_s]
        first.weight[:, of_s] = 0

    def forward(
        self, x: Tensor, tau_t: Tensor, tau_s: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """``x``: ``(n, *shape)``; ``tau_t``, ``tau_s``: ``(n or 1,)``; ``condition``: ``(n
        or 1, conditions)``, zeros if None. Returns the shape of ``x``, in the weights'
        dtype; raises ValueError where ``x`` or ``condition`` has another shape."""
        last: nn.Linear = self.body[-1]  # type: ignore[assignment]
        flat = x.reshape(len(x), -1).to(last.weight.dtype)
        if flat.shape[1] != self.dim:
            raise ValueError(
                f"x must have {self.dim} numbers per sample, got {tuple(x.shape)}"
            )
        times = torch.stack(torch.broadcast_tensors(tau_t, tau_s), 1)
        features = self.time_features(times).to(flat.dtype).expand(len(flat), -1)
        inputs = [self.gain * flat, features]
        if self.conditions or condition is not None:
            inputs.append(self.table(condition, flat))
        return self.body(torch.cat(inputs, 1)).reshape(x.shape)
