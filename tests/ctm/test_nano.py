"""nano_ctm.py says the same as the package: on the same weights and draws, its jumps, losses and trajectories are equal."""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest
import torch

import ctm
from ctm.losses import Pairs, consistency_loss, dsm_loss
from ctm.losses.trajectories import grid_times
from ctm.noise import karras_times
from ctm.solvers import heun_step, solve

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
import nano_ctm  # noqa: E402


@pytest.fixture(scope="module")
def both() -> tuple[nano_ctm.MLP, ctm.CTM]:
    """The two models with the same weights."""
    torch.manual_seed(3)
    small = nano_ctm.MLP()
    network = ctm.networks.MLP(2)
    network.body.load_state_dict(small.body.state_dict())
    assert torch.equal(network.frequencies, small.frequencies)
    assert network.gain == 8
    return small, ctm.CTM(network, nano_ctm.SIGMA_DATA, nano_ctm.SIGMA_MIN, nano_ctm.SIGMA_MAX)


@pytest.fixture
def drawn() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    t = nano_ctm.grid(32)[torch.randint(0, 30, (64,), generator=rng)][:, None]
    x0, noise = nano_ctm.moons(64, rng), torch.randn(64, 2, generator=rng)
    s, u = t * torch.rand(64, 1, generator=rng), t
    u = s + (t - s) * torch.rand(64, 1, generator=rng)
    s, u = (part.clamp_min(nano_ctm.SIGMA_MIN) for part in (s, u))
    return {"x0": x0, "noise": noise, "t": t, "u": u, "s": s}


def test_the_limits_are_those_the_package_takes() -> None:
    assert ctm.mixture.time_range(nano_ctm.SIGMA_DATA) == (nano_ctm.SIGMA_MIN, nano_ctm.SIGMA_MAX)


def test_jumps(both, drawn) -> None:
    small, model = both
    x = drawn["x0"] + drawn["t"] * drawn["noise"]
    ours = nano_ctm.G(small, x, drawn["t"], drawn["s"])
    assert torch.allclose(ours, model.G(x, drawn["t"][:, 0], drawn["s"][:, 0]), rtol=1e-5, atol=1e-6)
    assert torch.equal(nano_ctm.G(small, x, drawn["t"], drawn["t"]), x)


def test_losses_and_their_gradients(both, drawn) -> None:
    small, model = both
    x0, noise, t, u, s = (drawn[name] for name in ("x0", "noise", "t", "u", "s"))
    xt, xu = x0 + t * noise, x0 + u * noise
    pairs = [
        (nano_ctm.denoising_loss(small, x0, noise, t), dsm_loss(model, x0, noise, t)),
        (nano_ctm.consistency_loss(small, xt, t, xu, u, s), consistency_loss(model, model, Pairs(xt, t, xu, u, s))),
    ]
    for ours, theirs in pairs:
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        mine = torch.autograd.grad(ours, list(small.body.parameters()))
        other = torch.autograd.grad(theirs, list(model.network.body.parameters()))
        for a, b in zip(mine, other, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max())


def test_grid_and_trajectories(both) -> None:
    small, model = both
    times = nano_ctm.grid(24)
    assert times.numpy() == pytest.approx(karras_times(24, model).numpy(), rel=1e-4)
    assert torch.allclose(times, grid_times(torch.arange(25), 24, None, nano_ctm.SIGMA_MIN, nano_ctm.SIGMA_MAX), rtol=1e-4)
    x = nano_ctm.SIGMA_MAX * torch.randn(16, 2, generator=torch.Generator().manual_seed(2))
    points = nano_ctm.trajectories(small, x, times)
    wanted = [x]
    for t, u in zip(times, times[1:], strict=False):
        columns = (level.clamp(nano_ctm.SIGMA_MIN, nano_ctm.SIGMA_MAX).expand(16, 1) for level in (t, u))
        wanted.append(solve(heun_step, model, wanted[-1], *columns, 1).detach())
    assert torch.allclose(points, torch.stack(wanted, 1), rtol=1e-3, atol=1e-3)


def test_one_small_file_that_needs_torch_alone() -> None:
    text = (ROOT / "nano_ctm.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    nodes = list(ast.walk(ast.parse(text)))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"torch"}


@pytest.mark.slow
def test_it_trains(tmp_path) -> None:
    """A few hundred steps: the average of the weights jumps nearer to the data than fresh ones."""
    model = nano_ctm.train(nano_ctm.moons, steps=300, batch=128, levels=16, pool=256)
    noise = nano_ctm.SIGMA_MAX * torch.randn(1000, 2, generator=torch.Generator().manual_seed(4))
    ends = [torch.full((1000, 1), level) for level in (nano_ctm.SIGMA_MAX, nano_ctm.SIGMA_MIN)]
    data = nano_ctm.moons(1000, torch.Generator().manual_seed(5))
    with torch.no_grad():
        samples, untrained = (nano_ctm.G(net, noise, *ends) for net in (model, nano_ctm.MLP()))
    near, far = (ctm.metrics.sliced_wasserstein(x, data) for x in (samples, untrained))
    assert near < 0.5 * far
    nano_ctm.draw(tmp_path / "set.svg", (samples[:10], "#D55E00"))
    assert (tmp_path / "set.svg").read_text(encoding="utf-8").count("<circle") == 10


@pytest.mark.slow
def test_the_programs_in_the_answers_of_its_page_run(monkeypatch, capsys) -> None:
    """One after the other, as a reader would copy them, with a short training and few samples."""
    page = (ROOT / "book/nano.md").read_text(encoding="utf-8").partition("## More questions")[2]
    table, ratio, doctor = re.findall(r"^```python\n(.*?)^```$", page, flags=re.M | re.S)
    monkeypatch.setattr(nano_ctm, "train", functools.partial(nano_ctm.train, steps=40, pool=64, levels=8))
    scale = torch.tensor([1.0, 1e3])
    names = {"table": (scale * nano_ctm.moons(300, torch.Generator().manual_seed(6)) + 5 * scale).numpy()}
    exec(table, names)
    samples = names["samples"]
    assert samples.shape == (2000, 2)
    assert (samples.mean(0) / scale - 5).abs().max() < 1  # in the table's own units
    assert "n=20_000, draws=8" in ratio
    exec(ratio.replace("n=20_000, draws=8", "n=500, draws=2"), names)
    exec(doctor, names)
    said = capsys.readouterr().out
    assert len(re.findall(r"^\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]$", said, flags=re.M)) == 1
    assert len(re.findall(r"^(?:ok|RED) ", said, flags=re.M)) == 8
