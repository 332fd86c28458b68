"""How good are images? A distance between sets of features, and a small classifier whose
features they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, silu

from ctm._checks import check_points, seeded
from ctm.networks.base import draw_weights
from ctm.noise import randint
from ctm.points import Points


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""The squared :math:`W_2` between the Gaussians with the means and covariances of two
    sets of features (Heusel et al. 2017, there called FID):

    .. math:: |\mu_x - \mu_y|^2
        + \mathrm{tr}\bigl(\Sigma_x + \Sigma_y - 2\,(\Sigma_x \Sigma_y)^{1/2}\bigr) .

    Small sets look farther apart than they are: compare it between sets of one size, or
    with that of true sets.

    Args:
        x, y: features ``(n, d)`` and ``(m, d)``, n and m at least 2.
    """
    if check_points(x, "x").ndim != 2:
        raise ValueError(f"x must have shape (n, d), got {tuple(x.shape)}")
    check_points(y, "y", tuple(x.shape[1:]))
    a, b = (part.detach().to("cpu", torch.float64) for part in (x, y))
    if min(len(a), len(b)) < 2:
        raise ValueError(f"x and y must have two rows or more, got {len(a)} and {len(b)}")
    first, second = a.T.cov().reshape(a.shape[1], -1), b.T.cov().reshape(a.shape[1], -1)
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # the eigenvalues of first @ second, by a symmetric matrix that has the same
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float((apart + first.trace() + second.trace() - 2 * shared).clamp_min(0))


class Classifier(nn.Module):
    """A small convolutional network that names the class of an image; what it knows before
    the last layer are 64 features.

    Args:
        shape: of an image, ``(height, width)`` or ``(channels, height, width)``, sides
            divisible by 4.
        classes: how many.
        seed: seed of the initial weights.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, seed: int = 0) -> None:
        super().__init__()
        self.shape, self.image = tuple(shape), (1, *shape)[-3:]
        if len(shape) not in (2, 3) or shape[-1] % 4 or shape[-2] % 4:
            raise ValueError(
                "shape must be (height, width) or (channels, height, width), sides "
                f"divisible by 4, got {tuple(shape)}"
            )
        places = self.image[1] // 4 * (self.image[2] // 4)
        with torch.device("meta"):
            self.body = nn.Sequential(
                nn.Conv2d(self.image[0], 16, 3, padding=1),
                nn.SiLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.SiLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(32 * places, 64),
            )
            self.leave = nn.Linear(64, classes)
        draw_weights(self, seed)

    @classmethod
    def trained(cls, data: Points, steps: int = 600, seed: int = 0) -> Classifier:
        """Trained on the labelled ``data``, on images moved by up to an eighth of the
        shorter side: ``steps`` steps of 128 by Adam, rate 2e-3 with a cosine down to 0.
        Raises ValueError where the data have no labels."""
        if not data.classes:
            raise ValueError("data must have labels, got points without")
        model = cls(data.shape, data.classes, seed).to(data.rows.device)
        rng, most = seeded(seed), min(data.shape[-2:]) // 8
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            x, labels = data.sample_labelled(128, generator=rng)
            optimizer.zero_grad()
            cross_entropy(model(shifted(x, most, rng)), labels).backward()
            optimizer.step()
            schedule.step()
        return model.requires_grad_(False)

    def depths(self, x: Tensor) -> list[Tensor]:
        """What it makes of images ``(n, *shape)`` after each of its two convolutions,
        ``(n, 16, height, width)`` and ``(n, 32, height/2, width/2)``, and the features."""
        h, seen = self._images(x), []
        for layer in self.body:
            h = layer(h)
            if isinstance(layer, nn.SiLU | nn.Linear):
                seen.append(h)
        return seen

    def features(self, x: Tensor) -> Tensor:
        """Images ``(n, *shape)`` to ``(n, 64)``."""
        return torch.cat([self.body(part) for part in self._images(x).split(500)])

    def _images(self, x: Tensor) -> Tensor:
        check_points(x, "x", self.shape)
        return x.reshape(-1, *self.image).to(self.leave.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The logits ``(n, classes)``."""
        return self.leave(silu(self.features(x)))

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """The share of images named as their labels ``(n,)``."""
        if labels.shape != (len(x),):
            raise ValueError(
                f"labels must have shape ({len(x)},), got {tuple(labels.shape)}"
            )
        return float((self(x).argmax(1) == labels).double().mean())


class Depths(nn.Module):
    """What a classifier sees of an image at three depths, each channel in units of its
    standard deviation over data: for :class:`ctm.losses.Consistency`.

    In features of deeper networks the distance of two images agrees better with what people
    call alike than the distance of their pixels does (Zhang et al. 2018).

    Args:
        classifier: a trained one.
        x: images ``(n, *shape)`` of the data, n at least 2.
        cut: cut what is looked at to the range of ``x`` first, as a picture file does. What
            lies beyond is not seen then and has no gradient.
    """

    def __init__(self, classifier: Classifier, x: Tensor, cut: bool = False) -> None:
        super().__init__()
        if len(check_points(x, "x")) < 2:
            raise ValueError(f"x must have two images or more, got {len(x)}")
        self.classifier = classifier
        self.range = (float(x.min()), float(x.max())) if cut else None
        with torch.no_grad():
            self.scales = [
                h.transpose(0, 1).flatten(1).std(1).clamp_min(1e-3)
                for h in classifier.depths(x)
            ]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images ``(n, *shape)`` to three tensors, each with n rows."""
        x = x.clamp(*self.range) if self.range else x
        seen = zip(self.classifier.depths(x), self.scales, strict=True)
        return [h / scale.to(h).view(-1, *[1] * (h.ndim - 2)) for h, scale in seen]


def shifted(x: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Images ``(n, *shape)``, each moved by up to ``most`` pixels either way and up or
    down; what comes in at an edge is the edge's own pixel."""
    sides = x.shape[-2:]
    moves = randint(2 * most + 1, (2, len(x), 1), rng, device=x.device) - most
    rows, columns = (
        (torch.arange(side, device=x.device) + move).clamp(0, side - 1)
        for side, move in zip(sides, moves, strict=True)
    )
    images = x.reshape(len(x), -1, *sides)
    image = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=x.device)[:, None, None]
    moved = images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return moved.reshape(x.shape)
