"""Classifier-free guidance: the guided denoiser, and training with labels and strengths drawn at random."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ctm._checks import check_number
from ctm.conditional import ConditionalCTM
from ctm.flow_map import as_column
from ctm.labelled import NO_LABEL, Condition as Label, LabelledMixture
from ctm.losses import consistency_loss, dsm_loss
from ctm.pairs import Route, draw_levels
from ctm.recipe import Recipe
from ctm.run import Run
from ctm.noise import rho_time
from ctm.solvers import STEPS, Denoiser
from ctm.training import History, training_steps


class Conditional(Protocol):
    """Anything with ``given(label, w)``: a labelled world, a conditional CTM, a guided model."""

    def given(self, label: Label, w: float | Tensor = 1.0) -> Denoiser: ...


class Guided:
    r"""Classifier-free guidance (Ho and Salimans 2022) of a conditional model that also knows the unconditional case:

    .. math:: D_w(x, t) = D(x, t) + w\,\bigl(D_c(x, t) - D(x, t)\bigr) .

    :math:`w = 0` is the unconditional denoiser, :math:`w = 1` the conditional one; beyond 1 it extrapolates. (In the paper's
    own letters this is :math:`(1 + w')\, D_c - w'\, D`, with :math:`w' = w - 1`.)

    Args:
        model: a model whose ``given(label)`` has a denoiser for each class and for None.
    """

    def __init__(self, model: Conditional) -> None:
        self.model = model

    def given(self, label: Label, w: float | Tensor = 1.0) -> Denoiser:
        """An object with the guided ``denoiser``; each call costs two of the model."""
        return _GuidedDenoiser(self.model.given(label), self.model.given(None), w)


class _GuidedDenoiser:
    def __init__(self, conditional: Denoiser, unconditional: Denoiser, w: float | Tensor) -> None:
        self.conditional, self.unconditional, self.w = conditional, unconditional, w

    def denoiser(self, x: Tensor, t: float | Tensor) -> Tensor:
        whole = self.unconditional.denoiser(x, t)
        return whole + as_column(self.w, x) * (self.conditional.denoiser(x, t) - whole)


class ConditionalRun(Run):
    """A training run in which every trajectory has a class and a strength of guidance, drawn with it."""

    student: ConditionalCTM
    target: ConditionalCTM

    def __init__(
        self,
        student: ConditionalCTM,
        world: LabelledMixture,
        teacher: Conditional,
        steps: int,
        seed: int,
        recipe: Recipe,
        strengths: tuple[float, float],
        drop: float,
    ) -> None:
        super().__init__(student, world, None, steps, seed, recipe)
        self.world, self.conditional, self.strengths, self.drop = world, teacher, strengths, drop

    def _draw_labelled(self, n: int) -> tuple[Tensor, Tensor]:
        """Points with their classes; a share ``drop`` of the classes is hidden."""
        x0, label = self.world.sample_labelled(n, generator=self.generator)
        hidden = torch.rand(n, generator=self.generator) < self.drop
        return x0, label.masked_fill(hidden, NO_LABEL)

    def _loss(self) -> Tensor:
        recipe, generator = self.recipe, self.generator
        if self.pool is None or recipe.consistency is None:
            return self._dsm()
        if self.done % max(1, recipe.pool * recipe.reuse // recipe.batch) == 0:
            x0, self.label = self._draw_labelled(recipe.pool)
            low, high = self.strengths
            self.w = low + (high - low) * torch.rand(recipe.pool, generator=generator)
            teacher = self.conditional.given(self.label, self.w)
            route = Route(recipe.levels, recipe.continuous, teacher, STEPS[recipe.solver], recipe.substeps, self.limits)
            self.pool.refill(x0, route, generator)
        levels = draw_levels(recipe.batch, recipe.levels, recipe.consistency, recipe.from_noise, recipe.to_data, generator)
        row = torch.randint(recipe.pool, (recipe.batch,), generator=generator)
        student, target = (model.given(self.label[row], self.w[row]) for model in (self.student, self.target))
        return consistency_loss(student, target, self.pool.at(row, levels), recipe.compare)

    def _dsm(self) -> Tensor:
        x0, label = self._draw_labelled(self.recipe.batch)
        fraction = torch.rand((len(x0), *[1] * (x0.ndim - 1)), generator=self.generator)
        t = rho_time(fraction, *self.limits).clamp(*self.limits)
        return dsm_loss(self.student.given(label), x0, torch.randn(x0.shape, generator=self.generator), t)


def train_conditional(
    student: ConditionalCTM,
    world: LabelledMixture,
    teacher: Conditional | None = None,
    steps: int = 5000,
    seed: int = 0,
    recipe: Recipe | None = None,
    *,
    strengths: tuple[float, float] = (1.0, 1.0),
    drop: float = 0.0,
) -> History:
    r"""Train ``student`` in place on labelled data; it ends with the averaged weights.

    The guidance is in the teacher: each trajectory of the pool is that of :math:`D_w` for its own class and its own
    :math:`w`, and the student, told both, learns to jump along it. So one call of the student is one guided sample.

    Args:
        student: the model.
        world: where points and classes are drawn.
        teacher: anything with ``given(label, w)``: the world itself (if None), or :class:`Guided` over a learned model.
        steps, seed: as for :func:`ctm.training.train`.
        recipe: either consistency with a pool and no denoising score matching (the default), or the latter alone
            (``Recipe(consistency=None, dsm=1.0)``), which makes a conditional denoiser and needs no teacher.
        strengths: range of :math:`w`, drawn uniformly.
        drop: share of the labels hidden, so that the unconditional case is learned too.

    Raises:
        ValueError: an argument is out of range, or the recipe is of neither kind.
        FloatingPointError: the loss or the weights are not finite.
    """
    recipe = recipe or Recipe()
    if not isinstance(student, ConditionalCTM):
        raise TypeError(f"student must be a ConditionalCTM, got {type(student).__name__}")
    if not isinstance(world, LabelledMixture):
        raise TypeError(f"world must be a LabelledMixture, got {type(world).__name__}")
    if student.classes != world.classes:
        raise ValueError(f"student has {student.classes} classes, world {world.classes}")
    check_number(steps, "steps", 1, integer=True)
    check_number(drop, "drop", 0, 1)
    check_number(strengths[0], "strengths[0]", 0)
    check_number(strengths[1], "strengths[1]", strengths[0])
    if recipe.references or recipe.dsm_first or (recipe.consistency and (recipe.dsm or not recipe.pool)):
        raise ValueError("recipe must be consistency with a pool and dsm = 0, or dsm alone, and no references")
    run = ConditionalRun(student, world, teacher or world, steps, seed, recipe, strengths, drop)
    history = History()
    for done, loss in training_steps(run):
        history.step.append(done)
        history.loss.append(loss)
    run.check()
    student.load_state_dict(run.average.state_dict())
    return history
