"""Features used together, and data at the edges: each case once gave a wrong result or an error that named nothing."""

import math

import pytest
import torch
from helpers import generator
from pretend import DEVICE, pretended

import ctm
from ctm import fidelity, networks
from ctm.editing import LinearConstraint, accept, constrained_sampling, inpainting
from ctm.losses import stable_target
from ctm.parametrisations import Parametrised
from ctm.two_samples import classifier_test, copy_test, nearest

RING = ctm.data.ring()


def narrow(**options):
    return networks.MLP(2, width=16, layers=2, **options)


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
