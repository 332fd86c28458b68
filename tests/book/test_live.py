"""The mathematics of the live figures, run by node, against the package."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import live_figures
import numpy as np
import ot
import pytest
import torch
from helpers import generator, noised

import ctm
from ctm.noise import karras_times
from ctm.samplers import euler, gamma_sampling

ROOT = Path(__file__).parents[2]

STORED = [
    path
    for path in sorted(live_figures.CHECKPOINTS.glob("*.safetensors"))
    if ctm.read_card(path).get("world") in ctm.data.WORLDS
]
PLANE = ["ring", "two_moons", "pinwheel", "spirals"]

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None, reason="node is not installed: the live figures stay unchecked"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("live")
    for name, make in ctm.data.WORLDS.items():
        if make().means[0].numel() <= 2:
            (path / f"{name}.js").write_text(live_figures.world_script(name), encoding="utf-8")
    for stored in STORED:
        (path / f"{stored.stem}.js").write_text(live_figures.model_script(stored), encoding="utf-8")
    return path


@pytest.fixture
def js(folder):
    """Runs a script in which `m` is the figures' mathematics, `data` what the pages load, and `given` the test's own."""

    def run(script, names, **given):
        values = {
            key: value.flatten().tolist() if isinstance(value, torch.Tensor) else value for key, value in given.items()
        }
        (folder / "given.json").write_text(json.dumps(values), encoding="utf-8")
        files = [ROOT / f"book/_static/{name}.js" for name in live_figures.MATHEMATICS] + [
            folder / f"{name}.js" for name in names
        ]
        loads = "".join(f"require({str(file)!r});" for file in files)
        program = (
            f"{loads} const m = ctmMath, data = ctmData;"
            f"const given = JSON.parse(require('fs').readFileSync({str(folder / 'given.json')!r}));"
            f"const plain = (key, value) => (value instanceof Float64Array ? Array.from(value) : value);"
            f"console.log(JSON.stringify((() => {{ {script} }})(), plain))"
        )
        return json.loads(subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True).stdout)

    return run


def cloud(numbers, dim):
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, dim)


def test_the_pages_get_what_their_figures_offer_and_no_more(tmp_path):
    live_figures.write(tmp_path)
    drawing = (ROOT / "book/_static/live-draw.js").read_text(encoding="utf-8")
    offered = {"pair_small", "two_gaussians", *re.findall(r'\["(\w+)", "', drawing)}
    offered |= {"ring", "two_moons", "pinwheel"}
    assert {path.stem for path in tmp_path.glob("*.js")} == offered


@pytest.mark.parametrize("name", [*PLANE, "two_gaussians", "uneven_two_gaussians"])
def test_score_and_denoiser(js, name):
    world = ctm.data.WORLDS[name]()
    dim = world.means.shape[1]
    for t in (0.002, 0.1, 1.0, 10.0):
        x = noised(world, t)
        script = f"const w = m.mixture(data.worlds.{name}); return [m.score(w, given.x, {t}), m.denoiser(w, given.x, {t})]"
        score, guess = js(script, [name], x=x)
        assert torch.allclose(cloud(score, dim), world.score(x, t), rtol=1e-9, atol=1e-9)
        assert torch.allclose(cloud(guess, dim), world.denoiser(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*PLANE, "two_gaussians"])
def test_exact_trajectories_of_500_points(js, name):
    """Every point at every time, on and between the stored steps, also those that pass close to a watershed."""
    world = ctm.data.WORLDS[name]()
    dim = world.means.shape[1]
    high, low = world.sigma_max, world.sigma_min
    x = noised(world, high, n=500)
    levels = [high, *(high * factor for factor in (0.6, 0.2, 0.05, 0.013, 0.004, 0.001)), low]
    script = (
        f"const w = m.mixture(data.worlds.{name}), p = m.trajectories(w, Float64Array.from(given.x), {high}, {low});"
        f"return given.levels.map((t) => m.at(p, t)).concat(p.points.slice(-1))"
    )
    *found, end = js(script, [name], x=x, levels=levels)
    for t, points in zip(levels, found, strict=True):
        assert (cloud(points, dim) - world.G(x, high, t)).abs().max() < 1e-4, t
    assert end == found[-1]  # the last stored points are those at the last time


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_stored_model(js, path):
    model = ctm.load(path)
    world = ctm.data.WORLDS[ctm.read_card(path)["world"]]()
    dim = world.means[0].numel()
    if dim > 2:
        pytest.skip("no live figure shows more than two dimensions")
    high, low = model.sigma_max, model.sigma_min
    for t, s in (
        (high, low),
        (high, 0.1 * high),
        (0.05 * high, low),
        (0.05 * high, 0.02 * high),
        (0.01 * high, 0.01 * high),
    ):
        x = noised(world, t, n=49, dtype=torch.float32)  # 49: not a multiple of the two points of a block
        script = f"return m.jump(m.network(data.models.{path.stem}), Float64Array.from(given.x), {t}, {s})"
        with torch.no_grad():
            wanted = model.G(x, t, s)
        assert (cloud(js(script, [path.stem], x=x), dim) - wanted).abs().max() < 1e-4


def test_a_cloud_can_grow_and_shrink(js):
    """The room that a model keeps between calls does not leak from one cloud into the next."""
    x = noised(ctm.data.ring(), 10.0, n=21)
    script = (
        "const model = m.network(data.models.ring_quick), x = Float64Array.from(given.x), few = x.slice(0, 6);"
        "const fresh = () => m.network(data.models.ring_quick);"
        "const reused = [few, x, few].map((cloud) => m.jump(model, cloud, 10, 0.5));"
        "return [reused, [few, x, few].map((cloud) => m.jump(fresh(), cloud, 10, 0.5))]"
    )
    reused, fresh = js(script, ["ring_quick"], x=x)
    assert reused == fresh


def test_levels_and_euler(js):
    world = ctm.data.ring()
    x = noised(world, 10.0)
    for n in (1, 3, 12):
        times = karras_times(n, 0.002, 10.0)
        levels, path = js(
            f"const w = m.mixture(data.worlds.ring), l = m.times({n}, 0.002, 10); return [l, m.euler(w, given.x, l)]",
            ["ring"],
            x=x,
        )
        assert levels == pytest.approx(times.tolist(), rel=1e-9)
        wanted = euler(world, x, times, path=True)
        assert (torch.stack([cloud(points, 2) for points in path]) - wanted).abs().max() < 1e-6
    back = js("return [0, 0.3, 1].map((f) => m.fractionOf(m.level(f, 0.002, 10), 0.002, 10))", ["ring"])
    assert back == pytest.approx([0, 0.3, 1])


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_gamma_sampling_with_the_same_noise(js, gamma):
    model = ctm.load(live_figures.CHECKPOINTS / "ring_quick.safetensors")
    x = noised(ctm.data.ring(), 10.0, n=50, dtype=torch.float32)
    times = karras_times(4, 0.002, 10.0)
    rng, same = generator(3), generator(3)
    wanted = gamma_sampling(model, x, times, gamma, generator=rng)
    noise = [torch.randn((50, 2), generator=same) for _ in range(3 if gamma else 0)]
    assert torch.equal(rng.get_state(), same.get_state())  # the last jump adds none
    noise += [torch.zeros(50, 2)] * (4 - len(noise))
    script = (
        "const model = m.network(data.models.ring_quick), map = (x, t, s) => m.jump(model, x, t, s);"
        f"return m.gammaSampling(map, Float64Array.from(given.x), m.times(4, 0.002, 10), {gamma}, given.noise, 0.002)"
    )
    found = js(script, ["ring_quick"], x=x, noise=[step.flatten().tolist() for step in noise])
    assert (cloud(found, 2) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["ring", "two_gaussians"])
def test_sliced_distance(js, name):
    """One-dimensional optimal transport along the same directions, by POT, between sets of unequal size."""
    world = ctm.data.WORLDS[name]()
    dim = world.means.shape[1]
    x, truth = noised(world, 0.3, n=40), noised(world, 0.002, n=200, seed=1)
    found, directions = js(
        f"return [m.slicedW2(given.x, m.ruler(given.truth, {dim}, 40)), m.directions({dim})]", [name], x=x, truth=truth
    )
    squares = [float(ot.wasserstein_1d((x.numpy() @ np.array(u)), (truth.numpy() @ np.array(u)), p=2)) for u in directions]
    assert all(np.hypot(*u) == pytest.approx(1) if dim == 2 else u == [1] for u in directions)
    assert found == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-9)


def test_rms_width_and_normal_numbers(js):
    x, y = noised(ctm.data.ring(), 1.0), noised(ctm.data.ring(), 1.0, seed=1)
    assert js("return m.rms(given.x, given.y, 2)", ["ring"], x=x, y=y) == pytest.approx(
        (x - y).square().sum(1).mean().sqrt().item()
    )
    world = ctm.data.pinwheel()
    points = noised(world, 0.1)
    nearest = torch.cdist(points, world.means).min(1).values.square().mean().sqrt().item()
    assert js("return m.width(m.mixture(data.worlds.pinwheel), given.x)", ["pinwheel"], x=points) == pytest.approx(nearest)
    numbers, again, other = (np.array(js(f"return m.normals({seed}).draw(20000)", ["ring"])) for seed in (1, 1, 2))
    assert (numbers == again).all()
    assert (numbers != other).any()
    assert abs(numbers.mean()) < 4 / np.sqrt(20_000)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / 20_000)
    assert abs((numbers[1:] * numbers[:-1]).mean()) < 4 / np.sqrt(20_000)
    assert abs((numbers**4).mean() - 3) < 4 * np.sqrt(96 / 20_000)


@pytest.mark.slow
def test_samples_of_a_world(js):
    for name in ("uneven_two_gaussians", "pinwheel"):
        world = ctm.data.WORLDS[name]()
        drawn = js(f"return m.sample(m.mixture(data.worlds.{name}), 8000, m.normals(5))", [name])
        distances = [
            ctm.metrics.sliced_wasserstein(
                cloud(drawn, world.means.shape[1]), world.sample(8000, generator=generator(), dtype=torch.float64)
            ),
            ctm.metrics.noise_floor(world, n=8000, draws=8),
        ]
        assert distances[0] < 1.5 * max(distances[1])
