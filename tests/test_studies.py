"""The stored results of the studies: with their command, each row once, three seeds of every variant."""

import json
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[1] / "studies"
RESULTS = sorted(STUDIES.glob("*.json"))
SETTINGS = {"setting", "variant", "regime", "outer", "inner", "steps"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_command_that_made_them_is_beside_them(path):
    assert f"python -m studies.{path.stem}" in path.with_suffix(".py").read_text()
    rows = [json.dumps(row, sort_keys=True) for row in json.loads(path.read_text())]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("name", ["parametrisations", "loss", "training", "adversarial"])
def test_every_variant_has_three_seeds(name):
    seeds = {}
    for row in json.loads((STUDIES / f"{name}.json").read_text()):
        job = json.dumps({key: row[key] for key in sorted(row) if key in SETTINGS and not isinstance(row[key], list)})
        seeds.setdefault(job, set()).add(row["seed"])
    assert {job: found for job, found in seeds.items() if len(found) < 3} == {}
