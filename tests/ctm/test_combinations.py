"""Features used together, and data at the edges: each case once gave a wrong result or an error that named nothing."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import generator
from pretend import DEVICE, pretended

import ctm
from ctm import fidelity, networks
from ctm.closed_forms import AffineMap
from ctm.editing import LinearConstraint, accept, constrained_sampling, inpainting
from ctm.losses import (
    Adversarial,
    Consistency,
    Denoising,
    Draw,
    Frechet,
    Lagrangian,
    Models,
    Semigroup,
    Then,
    stable_target,
)
from ctm.parametrisations import Parametrised
from ctm.training import State
from ctm.two_samples import classifier_test, copy_test, nearest

RING = ctm.data.ring()


def narrow(**options):
    return networks.MLP(2, width=16, layers=2, **options)


def model(**options):
    return ctm.CTM(narrow(**options), RING.sigma_data)


# --- far from 0


class Moved:
    """The ring, elsewhere."""

    def __init__(self, by):
        self.by, self.shape, self.sigma_data, self.center = by, (2,), RING.sigma_data, by * torch.ones(2)

    def sample(self, n, *, generator=None):
        return RING.sample(n, generator=generator) + self.by


def test_a_stable_target_far_from_0():
    g = generator()
    x0, noise, references = (torch.randn((n, 2), generator=g) for n in (500, 500, 256))
    t = torch.full((500, 1), 0.02)
    x0, references = x0 + 500, references + 500
    xt = x0 + t * noise
    exact = stable_target(*(part.double() for part in (xt, t, x0, references)))
    found = stable_target(xt, t, x0, references, center=torch.full((2,), 500.0))
    assert (found.double() - exact).abs().max() < 1e-3
    assert (stable_target(xt, t, x0, references).double() - exact).abs().max() > 0.01


@pytest.mark.parametrize(
    "term", [ctm.Denoising(64), ctm.losses.Semigroup(references=64), ctm.losses.Eulerian(references=64)], ids=repr
)
def test_references_far_from_0(term):
    losses = []
    for by in (0.0, 64.0):
        data = Moved(by)
        losses.append(ctm.train(ctm.CTM.for_data(data, narrow()), data, term, 8, batch=64).loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_discriminator_sees_points_about_their_mean():
    losses = []
    for by in (0.0, 128.0):
        data = Moved(by)
        teacher = ctm.CTM.for_data(data, narrow(seed=1)).requires_grad_(False)
        loss = ctm.Consistency(teacher, pool=64, levels=8) + ctm.Adversarial(start=0.0)
        losses.append(ctm.train(ctm.CTM.for_data(data, narrow()), data, loss, 8, batch=64).loss)
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_a_constraint_is_met_where_the_data_lie():
    known, found = inpainting(torch.tensor([True, False])), []
    for far in (0.0, 100.0):
        world = ctm.GaussianMixture(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]) + far, 0.2)
        y = torch.full((50, 1), 0.05 + far, dtype=torch.float64)
        found.append(constrained_sampling(world, known, y, [20.0, 1.0], generator=generator()) - far)
    assert torch.allclose(*found, atol=1e-6)


# --- other dtypes and devices


@pytest.mark.parametrize("data", [ctm.GaussianMixture([[1000.0, 0.0], [1001.0, 0.0]], 0.1), RING], ids=["far", "ring"])
def test_an_adversarial_term_of_any_dtype(data):
    student = ctm.CTM.for_data(data, narrow()).double()
    loss = ctm.Consistency(data, pool=32, levels=4) + ctm.Adversarial(start=0.0)
    assert all(map(math.isfinite, ctm.train(student, data, loss, 2, batch=8).loss))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_score_and_velocity_in_half_precision(dtype):
    model = ctm.CTM(narrow(), 0.5)
    x = torch.randn((200, 2), generator=generator()).to(dtype)
    for field in (model.score, model.velocity):
        exact, found = field(x.double(), 0.002), field(x, 0.002)
        assert found.dtype == dtype
        assert (found.double() - exact).norm() < 0.01 * exact.norm()


def test_rejection_in_half_precision():
    log_ratio = torch.full((200_000,), -8.0, dtype=torch.bfloat16)
    kept = accept(log_ratio, 0.0, generator=generator()).double().mean().item()
    assert kept == pytest.approx(math.exp(-8), rel=0.5)


def test_a_measurement_of_another_dtype():
    known, y = LinearConstraint([[1.0, 0.0]]), torch.zeros(1, dtype=torch.float64)
    assert known.lift(torch.zeros(3, 1), y).dtype == torch.float32
    assert known.project(torch.zeros(3, 2), y).dtype == torch.float32


def test_a_classifier_is_trained_where_its_data_are():
    data = ctm.data.Points(torch.randn((40, 8, 8), generator=generator()), torch.arange(40) % 2)
    with pretended():
        there = fidelity.Classifier.trained(data.to(DEVICE), steps=2)
        found = [weights.cpu() for weights in there.parameters()]
    here = fidelity.Classifier.trained(data, steps=2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, here.parameters(), strict=True))


def test_images_move_by_an_eighth_of_the_shorter_side(monkeypatch):
    most, data = [], ctm.data.Points(torch.randn((40, 8, 64), generator=generator()), torch.arange(40) % 2)
    monkeypatch.setattr(fidelity, "shifted", lambda x, by, rng: most.append(by) or x)
    fidelity.Classifier.trained(data, steps=1)
    assert most == [1]


# --- gradients


def test_gradients_of_a_denoiser_by_its_slope():
    """With the structures of a CTM both are one function; so are their gradients in the point and in a weight."""
    network = narrow(seed=3).double()
    found = []
    for model in (ctm.CTM(network, 0.5), Parametrised(network, 0.5, "euler", "edm")):
        x = torch.randn((5, 2), generator=generator(), dtype=torch.float64).requires_grad_()
        clean, latent = model.denoiser(x, 1.0), ctm.likelihood.encode(model, x, 1.0, steps=4)
        values = (clean.sum(), x), (model.score(x, 1.0).sum(), x), (latent.sum(), x), (clean.sum(), network.body[0].weight)
        found.append([torch.autograd.grad(value, of, retain_graph=True)[0] for value, of in values])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs)


def test_denoising_trains_other_structures():
    model = Parametrised(narrow(), RING.sigma_data, "variance", "edm")
    losses = ctm.train(model, RING, ctm.Denoising(64), 100, batch=64).loss
    assert losses[-1] < losses[0] / 2


# --- what data and settings say


def test_for_data_takes_what_the_data_say_and_measures_the_rest():
    class Says:
        shape, sigma_data = (2,), 0.5

        def sample(self, n, *, generator=None):
            return 3 + 0.2 * torch.randn((n, 2), generator=generator)

    model = ctm.CTM.for_data(Says())
    assert model.sigma_data == 0.5
    assert torch.allclose(model.center, torch.full((2,), 3.0, dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize("name", ["center", "shift", "scale"])
@pytest.mark.parametrize("value", [torch.ones(3), torch.ones(3, 1), math.nan, "a", torch.tensor([1.0, math.inf])], ids=repr)
def test_units_are_checked(name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name} must"):
        ctm.CTM(narrow(), 0.5, shape=(2,), **{name: value})


def test_as_many_strengths_as_points():
    model = ctm.ConditionalCTM(narrow(conditions=4), 1.0)
    with pytest.raises(ValueError, match="condition holds 3 values, w 2"):
        model.given(torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="w holds 5 values, x 1 points"):
        ctm.GuidedModel(model).given(1, torch.arange(5.0)).denoiser(torch.zeros(1, 2), 1.0)


@pytest.mark.parametrize("strengths", [2.0, (1.0,), (1.0, 2.0, 3.0), "12"])
def test_strengths_are_a_range(strengths):
    with pytest.raises(TypeError, match="strengths must be two numbers"):
        ctm.Guided(ctm.data.half_rings(), strengths)


def test_each_class_has_some_weight():
    with pytest.raises(ValueError, match="weights must give each class some"):
        ctm.LabelledMixture([[0.0, 0.0], [1.0, 1.0]], 0.1, [0, 1], [1.0, 0.0])


def test_an_unknown_structure_is_named():
    with pytest.raises(ValueError, match="outer must be one of"):
        Parametrised(narrow(), 0.5, "foo", "edm")
    with pytest.raises(ValueError, match="inner must be one of"):
        Parametrised(narrow(), 0.5, "euler", None)


def test_a_kind_of_model_has_a_name_of_its_own():
    with pytest.raises(ValueError, match=r"ctm\.models has CTM"):
        type("CTM", (ctm.CTM,), {})
    assert ctm.models.MODELS["CTM"] is ctm.CTM


def test_a_table_of_measurements_is_refused():
    with pytest.raises(ValueError, match=r"y must have shape \(1,\), got \(8, 1\)"):
        LinearConstraint([[1.0, 0.0]]).conditional(RING, torch.zeros(8, 1))


# --- copies


def test_a_copy_is_at_no_distance():
    rows = 50 * torch.randn((300, 784), generator=generator(), dtype=torch.float64)
    assert nearest(rows, rows).max() == 0
    samples, held = (rows[torch.randint(300, (n,), generator=generator(n))] for n in (300, 7))
    assert copy_test(samples, rows, held).value == 0.5


def test_the_seed_of_a_classifier_is_named():
    x = torch.zeros((8, 2))
    with pytest.raises(ValueError, match="seed must lie in"):
        classifier_test(x, x, seed=2**32)


# --- terms together, and one after another


def test_terms_that_learn_through_the_target_stand_in_one_sum():
    """The loss of Kim et al. (2024): both parts jump with the target, which stays as it is until the step is made."""
    loss = Consistency(RING, "soft", "x0", pool=32, levels=8) + Semigroup() + Adversarial(start=0.0, width=8)
    state = State(model(), RING, loss, 9, batch=16)
    for _ in range(2):
        state.step()
        pairs = zip(state.models.target.parameters(), state.models.student.parameters(), strict=True)
        assert all(torch.equal(held, own) for held, own in pairs)


def test_a_resumed_run_has_its_target():
    runs = [State(model(seed=k), RING, Denoising(8), 9, batch=16) for k in range(2)]
    runs[0].step()
    runs[1].load_state_dict(runs[0].state_dict(), 1)
    held, own = runs[1].models.target.parameters(), runs[0].models.student.parameters()
    assert all(torch.equal(a, b) for a, b in zip(held, own, strict=True))


@pytest.mark.parametrize(
    "term",
    [
        Consistency(RING, pool=64, levels=8),
        Denoising(8) + Frechet(RING.sample(50, generator=generator()), batch=8, memory=16),
        Then(Consistency(RING, pool=64, levels=8), Denoising(8), 0.9),
        Denoising(8) + Adversarial(start=0.0, width=8),
    ],
    ids=lambda term: repr(term)[:20],
)
def test_a_term_that_was_used_before_begins_anew(term):
    students = [model(), model()]
    for student in students:
        ctm.train(student, RING, term, 5, batch=16)
    assert torch.equal(students[0].last_layer, students[1].last_layer)


@pytest.mark.parametrize("low", [0.0011, 0.002, 1 / 900])
def test_a_level_that_is_sigma_min_itself_adds_no_noise(low):
    x, _ = Adversarial(noise=0.0).noised(ctm.CTM(narrow(), 0.5, low, 80.0), torch.zeros(64, 2), generator())
    assert x.isfinite().all()
    assert x.abs().max() < 1e-2 * low


def test_features_that_are_one_tensor_are_refused():
    term = Consistency(RING, to_data=1.0, pool=32, levels=8, features=torch.tanh)
    with pytest.raises(TypeError, match="features must return a list"):
        ctm.train(model(), RING, term, 1, batch=16)


@pytest.mark.parametrize("term", [lambda t: Consistency(t, pool=32, levels=8), Lagrangian])
def test_a_teacher_of_other_units_is_refused(term):
    x = RING.sample(200, generator=generator())
    one, other = ctm.data.Points(x), ctm.data.Points(torch.cat([x, 3 * x]))
    teacher, student = (ctm.CTM.for_data(data, narrow()) for data in (one, other))
    with pytest.raises(ValueError, match="teacher must be in the model's units"):
        ctm.train(student, other, term(teacher), 2, batch=8)


def test_an_adaptive_term_that_comes_first_is_refused_at_once():
    with pytest.raises(ValueError, match="adaptive must be False"):
        ctm.train(model(), RING, Adversarial(width=8) + Denoising(8), 1, batch=8)


def test_a_run_with_other_features_is_another():
    x = RING.sample(8, generator=generator())
    said = [Adversarial(features=f).probe(model(), x, None) for f in (lambda x: [x], lambda x: [x**2])]
    assert said[0] != said[1]


def test_what_is_kept_has_no_graph():
    layer, rng = torch.nn.Linear(2, 4), generator()
    term = Frechet(RING.sample(50, generator=rng), lambda x: [layer(x)], batch=8, memory=16)
    student = model()
    term(Models(student, 10), Draw(RING, student, 8, rng), rng)
    assert not any(f.requires_grad for f in term.kept)


def test_the_average_of_weights_in_half_precision(tmp_path):
    """A thousandth of a small step would be lost in bfloat16: the average moves as that of the same weights in float64."""
    student, file = model().bfloat16(), tmp_path / "run.safetensors"
    state = State(student, RING, Denoising(8), 400, batch=16)
    exact = copy.deepcopy(student).double()
    for _ in range(300):
        state.step()
        decay = min(0.999, (1 + state.done) / (10 + state.done))
        for average, own in zip(exact.parameters(), student.parameters(), strict=True):
            average.data.lerp_(own.detach().double(), 1 - decay)
    for average, own in zip(exact.parameters(), state.models.average.parameters(), strict=True):
        assert torch.allclose(average, own.double(), rtol=1e-3, atol=1e-4)
    whole = model().bfloat16()
    ctm.train(whole, RING, Denoising(8), 20, batch=16)
    parts = model().bfloat16()
    ctm.train(parts, RING, Denoising(8), 20, batch=16, checkpoint=file)
    again = model().bfloat16()
    ctm.train(again, RING, Denoising(8), 20, batch=16, checkpoint=file)
    ctm.train(again, RING, Denoising(8), 24, batch=16, checkpoint=file)  # holds its average, rounded
    assert torch.equal(whole.last_layer, parts.last_layer)
    assert ctm.load(file).dtype == torch.float32


# --- samples and worlds


def test_samples_far_from_the_origin_are_not_rounded_to_a_few():
    for offset in (0.0, 1e6):
        world = ctm.GaussianMixture([[offset - 0.5], [offset + 0.5]], 0.05)
        for flow_map in (world, ctm.CTM.for_data(world)):
            assert len(ctm.sample(flow_map, 200, 4).unique()) == 200


def test_a_first_jump_in_inference_mode_leaves_gradients_possible():
    world = ctm.data.one_gaussian()
    ctm.oracle._tables.cache_clear()
    with torch.inference_mode():
        world.G(torch.ones(1, 1), 1.0, 0.1)
    x = torch.ones((1, 1), requires_grad=True)
    (slope,) = torch.autograd.grad(world.G(x, 1.0, 0.1).sum(), x)
    variance = world.stds[0].item() ** 2
    assert slope.item() == pytest.approx(((variance + 0.01) / (variance + 1)) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("t", [torch.ones(5), -1.0, float("nan")], ids=repr)
def test_times_of_noised_points_are_checked(t):
    with pytest.raises(ValueError, match=r"^t must"):
        RING.noised(1, t, generator())


def test_a_mapping_is_no_table():
    with pytest.raises(TypeError, match="x must be a table or a data set"):
        ctm.data.Points({"a": [1.0, 2.0]})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_affine_map_in_half_precision(dtype):
    exact, x = AffineMap(2.0, 20.0), torch.tensor([[300.0], [-100.0]], dtype=dtype)
    for f in (lambda x: exact.G(x, 400.0, 0.08), lambda x: exact.denoiser(x, 300.0)):
        assert torch.allclose(f(x).double(), f(x.double()), rtol=torch.finfo(dtype).eps)


# --- one's own data


def test_a_model_of_images_gives_the_same_samples_when_loaded(tmp_path):
    x = 1e6 + 1e-3 * torch.randn((40, 5, 5), generator=generator(), dtype=torch.float64)
    made = ctm.CTM.for_data(ctm.data.Points(x))
    ctm.save(made, tmp_path / "model.safetensors")
    drawn = [ctm.sample(each, 9) for each in (made, ctm.load(tmp_path / "model.safetensors"))]
    assert drawn[0].dtype == drawn[1].dtype == torch.float64
    assert torch.equal(*drawn)


def test_a_data_frame_is_no_data():
    class Frame:
        __array__ = shift = scale = lambda self, dtype=None, copy=None: torch.eye(3).numpy()

        def sample(self, n): ...

    student = ctm.CTM.for_data(ctm.data.Points(torch.eye(3)))
    for use in (ctm.CTM.for_data, lambda data: ctm.train(student, data, steps=2), lambda data: ctm.doctor(student, data)):
        with pytest.raises(TypeError, match=r"data must have a method sample.*Points"):
            use(Frame())


def test_values_that_erase_the_others_are_refused():
    with pytest.raises(ValueError, match="no masked values, got 3"):
        ctm.data.Points([np.ma.masked_array([i, -999.0], [0, 1]) for i in range(3)])
    x = torch.randn((50, 2), generator=generator(), dtype=torch.float64)
    x[3, 1] = 1e20
    with pytest.raises(ValueError, match=r"column 1$"):
        ctm.data.Points(x)
    image, noise = (torch.rand((n, 4, 4), generator=generator(n), dtype=torch.float64) for n in (1, 9))
    with pytest.raises(ValueError, match="mean image"):
        ctm.data.Points(image + 1e-12 * noise)


def test_the_rows_of_a_class():
    x, label = ctm.data.half_rings().sample_labelled(50, generator=generator())
    data = ctm.data.Points(x, label)
    for c in (0, 1):
        part = data.of_class(c)
        assert torch.equal(part.rows, data.rows[label == c])
        assert torch.equal(part.shift, data.shift)
        assert not hasattr(part, "sample_labelled")
    with pytest.raises(ValueError, match="label must lie in"):
        data.of_class(2)
    with pytest.raises(ValueError, match="no labels were given"):
        ctm.data.Points(x).of_class(0)


def test_a_classifier_takes_its_own_images_alone():
    classifier, x = fidelity.Classifier((8, 8), 3), torch.randn((10, 8, 8), generator=generator(), dtype=torch.float64)
    assert torch.equal(classifier.features(x), classifier.features(x.float()))
    for wrong in (torch.zeros(10, 16, 16), torch.zeros(5, 3, 8, 8)):
        for use in (classifier.features, classifier.depths, classifier):
            with pytest.raises(ValueError, match=r"x must have shape \(n, 8, 8\)"):
                use(wrong)
    with pytest.raises(ValueError, match=r"labels must have shape \(10,\), got \(10, 1\)"):
        classifier.accuracy(x, torch.zeros(10, 1))


def test_values_that_are_many_but_not_far_out_are_taken():
    g = generator()
    turn = torch.linalg.qr(torch.randn((3, 3), generator=g, dtype=torch.float64))[0]
    bits = torch.randint(2, (5000, 1), generator=g).double()
    x = torch.cat([bits, torch.randn((5000, 2), generator=g, dtype=torch.float64)], 1)
    assert len(ctm.data.Points((x @ turn) @ turn.T)) == 5000  # zeros and ones but for rounding


def test_a_part_without_rows_of_a_class():
    data = ctm.data.Points(torch.randn((6, 2), generator=generator()), [0, 0, 0, 0, 0, 1])
    without = next(part for part in data.split(3) if not (part.labels == 1).any())
    with pytest.raises(ValueError, match="label must be a class with points"):
        without.of_class(1)


def test_units_by_channel(tmp_path):
    network = networks.UNet((3, 8, 8), width=8)
    made = ctm.CTM(network, 0.5, shape=(3, 8, 8), shift=5 * torch.ones(3, 1, 1), scale=2 * torch.ones(3, 1, 1))
    ctm.save(made, tmp_path / "model.safetensors")
    again = ctm.load(tmp_path / "model.safetensors")
    assert again.shift.shape == (3, 1, 1)
    assert torch.equal(again.restore(torch.ones(2, 3, 8, 8)), torch.full((2, 3, 8, 8), 7.0, dtype=torch.float64))


def test_a_teacher_with_a_shift_of_another_meaning():
    class Shifted:
        shift = 3.0  # of its own noise levels

        def denoiser(self, x, t):
            return RING.denoiser(x, t)

    ctm.train(model(), RING, Consistency(Shifted(), pool=32, levels=8), 2, batch=8)


def test_noise_for_a_map_that_names_no_spread():
    class Still(ctm.FlowMap):
        sigma_min, sigma_max, shape = 0.1, 1.0, (2,)

        def G(self, x, t, s):
            return x

        def denoiser(self, x, t):
            return x

    assert ctm.samplers.noise(Still(), 3).shape == (3, 2)
