"""The state of a training run and its one step: all that must be kept for the run to go on
bit for bit."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ctm._checks import NonFiniteError, check_data, check_number, check_units, seeded
from ctm.flow_map import Data
from ctm.losses import Draw, Models, Objective, as_term
from ctm.models import CTM
from ctm.optimisers import load_optimizer, optimizer_state

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
PROBES = 64  # points of the data by which a resumed run knows them again
FIGURES = ("sigma_data", "sigma_min", "sigma_max", "center", "shift", "scale")


@dataclass
class History:
    """What a training run leaves behind: the mean loss of each stretch of steps, and the
    seconds they took."""

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0


class State:
    """A training run: models, optimiser, random state and the objective's own state.

    Arguments as for :func:`ctm.training.train`; :meth:`step` makes one update.

    Attributes:
        models: student, target and average (:class:`ctm.losses.Models`).
        draw: clean points and their condition (:class:`ctm.losses.Draw`).
        rng: the generator of everything drawn.
    """

    def __init__(
        self,
        student: CTM,
        data: Data,
        objective: Objective,
        steps: int,
        seed: int = 0,
        *,
        batch: int = 320,
        lr: float | None = None,
        ema: float = 0.999,
        target_ema: float = 0.0,
        optimizer: Optimizer | None = None,
    ) -> None:
        if not isinstance(student, CTM):
            raise TypeError(f"student must be a CTM, got {type(student).__name__}")
        check_data(data)
        check_units(student, data)
        weights = [part for part in student.parameters() if part.requires_grad]
        if not weights or not torch.is_grad_enabled():
            reason = (
                "all its weights are frozen" if not weights else "torch.no_grad is in force"
            )
            raise ValueError(
                f"student must have weights that take a gradient, but {reason}"
            )
        self.data, self.objective = data, as_term(objective)
        self.objective.reset()
        self.steps = check_number(steps, "steps", 1, integer=True)
        lr = getattr(student.network, "lr", 8e-3) if lr is None else lr
        self.lr = lr = check_number(lr, "lr", 0, above=True)
        self.ema = ema = check_number(ema, "ema", 0, 1 - 1e-6)
        batch = check_number(batch, "batch", 1, integer=True)
        self.models = Models(student, self.steps, target_ema)
        self.rng = seeded(seed)
        self.draw = Draw(data, student, batch, self.rng)
        if optimizer is None:
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                weights, lr, betas=(0.9, 0.99), fused=True
            )
        else:
            made: Any = optimizer(weights) if callable(optimizer) else None
            if not isinstance(made, torch.optim.Optimizer):
                raise TypeError(
                    "optimizer must be a function of the weights that makes an optimiser, "
                    f"got {optimizer!r:.80}"
                )
            self.optimizer = made
        facts = student.config
        own = facts["config"] or {}  # without the seed: the first weights are compared too
        facts = facts | {"config": {k: v for k, v in own.items() if k != "seed"}}
        facts |= _rounded(facts)
        self.settings = {
            "seed": self.rng.initial_seed(),
            "batch": batch,
            "lr": lr,
            "ema": ema,
            "target_ema": self.models.target_ema,
            "optimizer": _lasting(self.optimizer),
            "objective": _lasting(self.objective),
            "student": _lasting(f"{student} {facts}"),
        }
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def done(self) -> int:
        """How many steps are done."""
        return self.models.step

    def step(self) -> float:
        """One update of the weights; returns the loss before it.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        loss = self.loss()
        for group in self.optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = None  # as zero_grad does, without its profiler's hooks
        loss.backward()
        self.update()
        return loss.item()

    def loss(self) -> Tensor:
        """The loss on a new batch, a scalar whose gradient is still to be found.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        try:
            with _autocast_without_cache(self.draw.device.type):
                loss = self.objective(self.models, self.draw, self.rng)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise TypeError(f"objective must return a scalar tensor, got {got}")
            value = loss.item()
        except NonFiniteError:  # points on their way through the loss
            value = math.nan
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {self.done} (lr {self.lr:g}, batch "
                f"{self.draw.batch}): the weights have diverged or the data hold NaN; try "
                "a smaller lr, and check what data.sample returns"
            )
        if not loss.requires_grad:
            raise ValueError(
                "objective must return a loss that depends on the student's weights"
            )
        return loss

    def update(self) -> None:
        """Move the weights by the gradient they hold, at the rate of this step, and the
        averages towards them."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate(self.done, self.steps)
        self.optimizer.step()
        self.models.update(self.ema)

    def check(self) -> None:
        """Raise FloatingPointError if the last update left weights that are not finite."""
        if not all(
            bool(part.isfinite().all()) for part in self.models.average.parameters()
        ):
            raise FloatingPointError(
                f"the weights are not finite after step {self.done}; try a smaller lr"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """All state as named tensors."""
        state = {"generator": self.rng.get_state()}
        for name, module in self.models.modules().items():
            state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        state |= {
            f"optimizer.{key}": v for key, v in optimizer_state(self.optimizer).items()
        }
        return state | {
            f"objective.{key}": v for key, v in self.objective.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor], done: int) -> None:
        """Take up the state that :meth:`state_dict` gave after ``done`` steps.

        Raises:
            ValueError: a tensor is missing, or another one there, or one has another shape
                or is not finite.
        """
        done = check_number(done, "done", 0, self.steps, integer=True)
        groups: dict[str, dict[str, Tensor]] = {"optimizer": {}, "objective": {}}
        for key, value in state.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise ValueError(f"{key} is not finite")
            group, _, name = key.partition(".")
            device = "cpu" if group == "generator" else self.draw.device
            # copied: what a file gave may still lie in that file
            groups.setdefault(group, {})[name] = value.to(device, copy=True)
        modules = self.models.modules()
        names = {"generator", "optimizer", "objective", *modules}
        if groups.keys() != names:
            raise ValueError(f"the state must have {sorted(names)}, got {sorted(groups)}")
        try:
            for name, module in modules.items():
                module.load_state_dict(groups[name])
            load_optimizer(self.optimizer, groups["optimizer"])
            self.objective.load_state_dict(groups["objective"])
            self.rng.set_state(groups["generator"][""])
        except (RuntimeError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"the state is not that of this run: {error}") from error
        self.models.resume(done)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one that was saved.

        Raises:
            ValueError: the data do not give the same points for the same generator.
        """
        first, again = (
            Draw(self.data, self.models.student, 1, seeded(0)) for _ in range(2)
        )
        points, condition = first(PROBES)
        if not torch.equal(points, again(PROBES)[0]):
            raise ValueError(
                "data.sample must give the same points for the same generator, or a run "
                "cannot be resumed: draw with the generator it is given"
            )
        parts = [points] if condition is None else [points, condition]
        digest = hashlib.sha256(
            b"".join(part.detach().cpu().contiguous().numpy().tobytes() for part in parts)
        )
        return self.settings | {
            "data": f"{tuple(points.shape[1:])} {digest.hexdigest()[:16]}",
            "teacher": self.objective.probe(self.models.student, points, condition),
        }


def _rounded(facts: dict[str, Any]) -> dict[str, Any]:
    """A model's figures to six decimals, the shift in units of the scale: their last digits
    change with the number of threads that added the data up."""
    numbers = (torch.tensor(facts[k], dtype=torch.float64, device="cpu") for k in FIGURES)
    found = dict(zip(FIGURES, numbers, strict=True))
    found["shift"] = found["shift"] / found["scale"]
    for name in ("sigma_data", "sigma_min", "sigma_max", "scale"):
        found[name] = found[name].log()
    # 0.0 is added for the sign of a zero
    return {name: (v.round(decimals=6) + 0.0).tolist() for name, v in found.items()}


def _autocast_without_cache(device: str) -> AbstractContextManager[Any]:
    """The autocast that is in force, but without its copies of the weights: it keeps them
    until its block ends, and here the weights change at every step."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False)


def _lasting(thing: object) -> str:
    """What a thing says of itself, but for where it lies in memory: another in each
    process."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", str(thing))


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at ``step`` of ``steps``: linear warm-up over 2%,
    then half a cosine down to 0."""
    return (
        min(1.0, (step + 1) / (0.02 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
