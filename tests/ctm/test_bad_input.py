"""Every wrong call raises an error that names the argument."""

import math

import numpy as np
import pytest
import torch

import ctm
from ctm._checks import check_jump, check_number, check_points, check_times
from ctm.editing import accept
from ctm.samplers import euler, gamma_sampling, heun, noise, one_step

world = ctm.data.ring()
model = ctm.CTM(ctm.networks.MLP(2, width=8, layers=1), 0.5)
x = torch.zeros(4, 2)
nan = torch.full((4, 2), math.nan)
four = torch.tensor([2.0, 2.0, 2.0, 2.0])

CALLS = {
    # points
    "x is a list": (TypeError, "x must be a torch.Tensor", lambda: world.denoiser([[0.0, 0.0]], 1.0)),
    "x is integer": (TypeError, "x must hold floating", lambda: world.denoiser(torch.zeros(4, 2, dtype=torch.int64), 1.0)),
    "x has no data axis": (ValueError, "x must have shape", lambda: model.G(torch.zeros(4), 2.0, 1.0)),
    "x is empty": (ValueError, "x must have shape", lambda: world.G(torch.zeros(0, 2), 2.0, 1.0)),
    "x has another shape": (ValueError, r"x must have shape \(n, 2\)", lambda: world.score(torch.zeros(4, 3), 1.0)),
    "x is NaN": (ValueError, "x must be finite", lambda: world.G(nan, 2.0, 1.0)),
    "x is NaN for a model": (ValueError, "x must be finite", lambda: model.g(nan, 2.0, 1.0)),
    # times
    "t is a string": (TypeError, "t must be a number", lambda: world.denoiser(x, "1")),
    "t is a bool": (TypeError, "t must be a number", lambda: world.denoiser(x, True)),
    "t is negative": (ValueError, r"t must lie in \[0, 1e\+100\]", lambda: world.velocity(x, -1.0)),
    "t is NaN": (ValueError, "t must lie in", lambda: world.log_prob(x, math.nan)),
    "t is infinite": (ValueError, "t must lie in", lambda: world.score(x, math.inf)),
    "t has another length": (ValueError, "t must be one number or one per sample", lambda: world.G(x, four[:3], 1.0)),
    "t is a table": (ValueError, "t must be one number or one per sample", lambda: world.G(x, torch.ones(4, 2), 1.0)),
    "s above t": (ValueError, "s must not exceed t .* got s = 2 > t = 1", lambda: world.G(x, 1.0, 2.0)),
    "one s above its t": (ValueError, "s must not exceed t", lambda: model.G(x, four, torch.tensor([1.0, 1, 3, 1]))),
    "s above t in g": (ValueError, "s must not exceed t", lambda: model.g(x, 1.0, 2.0)),
    "t above the model's range": (ValueError, r"t must lie in \[0.002, 10\]", lambda: model.G(x, 11.0, 1.0)),
    "s below the model's range": (ValueError, r"s must lie in \[0.002, 10\]", lambda: model.G(x, 1.0, 0.0)),
    "denoiser at 0": (ValueError, "t must lie in", lambda: model.denoiser(x, 0.0)),
    "points of another size for a model": (
        ValueError,
        "x must have 2 numbers",
        lambda: model.G(torch.zeros(4, 3), 2.0, 1.0),
    ),
    "beyond float64": (ValueError, r"x must hold numbers up to 1e\+100", lambda: world.G(x.double() + 1e160, 2.0, 1.0)),
    # mixtures
    "means without data axis": (ValueError, "means must have shape", lambda: ctm.GaussianMixture([0.0, 1.0], 0.1)),
    "no means": (ValueError, "means must have shape", lambda: ctm.GaussianMixture(torch.zeros(0, 2), 0.1)),
    "means are NaN": (ValueError, "means must be finite", lambda: ctm.GaussianMixture([[math.nan]], 0.1)),
    "stds of another length": (ValueError, "stds must have shape", lambda: ctm.GaussianMixture([[0.0]], [0.1, 0.2])),
    "std 0": (ValueError, "stds must be finite and above 0", lambda: ctm.GaussianMixture([[0.0]], 0.0)),
    "weights negative": (ValueError, "weights must be", lambda: ctm.GaussianMixture([[0.0], [1.0]], 0.1, [1.0, -1.0])),
    "weights all 0": (ValueError, "weights must be", lambda: ctm.GaussianMixture([[0.0], [1.0]], 0.1, [0.0, 0.0])),
    "weights of another length": (ValueError, "weights must have shape", lambda: ctm.GaussianMixture([[0.0]], 0.1, [1, 1])),
    "no samples": (ValueError, "n must lie in", lambda: world.sample(0)),
    "half a sample": (TypeError, "n must be an integer", lambda: world.sample(1.5)),
    # models and networks
    "sigma_data 0": (ValueError, "sigma_data must lie in", lambda: ctm.CTM(ctm.networks.MLP(2), 0.0)),
    "sigma_min 0": (ValueError, "sigma_min must lie in", lambda: ctm.CTM(ctm.networks.MLP(2), 0.5, sigma_min=0.0)),
    "range upside down": (ValueError, "sigma_max must lie in", lambda: ctm.CTM(ctm.networks.MLP(2), 0.5, 1.0, 0.5)),
    "dim 0": (ValueError, "dim must lie in", lambda: ctm.networks.MLP(0)),
    "width is text": (TypeError, "width must be an integer", lambda: ctm.networks.MLP(2, width="128")),
    # samplers
    "one time": (ValueError, "times must hold at least two", lambda: heun(world, x, [1.0])),
    "times run up": (ValueError, "times must strictly decrease", lambda: euler(world, x, [0.1, 1.0])),
    "times repeat": (ValueError, "times must strictly decrease", lambda: gamma_sampling(world, x, [1.0, 1.0, 0.1])),
    "times are nothing": (TypeError, "times must be a sequence", lambda: euler(world, x, None)),
    "times are text": (TypeError, "times must be a sequence", lambda: euler(world, x, ["a", "b"])),
    "times negative": (ValueError, "times must be finite and not negative", lambda: euler(world, x, [1.0, -0.1])),
    "gamma 2": (ValueError, r"gamma must lie in \[0, 1\]", lambda: gamma_sampling(world, x, [1.0, 0.1], gamma=2.0)),
    "points of another size": (ValueError, "x must have shape", lambda: one_step(world, torch.zeros(4, 3))),
    "no noise": (ValueError, "n must lie in", lambda: noise(world, 0, (2,))),
    "no steps": (ValueError, "n must lie in", lambda: ctm.noise.karras_times(0, 0.1, 1.0)),
    "schedule upside down": (ValueError, "sigma_max must lie in", lambda: ctm.noise.karras_times(3, 1.0, 0.1)),
    # likelihoods
    "likelihood of no steps": (ValueError, "steps must lie in", lambda: ctm.likelihood.log_likelihood(world, x, steps=0)),
    "likelihood of a list": (TypeError, "x must be a torch.Tensor", lambda: ctm.likelihood.log_likelihood(world, [0.0])),
    "no probes": (ValueError, "probes must lie in", lambda: ctm.likelihood.hutchinson_log_likelihood(world, x, 0)),
    "encode beyond the noise": (ValueError, "t must lie in", lambda: ctm.likelihood.encode(world, x, 99.0)),
    "invert upward": (ValueError, "s must not exceed t", lambda: ctm.likelihood.invert(model, x, 1.0, 2.0, x)),
    "guess of another shape": (
        ValueError,
        "guess must have shape",
        lambda: ctm.likelihood.invert(model, x, 2.0, 1.0, torch.zeros(4, 3)),
    ),
    "bins of no width": (ValueError, "bin_width must lie in", lambda: ctm.likelihood.bits_per_dim(x, 2, 0.0)),
    # metrics
    "sets of two shapes": (ValueError, "y must have shape", lambda: ctm.metrics.wasserstein(x, torch.zeros(4, 3))),
    "p 3": (ValueError, "p must lie in", lambda: ctm.metrics.wasserstein(x, x, p=3)),
    "unknown metric": (ValueError, "metric must be one of", lambda: ctm.metrics.noise_floor(world, "FID")),
    "one draw": (ValueError, "draws must lie in", lambda: ctm.metrics.noise_floor(world, draws=1)),
}


