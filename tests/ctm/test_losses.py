"""The loss terms recomputed by hand, and judged with the exact map in the student's place; terms of one's own."""

import copy
import math

import pytest
import torch
from helpers import exact_ctm, generator, noised, rho_fraction, weights_of
from scipy import stats

import ctm
from ctm import Adversarial, Consistency, Denoising, Guided
from ctm.losses import (
    Draw,
    Levels,
    Models,
    Pairs,
    Route,
    Term,
    Trajectories,
    adaptive_weight,
    consistency_loss,
    draw_levels,
    dsm_loss,
    fresh_pairs,
    grid_times,
    noised_points,
    stable_target,
)
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


def test_features_of_the_clean_points_alone_are_compared():
    student, target, whole = model(1), model(2), pairs(u=0.8)
    low, which = student.sigma_min, torch.arange(32)[:, None] % 4
    s = torch.where(which == 0, low, torch.where(which == 1, 1.5 * low, 0.3)).double()  # eight of 32 end there
    batch = whole._replace(s=s)
    shown = []

    def features(x):
        shown.append(len(x))
        return [x.sin(), x.square().sum(1, keepdim=True)]

    estimate, goal = student.G(batch.xt, 2.0, low)[::4], target.G(batch.xu, 0.8, low)[::4]
    apart = (estimate.sin() - goal.sin()).square().mean()
    apart = apart + (estimate.square().sum(1) - goal.square().sum(1)).square().mean()
    for compare in ("s", "x0"):
        found = consistency_loss(student, target, batch, compare, features) - consistency_loss(
            student, target, batch, compare
        )
        if compare == "s":
            assert torch.allclose(found, apart * 8 / 32)
    assert shown == [8] * 4
    assert torch.equal(consistency_loss(student, target, whole, features=features), consistency_loss(student, target, whole))
    term = Consistency(ctm.data.ring(), pool=64, levels=8, features=lambda x: [x[:, :1], x[:, 1:]])
    with pytest.raises(TypeError, match="features must be callable, got list"):
        Consistency(ctm.data.ring(), features=[1])
    x0 = whole.xt[:3]
    plain = Consistency(ctm.data.ring(), pool=64, levels=8)
    assert term.probe(student, x0, None)[:3] == plain.probe(student, x0, None)
    given, bare = (
        one(Models(model(1), 10), Draw(ctm.data.ring(), model(1), 32, generator(1)), generator(1)) for one in (term, plain)
    )
    assert given > bare + 1e-3  # the same pairs: the term hands its features on
    assert term.probe(student, x0, None)[3:] == pytest.approx([*x0[:, 0].tolist(), *x0[:, 1].tolist()])


def test_the_least_of_each_choice_is_taken():
    least = {"substeps": 1, "levels": 2, "pool": 0, "reuse": 1, "from_noise": 0.0, "to_data": 0.0}
    Consistency(ctm.data.ring(), **least)
    for name, low in least.items():
        with pytest.raises(ValueError, match=f"{name} must lie in"):
            Consistency(ctm.data.ring(), **least | {name: low - 1})


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


@pytest.mark.parametrize("compare", ["s", pytest.param("x0", marks=pytest.mark.slow)])
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
        def jump(self, x, t, s):
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


