"""The stored results of the studies: with their command, each row once, three seeds of every variant."""

import contextlib
import functools
import io
import itertools
import json
import math
import re
from pathlib import Path
from statistics import median

import pytest
import torch
from helpers import exact_ctm

import ctm
from ctm.losses import Draw, Models
from studies import (
    Rows,
    control,
    digits,
    family,
    joint,
    kinds,
    load,
    nano,
    own,
    pitfalls,
    regimes,
    scaling,
    sixteen,
    teachers,
)

STUDIES = Path(__file__).parents[2] / "studies"
RESULTS = sorted(STUDIES.glob("*.json"))
SETTINGS = {
    "setting",
    "variant",
    "regime",
    "outer",
    "inner",
    "steps",
    "part",
    "share",
    "strengths",
    "w",
    "drop",
    "way",
    "calls",
    "rows",
}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_command_that_made_them_is_beside_them(path):
    assert f"python -m studies.{path.stem}" in path.with_suffix(".py").read_text(encoding="utf-8")
    rows = [json.dumps(row, sort_keys=True) for row in json.loads(path.read_text(encoding="utf-8"))]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(
    "name", ["parametrisations", "loss", "training", "adversarial", "control", "pitfalls", "your_data", "step", "solvers"]
)
def test_every_variant_has_three_seeds(name):
    seeds = {}
    for row in json.loads((STUDIES / f"{name}.json").read_text(encoding="utf-8")):
        job = json.dumps({key: row[key] for key in sorted(row) if key in SETTINGS and not isinstance(row[key], list)})
        seeds.setdefault(job, set()).add(row["seed"])
    assert {job: found for job, found in seeds.items() if len(found) < 3} == {}


def test_one_jump_of_the_study_is_the_flow_map_error():
    world = ctm.data.two_gaussians()
    model = regimes.model(world, 2, width=16)
    expected = ctm.metrics.flow_map_error(model, world, n=200)
    assert teachers.jumps_error(model, world, 1, n=200) == pytest.approx(expected, rel=1e-6)
    assert teachers.jumps_error(world, world, 4, n=200) < 1e-5


def test_exact_targets_are_met_by_the_exact_denoiser():
    exact = exact_ctm(sixteen.WORLD)
    exact.denoiser = sixteen.WORLD.denoiser
    for student, least, most in ((regimes.model(sixteen.WORLD, 0), 0.01, 10.0), (exact, 0.0, 1e-10)):
        rng = torch.Generator().manual_seed(0)
        loss = sixteen.exact_targets(Models(student, 10), Draw(sixteen.WORLD, student, 320, rng), rng)
        assert least <= loss.item() < most


def test_a_gradient_through_the_target_is_one_of_the_same_loss():
    student, found = regimes.model(kinds.WORLD, 0, width=16, layers=2), []
    for term in (ctm.Consistency, kinds.Through):
        rng = torch.Generator().manual_seed(0)
        loss = term(kinds.WORLD, kind="local", pool=64)(Models(student, 10), Draw(kinds.WORLD, student, 32, rng), rng)
        found.append((loss.item(), torch.autograd.grad(loss, student.last_layer)[0]))
    (stopped, short), (through, whole) = found
    assert through == pytest.approx(stopped, rel=1e-5)
    assert not torch.allclose(whole, short, rtol=0.1)


