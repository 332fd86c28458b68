"""Samplers: from noise to data through a flow map (jumps) or a denoiser (steps of a
solver)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ctm._checks import check_number, check_points, check_schedule, seeded
from ctm.flow_map import Denoiser, FlowMap
from ctm.noise import karras_times, randn, randn_like
from ctm.solvers import Step, euler_step, heun_step

Times = Iterable[float] | Tensor
"""Decreasing noise levels, two or more."""


@torch.no_grad()
def sample(
    model: FlowMap,
    n: int,
    steps: int = 1,
    seed: int = 0,
    *,
    condition: Any = None,
    gamma: float = 0.0,
) -> Tensor:
    r"""``n`` samples in the data's own units: the same for the same seed, on every device.

    Noise from :func:`noise` goes down :func:`ctm.noise.karras_times` in ``steps`` jumps
    (:func:`gamma_sampling`). One is :math:`G(x, \sigma_{max}, \sigma_{min})`.

    Args:
        model: a flow map, learned or exact, whose points have a known shape. Where it has
            ``restore``, as :class:`ctm.models.CTM` has, that undoes the data's scaling.
        n: how many.
        steps: how many jumps.
        seed: seed of all noise.
        condition: what the model's ``given`` takes: a class for all samples, or one for
            each.
        gamma: as in :func:`gamma_sampling`.

    Returns:
        Shape ``(n, *data_shape)``.

    Raises:
        TypeError: a condition for a model that takes none, or a model without a shape.
        TypeError, ValueError: a number out of its range; the message names it.
    """
    rng, flow_map = seeded(seed), model
    times = karras_times(check_number(steps, "steps", 1, integer=True), model)
    if condition is not None:
        given = getattr(model, "given", None)
        if given is None:
            raise TypeError(f"condition must be None: a {type(model).__name__} takes none")
        flow_map = given(condition)
    x = noise(model, n, generator=rng)
    x = gamma_sampling(flow_map, x, times, gamma, generator=rng)
    restore = getattr(model, "restore", None)
    return x if restore is None else restore(x)


def noise(
    model: FlowMap,
    n: int,
    shape: tuple[int, ...] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Where every sampler starts: ``n`` draws from :math:`N(c, \sigma_{max}^2 I)` about
    the ``center`` :math:`c` of the data, shape ``(n, *shape)``, where the model is. The
    model's own ``shape`` if None; TypeError if it has none. In float32, or float64 where
    float32 is coarser there than 1e-4 of ``sigma_data``."""
    n = check_number(n, "n", 1, integer=True)
    shape = getattr(model, "shape", None) if shape is None else shape
    if shape is None:
        raise TypeError(
            f"shape must be given: this {type(model).__name__} has none of its own"
        )
    middle = getattr(model, "center", 0.0)
    far = float(middle.abs().max()) if isinstance(middle, Tensor) else abs(middle)
    fine = not far or torch.finfo(torch.float32).eps * far <= 1e-4 * model.sigma_data
    dtype = torch.float32 if fine else torch.float64
    eps = randn((n, *shape), generator, dtype=dtype, device=_device(model) or "cpu")
    return center(model, eps) + model.sigma_max * eps


def center(model: Any, x: Tensor) -> Tensor:
    """The place about which the data of ``model`` lie (0 if it names none), with the dtype
    and device of ``x``: the mean of the noise that ends in them."""
    return torch.as_tensor(getattr(model, "center", 0.0), dtype=x.dtype, device=x.device)


def _device(model: Any) -> torch.device | None:
    """Where a flow map keeps its numbers; None if it keeps none."""
    held = model.parameters() if isinstance(model, nn.Module) else vars(model).values()
    for part in held:
        where = part.device if isinstance(part, Tensor) else None
        if where or (isinstance(part, FlowMap) and (where := _device(part))):
            return where
    return None


@torch.no_grad()
def one_step(flow_map: FlowMap, x: Tensor) -> Tensor:
    r""":math:`G(x, \sigma_{max}, \sigma_{min})`: the whole trajectory in one network
    call."""
    return flow_map.G(x, flow_map.sigma_max, flow_map.sigma_min)


