"""What a term of the loss is: anything called with the models, a draw of data and a
generator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from ctm._checks import check_number, check_points, check_units
from ctm.conditional import given
from ctm.flow_map import Data
from ctm.models import CTM

Features = Callable[[Tensor], list[Tensor]]
"""Points ``(n, *data_shape)`` to tensors with n rows each, of numbers of unit variance."""


def check_features(features: object) -> None:
    """Raise TypeError unless they are a function, or None."""
    if not (features is None or callable(features)):
        raise TypeError(f"features must be callable, got {type(features).__name__}")


def teacher_for(student: CTM, teacher: Any, condition: Tensor | None) -> Any:
    """``teacher`` for this condition; raises ValueError unless it counts in the student's
    units. A plain denoiser names none."""
    if hasattr(teacher, "shift") and hasattr(teacher, "scale"):
        check_units(student, teacher, "teacher")
    return given(teacher, condition)


def check_teacher(teacher: object) -> None:
    """Raise TypeError unless it has a denoiser, or one for each condition."""
    if not any(callable(getattr(teacher, name, None)) for name in ("denoiser", "given")):
        kind = type(teacher).__name__
        raise TypeError(f"teacher must have a method denoiser or given, got {kind}")


class Objective(Protocol):
    """A term of the loss, or a whole loss: any function of this signature will do.

    It returns a scalar to be minimised. Points and their condition come from ``draw``, and
    everything random from ``rng``, so that a run can be repeated and resumed.
    """

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor: ...


class Models:
    r"""The models that a term may look at.

    Attributes:
        student: the model in training.
        average: the exponential moving average of its weights, which training ends with.
        step: how many steps are done.
        steps: how many there will be.
        first: in a sum of terms, the value of the first one without its weight, against
            which an adaptive weight is measured; None while that one is computed.
    """

    def __init__(self, student: CTM, steps: int, target_ema: float = 0.0) -> None:
        self.target_ema = check_number(target_ema, "target_ema", 0, 1 - 1e-6)
        self.student, self.steps = student, steps
        self.average, self._target = (
            copy.deepcopy(student).requires_grad_(False) for _ in range(2)
        )
        if torch.finfo(student.dtype).bits < 32:
            self.average.float()  # half precision would swallow what an average moves by
        # walking through the modules takes longer than moving their weights: done once
        self._moving = [_tensors(m) for m in (student, self.average, self._target)]
        self.step = 0
        self._held: int | None = None  # the step whose weights the target has
        self.first: Tensor | None = None

    @property
    def target(self) -> CTM:
        r"""The student held still, :math:`\mathrm{sg}`: an average of its weights with
        decay ``target_ema``, or its weights before the step where that is 0. Its weights
        need no gradient, and stay as they are until the step is made: several terms may
        learn through them."""
        if not self.target_ema and self._held != self.step:
            move_tensors(self._moving[2], self._moving[0], 0.0)
            self._held = self.step
        return self._target

    def update(self, ema: float) -> None:
        """Count a step and move the averages towards the student."""
        self.step += 1
        move_tensors(self._moving[1], self._moving[0], ramped(ema, self.step))
        if self.target_ema:
            decay = ramped(self.target_ema, self.step)
            move_tensors(self._moving[2], self._moving[0], decay)

    def resume(self, step: int) -> None:
        """Go on from ``step``, with the weights that the student now has."""
        self.step, self._held = step, None

    def modules(self) -> dict[str, CTM]:
        """The models that make up the state of a run."""
        modules = {"student": self.student, "average": self.average}
        return modules | {"target": self._target} if self.target_ema else modules


class Draw:
    """Clean points of the data, and their condition.

    ``draw(n)`` returns ``(points, condition)``: points ``(n, *data_shape)`` on the
    student's device, and what the student is told of each, a tensor with one row a point,
    or None where the data have no labels or the student takes no condition. ``draw()``
    draws ``batch`` points.
    """

    def __init__(self, data: Data, student: CTM, batch: int, rng: torch.Generator) -> None:
        self.data, self.batch, self.rng = data, batch, rng
        self.device = next(student.parameters()).device
        self.shape = student.shape
        self.conditional = hasattr(student, "given") and hasattr(data, "sample_labelled")

    def __call__(self, n: int | None = None) -> tuple[Tensor, Tensor | None]:
        return self._from("sample_conditioned", n)

    def clean(self, n: int | None = None) -> tuple[Tensor, Tensor | None]:
        """The same without strengths of guidance: points and the class each belongs to."""
        return self._from("sample_labelled", n)

    def references(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``n`` further clean points, and which of them belong to the class of which of the
        points with this ``condition``, a table of their numbers by ``n``; None: all."""
        points, others = self.clean(n)
        if condition is None or others is None:
            return points, None
        same = condition[:, None] == others
        return points, same.reshape(len(condition), n, -1).all(2)

    def _from(self, method: str, n: int | None) -> tuple[Tensor, Tensor | None]:
        n = self.batch if n is None else n
        condition = None
        if self.conditional:
            data: Any = self.data
            sample = getattr(data, method, None) or data.sample_labelled
            points, condition = sample(n, generator=self.rng)
            condition = torch.as_tensor(condition, device=self.device)
        else:
            points = self.data.sample(n, generator=self.rng)
        self.shape = tuple(check_points(points, "data.sample(n)", self.shape).shape[1:])
        if condition is not None and condition.shape[:1] != (n,):
            got = tuple(condition.shape)
            raise ValueError(f"data.{method}(n) must tell n = {n} labels, got shape {got}")
        if len(points) != n:
            raise ValueError(
                f"data.sample(n) must return n = {n} points, got {len(points)}"
            )
        fine = torch.promote_types(points.dtype, torch.float32)  # half would lose t - s
        return points.to(self.device, fine), condition


