r"""What a consistency term compares: times :math:`t > u \ge s`, a noised point at ``t``,
and the teacher's point at ``u``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctm._checks import check_choice
from ctm.flow_map import Denoiser, as_column
from ctm.noise import rand, randint, randn, rho_time
from ctm.solvers import Step, solve

KINDS = ("local", "soft", "global")


class Route(NamedTuple):
    """How the teacher's points are found: the grid of noise levels and the solver that
    walks down it."""

    grid: int  #: steps of the grid
    continuous: bool  #: shift the grid at random for each sample
    teacher: Denoiser
    step: Step
    substeps: int
    limits: tuple[float, float]  #: ``sigma_min, sigma_max``


class Pairs(NamedTuple):
    r"""A batch for the consistency loss: :math:`x_t`, :math:`t`, :math:`Solver(x_t, t, u)`,
    :math:`u` and :math:`s`.

    Points have shape ``(n, *data_shape)``, times ``(n, 1, ...)``: they broadcast against
    the points.
    """

    xt: Tensor
    t: Tensor
    xu: Tensor
    u: Tensor
    s: Tensor


class Levels(NamedTuple):
    r"""Indices :math:`k_t < k_u \le k_s`, shape ``(n,)``, into a grid that runs down from
    noise (0) to data."""

    t: Tensor
    u: Tensor
    s: Tensor


def draw_levels(
    n: int,
    levels: int,
    kind: str,
    from_noise: float,
    to_data: float,
    generator: torch.Generator,
) -> Levels:
    r"""Draw indices into a grid of ``levels`` steps, that is ``levels + 1`` noise levels.

    :math:`k_t` is 0 with probability ``from_noise``, else uniform; :math:`k_s` is
    ``levels`` with probability ``to_data``, else uniform below :math:`t`. Where :math:`u`
    lies is the kind of consistency (Kim et al. 2024): ``"local"`` at the next level,
    ``"global"`` at :math:`s`, ``"soft"`` uniform from one to the other.
    """
    check_choice(kind, "kind", KINDS)
    pick_t, pick_s, pick_u, use_noise, use_data = rand(
        (5, n), generator, device=generator.device
    )
    t = torch.where(use_noise < from_noise, 0, _index(pick_t, 0, levels - 1))
    s = torch.where(use_data < to_data, levels, _index(pick_s, t + 1, levels))
    if kind == "soft":
        return Levels(t, _index(pick_u, t + 1, s), s)
    return Levels(t, t + 1 if kind == "local" else s, s)


def _index(pick: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """An integer from ``low`` to ``high``, both included, for each uniform number in [0,
    1)."""
    return low + (pick * (high - low + 1)).long()


def grid_times(
    k: Tensor, levels: int, offset: Tensor | None, sigma_min: float, sigma_max: float
) -> Tensor:
    r"""The noise level with index ``k`` on a grid of ``levels`` steps, equal in
    :math:`t^{1/7}`.

    Without ``offset`` this is Karras's grid, the same for every sample. With one ``offset``
    in [0, 1) a sample its inner levels are moved by ``offset - 1/2`` of a step, so that all
    times are drawn but those within half a step of an end. The ends stay, so no two levels
    come closer than half a step: the loss divides by :math:`1 - s/t`.
    """
    k = k.to(torch.float32)
    fraction = k / levels
    if offset is not None:
        inner = (k > 0) & (k < levels)
        fraction = torch.where(inner, (k - 0.5 + offset) / levels, fraction)
    # A seventh power in float32 misses the ends by about 1e-4 of their size.
    return rho_time(fraction, sigma_min, sigma_max).clamp(sigma_min, sigma_max)


def noised_points(
    x0: Tensor, levels: Levels, route: Route, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The times at ``levels`` and the points :math:`x_t = x_0 + t\,\epsilon`: :math:`x_t,
    t, u, s`."""
    offset = rand((len(x0),), generator, device=x0.device) if route.continuous else None
    t, u, s = (
        as_column(grid_times(k.to(x0.device), route.grid, offset, *route.limits), x0)
        for k in levels
    )
    return x0 + t * randn(x0.shape, generator, dtype=x0.dtype, device=x0.device), t, u, s


def fresh_pairs(
    x0: Tensor, levels: Levels, route: Route, generator: torch.Generator
) -> Pairs:
    r"""Pairs as the paper trains: :math:`x_t = x_0 + t\,\epsilon`, solved to ``u`` in
    ``substeps`` steps."""
    xt, t, u, s = noised_points(x0, levels, route, generator)
    return Pairs(xt, t, solve(route.step, route.teacher, xt, t, u, route.substeps), u, s)


class Trajectories:
    r"""A pool of the teacher's trajectories from ``sigma_max`` to ``sigma_min``, each kept
    at ``grid + 1`` noise levels.

    A pair needs two points of one trajectory. A trajectory of 96 Heun steps takes 192 calls
    of the teacher and holds 4,656 pairs of points, so a pool makes the teacher cheap: at 48
    pairs drawn from each, four calls a pair. Points :math:`x_t` on it have the teacher's
    marginal at ``t``, which for an exact teacher is that of :math:`x_0 + t\,\epsilon`.

    Attributes:
        points: shape ``(size, grid + 1, *data_shape)``.
        times: shape ``(size, grid + 1)``.
    """

    points: Tensor
    times: Tensor

    def refill(self, x0: Tensor, route: Route, generator: torch.Generator) -> None:
        """Solve one trajectory for each ``x0``, from that point noised at ``sigma_max``."""
        n, device, (_, sigma_max) = len(x0), x0.device, route.limits
        offset = rand((n, 1), generator, device=device) if route.continuous else None
        k = torch.arange(route.grid + 1, device=device)
        times = grid_times(k, route.grid, offset, *route.limits).to(torch.float32)
        self.times = times.expand(n, -1).contiguous()
        x = x0 + sigma_max * randn(x0.shape, generator, dtype=x0.dtype, device=device)
        points = [x]
        for t, u in zip(self.times.T, self.times.T[1:], strict=False):
            ends = as_column(t, x), as_column(u, x)
            x = solve(route.step, route.teacher, x, *ends, route.substeps)
            points.append(x)
        self.points = torch.stack(points, 1)

    def pairs(self, levels: Levels, generator: torch.Generator) -> Pairs:
        """Two points each of trajectories drawn at random."""
        device = self.points.device
        return self.at(
            randint(len(self.points), levels.t.shape, generator, device=device), levels
        )

    def at(self, row: Tensor, levels: Levels) -> Pairs:
        """Two points each of the trajectories ``row``, shape ``(n,)``."""
        points, times = self.points.flatten(0, 1), self.times.flatten()
        at = [row * self.times.shape[1] + k.to(row.device) for k in levels]
        xt, xu = (points.index_select(0, place) for place in at[:2])
        t, u, s = (as_column(times.index_select(0, place), xt) for place in at)
        return Pairs(xt, t, xu, u, s)
