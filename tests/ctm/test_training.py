"""Training: does it learn, is it repeatable, and is nothing lost."""

import os
import signal
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import weights_of
from torch import nn
from tqdm.auto import tqdm

import ctm
from ctm import Adversarial, Consistency, Denoising, Guided
from ctm.losses import Models, Term, move_average, ramped
from ctm.solvers import euler_step
from ctm.training import State, rate, training_steps

Small = partial(Consistency, pool=128, levels=16, reuse=4)
HALF = ctm.data.half_rings()


def small_model(world, seed=0, width=32):
    return ctm.CTM(ctm.networks.MLP(world.means[0].numel(), width=width, layers=2, seed=seed), world.sigma_data)


def told_model(seed=0, width=16):
    network = ctm.networks.MLP(2, width=width, layers=2, seed=seed, conditions=3)
    return ctm.ConditionalCTM(network, HALF.sigma_data)


def fresh_state(world, objective, steps=10, seed=0, model_seed=0, **options):
    return State(small_model(world, model_seed), world, objective, steps, seed, **({"batch": 64} | options))


OBJECTIVES = {
    "global": (Small, {}),
    "soft": (lambda world: Small(world, "soft"), {}),
    "local": (lambda world: Small(world, "local"), {}),
    "x0": (lambda world: Small(world, "soft", "x0"), {}),
    "fresh": (lambda world: Small(world, "soft", pool=0, substeps=16), {}),
    "discrete": (lambda world: Small(world, continuous=False), {}),
    "euler": (lambda world: Small(world, step=euler_step, substeps=4), {}),
    "dsm": (lambda world: Small(world) + Denoising(64), {}),
    "adaptive": (lambda world: Small(world) + Denoising(64, adaptive=True), {}),
    "target ema": (lambda world: Small(world, "soft"), {"target_ema": 0.9}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_kind_of_training_learns_the_map(name):
    world, (objective, options) = ctm.data.one_gaussian(), OBJECTIVES[name]
    student = small_model(world)
    before = ctm.metrics.flow_map_error(student, world, n=500)
    history = ctm.train(student, world, objective(world), steps=400, batch=64, **options)
    assert before > 0.3
    assert ctm.metrics.flow_map_error(student, world, n=500) < 0.1
    assert ctm.metrics.flow_map_error(student, world, 2.0, 0.5, n=500) < 0.1
    assert history.step[-1] == 400
    assert history.loss[-1] < 0.2 * history.loss[0] or name in ("dsm", "adaptive")  # DSM's own floor is not 0


@pytest.fixture
def small_pool(monkeypatch):
    """Training from scratch with a smaller pool than its own."""
    monkeypatch.setattr("ctm.training.loop.Consistency", Small)


@pytest.mark.slow
@pytest.mark.usefixtures("small_pool")
def test_training_from_scratch_and_from_a_learned_teacher():
    world = ctm.data.one_gaussian()
    teacher, learned, scratch = small_model(world), small_model(world, seed=1), small_model(world, seed=2)
    ctm.train(teacher, world, Denoising(128), steps=500, batch=64)
    ctm.train(learned, world, Small(teacher), steps=400, batch=64)
    history = ctm.train(scratch, world, steps=800, batch=64)
    for model in (learned, scratch):
        assert ctm.metrics.flow_map_error(model, world, n=500) < 0.12
    assert history.step == sorted(set(history.step))
    assert history.step[-1] == 800
    assert len(history.loss) == len(history.step)


@pytest.mark.usefixtures("small_pool")
def test_from_scratch_is_two_calls():
    world, by_hand, at_once = ctm.data.one_gaussian(), *(small_model(ctm.data.one_gaussian()) for _ in range(2))
    first = ctm.train(by_hand, world, Denoising(), 7, 3, batch=32)
    teacher = small_model(world)
    teacher.load_state_dict(by_hand.state_dict())
    then = ctm.train(by_hand, world, Small(teacher) + 0.1 * Denoising(), 8, 3, batch=32)
    both = ctm.train(at_once, world, steps=15, seed=3, batch=32)
    assert torch.equal(weights_of(by_hand), weights_of(at_once))
    assert both.loss == first.loss + then.loss
    assert both.step == list(range(1, 16))


def test_a_world_that_lies_elsewhere_is_learned_as_at_the_origin():
    base, found = ctm.data.ring(), []
    for offset in (0.0, 8.0):  # whose float32 is fine enough for the samples to be the same but for rounding
        world = ctm.GaussianMixture(base.means + offset, base.stds)
        student = ctm.CTM.for_data(world, ctm.networks.MLP(2, 16, 2))
        objective = ctm.Consistency(world, pool=64, levels=8) + ctm.Denoising(32)
        history = ctm.train(student, world, objective, 20, batch=32)
        found.append([*history.loss, ctm.metrics.flow_map_error(student, world, n=200)])
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    world = ctm.data.two_gaussians()
    models = [small_model(world) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        ctm.train(model, world, Small(world), steps=20, seed=seed, batch=64)
    first, second, third = (weights_of(model) for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


# --- stopping and going on


def adversarial():
    return Adversarial(start=0.3, width=16)


RESUMED = {  # model, data, objective, options
    "pool": (small_model, ctm.data.two_gaussians(), Small, {}),
    "no pool": (small_model, ctm.data.two_gaussians(), lambda world: Small(world, "soft", pool=0), {}),
    "soft with target average": (
        small_model,
        ctm.data.two_gaussians(),
        lambda world: Small(world, "soft") + 0.5 * Denoising(8),
        {"target_ema": 0.9},
    ),
    "adversarial": (small_model, ctm.data.two_gaussians(), lambda world: Small(world) + adversarial(), {}),
    "classes": (lambda _: told_model(), HALF, lambda world: Small(world) + Denoising(16) + adversarial(), {}),
    "guidance": (
        lambda _: told_model(),
        Guided(HALF, (1.0, 4.0), 0.2),
        lambda data: Small(HALF) + 0.1 * adversarial(),
        {},
    ),
    "SGD": (small_model, ctm.data.two_gaussians(), Small, {"optimizer": lambda w: torch.optim.SGD(w, 1e-3, momentum=0.9)}),
    "no state": (small_model, ctm.data.two_gaussians(), Small, {"optimizer": lambda w: torch.optim.SGD(w, 1e-3)}),
    "RMSprop": (small_model, ctm.data.two_gaussians(), Small, {"optimizer": lambda w: torch.optim.RMSprop(w, 1e-3)}),
    "AdamW": (small_model, ctm.data.two_gaussians(), Small, {"optimizer": lambda w: torch.optim.AdamW(w, 3e-3)}),
    "RAdam": (small_model, ctm.data.two_gaussians(), Small, {"optimizer": lambda w: torch.optim.RAdam(w, 3e-3)}),
    "Adadelta": (small_model, ctm.data.two_gaussians(), Small, {"optimizer": lambda w: torch.optim.Adadelta(w, 0.5)}),
    "ASGD": (small_model, ctm.data.two_gaussians(), Small, {"optimizer": lambda w: torch.optim.ASGD(w, 1e-3)}),
}


def press_at(monkeypatch, stop):
    """Ctrl-C as if pressed before step ``stop + 1``."""
    step = State.step

    def interrupted(self):
        if self.done == stop:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(State, "step", interrupted)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("classes", "guidance", "adversarial") else name
        for name in RESUMED
    ],
)
@pytest.mark.parametrize("stop", [pytest.param(3, marks=pytest.mark.slow), 17])
def test_a_stopped_run_goes_on_bit_for_bit(name, stop, tmp_path, monkeypatch):
    model, data, objective, options = RESUMED[name]
    world = getattr(data, "data", data)
    whole, broken = model(world), model(world)
    options = {"steps": 30, "seed": 4, "batch": 64} | options
    full_history = ctm.train(whole, data, objective(data), **options)
    path = tmp_path / "run.safetensors"
    with monkeypatch.context() as patch:
        press_at(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            ctm.train(broken, data, objective(data), checkpoint=path, **options)
    again = model(world)
    history = ctm.train(again, data, objective(data), checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(again))
    assert history.step == full_history.step
    assert history.loss == full_history.loss
    assert not list(tmp_path.glob("*.part"))
    # a finished run is not trained further
    ctm.train(again, data, objective(data), checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(again))


@pytest.mark.usefixtures("small_pool")
@pytest.mark.parametrize("part", [0, 1])
def test_training_from_scratch_goes_on_from_any_step_of_either_half(part, tmp_path, monkeypatch):
    world, path = ctm.data.one_gaussian(), tmp_path / "run.safetensors"
    whole, broken = small_model(world, width=8), small_model(world, width=8)
    options = {"steps": 21, "seed": 5, "batch": 16}
    full_history = ctm.train(whole, world, **options)
    stop = int(torch.randint(1, 10, (), generator=torch.Generator().manual_seed(part)))
    step, halves = State.step, []

    def interrupted(self):
        if self not in halves:
            halves.append(self)
        if len(halves) == part + 1 and self.done == stop:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(State, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ctm.train(broken, world, checkpoint=path, **options)
    assert path.exists() == (part == 1)
    again = small_model(world, width=8)
    history = ctm.train(again, world, checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(again))
    assert (history.step, history.loss) == (full_history.step, full_history.loss)


@pytest.fixture
def heard():
    """Ctrl-C as in a terminal: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("kind", ["plain", "conditional"])
def test_ctrl_c_in_the_middle_of_a_step_loses_nothing(kind, tmp_path):
    # the interrupt arrives after the step's random numbers are drawn and before its weights are updated
    world, path = HALF if kind == "conditional" else ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    make = told_model if kind == "conditional" else lambda: small_model(world)
    whole, broken = make(), make()

    class Pressed(Consistency):
        presses = False

        def __call__(self, models, draw, rng):
            loss = super().__call__(models, draw, rng)
            if self.presses and models.step == 14:  # between two entries of the history
                os.kill(os.getpid(), signal.SIGINT)
            return loss

    options = {"steps": 400, "batch": 8}
    full_history = ctm.train(whole, world, Pressed(world, pool=128, levels=16), **options)
    handler = signal.getsignal(signal.SIGINT)
    first = Pressed(world, pool=128, levels=16)
    first.presses = True
    with pytest.raises(KeyboardInterrupt):
        ctm.train(broken, world, first, checkpoint=path, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert ctm.checkpoints.read(path)[1]["run"]["done"] == 15
    history = ctm.train(broken, world, Pressed(world, pool=128, levels=16), checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(broken))
    assert history.loss == full_history.loss


def test_the_student_holds_its_average_after_ctrl_c(monkeypatch):
    world, seen = ctm.data.two_gaussians(), []
    student = small_model(world)
    step = State.step

    def interrupted(self):
        if self.done == 5:
            seen.append(self.models.average)
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(State, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ctm.train(student, world, Small(world), steps=30, batch=64)
    assert torch.equal(weights_of(student), weights_of(seen[0]))


def test_a_run_can_be_prolonged(tmp_path):
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    student = small_model(world)
    options = {"batch": 64, "checkpoint": path}
    first = ctm.train(student, world, Small(world), steps=40, **options)
    after_40 = weights_of(student)
    history = ctm.train(student, world, Small(world), steps=80, **options)
    assert history.step == list(range(1, 81))
    assert history.loss[:40] == first.loss
    assert not torch.equal(after_40, weights_of(student))
    assert ctm.checkpoints.read(path)[1]["run"]["done"] == 80
    with pytest.raises(ValueError, match="steps must be 80 or more"):
        ctm.train(small_model(world), world, Small(world), steps=40, **options)


def test_a_resumed_run_does_not_depend_on_its_file(tmp_path):
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    objective = partial(Small, world, "soft")
    ctm.train(small_model(world), world, objective(), 5, batch=64, target_ema=0.5, checkpoint=path)
    tensors, header = ctm.checkpoints.read(path)
    state = fresh_state(world, objective(), 5, target_ema=0.5)
    state.load_state_dict(tensors, header["run"]["done"])
    before = {name: value.clone() for name, value in state.state_dict().items()}
    del tensors
    content = path.read_bytes()
    with open(path, "r+b") as file:  # in place, as a copy over it does
        file.write(bytes(len(content)))
    assert all(torch.equal(value, before[name]) for name, value in state.state_dict().items())


def test_a_run_of_another_model_or_objective_or_setting_is_refused(tmp_path):
    world, path = ctm.data.one_gaussian(), tmp_path / "run.safetensors"
    other = ctm.data.two_gaussians()
    run = {"steps": 3, "batch": 64, "checkpoint": path}
    ctm.train(small_model(world), world, Small(world), **run)
    ctm.train(small_model(world), world, Small(world), **run)  # the same run is not
    with pytest.raises(ValueError, match="student ="):
        ctm.train(small_model(other), world, Small(world), **run)
    with pytest.raises(ValueError, match="seed = 0, this run has 1"):
        ctm.train(small_model(world), world, Small(world), seed=1, **run)
    for objective in (Small(world, "soft"), Small(world) + Denoising(8), Small(world, step=euler_step), 2 * Small(world)):
        with pytest.raises(ValueError, match="objective = Consistency"):
            ctm.train(small_model(world), world, objective, **run)
    for name, value in {"batch": 32, "lr": 1e-3, "ema": 0.9, "target_ema": 0.5}.items():
        with pytest.raises(ValueError, match=f"{name} = "):
            ctm.train(small_model(world), world, Small(world), **(run | {name: value}))
    with pytest.raises(ValueError, match="optimizer = Adam"):
        ctm.train(small_model(world), world, Small(world), optimizer=torch.optim.SGD, **run)


def test_a_run_of_another_initial_seed_is_refused(tmp_path):
    world, path = ctm.data.one_gaussian(), tmp_path / "run.safetensors"
    run = {"batch": 64, "checkpoint": path}
    student = small_model(world)
    ctm.train(student, world, Small(world), steps=3, **run)
    with pytest.raises(ValueError, match="weights"):
        ctm.train(small_model(world, seed=1), world, Small(world), steps=6, **run)
    ctm.train(student, world, Small(world), steps=6, **run)  # it holds the average, as after Ctrl-C
    ctm.train(small_model(world), world, Small(world), steps=9, **run)  # it holds its first weights, as after a crash


class InNumpy:
    def __init__(self, array):
        self.array = np.asarray(array)

    def sample(self, n, *, generator=None):
        pick = torch.randint(len(self.array), (n,), generator=generator)
        return torch.from_numpy(self.array[pick.numpy()]).float()


class Wrapper:
    def __init__(self, inner):
        self.inner = inner

    def sample(self, n, *, generator=None):
        return self.inner.sample(n, generator=generator)


class InList:
    def __init__(self, array):
        self.rows = [[float(value) for value in row] for row in array]

    def sample(self, n, *, generator=None):
        return torch.tensor([self.rows[i] for i in torch.randint(len(self.rows), (n,), generator=generator)])


class FromFile(InNumpy):
    def __init__(self, array, folder):
        np.save(folder / f"{float(np.sum(array))}.npy", array)
        super().__init__(np.load(folder / f"{float(np.sum(array))}.npy", mmap_mode="r"))


@pytest.mark.parametrize("kind", ["numpy", "wrapper", "list", "file", "world"])
def test_a_run_on_other_data_is_refused_however_they_are_held(kind, tmp_path):
    path, world = tmp_path / "run.safetensors", ctm.data.one_gaussian()
    rows = 0.5 + 0.5 * np.random.default_rng(0).normal(size=(200, 1))
    other = rows.copy()
    other[::2] += 0.01
    make = {
        "numpy": InNumpy,
        "wrapper": lambda array: Wrapper(InNumpy(array)),
        "list": InList,
        "file": lambda array: FromFile(array, tmp_path),
        "world": lambda array: ctm.GaussianMixture(array, 0.1),
    }[kind]
    run = {"steps": 3, "batch": 64, "checkpoint": path}
    ctm.train(small_model(world), make(rows), Small(world), **run)
    ctm.train(small_model(world), make(rows.copy()), Small(world), **run)
    with pytest.raises(ValueError, match="data = "):
        ctm.train(small_model(world), make(other), Small(world), **run)


def test_a_run_with_another_teacher_is_refused_however_it_is_made(tmp_path):
    world = ctm.data.one_gaussian()
    shifted = ctm.GaussianMixture(world.means + 0.02, world.stds)

    class Held:
        def __init__(self, inner):
            self.inner = inner

        def denoiser(self, x, t):
            return self.inner.denoiser(x, t)

    learned, other = (small_model(world, seed=seed).requires_grad_(False) for seed in (3, 4))
    for i, (right, wrong) in enumerate(((world, shifted), (Held(world), Held(shifted)), (learned, other))):
        run = {"steps": 3, "batch": 64, "checkpoint": tmp_path / f"{i}.safetensors"}
        ctm.train(small_model(world), world, 2 * (Small(right) + Denoising(8)), **run)
        ctm.train(small_model(world), world, 2 * (Small(right) + Denoising(8)), **run)
        with pytest.raises(ValueError, match="teacher = "):
            ctm.train(small_model(world), world, 2 * (Small(wrong) + Denoising(8)), **run)


def test_a_conditional_run_with_another_teacher_or_strength_is_refused(tmp_path):
    run = {"steps": 3, "batch": 32, "checkpoint": tmp_path / "run.safetensors"}
    swapped = ctm.LabelledMixture(HALF.means, HALF.stds, 1 - HALF.labels)
    ctm.train(told_model(), Guided(HALF, (1.0, 4.0)), Small(HALF), **run)
    with pytest.raises(ValueError, match="teacher = "):
        ctm.train(told_model(), Guided(HALF, (1.0, 4.0)), Small(swapped), **run)
    with pytest.raises(ValueError, match="data = "):  # the same points, told otherwise
        ctm.train(told_model(), Guided(HALF, (1.0, 2.0)), Small(HALF), **run)
    run["checkpoint"] = tmp_path / "denoiser.safetensors"
    ctm.train(told_model(), HALF, Denoising(0), **run)
    with pytest.raises(ValueError, match="data = "):
        ctm.train(told_model(), swapped, Denoising(0), **run)


def test_data_that_ignore_the_generator_cannot_be_resumed(tmp_path):
    world = ctm.data.one_gaussian()

    class Careless:
        def sample(self, n, *, generator=None):
            return torch.randn(n, 1)

    ctm.train(small_model(world), Careless(), Small(world), steps=2, batch=64)
    with pytest.raises(ValueError, match=r"data\.sample must give the same points"):
        ctm.train(small_model(world), Careless(), Small(world), 2, batch=64, checkpoint=tmp_path / "run.safetensors")


@pytest.mark.parametrize("name", ["pool", "classes", "guidance", "soft with target average", "RMSprop"])
def test_the_state_after_any_number_of_steps_can_be_taken_up(name):
    model, data, objective, options = RESUMED[name]
    world = getattr(data, "data", data)
    options = {"batch": 8} | options

    def made(seed, model_seed):
        student = model(world) if model is not small_model else small_model(world, seed=model_seed)
        return State(student, data, objective(data), 5, seed, **options)

    state = made(0, 0)
    for done in range(6):
        again = made(7, 1)
        held = {key: value.clone() for key, value in state.state_dict().items()}
        again.load_state_dict(held, done)
        assert again.done == state.done == done
        assert again.state_dict().keys() == held.keys()
        assert all(torch.equal(value, held[key]) for key, value in again.state_dict().items())
        if done < 5:
            assert state.step() == again.step()


# --- what is trained, and what is not


def frozen_but_the_last_layer(world):
    student = small_model(world)
    student.requires_grad_(False)
    student.network.body[-1].requires_grad_(True)
    return student


def test_the_last_layer_alone_is_trained_and_the_run_goes_on(tmp_path, monkeypatch):
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    options = {"steps": 12, "batch": 64}
    whole, broken, again = (frozen_but_the_last_layer(world) for _ in range(3))
    objective = partial(Small, world)
    first = weights_of(whole.network.body[0]).clone()
    ctm.train(whole, world, objective() + Denoising(8, adaptive=True), **options)
    assert torch.equal(first, weights_of(whole.network.body[0]))
    assert not torch.equal(weights_of(whole), weights_of(small_model(world)))
    with monkeypatch.context() as patch:
        press_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            ctm.train(broken, world, objective() + Denoising(8, adaptive=True), checkpoint=path, **options)
    for _ in range(2):
        ctm.train(again, world, objective() + Denoising(8, adaptive=True), checkpoint=path, **options)
        assert torch.equal(weights_of(whole), weights_of(again))
    assert [part.requires_grad for part in again.parameters()] == [part.requires_grad for part in whole.parameters()]


def test_a_student_that_cannot_learn_is_refused_in_words():
    world = ctm.data.one_gaussian()
    frozen = small_model(world).requires_grad_(False)
    with pytest.raises(ValueError, match="all its weights are frozen"):
        ctm.train(frozen, world, Small(world), steps=2)
    with pytest.raises(ValueError, match="all its weights are frozen"):
        ctm.train(frozen, world, steps=2)
    with torch.no_grad(), pytest.raises(ValueError, match=r"torch\.no_grad is in force"):
        ctm.train(small_model(world), world, Small(world), steps=2)
    with pytest.raises(ValueError, match="depends on the student's weights"):
        ctm.train(small_model(world), world, lambda models, draw, rng: torch.tensor(1.0), steps=2)


class Normed(nn.Module):
    """A network with running statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(3), nn.Linear(3, 1)

    def forward(self, x, tau_t, tau_s):
        return self.out(self.norm(torch.cat([x, tau_t[:, None], tau_s[:, None]], 1)))


def test_running_statistics_are_kept_with_the_average(tmp_path, monkeypatch):
    world, path = ctm.data.one_gaussian(), tmp_path / "run.safetensors"

    def made():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ctm.CTM(Normed(), world.sigma_data)

    options = {"steps": 40, "batch": 64, "target_ema": 0.9}
    state = State(made(), world, Small(world, "soft"), 40, batch=64, target_ema=0.9)
    list(training_steps(state))
    for model in (state.models.average, state.models.target):
        for name, value in state.models.student.named_buffers():
            assert torch.equal(dict(model.named_buffers())[name], value), name
    statistics = state.models.student.network.norm
    assert statistics.num_batches_tracked == 40
    assert not torch.allclose(statistics.running_mean, torch.zeros(3), atol=0.1)
    whole, broken, again = made(), made(), made()
    ctm.train(whole, world, Small(world, "soft"), **options)
    assert torch.equal(whole.network.norm.running_var, statistics.running_var)
    with monkeypatch.context() as patch:
        press_at(patch, 11)
        with pytest.raises(KeyboardInterrupt):
            ctm.train(broken, world, Small(world, "soft"), checkpoint=path, **options)
    ctm.train(again, world, Small(world, "soft"), checkpoint=path, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_network_that_returns_another_shape_is_refused():
    world = ctm.data.one_gaussian()

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x, tau_t, tau_s):
            return self.layer(x)[:, 0]

    student = ctm.CTM(Flat(), world.sigma_data)
    message = r"network must return the shape of its points, \(7, 1\), got \(7,\)"
    with pytest.raises(ValueError, match=message):
        student.G(torch.zeros(7, 1), 1.0, 0.5)
    with pytest.raises(ValueError, match="network must return the shape"):
        ctm.train(student, world, Small(world), steps=2, batch=64)


def test_a_loss_that_is_not_finite_stops_with_an_explanation():
    world = ctm.data.one_gaussian()

    class Broken:
        def sample(self, n, *, generator=None):
            return torch.full((n, 1), torch.inf)

    with pytest.raises((FloatingPointError, ValueError), match=r"data hold NaN|finite"):
        ctm.train(small_model(world), Broken(), Small(world), steps=3)
    for steps in (1, 5):  # the last update is looked at too
        with pytest.raises(FloatingPointError, match="smaller lr"):
            ctm.train(small_model(world), world, Small(world), steps=steps, lr=1e38)
    student = small_model(world)
    with torch.no_grad():
        student.last_layer.fill_(1e30)
    with pytest.raises(FloatingPointError, match="smaller lr"):
        ctm.train(student, world, Small(world), steps=50)


# --- the step, recomputed


def test_average_of_the_weights_recomputed():
    model, average = (torch.nn.Linear(2, 1) for _ in range(2))
    expected = average.weight.detach().clone()
    for decay in (0.9, 0.5, 0.99):
        with torch.no_grad():
            model.weight.add_(1.0)
        move_average(average, model, decay)
        expected = decay * expected + (1 - decay) * model.weight.detach()
        assert torch.allclose(average.weight, expected)


def test_ramp_and_learning_rate():
    assert ramped(0.999, 0) == pytest.approx(0.1)
    assert ramped(0.999, 90) == pytest.approx(0.91)
    assert ramped(0.999, 10**6) == 0.999
    assert ramped(0.0, 50) == 0.0
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == pytest.approx(rates[20], rel=0.01)
    assert rates[500] == pytest.approx(0.5)
    assert rates[-1] < 1e-5
    assert all(a >= b for a, b in zip(rates[20:], rates[21:], strict=False))


def test_the_optimizers_rate_follows_the_schedule_from_the_peak():
    for options, peak in (({"lr": 0.01}, 0.01), ({"optimizer": lambda w: torch.optim.SGD(w, 0.02)}, 0.02)):
        state = fresh_state(ctm.data.one_gaussian(), Small(ctm.data.one_gaussian()), **options)
        for step in range(10):
            state.step()
            assert state.optimizer.param_groups[0]["lr"] == pytest.approx(peak * rate(step, 10))


def test_the_loop_yields_after_the_step_and_the_student_ends_with_the_average():
    world = ctm.data.one_gaussian()
    state = fresh_state(world, Small(world), 5)
    before = weights_of(state.models.student)
    steps = training_steps(state)
    assert next(steps)[0] == 1
    assert not torch.equal(before, weights_of(state.models.student))
    assert [done for done, _ in steps] == [2, 3, 4, 5]
    other = small_model(world)
    ctm.train(other, world, Small(world), steps=5, batch=64)
    assert torch.equal(weights_of(other), weights_of(state.models.average))


def test_the_first_step_of_adam_is_as_long_as_the_learning_rate():
    world = ctm.data.one_gaussian()
    state = fresh_state(world, Small(world), 200, lr=0.5)
    before = weights_of(state.models.student)
    state.step()
    moved = (weights_of(state.models.student) - before).abs()
    assert moved.max().item() == pytest.approx(0.5 / (0.02 * 200), rel=1e-3)  # a quarter of the warm-up


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_average_and_target_are_averages_of_the_student(decay):
    world = ctm.data.one_gaussian()
    state = fresh_state(world, Small(world, "soft"), ema=0.3, target_ema=decay)
    average = target = weights_of(state.models.student)
    for step in (1, 2, 3, 4):
        state.step()
        student, limit = weights_of(state.models.student), (1 + step) / (10 + step)
        average = min(0.3, limit) * average + (1 - min(0.3, limit)) * student
        target = min(decay, limit) * target + (1 - min(decay, limit)) * student
        assert torch.allclose(weights_of(state.models.average), average, rtol=1e-5, atol=1e-7)
        assert torch.allclose(weights_of(state.models.target), target, rtol=1e-5, atol=1e-7)
    held = (state.models.average, state.models.target)
    assert not any(part.requires_grad for model in held for part in model.parameters())


@pytest.mark.parametrize(("size", "reuse", "every"), [(64, 2, 4), (32, 1, 1), (16, 1, 1)])
def test_a_pool_is_solved_again_when_it_has_been_used_as_often_as_said(size, reuse, every):
    world = ctm.data.one_gaussian()
    objective, pools = Consistency(world, pool=size, reuse=reuse, levels=4), []
    state = fresh_state(world, objective, 20, batch=32)
    for _ in range(9):
        state.step()
        pools.append(objective.trajectories.points)
    renewed = [not torch.equal(a, b) for a, b in zip(pools, pools[1:], strict=False)]
    assert renewed == [step % every == 0 for step in range(1, 9)]


def test_trajectories_are_pooled_only_where_asked():
    world = ctm.data.one_gaussian()
    state = fresh_state(world, Small(world, pool=0))
    state.step()
    assert not any(name.startswith("objective") for name in state.state_dict())
    state = fresh_state(world, Small(world))
    state.step()
    assert state.state_dict()["objective.points"].shape == (128, 17, 1)


def test_what_is_drawn_has_the_size_asked_and_the_condition_that_data_and_student_know():
    plain = fresh_state(HALF, Small(HALF))
    assert plain.draw()[0].shape == (64, 2)
    assert plain.draw(5)[0].shape == (5, 2)
    assert plain.draw(5)[1] is None  # the student takes no condition
    told = State(told_model(), HALF, Small(HALF), 1)
    x, label = told.draw(5)
    assert (x.shape, label.shape, label.dtype) == ((5, 2), (5,), torch.int64)
    assert State(told_model(), ctm.data.ring(), Small(HALF), 1).draw(5)[1] is None  # the data have none
    guided = State(told_model(), Guided(HALF, (1.0, 4.0), 0.3), Small(HALF), 1)
    table, labels = guided.draw(9)[1], guided.draw.clean(9)[1]
    assert (table.shape, labels.shape) == ((9, 2), (9,))
    assert bool(((table[:, 1] >= 1) & (table[:, 1] <= 4)).all())

    class Short:
        def sample(self, n, *, generator=None):
            return torch.zeros(n - 1, 1)

    with pytest.raises(ValueError, match="n = 64 points, got 63"):
        State(small_model(ctm.data.one_gaussian()), Short(), Denoising(), 1, batch=64).step()


# --- what is shown


class Bars(list):
    """Stands in for tqdm and keeps its options."""

    def __call__(self, steps, **options):
        self.append(options)
        return tqdm(steps, **(options | {"disable": True}))


@pytest.fixture
def bars(monkeypatch):
    shown = Bars()
    monkeypatch.setattr("ctm.training.loop.tqdm", shown)
    return shown


@pytest.mark.parametrize("model", [small_model, lambda _: told_model()])
def test_a_bar_is_shown_in_a_terminal_and_in_a_notebook_and_nowhere_else(model, bars, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    student, shell = model(HALF), [None]
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell[0]))
    ctm.train(student, HALF, Small(HALF), 2, batch=8)
    shell[0] = "a kernel"
    ctm.train(student, HALF, Small(HALF), 2, batch=8)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the book is built
    ctm.train(student, HALF, Small(HALF), 2, batch=8)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    shell[0] = None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ctm.train(student, HALF, Small(HALF), 2, batch=8)
    assert [bar["disable"] for bar in bars] == [True, False, True, False]
    assert [bar["total"] for bar in bars] == [2, 2, 2, 2]


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    world = ctm.data.one_gaussian()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ctm.train(small_model(world), world, Small(world), steps=3)
    assert capfd.readouterr() == ("", "")


# --- a conditional student in the same loop


def test_a_conditional_student_has_its_history_and_feels_the_adversarial_term():
    weights, histories = [], []
    for weight in (0.0, 100.0):
        student = told_model()
        objective = Small(HALF) + weight * Adversarial(start=0.0, adaptive=False, width=16)
        histories.append(ctm.train(student, HALF, objective, steps=10, batch=64))
        weights.append(weights_of(student))
    assert not torch.equal(*weights)
    assert all(history.step == list(range(1, 11)) for history in histories)
    assert all(history.seconds > 0 for history in histories)


class Recorded(Term):
    """Keeps the models that it saw."""

    def __call__(self, models: Models, draw, rng):
        self.seen = models.step, models.steps
        return Denoising(0)(models, draw, rng)


def test_a_term_is_told_how_far_training_is():
    world, term = ctm.data.one_gaussian(), Recorded()
    ctm.train(small_model(world), world, term, steps=4, batch=8)
    assert term.seen == (3, 4)


def test_a_run_from_scratch_can_be_prolonged(tmp_path):
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    first = ctm.train(small_model(world), world, steps=20, batch=16, checkpoint=path)
    again = ctm.train(small_model(world), world, steps=30, batch=16, checkpoint=path)
    assert (first.step[-1], again.step[-1]) == (20, 30)
    assert again.loss[:20] == first.loss  # the further steps come after those that were made
