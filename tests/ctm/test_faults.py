"""Kill -9, a full disk, a read-only folder, damaged files: nothing is lost, and what is wrong is said."""

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ctm
from ctm import checkpoints

FAULTS = Path(__file__).with_name("faults.py")


@pytest.fixture(scope="module")
def hurt():
    """What came of kills, of a full disk and of a read-only folder."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    # in memory where there is such a folder: a disk takes up to a second to flush, a kill cannot tell the difference
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        Path(folder).chmod(0o755)
        run = subprocess.run([sys.executable, FAULTS, folder], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    return dict(zip(("kills", "full", "readonly"), json.loads(run.stdout), strict=True))


@pytest.mark.slow
def test_twenty_kills_lose_nothing(hurt):
    found = hurt["kills"]
    assert [kill["code"] for kill in found["kills"]] == [-9] * 20
    assert sum(kill["moment"] is not None for kill in found["kills"]) == 8
    done = [kill["done"] for kill in found["kills"]]
    assert done == sorted(done)  # a step once written is never lost
    assert done[0] < done[-1] < 120
    for kill in found["kills"]:  # beside the whole file at most the parts of writers that were killed
        assert all(name == "run.safetensors" or name.endswith(".part") for name in kill["files"])
    assert any(name.endswith(".part") for kill in found["kills"] for name in kill["files"])
    assert found["equal"], "the weights after twenty kills are not those of a run never stopped"
    assert found["loss"]
    assert found["files"] == ["run.safetensors"]  # the parts, an hour old by then, went with the next writing


@pytest.mark.slow
def test_a_full_disk_is_reported_and_leaves_the_old_file(hurt):
    found = hurt["full"]
    assert len(found["said"]) == 2
    assert all("File too large" in said for said in found["said"])
    assert found["files"] == ["model.safetensors"]
    assert found["card"] == {"run": 1}


@pytest.mark.slow
def test_a_read_only_folder_is_reported_before_training(hurt):
    found = hurt["readonly"]
    assert found["said"][0].startswith("PermissionError checkpoint must be in a folder that can be written to")
    assert found["said"][1].startswith("PermissionError")
    assert found["files"] == ["model.safetensors"]
    assert found["card"] == {"run": 1}


@pytest.fixture(scope="module")
def training_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    resume(path)
    return path.read_bytes()


def resume(path):
    world = ctm.data.two_gaussians()
    student = ctm.CTM(ctm.networks.MLP(1, width=8, layers=1), world.sigma_data)
    objective = ctm.Consistency(world, pool=32, levels=4, reuse=1)
    return ctm.train(student, world, objective, steps=4, batch=16, checkpoint=path)


def cut(length):
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def changed(change):
    def apply(path):
        tensors, header = checkpoints.read(path)
        change(tensors, header)
        save_file({key: value.clone() for key, value in tensors.items()}, path, metadata={"ctm": json.dumps(header)})

    return apply


def declared(path, size):
    """A file whose header names one tensor of ``size`` bytes, and which is as long, but holds nothing."""
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"ctm": "{}"}, "student.a": entry}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


DAMAGE = {
    "empty": cut(0),
    "cut in the header": cut(50),
    "cut in the numbers": cut(-1),
    "header longer than the file": lambda path: path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:]),
    "text": lambda path: path.write_text("not a checkpoint", encoding="utf-8"),
    "foreign": lambda path: save_file(load_file(path), path),
    "a model, not a run": lambda path: ctm.save(ctm.CTM(ctm.networks.MLP(1), 0.5), path),
    "header that is a list": lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"ctm": "[1]"}),
    "lacks a tensor": changed(lambda tensors, header: tensors.pop("average.network.body.0.bias")),
    "lacks the moments": changed(lambda tensors, header: [tensors.pop(k) for k in list(tensors) if "exp_avg" in k]),
    "lacks the pool": changed(lambda tensors, header: [tensors.pop(k) for k in list(tensors) if k.startswith("objective")]),
    "wrong shape": changed(lambda tensors, header: tensors.update({"average.network.body.0.bias": torch.zeros(3)})),
    "wrong pool": changed(lambda tensors, header: tensors.update({"objective.points": torch.zeros(3)})),
    "wrong moments": changed(lambda tensors, header: tensors.update({"optimizer.0.exp_avg": torch.zeros(3)})),
    "not finite": changed(lambda tensors, header: tensors["student.network.body.0.bias"].fill_(torch.nan)),
    "wrong generator": changed(lambda tensors, header: tensors.update({"generator": torch.zeros(3, dtype=torch.uint8)})),
    "steps below 0": changed(lambda tensors, header: header["run"].update(done=-1)),
    "more steps than asked": changed(lambda tensors, header: header["run"].update(done=5)),
    "steps that are no number": changed(lambda tensors, header: header["run"].update(done="3")),
    "losses that are no list": changed(lambda tensors, header: header["run"].update(losses={"a": 1})),
    "history with another field": changed(lambda tensors, header: header["run"]["history"].update(shell="rm")),
    "wrong length of the pool": changed(lambda tensors, header: tensors.update({"objective.left": torch.tensor(-1)})),
    "a term that is not there": changed(lambda tensors, header: tensors.update({"objective.1.points": torch.zeros(3)})),
    "moments of another optimiser": changed(
        lambda tensors, header: tensors.update({"optimizer.0.momentum": torch.zeros(3)})
    ),
    "a model too many": changed(lambda tensors, header: tensors.update({"guide.network.body.0.bias": torch.zeros(8)})),
    "lacks the run": changed(lambda tensors, header: header.pop("run")),
    "a run that is a list": changed(lambda tensors, header: header.update(run=[1])),
    "lacks the done steps": changed(lambda tensors, header: header["run"].pop("done")),
    "lacks the first weights' sums": changed(lambda tensors, header: header["run"].pop("start")),
    "seconds below 0": changed(lambda tensors, header: header["run"]["history"].update(seconds=-1.0)),
    "another seed": changed(lambda tensors, header: header["run"].update(seed=1)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_training_file_is_refused(name, training_file, tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(training_file)
    DAMAGE[name](path)
    with pytest.raises(ValueError, match="checkpoint"):
        resume(path)


@pytest.mark.skipif(sys.platform != "linux", reason="a file with holes needs a file system that knows them")
@pytest.mark.parametrize("size", [2**31, 2**36])
def test_a_file_that_claims_much_takes_no_memory(size, tmp_path):
    import resource

    path = tmp_path / "large.safetensors"
    declared(path, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (ctm.load, resume):
        with pytest.raises(ValueError, match="checkpoint"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
