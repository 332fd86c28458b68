r"""The adversarial term: a discriminator that tells jumps from data, and what it adds to the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctm._checks import check_number
from ctm.losses import adaptive_weight
from ctm.models import CTM
from ctm.networks import Discriminator
from ctm.schedules import rho_time


@dataclass(frozen=True)
class Adversarial:
    r"""How the adversarial term is trained (:class:`ctm.recipe.Recipe` holds one, or None)."""

    weight: float = 1.0
    r""":math:`\lambda_{GAN}`, the weight of the generator's loss beside the consistency loss."""
    adaptive: bool = True
    """Multiply ``weight`` by the ratio of the two gradients' norms at the last layer, as Kim et al. (2024) do."""
    most: float = 10.0
    """The largest ratio allowed, for the case that the discriminator has hardly a gradient left to divide by."""
    start: float = 0.4
    """Share of the steps, at the start, without the term and without a discriminator."""
    noise: float = 1.0
    r"""Highest noise level at which the discriminator compares, in units of ``sigma_data``; 0 shows it clean points."""
    r1: float = 0.1
    r"""Weight :math:`\gamma` of the penalty :math:`\frac{\gamma}{2} E|\nabla J|^2` on real points."""
    lr: float = 2e-3
    """Learning rate of the discriminator's Adam, constant."""
    width: int = 64
    """Units in each of the discriminator's three hidden layers."""

    def __post_init__(self) -> None:
        for name in ("weight", "most", "noise", "r1"):
            check_number(getattr(self, name), name, 0)
        check_number(self.start, "start", 0, 1)
        check_number(self.lr, "lr", 0, above=True)
        check_number(self.width, "width", 1, integer=True)
        if not isinstance(self.adaptive, bool):
            raise TypeError(f"adaptive must be True or False, got {self.adaptive!r}")


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    r"""The discriminator's loss :math:`E_{p}[\max(0, 1 - J)] + E_{q}[\max(0, 1 + J)]` (Lim and Ye 2017).

    ``real`` and ``fake`` are its outputs on data and on samples. Over all functions the least value is twice the overlap
    :math:`\int \min(p, q)`: 2 for samples that cannot be told from data, 0 for samples that always can.
    """
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


def r1_penalty(discriminator: nn.Module, x: Tensor, tau: Tensor) -> Tensor:
    r""":math:`\tfrac{1}{2} E|\nabla_x J(x, \tau)|^2` over real points ``x`` (Mescheder et al. 2018)."""
    x = x.detach().requires_grad_(True)
    gradient = torch.autograd.grad(discriminator(x, tau).sum(), x, create_graph=True)[0]
    return gradient.flatten(1).square().sum(1).mean() / 2


class Adversary:
    """A discriminator in training: its weights, its optimiser, and the random state of the run that it serves."""

    def __init__(self, shape: torch.Size, student: CTM, recipe: Adversarial, seed: int, generator: torch.Generator) -> None:
        self.student, self.recipe, self.generator = student, recipe, generator
        self.discriminator = Discriminator(shape.numel(), student.sigma_data, recipe.width, seed)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=recipe.lr, betas=(0.5, 0.9), fused=True)

    def noised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Points at ``sigma_min`` carried up to a noise level :math:`\tau` drawn for each, and that level."""
        low = self.student.sigma_min
        top = max(low, self.recipe.noise * self.student.sigma_data)
        fraction = torch.rand((len(x), *[1] * (x.ndim - 1)), generator=self.generator)
        tau = rho_time(fraction, low, top).clamp(low, top)
        return x + (tau**2 - low**2).sqrt() * torch.randn(x.shape, generator=self.generator), tau

    def learn(self, x0: Tensor, fake: Tensor) -> float:
        """One step of the discriminator on clean points and samples; returns its hinge loss before the step."""
        real = x0 + self.student.sigma_min * torch.randn(x0.shape, generator=self.generator)
        (real, tau_real), (fake, tau_fake) = self.noised(real), self.noised(fake.detach())
        loss = hinge_loss(self.discriminator(real, tau_real), self.discriminator(fake, tau_fake))
        value = loss.item()
        if self.recipe.r1:
            loss = loss + self.recipe.r1 * r1_penalty(self.discriminator, real, tau_real)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return value

    def term(self, fake: Tensor, consistency: Tensor) -> Tensor:
        r"""What the student's loss gains: :math:`-\lambda\, E[J(fake)]`, at the noise levels the discriminator knows."""
        loss = -self.discriminator(*self.noised(fake)).mean()
        weight: Tensor | float = self.recipe.weight
        if self.recipe.adaptive:
            weight = weight * adaptive_weight(consistency, loss, self.student.last_layer).clamp(max=self.recipe.most)
        return weight * loss
