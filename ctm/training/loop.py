"""Training: a generator that yields after every step, and the function that runs it to its
end."""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from ctm import checkpoints
from ctm._checks import check_number
from ctm.conditional import Guided, GuidedModel
from ctm.flow_map import Data
from ctm.losses import Consistency, Denoising, Objective
from ctm.models import CTM
from ctm.training.state import History, State


def training_steps(state: State) -> Iterator[tuple[int, float]]:
    """Train one step at a time, yielding ``(steps done, loss)`` after each."""
    while state.done < state.steps:
        loss = state.step()
        yield state.done, loss


def train(
    student: CTM,
    data: Data,
    objective: Objective | None = None,
    steps: int = 5000,
    seed: int = 0,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 1000,
    **options: Any,
) -> History:
    r"""Train ``student`` in place; it ends with the averaged weights.

    ::

        train(student, world, Consistency(teacher=world))  # an exact teacher
        train(model, data, Denoising())  # makes a learned one, which then is the teacher:
        train(student, data, Consistency(model) + 0.1 * Denoising())
        train(student, data)  # from scratch

    Args:
        student: the model.
        data: where clean points are drawn: a world, :class:`ctm.points.Points`, anything
            with ``sample(n, generator=...)``. Data with classes tell them to a conditional
            student.
        objective: the loss: terms of :mod:`ctm.losses`, their sum, or any function
            ``objective(models, draw, rng)``. None trains from scratch
            (:func:`from_scratch`).
        steps: updates of the weights.
        seed: seed of everything drawn in training. The same seed on the same machine gives
            the same weights.
        checkpoint: a file that holds the whole state. If it exists, training goes on from
            it and ends with the same weights, bit for bit, as if never stopped; more
            ``steps`` than before prolong it. It is written every ``save_every`` steps, at
            the end, and when training is interrupted. :func:`ctm.checkpoints.load` reads
            the averaged model from it.
        save_every: steps between two writings of ``checkpoint``.
        options: ``batch`` (320), points in a step; ``lr``, the peak learning rate of Adam,
            with linear warm-up over 2% of the steps, then half a cosine down to 0 (2e-3 for
            networks for images, 8e-3 for others); ``ema`` (.999), the decay of the average
            of the weights, ramped up from 0; ``target_ema`` (0), the decay of the average
            that makes the target's jumps, 0 for the current weights; ``optimizer``, a
            function of the weights that makes another optimiser than Adam, whose learning
            rate then is the peak.

    Returns:
        The loss over the steps. A student with dropout or batch norm is still in training
        mode: ``student.eval()`` before it is asked for samples.

    Raises:
        KeyboardInterrupt: passed on when the step under way is whole and ``checkpoint`` is
            written; the student then holds its average so far.
        FloatingPointError: the loss or the weights are not finite.
        TypeError, ValueError: an argument is not as said, or ``checkpoint`` belongs to
            another run: other data, teacher, settings, seed or first weights.
        OSError: ``checkpoint`` cannot be written; an older one is still whole.
    """
    save_every = check_number(save_every, "save_every", 1, integer=True)
    path = None if checkpoint is None else writable(Path(checkpoint))
    if objective is None:
        return from_scratch(
            student, data, steps, seed, checkpoint=path, save_every=save_every, **options
        )
    state = State(student, data, objective, steps, seed, **options)
    identity = {} if path is None else state.identity()
    history, losses, start = History(), list[float](), _sums(student.state_dict())
    if path is not None and path.exists():
        history, losses, start = _resume(state, path, identity)

    def save() -> None:
        state.check()
        if path is not None:
            tensors = state.state_dict()
            run = identity | {
                "done": state.done,
                "steps": state.steps,
                "history": vars(history),
                "losses": losses,
                "start": start,
                "tensors": len(tensors),
            }
            checkpoints.write(path, tensors, {"model": student.config, "run": run})

    every = max(1, steps // 200)
    started = time.perf_counter() - history.seconds
    bar = {"total": steps, "initial": state.done, "disable": not _watched(), "leave": False}
    try:
        with _interrupts_between_steps() as pressed:
            for done, loss in tqdm(training_steps(state), **bar):
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
        student.load_state_dict(state.models.average.state_dict())
    return history


def from_scratch(
    student: CTM,
    data: Data,
    steps: int = 5000,
    seed: int = 0,
    *,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> History:
    """Train without a teacher, in two calls of :func:`train`: half of the steps make a
    denoiser of the student; the rest distil it, with some denoising beside, which keeps it
    true. Strengths of guidance (:class:`ctm.conditional.Guided`) are learned from the
    denoiser with and without a class, for which some labels must be hidden.

    Arguments as for :func:`train`. Beside ``checkpoint`` the denoiser is kept, in a file of
    the same name that ends in ``.denoiser.safetensors``. A run that is prolonged keeps its
    denoiser: the further steps are of the second half.
    """
    steps = check_number(steps, "steps", 2, integer=True)
    guided = isinstance(data, Guided) and data.strengths != (1, 1)
    if guided and not getattr(data, "drop", 0):  # the case without a class is part of D_w
        raise ValueError("drop must be above 0 where strengths are learned, got 0")
    half, path, beside = steps // 2, None, None
    if checkpoint is not None:
        path = Path(checkpoint)
        beside = path.with_suffix(f".denoiser{path.suffix}")
        if path.exists() and beside.exists():
            tensors, run = read_run(beside)
            half = min(half, check_number(run.get("steps"), f"steps of {beside}", 1))
            so_far = _average(read_run(path)[0], student)
            if _same(_sums(so_far), _sums(student.state_dict())):  # not made anew
                student.load_state_dict(_average(tensors, student))
    first = train(student, data, Denoising(), half, seed, checkpoint=beside, **options)
    teacher: Any = copy.deepcopy(student).requires_grad_(False).eval()  # no dropout
    if guided:
        teacher = GuidedModel(teacher)
    objective = Consistency(teacher) + 0.1 * Denoising()
    rest = steps - half
    then = train(student, data, objective, rest, seed, checkpoint=path, **options)
    return History(
        first.step + [half + done for done in then.step],
        first.loss + then.loss,
        first.seconds + then.seconds,
    )


def _watched() -> bool:
    """Whether somebody sees a progress bar: in a terminal, or in a notebook that is open.

    ``TQDM_DISABLE``, which tqdm reads only where it is told nothing, keeps it out of stored
    outputs."""
    if os.environ.get("TQDM_DISABLE", "0") not in ("", "0"):
        return False
    shell = sys.modules.get("IPython")
    return sys.stderr.isatty() or (shell is not None and shell.get_ipython() is not None)


@contextmanager
def _interrupts_between_steps() -> Iterator[list[int]]:
    """Hold Ctrl-C back until the step under way is whole; the list is not empty once it was
    pressed."""
    pressed: list[int] = []
    elsewhere = threading.current_thread() is not threading.main_thread()
    # in the main thread alone can it be caught, and only if Python sees to it
    if elsewhere or signal.getsignal(signal.SIGINT) in (None, signal.SIG_IGN):
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def writable(path: Path) -> Path:
    """``path`` if a file can be made there, by the rights that this process has now: said
    before training, not after an hour of it."""
    if not path.parent.is_dir():
        raise ValueError(f"checkpoint must be a file in an existing folder, got {path}")
    if not os.access(
        path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        raise PermissionError(
            f"checkpoint must be in a folder that can be written to, got {path}"
        )
    return path


def _resume(
    state: State, path: Path, identity: dict[str, Any]
) -> tuple[History, list[float], list[float]]:
    tensors, run = read_run(path)
    check_same(run, identity, path)
    if isinstance(run.get("steps"), int) and state.steps < run["steps"]:
        raise ValueError(
            f"steps must be {run['steps']} or more for {path}, got {state.steps}"
        )
    # the student holds its first weights, or after an interruption the average
    own = _sums(state.models.student.state_dict())
    average = _sums(_average(tensors, state.models.student))
    if not (_same(run.get("start"), own) or _same(average, own)):
        raise ValueError(
            f"checkpoint {path} was written by a run that began with other weights than "
            "the student's; make the student with the same seed"
        )
    try:
        state.load_state_dict(tensors, run["done"])
        history, losses = History(**run["history"]), run["losses"]
        check_number(history.seconds, "history.seconds", 0)
        for name, values in (
            ("losses", losses),
            ("history.loss", history.loss),
            ("history.step", history.step),
        ):
            if not isinstance(values, list):
                raise TypeError(f"{name} must be a list, got {type(values).__name__}")
            for value in values:
                check_number(value, name)
        return history, losses, run["start"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error


def read_run(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts of a run."""
    tensors, header = checkpoints.read(path)
    if not isinstance(run := header.get("run"), dict):
        raise ValueError(f"checkpoint {path} holds no training run; is it a saved model?")
    if len(tensors) != (wanted := run.get("tensors", len(tensors))):
        got = f"it must hold {wanted} tensors, got {len(tensors)}"
        raise ValueError(f"checkpoint {path} is damaged: {got}")
    return tensors, run


def check_same(run: Mapping[str, Any], identity: dict[str, Any], path: Path) -> None:
    """Raise ValueError unless the file's ``run`` has the settings, data and teacher of
    ``identity`` (:meth:`ctm.training.State.identity`)."""
    for name, value in identity.items():
        if not _same(run.get(name), value):
            raise ValueError(
                f"checkpoint {path} was written with {name} = {run.get(name)}, "
                f"this run has {value}"
            )


def _average(tensors: Mapping[str, Tensor], student: CTM) -> dict[str, Tensor]:
    """The averaged weights in a run's file, as the student holds its own."""
    own = student.state_dict()
    held = checkpoints.average_of(tensors).items()
    return {key: value.to(own[key].dtype) for key, value in held if key in own}


def _sums(weights: Mapping[str, Tensor]) -> list[float]:
    """A figure of each tensor, by which a model is known again."""
    held = [value for _, value in sorted(weights.items()) if value.is_floating_point()]
    return [float(value.double().sum()) for value in held]  # indices add up to too much


def _same(held: Any, wanted: Any) -> bool:
    """Whether two facts agree; of figures, to what another processor's rounding may
    change."""
    if isinstance(wanted, list) and isinstance(held, list) and len(held) == len(wanted):
        size = max(map(abs, wanted), default=0.0)
        pairs = zip(held, wanted, strict=True)
        return all(isinstance(a, float) and abs(a - b) <= 1e-4 * size for a, b in pairs)
    return bool(held == wanted)
