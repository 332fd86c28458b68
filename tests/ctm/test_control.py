"""Classes, guidance and edits: each against a closed form, a difference quotient or another route."""

import math

import numpy as np
import pytest
import torch
from helpers import AffineMap, generator, noised
from scipy import stats

import ctm
from ctm.conditional import ConditionalCTM, Guided, GuidedModel
from ctm.editing import (
    LinearConstraint,
    accept,
    colourisation,
    constrained_sampling,
    inpainting,
    partial_noise,
    superresolution,
)

RINGS = ctm.data.half_rings()
UNEVEN = ctm.LabelledMixture([[-1.0], [0.2], [1.5]], [0.4, 0.3, 0.5], [0, 1, 0], [0.2, 0.5, 0.3])


def conditional(seed=0, **network):
    return ConditionalCTM(ctm.networks.MLP(2, width=16, layers=2, seed=seed, conditions=3, **network), RINGS.sigma_data)


def cdf_of(world):
    """The distribution function of a 1-D world."""
    w, m, c = (part.numpy() for part in (world.weights, world.means[:, 0], world.stds))
    return lambda x: stats.norm.cdf(np.asarray(x)[:, None], m, c) @ w


# --- labelled worlds


def test_classes_add_up_to_the_whole_and_bayes_holds():
    x = noised(UNEVEN, 0.5)
    shares = torch.stack([UNEVEN.weights[c == UNEVEN.labels].sum() for c in (0, 1)])
    parts = torch.stack([UNEVEN.of_class(c).log_prob(x, 0.5) for c in (0, 1)], 1) + shares.log()
    assert torch.allclose(parts.logsumexp(1), UNEVEN.log_prob(x, 0.5))
    assert torch.allclose(parts.softmax(1), UNEVEN.class_probabilities(x, 0.5))


def test_points_and_labels_are_drawn_together():
    x, label = UNEVEN.sample_labelled(20_000, generator=generator())
    assert label.float().mean().item() == pytest.approx(0.5, abs=0.015)
    for c in (0, 1):
        world = UNEVEN.of_class(c)
        assert stats.kstest(x[label == c, 0].numpy(), cdf_of(world)).pvalue > 0.005


def test_a_class_has_the_noise_levels_of_the_whole():
    world = RINGS.of_class(1)
    assert (world.sigma_data, world.sigma_min, world.sigma_max) == (RINGS.sigma_data, RINGS.sigma_min, RINGS.sigma_max)


@pytest.mark.slow
def test_strength_0_is_the_whole_1_the_class_and_none_the_whole():
    x = noised(RINGS, 0.7)
    for label, w, world in ((1, 1.0, RINGS.of_class(1)), (1, 0.0, RINGS), (None, 3.0, RINGS)):
        guided = RINGS.given(label, w)
        assert torch.allclose(guided.denoiser(x, 0.7), world.denoiser(x, 0.7), atol=1e-12)
        assert torch.allclose(guided.G(x, 0.7, 0.01), world.G(x, 0.7, 0.01), atol=1e-7)


def test_the_guided_denoiser_is_the_formula():
    x, label, w = noised(RINGS, 0.7), torch.arange(64) % 3 - 1, torch.linspace(0, 5, 64)
    exact = RINGS.given(label, w).denoiser(x, 0.7)
    assert torch.allclose(exact, GuidedModel(RINGS).given(label, w).denoiser(x, 0.7), atol=1e-6)
    whole, first, second = RINGS.denoiser(x, 0.7), *(RINGS.of_class(c).denoiser(x, 0.7) for c in (0, 1))
    for i, own in ((0, whole), (1, first), (2, second)):
        by_hand = whole[i::3] + w[i::3, None] * (own[i::3] - whole[i::3])
        assert torch.allclose(exact[i::3], by_hand, atol=1e-6)


def test_the_guided_score_is_the_gradient_of_the_tilted_noised_density():
    x = noised(UNEVEN, 0.6).requires_grad_()
    own = UNEVEN.of_class(0)

    def log_p(world):
        scaled = (x - world.means[:, 0]) / (world.stds**2 + 0.36).sqrt()
        return (world.weights.log() - (world.stds**2 + 0.36).sqrt().log() - scaled**2 / 2).logsumexp(1)

    tilted = log_p(UNEVEN) + 2.5 * (log_p(own) - log_p(UNEVEN))
    gradient = torch.autograd.grad(tilted.sum(), x)[0]
    assert torch.allclose(UNEVEN.given(0, 2.5).score(x.detach(), 0.6), gradient, atol=1e-9)


