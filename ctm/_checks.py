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
Shape = tuple[int, ...] | None


def check_points(x: Any, name: str = "x", shape: Shape = None) -> Tensor:
    """Return ``x`` if it is a finite floating tensor ``(n, *shape)``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating point numbers, got dtype {x.dtype}")
    check_held(x, name)
    if x.ndim < 2 or not x.numel() or (shape is not None and x.shape[1:] != shape):
        wanted = "*data_shape" if shape is None else ", ".join(map(str, shape))
        got = f"n >= 1, got {tuple(x.shape)}"
        raise ValueError(f"{name} must have shape (n, {wanted}), {got}")
    held = x.detach() if x.requires_grad else x
    read = _read(torch.linalg.vector_norm(held))  # one pass; NaN if any number is
    if read and not read[0] <= LARGEST:  # or a square was too large: look closer
        if wrong := int((~torch.isfinite(x)).sum()):
            got = f"got {wrong} NaN or infinite values"
            raise NonFiniteError(f"{name} must be finite, {got}")
        if (top := float(x.detach().abs().max())) > LARGEST:
            raise ValueError(f"{name} must hold numbers up to {LARGEST:g}, got {top:g}")
    return x


def check_held(x: Tensor, name: str) -> None:
    """Raise ValueError unless the numbers of ``x`` are there, in a dense table."""
    if x.is_meta or x.layout != torch.strided:
        got = f"got {x.layout}, {x.device}"
        raise ValueError(f"{name} must be a dense tensor with numbers, {got}")


def check_times(
    t: Any, x: Tensor, name: str = "t", low: float = 0.0, high: float = LARGEST
) -> Tensor:
    """The noise level ``t`` as a column that broadcasts against ``x``: one number or one
    for each sample, each within ``[low, high]`` as it was given, and only then rounded to
    x's dtype."""
    t, column = _column(t, x, name, low, high)
    _check_range(t, name, low, high)
    return column


def check_jump(
    x: Any, t: Any, s: Any, low: float = 0.0, high: float = LARGEST, shape: Shape = None
) -> tuple[Tensor, Tensor]:
    """All checks of a jump from ``t`` to ``s <= t`` (time runs down); returns both as
    columns. Three numbers show that all is well; only where not is each time looked at."""
    check_points(x, "x", shape)
    if type(t) is type(s) is float and low <= s <= t <= high:  # the usual case, soon told
        return x.new_full((1,) * x.ndim, t), x.new_full((1,) * x.ndim, s)
    (t, start), (s, end) = (
        _column(*pair, low, high) for pair in ((t, x, "t"), (s, x, "s"))
    )
    if isinstance(t, Tensor) or isinstance(s, Tensor):
        read = _read((end - start).max(), start.max(), end.min())
    else:
        read = [s - t, t, s]
    if read and not (read[0] <= 0 and read[1] <= high and low <= read[2]):
        _check_range(t, "t", low, high)
        _check_range(s, "s", low, high)
        late, early = torch.broadcast_tensors(start.detach(), end.detach())
        at = torch.sub(early, late, alpha=1 + SLACK).argmax()
        late, early = late.flatten()[at], early.flatten()[at]
        if early > late * (1 + SLACK):
            got = f"got s = {early:g} > t = {late:g}"
            raise ValueError(f"s must not exceed t (time runs down), {got}")
    return start, end


def check_schedule(times: Any, name: str = "times") -> list[float]:
    """``times`` as a list of at least two finite, not negative, strictly decreasing
    numbers."""
    try:
        values = times.tolist() if isinstance(times, Tensor) else list(times)
        values = [check_number(value, name) for value in values]
    except (TypeError, RuntimeError) as error:
        message = f"{name} must be a sequence of numbers, got {type(times)}"
        raise TypeError(message) from error
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
    one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta
    plain: Any = value.item() if one or isinstance(value, np.generic) else value
    kind: Any = Integral if integer else Real
    if isinstance(plain, bool) or not isinstance(plain, kind):
        wanted = "an integer" if integer else "a number"
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    high = min(high, MOST) if integer and high == math.inf else high
    lowest = low < plain if above else low <= plain
    if not (lowest and plain <= high and (isinstance(plain, int) or math.isfinite(plain))):
        bracket = "(" if above else "["
        raise ValueError(f"{name} must lie in {bracket}{low:g}, {high:g}], got {plain!r}")
    return plain


