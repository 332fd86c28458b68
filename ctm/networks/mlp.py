"""A fully connected network, for points of a few numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctm._checks import check_number
from ctm.networks.base import DEEPEST, LARGEST, Timed, draw_weights, register


@register
class MLP(Timed):
    r"""A fully connected network :math:`F(x, \tau_t, \tau_s \mid c)` for points of ``dim`` numbers.

    The inputs are as EDM scales them: ``x`` of unit variance, times :math:`\tau = \log(t)/4`. Each
    time becomes sines and cosines of ``features`` frequencies; ``x`` is multiplied by ``gain``
    before the first layer, so that it is not drowned by the time features.

    Args:
        dim: numbers in a point; points ``(n, *shape)`` of any shape with that many are accepted.
        width: units in each hidden layer.
        layers: hidden layers.
        features: frequencies for each time.
        gain: factor on the points before the first layer; if None,
            :math:`8 \min(1, \sqrt{2/dim})`, which gives all points of more than two dimensions
            together the size of those of two.
        seed: seed of the initial weights.
        conditions: further numbers that the network is told with each sample, such as a class.
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
        gain = 8 * min(1.0, math.sqrt(2 / dim)) if gain is None else gain
        self.gain = check_number(gain, "gain", 0, above=True)
        sizes = [dim + 2 * (2 * features + 1) + conditions] + [width] * layers
        with torch.device("meta"):  # shapes alone: nothing is drawn from torch's own generator
            hidden = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.SiLU())]
            self.body = nn.Sequential(*hidden, nn.Linear(width, dim))
        draw_weights(self, seed)

    def forward(
        self, x: Tensor, tau_t: Tensor, tau_s: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """The network's output, in the shape of ``x`` and the dtype of the weights.

        Args:
            x: points, ``(n, *shape)``.
            tau_t, tau_s: scaled times, ``(n,)``.
            condition: ``(n or 1, conditions)``, zeros if None.

        Raises:
            ValueError: ``x`` or ``condition`` has another shape.
        """
        flat = x.reshape(len(x), -1).to(self.body[-1].weight.dtype)
        if flat.shape[1] != self.dim:
            raise ValueError(f"x must have shape (n, {self.dim}) once flat, got {tuple(x.shape)}")
        inputs = [self.gain * flat, self.time_features(torch.stack([tau_t, tau_s], 1)).to(flat.dtype)]
        if self.conditions or condition is not None:
            inputs.append(self.table(condition, flat))
        return self.body(torch.cat(inputs, 1)).reshape(x.shape)
