"""Networks: what is trained. Each takes scaled points and two scaled times and returns a tensor like the points."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctm._checks import check_number

LARGEST = 100_000  # of any size in a network: a damaged file cannot ask for more


class MLP(nn.Module):
    r"""A fully connected network :math:`F(x, \tau_t, \tau_s)` for points of ``dim`` numbers.

    The inputs are as EDM scales them: ``x`` of unit variance, times :math:`\tau = \log(t)/4`. Each time becomes sines
    and cosines of ``features`` frequencies; ``x`` is multiplied by ``gain`` before the first layer, so that it is not
    drowned by the time features.

    Args:
        dim: numbers in a point; points of any shape ``(n, *shape)`` with that many numbers are accepted.
        width: units in each hidden layer.
        layers: hidden layers.
        features: frequencies for each time.
        gain: factor on the points before the first layer.
        seed: seed of the initial weights.
        conditions: further numbers that the network may be told with each sample, such as a class.
    """

    def __init__(
        self,
        dim: int,
        width: int = 96,
        layers: int = 5,
        features: int = 6,
        gain: float = 8.0,
        seed: int = 0,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("layers", layers), ("features", features)):
            check_number(value, name, 1, LARGEST, integer=True)
        check_number(gain, "gain", 0, above=True)
        check_number(conditions, "conditions", 0, LARGEST, integer=True)
        check_number(seed, "seed", 0, 2**63 - 1, integer=True)
        self.config = {"dim": dim, "width": width, "layers": layers, "features": features, "gain": gain}
        self.config |= {"conditions": conditions}
        self.gain, self.conditions = gain, conditions
        self.register_buffer("frequencies", 2 * math.pi * 2.0 ** torch.linspace(-3, 1, features))
        sizes = [dim + 2 * (2 * features + 1) + conditions] + [width] * layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = [module for a, b in zip(sizes, sizes[1:], strict=False) for module in (nn.Linear(a, b), nn.SiLU())]
            self.body = nn.Sequential(*hidden, nn.Linear(width, dim))

    frequencies: Tensor

    def forward(self, x: Tensor, tau_t: Tensor, tau_s: Tensor, condition: Tensor | None = None) -> Tensor:
        """``x``: ``(n, *shape)``; ``tau_t``, ``tau_s``: ``(n,)``; ``condition``: ``(n or 1, conditions)``, zeros if None.
        Returns the shape of ``x``."""
        flat = x.reshape(len(x), -1)
        if flat.shape[1] != self.config["dim"]:
            raise ValueError(f"x must have {self.config['dim']} numbers per sample, got shape {tuple(x.shape)}")
        if x.dtype != self.frequencies.dtype:
            raise TypeError(f"x must be {self.frequencies.dtype} like the network's weights, got {x.dtype}")
        times = torch.stack([tau_t, tau_s], 1)  # (n, 2)
        angle = (times[:, :, None] * self.frequencies).flatten(1)
        told = (flat.new_zeros(1, self.conditions) if condition is None else condition).expand(len(flat), -1)
        return self.body(torch.cat([self.gain * flat, times, angle.sin(), angle.cos(), told], 1)).reshape(x.shape)


class Discriminator(nn.Module):
    r"""A number :math:`J(x, \tau)` for each point, above 0 where it takes the point for data noised to :math:`\tau`.

    Args:
        dim: numbers in a point.
        sigma_data: standard deviation of the data.
        width: units in each of three hidden layers.
        seed: seed of the initial weights.
    """

    def __init__(self, dim: int, sigma_data: float, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        check_number(sigma_data, "sigma_data", 0, above=True)
        self.sigma_data = sigma_data
        sizes = [dim + 1, width, width, width]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = [module for a, b in zip(sizes, sizes[1:], strict=False) for module in (nn.Linear(a, b), nn.SiLU())]
            self.body = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """``x``: ``(n, *shape)``; ``tau``: ``(n, 1, ...)``. Returns ``(n,)``."""
        scaled = (4 * (1/(tau**2+self.sigma_data**2).sqrt()) * x).flatten(1)
        return self.body(torch.cat([scaled, (tau.log()/4).flatten(1)], 1))[:, 0]



def default(shape, conditions=0, seed=0):
    import math
    d=math.prod(shape)
    return MLP(d, gain=8.0*min(1,(2/d)**.5), seed=seed, conditions=conditions)
