"""Likelihoods: the log density that a flow map gives to a point, the noise that a point
comes from, and jumps undone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

from ctm._checks import check_jump, check_number, check_points, check_times
from ctm.flow_map import FlowMap, Time
from ctm.noise import rand
from ctm.samplers import center
from ctm.solvers import Step, rk4_step, solve


def log_likelihood(
    model: FlowMap, x: Tensor, *, steps: int = 32, step: Step = rk4_step
) -> Tensor:
    r""":math:`\log p(x)` in nats at noise level :math:`\sigma_{min}`, by the instantaneous
    change of variables.

    .. math::

        \log p(x) = \log N(x_{\sigma_{max}};\, c,\, \sigma_{max}^2 I)
        + \int_{\sigma_{min}}^{\sigma_{max}} \operatorname{div} v(x_t, t)\, dt, \qquad
        \operatorname{div} v = \frac{1}{t} \bigl(d - \operatorname{tr} \partial_x D\bigr)

    along the trajectory from ``x`` *up* to the noise about the model's ``center`` :math:`c`
    (Chen et al. 2018; Song et al. 2021). The trace is exact: ``d`` directional derivatives
    at each call. It is the density of samples drawn from the prior by the probability-flow
    ODE of the model's *denoiser*, whatever its jumps do. It has a gradient in ``x`` where
    ``x`` asks for one; without, none is kept, for the weights of the model either.

    Args:
        model: anything with ``denoiser``, ``sigma_min`` and ``sigma_max``, differentiable
            in ``x``.
        x: points at ``sigma_min``, shape ``(n, *data_shape)``.
        steps: how many steps, equal in :math:`t^{1/7}`.
        step: a one-step method of :mod:`ctm.solvers`.

    Returns:
        Shape ``(n,)``.

    Raises:
        TypeError, ValueError: ``x`` or ``steps`` is not as said; the message names it.
    """
    flat = check_points(x).reshape(len(x), -1)
    noise, logs = _transport(model, x, _basis(flat), steps, step)
    return _log_prior(model, noise, x) + logs.sum(0)


def hutchinson_log_likelihood(
    model: FlowMap,
    x: Tensor,
    probes: int,
    *,
    generator: torch.Generator | None = None,
    steps: int = 32,
) -> Tensor:
    r"""Unbiased estimates of :func:`log_likelihood`, for many dimensions (Hutchinson;
    FFJORD, Grathwohl et al. 2019).

    .. math:: \operatorname{tr} A = E[e^\top A\, e], \qquad e_i = \pm 1 \text{ at random}

    One directional derivative for each probe takes the place of ``d``. A probe keeps its
    :math:`e` along the whole trajectory, so it estimates the trace of one matrix,
    :math:`A = \int (I - \partial_x D)\, dt/t`, with variance
    :math:`2 \sum_{i \ne j} S_{ij}^2`, where :math:`S = (A + A^\top)/2`.

    Args:
        model, x, steps: as for :func:`log_likelihood`.
        probes: how many independent estimates.
        generator: source of the signs.

    Returns:
        Shape ``(probes, n)``; the mean over the first axis is the estimate, its spread the
        interval.
    """
    flat = check_points(x).reshape(len(x), -1)
    probes = check_number(probes, "probes", 1, integer=True)
    drawn = rand((probes, *flat.shape), generator, dtype=x.dtype, device=x.device)
    signs = torch.where(drawn < 0.5, -torch.ones_like(drawn), 1)
    noise, logs = _transport(model, x, signs, steps, rk4_step)
    return _log_prior(model, noise, x) + logs


def encode(model: FlowMap, x: Tensor, t: float | None = None, *, steps: int = 32) -> Tensor:
    r"""The point at noise level ``t`` whose trajectory ends in ``x`` at ``sigma_min``: the
    ODE run *up*, by its denoiser.

    A flow map is only asked for :math:`s \le t`, but an ODE has no direction, and a
    denoiser is defined at every time.

    Args:
        model, x, steps: as for :func:`log_likelihood`.
        t: where to stop; ``sigma_max`` if None.

    Returns:
        The shape of ``x``.
    """
    steps = check_number(steps, "steps", 1, integer=True)
    low, high = _ends(model, check_points(x), t)
    return solve(rk4_step, model, x, low, high, steps)


@torch.no_grad()
def jump_log_det(flow_map: FlowMap, x: Tensor, t: Time, s: Time) -> Tensor:
    r""":math:`\log |\det \partial_x G(x, t, s)|`, shape ``(n,)``.

    It gives the density after one jump, where the jump is one to one:
    :math:`\log p_s(G(x)) = \log p_t(x) - \log|\det \partial_x G|`. It takes ``d``
    directional derivatives and a determinant of size ``d``. No gradient is kept.
    """
    flat = check_points(x).reshape(len(x), -1)

    def land(y: Tensor) -> Tensor:
        return flow_map.G(y.reshape(x.shape), t, s).reshape(flat.shape)

    return _jacobian(land, flat)[1].slogdet().logabsdet


@torch.no_grad()
def invert(
    flow_map: FlowMap, x: Tensor, t: Time, s: Time, guess: Tensor, *, iterations: int = 30
) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`G(z, t, s) = x` for :math:`z` by Newton's method, each sample with its
    own step length.

    .. math:: z \leftarrow z - \lambda\, (\partial_z G)^{-1} (G(z, t, s) - x)

    A step that does not bring :math:`G(z)` nearer to ``x`` is not taken: its
    :math:`\lambda` is halved and tried again. After a good step it doubles, up to 1.
    Newton's method finds *a* solution near the guess, if there is one; a learned jump may
    have none or several. So look at the residual. No gradient is kept.

    Args:
        flow_map: anything whose ``G`` is differentiable in its first argument.
        x: points at ``s``, shape ``(n, *data_shape)``.
        t, s: times of the jump, :math:`t \ge s`.
        guess: where to start, at ``t``, the shape of ``x``; :func:`encode` gives one.
        iterations: Newton steps, taken or not.

    Returns:
        The points ``z``, shape of ``x``, and the residual :math:`|G(z, t, s) - x|`, shape
        ``(n,)``.

    Raises:
        TypeError, ValueError: an argument is not as said; the message names it.
    """
    goal = check_points(x).reshape(len(x), -1)
    z = check_points(guess, "guess", x.shape[1:]).reshape(goal.shape)
    iterations = check_number(iterations, "iterations", 0, integer=True)
    check_jump(x, t, s)

    def miss(y: Tensor) -> Tensor:
        return flow_map.G(y.reshape(x.shape), t, s).reshape(goal.shape) - goal

    residual = miss(z).norm(dim=1, keepdim=True)
    length = torch.ones_like(residual)
    for _ in range(iterations):
        error, jacobian = _jacobian(miss, z)
        direction = torch.linalg.lstsq(jacobian, error[..., None]).solution[..., 0]
        trial = z - length * direction
        after = miss(trial).norm(dim=1, keepdim=True)
        better = after < residual
        z, residual = torch.where(better, trial, z), torch.where(better, after, residual)
        length = torch.where(better, (2 * length).clamp(max=1), length / 2)
    return z.reshape(x.shape), residual[:, 0]


