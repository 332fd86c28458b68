"""CTM's parametrisation: what holds for any weights, and the formula recomputed."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import exact_ctm, generator, noised, weights_of
from torch import nn

import ctm
from ctm.models import c_in, c_noise, c_out, c_skip


class Recorder(nn.Module):
    """A network that keeps its inputs and returns a fixed answer."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype))

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
    model = ctm.CTM(Recorder(torch.float64), sigma_data=0.5)
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
    for shape in ((1,), (2,), (16,), (8, 8)):
        assert ctm.CTM(Recorder(), 0.5, shape=shape).sigma_max == 10.0
    assert ctm.CTM(Recorder(), 0.5, shape=(28, 28)).sigma_max == pytest.approx(0.5 * 4704**0.5)


@pytest.mark.parametrize(("dimension", "most"), [(1, 1 / 800), (2, 1 / 400), (64, 0.08), (784, 1 / 12)])
def test_the_noise_is_as_near_the_noised_data_as_it_says(dimension, most):
    """By the exact divergence of two Gaussians, N(m, S + sigma^2) from N(0, sigma^2), sigma_data = 1: what is told of the
    data moves their spread from S to m, and the divergence is largest where it tells everything."""
    low, high = ctm.mixture.time_range(1.0, dimension)
    spread = np.random.default_rng(0).exponential(size=dimension)
    spread /= spread.mean()
    found = []
    for told in (0.0, 0.5, 1.0):
        mean, ratio = np.sqrt(told * spread), 1 + (1 - told) * spread / high**2
        found.append(0.5 * ((mean / high) ** 2 + ratio - 1 - np.log(ratio)).sum())
    assert low == 0.004
    assert found == sorted(found)
    assert found[-1] == pytest.approx(most)


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


def test_the_columns_unchecked_are_the_numbers_checked(model):
    x, t, s = torch.randn(6, 2, generator=generator()), torch.linspace(1, 9, 6), torch.linspace(0.1, 0.9, 6)
    assert torch.equal(model(x, t[:, None], s[:, None]), model.g(x, t, s))
    assert torch.equal(model.jump(x, t[:, None], s[:, None]), model.G(x, t, s))
    one = torch.full((1, 1), 2.0), torch.full((1, 1), 0.5)
    assert torch.equal(model.jump(x, *one), model.G(x, 2.0, 0.5))


def test_a_model_of_data_that_lie_elsewhere_is_the_model_at_the_origin_moved():
    here, mean = ctm.CTM(ctm.networks.MLP(2, seed=1), 0.5).double(), torch.tensor([3.0, -100.0])
    there = ctm.CTM(ctm.networks.MLP(2, seed=1), 0.5, center=mean).double()
    x, mean = torch.randn(6, 2, generator=generator(), dtype=torch.float64), mean.double()
    for f in ("g", "G"):
        assert torch.allclose(getattr(there, f)(x + mean, 2.0, 0.5), getattr(here, f)(x, 2.0, 0.5) + mean, atol=1e-12)
    assert torch.allclose(there.denoiser(x + mean, 2.0), here.denoiser(x, 2.0) + mean, atol=1e-12)


def test_what_the_data_do_not_say_is_measured():
    class Bare:
        def sample(self, n, *, generator=None):
            return 3 + 0.2 * torch.randn(n, 2, 3, generator=generator)

    model = ctm.CTM.for_data(Bare(), ctm.networks.MLP(6))
    assert model.shape == (2, 3)
    assert torch.allclose(model.center, torch.full((2, 3), 3.0).double(), atol=0.02)
    assert model.sigma_data == pytest.approx(0.2, rel=0.02)


def test_the_output_scale_is_what_one_unit_of_the_output_moves(model):
    model = model.double()
    x, t, s = (value.double() for value in (torch.randn(5, 2), torch.full((5, 1), 3.0), torch.full((5, 1), 0.4)))
    before = model.jump(x, t, s)
    with torch.no_grad():
        model.network.body[-1].bias += 1
    assert torch.allclose(model.jump(x, t, s) - before, model.output_scale(t, s).expand_as(x), atol=1e-12)


# --- precision


def trained(dtype=torch.float32, autocast=None, objective=ctm.Consistency):
    """A small model after 60 steps."""
    world = ctm.data.ring()
    student = ctm.CTM(ctm.networks.MLP(2, width=32, layers=2, gain=8.0), world.sigma_data).to(dtype)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        loss = objective(world, pool=128, levels=8, reuse=8) + 0.1 * ctm.Denoising(64)
        history = ctm.train(student, world, loss, 60, batch=64)
    return student, history


