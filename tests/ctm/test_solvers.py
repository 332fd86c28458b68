"""Solvers and samplers against closed forms and independent formulas."""

import math

import pytest
import torch
from helpers import AffineMap, generator, noised, rho_fraction

import ctm
from ctm.noise import karras_times, rho_time
from ctm.samplers import euler, gamma_sampling, heun, multistep, noise, one_step, sample
from ctm.solvers import euler_step, solve


def test_karras_times():
    times = karras_times(18, 0.002, 80.0)
    steps = torch.arange(19, dtype=torch.float64) / 18
    expected = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # EDM, eq. 5
    assert torch.allclose(times, expected, rtol=1e-12)
    assert times[0] == 80.0
    assert times[-1] == 0.002
    assert (times.diff() < 0).all()
    assert torch.allclose(rho_time(rho_fraction(times, 0.002, 80.0), 0.002, 80.0), times)


def test_euler_is_ddim():
    # DDIM (Song et al. 2021, eq. 12, sigma = 0) for x = z sqrt(1 + t^2), alpha = 1 / (1 + t^2), with eps = (x - D) / t
    world = ctm.data.ring()
    t, u = 2.0, 0.7
    x = noised(world, t)
    alpha_t, alpha_u = 1 / (1 + t**2), 1 / (1 + u**2)
    eps = (x - world.denoiser(x, t)) / t
    z = x * math.sqrt(alpha_t)
    z0 = (z - math.sqrt(1 - alpha_t) * eps) / math.sqrt(alpha_t)
    z_next = math.sqrt(alpha_u) * z0 + math.sqrt(1 - alpha_u) * eps
    assert torch.allclose(euler(world, x, [t, u]), z_next / math.sqrt(alpha_u), atol=1e-10)


def test_heun_step_recomputed():
    world = ctm.data.ring()
    t, u = 1.0, 0.6
    x = noised(world, t)
    slope = world.velocity(x, t)
    expected = x + (u - t) * (slope + world.velocity(x + (u - t) * slope, u)) / 2
    assert torch.allclose(heun(world, x, [t, u]), expected, atol=1e-10)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (multistep, 2)])