def check_data(data: Any) -> None:
    """Raise TypeError unless ``data`` can be drawn from. A data frame's own ``sample`` is
    another."""
    if not callable(getattr(data, "sample", None)) or hasattr(data, "__array__"):
        raise TypeError(
            f"data must have a method sample, got {type(data).__name__}; tables and images "
            "become data by ctm.data.Points"
        )


def check_units(model: Any, data: Any, name: str = "data") -> None:
    """Raise ValueError unless model and data count in the same units, ``x = shift + scale
    * z``, up to a thousandth of a standard deviation; who names none has 0 and 1."""
    (shift, scale), (own_shift, own_scale) = (
        [
            torch.as_tensor(getattr(each, name, plain), dtype=torch.float64, device="cpu")
            for name, plain in (("shift", 0.0), ("scale", 1.0))
        ]
        for each in (model, data)
    )
    if shift.numel() > 1 and own_shift.numel() not in (1, shift.numel()):
        return  # other points altogether, which the check of shapes tells
    apart = torch.maximum((own_shift - shift).abs() / scale, (own_scale / scale - 1).abs())
    if float(apart.max()) > 1e-3:
        got = f"x = {_short(own_shift)} + {_short(own_scale)} z"
        raise ValueError(
            f"{name} must be in the model's units, x = {_short(shift)} + {_short(scale)} "
            f"z, got {got}: make the model with CTM.for_data, name its shift and scale, or "
            "give points in its units"
        )


def _short(values: Tensor) -> str:
    """The first few of some numbers, for a message."""
    flat = values.flatten().tolist()
    told = ", ".join(f"{value:.4g}" for value in flat[:3])
    return told if len(flat) == 1 else f"({told}{', ...' if len(flat) > 3 else ''})"


def check_choice(value: Any, name: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {sorted(allowed)}, got {value!r}")


def check_flags(settings: object, *names: str) -> None:
    """Raise TypeError unless these attributes are True or False."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def seeded(seed: Any) -> torch.Generator:
    """A generator with this seed, after checking it."""
    seed = check_number(seed, "seed", 0, 2**63 - 1, integer=True)
    return torch.Generator(device="cpu").manual_seed(seed)


def _column(t: Any, x: Tensor, name: str, low: float, high: float) -> tuple[Any, Tensor]:
    """``t`` as a number within the limits or as a tensor whose values are not read yet, and
    as a column for ``x``."""
    if isinstance(t, np.ndarray) and t.dtype.kind in "iuf" and not np.ma.isMaskedArray(t):
        t = torch.from_numpy(t.astype("f8"))  # a copy: flipped and big-endian tables too
    if not isinstance(t, Tensor):
        if isinstance(t, bool) or not isinstance(t, Real):
            kind = type(t).__name__
            raise TypeError(f"{name} must be a number or a torch.Tensor, got {kind}")
        _check_range(t := float(t), name, low, high)
        return t, x.new_full((1,) * x.ndim, t)
    check_held(t, name)
    if t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got dtype {t.dtype}")
    n = x.shape[0]  # faster than len
    if t.numel() != 1 and (t.numel() != n or t.shape[0] != n):
        got = f"one per sample ({n}), got shape {tuple(t.shape)}"
        raise ValueError(f"{name} must be one number or {got}")
    alike = t.dtype == x.dtype and t.device == x.device  # a look is faster than .to
    column = t if alike else t.to(x.device, x.dtype)
    return t, column.reshape(-1, *[1] * (x.ndim - 1))


def _check_range(t: float | Tensor, name: str, low: float, high: float) -> None:
    slack = SLACK
    if isinstance(t, Tensor):
        if t.is_floating_point():
            slack = max(slack, torch.finfo(t.dtype).eps)  # bfloat16 has three digits
        ends = _read(*t.detach().aminmax())
    else:
        ends = [t, t]
    if ends and not (low * (1 - slack) <= ends[0] and ends[1] <= high * (1 + slack)):
        got = f"values from {ends[0]:g} to {ends[1]:g}"
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {got}")


def _read(*values: Tensor) -> list[float] | None:
    """The numbers in tensors of one number, in one wait; None where there are none to
    read."""
    if torch.compiler.is_compiling() or is_functorch_wrapped_tensor(values[0]):
        return None
    here = values[0].is_cpu  # where nothing is gained by collecting them first
    return [value.item() for value in values] if here else torch.stack(values).tolist()
