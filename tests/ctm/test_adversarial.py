"""The adversarial term: its optima in closed form, its parts recomputed, and what it does to a biased student."""

import copy

import numpy as np
import pytest
import torch
from helpers import generator
from scipy import integrate, stats

import ctm
from ctm.losses import (
    Adversarial,
    Consistency,
    Draw,
    Models,
    adaptive_weight,
    draw_levels,
    grid_times,
    hinge_loss,
    r1_penalty,
)
from ctm.networks import Discriminator, FeatureDiscriminator, ImageDiscriminator
from ctm.training import State

A, B = stats.norm(0.0, 0.5), stats.norm(0.6, 0.5)


def column(x):
    return torch.as_tensor(x, dtype=torch.float64)[:, None]


def test_hinge_loss_recomputed():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 0.25])
    assert hinge_loss(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 1.25) / 3)


def test_the_best_hinge_discriminator_is_the_sign_and_its_loss_twice_the_overlap():
    grid = np.linspace(-4, 5, 20_001)
    p, q = A.pdf(grid), B.pdf(grid)

    def loss(d):
        return integrate.trapezoid(p * np.maximum(0, 1 - d) + q * np.maximum(0, 1 + d), grid)

    best = loss(np.sign(p - q))
    overlap = 2 * stats.norm.cdf(-0.6 / (2 * 0.5))  # of two normal densities 0.6 apart
    assert best == pytest.approx(2 * overlap, abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert loss(np.sign(p - q) + rng.normal() * np.cos(rng.normal() * grid)) > best - 1e-9


def test_r1_recomputed_by_difference_quotients():
    net = Discriminator(2, 0.5, width=16).double()
    x = torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    tau, h = torch.full((20, 1), 0.3, dtype=torch.float64), 1e-6
    with torch.no_grad():
        slopes = [(net(x + h * side, tau) - net(x - h * side, tau)) / (2 * h) for side in torch.eye(2).double()]
    expected = torch.stack(slopes).square().sum(0).mean() / 2
    penalty = r1_penalty(net, x, tau)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-6)
    penalty.backward()  # it can be trained
    assert net.body[0].weight.grad.abs().sum() > 0


def test_the_best_slope_under_r1():
    # least E_q[D] - E_p[D] + gamma/2 E_p[D'^2]: D' = (Q - P) / (gamma p), here by perturbing D
    grid, gamma = np.linspace(-2.5, 3.0, 40_001), 2.0
    p, q = A.pdf(grid), B.pdf(grid)
    slope = (B.cdf(grid) - A.cdf(grid)) / (gamma * p)
    best = integrate.cumulative_trapezoid(slope, grid, initial=0)

    def objective(d):
        return integrate.trapezoid((q - p) * d + gamma / 2 * p * np.gradient(d, grid) ** 2, grid)

    for k in (0.7, 1.3, 2.9):
        bump = np.cos(k * grid) * np.exp(-(grid**2))
        h = 1e-3
        assert objective(best + h * bump) > objective(best)
        assert (objective(best + h * bump) - objective(best - h * bump)) / (2 * h) == pytest.approx(0, abs=1e-4)


def test_the_gradient_of_the_log_ratio_is_the_difference_of_scores():
    p, q = ctm.data.three_gaussians(), ctm.data.two_gaussians()
    x = torch.linspace(-2, 2, 30, dtype=torch.float64)[:, None].requires_grad_(True)
    ratio = p.log_prob(x, 0.4) - q.log_prob(x, 0.4)
    gradient = torch.autograd.grad(ratio.sum(), x)[0]
    assert torch.allclose(gradient, p.score(x.detach(), 0.4) - q.score(x.detach(), 0.4), atol=1e-9)


def model(seed=0):
    return ctm.CTM(ctm.networks.MLP(2, width=16, layers=2, seed=seed), 0.5)


def test_points_are_noised_to_the_level_they_are_shown_with():
    student, g = model(), generator()
    noised, tau = Adversarial(noise=1.0).noised(student, torch.zeros(40_000, 2), g)
    expected = (tau**2 - student.sigma_min**2).sqrt()
    assert tau.min() >= student.sigma_min
    assert 0.45 < tau.max() <= 0.5
    scaled = noised / expected.clamp_min(1e-4)
    assert scaled[tau[:, 0] > 0.01].std().item() == pytest.approx(1.0, abs=0.02)
    still, level = Adversarial(noise=0.0).noised(student, torch.zeros(10, 2), g)
    assert still.abs().max() < 1e-2 * student.sigma_min  # float32 rounding of tau
    assert torch.allclose(level, torch.tensor(student.sigma_min))


