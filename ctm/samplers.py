"""Samplers: from noise to data through a flow map (jumps) or a denoiser (steps of a solver)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ctm._checks import check_number, check_points, check_schedule
from ctm.flow_map import FlowMap
from ctm.solvers import Denoiser, Step, euler_step, heun_step


def noise(model: FlowMap, n: int, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
    r"""Where every sampler starts: ``n`` draws from :math:`N(0, \sigma_{max}^2 I)`, shape ``(n, *shape)``."""
    check_number(n, "n", 1, integer=True)
    return model.sigma_max * torch.randn((n, *shape), generator=generator)


@torch.no_grad()
def one_step(flow_map: FlowMap, x: Tensor) -> Tensor:
    r""":math:`G(x, \sigma_{max}, \sigma_{min})`: the whole trajectory in one network call."""
    return flow_map.G(x, flow_map.sigma_max, flow_map.sigma_min)


@torch.no_grad()
def gamma_sampling(
    flow_map: FlowMap,
    x: Tensor,
    times: Iterable[float] | Tensor,
    gamma: float = 0.0,
    *,
    generator: torch.Generator | None = None,
    path: bool = False,
) -> Tensor:
    r"""CTM's :math:`\gamma`-sampling (Kim et al. 2024). For consecutive noise levels :math:`t > r`:

    .. math:: x \leftarrow G(x, t, \sqrt{1 - \gamma^2}\, r), \qquad x \leftarrow x + \gamma\, r\, \epsilon .

    ``gamma = 0`` jumps along one trajectory; ``gamma = 1`` is the multistep sampler of consistency models. A jump never
    goes below ``sigma_min``: there the noise added is reduced so that the level :math:`r` is met exactly.

    Args:
        flow_map: an exact, solved or learned flow map.
        x: points at ``times[0]``, shape ``(n, *data_shape)``.
        times: decreasing noise levels within the flow map's range, two or more.
        gamma: share of noise put back after each jump, in [0, 1].
        generator: source of the noise.
        path: return the points at every time, shape ``(len(times), n, *data_shape)``, not only the last.
    """
    check_points(x)
    levels = check_schedule(times)
    check_number(gamma, "gamma", 0, 1)
    points = [x]
    for t, r in zip(levels, levels[1:], strict=False):
        low = max(math.sqrt(1 - gamma**2) * r, min(r, flow_map.sigma_min))
        x = flow_map.G(x, t, low)
        if low < r:
            x = x + math.sqrt(r**2 - low**2) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        points.append(x)
    return torch.stack(points) if path else x


def euler(denoiser: Denoiser, x: Tensor, times: Iterable[float] | Tensor, *, path: bool = False) -> Tensor:
    """Euler steps (:func:`ctm.solvers.euler_step`) through decreasing ``times``; one denoiser call a step."""
    return _walk(euler_step, denoiser, x, times, path)


def heun(denoiser: Denoiser, x: Tensor, times: Iterable[float] | Tensor, *, path: bool = False) -> Tensor:
    """Heun steps (:func:`ctm.solvers.heun_step`) through decreasing ``times``; two denoiser calls a step.

    A last time of 0 is reached by an Euler step, as in EDM's algorithm 1.
    """
    return _walk(heun_step, denoiser, x, times, path)


@torch.no_grad()
def multistep(denoiser: Denoiser, x: Tensor, times: Iterable[float] | Tensor, *, path: bool = False) -> Tensor:
    r"""A two-step method through decreasing ``times``: second order for one denoiser call a step (DPM-Solver++(2M); Lu et
    al. 2022, algorithm 2, with :math:`\alpha = 1`).

    In :math:`\lambda = \log t` the ODE is linear but for :math:`D`, which is extrapolated from the last two calls:

    .. math::

        x_u = \frac{u}{t}\, x + \Bigl(1 - \frac{u}{t}\Bigr) \bar D, \qquad
        \bar D = D + \frac{h}{2 h'} (D - D'), \qquad h = \log\frac{t}{u},

    with :math:`D'` and :math:`h'` those of the step before. The first step is an Euler step, and so is a step to 0.
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
def _walk(step: Step, model: Denoiser, x: Tensor, times: Iterable[float] | Tensor, path: bool) -> Tensor:
    check_points(x)
    levels = [torch.tensor(level, dtype=x.dtype) for level in check_schedule(times)]
    points = [x]
    for t, u in zip(levels, levels[1:], strict=False):
        x = (step if u > 0 else euler_step)(model, x, t, u)
        points.append(x)
    return torch.stack(points) if path else x


def sample(model, n, steps=1, seed=0, *, condition=None, gamma=0.0):
    from ctm._checks import seeded
    g=seeded(seed)
    x=noise(model,n,model.shape,generator=g)
    m = model if condition is None else model.given(condition)
    return model.restore(one_step(m,x))
