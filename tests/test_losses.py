"""The loss terms recomputed by hand, and judged with the exact map in the student's place."""

import copy

import pytest
import torch
from helpers import exact_ctm, generator, noised, rho_fraction

import ctm
from ctm.losses import adaptive_weight, consistency_loss, dsm_loss, stable_target
from ctm.pairs import Levels, Pairs, Route, Trajectories, draw_levels, fresh_pairs, grid_times, noised_points
from ctm.solvers import euler_step, heun_step

LIMITS = (0.002, 10.0)


def model(seed=0):
    return ctm.CTM(ctm.networks.MLP(2, width=16, layers=2, seed=seed), 0.5).double()


def pairs(n=32, u=None, s=0.3):
    """A batch from t = 2, solved exactly."""
    world, column = ctm.data.ring(), torch.ones(n, 1, dtype=torch.float64)
    xt, u = noised(world, 2.0, n=n), s if u is None else u
    return Pairs(xt, 2.0 * column, world.G(xt, 2.0, u), u * column, s * column)


def test_consistency_loss_recomputed():
    student, target, batch = model(1), model(2), pairs(u=0.8)
    goal = target.G(batch.xu, 0.8, 0.3)
    scale = 2.0 * 0.5 / (2.0**2 + 0.5**2) ** 0.5 * (1 - 0.3 / 2.0)  # c_out(t) (1 - s/t)
    expected = ((student.G(batch.xt, 2.0, 0.3) - goal) / scale).square().mean()
    assert torch.allclose(consistency_loss(student, target, batch), expected)
    end, goal_end = (target.G(x, 0.3, target.sigma_min) for x in (student.G(batch.xt, 2.0, 0.3), goal))
    assert torch.allclose(consistency_loss(student, target, batch, "x0"), ((end - goal_end) / scale).square().mean())


@pytest.mark.parametrize("compare", ["s", "x0"])
def test_no_gradient_reaches_the_target_and_the_students_is_that_of_the_definition(compare):
    student, target, batch = model(1), model(2).requires_grad_(False), pairs(u=0.8)
    consistency_loss(student, target, batch, compare).backward()
    assert all(weights.grad is None for weights in target.parameters())
    weights = student.last_layer
    h, direction = 1e-6, torch.randn(weights.shape, generator=generator(), dtype=torch.float64)
    slope = (weights.grad * direction).sum()
    with torch.no_grad():
        weights.add_(h * direction)
        above = consistency_loss(student, target, batch, compare)
        weights.sub_(2 * h * direction)
        below = consistency_loss(student, target, batch, compare)
    assert torch.allclose((above - below) / (2 * h), slope, rtol=1e-6)


def test_the_student_as_its_own_target_is_held_still():
    student, batch = model(1), pairs(u=0.8)
    frozen = copy.deepcopy(student).requires_grad_(False)
    gradients = [
        torch.autograd.grad(consistency_loss(student, target, batch), student.last_layer)[0] for target in (student, frozen)
    ]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("compare", ["s", "x0"])
@pytest.mark.parametrize("u", [0.3, 0.8, 1.9])
def test_the_exact_map_has_no_consistency_loss(compare, u):
    exact = exact_ctm(ctm.data.ring())
    assert consistency_loss(exact, exact, pairs(u=u), compare) < 1e-12
    # and an untrained one has, as has the exact one with the identity in the teacher's place
    assert consistency_loss(model(), exact, pairs(u=u), compare) > 0.1
    stuck = pairs(u=u)._replace(xu=pairs(u=u).xt)
    assert consistency_loss(exact, exact, stuck, compare) > 1e-5


def test_no_target_jump_is_made_where_the_teachers_step_ends_at_s():
    student, batch = model(1), pairs(u=0.3, s=0.3)

    class NoTarget:
        def G(self, x, t, s):
            raise AssertionError("there is nothing left to jump")

    scale = 2.0 * 0.5 / (2.0**2 + 0.5**2) ** 0.5 * (1 - 0.3 / 2.0)
    expected = ((student.G(batch.xt, 2.0, 0.3) - batch.xu) / scale).square().mean()
    assert torch.allclose(consistency_loss(student, NoTarget(), batch), expected)


