"""What is wrong with a flow map? Checks of its laws and of its samples, from cause to symptom, in a plain report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, starmap

import torch
from torch import Tensor

from ctm._checks import NonFiniteError, check_number, check_points, seeded
from ctm.flow_map import FlowMap
from ctm.metrics import ratio_to_floor
from ctm.flow_map import Data
from ctm.noise import rho_time

ADVICE = {
    "boundary": "G(x, t, t) is not x. Is the skip built in, and are the times of the two branches the same?",
    "slope": "the jump does not start along its own denoiser. Is (x, t, t) ever trained? Do t and s enter alike?",
    "regression": "the denoiser is worse than a straight line. Look at its scalings, its noise levels, its learning rate.",
    "orthogonality": "the denoiser is no posterior mean. Is its target x_0, at the noise level it is told?",
    "direction": "jumps do not go from noise to data. Print t, u and s of a batch: t > u >= s? Does the teacher move?",
    "semigroup": "two jumps do not meet one. Is every pair (t, s) trained? Is the teacher's solver fine enough?",
    "spread": "points land with the wrong variance. Are targets averaged, or the gradient let through them?",
    "samples": "single jumps are sound and samples are not. Does sampling start at sigma_max, with the averaged weights?",
}
"""What to look at first, by the name of the check."""


FRACTIONS = (0.0, 0.23, 0.47, 0.71, 1.0)
"""Where the noise levels lie between noise and data; off the usual grids, on which a model may be better than between."""


@dataclass(frozen=True)
class Check:
    """One line of the report: a figure and the range in which it is sound."""

    name: str
    value: float
    low: float
    high: float

    @property
    def sound(self) -> bool:
        """Whether the figure lies in its range; NaN does not."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        colour = "ok " if self.sound else "RED"
        return f"{colour}  {self.name:<14} sound from {self.low:.3g} to {self.high:.3g}: ≈ {self.value:.3g}"


@dataclass(frozen=True)
class Report:
    """The checks in the order in which a cause shows: print it."""

    checks: tuple[Check, ...]

    @property
    def first_red(self) -> Check | None:
        """The first check that fails; those after it may be its consequences."""
        return next((check for check in self.checks if not check.sound), None)

    @property
    def red(self) -> list[str]:
        """The names of all checks that fail."""
        return [check.name for check in self.checks if not check.sound]

    def __str__(self) -> str:
        first = self.first_red
        return "\n".join(
            [*map(str, self.checks), f"Look first at {first.name}: {ADVICE[first.name]}" if first else "All sound."]
        )