def called(term, student, world, first=None, steps=10, step=0, seed=0):
    """The term's value as the last of a sum whose first term is ``first``."""
    g = generator(seed)
    models = Models(student, steps)
    models.step, models.first = step, first
    return term(models, Draw(world, student, 64, g), g)


@pytest.mark.slow
def test_the_adaptive_weight_makes_both_gradients_equally_long_up_to_its_limit():
    student, world = model(), ctm.data.ring()
    x = torch.randn(64, 2, generator=generator())
    first = (student.G(x, 1.0, 0.1) - x).square().mean()
    main = torch.autograd.grad(first, student.last_layer, retain_graph=True)[0].norm()
    for most in (1e6, 1e-3):
        loss = 0.5 * called(Adversarial(start=0.0, most=most, width=16), student, world, first)
        ours = torch.autograd.grad(loss, student.last_layer, retain_graph=True)[0].norm()
        plain = called(Adversarial(start=0.0, adaptive=False, width=16), student, world)
        if most > 1:
            assert ours.item() == pytest.approx(0.5 * main.item(), rel=1e-4)
            assert torch.allclose(loss, 0.5 * adaptive_weight(first, plain, student.last_layer) * plain, rtol=1e-4)
        else:
            assert ours < 0.1 * main
            assert torch.allclose(loss, 0.5 * most * plain, rtol=1e-4)


@pytest.mark.slow
def test_the_discriminator_learns_and_the_student_is_not_touched():
    student = model()
    before = copy.deepcopy(student.state_dict())
    term, g = Adversarial(noise=0.0, r1=0.0), generator(1)
    x0, fake = (centre + 0.05 * torch.randn(256, 2, generator=g) for centre in (0.5, -0.5))
    losses = [term.learn(student, x0, fake, g) for _ in range(300)]
    assert losses[0] == pytest.approx(2, abs=0.3)
    assert losses[-1] < 0.01  # far apart and without noise: it wins
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    noisy = Adversarial(noise=4.0, r1=0.0)
    late = [noisy.learn(student, x0, fake, g) for _ in range(300)][-20:]
    assert sum(late) / 20 > 0.05  # shown through noise it does not: the two laws overlap


def test_warm_up_and_estimates():
    world, term = ctm.data.ring(), Adversarial(start=0.5, width=8)
    objective = Consistency(world, pool=64, levels=8, reuse=2) + term
    state = State(model(), world, objective, 10, batch=32)
    for _ in range(5):
        state.step()
        assert term.state_dict() == {}  # no discriminator yet, and nothing of it in the loss
    state.step()
    first = {key: value.clone() for key, value in term.state_dict().items()}
    assert first
    state.step()
    assert not all(torch.equal(value, first[key]) for key, value in term.state_dict().items())
    fake, _ = term.estimates(state.models, state.draw, state.rng)
    assert fake.shape == (32, 2)
    assert fake.requires_grad
    assert all(not weights.requires_grad for weights in state.models.target.parameters())


def test_before_its_start_the_term_changes_nothing():
    world, weights = ctm.data.ring(), []
    for objective in (Consistency(world, pool=64, levels=8), Consistency(world, pool=64, levels=8) + Adversarial(start=1.0)):
        student = model()
        ctm.train(student, world, objective, 5, batch=32)
        weights.append(student.last_layer.detach())
    assert torch.equal(*weights)


def test_estimates_of_the_exact_map_are_the_ends_of_the_trajectories_through_noised_data():
    world = ctm.data.ring()

    class Exact:
        sigma_min, sigma_max, shape = world.sigma_min, world.sigma_max, (2,)
        student = target = property(lambda self: self)

        def jump(self, x, t, s):
            return world.G(x, t.expand(len(x), 1), s.expand(len(x), 1))

        def parameters(self):
            return iter([torch.zeros(1)])

    exact, g, twin = Exact(), generator(6), generator(6)
    fake, clean = Adversarial(levels=12).estimates(exact, Draw(world, exact, 64, g), g)
    levels = draw_levels(64, 12, "global", 0.4, 0.5, twin)
    x0, offset = world.sample(64, generator=twin), torch.rand(64, generator=twin)
    assert torch.equal(clean, x0)
    t = grid_times(levels.t, 12, offset, exact.sigma_min, exact.sigma_max)[:, None]
    xt = x0 + t * torch.randn(x0.shape, generator=twin)
    assert len(set(t.flatten().tolist())) > 20
    assert torch.allclose(fake, world.G(xt, t, exact.sigma_min), atol=1e-4)


