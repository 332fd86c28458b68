"""Our samplers and noise levels against the published code of k-diffusion and diffusers, on the same inputs.

Both come from `requirements-agreement.txt`, and `nox --session agreement` installs them in an environment of their own.
k-diffusion's package imports image libraries that its samplers do not use, so its `sampling.py` is loaded without the
package's `__init__`, with an empty stand-in for `torchvision.transforms.functional`.
"""

import functools
import importlib
import importlib.util
import math
import sys
import types

import pytest
import torch
from helpers import generator, noised

import ctm
from ctm.noise import karras_times
from ctm.parametrisations import cm
from ctm.samplers import euler, gamma_sampling, heun, multistep

STAND_INS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


@functools.cache
def sampling():
    """k-diffusion's samplers."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        pytest.skip("k-diffusion is not installed: nox --session agreement installs it and runs this")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    added = {"k_diffusion": package} | {name: types.ModuleType(name) for name in STAND_INS if name not in sys.modules}
    sys.modules |= added
    try:
        sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in added:
            del sys.modules[name]


def scheduler(name, **options):
    """One of diffusers' schedulers."""
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed: nox --session agreement installs it and runs this")
    return getattr(importlib.import_module("diffusers"), name)(**options)


@pytest.fixture
def world():
    return ctm.data.ring()


LIMITS = (0.002, 10.0)


def start(world):
    return noised(world, LIMITS[1], n=20)


def close(ours, theirs, tolerance=1e-9):
    assert ours.dtype == torch.float64
    assert (ours - theirs).abs().max() < tolerance * ours.abs().max()


@pytest.mark.parametrize("n", [1, 5, 18])
def test_karras_times_are_theirs(n):
    ours = karras_times(n, *LIMITS)
    close(ours, sampling().get_sigmas_karras(n + 1, *LIMITS)[:-1].double(), 1e-5)  # theirs in float32


def test_karras_times_are_those_of_diffusers():
    theirs = scheduler("EDMEulerScheduler", sigma_min=LIMITS[0], sigma_max=LIMITS[1])
    theirs.set_timesteps(19)
    close(karras_times(18, *LIMITS), theirs.sigmas[:-1].double(), 1e-6)


@pytest.mark.parametrize("to_zero", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(euler, "sample_euler"), (heun, "sample_heun"), (multistep, "sample_dpmpp_2m")]
)
def test_samplers_walk_as_k_diffusions_do(ours, theirs, to_zero, world):
    times = karras_times(12, *LIMITS)
    if to_zero:
        times = torch.cat([times, times.new_zeros(1)])
    x = start(world)
    close(ours(world, x, times), getattr(sampling(), theirs)(world.denoiser, x, times, disable=True))


def test_euler_walks_as_diffusers_does(world):
    theirs = scheduler("EDMEulerScheduler", sigma_min=LIMITS[0], sigma_max=LIMITS[1], sigma_data=0.5)
    theirs.set_timesteps(13)
    x = y = start(world)
    for t, sigma in zip(theirs.timesteps, theirs.sigmas.double(), strict=False):
        theirs.scale_model_input(y, t)
        skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        y = theirs.step((world.denoiser(y, sigma) - skip * y) / out, t, y).prev_sample  # it undoes the preconditioning
    close(euler(world, x, theirs.sigmas.double()), y, 1e-5)  # its noise levels are in float32


class Straight(ctm.FlowMap):
    """The flow map of one Euler step: gamma-sampling through it is a known family of samplers."""

    sigma_min, sigma_max, sigma_data = *LIMITS, 0.5

    def __init__(self, world):
        self.world = world

    def denoiser(self, x, t):
        return self.world.denoiser(x, t)

    def G(self, x, t, s):
        return s / t * x + (1 - s / t) * self.denoiser(x, t)


def test_gamma_zero_is_their_euler_sampler(world):
    times, x = karras_times(12, *LIMITS), start(world)
    close(gamma_sampling(Straight(world), x, times, 0.0), sampling().sample_euler(world.denoiser, x, times, disable=True))


@pytest.mark.parametrize("gamma", [0.3, 0.8])
def test_between_the_limits_it_is_their_ancestral_sampler(gamma, world):
    # theirs puts back eta s sqrt(1 - s^2 / t^2), ours gamma s: one call for each step, with the eta that is meant
    times, x = [10.0, 3.0, 1.0, 0.3, 0.1], start(world)
    ours, g = gamma_sampling(Straight(world), x, times, gamma, generator=generator(3)), generator(3)
    for t, s in zip(times, times[1:], strict=False):
        x = sampling().sample_euler_ancestral(
            world.denoiser,
            x,
            torch.tensor([t, s], dtype=torch.float64),
            eta=gamma / math.sqrt(1 - s**2 / t**2),
            noise_sampler=lambda *_: torch.randn((20, 2), generator=g, dtype=torch.float64),
            disable=True,
        )
    close(ours, x)


class Consistency(ctm.FlowMap):
    """A consistency model with c_skip and c_out of Song et al. (2023): every jump that it has is to sigma_min."""

    sigma_min, sigma_max, sigma_data = *LIMITS, 0.5

    def network(self, x, t):
        return torch.tanh(x * 0.3 + math.log(t))

    def denoiser(self, x, t):
        raise NotImplementedError

    def G(self, x, t, s):
        assert s == self.sigma_min
        skip, out = cm(self, torch.tensor(t, dtype=x.dtype))
        return skip * x + out * self.network(x, t)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_gamma_one_is_their_consistency_sampler(steps, world):
    theirs = scheduler("CMStochasticIterativeScheduler", sigma_min=LIMITS[0], sigma_max=LIMITS[1], clip_denoised=False)
    theirs.set_timesteps(steps)
    sigmas, model, x, g = theirs.sigmas.double(), Consistency(), start(world), generator(5)
    sigmas[-1] = model.sigma_min
    ours, y = gamma_sampling(model, x, sigmas, 1.0, generator=generator(5)), x
    for t, sigma in zip(theirs.timesteps, sigmas.tolist(), strict=False):
        theirs.scale_model_input(y, t)
        y = theirs.step(model.network(y, sigma), t, y, generator=g).prev_sample
    close(ours, y, 1e-5)  # its noise levels are in float32
