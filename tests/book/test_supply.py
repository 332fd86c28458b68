"""What the book stands on: packages locked with the hashes of their files and free; what CI may do; known mutants."""

import importlib
import json
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FREE = re.compile(r"MIT|BSD|Apache|PSF|Python Software|MPL|Mozilla|ISC|HPND|CNRI|Unlicense|public domain|0BSD|Zlib", re.I)
PINNED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems need a few other packages")


def name(package):
    return re.sub(r"[-_.]+", "-", package).lower()


def locked(file):
    """The versions that a lock allows, by package."""
    found = {}
    for package, version in PINNED.findall((ROOT / file).read_text(encoding="utf-8")):
        found.setdefault(name(package), set()).add(version)
    return found


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-cpu.lock", "requirements-cuda.lock"])
def test_every_line_of_a_lock_is_a_version_or_a_hash(file):
    text = (ROOT / file).read_text(encoding="utf-8").replace(" \\\n", " ")
    for line in text.splitlines()[1:]:
        assert re.fullmatch(r"[\w.-]+==[\w.+]+( ; [^-]+[^-\s])?( +--hash=sha256:[0-9a-f]{64})+", line)


@linux
def test_the_lock_holds_what_is_pinned_and_what_is_installed():
    lock = locked("requirements.lock")
    for package, version in PINNED.findall((ROOT / "requirements.txt").read_text(encoding="utf-8")):
        assert version in lock[name(package)], "requirements.txt was changed: nox --session lock"
    for package in installed():
        assert package.version.partition("+")[0] in lock[name(package.name)]


def installed():
    """Everything installed that the lock names."""
    lock = locked("requirements.lock")
    return [package for package in metadata.distributions() if name(package.name) in lock]


def licence(package):
    """The stated expression, else the classifiers, else the free text, else the licence's own file."""
    found = package.metadata
    stated = [value.rpartition(" :: ")[2] for value in found.get_all("Classifier") or [] if value.startswith("License ::")]
    named = found.get("License-Expression") or "; ".join(stated) or (found.get("License") or "").partition("\n")[0]
    files = [package.read_text(f"licenses/{file}") for file in found.get_all("License-File") or []]
    return named or next((text.strip().partition("\n")[0] for text in files if text), "")


@linux
def test_everything_installed_has_a_free_licence():
    """`nox --session licences` lists them."""
    found = {package.name: licence(package) for package in installed()}
    assert len(found) > 100
    assert {package: text for package, text in found.items() if not FREE.search(text)} == {}


def test_the_mutants_that_no_test_notices_are_of_lines_that_stand_and_have_reasons():
    for row in json.loads((ROOT / "tests/mutants.json").read_text(encoding="utf-8")):
        lines = (ROOT / f"ctm/{row['module']}.py").read_text(encoding="utf-8").splitlines()
        assert row["before"] in map(str.strip, lines), row
        assert len(row["reason"]) > 10, row


def test_a_mutant_with_a_reason_is_not_asked_for_again(monkeypatch):
    for name in ("cosmic_ray", "cosmic_ray.work_db", "cosmic_ray.work_item"):  # installed by nox alone
        monkeypatch.setitem(sys.modules, name, MagicMock())
    unexplained = importlib.import_module("tools.mutants").unexplained
    stored = json.loads((ROOT / "tests/mutants.json").read_text(encoding="utf-8"))
    known = [{key: row[key] for key in ("module", "before", "after")} for row in stored]
    new = {"module": "noise", "before": "a", "after": "b"}
    assert unexplained([*known, new]) == [new | {"reason": None}]


def test_the_citation_names_the_book_and_the_paper():
    """`nox --session citation` compares it with its schema."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "version", "date-released"} <= cited.keys()
    assert cited["references"][0]["url"] == "https://arxiv.org/abs/2310.02279"
    assert cited["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def test_actions_are_pinned_by_hash_and_may_only_read():
    """`nox --session workflows` runs actionlint."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        used = re.findall(r"uses: *(\S+)", text)
        assert used
        assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)
        flow = yaml.safe_load(text)
        assert flow["permissions"] == {"contents": "read"}
        assert all("permissions" not in job and job["timeout-minutes"] <= 60 for job in flow["jobs"].values())


def test_every_dependency_of_the_package_has_a_lower_bound_and_what_is_installed_meets_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"] + [line for group in project["optional-dependencies"].values() for line in group]
    for line in map(Requirement, needed):
        assert [bound.operator for bound in line.specifier] == [">="], line
        if line.name != "torchvision":  # of the build that fits one's PyTorch: not in the lock
            assert line.specifier.contains(metadata.version(line.name)), line
