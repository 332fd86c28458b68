"""The stored results of the studies: with their command, each row once, three seeds of every variant."""

import json
from pathlib import Path

import pytest
from helpers import exact_ctm

import ctm
from studies import sixteen, teachers

STUDIES = Path(__file__).parents[1] / "studies"
RESULTS = sorted(STUDIES.glob("*.json"))
SETTINGS = {"setting", "variant", "regime", "outer", "inner", "steps", "part", "strengths", "w", "drop", "way", "calls"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_command_that_made_them_is_beside_them(path):
    assert f"python -m studies.{path.stem}" in path.with_suffix(".py").read_text()
    rows = [json.dumps(row, sort_keys=True) for row in json.loads(path.read_text())]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("name", ["parametrisations", "loss", "training", "adversarial", "control"])
def test_every_variant_has_three_seeds(name):
    seeds = {}
    for row in json.loads((STUDIES / f"{name}.json").read_text()):
        job = json.dumps({key: row[key] for key in sorted(row) if key in SETTINGS and not isinstance(row[key], list)})
        seeds.setdefault(job, set()).add(row["seed"])
    assert {job: found for job, found in seeds.items() if len(found) < 3} == {}


def test_one_jump_of_the_study_is_the_flow_map_error():
    world = ctm.data.two_gaussians()
    model = ctm.CTM(ctm.networks.MLP(1, width=16, seed=2), world.sigma_data)
    expected = ctm.metrics.flow_map_error(model, world, n=200)
    assert teachers.jumps_error(model, world, 1, n=200) == pytest.approx(expected, rel=1e-6)
    assert teachers.jumps_error(world, world, 4, n=200) < 1e-5


def test_exact_targets_are_met_by_the_exact_denoiser():
    exact = exact_ctm(sixteen.WORLD)
    exact.denoiser = sixteen.WORLD.denoiser
    training = sixteen.ExactTargets(sixteen.model(0, {}), sixteen.WORLD, None, 10, 0, ctm.DENOISER)
    assert training._dsm().item() > 0.01
    training.student = exact
    assert training._dsm().item() < 1e-10
