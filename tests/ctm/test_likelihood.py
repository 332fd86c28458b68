"""Likelihoods against closed forms, mixtures' densities, covariances, difference quotients and SciPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import AffineMap, generator, noised
from scipy import integrate

import ctm
from ctm.likelihood import (
    _basis,
    _transport,
    _WithLogDensity,
    bits_per_dim,
    encode,
    hutchinson_log_likelihood,
    invert,
    jump_log_det,
    log_likelihood,
)
from ctm.noise import karras_times
from ctm.samplers import heun
from ctm.solvers import rk4_step, solve


def column(value):
    return torch.tensor([[value]], dtype=torch.float64)


class Rotation:
    """dx/dt = (x - D)/t with D = x - B x, for a matrix B that is not symmetric: x(t) = t^B x(1)."""

    sigma_min, sigma_max = 0.5, 4.0
    B = torch.tensor([[0.3, 1.1, 0.0], [-0.4, 0.2, 0.5], [0.9, 0.0, -0.1]], dtype=torch.float64)

    def denoiser(self, x, t):
        return x - x @ self.B.T


def small_ctm(dtype=torch.float64, dim=2):
    return ctm.CTM(ctm.networks.MLP(dim, width=16, layers=2, seed=3), 0.5).to(dtype)


def test_rk4_step_has_order_four_down_and_up():
    for t, s in ((3.0, 0.5), (0.5, 3.0)):
        x = noised(ctm.data.one_gaussian(), 3.0)
        exact = AffineMap().G(x, t, s)
        errors = [(solve(rk4_step, AffineMap(), x, column(t), column(s), n) - exact).norm().item() for n in (16, 32, 64)]
        for coarse, fine in itertools.pairwise(errors):
            assert abs(math.log2(coarse / fine) - 4) < 0.15


@pytest.mark.slow
def test_a_single_gaussian_in_closed_form():
    # The ODE of N(mu, c^2 I) is affine: log p_smin(x) from the prior, the scale factor and its logarithm alone.
    mu, c = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64), 0.7
    world = ctm.GaussianMixture(mu[None], c)
    low, high = world.sigma_min, world.sigma_max
    x = noised(world, low)
    stretch = math.sqrt((c**2 + high**2) / (c**2 + low**2))
    end = mu + (x - mu) * stretch
    expected = -0.5 * ((end - mu) / high).square().sum(1) - 1.5 * math.log(2 * math.pi * high**2) + 3 * math.log(stretch)
    assert torch.allclose(encode(world, x, steps=256), end, rtol=1e-6)
    errors = [(log_likelihood(world, x, steps=n) - expected).abs().max().item() for n in (32, 64, 128)]
    assert errors[2] < 1e-5
    for coarse, fine in itertools.pairwise(errors):
        assert abs(math.log2(coarse / fine) - 4) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "uneven_two_gaussians", "clusters"])
def test_a_mixtures_own_density_comes_back(name):
    world = ctm.data.WORLDS[name]()
    x = noised(world, world.sigma_min, n=40)
    end = encode(world, x, steps=96)
    prior = -0.5 * ((end - world.center) / world.sigma_max).square().sum(1) - end.shape[1] / 2 * math.log(
        2 * math.pi * world.sigma_max**2
    )
    # replace the prior by the density that is really there: nothing but the solver's error is left
    exact = log_likelihood(world, x, steps=96) - prior + world.log_prob(end, world.sigma_max)
    assert torch.allclose(exact, world.log_prob(x, world.sigma_min), atol=2e-3)


@pytest.mark.slow
def test_the_density_of_a_model_integrates_to_one():
    model = small_ctm()
    model.sigma_min, model.sigma_max = 0.3, 2.0  # wide enough for a grid
    line = torch.linspace(-9, 9, 91, dtype=torch.float64)
    mass = log_likelihood(model, torch.cartesian_prod(line, line), steps=24).exp().sum() * (line[1] - line[0]) ** 2
    assert math.isclose(mass.item(), 1, abs_tol=1e-3)


def test_the_trace_is_the_posterior_variance_over_t_squared():
    # dD/dx = Cov[x_0 | x_t] / t^2, computed from the components, with no derivative
    world, t = ctm.data.ring(), 0.4
    x = noised(world, t, n=8)
    c2 = world.stds[0] ** 2
    logits = -(x[:, None] - world.means).square().sum(2) / (2 * (c2 + t**2))
    r = logits.softmax(1)
    own = world.means + c2 / (c2 + t**2) * (x[:, None] - world.means)  # E[x_0 | x_t, component]
    spread = (r[:, :, None] * (own - world.denoiser(x, t)[:, None]).square()).sum((1, 2)) + 2 * c2 * t**2 / (c2 + t**2)
    z = torch.cat([x, torch.zeros_like(x)], 1)
    rates = z - _WithLogDensity(world, x.shape[1:], _basis(x)).denoiser(z, torch.tensor([t], dtype=x.dtype))
    assert torch.allclose(2 - rates[:, 2:].sum(1), spread / t**2, rtol=1e-9)


@pytest.mark.slow
def test_against_scipys_integrator_and_reverse_mode_autograd():
    model = small_ctm()
    x = torch.tensor([[0.3, -0.4]], dtype=torch.float64)

    def slope(tau, z):
        y, t = torch.from_numpy(z[None, :2]), math.exp(tau)
        jacobian = torch.autograd.functional.jacobian(lambda p: model.denoiser(p, t)[0], y)[:, 0]
        with torch.no_grad():
            v = (y - model.denoiser(y, t))[0]
        return np.append(v.numpy(), 2 - jacobian.trace().item())

    span = (math.log(model.sigma_min), math.log(model.sigma_max))
    end = integrate.solve_ivp(slope, span, np.append(x[0].numpy(), 0.0), rtol=1e-8, atol=1e-10).y[:, -1]
    prior = -0.5 * float((end[:2] / model.sigma_max) @ (end[:2] / model.sigma_max)) - math.log(2 * math.pi * 100)
    assert log_likelihood(model, x, steps=200).item() == pytest.approx(prior + end[2], abs=1e-6)


@pytest.mark.slow
def test_hutchinson_is_exact_on_average_and_has_the_stated_variance():
    model, x = Rotation(), torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    _, logs = _transport(model, x, every[:, None].expand(8, 4, 3), 64, rk4_step)
    whole = math.log(8) * model.B  # the integral of B dt / t
    even = (whole + whole.T) / 2
    assert torch.allclose(logs.mean(0), whole.trace().expand(4))
    off = even.square().sum() - even.diagonal().square().sum()
    assert torch.allclose(logs.var(0, unbiased=False), (2 * off).expand(4))
    # and drawn: the mean within its error of the exact one
    drawn = hutchinson_log_likelihood(model, x, 1000, generator=generator(1), steps=8)
    gap = drawn.mean(0) - log_likelihood(model, x, steps=8)
    assert drawn.shape == (1000, 4)
    assert (gap.abs() < 4.5 * math.sqrt(2 * off / 1000)).all()
    again = hutchinson_log_likelihood(model, x, 3, generator=generator(1), steps=8)
    assert torch.equal(again, hutchinson_log_likelihood(model, x, 3, generator=generator(1), steps=8))


@pytest.mark.slow
def test_encode_undoes_a_fine_solver_and_stops_where_told():
    world = ctm.data.ring()
    x = noised(world, 0.3, n=30)
    end = world.G(x, 0.3, world.sigma_min)
    assert torch.allclose(encode(world, end, 0.3, steps=200), x, atol=1e-5)
    up = encode(world, end, steps=200)
    down = heun(world, up, karras_times(1500, world.sigma_min, world.sigma_max))
    assert (down - end).norm(dim=1).median() < 1e-4


def test_jump_log_det_by_difference_quotients():
    model, x, h = small_ctm(), torch.randn(5, 2, generator=generator(), dtype=torch.float64), 1e-5
    for t, s in ((3.0, 0.1), (10.0, model.sigma_min)):
        columns = [(model.G(x + step, t, s) - model.G(x - step, t, s)) / (2 * h) for step in h * torch.eye(2).double()]
        expected = torch.stack(columns, 2).det().abs().log()
        assert torch.allclose(jump_log_det(model, x, t, s), expected, atol=1e-6)
    assert torch.allclose(jump_log_det(model, x, 3.0, 3.0), torch.zeros(5, dtype=torch.float64))


def test_jump_of_a_gaussian_in_closed_form():
    x = torch.randn(6, 1, generator=generator(), dtype=torch.float64)
    ratio = 0.5 * math.log((0.25 + 0.01) / (0.25 + 9.0))
    assert torch.allclose(jump_log_det(AffineMap(), x, 3.0, 0.1), torch.full((6,), ratio, dtype=torch.float64))


def test_invert_finds_the_start_of_a_jump():
    x = torch.randn(6, 1, generator=generator(), dtype=torch.float64)
    z, residual = invert(AffineMap(), AffineMap().G(x, 3.0, 0.1), 3.0, 0.1, torch.zeros_like(x), iterations=3)
    assert torch.allclose(z, x)
    assert residual.max() < 1e-12
    model = small_ctm()
    start = 2 * torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    goal = model.G(start, 2.0, 0.5).detach()
    z, residual = invert(model, goal, 2.0, 0.5, start + 0.1)
    assert residual.median() < 1e-10
    assert torch.allclose((model.G(z, 2.0, 0.5) - goal).norm(dim=1), residual)


def test_invert_says_where_there_is_nothing_to_find():
    class Fold(AffineMap):
        def G(self, x, t, s):
            return x**2

    goal = torch.tensor([[4.0], [-1.0]], dtype=torch.float64)
    z, residual = invert(Fold(), goal, 3.0, 0.1, torch.ones_like(goal))
    assert abs(z[0].item()) == pytest.approx(2)
    assert residual[0] < 1e-12
    assert residual[1] >= 1


def test_bits_per_dim_is_the_code_length_of_a_bin():
    # uniform on [0, 1]^3 in bins of 1/256: eight bits a dimension, whatever the unit of length
    assert bits_per_dim(torch.zeros(1), 3, 1 / 256).item() == pytest.approx(8)
    scale = 2.0  # the same data on [-1, 1]^3
    assert bits_per_dim(torch.full((1,), -3 * math.log(scale)), 3, scale / 256).item() == pytest.approx(8)
    assert bits_per_dim(torch.tensor([-math.log(2.0)]), 1).item() == pytest.approx(1)


def test_data_of_any_shape():
    means = torch.randn(3, 2, 3, generator=generator())
    world, flat = ctm.GaussianMixture(means, 0.3), ctm.GaussianMixture(means.flatten(1), 0.3)
    x = noised(world, world.sigma_min, n=5)
    assert torch.allclose(log_likelihood(world, x, steps=8), log_likelihood(flat, x.flatten(1), steps=8))
    assert encode(world, x, steps=4).shape == x.shape
    assert hutchinson_log_likelihood(world, x, 3, generator=generator(), steps=4).shape == (3, 5)


@pytest.mark.slow
def test_single_precision_is_enough():
    model, x = small_ctm(torch.float32), noised(ctm.data.ring(), 0.002, n=30, dtype=torch.float32)
    single = log_likelihood(model, x)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), log_likelihood(model.double(), x.double()), atol=1e-4)


def test_a_linear_ode_in_closed_form_and_every_probe_is_a_row_of_signs():
    model, x = Rotation(), torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    whole = math.log(8) * model.B  # the integral of B dt / t from 0.5 to 4
    end = x @ torch.matrix_exp(whole).T
    prior = -0.5 * (end / 4).square().sum(1) - 1.5 * math.log(2 * math.pi * 16)
    assert torch.allclose(log_likelihood(model, x, steps=32), prior + whole.trace(), atol=1e-4)
    drawn = hutchinson_log_likelihood(model, x, 40, generator=generator(1), steps=32)
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    gaps = (drawn - prior)[..., None] - ((every @ whole) * every).sum(1)
    nearest = gaps.abs().min(2)
    assert nearest.values.max() < 1e-4
    assert len(set(nearest.indices.flatten().tolist())) == 4  # e and -e give the same


def test_the_step_of_invert_is_halved_after_a_bad_trial_and_doubled_after_a_good_one():
    class Arctangent(AffineMap):
        def G(self, x, t, s):
            return x.atan()

    z, goal, guess = 3.0, torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 3.0, dtype=torch.float64)
    for k, (length, good) in enumerate([(1, False), (1 / 2, False), (1 / 4, True), (1 / 2, True), (1, True), (1, True)], 1):
        trial = z - length * (1 + z**2) * math.atan(z)  # Newton's step: the derivative is 1 / (1 + z^2)
        assert (abs(math.atan(trial)) < abs(math.atan(z))) == good
        z = trial if good else z
        found, residual = invert(Arctangent(), goal, 3.0, 0.1, guess, iterations=k)
        assert found.item() == pytest.approx(z, rel=1e-9, abs=1e-15)
        assert residual.item() == pytest.approx(abs(math.atan(z)), rel=1e-9, abs=1e-15)


def test_invert_without_a_step_gives_the_guess_and_how_far_it_misses():
    guess, goal = (torch.randn(6, 2, generator=generator(k), dtype=torch.float64) for k in (0, 1))
    z, residual = invert(AffineMap(), goal, 3.0, 0.1, guess, iterations=0)
    assert torch.equal(z, guess)
    image = 0.5 + (guess - 0.5) * math.sqrt((0.25 + 0.1**2) / (0.25 + 3.0**2))
    assert torch.allclose(residual, ((image - goal) ** 2).sum(1).sqrt())


@pytest.mark.slow
def test_a_moved_map_gives_moved_points_the_same_density():
    class Moved(AffineMap):
        center = torch.tensor([100.5], dtype=torch.float64)

        def denoiser(self, x, t):
            return super().denoiser(x - 100, t) + 100

    class Here(AffineMap):
        center = 0.5

    x = torch.randn(5, 1, generator=generator(), dtype=torch.float64)
    density = log_likelihood(Here(), x, steps=16)
    torch.testing.assert_close(log_likelihood(Moved(), x + 100, steps=16), density, rtol=0, atol=1e-9)
    # and it is that of the prior N(0.5, sigma_max^2), brought down to sigma_min by the affine map
    exact = torch.distributions.Normal(0.5, 10 * math.hypot(0.5, 0.002) / math.hypot(0.5, 10)).log_prob(x[:, 0])
    assert torch.allclose(log_likelihood(Here(), x, steps=64), exact, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_likelihood_has_a_gradient_where_x_asks_for_one_and_keeps_none_otherwise():
    model, h = small_ctm(), 1e-5
    x = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    assert not log_likelihood(model, x, steps=6).requires_grad
    steps = h * torch.eye(2, dtype=torch.float64)
    quotients = [(log_likelihood(model, x + e, steps=6) - log_likelihood(model, x - e, steps=6)) / (2 * h) for e in steps]
    gradient = torch.autograd.grad(log_likelihood(model, y := x.clone().requires_grad_(True), steps=6).sum(), y)[0]
    assert torch.allclose(gradient, torch.stack(quotients, 1), atol=1e-6)
