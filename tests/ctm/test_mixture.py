"""The oracle against closed forms, quadrature, autograd and SciPy's integrators."""

import math

import numpy as np
import pytest
import torch
from helpers import generator, noised
from scipy import integrate, optimize, special, stats

import ctm
from ctm.mixture import shares

WORLD_NAMES = sorted(ctm.data.WORLDS)


@pytest.fixture(params=["ring", "two_moons", "uneven_two_gaussians", "pinwheel"])
def world(request):
    return ctm.data.WORLDS[request.param]()


@pytest.mark.parametrize("components", [1, 2, 8, 32, 33, 500])
def test_shares_are_scipys_softmax(components):
    terms = 30 * torch.randn(200, components, generator=generator(0), dtype=torch.float64)
    terms[0] -= 1e5  # far from all components
    assert np.allclose(shares(terms), special.softmax(terms.numpy(), axis=1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("t", [0.0, 0.05, 0.7, 9.0])
def test_log_prob_is_scipys_density(world, t):
    x = noised(world, t)
    d = world.means[0].numel()
    density = sum(
        w * stats.multivariate_normal(mu.numpy(), (c**2 + t**2) * np.eye(d)).pdf(x.numpy())
        for w, mu, c in zip(world.weights.numpy(), world.means.reshape(-1, d), world.stds.numpy(), strict=True)
    )
    assert np.allclose(world.log_prob(x, t).numpy(), np.log(density), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["uneven_two_gaussians", "pinwheel", "clusters"])
@pytest.mark.parametrize("t", [0.02, 0.7, 9.0])
def test_the_denoiser_to_be_read_is_the_worlds(name, t):
    """Also where the parts have unlike weights and widths."""
    world = ctm.data.WORLDS[name]()
    stds = world.stds * torch.linspace(0.7, 1.4, len(world.stds), dtype=torch.float64)
    uneven = ctm.GaussianMixture(world.means, stds, torch.arange(1.0, len(stds) + 1))
    x = noised(uneven, t)
    plain = ctm.mixture.plain_denoiser(x, t, uneven.means, uneven.stds, uneven.weights)
    assert torch.allclose(plain, uneven.denoiser(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0.0, 0.05, 0.7, 9.0])
def test_score_is_the_gradient_of_log_prob(world, t):
    x = noised(world, t).requires_grad_()
    (gradient,) = torch.autograd.grad(world.log_prob(x, t).sum(), x)
    assert torch.allclose(world.score(x, t), gradient, rtol=1e-9, atol=1e-9)


def test_denoiser_is_the_posterior_mean_by_quadrature():
    world = ctm.data.uneven_two_gaussians()
    for t, x in [(0.1, -1.2), (0.8, 0.3), (5.0, 4.0)]:

        def joint(x0, t=t, x=x):
            return np.exp(world.log_prob(torch.tensor([[x0]], dtype=torch.float64)).item()) * stats.norm.pdf(x, x0, t)

        mass, mean = (integrate.quad(f, -5, 5, points=[-1.5, x, 1.5], limit=500)[0] for f in (joint, lambda y: y * joint(y)))
        assert math.isclose(world.denoiser(torch.tensor([[x]], dtype=torch.float64), t).item(), mean / mass, rel_tol=1e-7)


def test_score_denoiser_and_velocity_agree(world):
    x, t = noised(world, 0.4), 0.4
    assert torch.allclose(world.score(x, t), (world.denoiser(x, t) - x) / t**2, atol=1e-9)
    assert torch.allclose(world.velocity(x, t), (x - world.denoiser(x, t)) / t, atol=1e-9)


def test_a_single_gaussian_moves_on_an_affine_map():
    # dx/dt = t (x - mu) / (c^2 + t^2), so (x - mu) / sqrt(c^2 + t^2) is constant along a trajectory.
    mu, c = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64), 0.7
    world = ctm.GaussianMixture(mu[None], c)
    x = noised(world, 6.0)
    for s in (0.0, 0.01, 1.0, 6.0):
        expected = mu + (x - mu) * math.sqrt((c**2 + s**2) / (c**2 + 36.0))
        assert torch.allclose(world.G(x, 6.0, s), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["two_gaussians", "uneven_two_gaussians", "three_gaussians"])
def test_in_one_dimension_the_flow_map_keeps_quantiles(name):
    # Trajectories cannot cross, so F_s(G(x, t, s)) = F_t(x): an oracle that needs no integration at all.
    world = ctm.data.WORLDS[name]()
    mu, c, w = world.means.flatten().numpy(), world.stds.numpy(), world.weights.numpy()

    def cdf(x, t):
        return float(w @ stats.norm.cdf((x - mu) / np.sqrt(c**2 + t**2)))

    x = torch.linspace(-25, 25, 21, dtype=torch.float64)[:, None]
    for s in (0.0, 0.3):
        mapped = world.G(x, 12.0, s).flatten()
        for start, end in zip(x.flatten().tolist(), mapped.tolist(), strict=True):
            level = cdf(start, 12.0)
            expected = optimize.brentq(lambda y, q=level, s=s: cdf(y, s) - q, -30, 30, xtol=1e-13)
            assert math.isclose(expected, end, abs_tol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "checkerboard", "spirals"])
