"""The Frechet distance as a term: value and gradient by scipy and difference quotients, its memory, what it moves."""

import numpy as np
import pytest
import torch
from helpers import generator
from scipy import linalg

import ctm
from ctm.losses import Consistency, Draw, Frechet, Models, affine_map, mean_and_covariance
from ctm.points import Points
from ctm.training import State


def covariance(d, seed):
    root = np.random.default_rng(seed).normal(size=(d, d))
    return root @ root.T / d + 0.1 * np.eye(d)


def distance(f, mean, cov):
    """The squared distance of rows from a Gaussian, with scipy's matrix root and the covariance over n."""
    own, apart = np.cov(f.T, bias=True).reshape(f.shape[1], -1), f.mean(0) - mean
    return apart @ apart + np.trace(own + cov - 2 * linalg.sqrtm(own @ cov).real)


class Fixed(Frechet):
    """The term with its samples given, one batch after another."""

    def of(self, *batches):
        self.batches = list(batches)
        return self

    def samples(self, models, draw, rng):
        return self.batches.pop(0)


def value(term):
    points = Points(torch.randn(8, 3, generator=generator()))
    student = ctm.CTM.for_data(points)
    rng = generator()
    return term(Models(student, 10), Draw(points, student, 8, rng), rng)


@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_the_affine_map_by_scipys_roots(d):
    own, other = covariance(d, 0), covariance(d, 1)
    half = linalg.sqrtm(own).real
    expected = linalg.inv(half) @ linalg.sqrtm(half @ other @ half).real @ linalg.inv(half)
    found = affine_map(torch.from_numpy(own), torch.from_numpy(other)).numpy()
    assert found == pytest.approx(expected, abs=1e-9)
    assert found == pytest.approx(found.T, abs=1e-10)
    assert found @ own @ found == pytest.approx(other, abs=1e-9)


def test_the_affine_map_of_a_covariance_without_variance_somewhere_is_finite():
    flat = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    found = affine_map(flat, torch.eye(2, dtype=torch.float64))
    assert torch.isfinite(found).all()
    assert found[0, 0] == pytest.approx(1)
    assert found[1, 1] == pytest.approx(1e3)  # the root of a million: as much as is taken to be there


def test_samples_that_are_all_alike_are_pulled_by_their_mean():
    real = torch.randn(50, 2, generator=generator(1), dtype=torch.float64)
    x = torch.zeros(8, 2, dtype=torch.float64).requires_grad_()
    loss = value(Fixed(real, batch=8, memory=8).of(x.detach(), x))
    loss.backward()
    cov = np.cov(real.numpy().T, bias=True)
    assert loss.item() == pytest.approx(float(real.mean(0).square().sum()) / np.trace(cov), rel=1e-6)
    assert x.grad.sum(0).numpy() == pytest.approx(-2 * real.mean(0).numpy() / np.trace(cov), rel=1e-6)


def test_in_half_precision_the_difference_is_taken_in_full():
    real = torch.randn(400, 3, generator=generator(1))
    x = (real[:64] + 0.01).requires_grad_()
    term = Fixed(real, lambda points: [points.bfloat16()], batch=64, memory=64).of(x.detach(), x)
    half = value(term)
    half.backward()
    y = x.detach().bfloat16().float().requires_grad_()
    exact = value(Fixed(real.bfloat16().float(), batch=64, memory=64).of(y.detach(), y))
    exact.backward()
    assert half.item() == pytest.approx(exact.item(), rel=1e-6)
    assert x.grad.numpy() == pytest.approx(y.grad.numpy(), rel=0.01)  # the gradient itself comes back in bfloat16


def test_weights_that_are_not_finite_are_named_by_the_loop():
    data = Points(torch.randn(64, 3, generator=generator()))
    student = ctm.CTM.for_data(data, ctm.networks.MLP(3, width=16))
    state = State(student, data, ctm.Denoising() + 0.5 * Frechet(data.rows, batch=4, memory=16), 9, batch=8)
    state.step()
    with torch.no_grad():
        student.last_layer.fill_(torch.nan)
    with pytest.raises(FloatingPointError):
        state.step()


def test_a_term_is_shown_without_its_data():
    assert repr(Frechet(torch.randn(9, 3, generator=generator()))) == "Frechet(features=None, batch=128, memory=1024)"


def test_moments_by_numpy():
    f = torch.randn(50, 4, generator=generator()) * 3 + 1e3
    mean, cov = mean_and_covariance(f)
    assert mean.numpy() == pytest.approx(f.double().numpy().mean(0))
    assert cov.numpy() == pytest.approx(np.cov(f.double().numpy().T, bias=True))


