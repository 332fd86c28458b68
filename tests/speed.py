"""How fast is it? Ratios only, both sides measured in turn in one run, so that the machine falls out: nox --session speed

Times are processor seconds of this thread, each side at its fastest. The bounds are about 1.4 times what was measured on one
Intel Xeon core.
"""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import ctm
from ctm.losses import consistency_loss, draw_levels
from ctm.noise import karras_times
from ctm.samplers import heun, noise, one_step
from ctm.training import State
from studies.checkpoints import FOLDER
from studies.harness import fastest

ROWS = 64  # of the bare sums: a chunk of 1 MB with 2,000 components, as in the package


def held(name, value, bound):
    print(f"\n{name}: {value:.3g} (bound {bound})", end="")
    return value


@pytest.mark.parametrize(("width", "batch", "share"), [(128, 256, 0.18), (256, 512, 0.42)])
def test_a_training_step_against_the_matrix_product_of_its_layers(width, batch, share):
    """Its share of the FLOP/s that the bare product reaches."""
    world = ctm.data.ring()
    student = ctm.CTM(ctm.networks.MLP(2, width=width), world.sigma_data)
    run = State(student, world, ctm.Consistency(world, pool=1024, reuse=10_000), 10_000, batch=batch)
    for _ in range(3):
        run.step()  # the pool is solved once, in the first
    with FlopCounterMode(display=False) as counter:
        run.step()
    a, b, out = torch.randn(batch, width), torch.randn(width, width), torch.empty(batch, width)
    ours, bare = fastest(run.step, lambda: torch.mm(a, b, out=out), turns=9, least=0.2)
    peak = 2 * batch * width * width / bare
    assert held(f"share of the peak, width {width}", counter.get_total_flops() / ours / peak, share) > share


def test_one_jump_against_18_heun_steps():
    student, teacher = (ctm.load(FOLDER / f"{name}.safetensors") for name in ("ring_learned", "ring_denoiser"))
    x, times = noise(student, 2000, (2,), generator=torch.Generator().manual_seed(0)), karras_times(18, student)
    one, many = fastest(lambda: one_step(student, x), lambda: heun(teacher, x, times), turns=5)
    assert held("one jump is faster by", many / one, 25) > 25


def mixture(dim, components=2000):
    means = 0.5 * torch.randn(components, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ctm.GaussianMixture(means, 0.1)


@pytest.mark.parametrize("dim", [2, 64])
def test_the_exact_denoiser_against_its_sums_written_bare(dim):
    world, rng = mixture(dim), torch.Generator().manual_seed(1)
    mu, squared = world.means, world.means.square().sum(1)
    x = world.sample(20_000, generator=rng, dtype=torch.float64)
    x = x + 0.5 * torch.randn(x.shape, generator=rng, dtype=torch.float64)

    def sums():
        for part in x.split(ROWS):
            torch.mm((torch.addmm(squared, part, mu.T, alpha=-2) * (-0.5 / (0.1**2 + 0.5**2))).softmax(1), mu)

    ours, bare = fastest(lambda: world.denoiser(x, 0.5), sums, turns=3)
    assert held(f"over the bare sums, {dim}-D", ours / bare, 1.7) < 1.7


def denoiser(components):
    world, x = mixture(2, components), torch.randn(2000, 2, dtype=torch.float64)
    return lambda: world.denoiser(x, 0.5)


def batch(size):
    world = ctm.data.ring()
    student = ctm.CTM(ctm.networks.MLP(2), world.sigma_data)
    objective = ctm.Consistency(world, reuse=10_000)
    run = State(student, world, objective, 10_000)
    objective(run.models, run.draw, run.rng)  # solves the pool
    pairs = objective.trajectories.pairs(draw_levels(size, 96, "global", 0.4, 0.5, run.rng), run.rng)
    return lambda: consistency_loss(student, student, pairs, "s").backward()


@pytest.mark.parametrize("make", [denoiser, batch], ids=["components", "batch"])
def test_time_grows_no_faster_than_size(make):
    small, large = fastest(make(1000), make(4000), turns=5)
    slope = math.log(large / small) / math.log(4)
    assert held("slope on double logarithmic axes", slope, 1.2) < 1.2