def test_stable_target_is_not_rounded_under_autocast():
    g = generator()
    x0, references = (torch.randn(n, 16, generator=g) for n in (5, 40))
    t = torch.full((5, 1), 3.0)  # where others than the point itself count
    xt = x0 + t * torch.randn(5, 16, generator=g)
    exact = stable_target(*(part.double() for part in (xt, t, x0, references)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(stable_target(xt, t, x0, references), exact.float(), atol=1e-5)


@pytest.mark.slow
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


@pytest.mark.parametrize("kind", ["local", "soft", "global"])
def test_levels_run_down_and_are_drawn_as_said(kind):
    t, u, s = draw_levels(50_000, 10, kind, 0.25, 0.4, generator())
    assert bool(((t < u) & (u <= s) & (t >= 0) & (s <= 10)).all())
    assert (t == 0).float().mean().item() == pytest.approx(0.25 + 0.75 / 10, abs=0.01)
    assert set(t.tolist()) == set(range(10))
    assert set(s.tolist()) == set(range(1, 11))
    below = 1 / (10 - t).float()  # chance that a uniform s falls on the last level
    assert (s == 10).float().mean().item() == pytest.approx((0.4 + 0.6 * below).mean().item(), abs=0.01)
    if kind == "local":
        assert torch.equal(u, t + 1)
    elif kind == "global":
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


# --- terms


HALF = ctm.data.half_rings()


def small(world, seed=0, width=32):
    return ctm.CTM(ctm.networks.MLP(world.means[0].numel(), width=width, layers=2, seed=seed), world.sigma_data)


def told(seed=0):
    return ctm.ConditionalCTM(ctm.networks.MLP(2, width=16, layers=2, seed=seed, conditions=3), HALF.sigma_data)


def at_work(student, data, batch=32, steps=10, seed=0, **options):
    """What a term is called with."""
    rng = generator(seed)
    return Models(student, steps, **options), Draw(data, student, batch, rng), rng


@pytest.mark.parametrize("target_ema", [0.0, 0.9])
@pytest.mark.parametrize(("kind", "compare"), [("global", "s"), ("soft", "s"), ("local", "x0")])
def test_a_consistency_term_is_the_loss_of_the_pairs_it_draws(kind, compare, target_ema):
    world, student = ctm.data.ring(), small(ctm.data.ring())
    term, twin = (Consistency(world, kind, compare, pool=64, levels=8) for _ in range(2))
    context = at_work(student, world, target_ema=target_ema)
    target = copy.deepcopy(student).requires_grad_(False)
    with torch.no_grad():
        student.last_layer.mul_(2)  # so that an average differs from the student
    if not target_ema:
        target.load_state_dict(student.state_dict())
    loss = term(*context)
    batch, condition = twin.pairs(*at_work(student, world))
    assert condition is None
    expected = consistency_loss(student, target, batch, compare)
    assert torch.allclose(loss, expected)
    gradients = [torch.autograd.grad(each, student.last_layer)[0] for each in (loss, expected)]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_pairs_of_the_pool_lie_on_one_trajectory_at_the_times_said():
    world = ctm.data.ring()
    term = Consistency(world, "soft", pool=64, levels=48)
    (xt, t, xu, u, s), _ = term.pairs(*at_work(small(world), world, batch=200))
    assert bool(((t > u) & (u >= s)).all())
    assert (xu - world.G(xt, t, u)).abs().max() < 0.05 * world.sigma_data
    assert (xu - xt).norm(dim=1).median() > 0.5
    # row by row: the stored points and times at the levels that were drawn first of all
    levels, pool = draw_levels(200, 48, "soft", 0.4, 0.5, generator()), term.trajectories
    for i in range(20):
        row = int((pool.points == xt[i]).all(2).nonzero()[0, 0])
        assert torch.equal(pool.points[row, levels.t[i]], xt[i])
        assert torch.equal(pool.points[row, levels.u[i]], xu[i])
        assert [time[i].item() for time in (t, u, s)] == [pool.times[row, k[i]].item() for k in levels]


@pytest.mark.parametrize("pool", [0, 64])
def test_the_condition_of_a_pair_is_that_of_its_trajectory(pool):
    data = Guided(HALF, (1.0, 4.0), 0.2)
    term = Consistency(HALF, pool=pool, levels=48, substeps=1 if pool else 32)
    (xt, t, xu, u, _), table = term.pairs(*at_work(told(), data, batch=300))
    exact = HALF.given(table).G(xt, t, u)
    error = (xu - exact).norm(dim=1)
    mixed = (xu - HALF.given(table.roll(1, 0)).G(xt, t, u)).norm(dim=1)
    assert error.quantile(0.95) < 0.1
    assert mixed.mean() > 3 * error.mean()
    assert set(table[:, 0].tolist()) == {-1.0, 0.0, 1.0}


def test_a_conditional_term_tells_the_student_and_the_target():
    student, term, twin = told(), *(Consistency(HALF, "soft", pool=64, levels=8) for _ in range(2))
    data = Guided(HALF, (1.0, 4.0), 0.2)
    loss = term(*at_work(student, data))
    batch, table = twin.pairs(*at_work(student, data))
    target = copy.deepcopy(student).requires_grad_(False)
    assert torch.allclose(loss, consistency_loss(student.given(table), target.given(table), batch))
    assert not torch.allclose(loss, consistency_loss(student, target, batch))


def test_references_of_classes_count_for_their_own_class_alone():
    g, n, m = generator(), 6, 40
    x0, references = (torch.randn(k, 3, generator=g, dtype=torch.float64) for k in (n, m))
    label, others = (torch.randint(-1, 2, (k,), generator=g) for k in (n, m))
    t = (0.2 + torch.rand((n, 1), generator=g, dtype=torch.float64)) * 2
    xt = x0 + t * torch.randn(x0.shape, generator=g, dtype=torch.float64)
    goal = stable_target(xt, t, x0, references, label[:, None] == others)
    for i in range(n):
        above, below = torch.zeros(3, dtype=torch.float64), 0.0
        for j in range(-1, m):
            if j < 0 or label[i] == others[j]:
                point = x0[i] if j < 0 else references[j]
                weight = torch.exp(-(xt[i] - point).square().sum() / (2 * t[i, 0] ** 2))
                above, below = above + weight * point, below + weight
        assert torch.allclose(goal[i], above / below)
    assert not torch.allclose(goal, stable_target(xt, t, x0, references), atol=1e-2)


def test_a_denoising_term_is_the_loss_with_references_of_the_points_class(monkeypatch):
    student, data, seen = told(), Guided(HALF, (1.0, 4.0), 0.3), []
    real = ctm.losses.denoising.dsm_loss
    monkeypatch.setattr("ctm.losses.denoising.dsm_loss", lambda *given: seen.append(given) or real(*given))
    loss = Denoising(50)(*at_work(student, data))
    bound, x0, noise, t, references, same = seen[0]
    # the same draws by hand; hidden labels are a class of their own, the whole
    rng = generator()
    mine, label = data.sample_labelled(32, generator=rng)
    assert torch.equal(mine, x0)
    assert torch.equal(bound.network.condition[:, :2], torch.stack([label == 0, label == 1], 1).float())
    assert bool((bound.network.condition[:, 2] == 0).all())  # a strength has no clean points
    times = ctm.noise.lognormal_times(32, student, rng)
    assert torch.equal(times, t.flatten())
    assert torch.equal(noise, torch.randn(x0.shape, generator=rng))
    others, labels = data.sample_labelled(50, generator=rng)
    assert torch.equal(others, references)
    assert same.shape == (32, 50)
    assert bool((label == -1).any())
    assert all(bool(same[i, j]) == (int(label[i]) == int(labels[j])) for i in range(32) for j in range(50))
    goal = stable_target(x0 + t * noise, t, x0, references, same)
    c_out = t * 0.5 / (t**2 + 0.25).sqrt()
    found = student.given(label).denoiser(x0 + t * noise, times)
    assert torch.allclose(loss, ((found - goal) / c_out).square().mean(), rtol=1e-5)


def test_noise_levels_are_drawn_as_said():
    student = small(ctm.data.ring())
    logs = ctm.noise.lognormal_times(100_000, student, generator()).log()
    assert logs.mean().item() == pytest.approx(math.log(2 * 0.5) - 1.2, abs=0.02)
    assert logs.std().item() == pytest.approx(1.0, abs=0.02)
    wide = small(ctm.GaussianMixture([[-9.0], [9.0]], 1.0))  # whose limits cut off little
    logs = ctm.noise.image_times(100_000, wide, generator()).log()
    assert logs.mean().item() == pytest.approx(math.log(2 * wide.sigma_data), abs=0.03)
    assert logs.std().item() == pytest.approx(1.2, abs=0.03)
    fractions = rho_fraction(
        ctm.noise.rho_times(100_000, student, generator()).double(), student.sigma_min, student.sigma_max
    )
    assert stats.kstest(fractions.numpy(), stats.uniform.cdf).pvalue > 0.005
    fixed = Denoising(0, times=lambda n, model, rng: torch.full((n,), 0.3))
    models, draw, rng = at_work(student, ctm.data.ring())
    x0, rng2 = ctm.data.ring().sample(32, generator=generator()), generator()
    ctm.data.ring().sample(32, generator=rng2)
    noise = torch.randn((32, 2), generator=rng2)
    assert torch.allclose(fixed(models, draw, rng), dsm_loss(student, x0, noise, torch.full((32, 1), 0.3)))


def number(value, name="number"):
    """A term that is a constant of the first weight."""

    def term(models, draw, rng):
        return value * models.student.last_layer.square().sum()

    term.__qualname__ = name
    return term


def test_sums_and_scales_add_and_scale():
    student = small(ctm.data.ring())
    context = at_work(student, ctm.data.ring())
    size = student.last_layer.square().sum()
    zero = 0.5 * Denoising(0)
    for objective, value in (
        (0 * Denoising(0) + number(3), 3),
        (number(3) + 0 * Denoising(0), 3),
        (0 * zero + number(1) + (0 * zero + number(4)), 5),
        (2 * (0 * zero + number(1)) + number(1), 3),
        (3 * (2 * (number(1) + 0 * zero)), 6),
        ((0 * zero + number(1)) * 4, 4),
    ):
        assert torch.allclose(objective(*context), value * size)
    with pytest.raises(TypeError, match="must be callable"):
        Denoising() + 1.0
    with pytest.raises(ValueError, match="weight must lie in"):
        -1 * Denoising()
    with pytest.raises(TypeError, match="weight must be a number"):
        "2" * Denoising()


def test_terms_say_what_they_are_but_not_their_teacher():
    world = ctm.data.ring()
    consistency = Consistency(world, "soft", step=euler_step)
    assert repr(consistency).startswith("Consistency(kind='soft', compare='s', step=euler_step, substeps=1, levels=96")
    assert "GaussianMixture" not in repr(consistency)
    both = Consistency(world) + 0.1 * Denoising(8)
    assert repr(both) == f"{Consistency(world)!r} + 0.1 * Denoising(references=8, times=lognormal_times, adaptive=False)"
    assert repr(2 * both) != repr(both)
    assert repr(number(1, "mine") + Denoising(8)).startswith("mine + Denoising")
    assert len({repr(a + b) for a in (consistency, Denoising()) for b in (Denoising(), Adversarial())}) == 4
    # what differs must not be said in the same words
    a, b, c = (Denoising(k) for k in (1, 2, 3))
    assert repr(2 * (a + b) + c) != repr(2 * a + (b + c))
    assert repr(0.1 * a) != repr((0.1 + 1e-9) * a)


def test_the_terms_of_a_sum_are_called_in_their_order():
    order = []

    def named(name):
        return lambda models, draw, rng: order.append(name) or models.student.last_layer.sum()

    objective = named("first") + (0 * Denoising(0) + named("second")) + 2 * (Denoising(0) + named("third"))
    objective(*at_work(small(ctm.data.ring()), ctm.data.ring()))
    assert order == ["first", "second", "third"]


def test_the_state_of_a_sum_is_that_of_its_terms():
    world, student = ctm.data.ring(), small(ctm.data.ring())

    def made():
        inner = Consistency(world, pool=32, levels=4) + 0.5 * Adversarial(start=0.0, width=8)
        return 3 * (number(0) + 2 * inner) + Consistency(world, "soft", pool=16, levels=6)

    whole, again = made(), made()
    models, draw, rng = at_work(student, world, batch=8)
    whole(models, draw, rng)
    state = {key: value.clone() for key, value in whole.state_dict().items()}
    # the discriminator, its moments, both pools; every tensor once
    pools = [value.shape for key, value in state.items() if key.endswith("points")]
    assert sorted(pools) == [(16, 7, 2), (32, 5, 2)]
    assert sum("discriminator" in key for key in state) == 8
    again.load_state_dict(state)
    kept, before = again.state_dict(), rng.get_state()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[key], value) for key, value in state.items())
    first = whole(models, draw, rng)
    rng.set_state(before)
    assert torch.equal(first, again(models, draw, rng))
    for wrong in (
        {"7.points": torch.zeros(1)},
        {"x.points": torch.zeros(1)},
        {"0": torch.zeros(1)},
        {"0.0.points": torch.zeros(1)},
        {"1.points": torch.zeros(1)},
    ):
        with pytest.raises(ValueError, match=r"state|pool"):
            made().load_state_dict(wrong)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_an_adaptive_term_is_balanced_against_the_first_of_its_sum(weight):
    world, student = ctm.data.ring(), small(ctm.data.ring())
    terms = [Consistency(world, pool=64, levels=8), Denoising(0, adaptive=True)]
    objective = terms[0] + number(0.3) + weight * terms[1]
    loss = objective(*at_work(student, world))
    models, draw, rng = at_work(student, world)
    main = Consistency(world, pool=64, levels=8)(models, draw, rng)
    other, dsm = number(0.3)(models, draw, rng), Denoising(0)(models, draw, rng)
    ratio = adaptive_weight(main, dsm, student.last_layer)
    assert torch.allclose(loss, main + other + weight * ratio * dsm, rtol=1e-5)
    norms = [torch.autograd.grad(part, student.last_layer, retain_graph=True)[0].norm() for part in (main, ratio * dsm)]
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=1e-4)


