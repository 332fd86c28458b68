"""Distances with known answers."""

import math
import statistics

import ot
import pytest
import torch
from helpers import generator
from scipy import stats

import ctm
from ctm.closed_forms import AffineMap
from ctm.metrics import (
    energy_distance,
    error_table,
    flow_map_error,
    noise_floor,
    ratio_to_floor,
    sliced_wasserstein,
    wasserstein,
)


def test_a_shifted_set_is_as_far_as_the_shift():
    x = torch.randn(300, 2, generator=generator())
    shift = torch.tensor([0.3, -0.4])
    assert wasserstein(x, x + shift) == pytest.approx(0.5, rel=1e-5)
    assert wasserstein(x, x + shift, p=1) == pytest.approx(0.5, rel=1e-5)
    # along a random direction the shift is seen as |shift| cos(angle), whose mean square is |shift|^2 / 2
    for points in (x, x[:1]):
        assert sliced_wasserstein(points, points + shift, projections=4000) == pytest.approx(0.5 / math.sqrt(2), rel=0.03)


def test_one_dimension_by_sorting():
    g = generator()
    x, y = torch.randn(400, 1, generator=g, dtype=torch.float64), torch.rand(400, 1, generator=g, dtype=torch.float64)
    a, b = x.flatten().sort().values, y.flatten().sort().values
    assert wasserstein(x, y) == pytest.approx((a - b).square().mean().sqrt().item())
    assert wasserstein(x, y, p=1) == pytest.approx(stats.wasserstein_distance(a, b))
    assert sliced_wasserstein(x, y) == pytest.approx(wasserstein(x, y))


@pytest.mark.parametrize("other", [400, 300])  # of one size, and of two
def test_distances_along_lines_are_pots(other):
    x, y = torch.randn(400, 3, generator=generator()), torch.rand(other, 3, generator=generator(1))
    of_pot = ot.sliced_wasserstein_distance(x.double().numpy(), y.double().numpy(), n_projections=64, seed=5)
    assert sliced_wasserstein(x, y, seed=5) == pytest.approx(of_pot, rel=1e-6)
    a, b = (points[:, :1] for points in (x, y))
    assert wasserstein(a, b, p=1) == pytest.approx(stats.wasserstein_distance(a.flatten(), b.flatten()), rel=1e-6)
    by_programming = ot.emd2([], [], ot.dist(a.double().numpy(), b.double().numpy()))
    assert wasserstein(a, b) ** 2 == pytest.approx(by_programming, rel=1e-6)


def test_energy_distance_is_scipys():
    x, y = torch.randn(1500, 1, generator=generator()), 0.5 + 2 * torch.randn(1200, 1, generator=generator(1))
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(x.flatten().numpy(), y.flatten().numpy()), rel=1e-5)
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_flow_map_error():
    world = ctm.data.one_gaussian()
    assert flow_map_error(world, world, n=200) < 1e-6
    assert flow_map_error(AffineMap(0.5, 0.5), world, n=200) < 1e-6

    class Off(AffineMap):
        def G(self, x, t, s):
            return super().G(x, t, s) + 0.01

    # relative to the spread about the mean of the world, 0.5, not to the second moment
    size = (world.sample(4000, generator=generator()) - 0.5).square().mean().sqrt().item()
    assert flow_map_error(Off(0.5, 0.5), world, 3.0, 0.1) == pytest.approx(0.01 / size, rel=1e-3)
    table = error_table(Off(0.5, 0.5), world, [3.0, 1.0, 0.1], n=4000)
    assert torch.isnan(table).sum() == 6
    assert table[0, 2] == pytest.approx(0.01 / size, rel=1e-3)


@pytest.mark.parametrize("metric", ["sliced W2", "W2", "energy"])
def test_true_samples_score_one_and_wrong_ones_more(metric):
    world = ctm.data.ring()
    ratio = ratio_to_floor(lambda n, g: world.sample(n, generator=g), world, metric, n=400, draws=12)
    assert ratio.low < 1 < ratio.high
    wrong = ratio_to_floor(lambda n, g: 1.3 * world.sample(n, generator=g), world, metric, n=400, draws=6)
    assert wrong.low > 1.5
    assert "[" in str(wrong)


def test_noise_floor_falls_with_the_number_of_points():
    world = ctm.data.two_gaussians()
    few, many = (sum(noise_floor(world, "W1", n=n, draws=16)) for n in (100, 6400))
    assert few / many == pytest.approx(8.0, rel=0.5)
    assert noise_floor(world, n=50, draws=3, seed=1) == noise_floor(world, n=50, draws=3, seed=1)


def test_the_interval_of_a_ratio_recomputed(monkeypatch):
    model, floor = [2.0, 3.0, 2.5], [1.0, 1.5, 0.8]
    values = iter([value for pair in zip(model, floor, strict=True) for value in pair])
    monkeypatch.setitem(ctm.metrics.METRICS, "W1", lambda x, y: next(values))
    ratio = ratio_to_floor(lambda n, g: None, ctm.data.one_gaussian(), "W1", n=2, draws=3)
    mean, errors = statistics.mean(model) / statistics.mean(floor), []
    for part in (model, floor):
        errors.append(statistics.stdev(part) / math.sqrt(3) / statistics.mean(part))
    assert ratio.mean == pytest.approx(mean)
    assert ratio.high - ratio.mean == pytest.approx(1.96 * mean * math.hypot(*errors))
    assert ratio.mean - ratio.low == pytest.approx(1.96 * mean * math.hypot(*errors))


def test_the_same_points_in_another_order_are_at_no_distance():
    for seed in range(20):  # rounding may take the square of the distance below 0
        x = torch.randn(50, 2, generator=generator(seed))
        distance = energy_distance(x, x.flip(0))
        assert isinstance(distance, float)
        assert 0 <= distance < 1e-6


def test_the_error_of_a_map_that_misses_in_proportion_to_its_point():
    class Off(AffineMap):
        def G(self, x, t, s):
            return super().G(x, t, s) + 0.01 * x

    # E|x_t|^2 = E|x_0|^2 + t^2, with E|x_0|^2 = 0.5^2 + 0.5^2 and a spread of 0.5
    for t in (0.5, 3.0):
        expected = 0.01 * math.sqrt(0.5 + t**2) / 0.5
        assert flow_map_error(Off(0.5, 0.5), ctm.data.one_gaussian(), t, 0.1, n=10_000) == pytest.approx(expected, rel=0.02)