@pytest.mark.slow
def test_the_guided_flow_map_solves_its_ode_for_every_sample():
    x = noised(RINGS, 3.0, n=6)
    label, w = torch.tensor([0, 1, -1, 0, 1, 1]), torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5, 2.5])
    guided = RINGS.given(label, w)
    end = guided.G(x, 3.0, 0.05)
    for i in range(6):  # alone, and by many small Heun steps
        alone = RINGS.given(int(label[i]), float(w[i]))
        assert torch.allclose(alone.G(x[i : i + 1], 3.0, 0.05), end[i : i + 1], atol=1e-7)
    times = ctm.noise.karras_times(2000, 0.05, 3.0)
    assert torch.allclose(ctm.samplers.heun(guided, x, times), end, atol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_a_guided_world_in_another_unit_of_length(size):
    scaled = ctm.LabelledMixture(size * UNEVEN.means, size * UNEVEN.stds, UNEVEN.labels, UNEVEN.weights)
    x = noised(UNEVEN, 3.0)
    end = scaled.given(0, 2.5).G(size * x, size * 3.0, size * 0.01) / size
    assert torch.allclose(end, UNEVEN.given(0, 2.5).G(x, 3.0, 0.01), rtol=1e-7, atol=1e-7)


# --- conditional models


def test_a_model_given_a_condition_is_a_flow_map_over_the_same_weights():
    model, x = conditional(), torch.randn(5, 2)
    label, w = torch.tensor([0, 1, -1, 1, 0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 1.0])
    bound = model.given(label, w)
    assert {p.data_ptr() for p in bound.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert torch.equal(bound.G(x, 2.0, 2.0), x)
    for i in range(5):
        one = model.given(int(label[i]), float(w[i])).G(x[i : i + 1], 3.0, 0.1)
        assert torch.allclose(bound.G(x, 3.0, 0.1)[i : i + 1], one, atol=1e-6)
    assert torch.equal(model.given(None, 3.0).G(x, 3.0, 0.1), model.G(x, 3.0, 0.1))
    assert not torch.allclose(model.given(0, 1.0).G(x, 3.0, 0.1), model.given(0, 2.0).G(x, 3.0, 0.1))


def test_the_condition_enters_the_first_layer_as_said():
    network = ctm.networks.MLP(2, width=8, layers=1, conditions=3)
    x, tau = torch.randn(4, 2), torch.zeros(4)
    condition = torch.tensor([[1.0, 0.0, 0.5]])
    first = network.body[0]
    plain = ctm.networks.MLP(2, width=8, layers=1)
    plain.body[0].weight.data = first.weight[:, :-3].detach()
    plain.body[0].bias.data = (first.bias + first.weight[:, -3:] @ condition[0]).detach()
    plain.body[2].load_state_dict(network.body[2].state_dict())
    assert torch.allclose(network(x, tau, tau, condition), plain(x, tau, tau), atol=1e-6)


@pytest.mark.slow
def test_training_teaches_the_class_and_the_strength():
    model = ConditionalCTM(ctm.networks.MLP(2, width=48, layers=3, conditions=3), RINGS.sigma_data)
    objective = ctm.Consistency(RINGS, pool=1024, levels=24)
    history = ctm.train(model, Guided(RINGS, (1.0, 4.0), 0.2), objective, steps=500, batch=256)
    assert history.loss[-1] < history.loss[0] / 5
    x = 10.0 * torch.randn(200, 2, generator=generator())
    for label, w in ((0, 1.0), (1, 4.0), (None, 1.0)):
        exact = RINGS.given(label, w).G(x, 10.0, 0.002)
        right = (model.given(label, w).G(x, 10.0, 0.002) - exact).square().mean()
        for other in ((1, 1.0), (0, 1.0), (0, 4.0)):
            wrong = (model.given(*other).G(x, 10.0, 0.002) - exact).square().mean()
            assert other == (label, w) or right < wrong / 2


def test_training_is_the_same_for_the_same_seed():
    runs = []
    for seed in (0, 0, 1):
        model = conditional()
        ctm.train(model, RINGS, ctm.Consistency(RINGS, pool=64, levels=8), steps=5, seed=seed, batch=32)
        runs.append(model.last_layer.clone())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_guided_data_hide_labels_and_draw_strengths():
    data = Guided(RINGS, (1.5, 4.0), 0.3)
    x, table = data.sample_conditioned(10_000, generator=generator())
    label, w = table.T
    assert (label < 0).float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert stats.kstest(w.numpy(), stats.uniform(1.5, 2.5).cdf).pvalue > 0.005
    # the label is that of the point, where it is not hidden: half a ring each
    shown = label >= 0
    near = RINGS.class_probabilities(x[shown]).argmax(1)
    assert (near == label[shown]).float().mean() > 0.99
    assert torch.equal(data.sample_labelled(9, generator=generator(1))[0], RINGS.sample(9, generator=generator(1)))
    assert (data.classes, data.sigma_data) == (2, RINGS.sigma_data)
    hidden = Guided(RINGS, drop=1.0).sample_labelled(50, generator=generator())[1]
    assert bool((hidden == -1).all())
    plain = Guided(RINGS).sample_conditioned(50, generator=generator())[1]  # nothing hidden, w = 1
    assert bool((plain[:, 0] >= 0).all())
    assert bool((plain[:, 1] == 1).all())
    with pytest.raises(AttributeError, match="Guided has no attribute colour"):
        _ = data.colour


def test_a_table_of_classes_and_strengths_is_the_same_as_both_apart():
    x, label, w = noised(RINGS, 0.7, dtype=torch.float32), torch.arange(64) % 3 - 1, torch.linspace(0, 5, 64)
    table = torch.stack([label.float(), w], 1)
    for thing in (RINGS, conditional(), GuidedModel(RINGS), GuidedModel(conditional())):
        apart, together = thing.given(label, w), thing.given(table)
        assert torch.equal(apart.denoiser(x, 0.7), together.denoiser(x, 0.7))


def test_guidance_of_a_learned_model_is_the_formula():
    model, x, w = conditional(), noised(RINGS, 0.7, dtype=torch.float32), torch.linspace(0, 5, 64)
    label = torch.arange(64) % 2
    whole, own = model.given(None).denoiser(x, 0.7), model.given(label).denoiser(x, 0.7)
    guided = GuidedModel(model).given(label, w).denoiser(x, 0.7)
    assert torch.allclose(guided, whole + w[:, None] * (own - whole), atol=1e-6)
    assert torch.allclose(GuidedModel(model).given(label).denoiser(x, 0.7), own, atol=1e-6)  # w = 1 if not said


def test_a_guided_model_is_a_teacher():
    student, model = conditional(), conditional(seed=3).requires_grad_(False)
    data, g = Guided(RINGS, (1.0, 4.0), 0.2), generator()
    term = ctm.Consistency(GuidedModel(model), pool=0, levels=8, step=ctm.solvers.euler_step)
    models, draw = ctm.losses.Models(student, 1), ctm.losses.Draw(data, student, 16, g)
    (xt, t, xu, u, _), table = term.pairs(models, draw, g)
    label, w = table[:, 0].long(), table[:, 1:]
    whole, own = model.given(None).denoiser(xt, t), model.given(label).denoiser(xt, t)
    aim = whole + w * (own - whole)
    assert torch.allclose(xu, u / t * xt + (1 - u / t) * aim, rtol=1e-4, atol=1e-5)
    assert len(ctm.train(student, data, term, 3, batch=16).loss) == 3


@pytest.mark.slow
def test_a_conditional_denoiser_is_learned_by_score_matching():
    model = ConditionalCTM(ctm.networks.MLP(2, width=48, layers=3, conditions=3), RINGS.sigma_data)
    ctm.train(model, Guided(RINGS, drop=0.3), ctm.Denoising(), steps=600, batch=512)
    x = noised(RINGS, 0.6, n=2000, dtype=torch.float32)
    exact = {label: RINGS.given(label).denoiser(x, 0.6) for label in (0, 1, None)}
    for label in exact:
        learned = model.given(label).denoiser(x, 0.6)
        far = {other: (learned - theirs).square().mean().sqrt().item() for other, theirs in exact.items()}
        assert all(far[label] < far[other] / 2 for other in exact if other is not label), far


# --- linear constraints


def constraints():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    return {
        "inpainting": inpainting(mask),
        "superresolution": superresolution(4, 2),
        "colourisation": colourisation((4,), 3),
    }


@pytest.mark.parametrize("name", constraints())
def test_projection_meets_the_constraint_is_idempotent_and_moves_least(name):
    constraint = constraints()[name]
    x = torch.randn(7, *constraint.shape, generator=generator(), dtype=torch.float64)
    y = torch.randn(7, len(constraint.matrix), generator=generator(1), dtype=torch.float64)
    near = constraint.project(x, y)
    assert torch.allclose(constraint.measure(near), y, atol=1e-12)
    assert torch.allclose(constraint.project(near, y), near, atol=1e-12)
    moved = (near - x).reshape(7, -1)
    assert torch.allclose(
        moved @ constraint.plane.T, torch.zeros(1, dtype=torch.float64), atol=1e-12
    )  # orthogonal to the plane
    inverse = np.linalg.pinv(constraint.matrix.numpy())
    assert np.allclose(inverse, constraint.matrix.T.numpy())


def test_what_each_constraint_measures():
    image = torch.arange(16.0).reshape(1, 4, 4)
    assert torch.equal(constraints()["inpainting"].measure(image), torch.arange(8.0)[None])
    means = torch.nn.functional.avg_pool2d(image, 2).flatten()
    assert torch.allclose(constraints()["superresolution"].measure(image)[0], 2 * means)
    colour = torch.arange(12.0).reshape(1, 3, 4)
    assert torch.allclose(constraints()["colourisation"].measure(colour)[0], math.sqrt(3) * colour.mean(1)[0])


def test_the_exact_conditional_agrees_with_a_strip_of_samples():
    world = ctm.data.pinwheel()
    constraint = LinearConstraint([[0.6, 0.8]])
    y = torch.tensor([0.15])
    x = world.sample(2_000_000, generator=generator(), dtype=torch.float64)
    strip = x[(constraint.measure(x)[:, 0] - y).abs() < 0.004]
    z = strip @ constraint.plane.T
    exact = constraint.conditional(world, y)

    assert len(z) > 3000
    assert stats.kstest(z[:, 0].numpy(), cdf_of(exact)).pvalue > 0.005
    lifted = constraint.lift(z, constraint.measure(strip))
    assert torch.allclose(lifted, strip, atol=1e-12)


@pytest.mark.slow
def test_constrained_samples_meet_the_constraint_and_settle_on_the_conditional():
    world = ctm.GaussianMixture([[0.0, 0.0], [0.6, 0.2]], [0.3, 0.3])  # one heap: nothing to cross
    constraint = LinearConstraint([[0.6, 0.8]])
    y = torch.full((1500, 1), 0.2)
    times = [2.0, 0.6, 0.3, 0.2, 0.12]
    x = constrained_sampling(world, constraint, y, times, 12, generator=generator())
    assert torch.allclose(constraint.measure(x), y, atol=1e-6)
    exact = constraint.conditional(world, y[0])
    z = x.double() @ constraint.plane.T
    truth = exact.sample(100_000, generator=generator(1))
    assert z.mean().item() == pytest.approx(truth.mean().item(), abs=0.04)
    assert z.std().item() == pytest.approx(truth.std().item(), rel=0.07)


def test_a_small_round_is_a_langevin_step():
    r"""G(x + t eps, t, 0) = x + t eps + t^2/2 * score + o(t^2): half a squared step along the score, and the noise."""
    world = ctm.data.two_moons()
    x = world.sample(200, generator=generator(), dtype=torch.float64)
    ratios = []
    for t in (0.008, 0.004, 0.002):
        eps = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
        step = x + t * eps + t**2 / 2 * world.score(x, 0.0)
        ratios.append(((world.G(x + t * eps, t, 0.0) - step).square().mean().sqrt() / t**2).item())
    assert ratios[0] > 1.8 * ratios[1] > 3.2 * ratios[2] > 0  # an error of third order


# --- partial noise and rejection


def test_partial_noise_starts_at_the_noised_guide_and_keeps_the_law_of_data():
    world = ctm.data.two_gaussians()
    data = world.sample(4000, generator=generator(), dtype=torch.float64)
    edited = partial_noise(world, data, [1.0, world.sigma_min], generator=generator(1))
    noise = torch.randn(data.shape, generator=generator(1), dtype=torch.float64)
    assert torch.allclose(edited, world.G(data + noise, 1.0, world.sigma_min))
    assert stats.ks_2samp(edited[:, 0].numpy(), data[:, 0].numpy()).pvalue > 0.005  # data stay data


def test_rejection_turns_one_density_into_the_other():
    x = torch.randn(100_000, generator=generator(), dtype=torch.float64) * 2
    log_ratio = -((x - 1) ** 2) / 2 + x**2 / 8  # N(1, 1) over N(0, 4), up to a constant
    bound = 1 / 6  # at x = 4/3
    keep = accept(log_ratio, bound, generator=generator(1))
    assert stats.kstest(x[keep].numpy(), stats.norm(1).cdf).pvalue > 0.005
    share = math.exp(-bound) / 2  # the integral of q r / M
    assert keep.double().mean().item() == pytest.approx(share, abs=0.006)
    assert accept(log_ratio, generator=generator(1)).double().mean().item() == pytest.approx(share, abs=0.01)


CALLS = {
    "labels of another length": (ValueError, "labels must have shape", lambda: ctm.LabelledMixture([[0.0]], 1.0, [0, 1])),
    "a class left out": (ValueError, "labels must use every class", lambda: ctm.LabelledMixture([[0.0]], 1.0, [1])),
    "no such class": (ValueError, r"condition must be a class in \[0, 1\]", lambda: RINGS.given(2)),
    "label is a float": (TypeError, "condition must be whole", lambda: RINGS.given(0.5)),
    "w negative": (ValueError, "w must be finite and not negative", lambda: RINGS.given(0, -1.0)),
    "w is NaN": (ValueError, "w must be finite", lambda: conditional().given(0, math.nan)),
    "labels for other points": (
        ValueError,
        "condition holds 3 values, x 4",
        lambda: RINGS.given(torch.tensor([0, 1, 0])).denoiser(torch.zeros(4, 2), 1.0),
    ),
    "s above t": (ValueError, "s must not exceed t", lambda: RINGS.given(0).G(torch.zeros(4, 2), 1.0, 2.0)),
    "no conditions": (ValueError, "network must have conditions", lambda: ConditionalCTM(ctm.networks.MLP(2), 0.5)),
    "plain data": (
        TypeError,
        "data must have a method sample_labelled, got GaussianMixture",
        lambda: Guided(ctm.data.ring()),
    ),
    "drop above 1": (ValueError, "drop must lie in", lambda: Guided(RINGS, drop=2)),
    "strengths reversed": (ValueError, "strengths", lambda: Guided(RINGS, (2.0, 1.0))),
    "strength negative": (ValueError, "strengths", lambda: Guided(RINGS, (-1.0, 1.0))),
    "other classes": (
        ValueError,
        r"condition must be a class in \[0, 1\]",
        lambda: ctm.train(conditional(), ctm.data.digits(), ctm.Denoising(0), 1, batch=64),
    ),
    "rows not orthonormal": (ValueError, "orthonormal", lambda: LinearConstraint([[1.0, 1.0]])),
    "nothing left open": (ValueError, "0 < m < d", lambda: LinearConstraint([[1.0, 0.0], [0.0, 1.0]])),
    "another shape": (ValueError, "shape must hold", lambda: LinearConstraint([[1.0, 0.0]], (3,))),
    "block does not divide": (ValueError, "block must divide", lambda: superresolution(8, 3)),
    "a bound that is none": (ValueError, "not exceed log_bound", lambda: accept(torch.ones(3), 0.0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_input_is_named(name):
    error, message, call = CALLS[name]
    with pytest.raises(error, match=message):
        call()


def test_the_network_is_told_the_class_and_the_strength_less_one():
    told = conditional().given(torch.tensor([0, 1, -1]), torch.tensor([1.0, 2.5, 3.0])).network.condition
    assert torch.equal(told, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.5], [0.0, 0.0, 0.0]]))
    assert torch.equal(conditional().given(1, 3.0).network.condition, torch.tensor([[0.0, 1.0, 2.0]]))


@pytest.mark.parametrize(("size", "reuse", "every"), [(64, 2, 4), (32, 1, 1), (16, 1, 1)])
def test_a_pool_of_guided_trajectories_is_that_of_its_classes_and_strengths(size, reuse, every):
    term, pools = ctm.Consistency(RINGS, pool=size, reuse=reuse, levels=4, continuous=False), []
    state = ctm.training.State(conditional(), Guided(RINGS, (1.5, 4.0), 0.3), term, 20, batch=32)
    for _ in range(9):
        state.step()
        pools.append(term.trajectories.points)
    renewed = [not torch.equal(a, b) for a, b in zip(pools, pools[1:], strict=False)]
    assert renewed == [step % every == 0 for step in range(1, 9)]
    w = term.condition[:, 1]
    assert 1.5 <= w.min() < 2 < 3.5 < w.max() <= 4
    walked = ctm.samplers.heun(RINGS.given(term.condition), pools[-1][:, 0], term.trajectories.times[0])
    assert torch.allclose(walked, pools[-1][:, -1], atol=1e-4)


def test_constrained_sampling_recomputed():
    constraint, y = LinearConstraint([[0.6, 0.8]]), torch.full((5, 1), 0.2, dtype=torch.float64)
    g, across = generator(3), torch.tensor([0.6, 0.8], dtype=torch.float64)
    x = y * across
    for t in (2.0, 2.0, 0.7, 0.7, 0.1, 0.1):
        x = AffineMap().G(x + t * torch.randn(x.shape, generator=g, dtype=x.dtype), t, AffineMap.sigma_min)
        x = x + (y - (x @ across)[:, None]) * across
    found = constrained_sampling(AffineMap(), constraint, y, [2.0, 0.7, 0.1], 2, generator=generator(3))
    assert torch.allclose(found, x, atol=1e-12)
