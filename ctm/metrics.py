"""How good is a flow map? Against the exact map by point, and as samples against data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctm._checks import (
    check_choice,
    check_number,
    check_points,
    check_schedule,
    check_units,
    seeded,
)
from ctm.flow_map import Data, FlowMap
from ctm.mixture import GaussianMixture
from ctm.noise import noised

Metric = Callable[[Tensor, Tensor], float]


@torch.no_grad()
def flow_map_error(
    flow_map: FlowMap,
    world: GaussianMixture,
    t: float | None = None,
    s: float | None = None,
    *,
    n: int = 4000,
    seed: int = 0,
) -> float:
    r"""Relative error of a jump against the exact one,

    .. math:: \sqrt{E\,|G_\theta(x_t, t, s) - G(x_t, t, s)|^2 \big/ E\,|x_0 - \bar x|^2},
        \qquad x_t = x_0 + t\,\epsilon,

    with :math:`\bar x` the world's ``center``; by default of the one-step sample, from
    ``sigma_max`` to ``sigma_min`` of the flow map.

    Args:
        flow_map: the map to judge.
        world: the exact truth.
        t, s: noise levels, ``s <= t``.
        n: points :math:`x_t` drawn.
        seed: seed of the draw.

    Raises:
        ValueError: the map counts in other units (``shift``, ``scale``) than the world.
    """
    check_units(flow_map, world)
    n = check_number(n, "n", 1, integer=True)
    t = check_number(flow_map.sigma_max if t is None else t, "t", 0)
    s = check_number(flow_map.sigma_min if s is None else s, "s", 0, t)
    generator = seeded(seed)
    x0 = world.sample(n, generator=generator)
    xt = noised(x0, t, generator)
    spread = (x0.double() - world.center).square().mean().sqrt()
    return relative_error(flow_map.G(xt, t, s), world.G(xt, t, s), float(spread))


def relative_error(x: Tensor, exact: Tensor, spread: float) -> float:
    r""":math:`\sqrt{E\,|x - exact|^2} / spread`, the mean over all numbers of two tensors
    of one shape, in float64. The spread is ``sigma_data``, or what the draw has."""
    if x.shape != exact.shape:
        shape = f"the shape of exact, {tuple(exact.shape)}"
        raise ValueError(f"x must have {shape}, got {tuple(x.shape)}")
    difference = x.detach().double() - exact.detach().double()
    return float(difference.square().mean().sqrt()) / spread


def error_table(
    flow_map: FlowMap, world: GaussianMixture, times: Sequence[float], *, n: int = 2000
) -> Tensor:
    """:func:`flow_map_error` for every pair of decreasing ``times``: ``[i, j]`` is the jump
    from ``times[i]`` to ``times[j]``, NaN where ``times[j] >= times[i]``. On the CPU."""
    levels = check_schedule(times)
    rows = [
        [flow_map_error(flow_map, world, t, s, n=n) if s < t else math.nan for s in levels]
        for t in levels
    ]
    return torch.tensor(rows, dtype=torch.float32, device="cpu")


def wasserstein(x: Tensor, y: Tensor, p: int = 2) -> float:
    r"""Wasserstein distance :math:`W_p = (\min_\pi E_\pi |x - y|^p)^{1/p}` between two sets
    of points ``(n, *shape)`` and ``(m, *shape)``, exact.

    By sorting in one dimension, else by linear programming (POT's ``emd2``), which grows as
    the cube of the number of points: 2,000 take a few seconds.
    """
    p = check_number(p, "p", 1, 2, integer=True)
    a, b = pair(x, y)
    if a.shape[1] == 1:
        return float(_on_lines(a.T.numpy(), b.T.numpy(), p)[0]) ** (1 / p)
    ot = _pot()
    cost = _distances(a, b).pow(p).numpy()
    return float(ot.emd2([], [], cost, numItermax=10_000_000)) ** (1 / p)


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, projections: int = 64, seed: int = 0
) -> float:
    r"""Sliced :math:`W_2`: the root mean square of the 1-D :math:`W_2` along random
    directions (POT's). Fast at any size. Shapes as for :func:`wasserstein`."""
    projections = check_number(projections, "projections", 1, 10**6, integer=True)
    seed = check_number(seed, "seed", 0, 2**32 - 1, integer=True)
    a, b = pair(x, y)
    if a.shape[1] == 1:
        return wasserstein(x, y)
    # as POT draws them, without its import
    directions = np.random.RandomState(seed).randn(a.shape[1], projections)
    directions = (directions / np.sqrt(np.sum(directions**2, 0, keepdims=True))).T
    squares = _on_lines(directions @ a.numpy().T, directions @ b.numpy().T, 2)
    return math.sqrt(squares.mean())


def _on_lines(a: Any, b: Any, p: int) -> Any:
    r""":math:`W_p^p` between row i of ``a``, NumPy ``(lines, n)``, and row i of ``b``,
    ``(lines, m)``.

    Of sets of one size the i-th smallest goes to the i-th smallest. POT's own does the
    same, ten to twenty times slower; it is left the sets of two sizes.
    """
    if a.shape[1] == b.shape[1]:
        return (np.abs(np.sort(a) - np.sort(b)) ** p).mean(1)
    return _pot().wasserstein_1d(a.T, b.T, p=p)


def energy_distance(x: Tensor, y: Tensor) -> float:
    r""":math:`\sqrt{2 E|x - y| - E|x - x'| - E|y - y'|}` (Szekely and Rizzo 2013): 0 only
    for equal distributions. Shapes as for :func:`wasserstein`.

    Each mean runs over all pairs of the given points, a block of rows at a time.
    """
    a, b = pair(x, y)

    def mean_distance(first: Tensor, second: Tensor) -> float:
        total = sum(float(torch.cdist(rows, second).sum()) for rows in first.split(1000))
        return total / (len(first) * len(second))

    return (
        max(0.0, 2 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b)) ** 0.5
    )


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    r"""Precision and recall of samples (Kynkaanniemi et al. 2019).

    Each point of a set stands for a ball that reaches to its :math:`k`-th nearest neighbour
    in the set; the union of the balls stands for where its distribution has mass.

    .. math::

        precision = P(fake \in \textstyle\bigcup_i B(real_i)), \qquad
        recall = P(real \in \textstyle\bigcup_j B(fake_j))

    Precision falls where samples look like no data, recall where some data are never
    sampled. Both depend on the numbers of points and stay below 1 for two sets of data:
    compare with what those have.

    Args:
        real, fake: points ``(n, d)`` and ``(m, d)``, or ``(n, *shape)``, in units in which
            distances mean something.
        k: which neighbour, from 1 to the smaller of ``n`` and ``m``, less one.

    Returns:
        Precision and recall.
    """
    a, b = pair(real, fake, "real", "fake")
    k = check_number(k, "k", 1, min(len(a), len(b)) - 1, integer=True)
    return _covered(b, a, k), _covered(a, b, k)


def _covered(x: Tensor, points: Tensor, k: int) -> float:
    """The share of ``x`` in the balls of ``points``."""
    # the first neighbour of a point in its own set is itself
    radii = torch.cat(
        [_distances(part, points).kthvalue(k + 1).values for part in points.split(1000)]
    )
    inside = [(_distances(part, points) <= radii).any(1) for part in x.split(1000)]
    return float(torch.cat(inside).double().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # by differences: squares would lose the digits of close points
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _pot() -> Any:
    try:
        import ot  # here: only these distances pay for the import
    except ImportError as error:
        raise ImportError("this distance needs POT: pip install POT") from error
    return ot


METRICS: dict[str, Metric] = {
    "sliced W2": sliced_wasserstein,
    "W2": wasserstein,
    "W1": lambda x, y: wasserstein(x, y, p=1),
    "energy": energy_distance,
}
"""The distances between two sets of points, by name."""


def noise_floor(
    world: Data, metric: str = "sliced W2", *, n: int = 2000, draws: int = 8, seed: int = 0
) -> list[float]:
    """The distance between two independent true sets of ``n`` points, ``draws`` times.

    With so many points no sampler can be seen to be better than this.
    """
    return [value for _, value in _draws(None, world, metric, n, draws, seed)]


@dataclass(frozen=True)
class Ratio:
    """A distance to the data over the noise floor, with a 95% interval of the mean."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio_to_floor(
    sampler: Callable[[int, torch.Generator], Tensor],
    world: Data,
    metric: str = "sliced W2",
    *,
    n: int = 2000,
    draws: int = 8,
    seed: int = 0,
) -> Ratio:
    """Mean distance of samples to the data over the mean noise floor: 1.0 cannot be told
    from data.

    Args:
        sampler: called with a number of points and a generator, returns that many samples,
            in the units of ``world.sample`` (those of :class:`ctm.points.Points` are
            standardised).
        world: where the true sets are drawn, anything with ``sample``.
        metric: a name in :data:`METRICS`.
        n: points in each set.
        draws: independent draws. The interval is 1.96 standard errors of both means, by the
            delta method; with few draws that is a little narrow.
        seed: seed of the draws.
    """
    return ratio_of_means(_draws(sampler, world, metric, n, draws, seed))


def ratio_of_means(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The mean of the first over the mean of the second, with its interval."""
    table = np.array(pairs)
    (model, floor), errors = table.mean(0), table.std(0, ddof=1) / np.sqrt(len(table))
    mean = model / floor
    half = 1.96 * mean * np.sqrt((errors[0] / model) ** 2 + (errors[1] / floor) ** 2)
    return Ratio(float(mean), float(mean - half), float(mean + half))


def _draws(
    sampler: Callable[[int, torch.Generator], Tensor] | None,
    world: Data,
    metric: str,
    n: int,
    draws: int,
    seed: int,
) -> list[tuple[float, float]]:
    """``(samples to data, data to data)`` for each draw; without a sampler, NaN first."""
    check_choice(metric, "metric", METRICS)
    n = check_number(n, "n", 2, integer=True)
    draws = check_number(draws, "draws", 2, integer=True)
    distance = METRICS[metric]
    generator = seeded(seed)
    values = []
    for _ in range(draws):
        real, other = (world.sample(n, generator=generator) for _ in range(2))
        fake = float("nan") if sampler is None else distance(sampler(n, generator), real)
        values.append((fake, distance(other, real)))
    return values


def pair(x: Tensor, y: Tensor, name: str = "x", other: str = "y") -> tuple[Tensor, Tensor]:
    """Both sets about the mean of the first, flat, in float64 on the CPU; ``name`` and
    ``other`` are what an error calls them."""
    check_points(x, name)
    check_points(y, other, x.shape[1:])
    a, b = (part.detach().flatten(1).to("cpu", torch.float64) for part in (x, y))
    middle = a.mean(0)
    return a - middle, b - middle
