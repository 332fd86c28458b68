"""Numerical solvers of the probability-flow ODE over any denoiser. Time runs down:
``u <= t``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctm.flow_map import Denoiser
from ctm.noise import rho_time

Step = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]


def euler_step(model: Denoiser, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    r"""One Euler step, which for this ODE is also the step of DDIM (Song et al. 2021, eq.
    12):

    .. math:: x_u = \frac{u}{t}\, x + \Bigl(1 - \frac{u}{t}\Bigr)\, D(x, t).

    ``t`` and ``u`` broadcast against ``x``. Shape of ``x``.
    """
    return u / t * x + (1 - u / t) * model.denoiser(x, t.flatten())


def heun_step(model: Denoiser, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    r"""One step of Heun's second-order method (EDM, algorithm 1): with
    :math:`v = (x - D)/t`,

    .. math::

        x_u = x + \tfrac{1}{2} (u - t) \bigl(v(x, t) + v(\hat x_u, u)\bigr), \quad
        \hat x_u \text{ the Euler step.}

    It needs :math:`u > 0`. ``t`` and ``u`` broadcast against ``x``. Shape of ``x``.
    """
    start = (x - model.denoiser(x, t.flatten())) / t
    guess = x + (u - t) * start
    end = (guess - model.denoiser(guess, u.flatten())) / u
    return x + (u - t) / 2 * (start + end)


STEPS: dict[str, Step] = {"euler": euler_step, "heun": heun_step}
"""The one-step methods by name.

:meta hide-value:
"""


def solve(
    step: Step, model: Denoiser, x: Tensor, t: Tensor, u: Tensor, substeps: int
) -> Tensor:
    r"""``substeps`` steps from ``t`` to ``u``, equal in :math:`t^{1/7}` (EDM's spacing).

    This is :math:`Solver(x_t, t, u; \phi)` in the CTM paper; ``t`` and ``u`` broadcast
    against ``x``. A gradient is kept where ``x`` asks for one, and only there: the weights
    of the model alone do not. Shape of ``x``.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
        now = t
        for i in range(1, substeps + 1):
            share = u.new_full((), i / substeps)
            after = u if i == substeps else rho_time(share, u, t)
            x = step(model, x, now, after)
            now = after
    return x


def rk4_step(model: Denoiser, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    r"""One step of the classical Runge-Kutta method (order 4; four calls) in
    :math:`\tau = \log t`, where

    .. math:: \frac{dx}{d\tau} = x - D(x, t).

    For an integral that must be right to a part in a thousand. It goes up (:math:`u > t`)
    as well as down; it needs :math:`t, u > 0`. Shape of ``x``.
    """
    middle, h = torch.sqrt(t * u), torch.log(u / t)

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return x - model.denoiser(x, t.flatten())

    first = slope(x, t)
    second = slope(x + h / 2 * first, middle)
    third = slope(x + h / 2 * second, middle)
    last = slope(x + h * third, u)
    return x + h / 6 * (first + 2 * second + 2 * third + last)
