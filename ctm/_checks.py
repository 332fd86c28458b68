"""Checks of arguments: each raises an error that names the argument, what was given and
what is allowed. Values are not looked at where there are none: under ``torch.compile`` and
``vmap``."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


class NonFiniteError(ValueError):
    """Points that are NaN or infinite."""


SLACK = 1e-6  # relative room for rounding when a time is compared with a limit
MOST = 10**9  # of anything that is counted
LARGEST = 1e100  # of a point or a time: its square is still a float64


def check_points(x: Any, name: str = "x", shape: tuple[int, ...] | None = None) -> Tensor:
    """Return ``x`` if it is a finite floating tensor ``(n, *shape)``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating point numbers, got dtype {x.dtype}")
    check_held(x, name)
    if x.ndim < 2 or not x.numel() or (shape is not None and x.shape[1:] != tuple(shape)):
        wanted = "*data_shape" if shape is None else ", ".join(map(str, shape))
        raise ValueError(
            f"{name} must have shape (n, {wanted}), n >= 1, got {tuple(x.shape)}"
        )
    read = _read(torch.linalg.vector_norm(x.detach()))  # one pass; NaN if any number is
    if read and not read[0] <= LARGEST:  # or a square was too large: look closer
        if wrong := int((~torch.isfinite(x)).sum()):
            raise NonFiniteError(
                f"{name} must be finite, got {wrong} NaN or infinite values"
            )
        if (top := float(x.detach().abs().max())) > LARGEST:
            raise ValueError(f"{name} must hold numbers up to {LARGEST:g}, got {top:g}")
    return x


def check_held(x: Tensor, name: str) -> None:
    """Raise ValueError unless the numbers of ``x`` are there, in a dense table."""
    if x.is_meta or x.layout != torch.strided:
        raise ValueError(
            f"{name} must be a dense tensor with numbers, got {x.layout}, {x.device}"
        )


def check_times(
    t: Any,
    x: Tensor,
    name: str = "t",
    low: float = 0.0,
    high: float = LARGEST,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The noise level ``t`` as a column that broadcasts against ``x``: one number or one
    for each sample, each within ``[low, high]`` as it was given, and only then rounded to
    x's dtype."""
    if isinstance(t, np.ndarray) and t.dtype.kind in "iuf" and not np.ma.isMaskedArray(t):
        t = torch.from_numpy(t.astype("f8"))  # a copy: flipped and big-endian tables too
    if isinstance(t, bool) or not isinstance(t, float | int | Real | Tensor):
        raise TypeError(
            f"{name} must be a number or a torch.Tensor, got {type(t).__name__}"
        )
    slack, ends = SLACK, None
    if not isinstance(t, Tensor):
        t = float(t)
        ends = [t, t]
    else:
        check_held(t, name)
        if t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"{name} must hold real numbers, got dtype {t.dtype}")
        n = x.shape[0]
        if t.numel() not in (1, n) or (t.numel() > 1 and t.shape[0] != n):
            got = f"one per sample ({n}), got shape {tuple(t.shape)}"
            raise ValueError(f"{name} must be one number or {got}")
        if t.is_floating_point():
            slack = max(slack, torch.finfo(t.dtype).eps)  # bfloat16 has three digits
        ends = _read(*t.detach().aminmax())
    if ends and not (
        low * (1 - slack) <= ends[0] and ends[1] <= high * (1 + slack)
    ):  # or NaN
        got = f"values from {ends[0]:g} to {ends[1]:g}"
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {got}")
    if isinstance(t, Tensor):
        return t.to(x.device, dtype or x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return x.new_full((1,) * x.ndim, t, dtype=dtype)


def check_order(t: Tensor, s: Tensor, names: tuple[str, str] = ("t", "s")) -> None:
    """Raise ValueError unless ``s <= t`` sample by sample: time runs down, from noise to
    data."""
    over = torch.sub(s, t, alpha=1 + SLACK).detach()
    worst = _read(over.max())
    if worst and worst[0] > 0:
        at = int(over.argmax())  # of the flattened table
        late, early = (float(time.flatten()[at % time.numel()]) for time in (t, s))
        got = f"got {names[1]} = {early:g} > {names[0]} = {late:g}"
        raise ValueError(f"{names[1]} must not exceed {names[0]} (time runs down), {got}")


def check_jump(
    x: Any,
    t: Any,
    s: Any,
    low: float = 0.0,
    high: float = LARGEST,
    shape: tuple[int, ...] | None = None,
) -> tuple[Tensor, Tensor]:
    """All checks of a jump from ``t`` to ``s``; returns both as columns. Numbers are
    compared before they become tensors, so that they cost no wait for the device."""
    check_points(x, "x", shape)
    columns = check_times(t, x, "t", low, high), check_times(s, x, "s", low, high)
    if isinstance(t, Tensor) or isinstance(s, Tensor) or s > t * (1 + SLACK):
        check_order(*columns)
    return columns


def check_schedule(times: Any, name: str = "times") -> list[float]:
    """``times`` as a list of at least two finite, not negative, strictly decreasing
    numbers."""
    try:
        values = times.tolist() if isinstance(times, Tensor) else list(times)
        values = [check_number(value, name) for value in values]
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a sequence of numbers, got {type(times)}"
        ) from error
    if len(values) < 2:
        raise ValueError(f"{name} must hold at least two noise levels, got {len(values)}")
    if min(values) < 0:
        raise ValueError(f"{name} must be finite and not negative, got {values}")
    if any(later <= earlier for later, earlier in zip(values, values[1:], strict=False)):
        raise ValueError(f"{name} must strictly decrease (time runs down), got {values}")
    return values


def check_number(
    value: Any,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    integer: bool = False,
    above: bool = False,
) -> Any:
    """``value`` as Python's own number, finite and in ``[low, high]`` (``(low, high]`` with
    ``above``). Numbers of NumPy and tensors of one number are taken too."""
    plain: Any = value
    kind: Any = Integral if integer else Real
    one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta
    if one or isinstance(value, np.generic):
        plain = value.item()
    if isinstance(plain, bool) or not isinstance(plain, kind):
        raise TypeError(
            f"{name} must be {'an integer' if integer else 'a number'}, got {value!r}"
        )
    high = min(high, MOST) if integer and high == math.inf else high
    lowest = low < plain if above else low <= plain
    if not (lowest and plain <= high and (isinstance(plain, int) or math.isfinite(plain))):
        bracket = "(" if above else "["
        raise ValueError(f"{name} must lie in {bracket}{low:g}, {high:g}], got {plain!r}")
    return plain


def check_choice(value: Any, name: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {sorted(allowed)}, got {value!r}")


def seeded(seed: Any) -> torch.Generator:
    """A generator with this seed, after checking it."""
    seed = check_number(seed, "seed", 0, 2**63 - 1, integer=True)
    return torch.Generator(device="cpu").manual_seed(seed)


def _read(*values: Tensor) -> list[float] | None:
    """The numbers in tensors of one number, in one wait; None where there are none to
    read."""
    if torch.compiler.is_compiling() or is_functorch_wrapped_tensor(values[0]):
        return None
    here = values[0].is_cpu  # where nothing is gained by collecting them first
    return [value.item() for value in values] if here else torch.stack(values).tolist()