def bits_per_dim(log_prob: Tensor, dim: int, bin_width: float = 1.0) -> Tensor:
    r"""A log density in nats as bits per dimension,
    :math:`-\log p / (d \log 2) - \log_2 \Delta`.

    A density has a unit, one over the unit of length to the power ``d``. So the figure
    means something only with the width :math:`\Delta` of the bin that is being coded: about
    :math:`p\, \Delta^d` is the probability of a bin, and this is its code length. For 8-bit
    images scaled to :math:`[-1, 1]`, :math:`\Delta = 1/127.5`.

    Args:
        log_prob: log densities in nats, any shape.
        dim: the number of dimensions ``d``.
        bin_width: :math:`\Delta`, in the units in which the density was measured.
    """
    dim = check_number(dim, "dim", 1, integer=True)
    bin_width = check_number(bin_width, "bin_width", 0, above=True)
    return -log_prob / (dim * math.log(2)) - math.log2(bin_width)


class _WithLogDensity:
    """The ODE with further coordinates: for each probe ``e``, the integral of
    ``e (I - dD/dx) e / t``."""

    def __init__(self, model: FlowMap, shape: torch.Size, probes: Tensor) -> None:
        self.model, self.shape, self.probes = model, shape, probes

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        """``x - t dx/dt`` for ``x`` of shape ``(n, d + k)``: points and integrals side by
        side."""
        k, n, d = self.probes.shape
        points, logs = x.split([d, k], 1)

        def clean(y: Tensor) -> Tensor:
            return self.model.denoiser(y.reshape(n, *self.shape), t).reshape(n, d)

        guess, turned = _directional(clean, points, self.probes)
        rates = (self.probes * (self.probes - turned)).sum(2).T
        return torch.cat([guess, logs - rates], 1)


def _transport(
    model: FlowMap, x: Tensor, probes: Tensor, steps: int, step: Step
) -> tuple[Tensor, Tensor]:
    """``x`` carried up to ``sigma_max``, flat, and for each of the probes ``(k, n, d)`` its
    integral ``(k, n)``."""
    steps = check_number(steps, "steps", 1, integer=True)
    k, n, d = probes.shape
    start = torch.cat([x.reshape(n, d), x.new_zeros(n, k)], 1)
    both = _WithLogDensity(model, x.shape[1:], probes)
    end = solve(step, both, start, *_ends(model, start, None), steps)
    return end[:, :d], end[:, d:].T


def _ends(model: FlowMap, x: Tensor, t: float | None) -> tuple[Tensor, Tensor]:
    """The lowest time and ``t`` (the highest if None), as columns that go with ``x``."""
    high = model.sigma_max if t is None else t
    low = model.sigma_min
    return check_times(low, x), check_times(high, x, "t", low, model.sigma_max)


def _directional(
    f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """``f(x)`` of shape ``(n, d)``, and its derivatives along ``directions`` ``(k, n, d)``,
    by forward-mode autograd."""
    along = vmap(lambda v: jvp(f, (x,), (v,)), out_dims=(None, 0))  # type: ignore[arg-type]
    both = along(directions)
    return both[0], both[1]


def _jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x)`` and its Jacobian ``(n, d, d)``, rows by output."""
    value, columns = _directional(f, x, _basis(x))
    return value, columns.permute(1, 2, 0)


def _basis(x: Tensor) -> Tensor:
    """The unit vectors as directions for every sample, shape ``(d, n, d)``."""
    n, d = x.shape
    return torch.eye(d, dtype=x.dtype, device=x.device)[:, None].expand(d, n, d)


def _log_prior(model: FlowMap, noise: Tensor, x: Tensor) -> Tensor:
    """The log density of ``N(center, sigma_max^2 I)`` at ``noise`` ``(n, d)``; ``x`` has
    the shape that a center is given in."""
    sigma = model.sigma_max
    away = (noise.reshape(x.shape) - center(model, x)).reshape(noise.shape) / sigma
    constant = noise.shape[1] * math.log(2 * math.pi * sigma**2)
    return -0.5 * (away.square().sum(1) + constant)