def test_flow_map_against_an_implicit_integrator(name):
    world = ctm.data.WORLDS[name]()
    x = noised(world, world.sigma_max, n=4)
    ours = world.G(x, world.sigma_max, world.sigma_min)
    for start, end in zip(x, ours, strict=True):

        def velocity(tau, y):  # in log t, by a method of another family
            t = math.exp(tau)
            return t * world.velocity(torch.from_numpy(y)[None], t)[0].numpy()

        span = (math.log(world.sigma_max), math.log(world.sigma_min))
        theirs = integrate.solve_ivp(velocity, span, start.numpy(), method="Radau", rtol=1e-9, atol=1e-11).y[:, -1]
        assert np.abs(theirs - end.numpy()).max() < 1e-6 * world.sigma_data


@pytest.mark.parametrize("name", WORLD_NAMES)
def test_flow_map_is_a_semigroup_and_starts_at_the_identity(name):
    world = ctm.data.WORLDS[name]()
    t, u, s = world.sigma_max, 0.9 * world.sigma_data, world.sigma_min
    x = noised(world, t, n=200)
    assert torch.equal(world.G(x, t, t), x)
    straight, broken = world.G(x, t, s), world.G(world.G(x, t, u), u, s)
    # near a watershed an error of 1e-9 at u is a larger one at s, so the median is the sharper test
    gap = (straight - broken).abs() / world.sigma_data
    assert gap.median() < 1e-9
    assert gap.max() < 1e-5


def test_flow_map_solves_the_ode():
    world, h = ctm.data.ring(), 1e-4
    x, t, s = noised(world, 3.0), 3.0, 0.4
    slope = (world.G(x, t, s + h) - world.G(x, t, s - h)) / (2 * h)
    assert torch.allclose(slope, world.velocity(world.G(x, t, s), s), atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_another_unit_of_length_changes_nothing_but_the_unit(size):
    world = ctm.data.uneven_two_gaussians()
    scaled = ctm.GaussianMixture(size * world.means, size * world.stds, world.weights)
    x = noised(world, 3.0)
    assert scaled.sigma_data == pytest.approx(size * world.sigma_data)
    assert torch.allclose(scaled.denoiser(size * x, size * 3.0) / size, world.denoiser(x, 3.0), rtol=1e-9, atol=1e-9)
    assert torch.allclose(scaled.G(size * x, size * 3.0, size * 0.01) / size, world.G(x, 3.0, 0.01), rtol=1e-7, atol=1e-7)


def test_times_may_differ_from_sample_to_sample():
    world = ctm.data.two_moons()
    x = noised(world, 2.0, n=6)
    t, s = torch.tensor([2.0, 1.0, 0.5, 2.0, 2.0, 0.1]), torch.tensor([0.1, 1.0, 0.2, 0.0, 0.5, 0.1])
    together = world.G(x, t, s)
    for i in range(6):
        alone = world.G(x[i : i + 1], t[i].item(), s[i].item())
        assert torch.allclose(together[i : i + 1], alone, atol=1e-8)
        assert torch.allclose(world.score(x, t)[i : i + 1], world.score(x[i : i + 1], t[i].item()))


def test_data_of_any_shape():
    means = torch.randn(3, 2, 4, 4, generator=generator())
    world, flat = ctm.GaussianMixture(means, 0.3), ctm.GaussianMixture(means.flatten(1), 0.3)
    x = noised(world, 1.0, n=5)
    for method, arguments in (("denoiser", (1.0,)), ("score", (1.0,)), ("velocity", (1.0,)), ("G", (1.0, 0.1))):
        shaped = getattr(world, method)(x, *arguments)
        assert shaped.shape == x.shape
        assert torch.allclose(shaped.flatten(1), getattr(flat, method)(x.flatten(1), *arguments), atol=1e-9)
    assert world.log_prob(x).shape == (5,)


@pytest.mark.parametrize("chunk", [1, 200])
def test_chunks_change_nothing(monkeypatch, chunk):
    world, x = ctm.data.two_moons(), noised(ctm.data.two_moons(), 1.0, n=8)
    times = torch.linspace(0.1, 1.0, 8)
    whole = world.score(x, times), world.score(x[:2], times[:2]), world.log_prob(x, 1.0), world.G(x, 1.0, 0.1)
    monkeypatch.setattr("ctm.mixture.CHUNK", chunk)
    pieces = world.score(x, times), world.score(x[:2], times[:2]), world.log_prob(x, 1.0), world.G(x, 1.0, 0.1)
    for a, b in zip(whole, pieces, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_float32_points_come_back_as_float32():
    world = ctm.data.ring()
    x = noised(world, 1.0)
    for method in ("denoiser", "score", "velocity"):
        single = getattr(world, method)(x.float(), 1.0)
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), getattr(world, method)(x, 1.0), atol=1e-5)


@pytest.mark.parametrize("name", WORLD_NAMES)
def test_samples_have_the_moments_of_the_mixture(name):
    world = ctm.data.WORLDS[name]()
    x = world.sample(200_000, generator=generator(), dtype=torch.float64)
    mean = (world.weights[:, None] * world.means).sum(0)
    assert torch.allclose(x.mean(0), mean, atol=0.012 * world.sigma_data)
    spread = (x - mean).square().mean().sqrt().item()
    assert math.isclose(spread, world.sigma_data, rel_tol=0.01)
    assert torch.equal(world.sample(5, generator=generator(3)), world.sample(5, generator=generator(3)))
    if world.shape == (2,):
        assert math.isclose(world.sigma_data, 0.5, rel_tol=1e-9)
        assert mean.abs().max() < 1e-9
