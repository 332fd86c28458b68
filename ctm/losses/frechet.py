r"""The Frechet distance of samples from data, as a term of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ctm._checks import check_number, check_points
from ctm.conditional import given
from ctm.losses.objective import Draw, Features, Models, Term, check_features
from ctm.models import CTM
from ctm.samplers import noise


@dataclass(repr=False, eq=False)
class Frechet(Term):
    r"""The Frechet distance between samples of one call and data, the mean over :math:`L`
    features :math:`\phi_l` that are held still, each in units of the data's variance there
    (Yang et al. 2026):

    .. math:: \frac{1}{L} \sum_l \frac{|m_l - \mu_l|^2 + \mathrm{tr}\bigl(C_l + \Sigma_l
        - 2\,(C_l \Sigma_l)^{1/2}\bigr)}{\mathrm{tr}\,\Sigma_l} ,

    with mean :math:`m_l` and covariance :math:`C_l` of the features of samples,
    :math:`\mu_l` and :math:`\Sigma_l` of those of data.

    A batch is too small to tell a covariance by. So the moments of samples are taken over
    the last ``memory`` of them, and the gradient reaches the newest ``batch`` alone. It
    needs no root of a matrix that is differentiated: a distance of two Gaussians is the
    mean of :math:`|f - T f|^2` over the first, where :math:`T` is the affine map that
    carries it to the second by the shortest way (:func:`affine_map`), and its gradient at a
    sample is that of :math:`|f - T f|^2` with :math:`T f` held still. The term is the mean
    of that over the newest samples: the distance itself where ``memory`` is ``batch``.

    The memory lags behind the weights: where these move fast, the moments swing about their
    goal. A low learning rate, as at the end of a training, lets them settle.

    It asks for the right moments and for no trajectory, so it stands in a sum after a term
    that does: ``Consistency(teacher) + Frechet(x, features)``.
    """

    real: Tensor
    """Points of the data ``(m, *shape)``, from which the moments are taken once."""
    features: Features | None = None
    """A function that returns tensors ``(n, d)``; the points themselves if None."""
    batch: int = 128
    """Samples drawn in a step."""
    memory: int = 1024
    """Samples whose features are kept."""

    def __post_init__(self) -> None:
        if len(check_points(self.real, "real")) < 2:
            raise ValueError(f"real must have two points or more, got {len(self.real)}")
        check_features(self.features)
        check_number(self.batch, "batch", 1, integer=True)
        check_number(self.memory, "memory", max(2, self.batch), integer=True)
        with torch.no_grad():
            self.wanted = [mean_and_covariance(f) for f in self.seen(self.real)]
        if not all(float(cov.trace()) for _, cov in self.wanted):
            raise ValueError("features must not be constant over real")
        self.kept: list[Tensor] = []

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        if not self.kept:
            with torch.no_grad():
                rounds = -(-self.memory // self.batch)
                drawn = [self.samples(models, draw, rng) for _ in range(rounds)]
                self.kept = self.seen(torch.cat(drawn)[-self.memory :])
        seen = self.seen(self.samples(models, draw, rng))
        for f in seen:
            if not bool(torch.isfinite(f).all()):
                return f.sum()  # the loop says what is wrong with a loss that is not finite
        self.kept = [
            torch.cat([old[len(new) :], new.detach()])
            for old, new in zip(self.kept, seen, strict=True)
        ]
        loss = torch.zeros((), dtype=torch.float32, device=draw.device)
        for new, kept, wanted in zip(seen, self.kept, self.wanted, strict=True):
            mean, cov = (part.to(new.device) for part in wanted)
            own, fine = mean_and_covariance(kept), new.double()
            to = mean + (fine.detach() - own[0]) @ affine_map(own[1], cov)
            apart = (fine - to).square().sum(1).mean() / cov.trace()
            loss = loss + apart.to(loss.dtype) / len(seen)
        return loss

    def samples(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        """``batch`` samples of one call, for conditions drawn with the data."""
        student = given(models.student, draw(self.batch)[1])
        x = noise(student, self.batch, draw.shape, generator=rng)
        ends = (x.new_full([1] * x.ndim, t) for t in (student.sigma_max, student.sigma_min))
        return student.jump(x, *ends)

    def seen(self, x: Tensor) -> list[Tensor]:
        """The features of points, each ``(n, d)``."""
        seen = [x.flatten(1)] if self.features is None else self.features(x)
        for f in seen:
            if f.ndim != 2 or len(f) != len(x):
                raise ValueError(
                    f"features must return tensors ({len(x)}, d), got {tuple(f.shape)}"
                )
        return seen

    def probe(self, student: CTM, x0: Tensor, condition: Tensor | None) -> list[float]:
        """What is wanted, and what the features say of a few points."""
        wanted = [part.mean() for pair in self.wanted for part in pair]
        said = [f.double().mean() for f in self.seen(x0)]
        return [float(number) for number in (*wanted, *said)]

    def reset(self) -> None:
        self.kept = []

    def state_dict(self) -> dict[str, Tensor]:
        return {str(k): f for k, f in enumerate(self.kept)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        wanted = {str(k): (self.memory, len(pair[0])) for k, pair in enumerate(self.wanted)}
        held = {key: tuple(value.shape) for key, value in state.items()}
        if state and held != wanted:
            raise ValueError(f"the features kept must be {wanted}, got {held}")
        self.kept = [state[str(k)] for k in range(len(state))]


def mean_and_covariance(f: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` of features ``(n, d)``, in float64."""
    f = f.detach().double()
    centred = f - f.mean(0)
    return f.mean(0), centred.T @ centred / len(f)


def affine_map(own: Tensor, other: Tensor) -> Tensor:
    r"""The symmetric matrix :math:`A = C^{-1/2} (C^{1/2} \Sigma\, C^{1/2})^{1/2} C^{-1/2}`,
    for which :math:`A C A = \Sigma`: :math:`\mu + A (f - m)` carries a Gaussian with
    covariance ``own``, :math:`C`, to one with ``other``, :math:`\Sigma`, with the least
    mean squared move (Olkin and Pukelsheim 1982). Directions in which ``own`` has hardly
    any variance, a millionth of what it or a number of ``other`` has at most, are taken to
    have that much."""
    values, axes = torch.linalg.eigh(own)
    largest = max(float(values[-1]), float(other.diagonal().max()))
    values = values.clamp_min(1e-6 * largest)
    half, inverse = ((axes * values**power) @ axes.T for power in (0.5, -0.5))
    values, axes = torch.linalg.eigh(half @ other @ half)
    return inverse @ ((axes * values.clamp_min(0).sqrt()) @ axes.T) @ inverse
