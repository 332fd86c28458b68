"""Are two sets of points from one distribution? Tests that need points alone, no truth.

Distances add the columns up: where their scales differ, compare ``data.standardise(...)``
of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctm._checks import check_choice, check_number, check_points, seeded
from ctm.metrics import METRICS, Ratio, pair, ratio_of_means
from ctm.noise import rand


class Verdict(NamedTuple):
    """What a test found, and how often chance alone finds as much where both sets are from
    one distribution."""

    value: float
    p: float


def energy_test(x: Tensor, y: Tensor, *, permutations: int = 499, seed: int = 0) -> Verdict:
    r"""A permutation test of the energy distance (Szekely and Rizzo 2013).

    With :math:`w_i = 1/n` for the points of ``x`` and :math:`-1/m` for those of ``y``, and
    :math:`D` the table of all distances, the square of
    :func:`ctm.metrics.energy_distance` is

    .. math:: 2 E|x - y| - E|x - x'| - E|y - y'| = -w^\top D\, w .

    If both are from one distribution, every order of the entries of :math:`w` is as likely
    as the true one. So ``p`` is the share of orders, the true one among them, with a
    distance as large.

    Args:
        x, y: points ``(n, *shape)`` and ``(m, *shape)``. The table holds
            :math:`(n + m)^2` numbers.
        permutations: random orders; ``p`` is at least ``1 / (permutations + 1)``.
        seed: seed of the orders.
    """
    permutations = check_number(permutations, "permutations", 1, integer=True)
    a, b = pair(x, y)
    both = torch.cat([a, b])
    weights = torch.cat(
        [a.new_full((len(a),), 1 / len(a)), b.new_full((len(b),), -1 / len(b))]
    )
    order = rand((permutations, len(both)), seeded(seed)).argsort(1)
    columns = torch.cat([weights[None], weights[order]]).T
    squares = -(columns * (torch.cdist(both, both) @ columns)).sum(0)
    # the true order may come up again, and then differs by rounding
    as_large = int((squares[1:] >= squares[0] - 1e-12 * squares[0].abs()).sum())
    return Verdict(max(0.0, float(squares[0])) ** 0.5, (1 + as_large) / (1 + permutations))


def classifier_test(
    real: Tensor, fake: Tensor, classifier: Any = None, *, seed: int = 0
) -> Verdict:
    r"""Can a classifier tell the two sets apart? (Lopez-Paz and Oquab 2017.)

    It learns on a random half of each and is asked about the other halves. If both sets are
    from one distribution, each of the ``m`` answers is right with probability 1/2, so the
    number of right ones is binomial, :math:`B(m, 1/2)`.

    Args:
        real, fake: points ``(n, *shape)``, as many of each.
        classifier: anything with scikit-learn's ``fit`` and ``predict``; if None, boosted
            trees.
        seed: seed of the halves and of the trees.

    Returns:
        The share of right answers, 1/2 where nothing can be told, and its one-sided ``p``.

    Raises:
        ValueError: not as many of each, or fewer than 4.
        ImportError: no classifier is given, and scikit-learn is not installed.
    """
    seed = check_number(seed, "seed", 0, 2**32 - 1, integer=True)
    a, b = pair(real, fake, "real", "fake")
    if len(a) != len(b) or len(a) < 4:
        got = f"got {len(a)} and {len(b)}"
        raise ValueError(f"real and fake must have as many points, 4 or more, {got}")
    if classifier is None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        classifier = HistGradientBoostingClassifier(random_state=seed)
    rng, half = seeded(seed), len(a) // 2
    points = np.concatenate(
        [part[rand((len(a),), rng).argsort()].numpy() for part in (a, b)]
    )
    is_real = np.arange(len(points)) < len(a)
    learns = np.arange(len(points)) % len(a) < half
    classifier.fit(points[learns], is_real[learns])
    right = int((classifier.predict(points[~learns]) == is_real[~learns]).sum())
    asked = int((~learns).sum())
    from scipy import stats  # only here: it takes long to import

    p = stats.binomtest(right, asked, alternative="greater").pvalue
    return Verdict(right / asked, float(p))


def ratio_to_halves(
    sampler: Callable[[int, torch.Generator], Tensor],
    held: Tensor,
    metric: str = "sliced W2",
    *,
    draws: int = 8,
    seed: int = 0,
) -> Ratio:
    """As :func:`ctm.metrics.ratio_to_floor` where there is no world to draw from, only
    points that the model has not seen.

    In each draw they are parted at random into two halves: the floor is the distance from
    one to the other, and as many samples are compared with the first. The interval is over
    the draws, so it does not know that all halves are of the same points.

    Args:
        sampler: called with a number and a generator, returns that many samples.
        held: points ``(n, *shape)`` in the units of the sampler, n >= 4.
        metric: a name in :data:`ctm.metrics.METRICS`.
        draws: how many.
        seed: seed of the draws.
    """
    check_choice(metric, "metric", METRICS)
    draws = check_number(draws, "draws", 2, integer=True)
    half = check_number(len(check_points(held, "held")), "len(held)", 4, integer=True) // 2
    distance, rng, pairs = METRICS[metric], seeded(seed), []
    for _ in range(draws):
        one, other = held[rand((len(held),), rng).argsort().to(held.device)].split(half)[:2]
        pairs.append((distance(sampler(half, rng), one), distance(other, one)))
    return ratio_of_means(pairs)


def nearest(x: Tensor, rows: Tensor) -> Tensor:
    """The distance of each point ``x`` ``(n, *shape)`` to the nearest of ``rows`` ``(m,
    *shape)``, shape ``(n,)``, in float64 on the CPU."""
    a, b = pair(x, rows, "x", "rows")
    # by a matrix product which, then by differences how far: a copy is at 0
    near = [torch.cdist(part, b).argmin(1) for part in a.split(1000)]
    return (a - b[torch.cat(near)]).norm(dim=1)


def copy_test(samples: Tensor, train: Tensor, held: Tensor) -> Verdict:
    r"""Does a model repeat its training rows? (Meehan, Chaudhuri and Dasgupta 2020, without
    their cells.)

    .. math:: P(d(sample) < d(held)), \qquad d(x) = \min_i |x - train_i|

    for a sample and a held-out row at random. A model that repeats rows lands nearer to
    them than new rows of the data do. So, however, does one whose samples keep to the
    middle of the data: look at recall as well.

    Args:
        samples, train, held: points ``(n, *shape)``, each set of its own length.

    Returns:
        That share, 1/2 for new rows, and the one-sided ``p`` of Mann and Whitney's test.
    """
    shape = check_points(train, "train").shape[1:]
    check_points(samples, "samples", shape)
    check_points(held, "held", shape)
    from scipy import stats  # only here: it takes long to import

    one, other = (nearest(x, train).numpy() for x in (samples, held))
    found = stats.mannwhitneyu(one, other, alternative="less")
    return Verdict(
        1 - float(found.statistic) / (len(one) * len(other)), float(found.pvalue)
    )
