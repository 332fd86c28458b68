r"""The semigroup law: two jumps in a row are one jump."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctm._checks import check_choice, check_flags, check_number
from ctm.losses.laws import Batch, Law, below, weighted
from ctm.losses.objective import Draw, Models
from ctm.noise import rand, rho_time

Middle = Callable[[Batch], Tensor]
"""Where the first of the two jumps ends: a time ``u`` with :math:`t > u \\ge s`."""


@dataclass(frozen=True)
class Neighbour:
    r"""``u`` is the next level below ``t`` on a grid, equal in :math:`t^{1/7}`, that is
    refined as training goes on: from ``first`` to ``last`` levels, their square growing
    evenly ("root", Song et al. 2023) or in doublings ("doubling", Song and Dhariwal
    2024)."""

    first: int
    last: int
    growth: str = "doubling"

    def __post_init__(self) -> None:
        check_choice(self.growth, "growth", ("root", "doubling"))
        check_number(self.first, "first", 2, integer=True)
        check_number(self.last, "last", self.first, integer=True)

    def levels(self, progress: float) -> float:
        if self.growth == "root":
            a, b = self.first**2, (self.last + 1) ** 2
            return math.ceil(math.sqrt(a + progress * (b - a)) - 1) + 1
        doublings = math.floor(progress * (math.log2(self.last / self.first) + 1))
        return min(self.first * 2**doublings, self.last)

    def __call__(self, batch: Batch) -> Tensor:
        share = 1 / self.levels(batch.progress)
        return torch.maximum(below(batch.t, share, batch.student), batch.s)


@dataclass(frozen=True)
class Ratio:
    r"""ECT's schedule (Geng et al. 2025): :math:`u/t = 1 - n(t)/q^a`,
    :math:`n(t) = 1 + k\,sigmoid(-b t)`, where :math:`a` counts the ``stages`` of training.
    At first that is 0, which is denoising; it ends near 1. ``t`` in units of
    :math:`2\sigma_{data}`."""

    q: float = 2.0
    k: float = 8.0
    b: float = 1.0
    stages: int = 8

    def __call__(self, batch: Batch) -> Tensor:
        stage = math.floor(batch.progress * self.stages)
        level = batch.t / (2 * batch.student.sigma_data)
        gap = (1 + self.k * torch.sigmoid(-self.b * level)) / self.q**stage
        return torch.maximum(batch.t * (1 - gap), batch.s)


@dataclass(frozen=True)
class Share:
    r"""``u`` lies a share :math:`\alpha` of the way from ``t`` to ``s`` in the time
    :math:`r = t/(1 + t)` of the straight path; the share falls from ``first`` to ``last``
    evenly on a log scale (SoFlow; Luo et al. 2025) or as a sigmoid around the middle of
    training (AlphaFlow; Zhang et al. 2025)."""

    first: float
    last: float
    law: str = "exponential"

    def __post_init__(self) -> None:
        check_choice(self.law, "law", ("exponential", "sigmoid"))

    def alpha(self, progress: float) -> float:
        if self.law == "exponential":
            return self.first * (self.last / self.first) ** progress
        fall = 1 / (1 + math.exp(-16 * (0.5 - progress)))
        return max(self.first * fall, self.last)

    def __call__(self, batch: Batch) -> Tensor:
        unit = batch.student.sigma_data
        start, end = (time / (unit + time) for time in (batch.t, batch.s))
        middle = start - self.alpha(batch.progress) * (start - end)
        return torch.maximum(unit * middle / (1 - middle), batch.s)


def half(batch: Batch) -> Tensor:
    r""":math:`u` half of the way from ``t`` to ``s`` in :math:`t^{1/7}` (shortcut models,
    Frans et al. 2025, halve the straight path's time)."""
    return ((batch.t ** (1 / 7) + batch.s ** (1 / 7)) / 2) ** 7


def anywhere(batch: Batch) -> Tensor:
    r""":math:`u` uniform from ``t`` to ``s`` in :math:`t^{1/7}`."""
    pick = rand(batch.t.shape, batch.rng, dtype=batch.t.dtype, device=batch.t.device)
    return torch.maximum(rho_time(pick, batch.s, batch.t), batch.s)


@dataclass(repr=False, eq=False)
class Semigroup(Law):
    r"""One jump against two, :math:`G_\theta(x_t, t, s) = G_{sg}(x_u, u, s)`.

    In terms of :math:`g` the law is additive, SplitMeanFlow's form of it,

    .. math:: \Bigl(\frac1s - \frac1t\Bigr) g(x_t, t, s) =
        \Bigl(\frac1u - \frac1t\Bigr) g(x_t, t, u)
        + \Bigl(\frac1s - \frac1u\Bigr) g(x_u, u, s) .

    :math:`x_u` is a straight step along the slope,
    :math:`x_u = (u/t)\,x_t + (1 - u/t)\,D`: with the clean point for :math:`D` that is
    :math:`x_0 + u\,\epsilon`, the same noise at a lower level (consistency training). Or it
    is the student's own jump, as in shortcut models. A step is short, and its squared error
    is divided by its share :math:`\alpha = (t - u)/(t - s)` of the whole, so that a finer
    grid does not mean a smaller gradient (AlphaFlow's :math:`1/\alpha`, iCT's
    :math:`1/(t - u)`).
    """

    middle: Middle = half
    """Where the first jump ends."""
    jumps: bool = False
    """Take :math:`x_u` from the student's own jump, held still, not from a step; no teacher
    is asked then."""
    held: bool = True
    """Hold the second way still; else both ways learn from each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "jumps", "held")

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        batch = self.batch(models, draw, rng)
        u = self.middle(batch)
        error = self.between(batch, u)
        if not self.jumps:  # |e|^2 / alpha: the gradient is that of a rate
            share = (batch.t - u) / (batch.t - batch.s)
            error = error / share.clamp_min(1e-6).sqrt()  # u may be t but for rounding
        return weighted(error, self.power, self.floor)

    def between(self, batch: Batch, u: Tensor) -> Tensor:
        """The difference of the two ways by ``u``, in units of the network's output."""
        xt, t, s = batch.xt, batch.t, batch.s
        one = batch.student.jump(xt, t, s)
        second = batch.target if self.held else batch.student
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.held):
            if self.jumps:
                xu = second.jump(xt, t, u)
            else:
                xu = u / t * xt + (1 - u / t) * self.clean(batch)
            two = second.jump(xu, u, s)
        return (one - two) / batch.student.output_scale(t, s)
