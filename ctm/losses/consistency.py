"""The consistency term: two ways along one trajectory must end at one point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ctm._checks import check_choice, check_flags, check_number
from ctm.conditional import given
from ctm.flow_map import Conditional, Denoiser
from ctm.losses.objective import (
    Draw,
    Features,
    Models,
    Term,
    check_features,
    check_teacher,
    teacher_for,
)
from ctm.losses.trajectories import (
    KINDS,
    Pairs,
    Route,
    Trajectories,
    draw_levels,
    fresh_pairs,
)
from ctm.models import CTM
from ctm.noise import randint
from ctm.solvers import Step, heun_step

COMPARE = ("s", "x0")


def consistency_loss(
    student: CTM,
    target: CTM,
    pairs: Pairs,
    compare: str = "s",
    features: Features | None = None,
) -> Tensor:
    r"""The jump :math:`G_\theta(x_t, t, s)` against the teacher's step to ``u`` followed by
    the target's jump to ``s``.

    .. math::

        x_{est} = G_\theta(x_t, t, s), \qquad
        x_{target} = G_{sg}\bigl(Solver(x_t, t, u), u, s\bigr)

    and the loss is the mean of :math:`|x_{est} - x_{target}|^2` per coordinate, in units of
    :math:`c_{out}(t)^2 (1 - s/t)^2`, which for ``compare="s"`` makes it the squared error
    of the network's own output. With ``compare="x0"`` both points first jump on to
    ``sigma_min`` by the target, as in the paper's soft consistency matching (Kim et al.
    2024); the gradient then flows through the target's jump to the student's, so the target
    must be a model whose weights require none.

    Where there are ``features`` :math:`\phi_l`, such as a classifier's for images, a second
    part compares what is seen of the points, as the paper does (by LPIPS, Zhang et al.
    2018). It is taken where both are clean, at the pairs that end at ``sigma_min``, as its
    share of the batch:

    .. math:: \sum_l E\,\bigl[1_{s = \sigma_{min}}
        |\phi_l(x_{est}) - \phi_l(x_{target})|^2\bigr] / d_l .

    Args:
        student: the model in training.
        target: the same model with the weights to be held still. For "s" it may be the
            student.
        pairs: the batch; points ``(n, *data_shape)``, times ``(n, 1, ...)``.
        compare: "s" or "x0".
        features: a function that returns one tensor a depth, ``(n, ...)`` with
            :math:`d_l` numbers a point.
    """
    check_choice(compare, "compare", COMPARE)
    xt, t, xu, u, s = pairs
    estimate = student.jump(xt, t, s)
    with torch.no_grad():
        goal = target.jump(xu, u, s) if bool((u > s).any()) else xu
    if compare == "x0":
        end = s.new_full([1] * s.ndim, target.sigma_min)
        estimate = target.jump(estimate, s, end)
        with torch.no_grad():
            goal = target.jump(goal, s, end)
    loss = ((estimate - goal) / student.output_scale(t, s)).square().mean()
    if features is None:
        return loss
    clean = (s < student.sigma_min * (1 + 1e-6)).flatten()  # rounded to float32 or not
    if not bool(clean.any()):
        return loss
    ours, theirs = features(estimate[clean]), features(goal[clean])
    if isinstance(ours, Tensor):  # whose rows would be taken for depths
        raise TypeError("features must return a list of tensors, got one tensor")
    seen = zip(ours, theirs, strict=True)
    return loss + clean.float().mean() * sum((a - b).square().mean() for a, b in seen)


@dataclass(repr=False, eq=False)
class Consistency(Term):
    r"""Consistency along the teacher's trajectories (:func:`consistency_loss`; Kim et al.
    2024).

    A pair of points of one trajectory, at times :math:`t > u \ge s`, comes from a pool of
    trajectories solved beforehand (:class:`ctm.losses.Trajectories`) or, with ``pool=0``,
    from noised data and the solver, as in the paper. The defaults are the book's recipe.
    """

    teacher: Denoiser | Conditional
    """Anything with a ``denoiser``: an exact world, a learned denoiser, another CTM. Where
    the data come with a condition, anything with ``given``."""
    kind: str = "global"
    """Where :math:`u` lies from :math:`t` to :math:`s`: "local", "soft" or "global"."""
    compare: str = "s"
    """Compare the jumps where they land ("s"), or after one more to ``sigma_min``
    ("x0")."""
    step: Step = heun_step
    """The solver's step, of :mod:`ctm.solvers`."""
    substeps: int = 1
    """Solver steps from one level of a trajectory to the next; without a pool, from ``t``
    to ``u``."""
    levels: int = 96
    """Steps of the grid on which the times of a pair are drawn."""
    continuous: bool = True
    """Shift the grid at random for each sample, so that every time is drawn; else its times
    are fixed."""
    from_noise: float = 0.4
    """Probability that ``t`` is ``sigma_max``."""
    to_data: float = 0.5
    """Probability that ``s`` is ``sigma_min``."""
    pool: int = 4096
    """Trajectories solved at once and drawn from many times; 0 solves anew for every
    pair."""
    reuse: int = 48
    """Pairs drawn from each pooled trajectory, on average, before the pool is solved
    again."""
    features: Features | None = None
    """What of clean points is compared besides their coordinates; nothing if None."""

    def __post_init__(self) -> None:
        check_teacher(self.teacher)
        check_choice(self.kind, "kind", KINDS)
        check_choice(self.compare, "compare", COMPARE)
        for name, low in (("substeps", 1), ("levels", 2), ("pool", 0), ("reuse", 1)):
            check_number(getattr(self, name), name, low, integer=True)
        for name in ("from_noise", "to_data"):
            check_number(getattr(self, name), name, 0, 1)
        check_flags(self, "continuous")
        check_features(self.features)
        self.trajectories = Trajectories()
        self.condition: Tensor | None = None
        self.left = 0  # batches still to be drawn from the pool

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        pairs, condition = self.pairs(models, draw, rng)
        student = given(models.student, condition)
        lands = (self.kind, self.compare) == ("global", "s")  # at u = s: no target jumps
        target = student if lands else given(models.target, condition)
        return consistency_loss(student, target, pairs, self.compare, self.features)

    def pairs(
        self, models: Models, draw: Draw, rng: torch.Generator
    ) -> tuple[Pairs, Tensor | None]:
        """A batch of pairs and their condition."""
        levels = draw_levels(
            draw.batch, self.levels, self.kind, self.from_noise, self.to_data, rng
        )
        if not self.pool:
            x0, condition = draw()
            return fresh_pairs(
                x0, levels, self.route(models.student, condition), rng
            ), condition
        if not self.left:
            x0, self.condition = draw(self.pool)
            self.trajectories.refill(x0, self.route(models.student, self.condition), rng)
            self.left = max(1, self.pool * self.reuse // draw.batch)
        self.left -= 1
        row = randint(self.pool, (draw.batch,), rng, device=self.trajectories.points.device)
        condition = None if self.condition is None else self.condition[row]
        return self.trajectories.at(row, levels), condition

    def route(self, student: CTM, condition: Tensor | None) -> Route:
        """How the teacher's points are found."""
        teacher = teacher_for(student, self.teacher, condition)
        limits = student.sigma_min, student.sigma_max
        return Route(
            self.levels, self.continuous, teacher, self.step, self.substeps, limits
        )

    @torch.no_grad()
    def probe(self, student: CTM, x0: Tensor, condition: Tensor | None) -> list[float]:
        """What the teacher makes of a few points, and what the features say of them."""
        x = x0 + student.sigma_data * torch.ones_like(x0)
        clean = given(self.teacher, condition).denoiser(x, student.sigma_data)
        moved = clean - x0  # small beside a mean far from 0, which would hide it
        seen = [moved] if self.features is None else [moved, *self.features(x0)]
        return torch.cat([h.double().flatten(1).mean(1) for h in seen]).tolist()

    def reset(self) -> None:
        self.left = 0

    def state_dict(self) -> dict[str, Tensor]:
        if not self.pool or not hasattr(self.trajectories, "points"):
            return {}
        state = {
            "points": self.trajectories.points,
            "times": self.trajectories.times,
            "left": torch.tensor(self.left, device="cpu"),
        }
        return state if self.condition is None else state | {"condition": self.condition}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not state:  # nothing was drawn yet
            self.trajectories, self.left = Trajectories(), 0
            return
        held = {key: tuple(value.shape) for key, value in state.items()}
        size = (self.pool, self.levels + 1)
        sound = (
            held.get("points", ())[:2] == held.get("times") == size
            and held.get("left") == ()
        )
        if not sound or held.keys() - {"points", "times", "left", "condition"}:
            raise ValueError(f"the pool must hold {size} points and times, got {held}")
        self.trajectories.points, self.trajectories.times = state["points"], state["times"]
        self.condition = state.get("condition")
        self.left = int(check_number(int(state["left"]), "left", 0, integer=True))