def test_dsm_loss_recomputed_and_least_at_the_posterior_mean():
    world, n, g = ctm.data.ring(), 4000, generator()
    x0 = world.sample(n, generator=g, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=g, dtype=torch.float64)
    t = 0.1 + torch.rand((n, 1), generator=g, dtype=torch.float64)
    exact = exact_ctm(world)
    xt, weight = x0 + t * noise, (t**2 + 0.25) / (t**2 * 0.25)
    expected = (weight * (world.denoiser(xt, t) - x0) ** 2).mean()
    loss = dsm_loss(exact, x0, noise, t)
    assert torch.allclose(loss, expected)
    for scale in (0.9, 1.1):
        with torch.no_grad():
            exact.network.scale.fill_(scale)
        assert dsm_loss(exact, x0, noise, t) > loss


def test_stable_target_recomputed():
    g = generator()
    x0, references = (torch.randn(n, 2, generator=g, dtype=torch.float64) for n in (5, 7))
    t = torch.tensor([0.01, 0.1, 0.5, 1.0, 8.0], dtype=torch.float64)[:, None]
    xt = x0 + t * torch.randn(5, 2, generator=g, dtype=torch.float64)
    target = stable_target(xt, t, x0, references)
    for i in range(5):
        points = torch.cat([x0[i : i + 1], references])
        density = torch.exp(-(xt[i] - points).square().sum(1) / (2 * t[i] ** 2))
        assert torch.allclose(target[i], density @ points / density.sum())
    assert torch.allclose(target[0], x0[0], atol=1e-8)  # at low noise the point itself


def test_stable_target_is_nearer_the_posterior_mean_than_the_point():
    world, g = ctm.data.ring(), generator()
    x0 = world.sample(2000, generator=g, dtype=torch.float64)
    references = world.sample(8000, generator=g, dtype=torch.float64)
    for t in (0.3, 1.0, 5.0):
        xt = x0 + t * torch.randn(x0.shape, generator=g, dtype=torch.float64)
        truth = world.denoiser(xt, t)
        steadied = stable_target(xt, torch.full((2000, 1), t, dtype=torch.float64), x0, references)
        assert (steadied - truth).square().mean() < 0.02 * (x0 - truth).square().mean()


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    weights = torch.tensor([[3.0, 4.0]], requires_grad=True)
    main, auxiliary = (weights**2).sum(), 7 * weights.sum()
    value = adaptive_weight(main, auxiliary, weights)
    assert value.item() == pytest.approx(10.0 / (7 * 2**0.5))
    assert not value.requires_grad


@pytest.mark.parametrize("consistency", ["local", "soft", "global"])
def test_levels_run_down_and_are_drawn_as_said(consistency):
    t, u, s = draw_levels(50_000, 10, consistency, 0.25, 0.4, generator())
    assert bool(((t < u) & (u <= s) & (t >= 0) & (s <= 10)).all())
    assert (t == 0).float().mean().item() == pytest.approx(0.25 + 0.75 / 10, abs=0.01)
    assert set(t.tolist()) == set(range(10))
    assert set(s.tolist()) == set(range(1, 11))
    below = 1 / (10 - t).float()  # chance that a uniform s falls on the last level
    assert (s == 10).float().mean().item() == pytest.approx((0.4 + 0.6 * below).mean().item(), abs=0.01)
    if consistency == "local":
        assert torch.equal(u, t + 1)
    elif consistency == "global":
        assert torch.equal(u, s)
    else:
        wide = (t == 0) & (s == 10)
        assert set(u[wide].tolist()) == set(range(1, 11))


