"""The doctor: sound maps are called sound, each broken one by its cause, each figure recomputed."""

import math

import pytest
import torch
from helpers import AffineMap

import ctm
from ctm.diagnosis import FRACTIONS, Trial, spread
from studies.checkpoints import FOLDER, MODELS


class Changed(ctm.FlowMap):
    """A flow map with one thing wrong."""

    def __init__(self, sound, jump=None, denoiser=None):
        self.sigma_min, self.sigma_max, self.sigma_data = sound.sigma_min, sound.sigma_max, sound.sigma_data
        self.sound = sound
        self.G = jump or sound.G
        self.denoiser = denoiser or sound.denoiser

    def G(self, x, t, s):
        raise NotImplementedError

    def denoiser(self, x, t):
        raise NotImplementedError


def figure(report, name):
    return next(check.value for check in report.checks if check.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "uneven_two_gaussians", "clusters"])
def test_the_exact_map_is_sound(name):
    world = ctm.data.WORLDS[name]()
    report = ctm.doctor(world, world, n=1000)
    assert report.red == []
    assert report.first_red is None
    assert str(report).endswith("All sound.")
    assert figure(report, "boundary") < 1e-6
    assert figure(report, "semigroup") < 1e-5
    assert figure(report, "regression") < 1.002  # 1 at pure noise, up to the draw


def test_figures_of_a_gaussian_are_known():
    world = ctm.data.one_gaussian()
    report = ctm.doctor(AffineMap(), world, n=3000)
    assert report.red == []
    assert figure(report, "direction") == pytest.approx(1, abs=0.03)
    assert figure(report, "regression") == pytest.approx(1, abs=0.02)  # its denoiser is the straight line
    # g(x, t, 0.98 t) - D(x, t) = (x - 1/2) k(t), in closed form

    def k(t, r=0.98):
        a = ((0.25 + (r * t) ** 2) / (0.25 + t**2)) ** 0.5
        return abs((a - r) / (1 - r) - 0.25 / (0.25 + t**2)) * math.hypot(0.5, t) / 0.5

    levels = ctm.noise.rho_time(torch.tensor(FRACTIONS[:-1]).double(), 0.002, 10.0).tolist()
    assert figure(report, "slope") == pytest.approx(max(k(t) for t in levels), rel=0.05)


@pytest.mark.parametrize("n", [200, 500, 2000])
def test_a_sound_map_is_not_called_broken_by_chance(n):
    reports = [ctm.doctor(AffineMap(), ctm.data.one_gaussian(), n=n, seed=seed) for seed in range(20)]
    assert [report.red for report in reports] == [[]] * 20


# what was trained to be no trajectory model is told from one: a denoiser has no jumps, a consistency model no denoiser
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_stored_models(name):
    path = FOLDER / f"{name}.safetensors"
    report = ctm.doctor(ctm.load(path), ctm.data.WORLDS[ctm.read_card(path)["world"]]())
    first = report.first_red.name if report.first_red else None
    assert first == {"ring_denoiser": "semigroup", "ring_cm": "regression"}.get(name)


