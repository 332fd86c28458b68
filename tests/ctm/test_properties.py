"""Laws that hold for every flow map, mixture, schedule and distance, on examples that nobody chose."""

import math

import pytest
import torch
from helpers import generator
from hypothesis import given, settings
from hypothesis import strategies as st

import ctm
from ctm.losses import draw_levels, grid_times, stable_target
from ctm.metrics import energy_distance, sliced_wasserstein, wasserstein
from ctm.noise import karras_times, rho_time
from ctm.samplers import euler, gamma_sampling, heun

settings.register_profile("repeatable", max_examples=25, derandomize=True, deadline=None)
settings.load_profile("repeatable")

seeds = st.integers(0, 10_000)
fractions = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(lambda values: sorted(values, reverse=True))


@st.composite
def mixtures(draw, components=5):
    """A mixture in one to three dimensions with up to ``components`` Gaussians."""
    g, k, d = generator(draw(seeds)), draw(st.integers(1, components)), draw(st.integers(1, 3))
    weights = 0.05 + torch.rand(k, generator=g)
    return ctm.GaussianMixture(2 * torch.randn((k, d), generator=g), 0.1 + torch.rand(k, generator=g), weights)


def points(world, t, seed, n=6):
    g = generator(seed)
    x0 = world.sample(n, generator=g, dtype=torch.float64)
    return x0 + t * torch.randn(x0.shape, generator=g, dtype=torch.float64)


def times(world, shares):
    """Decreasing noise levels of a world, from shares of the way up in t^(1/7)."""
    levels = rho_time(1 - torch.tensor(shares, dtype=torch.float64), world.sigma_min, world.sigma_max)
    return levels.clamp(world.sigma_min, world.sigma_max).tolist()


@pytest.mark.slow
@given(mixtures(), fractions, seeds)
def test_the_exact_map_is_the_identity_on_the_diagonal_and_a_semigroup(world, shares, seed):
    t, u, s = times(world, shares)
    x = points(world, t, seed)
    assert torch.equal(world.G(x, t, t), x)
    torch.testing.assert_close(world.G(world.G(x, t, u), u, s), world.G(x, t, s), rtol=0, atol=1e-6 * world.sigma_data)


