r"""What the losses of the three laws share: times, a slope, a derivative, a weight.

With :math:`G = (s/t)\,x + (1 - s/t)\,g` the part :math:`g(x, t, s)` is the mean of the
denoiser along the trajectory from ``t`` to ``s``, in :math:`\lambda = 1/t`:

.. math:: (\lambda_s - \lambda_t)\, g(x, t, s) = \int_{\lambda_t}^{\lambda_s}
    D(x_u, u)\, d\lambda, \qquad \lambda = 1/u .

Split the integral and you have the semigroup law, differentiate it at its end the
Lagrangian one, at its start the Eulerian one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctm._checks import check_flags, check_number
from ctm.conditional import given
from ctm.flow_map import Conditional, Denoiser, as_column
from ctm.losses.denoising import stable_target
from ctm.losses.objective import (
    Draw,
    Models,
    Objective,
    Sum,
    Term,
    as_term,
    check_teacher,
    teacher_for,
)
from ctm.models import CTM, c_out
from ctm.noise import RHO, rand, randn, rho_time
from ctm.parametrisations import euler
from ctm.samplers import center

GAP = 1 / 192  # least distance of s from t, as a share of the way from sigma_max down


class Batch(NamedTuple):
    """What a law is asked of: points and times as columns, and who takes part."""

    x0: Tensor
    xt: Tensor
    t: Tensor
    s: Tensor
    student: CTM
    target: CTM  #: the student held still
    teacher: Denoiser | None
    references: Tensor | None  #: further clean points
    progress: float  #: share of the training that is done
    rng: torch.Generator
    same: Tensor | None = None  #: which references have the class of which point
    condition: Tensor | None = None  #: of each point


@dataclass(repr=False, eq=False)
class Law(Term):
    r"""A term that asks a law of jumps from noised data: the mean over a batch of
    :math:`w |e|^2`, with :math:`e` the law's error in units of the network's output.

    A subclass gives :meth:`error`. The weight :math:`w = 1/(|e|^2 + floor)^{power}`, held
    still, is MeanFlow's with ``power`` 1; 1/2 gives the gradient of iCT's pseudo-Huber
    distance, and with :math:`|e| + c` in place of the root, sCM's normalised tangent.
    """

    teacher: Denoiser | Conditional | None = None
    """Gives the slope; without one it comes from the data, or from the student."""
    own: bool = False
    r"""Without a teacher, take the slope from the student's own denoiser, held still."""
    references: int = 0
    """Without a teacher, clean points that steady the slope from the data
    (:func:`ctm.losses.stable_target`)."""
    from_noise: float = 0.4
    """Probability that ``t`` is ``sigma_max``."""
    to_data: float = 0.5
    """Probability that ``s`` is ``sigma_min``."""
    power: float = 0.0
    """Exponent of the weight."""
    floor: float = 1e-3
    """What keeps the weight finite."""

    def __post_init__(self) -> None:
        if self.teacher is not None:
            check_teacher(self.teacher)
        for name in ("from_noise", "to_data", "power"):
            check_number(getattr(self, name), name, 0, 1)
        check_number(self.floor, "floor", 0, above=True)
        check_number(self.references, "references", 0, integer=True)
        check_flags(self, "own")

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        batch = self.batch(models, draw, rng)
        return weighted(self.error(batch), self.power, self.floor)

    def error(self, batch: Batch) -> Tensor:
        """The law's error, shape of the points, in units of the network's output."""
        raise NotImplementedError(f"{type(self).__name__} must define error")

    def batch(
        self, models: Models, draw: Draw, rng: torch.Generator, group: int = 1
    ) -> Batch:
        """Noised data and times; ``group`` neighbours share their times. Without a teacher
        no strength of guidance is told: clean points have a class, a strength has none."""
        x0, condition = draw() if self.teacher is not None else draw.clean()
        n = -(-len(x0) // group)
        times = draw_times(n, models.student, rng, self.from_noise, self.to_data)
        t, s = (as_column(time.repeat_interleave(group)[: len(x0)], x0) for time in times)
        xt = x0 + t * randn(x0.shape, rng, dtype=x0.dtype, device=x0.device)
        references = same = None
        if self.references and self.teacher is None:
            references, same = draw.references(self.references, condition)
        student, target = (given(m, condition) for m in (models.student, models.target))
        teacher = teacher_for(student, self.teacher, condition)
        progress = models.step / models.steps
        points = x0, xt, t, s, student, target, teacher
        return Batch(*points, references, progress, rng, same, condition)

    @torch.no_grad()
    def clean(self, batch: Batch, own: bool | None = None) -> Tensor:
        r"""Where the slope at :math:`x_t` points, so that :math:`dx/dt = (x_t - D)/t`: the
        teacher's or the student's denoiser, or the clean point itself, whose mean given
        :math:`x_t` is the denoiser."""
        if own is None:
            own = self.own and batch.teacher is None
        if own:
            return batch.target.denoiser(batch.xt, batch.t.flatten())
        if batch.teacher is not None:
            return batch.teacher.denoiser(batch.xt, batch.t.flatten())
        if batch.references is not None:
            middle = center(batch.student, batch.x0)
            return stable_target(
                *batch[1:3], batch.x0, batch.references, batch.same, middle
            )
        return batch.x0

    @torch.no_grad()
    def probe(self, student: CTM, x0: Tensor, condition: Tensor | None) -> list[float]:
        if self.teacher is None:
            return []
        teacher = given(self.teacher, condition)
        moved = teacher.denoiser(x0, student.sigma_data) - x0
        return moved.double().flatten(1).mean(1).tolist()


def draw_times(
    n: int, model: CTM, rng: torch.Generator, from_noise: float, to_data: float
) -> tuple[Tensor, Tensor]:
    """``n`` times :math:`t > s`, one draw for every method: ``t`` is ``sigma_max`` with
    probability ``from_noise``, ``s`` is ``sigma_min`` with ``to_data``, else uniform in
    :math:`t^{1/7}`, not closer than :data:`GAP`. Shape ``(n,)`` each."""
    at_noise, first, at_data, second = rand((4, n), rng, device=rng.device)
    start = torch.where(at_noise < from_noise, 0.0, first * (1 - GAP))
    end = start + GAP + second * (1 - GAP - start)
    end = torch.where(at_data < to_data, 1.0, end)
    low, high = model.sigma_min, model.sigma_max
    t, s = (rho_time(share, low, high).clamp(low, high) for share in (start, end))
    return t, s


def below(t: Tensor, share: Tensor | float, model: CTM) -> Tensor:
    r"""The noise level a ``share`` of the whole way below ``t``, in :math:`t^{1/7}`."""
    low, high = (level ** (1 / RHO) for level in (model.sigma_min, model.sigma_max))
    return (t ** (1 / RHO) - share * (high - low)).clamp_min(low) ** RHO


def weighted(error: Tensor, power: float, floor: float) -> Tensor:
    r"""The mean of :math:`w |e|^2`, :math:`w = 1/sg(|e|^2 + floor)^{power}`, where
    :math:`|e|^2` is the mean over the coordinates of a point."""
    size = error.square().flatten(1).mean(1)
    return (size / (size.detach() + floor) ** power).mean() if power else size.mean()


def derivative(
    function: Callable[..., Tensor],
    at: tuple[Tensor, ...],
    along: tuple[Tensor, ...],
    step: float,
) -> Tensor:
    r"""The derivative of ``function`` at a point along a direction.

    With ``step`` 0 by forward mode (:func:`torch.func.jvp`), exact; else by the difference
    of two calls, ``step`` before and after, whose error is of order :math:`step^2`. The
    network must answer both calls alike: no dropout, and no weights in half precision.
    """
    with torch.autocast(at[0].device.type, enabled=False):  # a difference of near numbers
        if not step:
            return torch.func.jvp(function, at, along)[1]
        ahead, behind = (
            function(*(x + sign * step * v for x, v in zip(at, along, strict=True)))
            for sign in (1, -1)
        )
        return (ahead - behind) / (2 * step)


def still(error: Tensor, output: Tensor) -> Tensor:
    """``error`` with the gradient of ``output`` alone: the loss then is the distance of the
    output to a target that is held still."""
    return error.detach() + output - output.detach()


def in_output(error: Tensor, batch: Batch) -> Tensor:
    """An error of ``g`` in units of the network's output; raises ValueError where ``g`` is
    not the law's (:class:`ctm.parametrisations.Parametrised`)."""
    outer = getattr(batch.student, "outer", euler)
    if outer is not euler:
        raise ValueError(f"student must have outer=euler, got {outer.__name__}")
    return error / c_out(batch.t, batch.student.sigma_data)


class Then(Term):
    """One objective for the first ``share`` of the steps, another after."""

    def __init__(self, first: Objective, then: Objective, share: float) -> None:
        self.first, self.then = as_term(first), as_term(then)
        self.share = check_number(share, "share", 0, 1)

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        early = models.step < self.share * models.steps
        return (self.first if early else self.then)(models, draw, rng)

    def __repr__(self) -> str:
        return f"Then({self.first!r}, {self.then!r}, {self.share!r})"

    @property
    def _both(self) -> Sum:
        return Sum((1.0, self.first), (1.0, self.then))

    def reset(self) -> None:
        self._both.reset()

    def state_dict(self) -> dict[str, Tensor]:
        return self._both.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._both.load_state_dict(state)

    def probe(self, student: CTM, x0: Tensor, condition: Any) -> list[float]:
        return self._both.probe(student, x0, condition)
