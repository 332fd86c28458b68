"""Files: whole, readable, and never trusted."""

import json
import os
import pickle
import threading
import time

import pytest
import torch
from helpers import exact_ctm
from safetensors.torch import load_file, save_file
from torch import nn

import ctm
from ctm import checkpoints, parametrisations
from ctm.conditional import ConditionalCTM
from ctm.networks import NETWORKS, register


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


def test_a_model_whose_name_another_took_is_not_saved(registers_as_before, model, tmp_path):
    class Other(ctm.CTM):
        pass

    older = Other(model.network, 0.4)

    class Other(ctm.CTM):
        pass

    ctm.save(Other(model.network, 0.4), tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match=r"model must be one of .*, got Other"):
        ctm.save(older, tmp_path / "model.safetensors")


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
    with pytest.raises(ValueError, match="model must have finite weights of 16 to 64 bits"):
        ctm.save(model.to(torch.float8_e4m3fn), path)
    model.float()
    with torch.no_grad():
        model.last_layer.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"model must have finite weights .*body.4.weight has not"):
        ctm.save(model, path)
    assert not path.exists()


KINDS = {
    "mlp": (lambda: ctm.networks.MLP(3, width=16, layers=2, seed=3), (3,)),
    "unet": (lambda: ctm.networks.UNet((2, 8, 8), width=8, seed=3), (2, 8, 8)),
    "transformer": (lambda: ctm.networks.Transformer((8, 8), width=16, layers=2, seed=3), (8, 8)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KINDS)
def test_every_network_comes_back_in_its_dtype(name, dtype, tmp_path):
    make, shape = KINDS[name]
    model = ctm.CTM(make(), 0.4, shape=shape).to(dtype)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.01
    ctm.save(model, tmp_path / "model.safetensors")
    torch.manual_seed(8)
    loaded = ctm.load(tmp_path / "model.safetensors")
    assert type(loaded.network) is type(model.network)
    assert loaded.network.config == model.network.config
    assert loaded.shape == shape
    for key, value in model.state_dict().items():
        assert loaded.state_dict()[key].dtype == value.dtype
        assert torch.equal(loaded.state_dict()[key], value)
    x, tau = torch.randn(3, *shape).to(dtype), torch.zeros(3)
    assert torch.equal(loaded.network(x, tau, tau - 0.5), model.network(x, tau, tau - 0.5))


def test_old_files_have_no_new_keys(model, tmp_path):
    path = tmp_path / "model.safetensors"
    ctm.save(model, path)

    def old(_, header):
        kept = ("network", "config", "sigma_data", "sigma_min", "sigma_max")
        header["model"] = {key: header["model"][key] for key in kept}
        header["model"]["config"].pop("seed")

    rewritten(path, old)
    loaded = ctm.load(path)
    assert type(loaded) is ctm.CTM
    assert (loaded.shape, loaded.center, loaded.shift, loaded.scale) == (None, 0.0, 0.0, 1.0)
    assert torch.equal(loaded.G(torch.ones(2, 2), 5.0, 0.02), model.G(torch.ones(2, 2), 5.0, 0.02))


def test_units_are_kept_with_the_model(tmp_path):
    path = tmp_path / "model.safetensors"
    shift = torch.tensor([1e6 + 1 / 3, -2.0], dtype=torch.float64)
    scale = torch.tensor([1e-3, 1e3], dtype=torch.float64) / 3
    network = ctm.networks.MLP(2, width=8, layers=1)
    ctm.save(ctm.CTM(network, 1.0, shape=(2,), center=0.25, shift=shift, scale=scale), path)
    loaded = ctm.load(path)
    assert (loaded.shape, loaded.center) == ((2,), 0.25)
    assert torch.equal(loaded.shift, shift)
    assert torch.equal(loaded.scale, scale)


@pytest.fixture
def registers_as_before():
    networks, kinds = dict(NETWORKS), dict(checkpoints.MODELS)
    yield
    for register_, before in ((NETWORKS, networks), (checkpoints.MODELS, kinds)):
        register_.clear()
        register_.update(before)


def test_a_network_of_ones_own_needs_one_line(registers_as_before, tmp_path):
    @register
    class Mine(nn.Module):
        def __init__(self, dim, width=5):
            super().__init__()
            self.first, self.last = nn.Linear(dim + 2, width), nn.Linear(width, dim)
            self.last.weight = nn.Parameter(self.first.weight[:, :dim].T.clone())
            self.norm = nn.BatchNorm1d(width)
            self.register_buffer("factor", torch.tensor(0.5), persistent=False)

        def forward(self, x, tau_t, tau_s):
            return self.factor * self.last(self.norm(self.first(torch.cat([x, tau_t[:, None], tau_s[:, None]], 1))))

    path, x = tmp_path / "model.safetensors", torch.randn(7, 2)
    model = ctm.CTM(Mine(2, width=6), 0.5)
    model.G(x, 1.0, 0.1)  # which moves the running mean
    ctm.save(model.eval(), path)
    loaded = ctm.load(path).eval()
    assert loaded.network.norm.num_batches_tracked == 1
    assert torch.equal(loaded.G(x, 1.0, 0.1), model.G(x, 1.0, 0.1))
    ctm.save(model.bfloat16(), path)
    assert ctm.load(path).network.factor.dtype == torch.bfloat16
    del NETWORKS["Mine"]
    with pytest.raises(ValueError, match=r"network must be one of \['MLP', 'Transformer', 'UNet'\], got 'Mine'"):
        ctm.load(path)


def test_tied_weights_stay_tied(registers_as_before, tmp_path):
    @register
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
            self.last.weight = self.first.weight

        def forward(self, x, tau_t, tau_s):
            return self.last(self.first(x))

    path = tmp_path / "model.safetensors"
    model = ctm.CTM(Tied().double(), 0.5)
    ctm.save(model, path)
    network = ctm.load(path).network
    assert network.first.weight is network.last.weight
    assert torch.equal(network.first.weight, model.network.first.weight)


def test_a_kind_of_model_of_ones_own_needs_one_line(registers_as_before, model, tmp_path):
    class Mine(ctm.CTM):
        pass

    path = tmp_path / "model.safetensors"
    checkpoints.MODELS["Mine"] = Mine
    ctm.save(Mine(model.network, 0.4), path)
    assert type(ctm.load(path)) is Mine
    del checkpoints.MODELS["Mine"]
    with pytest.raises(ValueError, match=r"kind must be one of \['CTM', .*\], got 'Mine'"):
        ctm.load(path)


def test_other_parametrisations_are_kept(model, tmp_path):
    path, x = tmp_path / "model.safetensors", torch.randn(5, 2)
    other = parametrisations.Parametrised(model.network, 0.4, parametrisations.mixed, parametrisations.cm)
    ctm.save(other, path)
    loaded = ctm.load(path)
    assert (loaded.outer, loaded.inner) == (parametrisations.mixed, parametrisations.cm)
    assert torch.equal(loaded.G(x, 2.0, 0.3), other.G(x, 2.0, 0.3))
    with pytest.raises(TypeError, match=r"model cannot be made again from .*'outer': '<lambda>'"):
        ctm.save(parametrisations.Parametrised(model.network, 0.4, lambda *_: (0.0, 1.0), parametrisations.cm), path)


def test_a_loaded_model_is_independent_of_its_file(model, tmp_path):
    path, x = tmp_path / "model.safetensors", torch.randn(5, 2)
    ctm.save(model, path)
    expected, loaded = model.G(x, 2.0, 0.3), ctm.load(path)
    whole = path.read_bytes()
    with open(path, "r+b") as file:  # in place: the same file, not another of that name
        file.write(bytes(len(whole)))
    assert torch.equal(loaded.G(x, 2.0, 0.3), expected)
    os.truncate(path, 0)
    assert torch.equal(loaded.G(x, 2.0, 0.3), expected)


def test_torchs_default_dtype_does_no_harm(model, tmp_path):
    path, x = tmp_path / "model.safetensors", torch.randn(5, 2)
    ctm.save(model, path)
    expected = model.G(x, 2.0, 0.3)
    torch.set_default_dtype(torch.float64)
    try:
        loaded = ctm.load(path)
        found = loaded.G(x, 2.0, 0.3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(weights.dtype == torch.float32 for weights in loaded.parameters())
    assert torch.equal(found, expected)


def test_the_file_of_a_run_gives_its_averaged_model(model, tmp_path):
    path, x = tmp_path / "run.safetensors", torch.randn(5, 2)
    student = ctm.CTM(ctm.networks.MLP(2, width=16, layers=2, features=3, gain=2.0, seed=9), 0.4)
    tensors = {f"average.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"student.{key}": value for key, value in student.state_dict().items()}
    checkpoints.write(path, tensors | {"generator": torch.zeros(3)}, {"model": model.config, "run": {"done": 7}})
    assert torch.equal(ctm.load(path).G(x, 2.0, 0.3), model.G(x, 2.0, 0.3))
    checkpoints.write(path, tensors, {"run": {"done": 7}})
    with pytest.raises(ValueError, match="can be loaded: its header describes no model"):
        ctm.load(path)


def test_many_writers_of_one_file_all_succeed(model, tmp_path):
    path, failed = tmp_path / "model.safetensors", []
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        for i in range(25):
            try:
                ctm.save(model, path, number=number, i=i)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert ctm.read_card(path)["i"] == 24  # of the last writer, its last
    assert os.listdir(tmp_path) == ["model.safetensors"]
    ctm.load(path)


def test_what_killed_writers_left_is_removed_after_an_hour(model, tmp_path):
    path = tmp_path / "model[1].safetensors"
    parts = {name: tmp_path / f".{name}.part" for name in ("model[1].safetensors.12", "model[1].safetensors.ab", "other.12")}
    for part in parts.values():
        part.write_text("half", encoding="utf-8")
        os.utime(part, (time.time() - 3700,) * 2)
    os.utime(parts["model[1].safetensors.ab"])  # this one may still be written to
    ctm.save(model, path)
    left = {".model[1].safetensors.ab.part", ".other.12.part", path.name}
    assert set(os.listdir(tmp_path)) == left


def test_a_file_can_be_read_by_those_who_may_read_others(model, tmp_path):
    path = tmp_path / "model.safetensors"
    ctm.save(model, path)
    (tmp_path / "plain").write_text("", encoding="utf-8")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


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
    "endless depth": lambda tensors, header: header["model"]["config"].update(layers=10**15),
    "huge features": lambda tensors, header: header["model"]["config"].update(features=10**15),
    "no network": lambda tensors, header: header["model"].pop("network"),
    "network that is a list": lambda tensors, header: header["model"].update(network=["MLP"]),
    "model that is a list": lambda tensors, header: header.update(model=["MLP"]),
    "config that is a list": lambda tensors, header: header["model"].update(config=[2]),
    "argument of the model": lambda tensors, header: header["model"].update(shell="rm"),
    "ragged shift": lambda tensors, header: header["model"].update(shift=[1.0, [2.0]]),
    "a run without an average": lambda tensors, header: header.update(run={}),
    "one tensor more": lambda tensors, header: tensors.update(more=torch.zeros(1)),
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


HUGE = [{"shape": [50_000] * 3}, {"width": 90_000}, {"layers": 100, "width": 90_000}]


@pytest.mark.parametrize("change", HUGE)
@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_a_hostile_file_takes_no_memory_for_any_network(name, change, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.safetensors"
    ctm.save(ctm.CTM(KINDS[name][0](), 0.4), path)
    rewritten(path, lambda _, header: header["model"]["config"].update(change))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match="not a CTM checkpoint"):
        ctm.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert time.process_time() - started < 20


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