def test_a_scaled_sum_is_balanced_against_its_first_term_without_its_weight():
    world, student = ctm.data.ring(), small(ctm.data.ring())
    loss = (2 * (3 * ctm.losses.as_term(number(1.0)) + Denoising(0, adaptive=True)))(*at_work(student, world))
    dsm = Denoising(0)(*at_work(student, world))
    ratio = adaptive_weight(number(1.0)(*at_work(student, world)), dsm, student.last_layer)
    size = student.last_layer.square().sum()
    assert torch.allclose(loss, 6 * size + 2 * ratio * dsm, rtol=1e-5)


def test_a_sum_inside_a_function_leaves_the_outer_first_term_as_it_was():
    world, student = ctm.data.ring(), small(ctm.data.ring())

    def inner(models, draw, rng):
        return (ctm.losses.as_term(number(1.0)) + 0 * Adversarial(start=1.0))(models, draw, rng)

    loss = (ctm.losses.as_term(number(1000.0)) + inner + Denoising(0, adaptive=True))(*at_work(student, world))
    dsm = Denoising(0)(*at_work(student, world))
    ratio = adaptive_weight(number(1.0)(*at_work(student, world)), dsm, student.last_layer)
    size = student.last_layer.square().sum()
    assert torch.allclose(loss, 1001 * size + 1000 * ratio * dsm, rtol=1e-5)


