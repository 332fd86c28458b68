"""Other outer and inner structures: the identities that each keeps or gives up, recomputed."""

import math

import pytest
import torch
from helpers import generator, noised

import ctm
from ctm.parametrisations import Parametrised, cm, edm, euler, mixed, no_inner, no_outer, variance


def model(outer, inner, seed=1):
    return Parametrised(ctm.networks.MLP(2, seed=seed), 0.5, outer, inner).double()


POINTS = torch.randn(40, 2, generator=generator(), dtype=torch.float64)


def test_euler_and_edm_are_ctm_itself():
    plain = ctm.CTM(ctm.networks.MLP(2, seed=1), 0.5).double()
    other = model(euler, edm)
    for t, s in ((10.0, 0.002), (1.0, 0.3)):
        assert torch.equal(plain.G(POINTS, t, s), other.G(POINTS, t, s))
        time = torch.tensor([[t]]), torch.tensor([[s]])
        assert torch.equal(plain.output_scale(*time), other.output_scale(*time))
    assert torch.allclose(plain.denoiser(POINTS, 1.0), other.denoiser(POINTS, 1.0), atol=1e-12)


@pytest.mark.parametrize("inner", [edm, cm, no_inner])
@pytest.mark.parametrize("outer", [euler, variance, mixed])
def test_the_boundary_holds_for_any_weights_but_without_an_outer_structure(outer, inner):
    for t in (0.002, 0.1, 3.0):
        assert torch.allclose(model(outer, inner).G(POINTS, t, t), POINTS, atol=1e-12)
        assert not torch.allclose(model(no_outer, inner).G(POINTS, 1.0, 1.0), POINTS, atol=1e-2)


@pytest.mark.parametrize("inner", [edm, cm, no_inner])
@pytest.mark.parametrize("outer", [euler, variance, mixed, no_outer])
def test_denoiser_and_output_scale_recomputed(outer, inner):
    student, t, s, h = model(outer, inner), 1.3, 0.4, 1e-5

    def end(later):
        return student.jump(POINTS, *torch.tensor([[[t]], [[later]]], dtype=torch.float64))

    slope = (end(t + h) - end(t - h)) / (2 * h)
    assert torch.allclose(student.denoiser(POINTS, t), POINTS - t * slope, atol=1e-8)
    # one unit more on the network's output moves the jump by the output scale
    before = student.G(POINTS, t, s)
    with torch.no_grad():
        student.network.body[-1].bias += 1
    scale = student.output_scale(*torch.tensor([[[t]], [[s]]], dtype=torch.float64))
    assert torch.allclose(student.G(POINTS, t, s) - before, scale.expand_as(POINTS).double(), atol=1e-12)


def test_the_denoiser_of_the_variance_form_is_edms_without_any_inner_skip():
    # at s = t the slope of sqrt((s^2 + sd^2)/(t^2 + sd^2)) is t/(t^2 + sd^2): D = c_skip x + g
    student, t, sd = model(variance, no_inner), 0.8, 0.5
    assert torch.allclose(student.denoiser(POINTS, t), sd**2 / (t**2 + sd**2) * POINTS + student.g(POINTS, t, t))


def test_variance_kept_is_that_of_the_points_at_s():
    t, s, sd = torch.tensor([[4.0]]), torch.tensor([[0.7]]), 0.5
    keep, _ = variance(model(variance, edm), t, s)
    assert math.isclose(keep.item() ** 2 * (sd**2 + 16), sd**2 + 0.49, rel_tol=1e-6)
    both = mixed(model(mixed, edm), t, s)[0].item()
    assert math.isclose(both, 0.7 / 5 + keep.item() / 5, rel_tol=1e-6)


def test_cm_inner_is_the_identity_at_the_end():
    student = model(euler, cm)
    assert torch.allclose(student.g(POINTS, 0.002, 0.002), POINTS, atol=1e-12)
    keep, scale = cm(student, torch.tensor(1.002, dtype=torch.float64))
    assert math.isclose(keep, 0.25 / 1.25)
    assert math.isclose(scale, 0.5 / math.hypot(1.002, 0.5))


@pytest.mark.parametrize("outer", [variance, no_outer])
def test_it_trains_and_its_loss_is_the_squared_error_of_the_networks_output(outer):
    world = ctm.data.ring()
    student = Parametrised(ctm.networks.MLP(2), 0.5, outer, edm)
    x = noised(world, 3.0, dtype=torch.float32)
    t, s = torch.full((64, 1), 3.0), torch.full((64, 1), 0.5)
    end = world.G(x, 3.0, 0.5)
    pairs = ctm.losses.Pairs(x, t, end, s, s)
    (a, b), (c, d) = outer(student, t, s), edm(student, t)
    wanted = ((end - a * x) / b - c * x) / d  # of F
    tau_t, tau_s = (time.flatten().log() / 4 for time in (t, s))
    found = student.network(x / (t**2 + 0.25).sqrt(), tau_t, tau_s)
    loss = ctm.losses.consistency_loss(student, student, pairs)
    assert torch.allclose(loss, (found - wanted).square().mean(), rtol=1e-4)
    history = ctm.train(student, world, ctm.Consistency(world, pool=512, levels=24), steps=60, batch=128)
    assert sum(history.loss[-10:]) < 0.5 * sum(history.loss[:10])  # one batch is mostly noise


def test_a_run_of_another_structure_is_not_resumed(tmp_path):
    world, path = ctm.data.ring(), tmp_path / "run.safetensors"
    run = {"steps": 2, "batch": 32, "checkpoint": path}
    for outer in (variance, mixed):
        student = Parametrised(ctm.networks.MLP(2, width=8, layers=1), 0.5, outer, edm)
        if outer is variance:
            ctm.train(student, world, ctm.Consistency(world, pool=64, levels=4), **run)
        else:
            with pytest.raises(ValueError, match="student"):
                ctm.train(student, world, ctm.Consistency(world, pool=64, levels=4), **run)


def test_without_an_inner_structure_g_is_the_network_and_without_an_outer_one_the_jump_is_g():
    t, s = 1.3, 0.4
    student = model(no_outer, no_inner)
    taus = (torch.full((len(POINTS),), math.log(time) / 4, dtype=torch.float64) for time in (t, s))
    assert torch.allclose(student.g(POINTS, t, s), student.network(POINTS / math.hypot(t, 0.5), *taus), atol=1e-12)
    assert torch.equal(student.G(POINTS, t, s), student.g(POINTS, t, s))