exact = ctm.data.ring()
line = AffineMap()  # in closed form, and so at once
BROKEN = {
    "the identity": (Changed(line, jump=lambda x, t, s: x), "slope"),
    "a jump away": (Changed(line, jump=lambda x, t, s: 2 * x - line.G(x, t, s)), "slope"),
    "no boundary": (Changed(line, jump=lambda x, t, s: line.G(x, t, s) + 0.01), "boundary"),
    "not finite": (Changed(line, jump=lambda x, t, s: x * torch.nan), "boundary"),
    "another denoiser": (Changed(line, denoiser=lambda x, t: line.denoiser(x, t) + 0.2), "slope"),
    "one Euler step": (
        Changed(line, jump=lambda x, t, s: s / t * x + (1 - s / t) * line.denoiser(x, t)),
        "semigroup",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_map_is_told_by_its_cause(name):
    broken, first = BROKEN[name]
    report = ctm.doctor(broken, ctm.data.one_gaussian(), n=500)
    assert report.first_red.name == first
    assert "RED" in str(report)
    assert f"Look first at {first}" in str(report)
    assert name != "the identity" or figure(report, "direction") == 0  # it goes nowhere
    assert name != "a jump away" or figure(report, "direction") < -0.9


def test_a_denoiser_that_shrinks_too_much_is_no_posterior_mean():
    half = Changed(exact, jump=lambda x, t, s: x, denoiser=lambda x, t: exact.denoiser(x, t) / 2)
    report = ctm.doctor(half, exact, n=2000)
    # at small t, D / 2 = x_0 / 2: E<x_0 - D, D> = E|x_0|^2 / 4
    assert figure(report, "orthogonality") == pytest.approx(0.25, abs=0.02)
    assert figure(report, "regression") > 1.05


def test_the_mean_alone_is_no_denoiser():
    # D = mean has E|D - x_0|^2 = c^2, the straight line has c^2 t^2 / (c^2 + t^2); farthest apart at the lowest t looked at
    constant = Changed(AffineMap(), denoiser=lambda x, t: 0.5 + 0 * x)
    report = ctm.doctor(constant, ctm.data.one_gaussian(), n=3000)
    t = ctm.noise.rho_time(torch.tensor(FRACTIONS[-2]).double(), 0.002, 10.0).item()
    assert figure(report, "regression") == pytest.approx((0.25 + t**2) / t**2, rel=0.05)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="flow_map must have G"):
        ctm.doctor(torch.nn.Linear(2, 2), exact)
    with pytest.raises(TypeError, match="data must have a method sample"):
        ctm.doctor(exact, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="n must lie in"):
        ctm.doctor(exact, exact, n=1)


def test_the_same_seed_gives_the_same_report():
    model = ctm.CTM(ctm.networks.MLP(2, seed=3), 0.5)
    assert ctm.doctor(model, exact, n=200) == ctm.doctor(model, exact, n=200)


class Box(ctm.FlowMap):
    """The exact map of N(mean, diag(stds^2)), axis by axis."""

    def __init__(self, stds, mean=0.0):
        self.stds, self.mean, self.center = torch.tensor(stds, dtype=torch.float64), mean, mean
        self.sigma_data = self.stds.square().mean().sqrt().item()
        self.sigma_min, self.sigma_max = 0.004 * self.sigma_data, 20 * self.sigma_data

    def sample(self, n, *, generator=None):
        return self.mean + self.stds * torch.randn((n, len(self.stds)), generator=generator, dtype=torch.float64)

    def G(self, x, t, s):
        return self.mean + (x - self.mean) * ((self.stds**2 + s**2) / (self.stds**2 + t**2)).sqrt()

    def denoiser(self, x, t):
        return self.mean + (x - self.mean) * self.stds**2 / (self.stds**2 + t**2)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_a_short_axis_that_is_six_times_too_wide_is_seen(mean):
    data, wide = Box([1.0, 1e-3], mean), Box([1.0, 6e-3], mean)
    assert ctm.doctor(data, data).red == []
    report = ctm.doctor(wide, data)
    assert report.red == ["spread"]
    expected = math.hypot(6e-3, wide.sigma_min) / math.hypot(1e-3, wide.sigma_min)
    assert figure(report, "spread") == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_the_spread_of_many_axes_is_not_called_wrong_by_chance(dim):
    box = Box([0.5] * dim)
    for seed in range(40):
        x0 = box.sample(400, generator=torch.Generator().manual_seed(seed))
        trial = Trial(box, x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + 99), dtype=x0.dtype))
        for t, s in ((10.0, 2.9), (2.9, 0.002), (10.0, 0.002)):
            ratio, slack = spread(trial, t, s)
            assert abs(ratio - 1) <= slack


def test_the_report_prints_on_any_console_and_its_figures_are_marked_as_measured():
    world = ctm.data.one_gaussian()
    for report in (ctm.doctor(line, world, n=50), ctm.doctor(BROKEN["not finite"][0], world, n=50)):
        str(report).encode("ascii")
    assert all(": ~ " in line for line in str(report).splitlines()[:8])


def test_nan_at_one_level_is_red():
    some = Changed(line, jump=lambda x, t, s: line.G(x, t, s) * (torch.nan if t == s <= 1.01 * line.sigma_min else 1))
    assert ctm.doctor(some, ctm.data.one_gaussian(), n=50).first_red.name == "boundary"
