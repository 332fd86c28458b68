"""One's own data as points, standardised."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctm import noise
from ctm._checks import LARGEST, check_number, check_points, seeded
from ctm.labelled import check_labels
from ctm.mixture import moved, numbers, time_range


class Points:
    r"""Data given as points :math:`x_i`, standardised: :math:`z = (x - shift) / scale`.

    A table ``(n, d)`` has a mean and a standard deviation for each column, images ``(n, h,
    w)`` or ``(n, c, h, w)`` have one of each for all pixels. All are found in float64. The
    columns of a table then have the mean 0 and the deviation 1. Images are left with a mean
    image, their ``center``, and ``sigma_data`` is their spread about it, below 1.

    Args:
        x: points ``(n, *shape)``, n >= 2: NumPy, torch, lists, a data frame; or a data set
            with a length, whose items are points or pairs of a point and a label. It is
            read once.
        labels: the class of each point, whole numbers 0, 1, ... of shape ``(n,)``, each
            class at least once; or None.

    Attributes:
        shape: of one point.
        shift, scale: float64, ``(d,)`` for a table, one number for images.
        classes: the number of classes, 0 without labels.
        sigma_data, sigma_min, sigma_max, center: of the standardised points.

    Raises:
        TypeError, ValueError: not two rows of finite numbers or more, constant columns, one
            point throughout, wrong labels; the message names the argument and the columns.
    """

    center: float | Tensor = 0.0
    sigma_data = 1.0

    def __init__(self, x: Any, labels: Any = None) -> None:
        if not isinstance(x, Tensor | list | tuple) and not hasattr(x, "__array__"):
            x, labels = _read(x, labels)
        table, self._dtype = _table(x)
        if len(table) < 2:
            raise ValueError("x must have at least two rows, to have a spread; got one")
        self.shape = tuple(table.shape[1:])
        flat = table if table.ndim == 2 else table.reshape(-1, 1)
        shift = flat.mean(0)
        scale = (flat - shift).square().mean(0).sqrt()
        constant = (flat.amax(0) == flat.amin(0)) | (scale == 0)
        if bool(constant.any()):
            raise ValueError(f"x must vary, got a single value in {_columns(constant, x)}")
        self.shift, self.scale = (shift, scale) if table.ndim == 2 else (shift[0], scale[0])
        self._z = self._standardised(table)
        if table.ndim == 2:
            # one value alone is about sqrt(n) deviations out
            far = self._z.abs().amax(0) > min(8.0, len(table) ** 0.5 / 2)
            triples = zip(far.tolist(), table.T, self._z.T, strict=True)
            merged = [
                out and 4 * len(z.unique()) < len(column.unique())
                for out, column, z in triples
            ]
            if any(merged):
                where = _columns(torch.tensor(merged, device="cpu"), x)
                raise ValueError(
                    "x must hold no values so far out that float32 cannot tell the others "
                    f"apart, got such in {where}"
                )
        if table.ndim > 2:
            if bool((table == table[0]).all()):
                raise ValueError(f"x must vary, got the same point {len(table)} times")
            self.center = self._z.double().mean(0)
            self.sigma_data = float((self._z - self.center).square().mean().sqrt())
            if self.sigma_data < 1e-5:
                raise ValueError(
                    "x must vary about its mean image by 1e-5 of the spread of its pixels, "
                    f"for float32 to hold it, got {self.sigma_data:.1g}"
                )
        dimension = math.prod(self.shape)
        self.sigma_min, self.sigma_max = time_range(self.sigma_data, dimension)
        self.labels, self.classes = None, 0
        if labels is not None:
            found, self.classes = check_labels(labels, len(table))
            self.labels = found.to(table.device)

    def to(self, device: torch.device | str) -> Points:
        """The same data on ``device``."""
        return moved(self, device)

    def split(self, n: int, seed: int = 0) -> tuple[Points, Points]:
        """``n`` rows drawn without replacement, and the others: to train and to test. Both
        keep the units of the whole."""
        n = check_number(n, "n", 1, len(self._z) - 1, integer=True)
        order = torch.randperm(len(self._z), generator=seeded(seed)).to(self._z.device)
        return self._of(order[:n]), self._of(order[n:])

    def of_class(self, label: int) -> Points:
        """The rows of one class, in the units of the whole and without labels."""
        if self.labels is None:
            raise ValueError("no labels were given: Points(x, labels)")
        label = check_number(label, "label", 0, self.classes - 1, integer=True)
        rows = (self.labels == label).nonzero()[:, 0]
        if not len(rows):
            raise ValueError(f"label must be a class with points, {label} has none here")
        part = self._of(rows)
        part.labels, part.classes = None, 0
        return part

    def _of(self, rows: Tensor) -> Points:
        part = copy.copy(self)
        part._z = self._z[rows]
        part.labels = None if self.labels is None else self.labels[rows]
        return part

    def __len__(self) -> int:
        return len(self._z)

    @property
    def rows(self) -> Tensor:
        """All points, standardised, ``(n, *shape)`` in float32."""
        return self._z

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``n`` standardised points drawn with replacement, ``(n, *shape)`` in float32."""
        return self._z[self._rows(n, generator)]

    @property
    def sample_labelled(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """``sample_labelled(n, generator=rng)``: as :meth:`sample`, and labels ``(n,)``.

        Points without labels do not have this, so that ``hasattr`` tells.
        """
        if self.labels is None:
            raise AttributeError("no labels were given: Points(x, labels)")
        return self._sample_labelled

    def _sample_labelled(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        assert self.labels is not None
        rows = self._rows(n, generator)
        return self._z[rows], self.labels[rows]

    def _rows(self, n: int, rng: torch.Generator | None) -> Tensor:
        n = check_number(n, "n", 1, integer=True)
        return noise.randint(len(self._z), (n,), rng, device=self._z.device)

    def standardise(self, x: Any) -> Tensor:
        """Points in the data's own units ``(n, *shape)``, standardised, in float32."""
        table, _ = _table(x)
        if table.shape[1:] != self.shape:
            shape = tuple(table.shape[1:])
            raise ValueError(f"x must hold points of shape {self.shape}, got {shape}")
        return self._standardised(table)

    def _standardised(self, table: Tensor) -> Tensor:
        shift, scale = self.shift.to(table.device), self.scale.to(table.device)
        return ((table - shift) / scale).to(torch.float32)

    def restore(self, z: Tensor) -> Tensor:
        """Standardised points in the data's own units: float64 if the data were float64 or
        whole numbers, else float32."""
        check_points(z, "z", self.shape)
        shift, scale = self.shift.to(z.device), self.scale.to(z.device)
        return (shift + scale * z.to(torch.float64)).to(self._dtype)


def _read(x: Any, labels: Any) -> tuple[Any, Any]:
    """The points and labels of a data set, item by item."""
    rows = hasattr(x, "__len__") and hasattr(x, "__getitem__")
    if not rows or isinstance(x, Mapping):  # a mapping has no row 0
        got = f"got {type(x).__name__}"
        raise TypeError(f"x must be a table or a data set with a length, {got}")
    items = [x[i] for i in range(len(x))]
    if items and all(isinstance(item, tuple) and len(item) == 1 for item in items):
        items = [item[0] for item in items]
    if items and all(isinstance(item, tuple) and np.ndim(item[0]) > 0 for item in items):
        if labels is not None:
            raise ValueError("labels must be None where the data set gives its own")
        items, labels = [item[0] for item in items], [item[1] for item in items]
    if items and all(isinstance(item, Tensor) for item in items):
        if len({item.shape for item in items}) > 1:
            raise ValueError("x must hold items of one shape")
        return torch.stack(items), labels
    return items, labels


def _table(x: Any) -> tuple[Tensor, torch.dtype]:
    """Checked points in float64, and the dtype in which to give them back."""
    raw = x
    if not isinstance(x, Tensor | list | tuple):
        raw = np.asanyarray(x)  # which keeps a mask
        if raw.ndim == 2 and raw.dtype.kind in "OSU":
            wrong = torch.tensor([not _converts(column) for column in raw.T], device="cpu")
            where = f" in {_columns(wrong, x)}" if bool(wrong.any()) else ""
            raise TypeError(f"x must hold real numbers, got dtype {raw.dtype}{where}")
    table = numbers(raw, "x")
    if table.ndim < 2 or not table.numel():
        raise ValueError(f"x must have shape (n, *shape), n >= 2, got {tuple(table.shape)}")
    wrong = ~(table.abs() <= LARGEST)
    if bool(wrong.any()):
        flat = wrong if table.ndim == 2 else wrong.reshape(-1, 1)
        got = f"got others in {_columns(flat.any(0), x)}"
        raise ValueError(f"x must hold finite numbers up to {LARGEST:g}, {got}")
    dtype = getattr(raw, "dtype", np.dtype(float))  # NumPy's or torch's
    floating = getattr(dtype, "kind", "") == "f" or getattr(
        dtype, "is_floating_point", False
    )
    return table, torch.float32 if floating and dtype.itemsize < 8 else torch.float64


def _converts(column: np.ndarray) -> bool:
    try:
        column.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _columns(chosen: Tensor, x: Any) -> str:
    """How an error names columns, by a data frame's own names where there are any."""
    if np.ndim(x) > 2:
        return "its pixels"
    names = getattr(x, "columns", range(len(chosen)))
    found = [str(name) for name, wrong in zip(names, chosen.tolist(), strict=True) if wrong]
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"column{'s' * (len(found) > 1)} {', '.join(found[:8])}{more}"
