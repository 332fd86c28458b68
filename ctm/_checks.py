"""Checks of arguments: each raises an error that names the argument, what was given and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """Points that are NaN or infinite."""


SLACK = 1e-6  # relative room for float32 rounding when a time is compared with a limit
MOST = 10**9  # of anything that is counted
LARGEST = 1e100  # of a point or a time: its square is still a float64


def check_points(x: Any, name: str = "x", shape: torch.Size | tuple[int, ...] | None = None) -> Tensor:
    """Return ``x`` if it is a finite floating tensor ``(n, *shape)``; raise TypeError or ValueError otherwise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating point numbers, got dtype {x.dtype}")
    check_held(x, name)
    if x.ndim < 2 or not x.numel():
        raise ValueError(f"{name} must have shape (n, *data_shape), n >= 1, at least one data axis; got {tuple(x.shape)}")
    if shape is not None and tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"{name} must have shape (n, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
    lowest, highest = (float(end) for end in x.detach().aminmax())  # NaN if any number is
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise NonFiniteError(f"{name} must be finite, got {int((~torch.isfinite(x)).sum())} NaN or infinite values")
    if max(-lowest, highest) > LARGEST:
        raise ValueError(f"{name} must hold numbers up to {LARGEST:g}, got {max(-lowest, highest):g}")
    return x


def check_held(x: Tensor, name: str) -> None:
    """Raise ValueError unless the numbers of ``x`` are there, in a dense table."""
    if x.is_meta or x.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor that holds its numbers, got {x.layout} on {x.device}")


def check_times(
    t: Any, x: Tensor, name: str = "t", low: float = 0.0, high: float = LARGEST, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the noise level ``t`` as a tensor that broadcasts against ``x``: shape ``(1, 1, ...)`` or ``(n, 1, ...)``.

    ``t`` is a number, a tensor of one number, or one number per sample, each within ``[low, high]``.
    """
    if isinstance(t, bool) or not isinstance(t, int | float | Tensor):
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(t).__name__}")
    if isinstance(t, Tensor):
        check_held(t, name)
        if t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"{name} must hold real numbers, got dtype {t.dtype}")
    times = torch.as_tensor(t, dtype=dtype or x.dtype, device=x.device)
    if times.numel() == 1:
        times = times.reshape(1)
    if times.ndim == 0 or times.numel() != times.shape[0] or times.shape[0] not in (1, x.shape[0]):
        raise ValueError(f"{name} must be one number or one per sample ({x.shape[0]}), got shape {tuple(times.shape)}")
    if times.numel():
        lowest, highest = times.min().item(), times.max().item()
        # A comparison with NaN is false, so NaN fails here too.
        if not (low * (1 - SLACK) <= lowest and highest <= high * (1 + SLACK) and math.isfinite(highest)):
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got values from {lowest:g} to {highest:g}")
    return times.reshape(-1, *[1] * (x.ndim - 1))


def check_order(later: Tensor, earlier: Tensor, names: tuple[str, str] = ("s", "t")) -> None:
    """Raise ValueError unless ``earlier <= later`` sample by sample: time runs down, from noise to data."""
    if bool((earlier > later * (1 + SLACK)).any()):
        low, high = names
        worst = int((earlier - later).flatten().argmax())
        pair = [times.flatten()[min(worst, times.numel() - 1)].item() for times in (earlier, later)]
        raise ValueError(f"{low} must not exceed {high} (time runs down), got {low} = {pair[0]:g} > {high} = {pair[1]:g}")


def check_schedule(times: Any, name: str = "times") -> list[float]:
    """Return ``times`` as a list of at least two finite, non-negative and strictly decreasing numbers."""
    try:
        if isinstance(times, str):
            raise TypeError("text")
        values = [float(value) for value in times]
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a sequence of numbers, got {times!r}") from error
    if len(values) < 2:
        raise ValueError(f"{name} must hold at least two noise levels, got {len(values)}")
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"{name} must be finite and not negative, got {values}")
    if any(later <= earlier for later, earlier in zip(values, values[1:], strict=False)):
        raise ValueError(f"{name} must strictly decrease (time runs down, from noise to data), got {values}")
    return values


def check_number(
    value: Any, name: str, low: float = -math.inf, high: float = math.inf, *, integer: bool = False, above: bool = False
) -> Any:
    """Return ``value``; raise unless it is a finite number in ``[low, high]`` (``(low, high]`` with ``above``)."""
    if hasattr(value, "item") and not isinstance(value, bool):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
        raise TypeError(f"{name} must be {'an integer' if integer else 'a number'}, got {value!r}")
    high = min(high, MOST) if integer and high == math.inf else high
    if not ((isinstance(value, int) or math.isfinite(value)) and (low < value if above else low <= value) and value <= high):
        bracket = "(" if above else "["
        raise ValueError(f"{name} must lie in {bracket}{low:g}, {high:g}], got {value!r}")
    return value


def check_choice(value: Any, name: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {sorted(allowed)}, got {value!r}")


def seeded(seed: Any) -> torch.Generator:
    """A generator with this seed, after checking it."""
    check_number(seed, "seed", 0, 2**63 - 1, integer=True)
    return torch.Generator().manual_seed(seed)
