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
from ctm.losses import Pairs, consistency_loss
from ctm.noise import karras_times
from ctm.plotting import COLOURS
from ctm.samplers import euler, gamma_sampling, heun

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
    offered = {"pair_small", "two_gaussians", *re.findall(r'\["(\w+_\w+)", "', drawing)}
    offered |= {"ring", "two_moons", "pinwheel", *(f"{name}_errors" for name in live_figures.MAPPED)}
    assert {path.stem for path in tmp_path.glob("*.js")} == offered


@pytest.mark.parametrize("name", [*PLANE, "two_gaussians", "uneven_two_gaussians"])
def test_score_and_denoiser(js, name):
    world = ctm.data.WORLDS[name]()
    dim = world.means.shape[1]
    for t in (0.002, 0.1, 1.0, 10.0):
        x = noised(world, t)
        script = (
            f"const w = m.mixture(data.worlds.{name}), logs = new Float64Array(given.x.length / {dim});"
            f"return [m.score(w, given.x, {t}, undefined, logs), m.denoiser(w, given.x, {t}), logs]"
        )
        score, guess, logs = js(script, [name], x=x)
        assert torch.allclose(torch.tensor(logs, dtype=torch.float64), world.log_prob(x, t), rtol=1e-9, atol=1e-9)
        assert torch.allclose(cloud(score, dim), world.score(x, t), rtol=1e-9, atol=1e-9)
        assert torch.allclose(cloud(guess, dim), world.denoiser(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["pinwheel", "uneven_two_gaussians"])
def test_what_each_component_claims(js, name):
    """By Bayes' rule, from the densities of the noised components."""
    world = ctm.data.WORLDS[name]()
    for t in (0.002, 0.3, 5.0):
        x = noised(world, t, n=20)
        spread = (world.stds**2 + t**2).sqrt()
        logs = torch.distributions.Normal(world.means, spread[:, None]).log_prob(x[:, None]).sum(2) + world.weights.log()
        script = f"const w = m.mixture(data.worlds.{name}); return given.x.map((x) => m.claims(w, x, {t}))"
        found = torch.tensor(js(script, [name], x=x.tolist()), dtype=torch.float64)
        assert torch.allclose(found, logs.softmax(1), rtol=1e-9, atol=1e-12)


def test_the_denoiser_of_a_few_points_is_their_weighted_mean(js):
    """Components without width, as the figure makes them: weights exp(-|x - y|^2 / 2t^2)."""
    points, t = noised(ctm.data.ring(), 0.002, n=24), 0.2
    x = noised(ctm.data.ring(), t, n=10)
    script = (
        "const stds = Array(24).fill(0), weights = Array(24).fill(1 / 24);"
        "const w = m.mixture({ ...data.worlds.ring, means: given.points, stds, weights });"
        f"return given.x.map((x) => [m.claims(w, x, {t}), m.denoiser(w, Float64Array.from(x), {t})])"
    )
    weights = (-torch.cdist(x, points).square() / (2 * t**2)).softmax(1)
    for row, (found, mean) in enumerate(js(script, ["ring"], points=points.tolist(), x=x.tolist())):
        assert found == pytest.approx(weights[row].tolist(), abs=1e-9)
        assert mean == pytest.approx((weights[row] @ points).tolist(), abs=1e-9)


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


def test_a_trajectory_from_any_time_to_time_zero(js):
    """As the figure of the probability-flow ODE draws it, in 60 steps."""
    world = ctm.data.two_gaussians()
    x = torch.tensor([[-5.0], [-1.2], [0.1], [0.6], [3.0]], dtype=torch.float64)
    for t in (0.05, 0.5, 2.0, 6.0):
        script = (
            f"return m.trajectories(m.mixture(data.worlds.two_gaussians), Float64Array.from(given.x), {t}, 0, 60).points[60]"
        )
        assert (cloud(js(script, ["two_gaussians"], x=x), 1) - world.G(x, t, 0.0)).abs().max() < 1e-4


@pytest.mark.parametrize("rho", [1, 3.5, 7, 20])
def test_heun_and_the_placement_of_times(js, rho):
    """Times by the formula of Karras et al.; steps of both solvers along them, on the line and in the plane."""
    for world, name in ((ctm.data.ring(), "ring"), (ctm.data.two_gaussians(), "two_gaussians")):
        low, high = world.sigma_min, world.sigma_max
        dim = world.means.shape[1]
        wanted = torch.linspace(high ** (1 / rho), low ** (1 / rho), 7, dtype=torch.float64) ** rho
        x = noised(world, high, n=20)
        script = (
            f"const w = m.mixture(data.worlds.{name}), l = m.times(6, {low}, {high}, {rho});"
            "return [l, m.euler(w, given.x, l), m.heun(w, given.x, l)]"
        )
        levels, first, second = js(script, [name], x=x)
        assert levels == pytest.approx(wanted.tolist(), rel=1e-9)
        for solver, found in ((euler, first), (heun, second)):
            gap = torch.stack([cloud(points, dim) for points in found]) - solver(world, x, levels, path=True)
            assert gap.abs().max() < 1e-6 * high


def test_a_pairs_loss_and_a_network_that_answers_zero(js):
    model = ctm.load(live_figures.CHECKPOINTS / "pair_small.safetensors")
    script = (
        "const { x, xu, t, u, s } = given, model = m.network(data.models.pair_small);"
        "const used = given.zero ? m.silenced(model) : model;"
        "const estimate = m.jump(used, Float64Array.from(x), t, s), target = m.jump(used, Float64Array.from(xu), u, s);"
        "return [m.pairLoss(model.sigma_data, t, s, estimate, target), estimate]"
    )
    silent = ctm.load(live_figures.CHECKPOINTS / "pair_small.safetensors")
    with torch.no_grad():
        silent.last_layer.zero_()
        silent.network.body[-1].bias.zero_()
    for t, u, s in ((30.0, 20.0, 0.1), (2.0, 1.0, 1.0), (0.5, 0.4, 0.01)):
        x, xu = torch.tensor([[0.7 * t]]), torch.tensor([[0.6 * u]])
        for zero, used in ((0, model), (1, silent)):
            found, estimate = js(script, ["pair_small"], x=x, xu=xu, t=t, u=u, s=s, zero=zero)
            at_t, at_u, at_s = (torch.tensor([[time]]) for time in (t, u, s))
            with torch.no_grad():
                wanted = consistency_loss(used, used, Pairs(x, at_t, xu, at_u, at_s)).item()
                assert estimate == pytest.approx(used.G(x, t, s).flatten().tolist(), abs=1e-4)
            assert found == pytest.approx(wanted, rel=1e-3, abs=1e-7)


def test_the_map_of_errors_is_that_of_the_metrics():
    script = live_figures.errors_script("ring_cm", steps=4, n=2000)
    table = json.loads(script.partition(" = ")[2].rstrip(";\n"))
    model, world = ctm.load(live_figures.CHECKPOINTS / "ring_cm.safetensors").requires_grad_(False), ctm.data.ring()
    times = karras_times(4, world).tolist()
    wanted = ctm.metrics.error_table(model, world, times, n=2000)
    for i in range(5):
        for j in range(5):
            if j < i:
                assert table[i][j] is None
            elif j == i:
                assert table[i][j] < 1e-6
            else:  # other points: noise about 0, and not noised data
                assert table[i][j] == pytest.approx(wanted[i, j].item(), rel=0.15)


def test_one_palette_for_all_figures():
    """The style sheet's light colours are those of ctm.plotting, and the dark theme names the same kinds."""
    sheet = (ROOT / "book/_static/book.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--ctm-(\w+): (#\w{6});", block)) for block in re.findall(r"{([^}]*--ctm-data:[^}]*)}", sheet)
    )
    assert {kind: light[kind].lower() for kind in COLOURS} == {kind: colour.lower() for kind, colour in COLOURS.items()}
    assert light.keys() == dark.keys()
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book/_static").glob("live-*.js"))
    assert not re.findall(r"#[0-9a-fA-F]{3,6}\b", scripts)
    assert set(re.findall(r"colour\.(\w+)", scripts)) <= light.keys()


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