def test_rows_are_chosen_by_their_settings():
    rows = Rows([{"variant": "a", "seed": n, "error": e} for n, e in enumerate((3.0, 1.0, 2.0))])
    rows.append({"variant": "a", "seed": 0, "width": 8, "error": 9.0})
    assert rows.values("error", variant="a", width=None) == [3.0, 1.0, 2.0]
    assert rows.spread("error", width=None) == (2.0, 1.0, 3.0)
    assert rows.median("error", width=8) == 9.0
    assert rows.one(seed=1)["error"] == 1.0
    assert rows.where(variant="b") == []
    with pytest.raises(ValueError, match=r"one row must have .*seed.*, got 2"):
        rows.one(seed=0)
    with pytest.raises(ValueError, match=r"a row must have .*variant.*, got none"):
        rows.median("error", variant="b")
    assert load("loss") == json.loads((STUDIES / "loss.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("regime", regimes.REGIMES)
def test_a_regime_is_its_runs(regime):
    """The same calls written out, with the same weights at the end."""
    world = ctm.data.two_gaussians()
    student, again = (regimes.model(world, 0, width=16, layers=2) for _ in range(2))
    regimes.train(student, world, regime, 9, 1, batch=16)
    objective, steps = ctm.Consistency(world), 9
    if regime != "exact":
        ctm.train(again, world, regimes.denoising(), 4, 1, batch=16)
        teacher = regimes.model(world, 0, width=16, layers=2)
        teacher.load_state_dict(again.state_dict())
        objective, steps = ctm.Consistency(teacher), 5
    if regime == "none":
        objective = objective + 0.1 * regimes.denoising()
    ctm.train(again, world, objective, steps, 1, batch=16)
    for one, other in zip(student.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("columns", ["alike", "unlike"])
def test_the_table_of_the_study_is_what_it_says(columns):
    world = joint.Rescaled(ctm.data.clusters(), columns == "unlike", 0)
    rows = world.sample(2000, generator=torch.Generator().manual_seed(0))
    assert rows.dtype == torch.float64
    spread, far = rows.std(0), rows.mean(0).abs().max()
    assert (spread.max() / spread.min() > 1e5) == (far > 9e5) == (columns == "unlike")


def test_the_summary_has_a_line_for_each_setting(monkeypatch, capsys):
    rows = [{"world": "ring", "regime": "none", "steps": 9, "seed": n, "error": e} for n, e in enumerate((3.0, 1.0, 2.0))]
    monkeypatch.setattr(joint, "load", lambda name: Rows([*rows, {"loss": "denoised", "steps": 3, "equal": True}]))
    joint.summary()
    assert capsys.readouterr().out.splitlines() == ["ring none 9 | error 2", "denoised 3 | equal 1"]


def test_the_gain_of_the_rule_is_the_networks_own():
    for dim, gain in ((1, 8.0), (2, 8.0), (16, 8 / 8**0.5), (64, 8 / 32**0.5)):
        assert scaling.gains(dim)[0] == pytest.approx(gain, rel=1e-4)
        model = ctm.CTM.for_data(ctm.data.GaussianMixture(torch.zeros(1, dim), 0.5))
        assert model.network.config["gain"] == pytest.approx(gain, rel=1e-9)


def test_a_row_of_the_line_again():
    assert control.measure_line(0).items() <= load("control").one(part="line", seed=0).items()


def test_the_tree_of_pitfalls_asks_from_the_first_failed_check():
    assert pitfalls.cause("semigroup", {"s > t in a batch?"}) == ("times reversed", 1)
    assert pitfalls.cause("direction", {"s > t in a batch?"})[0] == "times reversed"
    assert pitfalls.cause("none", {"a call changes its times?"}) == ("times overwritten", 2)
    assert pitfalls.cause("slope", set())[0] == "nothing broken: train longer"
    asked = {question for questions in pitfalls.TREE.values() for question, _ in questions}
    assert pitfalls.cause("boundary", set())[1] == len(asked)


@pytest.mark.parametrize("variant", ["a sign", "times overwritten", "the teacher stands still", "data not scaled"])
def test_a_fault_is_seen_in_its_program(variant):
    """After two steps the questions already have the answers that lead to the fault, and to no other."""
    case = pitfalls.examine(pitfalls.FAULTS[variant], steps=2)
    found = {cause for questions in pitfalls.TREE.values() for question, cause in questions if question in case.yes}
    assert variant in found


def test_a_watched_term_is_the_term_and_is_seen_as_often_as_said(tmp_path):
    world, seen = ctm.data.two_gaussians(), []

    def trained(term, **options):
        model = regimes.model(world, 0, width=16, layers=2)
        ctm.train(model, world, term, 9, 1, batch=16, **options)
        return torch.cat([weights.flatten() for weights in model.parameters()])

    plain = trained(ctm.Consistency(world, pool=64, levels=4, reuse=1))

    def watched(stop=None):
        def look(model, step, seconds):
            seen.append((step, seconds))
            if step == stop:
                raise KeyboardInterrupt

        return digits.Watched(ctm.Consistency(world, pool=64, levels=4, reuse=1), 3, look)

    assert torch.equal(trained(watched()), plain)
    assert [step for step, _ in seen] == [3, 6]
    with pytest.raises(KeyboardInterrupt):
        trained(watched(stop=6), checkpoint=tmp_path / "run.safetensors")
    seen.clear()
    assert torch.equal(trained(watched(), checkpoint=tmp_path / "run.safetensors"), plain)
    assert [step for step, _ in seen] == [6]
    assert seen[0][1] > 0  # the seconds before the interruption count


def test_the_spread_within_classes_recomputed():
    labels = torch.tensor([0, 0, 0, 1, 1])
    features = torch.tensor([[0.0, 5.0], [3.0, 5.0], [6.0, 5.0], [1.0, 1.0], [1.0, 5.0]])
    assert digits.within(features, labels) == pytest.approx((9 + 8) / 2)
    assert digits.within(10 + 0.5 * features, labels) == pytest.approx((9 + 8) / 8)


def test_the_page_of_digits_says_what_a_network_without_convolutions_did():
    rows = load("digits").where(stage="networks")
    assert {len(rows.where(how=r["how"], steps=r["steps"], lr=r["lr"])) for r in rows} == {3}
    page = (STUDIES.parent / "book/digits.ipynb").read_text(encoding="utf-8")
    for how, name, steps, lr in (
        ("UNet", "U-Net", 1500, 4e-3),
        ("MLP", "MLP, five layers of 256", 1500, 2e-3),
        ("MLP", "the same", 13_000, 2e-3),
    ):
        chosen = rows.where(how=how, steps=steps, lr=lr)
        ratios = [f"{chosen.median(key):#.3g}" for key in ("ratio", "cut")]
        figures = [f"{steps:,}", str(chosen.median("seconds")), *ratios, f"{chosen.median('precision'):.2f}"]
        assert " | ".join(["", name, *figures, ""]).strip() in page
    slow, fast = (rows.where(how="MLP", steps=13_000, lr=lr) for lr in (2e-3, 4e-3))
    assert max(fast.values("precision")) < min(slow.values("precision"))
    assert min(fast.values("ratio")) > 1e6  # what flew off


def test_the_page_of_digits_says_what_fewer_calls_of_the_teacher_did():
    page = (STUDIES.parent / "book/digits.ipynb").read_text(encoding="utf-8")
    page = page.partition("In how few calls does the teacher itself draw well?")[2]
    teacher = {steps: load("digits").one(size=28, how="teacher", steps=steps, w=1.2) for steps in (2, 4, 6, 9, 18)}
    (student,) = load("digits").where(size=28, how="student", steps=1, w=1.2)
    for calls, row in [*((4 * steps, row) for steps, row in teacher.items()), (1, student)]:
        (line,) = re.findall(rf'"\| (?:teacher|student|) ?\| {calls} \| ([\d.,]+) \| ([\d.,]+) \| ([\d.,]+) \|\\n"', page)
        for told, key in zip(line, ("cut", "ratio", "other"), strict=True):
            digits_after = len(told.partition(".")[2])
            assert f"{row[key]:,.{digits_after}f}" == told
    assert teacher[6]["other"] < student["other"] < teacher[4]["other"]
    assert student["cut"] < teacher[9]["cut"]


def test_a_step_of_order_four_in_t_halves_to_a_thirty_second():
    ring = ctm.data.ring()
    x = ring.noised(200, 1.0, torch.Generator().manual_seed(0))
    t, errors = torch.ones(200, 1, dtype=x.dtype), []
    for u in (0.8, 0.9):
        step = own.rk4_in_t(ring, x, t, u * t)
        errors.append(float((step - ring.G(x, 1.0, u)).square().mean().sqrt()))
    assert 20 < errors[0] / errors[1] < 50
    assert errors[1] < 1e-5


def test_the_page_of_a_loss_of_ones_own_says_what_other_solvers_did():
    page = (STUDIES.parent / "book/build_your_own.ipynb").read_text(encoding="utf-8")
    rows = load("own")
    logarithmic = {1.5: "last step", 3: "u = 3 s", 10: "u = 10 s"}
    assert "of three seeds (`python -m studies.own solvers`)" in page
    for name, told in (
        ("", "Runge and Kutta's in $\\\\log t$ | 4"),
        ("Runge-Kutta in t", "Runge and Kutta's in $t$ | 4"),
        ("Heun", "Heun's in $t$ | 2"),
        ("Euler", "Euler's in $t$ | 1"),
    ):
        variants = [f"u = {ratio:g} s, {name}" if name else logarithmic[ratio] for ratio in (1.5, 3, 10)]
        found = [rows.median("error", part="solvers" if name else "updates", variant=variant) for variant in variants]
        assert f"| {told} | {' | '.join(f'{error:#.3g}' for error in found)} |" in page
    assert rows.spread("error", part="updates", variant="last step")[1:] == (0.2377, 0.3848)


def test_samples_of_a_study_are_one_for_each_label():
    train, _ = digits.halves(8)
    model = digits.new_model(8, train)
    labels = digits.labels_for(300)
    assert labels.bincount().tolist() == [30] * 10
    jumps = digits.draw(model, labels[:260], 2)
    again = digits.draw(model, labels[:250], 2)
    assert jumps.shape == (260, 8, 8)
    assert torch.equal(jumps[:250], again)
    x = ctm.samplers.noise(model, 260, generator=torch.Generator().manual_seed(1))
    times = ctm.noise.karras_times(3, model)
    solved = digits.draw(model, labels[:260], 3, solver=True, w=2.0)
    guided = ctm.GuidedModel(model).given(labels[250:260], 2.0)
    assert torch.allclose(solved[250:], ctm.samplers.heun(guided, x[250:], times), atol=1e-5)


@pytest.mark.parametrize(("method", "calls"), [("CTM, global", 1), ("CTM, local", 2), ("MeanFlow", 4), ("shortcut", 4)])
def test_the_study_of_the_family_counts_calls_and_repeats(method, calls):
    runs = [family.learn(lambda teacher: family.made(method, teacher, 0), "two_moons", 0, 3) for _ in range(2)]
    assert all(cost["evaluations"] == calls and cost["steps"] == 3 for _, cost in runs)
    for one, other in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_study_of_the_best_runs_trains_by_soap_and_repeats():
    def trained(**options):
        state = family.run_of(ctm.Denoising(16), "ring", 0, 5, batch=16, **options)
        for _ in range(5):
            state.step()
        return torch.cat([weights.detach().flatten() for weights in state.models.student.parameters()])

    one, again, adam = trained(optimizer=family.by_soap(4e-3)), trained(optimizer=family.by_soap(4e-3)), trained(lr=4e-3)
    assert torch.equal(one, again)
    assert one.isfinite().all()
    assert not torch.allclose(one, adam, atol=1e-4)


def test_the_packages_own_setting_of_every_method_is_among_those_tried():
    world = ctm.data.ring()
    assert sorted(family.SETTINGS) == sorted(ctm.losses.METHODS)
    for method, settings in family.SETTINGS.items():
        own = ctm.losses.METHODS[method](world if family.needs_teacher(method) else None)
        assert repr(own) in [repr(setting) for setting in settings(world).values()], method
        assert len({repr(setting) for setting in settings(world).values()}) == 3, method
        best = family.made(method, world, family.chosen(method)["setting"])
        assert (repr(own) == repr(best)) == (method != "improved consistency training"), method


def test_a_method_is_given_as_many_steps_as_take_equal_time():
    """Beside denoising itself: the budget; a loss that calls another's steps twice: half of it."""

    def twice(models, draw, rng):
        return term(models, draw, rng) + term(models, draw, rng)

    term = ctm.Denoising(256)
    start = functools.partial(family.run_of, world="ring")
    alone, double = (family.steps_in(2.0, start, lambda objective=o: objective) for o in (term, twice))
    assert 0.7 < alone / (2.0 * family.RATE) < 1.4
    assert 0.4 < double / alone < 0.85  # the optimiser is not called twice


def test_a_row_of_the_comparison_can_be_run_again():
    rows = load("family").where(part="tune", method="CTM, global", setting=0, lr=8e-3)
    row = rows.one(world="pinwheel")
    again = family.measure_setting(
        "tune", **{key: row[key] for key in ("method", "setting", "lr", "world", "budget", "seed", "steps")}
    )
    assert again["steps"] == row["steps"]
    assert again["error"] == pytest.approx(row["error"], rel=0.05)


def test_the_error_of_the_study_is_that_of_the_package():
    model, world = ctm.CTM.for_data(ctm.data.ring()), ctm.data.ring()
    assert family.error_of(model, "ring", 3, 200) == pytest.approx(
        ctm.metrics.flow_map_error(model, world, n=200, seed=3), abs=1e-4
    )
    mine = family.error_of(model, "ring", 3, 200, 2.0, 0.3)
    assert mine == pytest.approx(ctm.metrics.flow_map_error(model, world, 2.0, 0.3, n=200, seed=3), abs=1e-4)


@torch.no_grad()
def nano_denoiser(file, model, x, t):
    time = torch.full((len(x), 1), t)
    return file.g(model, x, time, time)


@pytest.mark.parametrize("name", nano.CHANGES)
def test_a_change_of_nano_is_one_place_of_its_text_and_runs(name, monkeypatch, capsys):
    monkeypatch.setattr(nano, "POINTS", 200)
    monkeypatch.setattr(nano, "PACKAGE_POINTS", 200)
    monkeypatch.setattr(nano, "DRAWS", 2)
    monkeypatch.setattr(nano, "BATCHES", 2)
    monkeypatch.setattr(nano, "ENDS", 200)
    settings = {"steps": 4, "batch": 16, "levels": 8, "pool": 32}
    row, samples, half = nano.measure(nano.CHANGES[name], **settings)
    assert capsys.readouterr().out == ""
    assert [line.split("loss")[0] for line in row["printed"]] == ["step     0  "] * 2
    assert samples.shape == (200, 2)
    assert math.isfinite(row["ratio"])
    again, same, _ = nano.measure(nano.CHANGES[name], half, more=True, **settings)  # its first half is given
    assert torch.equal(same, samples)
    assert (again["printed"], again["parts"]) == (row["printed"], row["parts"])
    assert all(math.isfinite(value) for figure in ("teacher", "two calls", "as the package") for value in again[figure])
    file = nano.nano(nano.CHANGES[name])
    with contextlib.redirect_stdout(io.StringIO()):
        plain = file.train(file.moons, **settings)
    assert torch.equal(nano.one_call(file, plain, 200, torch.Generator().manual_seed(1)), samples)  # as if unwatched
    _, moved, _ = nano.measure(nano.CHANGES[name], seed=1, **settings)
    with contextlib.redirect_stdout(io.StringIO()):
        other = file.train(file.moons, seed=1, **settings)
    assert torch.equal(nano.one_call(file, other, 200, torch.Generator().manual_seed(1)), moved)
    assert not torch.equal(moved, samples)
    start = 10 * torch.randn(nano.ENDS, 2, generator=torch.Generator().manual_seed(0))

    def walk(walker):  # the end of Heun's steps with this denoiser
        x = start
        for t, u in itertools.pairwise(file.grid(96).tolist()):
            slope = (x - nano_denoiser(file, walker, x, t)) / t
            ahead = x + (u - t) * slope
            x = x + (u - t) * (slope + (ahead - nano_denoiser(file, walker, ahead, u)) / u) / 2
        return x

    found = nano.apart(file, plain, half[0])
    assert found["own"][0] != found["teacher"][0]
    end, own, far = nano.jump(file, plain, start, 10.0, 0.002), walk(plain), walk(half[0])
    for name, missed in (("own", end - own), ("teacher", end - far), ("walks", far - own)):
        assert found[name][0] == pytest.approx(missed.square().mean().sqrt().item() / 0.5, rel=1e-3, abs=1e-4)


def test_the_page_of_nano_says_what_its_study_found():
    page, rows = (STUDIES.parent / "book/nano.md").read_text(encoding="utf-8"), load("nano")
    seeds = Rows({**row, "one call": [row["ratio"], *row["interval"]]} for row in rows.where(variant="as it is"))
    assert sorted(seeds.values("seed")) == list(nano.SEEDS)
    own, parts = seeds.one(seed=nano.SEEDS[0]), [row["parts"]["after"] for row in seeds]
    assert "\n".join(own["printed"]) in page
    labels = ("the file, one call", "its teacher", "the file, a second call", "the same, without fresh noise")
    figures = ("one call", "teacher", "two calls, fresh noise", "two calls")
    for label, figure in zip(labels, figures, strict=True):
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {label}")]
        said = [float(number) for cell in line.split("|")[2:4] for number in re.findall(r"[\d.]+", cell)]
        means = [mean for mean, *_ in seeds.values(figure)]
        assert said == pytest.approx([median(means), min(means), max(means), *own[figure]], abs=5.1e-3)
    _, low, high = seeds.spread("ratio")
    for sentence in ("was {} to {} times that", "the range above, {} to {},"):
        assert sentence.format(f"{low:.2f}", f"{high:.2f}") in page
    teachers = [row["teacher"][0] for row in seeds]
    assert f"differ more, from {min(teachers):.2f} to {max(teachers):.2f}." in page
    farther = [row["ratio"] - row["teacher"][0] for row in seeds]
    assert f"between {-min(farther):.2f} nearer and {max(farther):.2f} farther" in page
    nearer, *farther = sorted(row["two calls"][0] - row["ratio"] for row in seeds)
    said = f"{farther[0]:.2f} to {farther[-1]:.2f} farther with four seeds and {-nearer:.2f} nearer with one"
    assert said in page
    assert all(row["two calls, fresh noise"][0] < row["ratio"] for row in seeds)
    assert all(row["as the package"][1] > 1 for row in seeds)  # where their intervals begin
    *first, last = [f"{row['as the package'][0]:.2f}" for row in seeds]
    assert f"seeds 0 to 4 had {', '.join(first)} and {last}." in page
    package = load("joint").where(world="two_moons", regime="none", steps=6000)
    assert package.values("seed") == [0, 1, 2]
    *first, last = [f"{ratio:.2f}" for ratio in package.values("ratio")]
    assert f"had {', '.join(first)} and {last} with seeds 0 to 2" in page
    assert max(package.values("ratio")) < min(row["as the package"][0] for row in seeds)
    assert math.comb(len(seeds) + len(package), len(package)) == 56
    apart = {name: [value for row in seeds for value in row["apart"][name]] for name in own["apart"]}
    ranges = {name: f"{min(values):.3f} to {max(values):.3f}" for name, values in apart.items()}
    assert f"end by {ranges['teacher']} of" in page
    assert f"that gave {ranges['teacher']}." in page
    assert f"own jumps gave {ranges['own']}," in page
    assert f"the walks of the two end {ranges['walks']} apart" in page
    assert f"own part has fallen to {own['parts']['after'][0]:.4f}." in page
    assert {round(10 * denoising, 2) for _, denoising in parts} == {0.82}
    tenth = rows.one(variant="without the factor")["parts"]["after"][1]
    assert f"about 0.08, but {tenth:.1f} after change 2" in page
    assert f"(that {tenth:.1f})" in page
    division, local = (rows.one(variant=name)["ratio"] for name in ("without the division", "local"))
    assert f"{division:.2f} against {own['ratio']:.2f}, well within" in page
    assert low < division < high < local
    for place, name in enumerate(nano.CHANGES):
        row, label = rows.one(variant=name, seed=nano.SEEDS[0]), f"| {place}. {name} |" if place else f"| {name} |"
        (line,) = [line for line in page.splitlines() if line.startswith(label)]
        ratio, low, high, spread = map(float, re.findall(r"[\d.]+", line.split("|", 4)[4].replace("|", " ")))
        assert [ratio, low, high] == pytest.approx([row["ratio"], *row["interval"]], rel=5e-3)
        assert spread == pytest.approx(row["spread"], abs=6e-3)
        alone = [row["parts"][when][0] for when in ("before", "after")]
        assert [float(part) for part in line.split("|")[2:4]] == pytest.approx(alone, rel=0.05)
    for scale, said in ((4, "6.5"), (0.25, "0.68")):
        assert rows.one(variant="untrained", scale=scale)["loss"] == pytest.approx(float(said), abs=0.05)
        assert f"at {said}" in page


def test_the_page_of_nano_quotes_the_other_studies_rightly():
    page, step, loss = (STUDIES.parent / "book/nano.md").read_text(encoding="utf-8"), load("step"), load("loss")
    printed = [[float(row["printed"][k].split()[-1]) for row in load("nano").where(variant="as it is")] for k in (2, 5)]
    third, sixth = ((min(losses), max(losses)) for losses in printed)
    assert f"was {third[0]:.2f} to {third[1]:.2f}, and the sixth {sixth[0]:.3f} to {sixth[1]:.3f}." in page
    through = [step.median("error", setting=name) for name in ("local, gradient through the target", "local")]
    assert "the error was {:.2f} with the gradient, {:.2f} without.".format(*through) in page
    assert round(step.median("width", setting="no teacher, gradient through the target"), 2) == 0.2
    doubled = load("kinds").median("error", variant="local, 2,000 steps, through the target")
    assert f"to {doubled:.2f} from {loss.median('error', variant='local at s'):.2f}." in page
    alone, tenth, whole = (loss.where(variant=name) for name in ("global at s", "DSM 0.1", "DSM 1"))
    assert f"erred by {alone.median('error'):.3f} without it and by {tenth.median('error'):.3f} with it" in page
    assert f"by {alone.median('denoiser_error'):.3f} and {tenth.median('denoiser_error'):.3f}." in page
    assert f"With the weight 1 one jump erred by {whole.median('error'):.3f}" in page
    pairs, filled = 3_000 * 320, 5 * 4_096 * 192
    assert f"{(10 * pairs + filled) / 1e6:.1f} million forward passes" in page
    assert round(10 * filled / (10 * pairs + filled)) == 3


@pytest.mark.parametrize("what", ["nothing", "points", "times"])
def test_rounded_pairs_differ_only_in_what_is_rounded(what):
    pytest.importorskip("accelerate")
    from studies import machines

    world = ctm.data.ring()
    student = ctm.CTM.for_data(world, ctm.networks.MLP(2, width=8, layers=1))

    def drawn(rounded):
        term = machines.Rounded(world, "local", pool=64, what=rounded)
        rng = torch.Generator().manual_seed(0)
        return term.pairs(Models(student, 10), Draw(world, student, 32, rng), rng)[0]

    pairs, plain = drawn(what), drawn("nothing")
    changed = {"nothing": "", "points": "xt xu", "times": "t u s"}[what].split()
    for name in pairs._fields:
        exact = getattr(plain, name)
        assert torch.equal(getattr(pairs, name), exact.bfloat16().float() if name in changed else exact)
