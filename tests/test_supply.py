"""What the book stands on: every package listed with its licence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need a few other packages")
def test_the_licences_of_everything_installed_are_listed():
    run = subprocess.run([sys.executable, "-m", "tools.licences"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    stored = json.loads((ROOT / "licences.json").read_text())
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if "==" in line:
            assert stored[line.partition("==")[0].strip().lower().replace("_", "-")]
