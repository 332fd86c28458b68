"""Ready-made worlds: Gaussian mixtures, so that each comes with its exact teacher.
:class:`ctm.points.Points`, one's own data, go by this module's name too.

The worlds in 2-D and 16-D are centred and scaled to ``sigma_data = 0.5``, EDM's convention;
those in 1-D keep round numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ctm import noise
from ctm._checks import seeded
from ctm.labelled import LabelledMixture
from ctm.mixture import GaussianMixture
from ctm.points import Points

__all__ = [
    "LABELLED",
    "WORLDS",
    "GaussianMixture",
    "LabelledMixture",
    "Points",
    "checkerboard",
    "clusters",
    "digits",
    "half_rings",
    "one_gaussian",
    "pinwheel",
    "ring",
    "spirals",
    "swiss_roll",
    "three_gaussians",
    "two_gaussians",
    "two_moons",
    "uneven_two_gaussians",
]


def ring() -> GaussianMixture:
    """Eight equal Gaussians on a circle."""
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64, device="cpu") / 8
    return _standardised(torch.stack([angle.cos(), angle.sin()], 1), 0.07)


def two_moons() -> GaussianMixture:
    """Two interleaved half circles, each a chain of 24 Gaussians."""
    angle = torch.linspace(0, math.pi, 24, dtype=torch.float64, device="cpu")
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    return _standardised(torch.cat([upper, lower]), 0.08)


def checkerboard() -> GaussianMixture:
    """The eight dark squares of a 4 x 4 board, each a 4 x 4 grid of Gaussians."""
    inside = (torch.arange(4, dtype=torch.float64, device="cpu") + 0.5) / 4
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    squares = [torch.cartesian_prod(inside + i, inside + j) for i, j in corners]
    return _standardised(torch.cat(squares), 0.1)


def spirals() -> GaussianMixture:
    """Two arms that wind once around the centre, each a chain of 40 Gaussians."""
    arm = _arm(turns=1.25, points=40)
    return _standardised(torch.cat([arm, -arm]), 0.05)


def swiss_roll() -> GaussianMixture:
    """One arm that winds 1.2 times around the centre, a chain of 48 Gaussians."""
    return _standardised(_arm(turns=1.5, points=48), 0.04)


def pinwheel() -> GaussianMixture:
    """Five bent arms of eight Gaussians each, wider and rarer with the distance from the
    centre."""
    radius = torch.linspace(0.3, 1.5, 8, dtype=torch.float64, device="cpu")
    arm = torch.arange(5, dtype=torch.float64, device="cpu")[:, None]
    angle = 0.6 * radius + (2 * math.pi / 5) * arm
    means = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).reshape(-1, 2)
    weights = (1.7 - radius).repeat(5)
    return _standardised(means, (0.05 + 0.05 * radius).repeat(5), weights)


def clusters() -> GaussianMixture:
    """16-D: sixteen equal Gaussians at random centres, 3.4 to 7.9 of their own standard
    deviations apart."""
    centres = noise.randn((16, 16), seeded(16), dtype=torch.float64)
    return _standardised(centres, 1.0)


def one_gaussian() -> GaussianMixture:
    """1-D: one Gaussian, mean 0.5 and standard deviation 0.5; its flow map is affine."""
    return GaussianMixture([[0.5]], 0.5)


def two_gaussians() -> GaussianMixture:
    """1-D: means -1.5 and 1.5, standard deviation 0.3, equal weights."""
    return GaussianMixture([[-1.5], [1.5]], 0.3)


def uneven_two_gaussians() -> GaussianMixture:
    """1-D: means -1.5 and 1.5, standard deviations 0.5 and 0.2, weights 0.7 and 0.3."""
    return GaussianMixture([[-1.5], [1.5]], [0.5, 0.2], [0.7, 0.3])


def three_gaussians() -> GaussianMixture:
    """1-D: means -2, 0 and 2, standard deviation 0.25, weights 1/4, 1/2 and 1/4."""
    return GaussianMixture([[-2.0], [0.0], [2.0]], 0.25, [1.0, 2.0, 1.0])


def half_rings() -> LabelledMixture:
    """The ring with two classes: four neighbouring modes each."""
    world = ring()
    return LabelledMixture(world.means, world.stds, [0, 0, 0, 0, 1, 1, 1, 1])


def digits(std: float = 0.15) -> LabelledMixture:
    """Handwritten digits, 8 x 8 pixels in [-1, 1], as a world: a Gaussian of standard
    deviation ``std`` on each of the 1,797 images that scikit-learn ships, with their ten
    classes (Alpaydin and Kaynak 1998). Raises ImportError without scikit-learn."""
    from sklearn.datasets import load_digits  # here: only this world pays for the import

    images, labels = load_digits(return_X_y=True)
    return LabelledMixture(images.reshape(-1, 8, 8) / 8 - 1, std, labels)


_FLAT = (ring, two_moons, checkerboard, spirals, swiss_roll, pinwheel, clusters)
_LINE = (one_gaussian, two_gaussians, uneven_two_gaussians, three_gaussians)
WORLDS: dict[str, Callable[[], GaussianMixture]] = {f.__name__: f for f in (*_FLAT, *_LINE)}
"""Every ready-made world by its name.

:meta hide-value:
"""


LABELLED: dict[str, Callable[[], LabelledMixture]] = {
    world.__name__: world for world in (half_rings, digits)
}
"""The worlds with classes by their names.

:meta hide-value:
"""


def _arm(turns: float, points: int) -> Tensor:
    """Points spaced about evenly on a spiral, from a fifth of ``turns`` to ``turns``; its
    radius grows with the angle."""
    full = 2 * math.pi * turns
    angle = full * torch.linspace(0.04, 1, points, dtype=torch.float64, device="cpu").sqrt()
    return torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / full


def _standardised(
    means: Tensor, stds: float | Tensor, weights: Tensor | None = None
) -> GaussianMixture:
    """The mixture moved to mean 0 and scaled to ``sigma_data = 0.5``."""
    raw = GaussianMixture(means, stds, weights)
    factor = 0.5 / raw.sigma_data
    return GaussianMixture(
        (raw.means - raw.weights @ raw.means) * factor, raw.stds * factor, weights
    )