@pytest.mark.parametrize("term", [Denoising(0, adaptive=True), Adversarial(start=0.0)])
def test_an_adaptive_term_that_comes_first_is_refused(term):
    world = ctm.data.ring()
    with pytest.raises(ValueError, match="adaptive must be False"):
        term(*at_work(small(world), world))


# --- losses of one's own


def lagrangian(teacher, batch=128):
    """Lagrangian map distillation (Boffi et al. 2024): the end of a jump moves with s along the teacher's velocity."""

    def loss(models, draw, rng):
        student = models.student
        x0 = draw()[0]
        t, s = (ctm.noise.rho_times(len(x0), student, rng)[:, None] for _ in range(2))
        t, s = torch.maximum(t, s), torch.minimum(t, s)
        xt = x0 + t * ctm.noise.randn(x0.shape, rng)
        end, slope = torch.func.jvp(lambda later: student.jump(xt, t, later), (s,), (torch.ones_like(s),))
        velocity = teacher.velocity(end.detach(), s.flatten())
        return ((slope - velocity) * s).square().mean() / student.sigma_data**2

    return loss


class Lagrangian(Term):
    """The same as a term, which a resumed run knows by what its teacher says."""

    def __init__(self, teacher):
        self.teacher = teacher

    def __call__(self, models, draw, rng):
        return lagrangian(self.teacher)(models, draw, rng)

    def probe(self, student, x0, condition):
        return self.teacher.denoiser(x0, student.sigma_data).flatten().tolist()