@pytest.mark.parametrize(("from_noise", "to_data"), [(1.0, 1.0), (0.0, 0.0), (0.4, 0.5), (0.8, 0.1)])
def test_the_shares_of_jumps_from_noise_and_to_data(from_noise, to_data):
    world, seen, n = ctm.data.ring(), [], 8000
    student = ctm.CTM.for_data(world)

    def jump(x, t, s):
        seen.append((t, s))
        return x

    student.jump = jump
    term = Adversarial(levels=200, from_noise=from_noise, to_data=to_data)
    term.estimates(Models(student, 1), Draw(world, student, n, generator()), generator())
    t, s = seen[0]  # the student's own jump
    first = (t > student.sigma_max * (1 - 1e-6)).double().mean()
    last = (s < student.sigma_min * (1 + 1e-6)).double().mean()
    starts = torch.full((200,), (1 - from_noise) / 200) + from_noise * torch.eye(200)[0]  # the chance of each level as t
    by_chance = float((starts / torch.arange(200, 0, -1)).sum())  # that s is the last of those after t
    for share, wanted in ((first, float(starts[0])), (last, to_data + (1 - to_data) * by_chance)):
        assert abs(share - wanted) < 1e-6 + 4 * (wanted * (1 - wanted) / n) ** 0.5


def test_estimates_of_classes_are_told_their_class():
    world = ctm.data.half_rings()
    student = ctm.ConditionalCTM(ctm.networks.MLP(2, width=16, layers=2, conditions=3), world.sigma_data)
    models, g = Models(student, 10), generator()
    fake, x0 = Adversarial(levels=8).estimates(models, Draw(world, student, 64, g), g)
    assert x0.shape == (64, 2)
    weights = student.network.body[0].weight
    gradient = torch.autograd.grad(fake.sum(), weights)[0]
    assert gradient[:, -3:-1].abs().sum() > 0  # the columns that take the class
    assert gradient[:, -1].abs().sum() == 0  # and the strength, which is 1 here


def test_data_and_samples_of_a_batch_have_the_same_classes():
    """One step of the term, recomputed from its parts: the data are those that were noised, or where there are no classes
    others."""
    for world, network in (
        (ctm.data.half_rings(), ctm.networks.MLP(2, width=8, layers=1, conditions=3)),
        (ctm.data.ring(), ctm.networks.MLP(2, width=8, layers=1)),
    ):
        student = ctm.CTM.for_data(world, network)
        models, term, twin = Models(student, 10), *(Adversarial(start=0, width=8, adaptive=False) for _ in range(2))
        g, h = generator(4), generator(4)
        value = term(models, Draw(world, student, 16, g), g)
        draw = Draw(world, student, 16, h)
        fake, x0 = twin.estimates(models, draw, h)
        real = x0 if hasattr(world, "classes") else draw.clean()[0]
        twin.learn(student, real, fake, h)
        assert torch.equal(value, twin.judge(student, fake, h))


@pytest.mark.slow
def test_the_term_corrects_a_biased_teacher():
    """The teacher is wrong by a shift of 0.3 at every noise level; the data know better."""
    world = ctm.data.one_gaussian()
    shifted = ctm.GaussianMixture(world.means + 0.3, world.stds)
    means = {}
    for name in ("without", "with"):
        student = ctm.CTM(ctm.networks.MLP(1, width=32, layers=2), world.sigma_data)
        objective = Consistency(shifted, levels=16, pool=128, reuse=8)
        if name == "with":
            objective = objective + Adversarial(start=0.3, width=32)
        ctm.train(student, world, objective, steps=300, batch=64)
        noise = student.sigma_max * torch.randn(4000, 1, generator=generator(3))
        means[name] = ctm.samplers.one_step(student, noise).mean().item()
    assert means["without"] == pytest.approx(0.8, abs=0.06)
    assert abs(means["with"] - 0.5) < 0.7 * abs(means["without"] - 0.5)


def test_what_the_discriminator_sees():
    net = Discriminator(2, 0.5, width=8).double()
    x, tau = torch.randn(5, 2, generator=generator(), dtype=torch.float64), torch.full((5, 1), 0.3, dtype=torch.float64)
    seen = torch.cat([4 * x / np.hypot(0.3, 0.5), tau.log() / 4], 1)
    assert net(x, tau).shape == (5,)
    assert torch.allclose(net(x, tau), net.body(seen)[:, 0], atol=1e-12)
    assert net.body[-1].out_features == 1
    sizes = [(layer.in_features, layer.out_features) for layer in net.body if isinstance(layer, torch.nn.Linear)]
    assert sizes == [(3, 8), (8, 8), (8, 8), (8, 1)]  # three hidden layers