def test_grids_hold_their_ends_and_jitter_covers_the_range():
    k = torch.arange(11)
    assert torch.allclose(grid_times(k, 10, None, *LIMITS), ctm.noise.karras_times(10, *LIMITS).float(), rtol=1e-4)
    offset = torch.rand((20_000, 1), generator=generator())
    times = grid_times(k, 10, offset, *LIMITS)
    assert bool((times[:, 0] == 10).all())
    assert times[:, -1].allclose(torch.tensor(0.002))
    fractions = rho_fraction(times, *LIMITS)
    assert torch.allclose(10 * fractions[:, 1:-1] - k[1:-1], offset - 0.5, atol=1e-4)  # every inner level moves alike
    assert fractions.diff(dim=1).min() > 0.0499  # half a step: the loss divides by 1 - s/t
    histogram = torch.histc(fractions[:, 1:-1], bins=9, min=0.05, max=0.95) / fractions[:, 1:-1].numel()
    assert torch.allclose(histogram, torch.full((9,), 1 / 9), atol=0.005)


def test_fresh_pairs_are_solved_from_the_noised_data():
    world, g = ctm.data.ring(), generator()
    x0 = world.sample(500, generator=g)
    levels = draw_levels(500, 16, "soft", 0.2, 0.5, g)
    xt, t, xu, u, s = fresh_pairs(x0, levels, Route(16, True, world, heun_step, 64, LIMITS), g)
    assert bool(((t >= u) & (u >= s)).all())
    assert ((xt - x0) / t).std().item() == pytest.approx(1.0, abs=0.05)
    error = (xu - world.G(xt, t, u)).norm(dim=1)
    assert error.median() < 1e-4
    one_euler = fresh_pairs(x0, levels, Route(16, True, world, euler_step, 1, LIMITS), generator(7))
    by_hand = one_euler.xt * one_euler.u / one_euler.t
    by_hand = by_hand + (1 - one_euler.u / one_euler.t) * world.denoiser(one_euler.xt, one_euler.t)
    assert torch.allclose(one_euler.xu, by_hand, atol=1e-5)


def test_pooled_trajectories_are_the_teachers_and_have_the_right_marginals():
    world, g = ctm.data.ring(), generator()
    pool = Trajectories()
    pool.refill(world.sample(4000, generator=g), Route(64, True, world, heun_step, 1, LIMITS), g)
    batch = pool.pairs(draw_levels(3000, 64, "global", 0.2, 0.5, g), g)
    assert bool(((batch.t > batch.u) & (batch.u >= batch.s)).all())
    error = (batch.xu - world.G(batch.xt, batch.t, batch.u)).norm(dim=1)
    assert error.median() < 2e-3 * world.sigma_data
    for k in (0, 20, 40, 64):
        spread = (pool.points[:, k].square().mean(1) - pool.times[:, k] ** 2).mean().item()
        tolerance = 5 * (2 / 8000) ** 0.5 * (0.25 + pool.times[:, k].square().mean().item())
        assert spread == pytest.approx(0.25, abs=tolerance)


@pytest.mark.parametrize("continuous", [False, True])
def test_a_grid_is_moved_for_each_sample_where_asked_and_only_there(continuous):
    world, pool = ctm.data.one_gaussian(), Trajectories()
    x0 = world.sample(5, generator=generator())
    route = Route(6, continuous, world, euler_step, 1, LIMITS)
    pool.refill(x0, route, generator(1))
    fixed = grid_times(torch.arange(7), 6, None, *LIMITS)
    assert torch.equal(pool.times[:, [0, 6]], fixed[[0, 6]].expand(5, 2))
    t = noised_points(x0, Levels(*(torch.full((5,), k) for k in (2, 3, 4))), route, generator(2))[1]
    for moved in (pool.times[:, 2], t.flatten()):
        assert len(set(moved.tolist())) == (5 if continuous else 1)
        assert torch.equal(moved, fixed[2].expand(5)) != continuous


def test_adaptive_weight_is_finite_where_the_other_loss_has_no_gradient():
    weights = torch.tensor([[3.0, 4.0]], requires_grad=True)
    assert adaptive_weight((weights**2).sum(), 0 * weights.sum(), weights).item() == pytest.approx(10.0 / 1e-12)