@pytest.mark.slow
def test_a_loss_of_ones_own_learns_the_map_as_a_function_and_as_a_term():
    world, ends = ctm.data.ring(), []
    for objective in (lagrangian(world), Lagrangian(world)):
        student = ctm.CTM(ctm.networks.MLP(2, width=64, layers=3, gain=8.0), world.sigma_data)
        before = ctm.metrics.flow_map_error(student, world, n=1000)
        steps = 500 if isinstance(objective, Term) else 20
        ctm.train(student, world, objective, steps, batch=192)
        ends.append((before, ctm.metrics.flow_map_error(student, world, n=1000)))
    assert ends[1][0] > 0.5
    assert ends[1][1] < 0.15
    twin = ctm.CTM(ctm.networks.MLP(2, width=64, layers=3, gain=8.0), world.sigma_data)
    ctm.train(twin, world, Lagrangian(world), 20, batch=192)
    assert ctm.metrics.flow_map_error(twin, world, n=1000) == pytest.approx(ends[0][1], rel=1e-6)


def test_a_loss_of_ones_own_lives_in_one_file_and_needs_one_line(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from ctm.losses import Term\n\n\n"
        "class ToData(Term):\n"
        '    """One jump from noise to data, at one time only: the squared distance to where it came from."""\n\n'
        "    def __call__(self, models, draw, rng):\n"
        "        x0, condition = draw()\n"
        "        return (models.student.denoiser(x0 + 0.1 * 0.5, 0.05) - x0).square().mean()\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    from mine import ToData

    world = ctm.data.ring()
    student, path = small(world), tmp_path / "run.safetensors"
    objective = ToData() + 0.1 * Denoising(8)
    history = ctm.train(student, world, objective, 30, batch=64, checkpoint=path)
    assert history.loss[-1] < history.loss[0]
    assert ctm.checkpoints.read(path)[1]["run"]["objective"].startswith("ToData() + 0.1 * Denoising")


class NoStopGradient(Consistency):
    """The target learns too: what the stop-gradient prevents."""

    def __call__(self, models, draw, rng):
        pairs, condition = self.pairs(models, draw, rng)
        assert condition is None
        xt, t, xu, u, s = pairs
        student = models.student
        return ((student.jump(xt, t, s) - student.jump(xu, u, s)) / student.output_scale(t, s)).square().mean()


def test_a_subclass_changes_what_the_gradient_reaches_and_nothing_else(tmp_path):
    world, losses, gradients = ctm.data.ring(), [], []
    for kind in (Consistency, NoStopGradient):
        student = small(world)
        loss = kind(world, "local", pool=64, levels=8)(*at_work(student, world))
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, student.last_layer)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not torch.allclose(*gradients, rtol=0.1)
    path = tmp_path / "run.safetensors"
    ctm.train(small(world), world, NoStopGradient(world, "soft", pool=64, levels=8), 3, batch=8, checkpoint=path)
    with pytest.raises(ValueError, match="objective = NoStopGradient"):
        ctm.train(small(world), world, Consistency(world, "soft", pool=64, levels=8), 3, batch=8, checkpoint=path)


def test_a_function_of_ones_own_goes_on_bit_for_bit(tmp_path):
    world, path = ctm.data.ring(), tmp_path / "run.safetensors"
    whole, broken = small(world), small(world)
    ctm.train(whole, world, lagrangian(world), 8, batch=32)
    state = ctm.training.State(broken, world, lagrangian(world), 8, batch=32)
    for _ in range(3):
        state.step()
    held, again = state.state_dict(), ctm.training.State(small(world, 1), world, lagrangian(world), 8, 5, batch=32)
    again.load_state_dict(held, 3)
    list(ctm.training.training_steps(again))
    assert torch.equal(weights_of(again.models.average), weights_of(whole))
    assert not path.exists()


def test_the_defaults_are_those_that_the_book_measured():
    """Chapters and studies name them as the recipe; what changes here, changes there."""
    assert (Consistency(ctm.data.ring()).continuous, Consistency(ctm.data.ring()).reuse) == (True, 48)
    term = Adversarial()
    assert (term.most, term.start, term.noise, term.r1, term.lr, term.width, term.levels) == (10, 0.4, 1, 0.1, 2e-3, 64, 96)
    assert ctm.losses.Semigroup().floor == 1e-3
