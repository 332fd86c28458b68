r"""The adversarial term: a discriminator that tells jumps from data, and what it adds to
the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctm._checks import check_flags, check_number
from ctm.conditional import given
from ctm.flow_map import as_column
from ctm.losses.objective import (
    Draw,
    Features,
    Models,
    Term,
    balance,
    check_features,
    check_first,
)
from ctm.losses.trajectories import draw_levels, grid_times
from ctm.models import CTM
from ctm.networks import FeatureDiscriminator, discriminator_for
from ctm.noise import rand, randn, rho_time
from ctm.optimisers import load_optimizer, optimizer_state
from ctm.samplers import center


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    r"""The discriminator's loss :math:`E_{p}[\max(0, 1 - J)] + E_{q}[\max(0, 1 + J)]` (Lim
    and Ye 2017).

    ``real`` and ``fake`` are its outputs on data and on samples. Over all functions the
    least value is twice the overlap :math:`\int \min(p, q)`: 2 for samples that cannot be
    told from data, 0 for samples that always can.
    """
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


def r1_penalty(discriminator: nn.Module, x: Tensor, tau: Tensor) -> Tensor:
    r""":math:`\tfrac{1}{2} E|\nabla_x J(x, \tau)|^2` over real points ``x`` (Mescheder et
    al. 2018); of the mean where the discriminator gives a point several numbers."""
    x = x.detach().requires_grad_(True)
    said = discriminator(x, tau).reshape(len(x), -1).mean(1)
    gradient = torch.autograd.grad(said.sum(), x, create_graph=True)[0]
    return gradient.flatten(1).square().sum(1).mean() / 2


@dataclass(repr=False, eq=False)
class Adversarial(Term):
    r"""The generator's loss :math:`-E[J(G_{sg}(G_\theta(x_t, t, s), s, \sigma_{min}))]`,
    with a discriminator :math:`J` that learns beside the student (Kim et al. 2024; Lim and
    Ye 2017).

    It stands in a sum after another term: ``Consistency(teacher) + Adversarial()``. Where
    points have a class, data and samples of a batch have the same classes: else the
    discriminator learns which class happens to be the more frequent on its side.
    """

    adaptive: bool = True
    """Multiply by the ratio of two gradients' norms at the last layer, that of the first
    term of the sum over this one's, as Kim et al. (2024) do."""
    most: float = 10.0
    """The largest ratio allowed, for the case that the discriminator has hardly a gradient
    left to divide by."""
    start: float = 0.4
    """Share of the steps, at the start, without the term and without a discriminator."""
    noise: float = 1.0
    r"""Highest noise level at which the discriminator compares, in units of ``sigma_data``;
    0 shows it clean points."""
    r1: float = 0.1
    r"""Weight :math:`\gamma` of the penalty :math:`\frac{\gamma}{2} E|\nabla J|^2` on real
    points."""
    lr: float = 2e-3
    """Learning rate of the discriminator's Adam, constant."""
    width: int = 64
    """Width of the discriminator, which is a :class:`ctm.networks.Discriminator`, or for
    images of 8 pixels a side or more a :class:`ctm.networks.ImageDiscriminator`."""
    features: Features | None = None
    """What the discriminator looks at in place of points, such as
    :class:`ctm.fidelity.Depths`; it is then a :class:`ctm.networks.FeatureDiscriminator`,
    and the hinge loss is the mean over the features. Shown noised points, it is not told
    their noise level: with ``noise=0`` it sees clean ones."""
    levels: int = 96
    """Steps of the grid on which the times of its jumps are drawn."""
    from_noise: float = 0.4
    """Probability that such a jump starts at ``sigma_max``."""
    to_data: float = 0.5
    """Probability that it ends at ``sigma_min``. With both at 1 it judges samples of one
    call alone."""
    seed: int = 0
    """Seed of the discriminator's initial weights."""

    def __post_init__(self) -> None:
        for name in ("most", "noise", "r1"):
            check_number(getattr(self, name), name, 0)
        for name in ("start", "from_noise", "to_data"):
            check_number(getattr(self, name), name, 0, 1)
        check_number(self.lr, "lr", 0, above=True)
        for name, low in (("width", 1), ("levels", 2), ("seed", 0)):
            check_number(getattr(self, name), name, low, integer=True)
        check_flags(self, "adaptive")
        check_features(self.features)
        self.discriminator: nn.Module | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.made_for: list[float] = []  # the shape of a point, and sigma_data

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        if self.adaptive:
            check_first(models)
        if models.step < self.start * models.steps:
            return torch.zeros((), dtype=torch.float32, device=draw.device)
        fake, x0 = self.estimates(models, draw, rng)
        if not draw.conditional:
            x0 = draw.clean()[0]
        self.learn(models.student, x0, fake, rng)
        loss = self.judge(models.student, fake, rng)
        return balance(models, loss).clamp(max=self.most) * loss if self.adaptive else loss

    def estimates(
        self, models: Models, draw: Draw, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Jumps from noised data, carried on to the end by the target: what is judged; and
        the data that were noised."""
        student = models.student
        levels = draw_levels(
            draw.batch, self.levels, "global", self.from_noise, self.to_data, rng
        )
        x0, condition = draw()
        offset = rand((len(x0),), rng, device=x0.device)
        limits = student.sigma_min, student.sigma_max
        t, _, s = (
            as_column(grid_times(k.to(x0.device), self.levels, offset, *limits), x0)
            for k in levels
        )
        xt = x0 + t * randn(x0.shape, rng, dtype=x0.dtype, device=x0.device)
        student, target = (given(m, condition) for m in (student, models.target))
        end = s.new_full([1] * s.ndim, student.sigma_min)
        return target.jump(student.jump(xt, t, s), s, end), x0

    def noised(
        self, student: CTM, x: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        r"""Points at ``sigma_min`` carried up to a noise level :math:`\tau` drawn for each,
        and that level."""
        if self.features is None:  # a network of its own sees them about their mean
            x = x - center(student, x)
        x = x.to(torch.float32)
        low = student.sigma_min
        top = max(low, self.noise * student.sigma_data)
        fraction = as_column(rand((len(x),), rng, device=x.device), x)
        tau = rho_time(fraction, low, top).clamp(low, top)
        eps = randn(x.shape, rng, dtype=x.dtype, device=x.device)
        return x + (tau**2 - low**2).clamp_min(0).sqrt() * eps, tau

    def learn(self, student: CTM, x0: Tensor, fake: Tensor, rng: torch.Generator) -> float:
        """One step of the discriminator on clean points and samples; returns its hinge loss
        before the step."""
        judge, optimizer = self.opponent(student, x0)
        real = x0 + student.sigma_min * randn(
            x0.shape, rng, dtype=x0.dtype, device=x0.device
        )
        real, tau_real = self.noised(student, real, rng)
        fake, tau_fake = self.noised(student, fake.detach(), rng)
        loss = hinge_loss(judge(real, tau_real), judge(fake, tau_fake))
        value = loss.item()
        if self.r1:
            loss = loss + self.r1 * r1_penalty(judge, real, tau_real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value

    def judge(self, student: CTM, fake: Tensor, rng: torch.Generator) -> Tensor:
        r""":math:`-E[J(fake)]`, at the noise levels that the discriminator knows."""
        discriminator, _ = self.opponent(student, fake)
        return -discriminator(*self.noised(student, fake, rng)).mean()

    def opponent(self, student: CTM, x: Tensor) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The discriminator and its optimiser, made for points like ``x`` at the first
        call."""
        if self.discriminator is None or self.optimizer is None:
            return self._make(x.shape[1:], student.sigma_data, x.device)
        return self.discriminator, self.optimizer

    @torch.no_grad()
    def probe(self, student: CTM, x0: Tensor, condition: Tensor | None) -> list[float]:
        """What the features say of a few points."""
        seen = [] if self.features is None else self.features(x0)
        return [float(h.double().mean()) for h in seen]

    def reset(self) -> None:
        self.discriminator = self.optimizer = None

    def state_dict(self) -> dict[str, Tensor]:
        if self.discriminator is None or self.optimizer is None:
            return {}
        weights = {
            f"discriminator.{k}": v for k, v in self.discriminator.state_dict().items()
        }
        moments = {f"optimizer.{k}": v for k, v in optimizer_state(self.optimizer).items()}
        made_for = torch.tensor(self.made_for, dtype=torch.float64, device="cpu")
        return weights | moments | {"made_for": made_for}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not state:  # none was made yet
            self.reset()
            return
        weights = {k[14:]: v for k, v in state.items() if k.startswith("discriminator.")}
        moments = {k[10:]: v for k, v in state.items() if k.startswith("optimizer.")}
        if "made_for" not in state or len(weights) + len(moments) + 1 != len(state):
            raise ValueError(f"this is no discriminator's state: {sorted(state)[:4]}")
        *sizes, sigma_data = state["made_for"].tolist()
        device = state["made_for"].device
        shape = [int(size) for size in sizes]
        discriminator, optimizer = self._make(shape, sigma_data, device)
        discriminator.load_state_dict(weights)
        load_optimizer(optimizer, moments)

    def _make(
        self, shape: Sequence[int], sigma_data: float, device: torch.device
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self.made_for = [*shape, sigma_data]
        made: nn.Module
        if self.features is None:
            made = discriminator_for(shape, sigma_data, self.width, self.seed)
        else:
            example = torch.zeros(1, *shape, device=device)
            made = FeatureDiscriminator(self.features, example, self.width, self.seed)
        self.discriminator = made.to(device)
        weights = self.discriminator.parameters()
        self.optimizer = torch.optim.Adam(weights, self.lr, (0.5, 0.9), fused=True)
        return self.discriminator, self.optimizer