@pytest.mark.parametrize("memory", [24, 60])  # the batch alone, and with 36 older ones
def test_value_and_gradient_are_those_of_the_distance(memory):
    real = (
        torch.randn(300, 3, generator=generator(1), dtype=torch.float64) @ torch.randn(3, 3, generator=generator(2)).double()
    )
    old = [torch.randn(24, 3, generator=generator(k), dtype=torch.float64) for k in (3, 4, 5)]
    x = (1.5 * torch.randn(24, 3, generator=generator(6), dtype=torch.float64) + 0.4).requires_grad_()
    kept = torch.cat(old)[-memory:]

    def looks(points):
        return [points, torch.stack([points[:, 0] ** 2, points[:, 1] * points[:, 2]], 1)]

    term = Fixed(real, looks, batch=24, memory=memory).of(*old[: -(-memory // 24)], x)
    if memory == 24:
        kept = old[0]
    loss = value(term)
    loss.backward()

    def whole(newest):
        rows = torch.cat([kept[24:], newest])
        total = 0.0
        for f, wanted in zip(looks(rows), looks(real), strict=True):
            mean, cov = (part.numpy() for part in mean_and_covariance(wanted))
            total += distance(f.numpy(), mean, cov) / np.trace(cov) / 2
        return total

    newest, h = x.detach(), 1e-5
    if memory == 24:  # the value too, where nothing older is kept
        assert loss.item() == pytest.approx(whole(newest), rel=1e-5)
    for row, column in ((0, 0), (5, 2), (23, 1)):
        step = torch.zeros_like(newest)
        step[row, column] = h
        slope = (whole(newest + step) - whole(newest - step)) / (2 * h)
        # the batch stands for all of the memory: its gradient is that of so many times as many samples
        assert x.grad[row, column].item() == pytest.approx(slope * memory / 24, rel=1e-3, abs=1e-6)


def test_the_memory_holds_the_newest_samples():
    batches = [torch.full((2, 3), float(k)) + torch.randn(2, 3, generator=generator(k)) for k in range(5)]
    term = Fixed(torch.randn(9, 3, generator=generator()), batch=2, memory=5).of(*batches)
    value(term)  # three batches fill it, and a fourth is the first that learns
    assert torch.equal(term.kept[0], torch.cat(batches[:4])[-5:])
    value(term)
    assert torch.equal(term.kept[0], torch.cat(batches)[-5:])


def test_samples_are_jumps_from_noise_to_data_for_the_datas_conditions():
    data = ctm.Guided(Points(torch.randn(40, 3, generator=generator()), torch.arange(40) % 2), (1.0, 2.0), drop=0.1)
    student = ctm.CTM.for_data(data)
    term, rng = Frechet(data.data.rows, batch=6, memory=6), generator(4)
    found = term.samples(Models(student, 10), Draw(data, student, 8, rng), rng)
    again = generator(4)
    told = data.sample_conditioned(6, generator=again)[1]
    x = ctm.samplers.noise(student, 6, generator=again)
    assert torch.equal(found, student.given(told).G(x, student.sigma_max, student.sigma_min))
    assert found.requires_grad


@pytest.mark.slow
def test_it_pulls_samples_to_the_moments_that_are_wanted():
    world = ctm.data.two_moons()
    real = 1.2 * world.sample(4000, generator=generator(1)) + 0.2  # not those of the teacher
    mean, cov = (part.numpy() for part in mean_and_covariance(real))
    found = []
    for weight in (0.0, 30.0):
        student = ctm.CTM.for_data(world, ctm.networks.MLP(2, width=24))
        loss = Consistency(world, pool=512, levels=16) + weight * Frechet(real, batch=128, memory=512)
        ctm.train(student, world, loss, steps=300, batch=64, seed=0)
        found.append(distance(ctm.sample(student, 4000, seed=2).numpy(), mean, cov))
    assert found[1] < 0.1 * found[0]


def test_a_run_goes_on_where_it_stopped():
    data = Points(torch.randn(64, 3, generator=generator()))

    def begun():
        student = ctm.CTM.for_data(data, ctm.networks.MLP(3, width=16))
        return State(student, data, ctm.Denoising() + 0.5 * Frechet(data.rows, batch=4, memory=16), 9, batch=8)

    whole, first, second = begun(), begun(), begun()
    for _ in range(4):
        first.step()
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()}, 4)
    for state, steps in ((whole, 9), (second, 5)):
        for _ in range(steps):
            state.step()
    ends = [state.state_dict() for state in (whole, second)]
    assert any("1.0" in key for key in ends[0])
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_a_resumed_run_knows_its_data_and_features():
    x = torch.randn(30, 3, generator=generator())
    student = ctm.CTM.for_data(Points(x))
    probes = [
        Frechet(real, looks).probe(student, x[:2], None)
        for real, looks in ((x, None), (2 * x, None), (x, lambda points: [points**2]))
    ]
    assert probes[0] != probes[1] != probes[2] != probes[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Frechet(x[:1]), "real must have two points or more, got 1"),
        (lambda x: Frechet(x, batch=0), "batch"),
        (lambda x: Frechet(x, batch=8, memory=4), "memory"),
        (lambda x: Frechet(x, lambda points: [points[0]]), r"features must return tensors \(9, d\), got \(3,\)"),
        (
            lambda x: Frechet(x, lambda points: [points[:, :, None]]),
            r"features must return tensors \(9, d\), got \(9, 3, 1\)",
        ),
        (lambda x: Frechet(x / 0), "real must be finite"),
        (lambda x: Frechet(0 * x), "features must not be constant over real"),
        (lambda x: Frechet(x).load_state_dict({"0": torch.zeros(4, 3)}), r"the features kept must be .*1024"),
        (lambda x: Frechet(x).load_state_dict({"1": torch.zeros(1024, 3)}), "the features kept"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(torch.randn(9, 3, generator=generator()))


def test_features_must_be_callable():
    with pytest.raises(TypeError, match="features must be callable, got int"):
        Frechet(torch.randn(9, 3, generator=generator()), 3)