@pytest.mark.parametrize("r1", [0.0, 0.7])
def test_the_discriminators_gradient_is_that_of_the_hinge_loss_and_the_penalty(r1):
    student, g = model(), generator(1)
    x0, fake = (torch.randn(16, 2, generator=g) for _ in range(2))
    term, twin, g = Adversarial(r1=r1, width=8), Adversarial(r1=r1, width=8), generator()
    value = term.learn(student, x0, fake, generator())
    real = x0 + student.sigma_min * torch.randn(x0.shape, generator=g)
    (real, tau_real), (fake, tau_fake) = twin.noised(student, real, g), twin.noised(student, fake, g)
    net, _ = twin.opponent(student, x0)
    hinge = hinge_loss(net(real, tau_real), net(fake, tau_fake))
    assert value == pytest.approx(hinge.item(), rel=1e-5)
    wanted = torch.autograd.grad(hinge + r1 * r1_penalty(net, real, tau_real), list(net.parameters()))
    for weights, gradient in zip(term.discriminator.parameters(), wanted, strict=True):
        assert torch.allclose(weights.grad, gradient, rtol=1e-4, atol=1e-7)


def test_images_have_a_discriminator_of_their_own_and_its_state_goes_over():
    network = ctm.networks.UNet((8, 8), width=4, features=2)
    student, term, again = ctm.CTM(network, 0.5), *(Adversarial(width=4) for _ in range(2))
    x0, fake = (torch.randn(6, 8, 8, generator=generator(k)) for k in (1, 2))
    for _ in range(2):
        term.learn(student, x0, fake, generator(3))
    assert type(term.discriminator) is ImageDiscriminator
    again.load_state_dict({key: value.clone() for key, value in term.state_dict().items()})
    assert term.learn(student, x0, fake, generator(4)) == again.learn(student, x0, fake, generator(4))


class Seen(torch.nn.Module):
    """Features at two depths, of a network with weights of its own: (n, 2, 8, 8) and (n, 3)."""

    def __init__(self):
        super().__init__()
        weights = torch.randn(3, 64, generator=generator(5)) / 8
        self.weights = torch.nn.Parameter(weights, requires_grad=False)

    def forward(self, x):
        return [torch.stack([x, x.tanh()], 1), torch.tanh(x.flatten(1) @ self.weights.T)]