@torch.no_grad()
def doctor(flow_map: FlowMap, data: Data, *, n: int = 2000, seed: int = 0) -> Report:
    r"""Check a flow map against its laws and against its data. Nothing exact is needed, only samples.

    Points are :math:`x_t = x_0 + t\,\epsilon` at five noise levels (``FRACTIONS``, in :math:`t^{1/7}`); :math:`\sigma` is
    ``sigma_data``; bars are a root mean square. Each figure is the one farthest from sound over the levels.

    - *boundary*: :math:`|G(x_t, t, t) - x_t| / \sqrt{t^2 + \sigma^2}`;
    - *slope*: :math:`|x_t - (x_t - G(x_t, t, r))\, t/(t - r) - D(x_t, t)| / \sigma` with :math:`r = 0.98\, t`: does the jump
      start along its own denoiser?
    - *direction*: :math:`E\langle G(x_t, t, s) - x_t,\, x_0 - x_t \rangle / E|x_0 - x_t|^2` over
      :math:`1 - \sqrt{s^2 + \sigma^2} / \sqrt{t^2 + \sigma^2}`, for :math:`s \ge \sigma/2`: near 1 for jumps towards the
      data, 0 for none, below 0 for jumps away;
    - *regression*: :math:`E|D(x_t, t) - x_0|^2` over that of the straight line
      :math:`\bar x_0 + (x_t - \bar x_0)\, \sigma^2 / (t^2 + \sigma^2)`: at most 1 for a posterior mean;
    - *orthogonality*: :math:`|E\langle x_0 - D, D - \bar x_0 \rangle| / E|x_0 - \bar x_0|^2`: 0 for a posterior mean;
    - *semigroup*: :math:`|G(G(x_t, t, u), u, s) - G(x_t, t, s)| / \sigma`;
    - *spread*: the standard deviation of :math:`G(x_t, t, s)` over that of :math:`x_s`; as both are of ``n`` points, it may
      miss 1 by :math:`0.05 + 3 / \sqrt{n}`;
    - *samples*: :func:`ctm.metrics.ratio_to_floor` of one jump from pure noise, in sliced :math:`W_2`.

    Args:
        flow_map: anything with ``G``, ``denoiser``, ``sigma_min``, ``sigma_max`` and ``sigma_data``.
        data: where :math:`x_0` is drawn, anything with ``sample``.
        n: points for each check.
        seed: seed of the draws.

    Returns:
        The report. Its limits are kept by models that err by a few per cent.

    Raises:
        TypeError: ``flow_map`` or ``data`` lacks what is named above.
    """
    for name in ("G", "denoiser", "sigma_min", "sigma_max", "sigma_data"):
        if not hasattr(flow_map, name):
            raise TypeError(f"flow_map must have {name}, got {type(flow_map).__name__}")
    if not callable(getattr(data, "sample", None)):
        raise TypeError(f"data must have a method sample, got {type(data).__name__}")
    check_number(n, "n", 10, integer=True)
    generator = seeded(seed)
    x0 = check_points(data.sample(n, generator=generator), "data.sample(n)")
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    centre, sd = x0.mean(0), flow_map.sigma_data
    limits = flow_map.sigma_min, flow_map.sigma_max
    levels = rho_time(torch.tensor(FRACTIONS, dtype=torch.float64), *limits).clamp(*limits).tolist()
    pairs = list(combinations(levels, 2))
    far = [(t, s) for t, s in pairs if s >= 0.5 * sd] or pairs[:1]

    def at(t: float) -> Tensor:
        return x0 + t * eps

    def slope(t: float) -> float:
        x, r = at(t), 0.98 * t
        return _rms(x - (x - flow_map.G(x, t, r)) * t / (t - r) - flow_map.denoiser(x, t)) / sd

    def regression(t: float) -> float:
        line = centre + sd**2 / (sd**2 + t**2) * (at(t) - centre)
        return (_rms(flow_map.denoiser(at(t), t) - x0) / _rms(line - x0)) ** 2

    def orthogonality(t: float) -> float:
        guess = flow_map.denoiser(at(t), t)
        return abs(float(((x0 - guess) * (guess - centre)).sum() / (x0 - centre).square().sum()))

    def direction(t: float, s: float) -> float:
        way = x0 - at(t)
        share = float(((flow_map.G(at(t), t, s) - at(t)) * way).sum() / way.square().sum())
        return share / (1 - math.hypot(s, sd) / math.hypot(t, sd))

    def semigroup(t: float, u: float, s: float) -> float:
        return _rms(flow_map.G(flow_map.G(at(t), t, u), u, s) - flow_map.G(at(t), t, s)) / sd

    def spread(t: float, s: float) -> float:
        landed = flow_map.G(at(t), t, s)
        return float(landed.std(0).norm() / at(s).std(0).norm())

    def samples() -> float:
        def one_jump(m: int, rng: torch.Generator) -> Tensor:
            start = flow_map.sigma_max * torch.randn((m, *x0.shape[1:]), generator=rng, dtype=x0.dtype)
            return flow_map.G(start, flow_map.sigma_max, flow_map.sigma_min)

        return ratio_to_floor(one_jump, data, n=n, draws=4, seed=seed).mean

    def check(name: str, low: float, high: float, figure: Callable[[], float]) -> Check:
        try:
            return Check(name, figure(), low, high)
        except NonFiniteError:  # the map returned NaN or infinity, and was asked to go on from there
            return Check(name, math.nan, low, high)

    def boundary(t: float) -> float:
        return _rms(flow_map.G(at(t), t, t) - at(t)) / math.hypot(t, sd)

    def off(value: float) -> float:
        return abs(value - 1)

    inner = levels[:-1]  # below sigma_min there is nothing to look at
    slack = 0.05 + 3 / math.sqrt(n)
    return Report(
        (
            check("boundary", 0, 1e-4, lambda: max(map(boundary, levels))),
            check("slope", 0, 0.2, lambda: max(map(slope, inner))),
            check("direction", 0.9, 1.1, lambda: max(starmap(direction, far), key=off)),
            check("regression", 0, 1.05, lambda: max(map(regression, inner))),
            check("orthogonality", 0, 0.1, lambda: max(map(orthogonality, inner))),
            check("semigroup", 0, 0.15, lambda: max(starmap(semigroup, combinations(levels, 3)))),
            check("spread", 1 - slack, 1 + slack, lambda: max(starmap(spread, pairs), key=off)),
            check("samples", 0, 2.5, samples),
        )
    )


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