@torch.no_grad()
def gamma_sampling(
    flow_map: FlowMap,
    x: Tensor,
    times: Times,
    gamma: float = 0.0,
    *,
    generator: torch.Generator | None = None,
    path: bool = False,
) -> Tensor:
    r"""CTM's :math:`\gamma`-sampling (Kim et al. 2024). For consecutive noise levels
    :math:`t > r`:

    .. math::

        x \leftarrow G(x, t, \sqrt{1 - \gamma^2}\, r), \qquad
        x \leftarrow x + \gamma\, r\, \epsilon .

    ``gamma = 0`` jumps along one trajectory; ``gamma = 1`` is the multistep sampler of
    consistency models. A jump never goes below ``sigma_min``: there the noise added is
    reduced so that the level :math:`r` is met exactly.

    Args:
        flow_map: an exact, solved or learned flow map.
        x: points at ``times[0]``, shape ``(n, *data_shape)``.
        times: decreasing noise levels within the flow map's range, two or more.
        gamma: share of noise put back after each jump, in [0, 1].
        generator: source of the noise.
        path: return the points at every time, shape ``(len(times), n, *data_shape)``, not
            only the last.
    """
    check_points(x)
    levels = check_schedule(times)
    gamma = check_number(gamma, "gamma", 0, 1)
    points = [x]
    for t, r in zip(levels, levels[1:], strict=False):
        low = max(math.sqrt(1 - gamma**2) * r, min(r, flow_map.sigma_min))
        x = flow_map.G(x, t, low)
        if low < r:
            x = x + math.sqrt(r**2 - low**2) * randn_like(x, generator)
        points.append(x)
    return torch.stack(points) if path else x


def euler(denoiser: Denoiser, x: Tensor, times: Times, *, path: bool = False) -> Tensor:
    """Euler steps (:func:`ctm.solvers.euler_step`) through decreasing ``times``; one
    denoiser call a step."""
    return _walk(euler_step, denoiser, x, times, path)


def heun(denoiser: Denoiser, x: Tensor, times: Times, *, path: bool = False) -> Tensor:
    """Heun steps (:func:`ctm.solvers.heun_step`) through decreasing ``times``; two denoiser
    calls a step.

    A last time of 0 is reached by an Euler step, as in EDM's algorithm 1.
    """
    return _walk(heun_step, denoiser, x, times, path)


@torch.no_grad()
def multistep(denoiser: Denoiser, x: Tensor, times: Times, *, path: bool = False) -> Tensor:
    r"""A two-step method through decreasing ``times``: second order for one denoiser call a
    step (DPM-Solver++(2M); Lu et al. 2022, algorithm 2, with :math:`\alpha = 1`).

    In :math:`\lambda = \log t` the ODE is linear but for :math:`D`, which is extrapolated
    from the last two calls:

    .. math::

        x_u = \frac{u}{t}\, x + \Bigl(1 - \frac{u}{t}\Bigr) \bar D, \qquad
        \bar D = D + \frac{h}{2 h'} (D - D'), \qquad h = \log\frac{t}{u},

    with :math:`D'` and :math:`h'` those of the step before. The first step is an Euler
    step, and so is a step to 0.
    """
    check_points(x)
    levels = check_schedule(times)
    points = [x]
    before: tuple[Tensor, float] | None = None
    for t, u in zip(levels, levels[1:], strict=False):
        aim = clean = denoiser.denoiser(x, t)
        if u > 0:
            h = math.log(t / u)
            if before is not None:
                aim = clean + h / (2 * before[1]) * (clean - before[0])
            before = clean, h
        x = u / t * x + (1 - u / t) * aim
        points.append(x)
    return torch.stack(points) if path else x


@torch.no_grad()
def _walk(step: Step, model: Denoiser, x: Tensor, times: Times, path: bool) -> Tensor:
    check_points(x)
    levels = [x.new_full((), level) for level in check_schedule(times)]
    points = [x]
    for t, u in zip(levels, levels[1:], strict=False):
        x = (step if u > 0 else euler_step)(model, x, t, u)
        points.append(x)
    return torch.stack(points) if path else x
