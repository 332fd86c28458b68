"""A CTM that is told a class and a strength of guidance: a family of flow maps, one for each condition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctm.labelled import Label, check_label, check_strength
from ctm.models import CTM
from ctm.networks import MLP


class ConditionalCTM(CTM):
    r"""A family of flow maps :math:`G_\theta(x, t, s \mid c, w)` in one network.

    :meth:`given` fixes the class :math:`c` and the strength :math:`w` and returns a plain :class:`ctm.models.CTM` over the
    same weights, so that losses, samplers and metrics need not know of conditions. The network sees the class as a
    one-hot vector, all zeros where there is none, followed by :math:`w - 1`. Without :meth:`given` the model is the
    unconditional one.

    Args:
        network: a :class:`ctm.networks.MLP` with ``conditions`` one more than there are classes.
        sigma_data, sigma_min, sigma_max: as for :class:`ctm.models.CTM`.
    """

    network: MLP

    def __init__(
        self,
        network: MLP,
        sigma_data: float,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        **more: Any,
    ) -> None:
        super().__init__(network, sigma_data, sigma_min, sigma_max, **more)
        if network.conditions < 2:
            raise ValueError(f"network must have conditions >= 2, the classes and one for w, got {network.conditions}")
        self.classes = network.conditions - 1

    def given(self, label: Label, w: float | Tensor = 1.0) -> CTM:
        r"""The model for one class and strength, or for one of each per sample. ``w`` has no meaning without a class."""
        labels, strength = check_label(label, self.classes), check_strength(w)
        named = (labels >= 0)[:, None]
        one_hot = nn.functional.one_hot(labels.clamp_min(0), self.classes) * named
        rows = max(len(labels), len(strength))
        condition = torch.cat([one_hot.expand(rows, -1), ((strength[:, None] - 1) * named).expand(rows, 1)], 1)
        return CTM(_Told(self.network, condition), self.sigma_data, self.sigma_min, self.sigma_max)


class _Told(nn.Module):
    """The network with its condition fixed; the weights are shared."""

    def __init__(self, network: MLP, condition: Tensor) -> None:
        super().__init__()
        self.network, self.condition = network, condition

    def forward(self, x: Tensor, tau_t: Tensor, tau_s: Tensor) -> Tensor:
        return self.network(x, tau_t, tau_s, self.condition)