class Term:
    """A term of the loss, which adds and scales.

    A subclass gives ``__call__`` (:class:`Objective`), and overrides the other four where
    it carries a state of its own. A plain function has none.
    """

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def reset(self) -> None:
        """Forget what an earlier run left: asked for before the first step of another."""

    def state_dict(self) -> dict[str, Tensor]:
        """What must be kept for a run to go on, as named tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state_dict` gave; raises ValueError if it does not fit."""
        if state:
            raise ValueError(f"{self!r} has no state, got {sorted(state)[:4]}")

    def probe(self, student: CTM, x0: Tensor, condition: Tensor | None) -> list[float]:
        """Figures by which a resumed run knows what the term holds, such as its teacher."""
        return []

    def __repr__(self) -> str:
        fields = getattr(self, "__dataclass_fields__", ())
        names = [*fields, *signature(type(self)).parameters]
        settings = {name: getattr(self, name) for name in names if hasattr(self, name)}
        shown = [f"{k}={name_of(v)}" for k, v in settings.items() if not _is_model(v)]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __add__(self, other: Objective) -> Sum:
        return Sum(*_parts(self), *_parts(other))

    def __radd__(self, other: Objective) -> Sum:
        return Sum(*_parts(other), *_parts(self))

    def __mul__(self, weight: float) -> Sum:
        weight = check_number(weight, "weight", 0)
        return Sum(*((weight * own, term) for own, term in _parts(self)))

    __rmul__ = __mul__


class Function(Term):
    """A plain function as a term."""

    def __init__(self, function: Objective) -> None:
        if not callable(function):
            kind = type(function).__name__
            raise TypeError(f"objective must be callable, and so each term, got {kind}")
        self.function = function

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        return self.function(models, draw, rng)

    def __repr__(self) -> str:
        return name_of(self.function)