def test_order_of_accuracy(sampler, order):
    world = ctm.data.one_gaussian()
    x = noised(world, 3.0)
    exact = world.G(x, 3.0, 0.5)
    errors = [(sampler(world, x, torch.linspace(3.0, 0.5, n + 1)) - exact).norm().item() for n in (256, 512, 1024)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert abs(math.log2(coarse / fine) - order) < 0.1


def test_multistep_recomputed_in_log_time():
    # Lu et al. 2022, algorithm 2, in their variables: lambda = -log t, r = h' / h
    world = ctm.data.ring()
    times = torch.tensor([3.0, 1.2, 0.7, 0.5], dtype=torch.float64)
    x = noised(world, 3.0)
    lam, clean, y = -times.log(), [], x
    for i in range(3):
        clean.append(world.denoiser(y, times[i].item()))
        h = lam[i + 1] - lam[i]
        mean = clean[i]
        if i:
            r = (lam[i] - lam[i - 1]) / h
            mean = (1 + 1 / (2 * r)) * clean[i] - 1 / (2 * r) * clean[i - 1]
        y = times[i + 1] / times[i] * y - (torch.exp(-h) - 1) * mean
    assert torch.allclose(multistep(world, x, times), y, atol=1e-12)


def test_multistep_calls_once_a_step_and_is_exact_where_the_denoiser_is_linear_in_log_time():
    class Linear:
        calls = 0

        def denoiser(self, x, t):
            self.calls += 1
            return 2 + 3 * math.log(t) * torch.ones_like(x)

    model, x = Linear(), torch.zeros(3, 2, dtype=torch.float64)
    path = multistep(model, x, [4.0, 2.0, 1.0, 0.0], path=True)
    assert model.calls == 3
    assert path.shape == (4, 3, 2)
    assert torch.equal(path[1], euler(model, x, [4.0, 2.0]))  # the first is an Euler step
    assert torch.allclose(path[3], torch.full_like(x, 2.0))  # the last lands on D
    mean = 2 + 3 * math.log(2) - 3 * math.log(2) / 2  # D extrapolated to the middle of the step
    assert torch.allclose(path[2], path[1] / 2 + mean / 2)


def test_heun_ends_at_zero_with_an_euler_step():
    world = ctm.data.ring()
    x = noised(world, 0.5)
    middle = heun(world, x, [0.5, 0.1])
    assert torch.allclose(heun(world, x, [0.5, 0.1, 0.0]), world.denoiser(middle, 0.1), atol=1e-10)


def test_one_step_and_jumps_follow_the_flow_map():
    world = ctm.data.ring()
    x = noised(world, world.sigma_max)
    end = world.G(x, world.sigma_max, world.sigma_min)
    assert torch.equal(one_step(world, x), end)
    path = gamma_sampling(world, x, karras_times(4, world.sigma_min, world.sigma_max), path=True)
    assert path.shape == (5, *x.shape)
    assert torch.equal(path[0], x)
    assert torch.allclose(path[-1], end, atol=1e-6)
    assert torch.allclose(
        path[2], world.G(x, world.sigma_max, karras_times(4, world.sigma_min, world.sigma_max)[2].item()), atol=1e-6
    )


@pytest.mark.slow
def test_gamma_one_is_the_consistency_models_multistep_sampler():
    world = ctm.data.ring()
    times = [10.0, 1.0, 0.3, world.sigma_min]
    x = noised(world, 10.0)
    g = generator(4)
    by_hand = world.G(x, 10.0, world.sigma_min)
    for r in times[1:-1]:  # Song et al. 2023, algorithm 1
        by_hand = by_hand + math.sqrt(r**2 - world.sigma_min**2) * torch.randn(x.shape, generator=g, dtype=x.dtype)
        by_hand = world.G(by_hand, r, world.sigma_min)
    assert torch.allclose(gamma_sampling(world, x, times, gamma=1.0, generator=generator(4)), by_hand, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
def test_gamma_sampling_keeps_the_variance_of_every_level(gamma):
    # For the exact map of N(0.5, 0.5^2) the marginal at every level must have variance 0.5^2 + t^2.
    times = [10.0, 2.0, 0.4, 0.1, AffineMap.sigma_min]
    x = noised(ctm.data.one_gaussian(), 10.0, n=400_000)
    path = gamma_sampling(AffineMap(), x, times, gamma=gamma, generator=generator(1), path=True)
    for t, points in zip(times, path, strict=True):
        assert math.isclose(points.var().item(), 0.25 + t**2, rel_tol=0.012)  # five standard errors
        assert math.isclose(points.mean().item(), 0.5, abs_tol=5 * math.sqrt((0.25 + t**2) / 400_000))


def test_no_noise_is_drawn_where_none_is_added():
    x = noised(ctm.data.one_gaussian(), 10.0)
    for times, gamma, draws in (([10.0, 2.0, 0.4], 0.0, 0), ([10.0, 2.0, AffineMap.sigma_min], 1.0, 1)):
        g, fresh = generator(2), generator(2)
        gamma_sampling(AffineMap(), x, times, gamma=gamma, generator=g)
        for _ in range(draws):
            torch.randn(x.shape, generator=fresh, dtype=x.dtype)
        assert torch.equal(g.get_state(), fresh.get_state())


def test_gamma_sets_how_much_of_the_path_is_new():
    x = noised(ctm.data.one_gaussian(), 10.0, n=100_000)
    kept = []
    for gamma in (0.0, 0.5, 1.0):
        end = gamma_sampling(AffineMap(), x, [10.0, 5.0, AffineMap.sigma_min], gamma=gamma, generator=generator())
        kept.append(torch.corrcoef(torch.cat([x, end], 1).T)[0, 1].item())
    # G is affine, so the part of the final variance that comes from x is that of the jump to sqrt(1 - gamma^2) 5
    expected = [math.sqrt((0.25 + (1 - gamma**2) * 25) / 25.25) for gamma in (0.0, 0.5, 1.0)]
    assert kept == pytest.approx(expected, abs=0.01)


def test_noise_has_the_right_scale():
    x = noise(ctm.data.ring(), 100_000, (2,), generator=generator())
    assert math.isclose(x.std().item(), 10.0, rel_tol=0.01)
    assert torch.equal(x, noise(ctm.data.ring(), 100_000, (2,), generator=generator()))


def test_a_solver_calls_the_teacher_once_a_substep_at_edms_spacing():
    seen = []

    class Still:
        def denoiser(self, x, t):
            seen.append(t.item())
            return x

    x, t, u = (torch.full((1, 1), value, dtype=torch.float64) for value in (3.0, 8.0, 0.5))
    assert torch.allclose(solve(euler_step, Still(), x, t, u, 4), x)
    assert seen == pytest.approx(karras_times(4, 0.5, 8.0)[:-1].tolist(), rel=1e-6)


class Moved(AffineMap):
    """The same data, moved by a vector: what any sampler does must move with them."""

    def __init__(self, by=0.0):
        self.by, self.shape = by, (1,)
        self.center = 0.5 + by

    def G(self, x, t, s):
        return super().G(x - self.by, t, s) + self.by

    def denoiser(self, x, t):
        return super().denoiser(x - self.by, t) + self.by


def test_noise_lies_about_the_center_and_has_the_shape_of_the_model():
    here, there = (noise(Moved(by), 50_000, generator=generator()) for by in (0.0, 300.0))
    assert here.shape == (50_000, 1)
    torch.testing.assert_close(there, here + 300.0, rtol=0, atol=1e-4)
    assert math.isclose(there.mean().item(), 300.5, abs_tol=5 * 10 / 50_000**0.5)
    with pytest.raises(TypeError, match="shape must be given"):
        noise(AffineMap(), 5)


@pytest.mark.parametrize(("steps", "gamma"), [(1, 0.0), (4, 0.0), (4, 0.7)])
def test_sample_is_the_sampler_from_its_seed_and_moves_with_the_data(steps, gamma):
    model, g = Moved(), generator(3)
    x = 0.5 + 10.0 * torch.randn((6, 1), generator=g)
    by_hand = gamma_sampling(model, x, karras_times(steps, 0.002, 10.0), gamma, generator=g)
    assert torch.equal(sample(model, 6, steps, 3, gamma=gamma), by_hand)
    torch.testing.assert_close(sample(Moved(300.0), 6, steps, 3, gamma=gamma), by_hand + 300, rtol=0, atol=1e-3)
    if steps == 1:
        assert torch.equal(by_hand, one_step(model, x))


def test_sample_gives_a_condition_to_the_model_and_undoes_its_scaling():
    class Restoring(Moved):
        def given(self, condition):
            return Moved(100.0 * condition)

        def restore(self, x):
            return 7 + 2 * x

    plain = sample(Moved(), 6, 2, 1)
    told = sample(Restoring(), 6, 2, 1, condition=3)
    start = noise(Moved(), 6, generator=generator(1))
    assert torch.allclose(sample(Restoring(), 6, 2, 1), 7 + 2 * plain)
    assert torch.allclose(told, 7 + 2 * gamma_sampling(Moved(300.0), start, karras_times(2, 0.002, 10.0)))
    with pytest.raises(TypeError, match="condition must be None"):
        sample(Moved(), 6, condition=3)


def test_solve_keeps_a_gradient_only_where_the_points_ask_for_one():
    class Weighted(AffineMap):
        weight = torch.tensor(1.0, requires_grad=True)

        def denoiser(self, x, t):
            return self.weight * super().denoiser(x, t)

    t, u = torch.full((1, 1), 3.0), torch.full((1, 1), 0.5)
    x = torch.randn((5, 1), generator=generator())
    assert not solve(euler_step, Weighted(), x, t, u, 3).requires_grad
    x.requires_grad_(True)
    solve(euler_step, Weighted(), x, t, u, 3).sum().backward()
    slope, levels = 1.0, [3.0, *rho_time(torch.tensor([1 / 3, 2 / 3]), 0.5, 3.0).tolist(), 0.5]
    for now, after in zip(levels, levels[1:], strict=False):  # each step is linear in x
        slope *= after / now + (1 - after / now) * 0.25 / (0.25 + now**2)
    assert x.grad.flatten().tolist() == pytest.approx([slope] * 5, rel=1e-5)
