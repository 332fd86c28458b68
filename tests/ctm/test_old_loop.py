"""Today's loop gives the weights of the loop that it replaced, wherever both draw in the same order."""

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import weights_of
from old_loop import BATCH, LEVELS, POOL, REUSE, old_loop
from safetensors.torch import load_file

import ctm
from ctm.losses import Consistency, Denoising
from ctm.noise import rho_times
from ctm.solvers import euler_step

DATA = Path(__file__).with_name("data")
STORED = json.loads((DATA / "old_digests.json").read_text(encoding="utf-8"))
RING, PAIR = ctm.data.ring(), ctm.data.two_gaussians()
Small = partial(Consistency, PAIR, pool=128, levels=16, reuse=4)
Old = partial(Denoising, times=rho_times)  # the law of noise levels that it had
# the default recipe: 300 steps on the ring
LARGE = {
    "default": lambda: Consistency(RING),
    "default with denoising": lambda: Consistency(RING) + 0.1 * Old(1024),
    "denoising alone": lambda: Old(1024),
}
# every other setting: 60 steps on two Gaussians
SMALL = {
    "small": Small,
    "soft": lambda: Small(kind="soft"),
    "local": lambda: Small(kind="local"),
    "soft at the end": lambda: Small(kind="soft", compare="x0"),
    "fresh": lambda: Consistency(PAIR, "soft", pool=0, levels=16, substeps=4),
    "discrete": lambda: Small(continuous=False),
    "euler": lambda: Small(step=euler_step, substeps=4),
    "adaptive": lambda: Small() + Old(0, adaptive=True),
    "target average": lambda: Small(kind="soft") + 0.5 * Old(8),
}


def machine():
    """What decides the kernels, and with them the last bits."""
    cpuinfo = Path("/proc/cpuinfo")
    wanted = ("vendor_id", "cpu family", "model", "model name")
    lines = (
        [line.split(":", 1) for line in cpuinfo.read_text(encoding="utf-8").splitlines() if ":" in line]
        if cpuinfo.exists()
        else []
    )
    facts = {key.strip(): value.strip() for key, value in lines if key.strip() in wanted}
    return facts | {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}


def digest(model):
    numbers = b"".join(part.detach().contiguous().numpy().tobytes() for part in model.parameters())
    return hashlib.sha256(numbers).hexdigest()[:16]


def small_run(name, steps):
    model = ctm.CTM(ctm.networks.MLP(1, width=32, layers=2, gain=8.0), PAIR.sigma_data)
    target_ema = 0.9 if name == "target average" else 0.0
    ctm.train(model, PAIR, SMALL[name](), steps, 4, batch=64, target_ema=target_ema)
    return model


same_machine = pytest.mark.skipif(machine() != STORED["machine"], reason="bits are of another processor or torch")


@pytest.mark.slow
@same_machine
@pytest.mark.parametrize("name", LARGE)
def test_the_default_recipe_gives_the_old_weights_bit_for_bit(name):
    model = ctm.CTM(ctm.networks.MLP(2, gain=8.0), RING.sigma_data)
    ctm.train(model, RING, LARGE[name](), 300, 0)
    assert digest(model) == STORED["digests"][name]


@same_machine
@pytest.mark.parametrize("name", SMALL)
def test_every_setting_gives_the_old_weights_bit_for_bit(name):
    assert digest(small_run(name, 60)) == STORED["digests"][name]


@pytest.mark.parametrize("name", SMALL)
def test_after_ten_steps_the_weights_are_nearly_the_old_ones_on_any_processor(name):
    # kernels without vector instructions end up to 2.2e-4 of the way from those of AVX2 (Adam doubles the smallest
    # gradients' rounding), and most a hundred times nearer
    start = weights_of(ctm.networks.MLP(1, width=32, layers=2, gain=8.0))
    found, stored = weights_of(small_run(name, 10)), load_file(DATA / "old_weights.safetensors")[name]
    assert (found - stored).norm() < 2e-3 * (stored - start).norm()


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_old_loop_run_beside_the_new_one_gives_the_same_weights_bit_for_bit(weight):
    networks = [ctm.networks.MLP(2, width=48, layers=3, gain=8.0) for _ in range(2)]
    model = ctm.CTM(networks[0], RING.sigma_data)
    objective = Consistency(RING, levels=LEVELS, pool=POOL, reuse=REUSE)
    if weight:
        objective = objective + weight * Old(128)
    ctm.train(model, RING, objective, 60, 3, batch=BATCH)
    average = old_loop(RING, networks[1], 60, 3, weight)
    assert torch.equal(weights_of(average), weights_of(model.network))
    assert not torch.equal(weights_of(average), weights_of(ctm.networks.MLP(2, width=48, layers=3, gain=8.0)))