def test_a_discriminator_of_features_by_plain_loops():
    x = torch.randn(3, 8, 8, generator=generator(1))
    net = FeatureDiscriminator(Seen(), x[:1], width=4, seed=2)
    first, _, second, _, last = net.heads[0]

    def halved(h, conv):  # a 3 x 3 convolution at every second place, zeros around
        wide = torch.zeros(h.shape[0], h.shape[1] + 2, h.shape[2] + 2)
        wide[:, 1:-1, 1:-1] = h
        out = torch.empty(len(conv.weight), h.shape[1] // 2, h.shape[2] // 2)
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                window = wide[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                out[:, i, j] = (conv.weight * window).sum((1, 2, 3)) + conv.bias
        return out * torch.sigmoid(out)

    wanted = []
    with torch.no_grad():
        for image, vector in zip(*Seen()(x), strict=True):
            h = halved(halved(image, first), second)
            assert h.shape == (4, 2, 2)
            places = [last.weight[0, :, 0, 0] @ h[:, i, j] + last.bias[0] for i in range(2) for j in range(2)]
            hidden = net.heads[1][0].weight @ vector + net.heads[1][0].bias
            said = net.heads[1][2].weight @ (hidden * torch.sigmoid(hidden)) + net.heads[1][2].bias
            wanted.append(torch.stack([sum(places) / 4, said[0]]))
        found = net(x, torch.ones(3, 1, 1))
    assert torch.allclose(found, torch.stack(wanted), atol=1e-6)
    assert not any("weights" in name for name, _ in net.named_parameters())  # the features' own stay as they are
    with pytest.raises(ValueError, match=r"features must give tensors \(n, d\) or .* got rows of \[\(8, 8\)\]"):
        FeatureDiscriminator(lambda x: [x], x)
    with pytest.raises(ValueError, match=r"got rows of \[\]"):
        FeatureDiscriminator(lambda x: [], x)


def test_the_term_with_features():
    network = ctm.networks.UNet((8, 8), width=4, features=2)
    student = ctm.CTM(network, 0.5)
    choices = {"features": Seen(), "noise": 0.0, "r1": 0.3, "width": 4}
    term, again = Adversarial(**choices), Adversarial(**choices)
    x0, fake = (torch.randn(6, 8, 8, generator=generator(k)) for k in (1, 2))
    twin = FeatureDiscriminator(Seen(), x0[:1], 4, 0)
    value = term.learn(student, x0, fake, generator(3))
    real = (x0 + student.sigma_min * torch.randn(x0.shape, generator=generator(3))).requires_grad_(True)
    says, of_fake = twin(real, None), twin(fake, None)
    hinge = ((1 - says).relu().sum() + (1 + of_fake).relu().sum()) / says.numel()
    assert value == pytest.approx(hinge.item(), rel=1e-5)
    slope = torch.autograd.grad(says.sum() / 2, real, create_graph=True)[0]
    wanted = torch.autograd.grad(hinge + 0.3 * slope.square().sum() / 6 / 2, list(twin.parameters()))
    for weights, gradient in zip(term.discriminator.parameters(), wanted, strict=True):
        assert torch.allclose(weights.grad, gradient, rtol=1e-3, atol=1e-6)
    judged = fake.clone().requires_grad_(True)
    loss = term.judge(student, judged, generator(4))
    assert loss.item() == pytest.approx(-term.discriminator(fake, None).mean().item(), rel=1e-5)
    assert torch.autograd.grad(loss, judged)[0].abs().sum() > 0  # what the features say reaches the student
    again.load_state_dict({key: value.clone() for key, value in term.state_dict().items()})
    assert term.learn(student, x0, fake, generator(5)) == again.learn(student, x0, fake, generator(5))
    with pytest.raises(TypeError, match="features must be callable, got list"):
        Adversarial(features=[1])


def test_what_is_judged_is_what_the_discriminator_says_of_noised_points():
    student, term = model(), Adversarial(width=8)
    fake = torch.randn(16, 2, generator=generator(1))
    net, _ = term.opponent(student, fake)
    expected = -net(*term.noised(student, fake, generator(2))).mean()
    assert torch.equal(term.judge(student, fake, generator(2)), expected)


def test_the_discriminators_second_step_is_adams_with_the_published_betas():
    student, term, g = model(), Adversarial(lr=0.01, width=8), generator(1)
    x0, fake = (torch.randn(16, 2, generator=g) for _ in range(2))
    term.learn(student, x0, fake, g)
    weights = term.discriminator.body[0].weight
    first, before = weights.grad.clone(), weights.detach().clone()
    term.learn(student, x0, fake, g)
    mean = (0.5 * 0.5 * first + 0.5 * weights.grad) / (1 - 0.5**2)
    square = (0.9 * 0.1 * first**2 + 0.1 * weights.grad**2) / (1 - 0.9**2)
    assert torch.allclose(weights.detach(), before - 0.01 * mean / (square.sqrt() + 1e-8), atol=1e-6)


def test_real_points_are_noised_to_the_level_at_which_jumps_end():
    student, term, seen = model(), Adversarial(), []
    term.noised = lambda student, x, rng: (seen.append(x), (x, torch.full((len(x), 1), 0.1)))[1]
    term.learn(student, torch.zeros(4000, 2), torch.ones(4000, 2), generator())
    real, fake = seen
    assert torch.equal(fake, torch.ones(4000, 2))
    assert stats.kstest((real / student.sigma_min).flatten().numpy(), stats.norm.cdf).pvalue > 0.005


def test_the_state_goes_over_and_a_wrong_one_is_refused():
    student, term, again = model(), *(Adversarial(width=8, seed=k) for k in (0, 0))
    x0, fake = (torch.randn(16, 2, generator=generator(k)) for k in (1, 2))
    for _ in range(3):
        term.learn(student, x0, fake, generator(3))
    state = {key: value.clone() for key, value in term.state_dict().items()}
    again.load_state_dict(state)
    assert term.learn(student, x0, fake, generator(4)) == again.learn(student, x0, fake, generator(4))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in term.state_dict().items())
    for wrong in (
        {key: value for key, value in state.items() if key != "made_for"},
        state | {"other": torch.zeros(1)},
        state | {"optimizer.0.exp_avg": torch.zeros(1)},
    ):
        with pytest.raises(ValueError, match=r"discriminator's state|keeps no such state"):
            Adversarial(width=8).load_state_dict(wrong)
