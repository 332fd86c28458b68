"""Runs that are resumed, prolonged or begun with what another left: each case once went on otherwise than said."""

import os
import signal

import numpy as np
import pytest
import torch
from helpers import weights_of
from test_launch import SMALL, alone, forget, fresh_engine  # noqa: F401
from test_training import HALF, Small, press_at, small_model, told_model

import ctm
from ctm import Adversarial, Denoising, Guided, checkpoints
from ctm.losses import Then
from ctm.training import State, from_scratch
from ctm.training.config import load_data


class Counting(torch.optim.Optimizer):
    """With a setting of its own, and a count for a group of weights, as optimisers outside PyTorch have."""

    def __init__(self, weights, lr=1e-2):
        self.power = 0.5
        super().__init__(weights, {"lr": lr, "k": 0})

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            for weights in group["params"]:
                weights.data.add_(weights.grad, alpha=-group["lr"] / group["k"] ** self.power)


def test_an_optimiser_from_elsewhere_goes_on(tmp_path, monkeypatch):
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    whole, broken, again = (small_model(world) for _ in range(3))
    options = {"steps": 12, "batch": 16, "optimizer": Counting}
    ctm.train(whole, world, Denoising(0), **options)
    with monkeypatch.context() as patch:
        press_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            ctm.train(broken, world, Denoising(0), checkpoint=path, **options)
    ctm.train(again, world, Denoising(0), checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(again))


def test_the_same_student_prolongs_its_run_from_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr("ctm.training.loop.Consistency", Small)
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    student, whole = small_model(world), small_model(world)
    ctm.train(student, world, steps=20, batch=16, checkpoint=path)
    ctm.train(student, world, steps=26, batch=16, checkpoint=path)
    teacher = small_model(world).requires_grad_(False)
    ctm.train(whole, world, Denoising(), 10, batch=16)
    teacher.load_state_dict(whole.state_dict())
    ctm.train(whole, world, Small(teacher) + 0.1 * Denoising(), 10, batch=16, checkpoint=tmp_path / "hand")
    ctm.train(whole, world, Small(teacher) + 0.1 * Denoising(), 16, batch=16, checkpoint=tmp_path / "hand")
    assert torch.equal(weights_of(whole), weights_of(student))


def test_the_same_student_goes_on_from_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr("ctm.training.loop.Consistency", Small)
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    student, whole = small_model(world), small_model(world)
    ctm.train(whole, world, steps=20, batch=16)
    step, seen = State.step, []

    def interrupted(self):
        if self not in seen:
            seen.append(self)
        if len(seen) == 2 and self.done == 4:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(State, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ctm.train(student, world, steps=20, batch=16, checkpoint=path)
    ctm.train(student, world, steps=20, batch=16, checkpoint=path)
    assert torch.equal(weights_of(whole), weights_of(student))


def test_from_scratch_takes_a_path_as_text(tmp_path):
    world = ctm.data.one_gaussian()
    from_scratch(small_model(world), world, 4, batch=8, checkpoint=str(tmp_path / "a.safetensors"))
    assert (tmp_path / "a.denoiser.safetensors").exists()


def test_from_scratch_follows_the_strengths(monkeypatch):
    monkeypatch.setattr("ctm.training.loop.Consistency", Small)
    data, by_hand, at_once = Guided(HALF, (1.0, 4.0), 0.2), told_model(), told_model()
    ctm.train(by_hand, data, Denoising(), 8, batch=16)
    teacher = told_model().requires_grad_(False)
    teacher.load_state_dict(by_hand.state_dict())
    ctm.train(by_hand, data, Small(ctm.GuidedModel(teacher)) + 0.1 * Denoising(), 8, batch=16)
    ctm.train(at_once, data, steps=16, batch=16)
    assert torch.equal(weights_of(by_hand), weights_of(at_once))
    with pytest.raises(ValueError, match="drop must be above 0"):
        ctm.train(told_model(), Guided(HALF, (1.0, 4.0)), steps=16)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", np.int64(3)), ("steps", np.int64(3)), ("ema", np.float32(0.5)), ("target_ema", torch.tensor(0.5))],
)
def test_numbers_of_numpy_are_written(name, value, tmp_path):
    world, options = ctm.data.one_gaussian(), {"steps": 3, "batch": 8} | {name: value}
    for _ in range(2):
        ctm.train(small_model(world), world, Denoising(0), checkpoint=tmp_path / "a", **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda world: Small(world, pool=0) + Adversarial(start=0.55, width=8, adaptive=False),
        lambda world: Then(Denoising(0), Small(world), 0.55),
    ],
    ids=["discriminator", "pool"],
)
def test_a_term_forgets_what_came_after_the_file(make, tmp_path, monkeypatch):
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    whole, again, term, step = small_model(world), small_model(world), make(world), State.step
    ctm.train(whole, world, make(world), 20, batch=16)

    def broken(self):
        if self.done == 12:
            raise OSError("the disk is full")
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(State, "step", broken)
        with pytest.raises(OSError, match="full"):
            ctm.train(small_model(world), world, term, 20, batch=16, checkpoint=path, save_every=5)
    ctm.train(again, world, term, 20, batch=16, checkpoint=path)
    assert torch.equal(weights_of(whole), weights_of(again))


