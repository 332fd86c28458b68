"""What the README promises: its snippets run, the import is light, a run's file is a model."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import generator

import ctm

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippet(title):
    """The code under a heading, with few steps."""
    code = README.partition(f"## {title}\n")[2].partition("```python\n")[2].partition("```")[0]
    short, count = re.subn(r"steps=\d+", "steps=6", code)
    assert count == 1
    return short


def test_a_ctm_in_six_lines(capsys):
    names = {}
    exec(snippet("A CTM in six lines"), names)
    samples, world = names["samples"], names["world"]
    assert samples.shape == (2000, 2)
    assert torch.equal(samples, ctm.sample(names["student"], 2000, seed=0))
    printed = float(capsys.readouterr().out)
    assert printed == pytest.approx(ctm.metrics.flow_map_error(names["student"], world))


def test_your_own_data_in_six_lines(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(60, 3)) * [1e-3, 1.0, 1e4] + [5.0, -2.0, 1e6]
    monkeypatch.chdir(tmp_path)
    np.savetxt("table.csv", table, delimiter=",", header="a,b,c", comments="", fmt="%.17g")
    names = {}
    exec(snippet("Your own data in six lines"), names)
    samples, student = names["samples"], names["student"]
    assert samples.shape == (1000, 3)
    assert samples.dtype == torch.float64
    # a model that has hardly learned lands near the mean: in the units of the table all the same
    assert np.all(np.abs(samples.mean(0).numpy() - table.mean(0)) < 2 * table.std(0))
    assert np.all(samples.std(0).numpy() < 5 * table.std(0))
    assert "boundary" in capsys.readouterr().out
    x = torch.randn((5, 3), generator=generator())
    again = ctm.load("run.safetensors")
    assert torch.equal(again.G(x, 2.0, 0.1), student.G(x, 2.0, 0.1))
    assert torch.equal(ctm.sample(again, 9), ctm.sample(student, 9))


def test_the_file_of_a_stopped_run_gives_the_averaged_model(tmp_path):
    world, path, x = ctm.data.ring(), tmp_path / "run.safetensors", torch.randn((5, 2), generator=generator())
    student = ctm.CTM.for_data(world, ctm.networks.MLP(2, 16, 2))

    def stops(models, draw, rng):
        if models.step == 7:
            raise KeyboardInterrupt
        return ctm.losses.dsm_loss(models.student, draw()[0], torch.zeros(8, 2), torch.ones(8, 1))

    state = ctm.training.State(student, world, stops, 20, batch=8)
    for _ in range(7):
        state.step()
    average, last = (model.G(x, 2.0, 0.1) for model in (state.models.average, state.models.student))
    assert not torch.equal(average, last)
    fresh = ctm.CTM.for_data(world, ctm.networks.MLP(2, 16, 2))
    with pytest.raises(KeyboardInterrupt):
        ctm.train(fresh, world, stops, 20, batch=8, checkpoint=path)
    assert torch.equal(ctm.load(path).G(x, 2.0, 0.1), average)


def test_the_import_is_light():
    heavy = "{'matplotlib', 'ot', 'sklearn', 'scipy', 'ipywidgets', 'IPython'}"
    code = f"import sys, ctm; print(sorted({heavy} & {{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
