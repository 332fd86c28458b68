"""Training: does it learn, is it repeatable, and is nothing lost."""

import dataclasses
import math
import os
import signal
import warnings

import pytest
import torch

import ctm
from ctm.run import Run, move_average, ramped, rate
from ctm.training import training_steps

SMALL = ctm.Recipe(batch=64, pool=128, levels=16, reuse=4)


def small_model(world, seed=0):
    return ctm.CTM(ctm.networks.MLP(world.means[0].numel(), width=32, layers=2, seed=seed), world.sigma_data)


def weights_of(model):
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


RECIPES = {
    "global": SMALL,
    "soft": dataclasses.replace(SMALL, consistency="soft"),
    "local": dataclasses.replace(SMALL, consistency="local"),
    "x0": dataclasses.replace(SMALL, consistency="soft", compare="x0"),
    "fresh": dataclasses.replace(SMALL, consistency="soft", pool=0, substeps=16),
    "discrete": dataclasses.replace(SMALL, continuous=False),
    "euler": dataclasses.replace(SMALL, solver="euler", substeps=4),
    "dsm": dataclasses.replace(SMALL, dsm=1.0, references=64),
    "adaptive": dataclasses.replace(SMALL, dsm=1.0, adaptive_dsm=True),
    "target ema": dataclasses.replace(SMALL, consistency="soft", target_ema=0.9),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_training_learns_the_map(name):
    world = ctm.data.one_gaussian()
    student = small_model(world)
    before = ctm.metrics.flow_map_error(student, world, n=500)
    history = ctm.train(student, world, teacher=world, steps=400, recipe=RECIPES[name])
    assert before > 0.3
    assert ctm.metrics.flow_map_error(student, world, n=500) < 0.1
    assert ctm.metrics.flow_map_error(student, world, 2.0, 0.5, n=500) < 0.1
    assert history.step[-1] == 400
    assert history.loss[-1] < 0.2 * history.loss[0] or name in ("dsm", "adaptive")  # DSM's own floor is not 0


def test_training_from_scratch_and_from_a_learned_teacher():
    world = ctm.data.one_gaussian()
    teacher, learned, scratch = small_model(world), small_model(world, seed=1), small_model(world, seed=2)
    ctm.train_denoiser(teacher, world, steps=500, recipe=dataclasses.replace(ctm.DENOISER, batch=64, references=128))
    ctm.train(learned, world, teacher=teacher, steps=400, recipe=SMALL)
    recipe = dataclasses.replace(ctm.SCRATCH, batch=64, pool=128, levels=16, references=128)
    ctm.train(scratch, world, steps=900, recipe=recipe)
    for model in (learned, scratch):
        assert ctm.metrics.flow_map_error(model, world, n=500) < 0.12


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    world = ctm.data.two_gaussians()
    models = [small_model(world) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        ctm.train(model, world, teacher=world, steps=20, seed=seed, recipe=SMALL)
    first, second, third = (weights_of(model) for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


RESUMED = {
    "pool": (SMALL, True),
    "soft with target average": (
        dataclasses.replace(SMALL, consistency="soft", target_ema=0.9, dsm=0.5, references=8),
        True,
    ),
    "adversarial": (
        dataclasses.replace(SMALL, gan=ctm.Adversarial(start=0.3, width=16)),
        True,
    ),
    "from scratch": (dataclasses.replace(ctm.SCRATCH, batch=32, pool=64, levels=8, references=16, reuse=2), False),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("stop", [3, 17])
def test_a_stopped_run_goes_on_bit_for_bit(name, stop, tmp_path, monkeypatch):
    recipe, taught = RESUMED[name]
    world = ctm.data.two_gaussians()
    whole, broken = small_model(world), small_model(world)
    options = {"teacher": world if taught else None, "steps": 30, "seed": 4, "recipe": recipe}
    full_history = ctm.train(whole, world, **options)

    step = Run.step

    def interrupted(self):
        if self.done == stop:
            raise KeyboardInterrupt
        return step(self)

    path = tmp_path / "run.safetensors"
    monkeypatch.setattr(Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ctm.train(broken, world, checkpoint=path, **options)
    monkeypatch.setattr(Run, "step", step)
    again = small_model(world, seed=9)  # its own first weights do not matter
    history = ctm.train(again, world, checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(again))
    assert history.step == full_history.step
    assert history.loss == full_history.loss
    assert not list(tmp_path.glob("*.part"))
    # a finished run is not trained further
    ctm.train(again, world, checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(again))


def test_ctrl_c_in_the_middle_of_a_step_loses_nothing(tmp_path, monkeypatch):
    # the interrupt arrives after the step's random numbers are drawn and before its weights are updated
    world, path = ctm.data.two_gaussians(), tmp_path / "run.safetensors"
    whole, broken = small_model(world), small_model(world)
    options = {"teacher": world, "steps": 900, "recipe": dataclasses.replace(SMALL, batch=8)}
    full_history = ctm.train(whole, world, **options)

    inner = Run._loss

    def pressed_in_the_middle(self):
        loss = inner(self)
        if self.done == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Run, "_loss", pressed_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        ctm.train(broken, world, checkpoint=path, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.setattr(Run, "_loss", inner)
    history = ctm.train(broken, world, checkpoint=path, **options)
    assert torch.equal(weights_of(whole), weights_of(broken))
    assert history.loss == full_history.loss


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    world, path = ctm.data.one_gaussian(), tmp_path / "run.safetensors"
    ctm.train(small_model(world), world, teacher=world, steps=3, recipe=SMALL, checkpoint=path)
    other, run = ctm.data.two_gaussians(), {"steps": 3, "recipe": SMALL, "checkpoint": path}
    with pytest.raises(ValueError, match="data = GaussianMixture"):
        ctm.train(small_model(world), other, teacher=world, **run)
    with pytest.raises(ValueError, match="teacher = GaussianMixture"):
        ctm.train(small_model(world), world, teacher=other, **run)
    with pytest.raises(ValueError, match="student ="):
        ctm.train(small_model(other), world, teacher=world, **run)
    with pytest.raises(ValueError, match="seed = 0, this run has 1"):
        ctm.train(small_model(world), world, teacher=world, steps=3, seed=1, recipe=SMALL, checkpoint=path)


def test_a_loss_that_is_not_finite_stops_with_an_explanation():
    world = ctm.data.one_gaussian()

    class Broken:
        def sample(self, n, *, generator=None):
            return torch.full((n, 1), torch.inf)

    with pytest.raises((FloatingPointError, ValueError), match=r"data hold NaN|finite"):
        ctm.train(small_model(world), Broken(), teacher=world, steps=3, recipe=SMALL)
    for steps in (1, 5):  # the last update is looked at too
        with pytest.raises(FloatingPointError, match="smaller lr"):
            ctm.train(small_model(world), world, teacher=world, steps=steps, recipe=dataclasses.replace(SMALL, lr=1e38))
    student = small_model(world)
    with torch.no_grad():
        student.last_layer.fill_(1e30)
    with pytest.raises(FloatingPointError, match="smaller lr"):
        ctm.train(student, world, teacher=world, steps=50, recipe=SMALL)


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


def test_the_loop_yields_after_the_step_and_the_student_ends_with_the_average():
    world = ctm.data.one_gaussian()
    student = small_model(world)
    run = Run(student, world, world, steps=5, seed=0, recipe=SMALL)
    before = weights_of(student)
    steps = training_steps(run)
    done, loss = next(steps)
    assert done == 1
    assert math.isfinite(loss)
    assert not torch.equal(before, weights_of(student))
    list(steps)
    other = small_model(world)
    ctm.train(other, world, teacher=world, steps=5, recipe=SMALL)
    assert torch.equal(weights_of(other), weights_of(run.average))


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    world = ctm.data.one_gaussian()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ctm.train(small_model(world), world, teacher=world, steps=3, recipe=SMALL)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_loss_of_a_step_recomputed(adaptive):
    world, recipe = ctm.data.one_gaussian(), dataclasses.replace(SMALL, dsm=0.7, adaptive_dsm=adaptive)
    run = Run(small_model(world), world, world, steps=10, seed=0, recipe=recipe)
    pairs, dsm = run._pairs("global"), run._dsm()
    run._pairs, run._dsm = (lambda kind: pairs), (lambda: dsm)
    consistency = ctm.losses.consistency_loss(run.student, run.target, pairs, recipe.compare)
    weight = ctm.losses.adaptive_weight(consistency, dsm, run.student.last_layer) if adaptive else 1.0
    assert run._loss().item() == pytest.approx((consistency + 0.7 * weight * dsm).item(), rel=1e-5)


@pytest.mark.parametrize(("size", "reuse", "every"), [(64, 2, 4), (32, 1, 1), (16, 1, 1)])
def test_a_pool_is_solved_again_when_it_has_been_used_as_often_as_said(size, reuse, every):
    world, recipe = ctm.data.one_gaussian(), ctm.Recipe(pool=size, reuse=reuse, levels=4, batch=32)
    run, pools = Run(small_model(world), world, world, steps=20, seed=0, recipe=recipe), []
    for _ in range(9):
        run.step()
        pools.append(run.pool.points)
    renewed = [not torch.equal(a, b) for a, b in zip(pools, pools[1:], strict=False)]
    assert renewed == [step % every == 0 for step in range(1, 9)]


def test_a_run_of_two_parts_has_two_rates_and_its_guide_is_set_between_them():
    world, recipe = (
        ctm.data.one_gaussian(),
        dataclasses.replace(ctm.SCRATCH, dsm_first=0.4, batch=32, pool=64, levels=8, references=16, reuse=2),
    )
    run = Run(small_model(world), world, None, steps=10, seed=0, recipe=recipe)
    rates, used, taken_up, guides = [], [], [], [weights_of(run.guide)]
    for _ in range(10):
        rates.append(run._rate())
        run.step()
        used.append(run.optimizer.param_groups[0]["lr"])
        taken_up.append(torch.equal(weights_of(run.student), weights_of(run.average)))
        guides.append(weights_of(run.guide))
        if run.done == 4:
            reached = weights_of(run.average)
    assert rates == pytest.approx([rate(k, 4) for k in range(4)] + [rate(k, 6) for k in range(6)])
    assert used == pytest.approx([recipe.lr * share for share in rates])
    assert taken_up == [step == 4 for step in range(1, 11)]  # the student goes on from the average
    assert torch.equal(guides[-1], reached)
    moved = [not torch.equal(a, b) for a, b in zip(guides, guides[1:], strict=False)]
    assert moved == [step == 4 for step in range(1, 11)]


def test_the_first_step_of_adam_is_as_long_as_the_learning_rate():
    world, recipe = ctm.data.one_gaussian(), dataclasses.replace(SMALL, lr=0.5)
    run = Run(small_model(world), world, world, steps=200, seed=0, recipe=recipe)
    before = weights_of(run.student)
    run.step()
    moved = (weights_of(run.student) - before).abs()
    assert moved.max().item() == pytest.approx(0.5 / (0.02 * 200), rel=1e-3)  # a quarter of the warm-up


def test_without_a_first_part_the_guide_follows_the_average():
    world, recipe = ctm.data.one_gaussian(), dataclasses.replace(SMALL, dsm=1.0)
    run = Run(small_model(world), world, None, steps=10, seed=0, recipe=recipe)
    for _ in range(3):
        run.step()
        assert torch.equal(weights_of(run.guide), weights_of(run.average))


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize(
    ("changes", "jumps"),
    [
        ({}, False),  # "global" compared at s: u = s leaves nothing to jump
        ({"gan": ctm.Adversarial(start=0.0, width=8)}, True),
        ({"compare": "x0"}, True),
        ({"consistency": "soft"}, True),
        ({"consistency": None, "dsm": 1.0}, False),
    ],
)
def test_the_target_is_an_average_of_the_student_wherever_it_jumps(changes, jumps, decay):
    world, recipe = ctm.data.one_gaussian(), dataclasses.replace(SMALL, batch=8, pool=16, target_ema=decay, **changes)
    run = Run(small_model(world), world, world, steps=10, seed=0, recipe=recipe)
    expected = weights_of(run.student)
    for step in (1, 2, 3):
        run.step()
        kept = min(decay, (1 + step) / (10 + step)) if jumps else 1.0
        expected = kept * expected + (1 - kept) * weights_of(run.student)
        assert torch.allclose(weights_of(run.target), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("changes", [{"pool": 0}, {"consistency": None, "dsm": 1.0}])
def test_trajectories_are_pooled_only_where_asked_and_where_pairs_are_drawn(changes):
    world, recipe = ctm.data.one_gaussian(), dataclasses.replace(SMALL, **changes)
    run = Run(small_model(world), world, world, steps=10, seed=0, recipe=recipe)
    run.step()
    assert run.pool is None
    assert not any(name.startswith("pool") for name in run.tensors())


@pytest.mark.parametrize("first", [0.0, 0.4])
def test_the_state_after_any_number_of_steps_can_be_taken_up(first):
    world, term = ctm.data.two_gaussians(), ctm.Adversarial(start=0.6, width=8)
    recipe = ctm.Recipe(dsm=0.5, dsm_first=first, batch=8, pool=16, levels=4, reuse=2, gan=term)
    run = Run(small_model(world), world, None, steps=5, seed=0, recipe=recipe)
    for done in range(6):
        again = Run(small_model(world, seed=1), world, None, steps=5, seed=7, recipe=recipe)
        state = {name: value.clone() for name, value in run.tensors().items()}
        again.restore(state, done)
        assert again.done == run.done == done
        assert again.tensors().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in again.tensors().items())
        if done < 5:
            assert run.step() == again.step()
