"""The exact flow map: an eighth-order integration of the probability-flow ODE in float64, each sample with its own steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.integrate import DOP853
from torch import Tensor

MOST_STEPS = 100_000
_A, _B, _C = (torch.from_numpy(table) for table in (DOP853.A, DOP853.B, DOP853.C))
_E3, _E5 = (torch.from_numpy(table[:-1]) for table in (DOP853.E3, DOP853.E5))  # the slope at the new point has weight 0


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, s: Tensor, scale: float, tolerance: float
) -> Tensor:
    r"""Solve :math:`dx/dt = v(x, t)` from ``t`` down to ``s``.

    With :math:`t = c \sinh\tau` (``scale`` is :math:`c`, the smallest standard deviation in the data) the trajectories are
    smooth in :math:`\tau` from pure noise down to ``s = 0``: a single Gaussian of standard deviation :math:`c` moves as
    :math:`\cosh\tau`. The steps in :math:`\tau` are those of Dormand and Prince's 8(5,3) pair (Hairer, Norsett and Wanner
    1993, section II.10; coefficients from SciPy's ``DOP853``), chosen sample by sample, so that a sample that passes close
    to a watershed between modes does not slow the others.

    Args:
        velocity: the right-hand side, called with points ``(m, d)`` and times ``(m, 1)`` in float64.
        x: points ``(n, d)`` in float64.
        t: start times ``(n, 1)``.
        s: end times ``(n, 1)``, not above ``t``.
        scale: the length :math:`c` below which the data are smooth.
        tolerance: the error allowed in one step of one sample (Euclidean norm).

    Returns:
        The points at ``s``, shape ``(n, d)``.

    Raises:
        ArithmeticError: the velocity is not finite, or some sample needs more than ``MOST_STEPS`` steps.
    """

    def slope(x: Tensor, tau: Tensor) -> Tensor:
        return velocity(x, scale * torch.sinh(tau)) * (scale * torch.cosh(tau))

    result = x.clone()
    left = (t > s).flatten().nonzero().flatten()  # samples still on their way
    x, now, end = x[left], torch.asinh(t[left] / scale), torch.asinh(s[left] / scale)
    h = (end - now) / 8
    for _ in range(MOST_STEPS):
        if not len(left):
            return result
        stages = torch.empty((len(_B), *x.shape), dtype=x.dtype)
        for i in range(len(_B)):
            stages[i] = slope(x + h * torch.tensordot(_A[i, :i], stages[:i], 1), now + _C[i] * h)
        after = x + h * torch.tensordot(_B, stages, 1)
        error = h.abs() * _error(stages)
        if not bool(torch.isfinite(error).all()):
            raise ArithmeticError("the velocity is not finite: points or times are too large for float64")
        good = error <= tolerance
        x, now = torch.where(good, after, x), torch.where(good, now + h, now)
        growth = 0.9 * (tolerance / error.clamp_min(1e-3 * tolerance)) ** (1 / 8)
        h = torch.maximum(h * growth.clamp_min(0.2), end - now)  # h < 0: never beyond the end
        arrived = (now - end).flatten() <= 1e-13 * end.abs().flatten().clamp_min(1)
        result[left[arrived]] = x[arrived]
        left, x, now, end, h = (part[~arrived] for part in (left, x, now, end, h))
    raise ArithmeticError(f"{len(left)} trajectories missed the tolerance {tolerance:g} in {MOST_STEPS} steps")


def _error(stages: Tensor) -> Tensor:
    """The pair's error estimate for a unit step, shape ``(m, 1)`` (Hairer et al., section II.10)."""
    fifth, third = (torch.tensordot(table, stages, 1).square().sum(1, keepdim=True) for table in (_E5, _E3))
    return fifth / (fifth + 0.01 * third).sqrt().clamp_min(1e-300)
