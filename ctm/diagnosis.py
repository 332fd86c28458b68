"""What is wrong with a flow map? Checks of its laws and of its samples, from cause to
symptom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, starmap
from typing import Any

import torch
from torch import Tensor

from ctm._checks import (
    NonFiniteError,
    check_data,
    check_number,
    check_points,
    check_units,
    seeded,
)
from ctm.flow_map import Data, FlowMap
from ctm.metrics import ratio_to_floor
from ctm.noise import randn, randn_like, rho_time
from ctm.samplers import center

ADVICE = {
    "boundary": "G(x, t, t) is not x. Is the skip built in? Do both branches see one time?",
    "slope": "a jump does not start along its own denoiser. Is (x, t, t) ever trained?",
    "regression": "the denoiser is worse than a line. Look at scalings and noise levels.",
    "orthogonality": "the denoiser is no posterior mean. Is its target x_0, at that level?",
    "direction": "jumps do not go to the data. Print t, u, s of a batch: t > u >= s? "
    "Does the teacher move, in fine enough steps? Are the data scaled to sigma_data?",
    "semigroup": "two jumps do not meet one. Print t, u, s of a batch: t > u >= s? "
    "Is every pair drawn, the target held still, the teacher's solver fine enough?",
    "spread": "points land too wide or narrow. Are all axes scaled alike?",
    "samples": "jumps are sound, samples not. Do they start at sigma_max?",
}
"""What to look at first, by the name of the check."""

FRACTIONS = (0.0, 0.23, 0.47, 0.71, 1.0)
"""Where the noise levels lie between noise and data; off the usual grids, on which a model
may be better than between."""


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
        limits = f"sound from {self.low:.3g} to {self.high:.3g}"
        return f"{colour}  {self.name:<14} {limits}: ~ {self.value:.3g}"


@dataclass(frozen=True)
class Report:
    """The checks in the order in which a cause shows: print it (plain ASCII)."""

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
        end = f"Look first at {first.name}: {ADVICE[first.name]}" if first else "All sound."
        return "\n".join([*map(str, self.checks), end])


@dataclass(frozen=True)
class Trial:
    """What a check looks at: a flow map, clean points ``x0`` and one draw ``eps`` of
    noise."""

    flow_map: FlowMap
    x0: Tensor
    eps: Tensor

    def at(self, t: float) -> Tensor:
        r"""The noised points :math:`x_t = x_0 + t\,\epsilon`."""
        return self.x0 + t * self.eps


def boundary(trial: Trial, t: float) -> float:
    r""":math:`|G(x_t, t, t) - x_t| / \sqrt{t^2 + \sigma^2}`: 0, as no jump moves
    nothing."""
    x = trial.at(t)
    return _rms(trial.flow_map.G(x, t, t) - x) / math.hypot(t, trial.flow_map.sigma_data)


def slope(trial: Trial, t: float) -> float:
    r""":math:`|g - D(x_t, t)| / \sigma` with
    :math:`g = x_t - (x_t - G(x_t, t, r))\, t/(t - r)` and :math:`r = 0.98\, t`: does the
    jump start along its own denoiser?"""
    x, r, model = trial.at(t), 0.98 * t, trial.flow_map
    g = x - (x - model.G(x, t, r)) * t / (t - r)
    return _rms(g - model.denoiser(x, t)) / model.sigma_data


def direction(trial: Trial, t: float, s: float) -> float:
    r""":math:`E\langle G(x_t, t, s) - x_t,\, x_0 - x_t \rangle / E|x_0 - x_t|^2` over
    :math:`1 - \sqrt{s^2 + \sigma^2} / \sqrt{t^2 + \sigma^2}`: near 1 for jumps towards the
    data, 0 for none, below 0 for jumps away. For :math:`s \ge \sigma/2`."""
    x, sd = trial.at(t), trial.flow_map.sigma_data
    way = trial.x0 - x
    share = ((trial.flow_map.G(x, t, s) - x) * way).sum() / way.square().sum()
    return float(share) / (1 - math.hypot(s, sd) / math.hypot(t, sd))


def regression(trial: Trial, t: float) -> float:
    r""":math:`E|D(x_t, t) - x_0|^2` over that of the straight line
    :math:`\bar x_0 + (x_t - \bar x_0)\, \sigma^2 / (t^2 + \sigma^2)`: at most 1 for a
    posterior mean."""
    x, mean, variance = trial.at(t), trial.x0.mean(0), trial.flow_map.sigma_data**2
    line = mean + variance / (variance + t**2) * (x - mean)
    return (_rms(trial.flow_map.denoiser(x, t) - trial.x0) / _rms(line - trial.x0)) ** 2


def orthogonality(trial: Trial, t: float) -> float:
    r""":math:`|E\langle x_0 - D, D - \bar x_0 \rangle| / E|x_0 - \bar x_0|^2`: 0 for a
    posterior mean, whose error is no function of what it saw."""
    guess, mean = trial.flow_map.denoiser(trial.at(t), t), trial.x0.mean(0)
    cross = ((trial.x0 - guess) * (guess - mean)).sum()
    return abs(float(cross / (trial.x0 - mean).square().sum()))


def semigroup(trial: Trial, t: float, u: float, s: float) -> float:
    r""":math:`|G(G(x_t, t, u), u, s) - G(x_t, t, s)| / \sigma`: two jumps meet one."""
    model, x = trial.flow_map, trial.at(t)
    return _rms(model.G(model.G(x, t, u), u, s) - model.G(x, t, s)) / model.sigma_data


def spread(trial: Trial, t: float, s: float) -> tuple[float, float]:
    r"""The standard deviation of :math:`G(x_t, t, s)` over that of :math:`x_s`, of the
    coordinate where it misses 1 by most (images count as one coordinate: their pixels share
    a scale), and by how much it may: :math:`0.05 + z\,e`. The standard error :math:`e` of a
    ratio of ``n`` points each is at least :math:`1/\sqrt{n}`, and more for heavy tails;
    among ``k`` coordinates the farthest is looked at, so
    :math:`z = \sqrt{9 + 2 \log k}`."""
    deviations, errors, least = [], [], len(trial.x0) ** -0.5
    for points in (trial.flow_map.G(trial.at(t), t, s), trial.at(s)):
        squares = (points - points.mean(0)).square().flatten(1)
        squares = squares if points.ndim == 2 else squares.mean(1, keepdim=True)
        deviations.append(squares.mean(0).sqrt())
        errors.append(squares.std(0) / (2 * deviations[-1] * math.sqrt(len(points))))
    ratio, error = deviations[0] / deviations[1], torch.hypot(*errors) / deviations[1]
    slack = 0.05 + math.sqrt(9 + 2 * math.log(len(ratio))) * error.nan_to_num(0).clamp(
        min=least
    )
    worst = int(((ratio - 1).abs() / slack).argmax())
    return float(ratio[worst]), float(slack[worst])


def samples(trial: Trial, data: Data, seed: int) -> float:
    r""":func:`ctm.metrics.ratio_to_floor` of one jump from pure noise, in sliced
    :math:`W_2`."""
    model, x0 = trial.flow_map, trial.x0

    def one_jump(m: int, rng: torch.Generator) -> Tensor:
        eps = randn((m, *x0.shape[1:]), rng, dtype=x0.dtype, device=x0.device)
        return model.G(
            center(model, x0) + model.sigma_max * eps, model.sigma_max, model.sigma_min
        )

    return ratio_to_floor(one_jump, data, n=len(x0), draws=4, seed=seed).mean


@torch.no_grad()
def doctor(flow_map: FlowMap, data: Data, *, n: int = 2000, seed: int = 0) -> Report:
    r"""Check a flow map against its laws and against its data. Nothing exact is needed,
    only samples: :func:`boundary`, :func:`slope`, :func:`direction`, :func:`regression`,
    :func:`orthogonality`, :func:`semigroup`, :func:`spread` and :func:`samples`.

    Points are :math:`x_t = x_0 + t\,\epsilon` at five noise levels (``FRACTIONS``, in
    :math:`t^{1/7}`); :math:`\sigma` is ``sigma_data``; bars are a root mean square. Each
    figure is the one farthest from sound over the levels.

    Args:
        flow_map: anything with ``G``, ``denoiser``, ``sigma_min``, ``sigma_max`` and
            ``sigma_data``. A conditional model is looked at without a condition, which it
            learns only where labels are hidden (:class:`ctm.conditional.Guided`): else give
            ``model.given(c)`` and ``data.of_class(c)``.
        data: where :math:`x_0` is drawn, anything with ``sample`` in the model's
            coordinates: a world, or the :class:`ctm.points.Points` that the model was
            trained on.
        n: points for each check.
        seed: seed of the draws.

    Returns:
        The report. Its limits are kept by models that err by a few per cent.

    Raises:
        TypeError: ``flow_map`` or ``data`` lacks what is named above.
        ValueError: the data are in other units (``shift``, ``scale``) than the model.
    """
    for name in ("G", "denoiser", "sigma_min", "sigma_max", "sigma_data"):
        if not hasattr(flow_map, name):
            raise TypeError(f"flow_map must have {name}, got {type(flow_map).__name__}")
    check_data(data)
    check_units(flow_map, data)
    n = check_number(n, "n", 10, integer=True)
    rng = seeded(seed)
    x0 = check_points(data.sample(n, generator=rng), "data.sample(n)")
    trial = Trial(flow_map, x0, randn_like(x0, rng))
    limits = flow_map.sigma_min, flow_map.sigma_max
    fractions = torch.tensor(FRACTIONS, dtype=torch.float64, device="cpu")
    levels = rho_time(fractions, *limits).tolist()
    levels[-1], levels[0] = limits  # not the rounded seventh powers
    pairs = list(combinations(levels, 2))
    far = [(t, s) for t, s in pairs if s >= 0.5 * flow_map.sigma_data] or pairs[:1]

    alone = [(t,) for t in levels[:-1]]  # below sigma_min there is nothing to look at
    rows: list[tuple[float, float, Callable[..., float], list[Any]]] = [
        (0, 1e-4, boundary, [(t,) for t in levels]),
        (0, 0.2, slope, alone),
        (0.9, 1.1, direction, far),
        (0, 1.05, regression, alone),
        (0, 0.1, orthogonality, alone),
        (0, 0.15, semigroup, list(combinations(levels, 3))),
    ]
    checks = []
    for low, high, figure, times in rows:
        figures = [partial(figure, trial, *where) for where in times]
        checks.append(_check(figure.__name__, figures, low, high))
    ratio, slack = max(
        starmap(partial(spread, trial), pairs), key=lambda r: _off(r[0]) / r[1]
    )
    checks.append(Check("spread", ratio, 1 - slack, 1 + slack))
    checks.append(_check("samples", [partial(samples, trial, data, seed)], 0, 2.5))
    return Report(tuple(checks))


def _check(
    name: str, figures: Sequence[Callable[[], float]], low: float, high: float
) -> Check:
    """The figure farthest from what is sound: from 1 where it may miss on both sides, else
    from 0. NaN is farthest of all; it is also said of a map that was to go on from NaN."""
    try:
        values = [figure() for figure in figures]
    except NonFiniteError:
        values = [math.nan]
    return Check(name, max(values, key=_off if low else lambda v: _off(v + 1)), low, high)


def _off(value: float) -> float:
    return math.inf if math.isnan(value) else abs(value - 1)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
