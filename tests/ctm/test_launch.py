"""Training from a file: the same run on one process and on two, killed and gone on, and what a bad file is told."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from helpers import generator, weights_of

import ctm
from ctm import checkpoints
from ctm.losses import Consistency, consistency_loss
from ctm.training import rate
from ctm.training.config import Config, consistency, load_data, new_student
from ctm.training.launch import Launch, main, part_seed

accelerate = pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from accelerate.utils import LoggerType  # noqa: E402

SMALL = Config(
    objective="teacher",
    teacher="exact",
    width=16,
    layers=2,
    steps=12,
    batch=32,
    parts=2,
    pool=32,
    references=16,
    levels=8,
    log_every=1,
)
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1")
LAUNCH += ("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "-m", "ctm.training")
SLACK = 1e-5  # of losses and weights near 1, for sums taken in another order


@pytest.fixture(autouse=True)
def fresh_engine():
    """accelerate keeps one state a Python process."""
    yield
    forget()


def forget():
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def alone(config, folder):
    return Launch(replace(config, folder=str(folder))).run()


def together(config, folder, processes=2):
    config = replace(config, folder=str(folder))
    accelerate.debug_launcher(_run, (config,), processes)
    return ctm.load(folder / "model.safetensors")


def _run(config):
    forget()  # of the process it was forked from
    torch.set_num_threads(1)
    Launch(config).run()


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def losses_of(folder):
    return [line["loss"] for line in log_of(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["teacher", "scratch"])
def test_two_processes_train_as_one_does(tmp_path, objective):
    teacher = "exact" if objective == "teacher" else ""
    config = replace(SMALL, objective=objective, teacher=teacher, optimizer="RAdam")  # not blind to a gradient's scale
    one, two = alone(config, tmp_path / "one"), together(config, tmp_path / "two")
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=SLACK)
    assert (weights_of(one) - weights_of(two)).abs().max() < SLACK
    other = alone(replace(config, seed=1), tmp_path / "other")
    assert (weights_of(one) - weights_of(other)).abs().max() > 100 * SLACK


def test_parts_train_as_one_batch_of_them_all(tmp_path):
    config = replace(SMALL, denoising=0.0)
    model, world = alone(config, tmp_path), ctm.data.ring()
    network = ctm.networks.MLP(2, width=16, layers=2, seed=0)
    student = ctm.CTM.for_data(world, network)
    average = ctm.CTM.for_data(world, ctm.networks.MLP(2, width=16, layers=2, seed=0)).requires_grad_(False)
    terms = [Consistency(world, pool=32, levels=8) for _ in range(2)]
    draws = [generator(part_seed(0, k)) for k in range(2)]
    adam = torch.optim.Adam(student.parameters(), 8e-3, betas=(0.9, 0.99))
    losses = []
    for step in range(12):
        models = SimpleNamespace(student=student)
        drawn = [t.pairs(models, ctm.losses.Draw(world, student, 16, g), g)[0] for t, g in zip(terms, draws, strict=True)]
        loss = consistency_loss(student, student, type(drawn[0])(*map(torch.cat, zip(*drawn, strict=True))))
        adam.param_groups[0]["lr"] = 8e-3 * rate(step, 12)
        adam.zero_grad()
        loss.backward()
        adam.step()
        keep = min(0.999, (2 + step) / (11 + step))
        with torch.no_grad():
            for kept, weights in zip(average.parameters(), student.parameters(), strict=True):
                kept.mul_(keep).add_((1 - keep) * weights)
        losses.append(loss.item())
    assert losses_of(tmp_path) == pytest.approx(losses, rel=SLACK)
    assert (weights_of(model) - weights_of(average)).abs().max() < SLACK


@pytest.mark.parametrize("objective", ["teacher", "scratch", "denoiser"])
def test_one_part_is_ctm_train(tmp_path, objective, monkeypatch):
    monkeypatch.setattr("ctm.training.loop.Consistency", partial(Consistency, pool=32, levels=8))
    config = replace(SMALL, objective=objective, teacher="exact" if objective == "teacher" else "", parts=0)
    config = replace(config, references=1024) if objective == "scratch" else config
    model, world = alone(config, tmp_path), ctm.data.ring()
    student = ctm.CTM.for_data(world, ctm.networks.MLP(2, width=16, layers=2, seed=0))
    denoise = ctm.Denoising(16)
    term = {"scratch": None, "denoiser": denoise, "teacher": consistency(config, world)}[objective]
    ctm.train(student, world, term, 12, batch=32)
    assert torch.equal(weights_of(model), weights_of(student))


def test_every_part_has_data_of_its_own(tmp_path):
    seeds = [part_seed(7, k) for k in range(64)]
    assert seeds[0] == 7
    points = torch.stack([torch.randn(8, generator=generator(seed)) for seed in seeds])
    assert len(torch.unique(points, dim=0)) == 64
    together(SMALL, tmp_path)
    tensors, _ = checkpoints.read(tmp_path / "first.safetensors")
    pools = [tensors[f"part{k}.objective.0.points"] for k in range(2)]
    assert not torch.isclose(pools[0], pools[1]).any()


@pytest.mark.slow
def test_killed_at_a_random_step_it_ends_with_the_same_weights(tmp_path):
    config = replace(SMALL, steps=150, save_every=20, log_every=5)
    whole = together(config, tmp_path / "whole")
    file, log = tmp_path / "run.toml", tmp_path / "killed" / "log.jsonl"
    lines = (f"{key} = {json.dumps(value)}" for key, value in asdict(config).items() if key != "folder")
    file.write_text("\n".join(lines), encoding="utf-8")
    until = random.randrange(5, 20)  # lines of the log: any step between two writings of the state
    # forked, as a command would first read PyTorch three times; the book kills the command
    first = multiprocessing.get_context("fork").Process(target=together, args=(config, log.parent))
    first.start()
    while first.is_alive() and not (log.exists() and log.read_text(encoding="utf-8").count("\n") >= until):
        time.sleep(0.01)
    family = psutil.Process(first.pid).children(recursive=True)
    for process in [*family, first]:
        process.kill()
    first.join()
    assert len(family) >= 2
    assert not (log.parent / "model.safetensors").exists(), "it was killed too late"
    command = [*LAUNCH, "--config", str(file), "--set", f"folder={log.parent}"]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    assert torch.equal(weights_of(ctm.load(log.parent / "model.safetensors")), weights_of(whole))
    assert losses_of(log.parent) == losses_of(tmp_path / "whole")
    assert [line["step"] for line in log_of(log.parent)] == list(range(5, 151, 5))


def test_a_run_stopped_between_its_phases_goes_on(tmp_path, monkeypatch):
    config = replace(SMALL, objective="scratch", teacher="", save_every=3)
    whole = alone(config, tmp_path / "whole")
    saves, save = [], Launch.save

    def killed(self, *arguments):
        save(self, *arguments)
        saves.append(arguments)
        if len(saves) == 3:  # two in the first phase, one in the second
            raise KeyboardInterrupt

    monkeypatch.setattr(Launch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        alone(config, tmp_path / "part")
    with (tmp_path / "part" / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 10, "loss": 1.0}\n{"step": 11, "lo')  # steps after the last writing, and half a line
    model = alone(config, tmp_path / "part")
    assert torch.equal(weights_of(model), weights_of(whole))
    assert losses_of(tmp_path / "part") == losses_of(tmp_path / "whole")
    assert torch.equal(weights_of(ctm.load(tmp_path / "part" / "then.safetensors")), weights_of(whole))
    with pytest.raises(ValueError, match=r"first.safetensors was written with seed = 0, this run has 1"):
        alone(replace(config, seed=1), tmp_path / "part")


def test_the_log_says_what_is_left(tmp_path, capsys):
    alone(replace(SMALL, log_every=4), tmp_path)
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert lines[0]["seconds_left"] > lines[1]["seconds_left"] > lines[2]["seconds_left"] == 0
    assert all(line["points_per_second"] > 0 for line in lines)
    assert lines[1]["lr"] == pytest.approx(8e-3 * rate(7, 12))
    assert "step 8 of 12: loss " in capsys.readouterr().out
    whole = alone(SMALL, tmp_path / "every")
    every = losses_of(tmp_path / "every")
    assert [line["loss"] for line in lines] == pytest.approx([np.mean(every[k : k + 4]) for k in (0, 4, 8)], rel=SLACK)
    assert ctm.read_card(tmp_path / "every" / "model.safetensors")["steps"] == 12
    assert torch.equal(weights_of(ctm.load(tmp_path / "every" / "model.safetensors")), weights_of(whole))


def test_tensorboard_gets_the_same_figures(tmp_path, monkeypatch):
    """A stand-in for the writer: TensorBoard itself is not among what is installed."""
    written = []

    class Writer:
        def __init__(self, folder, **_):
            written.append(folder)

        def add_scalar(self, name, value, global_step=None, **_):
            written.append((name, value, global_step))

        def flush(self):
            pass

        close = flush

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: True)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TENSORBOARD])
    alone(SMALL, tmp_path)
    assert Path(written[0]).parent == tmp_path
    assert [(value, step) for name, value, step in written[1:] if name == "loss"] == [
        (line["loss"], line["step"]) for line in log_of(tmp_path)
    ]


@pytest.mark.slow
def test_bfloat16_trains_and_keeps_its_weights_in_float32(tmp_path):
    config = replace(SMALL, steps=40)
    exact = alone(config, tmp_path / "no")
    forget()
    half = alone(replace(config, precision="bf16"), tmp_path / "bf16")
    assert half.dtype == torch.float32
    assert not torch.equal(weights_of(half), weights_of(exact))
    assert losses_of(tmp_path / "bf16") == pytest.approx(losses_of(tmp_path / "no"), rel=0.1)


def test_a_student_begins_as_its_teacher(tmp_path):
    config = replace(SMALL, objective="denoiser", teacher="", steps=3)
    teacher = alone(config, tmp_path / "teacher")
    file = str(tmp_path / "teacher" / "model.safetensors")
    config = replace(SMALL, teacher=file, width=0, layers=0, steps=1, lr=1e-12, optimizer="RAdam")
    student = alone(config, tmp_path / "student")
    assert torch.allclose(weights_of(student), weights_of(teacher), atol=1e-6)
    with pytest.raises(ValueError, match="network must be empty"):
        alone(replace(config, network="MLP"), tmp_path / "other")


def test_the_example_has_every_key_and_its_default():
    assert Config(**tomllib.loads(Config.example())) == Config()


def test_points_of_a_file(tmp_path):
    table = generator_table()
    np.save(tmp_path / "a.npy", table)
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(repr, row)) for row in table.tolist()), encoding="utf-8")
    (tmp_path / "b.csv").write_text("one,two\n" + (tmp_path / "a.csv").read_text(encoding="utf-8"), encoding="utf-8")
    drawn = [load_data(str(tmp_path / name)).sample(5, generator=generator()) for name in ("a.npy", "a.csv", "b.csv")]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_data_stay_where_they_are_and_batches_are_moved(tmp_path, monkeypatch):
    np.save(tmp_path / "table.npy", generator_table())

    def whole(self, device):
        raise AssertionError(f"all {len(self)} points would go to {device}")

    monkeypatch.setattr(ctm.data.Points, "to", whole)
    config = replace(SMALL, data=str(tmp_path / "table.npy"), objective="scratch", teacher="")
    assert alone(config, tmp_path / "run").shape == generator_table().shape[1:]


def test_labels_of_a_file_make_a_conditional_model(tmp_path):
    table, labels = generator_table(), np.arange(9) % 3
    np.savez(tmp_path / "a.npz", points=table, labels=labels)
    data = load_data(str(tmp_path / "a.npz"))
    x, told = data.sample_labelled(50, generator=generator())
    rows = torch.cdist(x, data.standardise(table)).argmin(1)
    assert torch.equal(told, torch.as_tensor(labels)[rows])
    assert isinstance(new_student(Config(data="a"), data), ctm.ConditionalCTM)
    np.savez(tmp_path / "b.npz", points=table)
    assert torch.equal(load_data(str(tmp_path / "b.npz")).rows, data.rows)
    np.savez(tmp_path / "c.npz", x=table)
    with pytest.raises(ValueError, match="must hold an array points, got x"):
        load_data(str(tmp_path / "c.npz"))


def test_the_term_is_the_files():
    config = Config(kind="soft", levels=7, pool=3, reuse=5, substeps=2, from_noise=0.1, to_data=0.9, denoising=0.0)
    wanted = Consistency(ctm.data.ring(), "soft", levels=7, pool=3, reuse=5, substeps=2, from_noise=0.1, to_data=0.9)
    assert repr(consistency(config, ctm.data.ring())) == repr(wanted)


def test_guidance_hidden_labels_and_noise_levels_are_the_files(tmp_path):
    """The same weights as the same steps in Python: a guided student of a teacher from whom labels were hidden."""
    world = ctm.data.half_rings()
    ours = replace(SMALL, data="half_rings", parts=1, width=8, drop=0.3, times="images")
    teacher = alone(replace(ours, objective="denoiser", teacher=""), tmp_path / "teacher")
    made = new_student(ours, world)
    data = ctm.Guided(world, (1.0, 1.0), 0.3)
    ctm.train(made, data, ctm.Denoising(16, ctm.noise.image_times), 12, batch=32)
    assert torch.equal(weights_of(teacher), weights_of(made))

    path = str(tmp_path / "teacher/model.safetensors")
    file = replace(ours, width=0, layers=0, teacher=path, guidance=2.0, denoising=0.0)
    student = ctm.load(path)
    term = Consistency(ctm.GuidedModel(made.requires_grad_(False)), pool=32, levels=8)
    ctm.train(student, ctm.Guided(world, (1.0, 2.0), 0.3), term, 12, batch=32)
    assert torch.equal(weights_of(alone(file, tmp_path / "student")), weights_of(student))
    plain = alone(replace(file, guidance=1.0), tmp_path / "plain")
    assert not torch.equal(weights_of(plain), weights_of(student))


def test_an_exact_world_guides_by_itself():
    world = ctm.data.half_rings()
    config = Config(guidance=2.0, denoising=0.0)
    assert consistency(config, world).teacher is world
    with pytest.raises(ValueError, match="guidance needs a teacher that is told labels"):
        consistency(config, ctm.CTM.for_data(ctm.data.ring()))


def generator_table():
    return np.random.default_rng(0).normal(size=(9, 2)) * 1e-5


WRONG = {
    "misspelt": ("step = 5", "config has no key 'step'; the nearest is 'steps'"),
    "far": ("quux = 5", "config has no key 'quux'; the nearest is "),
    "table": ("[data]\nname = 'ring'", "data must be a str, got"),
    "text for a number": ("steps = 'many'", "steps must be an integer, got 'many'"),
    "fraction": ("batch = 1.5", "batch must be an integer, got 1.5"),
    "number for a switch": ("continuous = 1", "continuous must be a bool, got 1"),
    "none": ("batch = 0", "batch must lie in [1, "),
    "negative": ("lr = -1.0", "lr must lie in [0, "),
    "kind": ("kind = 'hard'", "kind must be one of ['global', 'local', 'soft'], got 'hard'"),
    "objective": ("objective = 'gan'", "objective must be one of"),
    "optimizer": ("optimizer = 'SGD'", "optimizer must be one of"),
    "precision": ("precision = 'fp16'", "precision must be one of ['bf16', 'no'], got 'fp16'"),
    "no teacher": ("objective = 'teacher'", "teacher must be given with objective teacher"),
    "a teacher too many": ("teacher = 'exact'", "teacher must be given with objective teacher"),
    "lost teacher": ("objective = 'teacher'\nteacher = 'no.safetensors'", "path no.safetensors does not exist"),
    "data": ("data = 'rings'", "data must be a .npy, .npz or .csv file or of checkerboard, "),
    "lost data": ("data = 'no.npy'", "No such file or directory: 'no.npy'"),
    "network": ("network = 'ResNet'", "network must be one of ["),
    "sizes": ("data = 'digits'\nlayers = 3", "network UNet takes no such size"),
    "parts": ("parts = 3", "parts must be a multiple of the 1 processes and divide batch 320, got 3"),
    "not TOML": ("steps: 5", "is not TOML"),
    "no reuse": ("reuse = 0", "reuse must lie in [1, "),
    "a share above 1": ("to_data = 1.5", "to_data must lie in [0, 1], got 1.5"),
    "guidance without labels": ("guidance = 2.0", "guidance and drop need data with labels"),
    "little guidance": ("guidance = 0.5", "guidance must lie in [1, "),
    "hidden twice": ("drop = 1.5", "drop must lie in [0, 1], got 1.5"),
    "times": ("times = 'image'", "times must be one of ['images', 'points'], got 'image'"),
    "one step": ("steps = 1", "steps must lie in [2, "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_file_is_told_what_is_wrong(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, message = WRONG[name]
    Path("run.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as error:
        main(["--config", "run.toml"])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_changes_on_the_command_line(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("steps = 5\ndata = 'ring'\n", encoding="utf-8")
    changed = Config.read(
        tmp_path / "run.toml", ["steps=7", "data=two_moons", 'folder="a b"', "continuous=false", "lr=1e-3"]
    )
    assert changed == Config(steps=7, data="two_moons", folder="a b", continuous=False, lr=1e-3)
    with pytest.raises(ValueError, match="set must be key=value, got 'steps'"):
        Config.read(tmp_path / "run.toml", ["steps"])
    with pytest.raises(SystemExit):
        main([])
    assert "--config FILE is needed" in capsys.readouterr().err
    main(["--example"])
    assert capsys.readouterr().out == Config.example() + "\n"


def test_another_precision_of_the_launcher_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="precision is no, the launcher has bf16"):
        alone(SMALL, tmp_path)


def test_without_accelerate_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="pip install accelerate"):
        alone(SMALL, tmp_path)


@pytest.mark.slow
def test_ctm_does_without_accelerate():
    code = "import sys, ctm, ctm.training.launch; sys.exit('accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