class Sum(Term):
    """Terms with their weights."""

    def __init__(self, *parts: tuple[float, Term]) -> None:
        self.weights, self.terms = zip(*parts, strict=True)

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        outer, models.first = models.first, None
        models.first = self.terms[0](models, draw, rng)
        total = self.weights[0] * models.first
        for weight, term in zip(self.weights[1:], self.terms[1:], strict=True):
            total = total + weight * term(models, draw, rng)
        models.first = outer
        return total

    def __repr__(self) -> str:
        pairs = zip(self.weights, self.terms, strict=True)
        return " + ".join(
            f"{w!r} * {term!r}" if w != 1 else repr(term) for w, term in pairs
        )

    def reset(self) -> None:
        for term in self.terms:
            term.reset()

    def state_dict(self) -> dict[str, Tensor]:
        states = enumerate(term.state_dict() for term in self.terms)
        return {f"{i}.{key}": value for i, state in states for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        parts: list[dict[str, Tensor]] = [{} for _ in self.terms]
        for key, value in state.items():
            index, _, name = key.partition(".")
            if not index.isdigit() or int(index) >= len(parts):
                raise ValueError(f"the sum has no term for the state {key}")
            parts[int(index)][name] = value
        for term, part in zip(self.terms, parts, strict=True):
            term.load_state_dict(part)

    def probe(self, student: CTM, x0: Tensor, condition: Tensor | None) -> list[float]:
        return [
            figure for term in self.terms for figure in term.probe(student, x0, condition)
        ]


def as_term(objective: Objective) -> Term:
    """``objective`` itself if it is a term, else a term that calls it."""
    return objective if isinstance(objective, Term) else Function(objective)


def adaptive_weight(main: Tensor, auxiliary: Tensor, last_layer: Tensor) -> Tensor:
    r""":math:`\lambda = |\nabla_{\theta_L} L_{main}| / |\nabla_{\theta_L} L_{aux}|` at the
    last layer's weights :math:`\theta_L`, with no gradient (Esser et al. 2021; Kim et al.
    2024)."""
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (main, auxiliary)
    ]
    return (norms[0] / norms[1].clamp_min(1e-12)).detach()


def check_first(models: Models) -> Tensor:
    """The value of the sum's first term; raises ValueError where that is not known yet."""
    if models.first is None:
        raise ValueError("adaptive must be False in a loss whose first term this is")
    return models.first


def balance(models: Models, loss: Tensor) -> Tensor:
    """:func:`adaptive_weight` of ``loss`` against the first term of the sum it stands
    in."""
    return adaptive_weight(check_first(models), loss, models.student.last_layer)


def ramped(decay: float, step: int) -> float:
    """``decay``, but no more than ``(1 + step) / (10 + step)``: a young average forgets its
    first weights quickly."""
    return min(decay, (1 + step) / (10 + step))


def move_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    r"""Exponential moving average of the weights,
    :math:`\bar\theta \leftarrow decay\,\bar\theta + (1 - decay)\,\theta`. Buffers, such as
    the running statistics of a batch norm, are copied."""
    move_tensors(_tensors(average), _tensors(model), decay)


Moving = tuple[list[Tensor], list[tuple[dict[str, Any], str]]]
"""The weights of a model, and where its buffers are: a module may replace those."""


@torch.no_grad()
def move_tensors(average: Moving, model: Moving, decay: float) -> None:
    """:func:`move_average` of tensors that are listed already."""
    weights, dtype = model[0], average[0][0].dtype
    if weights[0].dtype != dtype:
        weights = [own.to(dtype) for own in weights]
    torch._foreach_lerp_(average[0], weights, 1 - decay)
    if average[1]:
        places = zip(average[1], model[1], strict=True)
        pairs = [(held[name], own[name]) for (held, name), (own, _) in places]
        # a module may drop a buffer, or make it longer: a cache, of each model its own
        alike = [p for p in pairs if getattr(p[0], "shape", 0) == getattr(p[1], "shape", 1)]
        if alike:
            torch._foreach_copy_([held for held, _ in alike], [own for _, own in alike])


def _tensors(model: torch.nn.Module) -> Moving:
    buffers = [
        (module._buffers, name)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    return list(model.parameters()), buffers


def name_of(term: object) -> str:
    """A setting in words: its ``repr``, or the name of a function."""
    return getattr(term, "__qualname__", None) or repr(term)


def _is_model(value: object) -> bool:
    """Whether a setting is a model or a table of points, which are known again by what they
    say (:meth:`Term.probe`)."""
    return isinstance(value, Tensor) or any(
        hasattr(value, method) for method in ("denoiser", "given")
    )


def _parts(objective: Objective) -> list[tuple[float, Term]]:
    if isinstance(objective, Sum):
        return list(zip(objective.weights, objective.terms, strict=True))
    return [(1.0, as_term(objective))]