NUMBERS = {"a NumPy integer": np.int64(3), "a tensor": torch.tensor(3), "a number": 3, "an old one": np.uint8(3)}
REFUSED = [True, np.bool_(True), "3", None, 3.5, np.float64(3), [3], torch.tensor([3, 3]), np.ma.masked, torch.tensor(True)]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_other_libraries_are_numbers(name):
    found = check_number(NUMBERS[name], "n", 1, 5, integer=True)
    assert type(found) is int
    assert found == 3


@pytest.mark.parametrize("value", REFUSED, ids=repr)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(TypeError, match="n must be an integer"):
        check_number(value, "n", 1, 5, integer=True)


def test_times_of_other_libraries():
    times = torch.tensor([1.0, 2.0, 3.0, 4.0])
    swapped, table = times.numpy().astype(">f4"), np.flip(times.numpy()[::-1])
    for given in (times.numpy(), swapped, table, times.double(), torch.tensor([1, 2, 3, 4]), times[:, None]):
        assert torch.equal(check_times(given, x), times[:, None])
    for given in (2, 2.0, np.float32(2), np.int64(2), torch.tensor([[2.0]])):
        assert torch.equal(check_times(given, x), torch.tensor([[2.0]]))
    with pytest.raises(TypeError, match="t must be a number"):
        check_times(np.ma.array([1.0, 2, 3, 4], mask=[0, 0, 0, 1]), x)


