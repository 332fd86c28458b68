"""Training: a generator that yields after every step, and the functions that run it to its end."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ctm import checkpoints
from ctm._checks import check_number
from ctm.models import CTM
from ctm.pairs import Data
from ctm.recipe import DENOISER, SCRATCH, Recipe
from ctm.run import Run
from ctm.solvers import Denoiser


@dataclass
class History:
    """What a training run leaves behind: the mean loss of each stretch of steps, and the seconds they took."""

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0


def training_steps(run: Run) -> Iterator[tuple[int, float]]:
    """Train one step at a time, yielding ``(steps done, loss)`` after each."""
    while run.done < run.steps:
        loss = run.step()
        yield run.done, loss


def train(
    student: CTM,
    data: Data,
    teacher: Denoiser | None = None,
    steps: int = 5000,
    seed: int = 0,
    recipe: Recipe | None = None,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 1000,
) -> History:
    r"""Train ``student`` in place; it ends with the averaged weights.

    Args:
        student: the model.
        data: where :math:`x_0` is drawn, for instance a world.
        teacher: anything with a ``denoiser``: an exact world, a learned denoiser, another CTM. None trains from scratch:
            the student's own averaged denoiser is the teacher.
        steps: updates of the weights.
        seed: seed of everything drawn in training. The same seed on the same machine gives the same weights.
        recipe: the choices (:class:`ctm.recipe.Recipe`); if None, the default with a teacher, ``ctm.recipe.SCRATCH``
            without.
        checkpoint: a file that holds the whole state. If it exists, training goes on from it and ends with the same
            weights, bit for bit, as if never stopped; it is written every ``save_every`` steps, at the end, and when
            training is interrupted.
        save_every: steps between two writings of ``checkpoint``.

    Returns:
        The loss over the steps.

    Raises:
        KeyboardInterrupt: passed on when the step under way is whole and ``checkpoint`` is written; the student then holds
            its average so far.
        FloatingPointError: the loss or the weights are not finite.
        ValueError: ``checkpoint`` belongs to another run, or an argument is out of range.
        OSError: ``checkpoint`` cannot be written (a full disk, a read-only folder); an older one is still whole.
    """
    check_number(steps, "steps", 1, integer=True)
    check_number(save_every, "save_every", 1, integer=True)
    recipe = recipe or (SCRATCH if teacher is None else Recipe())
    for name, value, kind in (("student", student, CTM), ("recipe", recipe, Recipe)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    if not callable(getattr(data, "sample", None)):
        raise TypeError(f"data must have a method sample, got {type(data).__name__}")
    if teacher is not None and not callable(getattr(teacher, "denoiser", None)):
        raise TypeError(f"teacher must have a method denoiser, got {type(teacher).__name__}")
    if teacher is None and not recipe.dsm and not recipe.dsm_first:
        raise ValueError("recipe.dsm must be above 0 without a teacher: nothing else brings in the data")
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"checkpoint must be a file in an existing folder, got {path}")
    if path is not None and not _may_write(path.parent):  # said now, not at the end of an hour's training
        raise PermissionError(f"checkpoint must be in a folder that can be written to, got {path}")
    run = Run(student, data, teacher, steps, seed, recipe)
    identity = {
        "steps": steps,
        "seed": seed,
        "recipe": asdict(recipe),
        "student": [str(student), student.sigma_data, student.sigma_min, student.sigma_max],
        "data": _fingerprint(data),
        "teacher": _fingerprint(teacher),
    }
    history = History()
    losses: list[float] = []
    if path is not None and path.exists():
        history, losses = _resume(run, path, identity)

    def save() -> None:
        run.check()
        if path is not None:
            card = {**identity, "done": run.done, "history": vars(history), "losses": losses}
            checkpoints.write(path, run.tensors(), card)

    every = max(1, steps // 200)
    started = time.perf_counter() - history.seconds
    try:
        with _interrupts_between_steps() as pressed:
            for done, loss in tqdm(training_steps(run), total=steps, initial=run.done, disable=None, leave=False):
                losses.append(loss)
                history.seconds = time.perf_counter() - started
                if done % every == 0 or done == steps:
                    history.step.append(done)
                    history.loss.append(sum(losses) / len(losses))
                    losses.clear()
                if done % save_every == 0 or done == steps:
                    save()
                if pressed:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        save()
        raise
    finally:
        student.load_state_dict(run.average.state_dict())
    return history


@contextmanager
def _interrupts_between_steps() -> Iterator[list[int]]:
    """Hold Ctrl-C back until the step under way is whole; the list is not empty once it was pressed."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can signals be caught
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _may_write(folder: Path) -> bool:
    """Whether this process may make files there, by the rights that it has now where the system can tell."""
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _fingerprint(thing: object) -> str | None:
    """The type of ``thing`` and a digest of its tensors: enough to tell two worlds or two models apart."""
    if thing is None:
        return None
    tensors = thing.state_dict() if isinstance(thing, torch.nn.Module) else getattr(thing, "__dict__", {})
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if isinstance(value, Tensor):
            digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return f"{type(thing).__name__} {digest.hexdigest()[:16]}"


def _resume(run: Run, path: Path, identity: dict[str, object]) -> tuple[History, list[float]]:
    state, card = checkpoints.read(path)
    for name, value in identity.items():
        if card.get(name) != value:
            raise ValueError(f"checkpoint {path} was written with {name} = {card.get(name)}, this run has {value}")
    try:
        run.restore(state, card["done"])
        history, losses = History(**card["history"]), card["losses"]
        check_number(history.seconds, "history.seconds", 0)
        for name, values in (("losses", losses), ("history.loss", history.loss), ("history.step", history.step)):
            if not isinstance(values, list):
                raise TypeError(f"{name} must be a list, got {type(values).__name__}")
            for value in values:
                check_number(value, name)
        return history, losses
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error


def train_denoiser(
    model: CTM, data: Data, steps: int = 5000, seed: int = 0, recipe: Recipe = DENOISER, **options: Any
) -> History:
    r"""Train only :math:`g(x, t, t)`, by denoising score matching: ``model`` becomes an EDM denoiser, a learned teacher.

    Takes the options of :func:`train`.
    """
    return train(model, data, steps=steps, seed=seed, recipe=recipe, **options)
