"""The exact flow map: an eighth-order integration of the probability-flow ODE in float64,
each sample with its own steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

MOST_STEPS = 100_000


def integrate(
    velocity: Callable[..., Tensor],
    x: Tensor,
    t: Tensor,
    s: Tensor,
    scale: float,
    tolerance: float,
    extra: tuple[Tensor, ...] = (),
) -> Tensor:
    r"""Solve :math:`dx/dt = v(x, t)` from ``t`` down to ``s``.

    With :math:`t = c \sinh\tau` (``scale`` is :math:`c`, the smallest standard deviation in
    the data) the trajectories are smooth in :math:`\tau` from pure noise down to ``s = 0``:
    a single Gaussian of standard deviation :math:`c` moves as :math:`\cosh\tau`. The steps
    in :math:`\tau` are those of Dormand and Prince's 8(5,3) pair (Hairer, Norsett and
    Wanner 1993, section II.10; coefficients from SciPy's ``DOP853``), chosen sample by
    sample, so that a sample that passes close to a watershed between modes does not slow
    the others.

    Args:
        velocity: the right-hand side, called with points ``(m, d)`` and times ``(m, 1)`` in
            float64, and the rows of ``extra`` that belong to these points.
        x: points ``(n, d)`` in float64.
        t: start times ``(n, 1)``.
        s: end times ``(n, 1)``, not above ``t``.
        scale: the length :math:`c` below which the data are smooth.
        tolerance: the error allowed in one step of one sample (Euclidean norm).
        extra: what else the velocity needs of each sample, tensors of ``n`` rows.

    Returns:
        The points at ``s``, shape ``(n, d)``.

    Raises:
        ArithmeticError: the velocity is not finite, or some sample needs more than
            ``MOST_STEPS`` steps.
    """
    A, B, C, E3, E5 = _tables(x.device)  # noqa: N806 (the names in the literature)

    def slope(x: Tensor, tau: Tensor) -> Tensor:
        return velocity(x, scale * torch.sinh(tau), *extra) * (scale * torch.cosh(tau))

    result = x.clone()
    left = (t > s).flatten().nonzero().flatten()  # samples still on their way
    extra = tuple(part[left] for part in extra)
    x, now, end = x[left], torch.asinh(t[left] / scale), torch.asinh(s[left] / scale)
    h = (end - now) / 8
    for _ in range(MOST_STEPS):
        if not len(left):
            return result
        stages = x.new_empty((len(B), *x.shape))
        for i in range(len(B)):
            stages[i] = slope(
                x + h * torch.tensordot(A[i, :i], stages[:i], 1), now + C[i] * h
            )
        after = x + h * torch.tensordot(B, stages, 1)
        fifth, third = (
            torch.tensordot(row, stages, 1).square().sum(1, keepdim=True)
            for row in (E5, E3)
        )
        error = h.abs() * (fifth / (fifth + 0.01 * third).sqrt().clamp_min(1e-300))
        if not bool(torch.isfinite(error).all()):
            raise ArithmeticError(
                "the velocity is not finite: points or times are too large for float64"
            )
        good = error <= tolerance
        x, now = torch.where(good, after, x), torch.where(good, now + h, now)
        growth = 0.9 * (tolerance / error.clamp_min(1e-3 * tolerance)) ** (1 / 8)
        h = torch.maximum(h * growth.clamp_min(0.2), end - now)  # h < 0: not past the end
        arrived = (now - end).flatten() <= 1e-13 * end.abs().flatten().clamp_min(1)
        result[left[arrived]] = x[arrived]
        left, x, now, end, h, *others = (
            part[~arrived] for part in (left, x, now, end, h, *extra)
        )
        extra = tuple(others)
    raise ArithmeticError(
        f"{len(left)} trajectories missed the tolerance {tolerance:g} in {MOST_STEPS} steps"
    )


@cache
def _tables(device: torch.device) -> tuple[Tensor, ...]:
    """The pair's coefficients A, B and C, and those of its two error estimates."""
    from scipy.integrate import DOP853  # here: only an exact map pays for the import

    # of the estimates the last weight is 0
    rows = (DOP853.A, DOP853.B, DOP853.C, DOP853.E3[:-1], DOP853.E5[:-1])
    with torch.inference_mode(False):  # what is kept must do outside of it too
        return tuple(torch.from_numpy(row).to(device) for row in rows)
