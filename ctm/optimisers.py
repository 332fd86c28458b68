"""The state of any optimiser as named tensors, so that a run can be saved and go on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of each weight, named ``<index of the weight>.<name>``, and what else the
    optimiser counts, ``group<index of the group>.<name>``.

    Raises:
        TypeError: the optimiser keeps something that is neither a tensor nor a number.
    """
    state = {}
    for key, value in _kept(optimizer).items():
        if not isinstance(value, Tensor | int | float | None):
            kind = type(optimizer).__name__
            raise TypeError(
                f"{kind} keeps {key} as {type(value).__name__}: not to be saved"
            )
        group, _, name = key.partition(".")
        plain = group.startswith("group") and not isinstance(value, Tensor)
        if value is not None and not (plain and value == optimizer.defaults.get(name)):
            state[key] = _tensor(value)
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that :func:`optimizer_state` gave.

    Raises:
        ValueError: a name or a shape is not one that this optimiser keeps.
    """
    kept = _after_a_step(optimizer)
    wanted = {
        key: tuple(_tensor(value).shape) for key, value in kept.items() if value is not None
    }
    wrong = [key for key, value in state.items() if wanted.get(key) != tuple(value.shape)]
    if wrong:
        raise ValueError(
            f"the optimiser keeps no such state: {', '.join(sorted(wrong)[:4])}"
        )
    held = optimizer.state_dict()
    moments: dict[int, dict[str, Any]] = {}
    for key, value in state.items():
        index, _, name = key.partition(".")
        own = kept[key]  # a tensor, or a number of its kind
        plain = value if isinstance(own, Tensor) else type(own)(value.item())
        if index.startswith("group"):
            held["param_groups"][int(index[5:])][name] = plain
        else:
            moments.setdefault(int(index), {})[name] = plain
    optimizer.load_state_dict(held | {"state": moments})


def _tensor(value: Tensor | float) -> Tensor:
    """A number as float64, which holds the counts too."""
    return (
        value
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=torch.float64, device="cpu")
    )


def _kept(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimiser keeps of each weight, and the numbers of each group of weights but
    for its rate, which follows the schedule."""
    held = optimizer.state_dict()
    kept = {f"{i}.{k}": v for i, own in held["state"].items() for k, v in own.items()}
    return kept | {
        f"group{i}.{k}": v
        for i, group in enumerate(held["param_groups"])
        for k, v in group.items()
        if isinstance(v, Tensor | int | float) and k not in ("lr", "initial_lr")
    }


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a copy of the optimiser keeps once it has made a step: the only way to know."""
    # not deepcopy(optimizer): PyTorch leaves out what an optimiser has of its own
    trial = object.__new__(type(optimizer))
    trial.__dict__ = copy.deepcopy(optimizer.__dict__, {id(optimizer): trial})
    for group in trial.param_groups:
        for weights in group["params"]:
            weights.grad = torch.ones_like(weights)
    type(trial).step(trial)  # a schedule's own step, in the copy too, moves the original
    return _kept(trial)
