"""The state of any optimiser as named tensors, so that a run can be saved and go on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of each weight, named ``<index of the weight>.<name>``.

    Raises:
        TypeError: the optimiser keeps something that is neither a tensor nor a number.
    """
    state = {}
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            if not isinstance(value, Tensor | int | float | None):
                kind = type(optimizer).__name__
                raise TypeError(
                    f"{kind} keeps {key} as {type(value).__name__}: not to be saved"
                )
            if value is not None:
                state[f"{index}.{key}"] = _tensor(value)
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that :func:`optimizer_state` gave.

    Raises:
        ValueError: a name or a shape is not one that this optimiser keeps.
    """
    kept = _after_a_step(optimizer)
    wanted = {key: tuple(_tensor(value).shape) for key, value in kept.items()}
    wrong = [key for key, value in state.items() if wanted.get(key) != tuple(value.shape)]
    if wrong:
        raise ValueError(
            f"the optimiser keeps no such state: {', '.join(sorted(wrong)[:4])}"
        )
    moments: dict[int, dict[str, Any]] = {}
    for key, value in state.items():
        index, _, name = key.partition(".")
        own = kept[key]  # a tensor, or a number of its kind
        plain = value if isinstance(own, Tensor) else type(own)(value.item())
        moments.setdefault(int(index), {})[name] = plain
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})


def _tensor(value: Tensor | float) -> Tensor:
    """A number as float64, which holds the counts too."""
    return (
        value
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=torch.float64, device="cpu")
    )


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a copy of the optimiser keeps once it has made a step: the only way to know."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for weights in group["params"]:
            weights.grad = torch.zeros_like(weights)
    trial.step()
    state = trial.state_dict()["state"]
    return {
        f"{i}.{key}": value
        for i, moments in state.items()
        for key, value in moments.items()
    }