def test_a_term_may_serve_two_runs():
    term, students = Small(HALF), [told_model() for _ in range(2)]
    ctm.train(students[0], HALF, term, 5, batch=16)
    ctm.train(small_model(HALF), HALF, term, 3, batch=16)
    ctm.train(students[1], HALF, term, 5, batch=16)
    assert torch.equal(*map(weights_of, students))


def test_a_setting_that_lies_elsewhere_in_memory_is_the_same(tmp_path):
    class Seen:
        def __call__(self, x):
            return [x.flatten(1)]

    world, kept = ctm.data.one_gaussian(), []
    for _ in range(2):
        kept.append(Seen())  # kept: the second lies elsewhere
        ctm.train(small_model(world), world, Small(world, features=kept[-1]), 3, batch=8, checkpoint=tmp_path / "a")


def test_another_teacher_far_from_0_is_refused(tmp_path):
    worlds = [ctm.GaussianMixture([[1000.0 + by], [1001.0 + by]], 0.3) for by in (0.0, 0.05)]
    for teacher, steps in zip(worlds, (3, 6), strict=True):
        student = ctm.CTM.for_data(worlds[0], ctm.networks.MLP(1, width=8, layers=1))
        if teacher is worlds[0]:
            ctm.train(student, worlds[0], Small(teacher), steps, batch=8, checkpoint=tmp_path / "a")
        else:
            with pytest.raises(ValueError, match="teacher ="):
                ctm.train(student, worlds[0], Small(teacher), steps, batch=8, checkpoint=tmp_path / "a")


def test_an_interrupt_that_python_ignores_stays_ignored():
    world, before = ctm.data.one_gaussian(), signal.signal(signal.SIGINT, signal.SIG_IGN)

    def pressed(models, draw, rng):
        os.kill(os.getpid(), signal.SIGINT)
        return Denoising(0)(models, draw, rng)

    try:
        assert ctm.train(small_model(world), world, pressed, 3, batch=8).step[-1] == 3
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, header: header.update(run=[1]),
        lambda tensors, header: header["run"].pop("done"),
        lambda tensors, header: [tensors.pop(key) for key in list(tensors) if "exp_avg" in key],
        lambda tensors, header: [tensors.pop(key) for key in list(tensors) if key.startswith("part1.objective")],
    ],
    ids=["no run", "no steps", "no moments", "no pool"],
)
def test_a_damaged_state_of_several_parts_is_refused(change, tmp_path):
    alone(SMALL, tmp_path)
    path = tmp_path / "first.safetensors"
    tensors, header = checkpoints.read(path)
    tensors = {key: value.clone() for key, value in tensors.items()}
    change(tensors, header)
    checkpoints.write(path, tensors, header)
    forget()
    with pytest.raises(ValueError, match=r"checkpoint|done"):
        alone(SMALL, tmp_path)


@pytest.mark.parametrize("first", ["nan,1.0", "1.0,inf"])
def test_a_first_row_that_is_not_finite_is_no_header(first, tmp_path):
    (tmp_path / "a.csv").write_text(f"{first}\n2.0,3.0\n4.0,5.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="finite"):
        load_data(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("first", "rows"), [("a,b", 2), ("e,E", 2), ("year,2020", 2), ("\ufeffa,b", 2), ("\ufeff0,1", 3), ("0,1 # one", 3)]
)
def test_a_header_and_a_byte_order_mark(first, rows, tmp_path):
    (tmp_path / "a.csv").write_text(f"{first}\n2.0,3.0\n4.0,5.0\n", encoding="utf-8")
    assert len(load_data(str(tmp_path / "a.csv"))) == rows


def test_rounding_of_the_units_does_not_stop_a_run_from_going_on(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2))
    x = (x - x.mean(0)) / x.std(0)
    options = {"batch": 8, "checkpoint": tmp_path / "run.safetensors"}
    for steps, far in ((3, 0.0), (4, 3e-17)):
        data = ctm.data.Points(x + far)
        data.scale = data.scale * (1 + 2e-16 * (far > 0))  # as another number of threads adds up
        ctm.train(ctm.CTM.for_data(data), data, Denoising(), steps, **options)
    other = ctm.data.Points(2 * x)
    with pytest.raises(ValueError, match="was written with student"):
        ctm.train(ctm.CTM.for_data(other), other, Denoising(), 9, **options)
