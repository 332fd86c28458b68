"""Networks: what is trained. Each takes scaled points, two scaled times and a condition."""

from ctm.networks.base import NETWORKS, register
from ctm.networks.discriminator import Discriminator
from ctm.networks.mlp import MLP
from ctm.networks.transformer import Transformer
from ctm.networks.unet import UNet

__all__ = ["MLP", "NETWORKS", "Discriminator", "Transformer", "UNet", "register"]