@pytest.mark.slow
@given(mixtures(), fractions, seeds)
def test_shifted_scaled_and_turned_data_shift_scale_and_turn_the_map(world, shares, seed):
    t, _, s = times(world, shares)
    x, g = points(world, t, seed), generator(seed + 1)
    shift = torch.randn(world.means.shape[1], generator=g, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn((len(shift), len(shift)), generator=g, dtype=torch.float64))
    c = 0.5 + 2 * torch.rand(1, generator=g).item()
    moved = ctm.GaussianMixture(c * world.means @ turn + shift, c * world.stds, world.weights)
    for before, after in (
        (world.denoiser(x, t), moved.denoiser(c * x @ turn + shift, c * t)),
        (world.G(x, t, s), moved.G(c * x @ turn + shift, c * t, c * s)),
    ):
        torch.testing.assert_close(after, c * before @ turn + shift, rtol=0, atol=2e-6 * moved.sigma_data)
    log_ratio = moved.log_prob(c * x @ turn + shift, c * t) + len(shift) * math.log(c) - world.log_prob(x, t)
    torch.testing.assert_close(log_ratio, torch.zeros(len(x), dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.slow
@given(mixtures(components=1), fractions, seeds)
def test_the_map_of_one_gaussian_is_affine(world, shares, seed):
    t, _, s = times(world, shares)
    x, mean, c = points(world, t, seed), world.means[0], world.stds[0].item()
    closed = mean + (x - mean) * math.hypot(c, s) / math.hypot(c, t)
    torch.testing.assert_close(world.G(x, t, s), closed, rtol=0, atol=1e-7 * world.sigma_data)


@pytest.mark.slow
@given(mixtures(), fractions, seeds)
def test_the_order_of_points_and_of_components_does_not_matter(world, shares, seed):
    t, _, s = times(world, shares)
    x, g = points(world, t, seed), generator(seed)
    order = torch.randperm(len(x), generator=g)
    several = torch.linspace(s, t, len(x), dtype=torch.float64)
    close = {"rtol": 0, "atol": 1e-7 * world.sigma_data}
    torch.testing.assert_close(world.G(x[order], t, several[order]), world.G(x, t, several)[order], **close)
    shuffle = torch.randperm(len(world.means), generator=g)
    same = ctm.GaussianMixture(world.means[shuffle], world.stds[shuffle], world.weights[shuffle])
    torch.testing.assert_close(same.G(x, t, s), world.G(x, t, s), **close)


@pytest.mark.slow
@given(mixtures(), fractions, seeds)
def test_float32_points_are_treated_as_their_float64_copies(world, shares, seed):
    t, _, s = times(world, shares)
    x = points(world, t, seed).float()
    for function in (lambda y: world.denoiser(y, t), lambda y: world.G(y, t, s), lambda y: world.log_prob(y, t)):
        assert function(x).dtype == torch.float32
        assert torch.equal(function(x), function(x.double()).float())


@given(mixtures(), fractions, seeds)
def test_the_score_is_the_gradient_of_the_density(world, shares, seed):
    t = times(world, shares)[0]
    x = points(world, t, seed).requires_grad_(True)
    gradient = torch.autograd.grad(world.log_prob(x, t).sum(), x)[0]
    torch.testing.assert_close(world.score(x.detach(), t), gradient, rtol=1e-6, atol=1e-6 / t)


@given(st.integers(1, 4), fractions, seeds)
def test_any_network_makes_a_map_with_the_right_boundary(dim, shares, seed):
    model = ctm.CTM(ctm.networks.MLP(dim, width=16, layers=2, seed=seed), 0.5).requires_grad_(False)
    t, u, s = times(model, shares)
    x, g = 10 * torch.randn((6, dim), generator=generator(seed)), generator(seed)
    assert torch.equal(model.G(x, t, t), x)
    torch.testing.assert_close(model.denoiser(x, t), model.g(x, t, t))
    order = torch.randperm(len(x), generator=g)
    several = torch.linspace(s, t, len(x))
    torch.testing.assert_close(model.G(x[order], t, several[order]), model.G(x, t, several)[order], rtol=1e-4, atol=1e-4)
    if u < t:  # the jump is the straight step towards g
        direction = (x - model.g(x, t, u)) / t
        torch.testing.assert_close(model.G(x, t, u), x + (u - t) * direction, rtol=1e-4, atol=1e-4)


@given(fractions, seeds)
def test_a_model_in_float64_agrees_with_itself_in_float32(shares, seed):
    model = ctm.CTM(ctm.networks.MLP(2, width=32, layers=3, seed=seed), 0.5).requires_grad_(False)
    t, _, s = times(model, shares)
    x = 10 * torch.randn((6, 2), generator=generator(seed))
    single = model.G(x, t, s)
    double = model.double().G(x.double(), t, s)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@given(mixtures(components=3), st.integers(1, 4), seeds)
def test_deterministic_jumps_of_the_exact_map_meet_in_one(world, n, seed):
    grid = karras_times(n, world.sigma_min, world.sigma_max).tolist()
    x = points(world, world.sigma_max, seed)
    once = world.G(x, world.sigma_max, world.sigma_min)
    torch.testing.assert_close(gamma_sampling(world, x, grid), once, rtol=0, atol=1e-6 * world.sigma_data)


@given(mixtures(components=1), st.floats(0.05, 1), seeds)
def test_one_step_of_a_solver_on_one_gaussian_by_hand(world, share, seed):
    t = world.sigma_max
    u = share * t * (1 - 1e-3)
    x, mean, variance = points(world, t, seed), world.means[0], world.stds[0].item() ** 2
    v = (x - mean) * t / (t**2 + variance)
    guess = x + (u - t) * v
    after = x + (u - t) / 2 * (v + (guess - mean) * u / (u**2 + variance))
    close = {"rtol": 1e-9, "atol": 1e-9 * t}
    torch.testing.assert_close(euler(world, x, [t, u]), guess, **close)
    torch.testing.assert_close(heun(world, x, [t, u]), after, **close)


@given(st.integers(1, 60), st.floats(1e-3, 1), st.floats(1.5, 1e4))
def test_schedules_run_from_end_to_end(n, low, ratio):
    grid = karras_times(n, low, low * ratio)
    assert (len(grid), grid[0].item(), grid[-1].item()) == (n + 1, low * ratio, low)
    assert bool((grid[1:] < grid[:-1]).all())
    roots = grid ** (1 / 7)
    torch.testing.assert_close(roots[:-1] - roots[1:], ((roots[0] - roots[-1]) / n).expand(n), rtol=1e-6, atol=1e-12)


@given(st.sampled_from(["local", "soft", "global"]), st.integers(2, 40), st.floats(0, 1), st.floats(0, 1), seeds)
def test_the_times_of_every_pair_run_down(kind, levels, from_noise, to_data, seed):
    g = generator(seed)
    drawn = draw_levels(64, levels, kind, from_noise, to_data, g)
    offset = torch.rand(64, generator=g)
    t, u, s = (grid_times(k, levels, offset, 0.002, 10.0) for k in drawn)
    assert bool((t > u).all())
    assert bool((u >= s).all())
    assert s.min() >= 0.002
    assert t.max() <= 10.0
    if kind == "global":
        assert torch.equal(u, s)


@given(st.integers(1, 3), seeds)
def test_distances_are_distances(dim, seed):
    g = generator(seed)
    x, y, z = (torch.randn((40, dim), generator=g) * (0.5 + k) for k in range(3))
    shift = torch.randn(dim, generator=g)
    for distance in (wasserstein, sliced_wasserstein, energy_distance):
        assert distance(x, x) == pytest.approx(0, abs=2e-3)
        assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-6)
        assert distance(x + shift, y + shift) == pytest.approx(distance(x, y), rel=1e-3)
        assert distance(3 * x, 3 * y) == pytest.approx(
            distance(x, y) * (3**0.5 if distance is energy_distance else 3), rel=1e-3
        )
        assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-6
    assert sliced_wasserstein(x, y) <= wasserstein(x, y) + 1e-6
    assert wasserstein(x, y, p=1) <= wasserstein(x, y, p=2) + 1e-6


@given(st.integers(1, 3), st.floats(0.01, 10), seeds)
def test_a_stable_target_is_a_mean_of_its_candidates(dim, t, seed):
    g = generator(seed)
    x0, others = torch.randn((5, dim), generator=g), torch.randn((20, dim), generator=g)
    xt = x0 + t * torch.randn((5, dim), generator=g)
    goal = stable_target(xt, torch.full((5, 1), t), x0, others)
    for row, own in zip(goal, x0, strict=True):
        candidates = torch.cat([own[None], others])
        assert bool((row >= candidates.min(0).values - 1e-4).all())
        assert bool((row <= candidates.max(0).values + 1e-4).all())