def test_a_limit_is_compared_before_it_is_rounded():
    half, low, high = x.bfloat16(), 0.0021, 10.03  # bfloat16 has neither
    t, s = check_jump(half, high, low, low, high)
    assert (t.dtype, s.dtype) == (torch.bfloat16, torch.bfloat16)
    check_jump(half, t.flatten(), s.flatten(), low, high)
    with pytest.raises(ValueError, match="s must lie in"):
        check_jump(half, high, 0.95 * low, low, high)
    assert one_step(ctm.CTM(ctm.networks.MLP(2, width=8, layers=1), 0.5).bfloat16(), half).isfinite().all()


def test_large_points_whose_squares_overflow_are_no_fault():
    for big in (torch.full((3, 2), 1e30), torch.full((3, 2), 1e99, dtype=torch.float64), torch.full((3, 2), 6e4).half()):
        assert check_points(big) is big


def jump(x, t, s):
    t, s = check_jump(x, t, s, 0.002, 10.0, (2,))
    return s / t * x


def test_values_are_not_read_where_there_are_none():
    points = torch.randn((4, 2), generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([1.0, 2.0, 3.0, 4.0])
    vmap, jvp = torch.func.vmap, torch.func.jvp
    assert torch.equal(vmap(lambda t: jump(points, t, 0.5))(levels)[2], jump(points, 3.0, 0.5))
    assert torch.equal(vmap(lambda s: jump(points, 5.0, s))(levels)[2], jump(points, 5.0, 3.0))
    assert torch.equal(vmap(lambda y: jump(y[None], 2.0, 0.5)[0])(points), jump(points, 2.0, 0.5))
    slope = jvp(lambda t: jump(points, t, torch.tensor(0.5)), (torch.tensor(2.0),), (torch.tensor(1.0),))[1]
    assert torch.allclose(slope, -0.5 / 4 * points)
    with pytest.raises(ValueError, match="x must have shape"):
        vmap(lambda t: jump(points[:, :1], t, 0.5))(levels)


@pytest.mark.slow
def test_a_compiled_jump_is_one_graph_with_its_shapes_checked():
    compiled = torch.compile(jump, fullgraph=True, backend="eager")
    for t, s in ((2.0, 0.5), (3.0, 0.7), (torch.full((4,), 2.0), torch.full((4,), 0.5))):
        assert torch.equal(compiled(x + 1, t, s), jump(x + 1, t, s))
    assert torch.isnan(compiled(nan, 2.0, 0.5)).all()  # no value is looked at


def test_accept_refuses_nan():
    for bad in (torch.tensor([0.0, math.nan]), torch.tensor([0.0, math.inf]), torch.tensor([-math.inf])):
        with pytest.raises(ValueError, match="log_ratio must"):
            accept(bad)
    with pytest.raises(ValueError, match="log_ratio must not exceed log_bound"):
        accept(torch.tensor([0.0, 2.0]), 1.0)
    never = accept(torch.tensor([0.0, -math.inf]), generator=torch.Generator().manual_seed(0))
    assert never.tolist() == [True, False]


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_names_the_argument(name):
    error, message, call = CALLS[name]
    with pytest.raises(error, match=message):
        call()
