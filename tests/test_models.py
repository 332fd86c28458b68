"""CTM's parametrisation: what holds for any weights, and the formula recomputed."""

import math

import pytest
import torch
from helpers import exact_ctm, noised
from torch import nn

import ctm
from ctm.models import c_in, c_noise, c_out, c_skip


class Recorder(nn.Module):
    """A network that keeps its inputs and returns a fixed answer."""

    def forward(self, x, tau_t, tau_s):
        self.seen = x, tau_t, tau_s
        return torch.full_like(x, 0.25)


@pytest.fixture
def model():
    return ctm.CTM(ctm.networks.MLP(2, seed=1), sigma_data=0.5)


def test_boundary_condition_holds_for_any_weights(model):
    x = torch.randn(20, 2)
    t = torch.linspace(0.01, 10, 20)
    assert torch.allclose(model.G(x, t, t), x, atol=1e-6)


def test_g_and_jump_recomputed_by_hand():
    model = ctm.CTM(Recorder(), sigma_data=0.5)
    t, s, sd = 2.0, 0.3, 0.5
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    g = sd**2 / (t**2 + sd**2) * x + t * sd / math.hypot(t, sd) * 0.25
    assert torch.allclose(model.g(x, t, s), g)
    seen, tau_t, tau_s = model.network.seen
    assert torch.allclose(seen, x / math.hypot(t, sd))
    assert math.isclose(tau_t.item(), math.log(t) / 4)
    assert math.isclose(tau_s.item(), math.log(s) / 4)
    assert torch.allclose(model.G(x, t, s), x * s / t + (1 - s / t) * g)
    # the same jump as an average velocity: x - G = (t - s) (x - g) / t
    assert torch.allclose((x - model.G(x, t, s)) / (t - s), (x - model.g(x, t, s)) / t)


def test_preconditioning_meets_edms_requirements():
    # unit-variance inputs, unit-variance targets, and the smallest amplification of the network's errors
    t, sd = torch.linspace(0.01, 20, 50, dtype=torch.float64), 0.7
    skip, out, scale = c_skip(t, sd), c_out(t, sd), c_in(t, sd)
    assert torch.allclose(scale**2 * (sd**2 + t**2), torch.ones_like(t))
    target_variance = (1 - skip) ** 2 * sd**2 + skip**2 * t**2  # of x0 - c_skip x
    assert torch.allclose(target_variance, out**2)
    for other in (skip - 1e-3, skip + 1e-3):
        assert ((1 - other) ** 2 * sd**2 + other**2 * t**2 > out**2).all()
    assert torch.allclose(c_noise(t), t.log() / 4)


def test_denoiser_is_g_on_the_diagonal_and_the_slope_of_the_jump(model):
    model = model.double()
    x, t, h = torch.randn(9, 2, dtype=torch.float64), 1.3, 1e-6
    assert torch.equal(model.denoiser(x, t), model.g(x, t, t))
    slope = (x - model.G(x, t, t - h)) / h  # dG/ds at s = t
    assert torch.allclose(slope, (x - model.denoiser(x, t)) / t, atol=1e-5)
    assert torch.allclose(model.velocity(x, t), (x - model.denoiser(x, t)) / t)
    assert torch.allclose(model.score(x, t), (model.denoiser(x, t) - x) / t**2)


def test_the_right_network_makes_it_the_exact_map():
    world = ctm.data.ring()
    model = exact_ctm(world)
    x = noised(world, 4.0)
    assert torch.allclose(model.G(x, 4.0, 0.1), world.G(x, 4.0, 0.1), atol=1e-7)
    assert torch.allclose(model.denoiser(x, 4.0), world.denoiser(x, 4.0), atol=1e-7)


def test_range_of_times():
    model = ctm.CTM(Recorder(), sigma_data=2.0)
    assert (model.sigma_min, model.sigma_max) == (0.008, 40.0)
    assert ctm.CTM(Recorder(), 0.5, sigma_min=0.1, sigma_max=3.0).sigma_max == 3.0


def test_mlp_takes_any_shape_and_its_seed_fixes_it():
    torch.manual_seed(5)
    first = ctm.networks.MLP(12, seed=3)
    torch.manual_seed(6)
    second = ctm.networks.MLP(12, seed=3)
    before = torch.random.get_rng_state()
    ctm.networks.MLP(12, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    x, tau = torch.randn(4, 3, 2, 2), torch.zeros(4)
    assert torch.equal(first(x, tau, tau), second(x, tau, tau))
    assert first(x, tau, tau).shape == x.shape
    assert not torch.equal(first(x, tau, tau), first(x, tau, tau - 0.2))  # it sees both times
    assert not torch.equal(first(x, tau, tau), first(x, tau - 0.2, tau))


def test_the_last_layer_is_the_last():
    network = ctm.networks.MLP(2, width=8, layers=4)
    assert ctm.CTM(network, 0.5).last_layer is network.body[-1].weight
