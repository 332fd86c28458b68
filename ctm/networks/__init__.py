"""Networks: what is trained. Each takes scaled points, two scaled times and a condition."""

from __future__ import annotations

import math

from torch import nn

from ctm.networks.base import NETWORKS, Timed, is_image, register
from ctm.networks.discriminator import (
    Discriminator,
    FeatureDiscriminator,
    ImageDiscriminator,
    discriminator_for,
)
from ctm.networks.mlp import MLP
from ctm.networks.transformer import Transformer
from ctm.networks.unet import UNet

__all__ = [
    "MLP",
    "NETWORKS",
    "Discriminator",
    "FeatureDiscriminator",
    "ImageDiscriminator",
    "Timed",
    "Transformer",
    "UNet",
    "default",
    "discriminator_for",
    "register",
]


def default(shape: tuple[int, ...], conditions: int = 0, seed: int = 0) -> nn.Module:
    """The network for points of this shape where none is given: a :class:`UNet` for images
    of 8 pixels a side or more, if its levels divide them, else an :class:`MLP`."""
    if is_image(shape):
        levels = 2 if min(shape[-2:]) <= 16 else 3
        if not any(side % 2 ** (levels - 1) for side in shape[-2:]):
            return UNet(shape, levels=levels, conditions=conditions, seed=seed)
    return MLP(math.prod(shape), conditions=conditions, seed=seed)