def away(a, b):
    """The relative distance of two sets of points."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.fixture(scope="module")
def single():
    return trained()


def test_points_of_any_dtype_through_weights_of_any_dtype(single):
    # measured: 1.4e-7 for float32 weights; 2.9e-3 (bfloat16) and 3.5e-4 (float16) for the weights alone, 3.5e-3 and
    # 5.2e-4 with the points. A half-precision network of this package casts its own time features
    model = single[0]
    exact = copy.deepcopy(model).double()
    for t, s in ((10.0, 0.01), (1.0, 0.1)):
        x = t * torch.randn(200, 2, generator=generator())
        truth = exact.G(x.double(), t, s)
        assert away(model.G(x, t, s), truth) < 1e-6
        wide = model.G(x.double(), t, s)
        assert wide.dtype == torch.float64
        assert away(wide, truth) < 1e-6
        low = model.G(x.bfloat16(), t, s)
        assert low.dtype == torch.bfloat16
        assert away(low, truth) < 1e-2
        for dtype, bound in ((torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
            small = copy.deepcopy(model).to(dtype)
            for points in (x, x.to(dtype), x.double()):
                end = small.G(points, t, s)
                assert end.dtype == points.dtype
                assert away(end, truth) < bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_sampling_under_autocast_agrees_with_float32(single, dtype, bound):
    model = single[0]
    x = ctm.samplers.noise(model, 200, (2,), generator=generator())
    plain = ctm.samplers.one_step(model, x)
    with torch.autocast("cpu", dtype):
        cast = ctm.samplers.one_step(model, x)
    assert cast.dtype == torch.float32
    assert 0 < away(cast, plain) < bound


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast_learns_what_float32_learns(single, dtype):
    # measured over 150 steps: error .1833 and .1832 for .1832, last loss .0800 and .0799 for .0799
    (model, history), (cast, beside) = single, trained(autocast=dtype)
    assert next(cast.parameters()).dtype == torch.float32
    assert not torch.equal(weights_of(model), weights_of(cast))
    assert beside.loss == pytest.approx(history.loss, rel=0.05)
    world = ctm.data.ring()
    errors = [ctm.metrics.flow_map_error(each, world, n=500) for each in (model, cast)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_each_step_under_autocast_sees_the_weights_of_the_last():
    world, ends = ctm.data.ring(), []
    for blocks in (1, 3):  # autocast drops its copies of the weights where its block ends
        state = ctm.training.State(ctm.CTM(ctm.networks.MLP(2, 16, 2), 0.5), world, ctm.Denoising(0), 3, batch=32)
        for _ in range(blocks):
            with torch.autocast("cpu", torch.bfloat16):
                for _ in range(3 // blocks):
                    state.step()
        ends.append(weights_of(state.models.student))
    assert torch.equal(*ends)


def test_training_in_float64_and_bfloat16_weights(single):
    # measured over 150 steps: float64 the same to 5 digits, bfloat16 .191 for .183
    history, (_, double), (_, half) = single[1], trained(torch.float64), trained(torch.bfloat16)
    assert double.loss == pytest.approx(history.loss, rel=1e-3)
    assert half.loss[-1] == pytest.approx(history.loss[-1], rel=0.2)


@pytest.mark.slow
def test_the_jump_compiles_as_one_graph(single):
    model = single[0].requires_grad_(False)
    x = 10 * torch.randn(8, 2, generator=generator())
    compiled = torch.compile(model.G, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x, 10.0, 0.5), model.G(x, 10.0, 0.5), atol=1e-5)
    t, s = torch.linspace(1, 10, 8), torch.linspace(0.1, 1, 8)
    assert torch.allclose(compiled(x, t, s), model.G(x, t, s), atol=1e-5)


def test_the_jump_can_be_mapped_over_times(single):
    model = single[0].requires_grad_(False)
    x, t = torch.randn(8, 2, generator=generator()), torch.linspace(1, 10, 5)
    mapped = torch.func.vmap(lambda time: model.G(x, time, 0.5))(t)
    by_hand = torch.stack([model.G(x, float(time), 0.5) for time in t])
    assert torch.allclose(mapped, by_hand, atol=1e-5)
