"""The stored results of the studies: with their command, each row once, three seeds of every variant."""

import json
from pathlib import Path

import pytest
import torch
from helpers import exact_ctm

import ctm
from ctm.losses import Draw, Models
from studies import Rows, control, joint, load, pitfalls, regimes, scaling, sixteen, teachers

STUDIES = Path(__file__).parents[1] / "studies"
RESULTS = sorted(STUDIES.glob("*.json"))
SETTINGS = {"setting", "variant", "regime", "outer", "inner", "steps", "part", "strengths", "w", "drop", "way", "calls"}
SETTINGS.add("rows")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_command_that_made_them_is_beside_them(path):
    assert f"python -m studies.{path.stem}" in path.with_suffix(".py").read_text()
    rows = [json.dumps(row, sort_keys=True) for row in json.loads(path.read_text())]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("name", ["parametrisations", "loss", "training", "adversarial", "control", "pitfalls", "your_data"])
def test_every_variant_has_three_seeds(name):
    seeds = {}
    for row in json.loads((STUDIES / f"{name}.json").read_text()):
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
    assert load("loss") == json.loads((STUDIES / "loss.json").read_text())


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
