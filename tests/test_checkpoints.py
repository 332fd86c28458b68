"""Files: whole, readable, and never trusted."""

import json
import os
import pickle

import pytest
import torch
from helpers import exact_ctm
from safetensors.torch import load_file, save_file

import ctm
from ctm import checkpoints
from ctm.conditional import ConditionalCTM


@pytest.fixture
def model():
    return ctm.CTM(ctm.networks.MLP(2, width=16, layers=2, features=3, gain=2.0, seed=3), 0.4, 0.01, 7.0)


def test_a_model_comes_back_as_it_was(model, tmp_path):
    path = tmp_path / "model.safetensors"
    ctm.save(model, path, seed=3, command="by hand")
    loaded = ctm.load(path)
    x = torch.randn(10, 2)
    assert torch.equal(loaded.G(x, 5.0, 0.02), model.G(x, 5.0, 0.02))
    assert (loaded.sigma_data, loaded.sigma_min, loaded.sigma_max) == (0.4, 0.01, 7.0)
    assert ctm.read_card(path) == {"seed": 3, "command": "by hand"}
    assert all(weights.requires_grad for weights in loaded.parameters())
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_conditional_model_comes_back_as_it_was(tmp_path):
    path = tmp_path / "model.safetensors"
    model = ConditionalCTM(ctm.networks.MLP(2, width=16, layers=2, conditions=4, seed=3), 0.4)
    ctm.save(model, path)
    loaded = ctm.load(path)
    x = torch.randn(10, 2)
    assert type(loaded) is ConditionalCTM
    assert torch.equal(loaded.given(2, 1.5).G(x, 5.0, 0.02), model.given(2, 1.5).G(x, 5.0, 0.02))


def test_only_the_packages_models_are_saved(model, tmp_path):
    class Other(ctm.CTM):
        pass

    with pytest.raises(TypeError, match="model must be one of"):
        ctm.save(Other(model.network, 0.4), tmp_path / "model.safetensors")


def test_an_interrupted_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    ctm.save(model, path, run=1)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        ctm.save(model, path, run=2)
    assert ctm.read_card(path) == {"run": 1}
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_only_the_packages_networks_are_saved(tmp_path):
    with pytest.raises(TypeError, match="network"):
        ctm.save(exact_ctm(ctm.data.ring()), tmp_path / "model.safetensors")


def test_what_could_not_be_read_again_is_not_written(model, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="model must have finite float32"):
        ctm.save(model.double(), path)
    with torch.no_grad():
        model.float().last_layer.fill_(torch.nan)
    with pytest.raises(ValueError, match="model must have finite float32"):
        ctm.save(model, path)
    assert not path.exists()


def rewritten(path, change):
    tensors, header = checkpoints.read(path)
    change(tensors, header)
    save_file(tensors, path, metadata={"ctm": json.dumps(header)})


BROKEN = {
    "another network": lambda tensors, header: header["model"].update(network="os.system"),
    "huge width": lambda tensors, header: header["model"]["config"].update(width=10**15),
    "another kind": lambda tensors, header: header["model"].update(kind="Module"),
    "not conditional": lambda tensors, header: header["model"].update(kind="ConditionalCTM"),
    "huge condition": lambda tensors, header: header["model"]["config"].update(conditions=10**15),
    "huge depth": lambda tensors, header: header["model"]["config"].update(layers=99_999),
    "unknown option": lambda tensors, header: header["model"]["config"].update(shell="rm"),
    "negative scale": lambda tensors, header: header["model"].update(sigma_data=-1.0),
    "wrong range": lambda tensors, header: header["model"].update(sigma_max=0.001),
    "no model": lambda tensors, header: header.pop("model"),
    "missing tensor": lambda tensors, header: tensors.pop(next(iter(tensors))),
    "wrong shape": lambda tensors, header: tensors.update({k: torch.zeros(3) for k in list(tensors)[:1]}),
    "wrong dtype": lambda tensors, header: tensors.update({k: v.to(torch.int64) for k, v in list(tensors.items())[:1]}),
    "not finite": lambda tensors, header: tensors.update({k: v * torch.nan for k, v in list(tensors.items())[:1]}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_tampered_file_is_refused(model, name, tmp_path):
    path = tmp_path / "model.safetensors"
    ctm.save(model, path)
    rewritten(path, BROKEN[name])
    with pytest.raises(ValueError, match=r"not a CTM checkpoint"):
        ctm.load(path)


def test_foreign_files_are_refused(model, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ctm.load(path)
    ctm.save(model, path)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a CTM checkpoint"):
            ctm.load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="not a CTM checkpoint"):
        ctm.load(path)
    path.write_bytes(whole)
    save_file(load_file(path), path)  # safetensors, but without our header
    with pytest.raises(ValueError, match="not a CTM checkpoint"):
        ctm.load(path)
