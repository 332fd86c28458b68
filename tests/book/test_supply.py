"""What the book stands on: every package locked with the hashes of its files, and listed with its licence."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
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
    lock, listed = locked("requirements.lock"), json.loads((ROOT / "licences.json").read_text(encoding="utf-8"))
    for package, version in PINNED.findall((ROOT / "requirements.txt").read_text(encoding="utf-8")):
        assert version in lock[name(package)], "requirements.txt was changed: make lock"
    for package in listed:
        assert metadata.version(package).partition("+")[0] in lock[package]


@linux
def test_the_licences_of_everything_installed_are_listed():
    run = subprocess.run([sys.executable, "-m", "tools.licences"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    stored = json.loads((ROOT / "licences.json").read_text(encoding="utf-8"))
    for package, _ in PINNED.findall((ROOT / "requirements.txt").read_text(encoding="utf-8")):
        assert stored[name(package)]


def test_every_dependency_of_the_package_has_a_lower_bound_and_what_is_installed_meets_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"] + [line for group in project["optional-dependencies"].values() for line in group]
    for line in map(Requirement, needed):
        assert [bound.operator for bound in line.specifier] == [">="], line
        assert line.specifier.contains(metadata.version(line.name)), line
