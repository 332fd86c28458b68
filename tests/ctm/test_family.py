"""The laws of flow maps as losses: recomputed another way, stationary at the exact map, and each method of the table."""

import copy
import math

import pytest
import torch
from helpers import exact_ctm, generator, noised
from torch import nn

import ctm
from ctm.closed_forms import AffineMap, Line
from ctm.losses import (
    METHODS,
    Denoising,
    Draw,
    Eulerian,
    Lagrangian,
    Models,
    MomentMatching,
    Neighbour,
    Ratio,
    Semigroup,
    Share,
    Then,
    anywhere,
    half,
)
from ctm.losses.laws import GAP, below, derivative, draw_times, weighted
from ctm.losses.moments import discrepancy
from ctm.models import c_in, c_noise, c_out, c_skip
from ctm.parametrisations import Parametrised, cm, edm
from ctm.paths import LINEAR, trigonometric

STD, MEAN = 0.5, 0.2
RING = ctm.data.ring()


class AffineNetwork(nn.Module):
    """The network that makes a CTM the exact flow map of N(MEAN, STD^2), differentiable; ``scale`` spoils it."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 1), scale, dtype=torch.float64))

    def forward(self, x_in, tau_t, tau_s):
        t, s = (torch.exp(4 * tau).reshape(-1, 1) for tau in (tau_t, tau_s))
        x = x_in / c_in(t, STD)
        before, after = (STD**2 + t**2).sqrt(), (STD**2 + s**2).sqrt()
        # (G - (s/t) x) / (1 - s/t) without the quotient that is 0/0 at s = t
        g = MEAN + (x - MEAN) * STD**2 * (t + s) / (before * (t * after + s * before))
        return self.scale * (g - c_skip(t, STD) * x) / c_out(t, STD)


def exact():
    return ctm.CTM(AffineNetwork(), STD)


class Gaussian:
    """The data of that map."""

    def sample(self, n, *, generator=None):
        return MEAN + STD * torch.randn((n, 1), generator=generator, dtype=torch.float64)


def at_work(student, data=None, batch=64, step=0, steps=10, seed=0):
    rng = generator(seed)
    models = Models(student, steps)
    models.step = step
    return models, Draw(data or Gaussian(), student, batch, rng), rng


def small(seed=0, world=None):
    world = world or ctm.data.ring()
    network = ctm.networks.MLP(world.means[0].numel(), width=16, layers=2, seed=seed)
    return ctm.CTM(network, world.sigma_data).double()


def gradient(term, student, **options):
    return torch.autograd.grad(term(*at_work(student, **options)), student.last_layer)[0]


def slope(term, student, direction, h=1e-6, **options):
    """The loss's own derivative along a change of the last layer, by differences."""
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            student.last_layer.add_(sign * h * direction)
            values.append(term(*at_work(student, **options)))
            student.last_layer.sub_(sign * h * direction)
    return (values[0] - values[1]) / (2 * h)


TEACHER = AffineMap(MEAN, STD)
EXACT_ZERO = {
    "semigroup, own jumps": Semigroup(middle=anywhere, jumps=True),
    "semigroup, halves": Semigroup(middle=half, jumps=True),
    "semigroup, both ways learn": Semigroup(middle=anywhere, jumps=True, held=False),
    "Eulerian, teacher": Eulerian(TEACHER, step=0),
    "Eulerian, through the derivative": Eulerian(TEACHER, through=True, step=0),
    "Eulerian, own slope": Eulerian(own=True, step=0),
    "Eulerian, to the data": Eulerian(TEACHER, to_data=1.0, power=0.5, step=0),
    "Lagrangian, teacher": Lagrangian(TEACHER, step=0),
    "Lagrangian, output": Lagrangian(TEACHER, through="output", step=0),
    "Lagrangian, own": Lagrangian(own=True, step=0),
    "Lagrangian, all": Lagrangian(own=True, through="all", step=0),
}


def test_the_closed_form_is_the_flow_map():
    x = noised(ctm.GaussianMixture([[MEAN]], STD), 2.0, n=20)
    for t, s in ((2.0, 0.3), (2.0, 0.002), (0.5, 0.5)):
        assert torch.allclose(exact().G(x, t, s), TEACHER.G(x, t, s), rtol=1e-12)
    assert torch.allclose(exact().denoiser(x, 0.7), TEACHER.denoiser(x, 0.7))


@pytest.mark.parametrize("name", EXACT_ZERO)
def test_the_exact_map_obeys_every_law_and_another_does_not(name):
    term = EXACT_ZERO[name]
    assert term(*at_work(exact())) < 1e-20
    assert term(*at_work(ctm.CTM(AffineNetwork(0.9), STD))) > 1e-5


@pytest.mark.parametrize("step", [3e-3, 1e-3])
def test_a_finite_difference_leaves_an_error_of_second_order(step):
    found = [Eulerian(TEACHER, step=h)(*at_work(exact())).sqrt() for h in (step, 2 * step)]
    assert found[0] < 20 * step**2
    assert (found[1] / found[0]).item() == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("law", [Eulerian(TEACHER, step=0), Lagrangian(TEACHER, step=0), Semigroup(jumps=True)])
def test_the_oracle_of_a_mixture_obeys_the_laws(law):
    """The same on a ring, with derivatives by differences of a fine oracle."""
    world = ctm.data.ring()
    law = copy.copy(law)
    law.teacher = None if law.teacher is None else world
    law.step = 1e-3
    student = exact_ctm(world)

    class Shaped:
        sample = staticmethod(lambda n, generator: world.sample(n, generator=generator, dtype=torch.float64))

    assert law(*at_work(student, Shaped(), batch=24)) < 1e-6
    assert law(*at_work(small(), Shaped(), batch=24)) > 1e-2


FROM_DATA = {
    "Eulerian": Eulerian(step=0),
    "improved": Eulerian(tangent=True, step=0),
    "continuous-time": Eulerian(to_data=1.0, step=0),
    "small steps": Semigroup(middle=Share(0.01, 0.01)),
    "stable": Eulerian(references=200, step=0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_DATA)
def test_with_the_datas_slope_the_exact_map_is_stationary_in_the_mean(name):
    """Neither the loss nor the gradient of one batch is zero; the gradient's mean over draws is within its own error."""
    term, n = FROM_DATA[name], 8
    away, found = (
        torch.stack([gradient(term, ctm.CTM(AffineNetwork(scale), STD), batch=4000, seed=k) for k in range(n)])
        for scale in (0.5, 1.0)
    )
    allowed = 4 * found.std() / n**0.5
    assert term(*at_work(exact())) > 1e-4
    assert found.mean().abs() < allowed
    assert away.mean().abs() > 2 * allowed


def test_the_datas_slope_integrated_exactly_has_no_gradient_at_the_exact_map():
    """x_0 given x_t is Gaussian: with the posterior's quantiles for x_0 the mean of the gradient is zero to 1e-4."""
    student, spoilt = exact(), ctm.CTM(AffineNetwork(0.9), STD)

    def mean_gradient(model, tangent):
        term = Eulerian(tangent=tangent, step=0)
        u = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
        quantile = torch.special.ndtri(u)[:, None]
        quantile = quantile / quantile.std(unbiased=False)
        total = 0.0
        for t, s, at in ((2.0, 0.01, 1.0), (0.6, 0.2, -0.4)):
            column = torch.ones_like(quantile)
            xt = at * column
            width = STD * t / math.hypot(STD, t)
            x0 = TEACHER.denoiser(xt, t) + width * quantile
            batch = term.batch(*at_work(model, batch=200))._replace(x0=x0, xt=xt, t=t * column, s=s * column)
            loss = term.error(batch).square().mean()
            total += torch.autograd.grad(loss, model.last_layer)[0].abs().item()
        return total

    for tangent in (None, True):
        assert mean_gradient(student, tangent) < 1e-4 * mean_gradient(spoilt, tangent)


def by_hand(batch, student):
    """v, G and the total derivative of G in t by differences along the data's slope."""
    h = 1e-5
    v = (batch.xt - batch.x0) / batch.t
    ends = [student.jump(batch.xt + sign * h * v, batch.t + sign * h, batch.s) for sign in (1, -1)]
    return v, (ends[0] - ends[1]) / (2 * h)


def test_the_eulerian_error_is_the_derivative_of_the_jump_and_meanflows():
    student, term = small(), Eulerian(step=0)
    batch = term.batch(*at_work(student, ctm.data.ring()))
    batch = batch._replace(x0=batch.x0.double(), xt=batch.xt.double(), t=batch.t.double(), s=batch.s.double())
    error = term.error(batch).detach() * c_out(batch.t, student.sigma_data)
    v, moved = by_hand(batch, student)
    assert torch.allclose(error / batch.t, moved, rtol=1e-5, atol=1e-6)
    # the straight path: u - sg(w - (r - q) du/dr) with w = eps - x_0, against the same error up to (1 - q)/(1 - r)
    r, q = (LINEAR.time(level) for level in (batch.t, batch.s))
    z, w = (1 - r) * batch.xt, v - batch.x0

    def average(z, r):
        t = LINEAR.level(r)
        return (z - student(z / (1 - r), t, batch.s)) / r

    rate = torch.func.jvp(average, (z, r), (w, torch.ones_like(r)))[1]
    meanflow = average(z, r) - (w - (r - q) * rate)
    assert torch.allclose(-r * meanflow * (1 - r) / (1 - q), error, rtol=1e-6, atol=1e-8)


def test_the_tangent_of_trigflow_is_the_same_error():
    student, term = small(), Eulerian(to_data=1.0, step=0)
    batch = term.batch(*at_work(student, ctm.data.ring()))
    batch = batch._replace(x0=batch.x0.double(), xt=batch.xt.double(), t=batch.t.double(), s=1e-9 + 0 * batch.s.double())
    sd = student.sigma_data
    path = trigonometric(sd)
    theta = path.time(batch.t)
    z, noise = torch.cos(theta) * batch.xt, (batch.xt - batch.x0) / batch.t
    rate = torch.cos(theta) * sd * noise - torch.sin(theta) * batch.x0

    def network(z, theta):
        t = path.level(theta)
        tau = (c_noise(level).flatten() for level in (t, batch.s))
        return student.network(z / sd, *tau)

    one = torch.ones_like(theta)
    # their F has the other sign: f = cos z - sin sd F
    out, slope = torch.func.jvp(network, (z, theta), (rate, one))
    out, slope = -out, -slope
    clean = torch.cos(theta) * z - torch.sin(theta) * sd * out
    assert torch.allclose(clean, student(batch.xt, batch.t, batch.s), rtol=1e-9)
    tangent = -(torch.cos(theta) ** 2) * (sd * out - rate) - torch.cos(theta) * torch.sin(theta) * (z + sd * slope)
    assert torch.allclose(term.error(batch), tangent / sd, rtol=1e-6, atol=1e-7)
    # and the warm-up keeps the first half of it
    early = Eulerian(to_data=1.0, step=0, warmup=0.5).error(batch._replace(progress=0.25))
    first = -(torch.cos(theta) ** 2) * (sd * out - rate)
    assert torch.allclose(early, (first + 0.5 * (tangent - first)) / sd, rtol=1e-6, atol=1e-7)


def test_improved_meanflow_recomputed():
    student, term = small(), Eulerian(tangent=True, step=0)
    batch = term.batch(*at_work(student, ctm.data.ring()))
    batch = batch._replace(x0=batch.x0.double(), xt=batch.xt.double(), t=batch.t.double(), s=batch.s.double())
    xt, t, s = batch.xt, batch.t, batch.s
    own = (xt - student(xt, t, t)) / t

    def average(x, t):
        return (x - student(x, t, s)) / t

    u, rate = torch.func.jvp(average, (xt, t), (own, torch.ones_like(t)))
    compound = u + (t - s) * rate
    expected = -t * (compound - (xt - batch.x0) / t)
    assert torch.allclose(term.error(batch) * c_out(t, student.sigma_data), expected, rtol=1e-6, atol=1e-8)


def test_the_lagrangian_error_is_the_derivative_at_the_end():
    world, student, h = ctm.data.ring(), small(), 1e-5
    term = Lagrangian(world, step=0)
    batch = term.batch(*at_work(student, world))
    batch = batch._replace(xt=batch.xt.double(), t=batch.t.double(), s=batch.s.double())
    xt, t, s = batch.xt, batch.t, batch.s
    moved = (student.jump(xt, t, s * (1 + h)) - student.jump(xt, t, s * (1 - h))) / (2 * h)  # s dG/ds
    end = student.jump(xt, t, s)
    expected = moved - s * world.velocity(end, s.flatten())
    assert torch.allclose(-term.error(batch) * c_out(t, student.sigma_data), expected, rtol=1e-4, atol=1e-6)


def test_the_semigroup_error_is_the_difference_of_the_two_ways_and_the_additive_law():
    student, term = small(), Semigroup(jumps=True, middle=anywhere)
    batch = term.batch(*at_work(student, ctm.data.ring()))
    batch = batch._replace(xt=batch.xt.double(), t=batch.t.double(), s=batch.s.double())
    u = anywhere(batch)
    error = term.between(batch, u) * c_out(batch.t, student.sigma_data)
    xu = student.jump(batch.xt, batch.t, u)
    near, far, whole = 1 / u - 1 / batch.t, 1 / batch.s - 1 / u, 1 / batch.s - 1 / batch.t
    mean = near / whole * student(batch.xt, batch.t, u) + far / whole * student(xu, u, batch.s)
    assert torch.allclose(error, student(batch.xt, batch.t, batch.s) - mean, rtol=1e-6, atol=1e-8)
    # a step along the data's slope is the same noise at a lower level
    noise = (batch.xt - batch.x0) / batch.t
    step = Semigroup(middle=half)
    goal = student.jump(batch.x0 + u * noise, u, batch.s)
    expected = (student.jump(batch.xt, batch.t, batch.s) - goal) / student.output_scale(batch.t, batch.s)
    assert torch.allclose(step.between(batch, u), expected, rtol=1e-6, atol=1e-8)


def test_a_short_step_has_the_gradient_of_the_derivative():
    """AlphaFlow's limit: as the share goes to 0 the semigroup's gradient becomes the Eulerian one's."""
    student, found = small(), []
    for term in (Semigroup(middle=Share(1e-6, 1e-6)), Eulerian(from_noise=0.4, step=0)):
        found.append(gradient(term, student, data=Doubled(ctm.data.ring())))
    assert torch.allclose(*found, rtol=2e-3, atol=1e-5)


class Doubled:
    """A world's points in float64."""

    def __init__(self, world):
        self.world = world

    def sample(self, n, *, generator=None):
        return self.world.sample(n, generator=generator, dtype=torch.float64)


HELD = [Eulerian(step=0), Eulerian(own=True), Lagrangian(TEACHER, through="output"), Semigroup(), Semigroup(jumps=True)]
FREE = [
    Eulerian(TEACHER, through=True, step=0),
    Eulerian(TEACHER, through=True),
    Lagrangian(TEACHER, step=0),
    Semigroup(jumps=True, held=False),
    Lagrangian(own=True, through="all"),
]


HALVES = ctm.data.half_rings()


@pytest.mark.parametrize("data", [HALVES, ctm.Guided(HALVES, (1.0, 4.0))], ids=["classes", "guided"])
def test_the_slope_of_data_with_classes_is_that_of_the_class(data):
    """By hand: references of the other half do not count, and no strength is told."""
    student = ctm.CTM.for_data(data, ctm.networks.MLP(2, width=16, layers=2, conditions=3))
    term = Semigroup(references=200)
    batch = term.batch(*at_work(student, data))
    told = batch.student.network.condition
    assert not told[:, 2].any()  # w - 1
    label = HALVES.class_probabilities(batch.x0).argmax(1)
    assert torch.equal(told[:, :2].argmax(1), label)
    other = label[:, None] != HALVES.class_probabilities(batch.references).argmax(1)
    squares = (batch.xt[:, None] - batch.references).square().sum(2).masked_fill(other, torch.inf)
    own = (batch.xt - batch.x0).square().sum(1, keepdim=True)
    logits = -torch.cat([own, squares], 1).double() / (2 * batch.t.double() ** 2)
    points = torch.cat([batch.x0[:, None], batch.references.expand(64, -1, 2)], 1).double()
    mean = (logits.softmax(1)[:, :, None] * points).sum(1)
    assert torch.allclose(term.clean(batch).double(), mean, atol=1e-3)


@pytest.mark.parametrize("term", [*HELD, *FREE], ids=lambda term: repr(term)[:40])
def test_the_gradient_stops_where_it_should(term):
    """Where the target is held still the loss's gradient is not its slope, and both agree where all is let through."""
    student = ctm.CTM(ctm.networks.MLP(1, width=16, layers=2), STD).double()
    direction = torch.randn(student.last_layer.shape, generator=generator(1), dtype=torch.float64)
    found = (gradient(term, student) * direction).sum()
    whole = slope(term, student, direction)
    if term in FREE:
        if isinstance(term, Lagrangian) and term.through == "derivative":
            return  # the end at which the teacher is asked is held still
        assert torch.allclose(found, whole, rtol=1e-4)
    else:
        assert not torch.allclose(found, whole, rtol=1e-2)


def test_a_held_target_is_a_regression_onto_it():
    """The gradient of the loss is that of |F - sg(F - e)|^2."""
    student = ctm.CTM(ctm.networks.MLP(1, width=16, layers=2), STD).double()
    term = Eulerian(step=0)
    batch = term.batch(*at_work(student))
    error = term.error(batch).detach()
    tau = [c_noise(level).flatten() for level in (batch.t, batch.s)]
    output = student.network(c_in(batch.t, STD) * batch.xt, *tau)
    target = (output - error).detach()
    expected = torch.autograd.grad((output - target).square().mean(), student.last_layer)[0]
    assert torch.allclose(gradient(term, student), expected)


def test_the_weights_are_those_of_the_papers():
    error = torch.randn((50, 3), generator=generator(), dtype=torch.float64, requires_grad=True)
    c = 0.03
    huber = ((error.square().mean(1) + c**2).sqrt() - c).mean()  # iCT's, up to its factor 1/2
    ours = weighted(error, 0.5, c**2)
    one, two = (torch.autograd.grad(loss, error)[0] for loss in (huber, ours))
    assert torch.allclose(2 * one, two)
    meanflow = error.square().mean(1) / (error.square().mean(1).detach() + 1e-3)
    assert torch.allclose(weighted(error, 1.0, 1e-3), meanflow.mean())
    assert torch.allclose(weighted(error, 0.0, 1e-3), error.square().mean())


def test_derivatives_agree():
    student = small()
    g = generator()
    x, v = (torch.randn((30, 2), generator=g, dtype=torch.float64) for _ in range(2))
    t, s = (torch.full((30, 1), level, dtype=torch.float64) for level in (1.5, 0.2))
    along = v, 0.7 * t, -0.3 * s
    exact, near = (derivative(student, (x, t, s), along, step) for step in (0, 1e-4))
    h = 1e-6
    by_hand = student(x + h * v, t + 0.7 * h * t, s - 0.3 * h * s) - student(x, t, s)
    assert torch.allclose(exact, by_hand / h, rtol=1e-4, atol=1e-5)
    assert torch.allclose(exact, near, rtol=1e-5, atol=1e-7)


# --- times


def test_times_run_down_and_are_drawn_as_said():
    student = small()
    t, s = draw_times(40_000, student, generator(), 0.3, 0.4)
    assert bool((t > s).all())
    assert (t == t.max()).double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert (s == s.min()).double().mean().item() == pytest.approx(0.4, abs=0.02)
    ends = (student.sigma_max ** (1 / 7), student.sigma_min ** (1 / 7))
    gap = (t.double() ** (1 / 7) - s.double() ** (1 / 7)) / (ends[0] - ends[1])
    assert gap.min() > 0.98 * GAP


def test_a_share_of_the_way_below():
    """In seventh roots, from the two ends: half of the way from the top is the middle; below the end is the end."""
    student = small()
    low, high = student.sigma_min, student.sigma_max
    roots = torch.linspace(high ** (1 / 7), low ** (1 / 7), 9, dtype=torch.float64)
    t = (roots**7)[:, None]
    assert torch.allclose(below(t[:5], 0.5, student), t[4:], rtol=1e-9)
    assert torch.allclose(below(t, 0.125, student)[:-1], t[1:], rtol=1e-9)
    assert below(t, 0.125, student)[-1].item() == pytest.approx(low, rel=1e-9)


@pytest.mark.parametrize(
    "middle", [Neighbour(2, 150, "root"), Neighbour(10, 1280), Ratio(), Share(1.0, 0.005, "sigmoid"), half]
)
@pytest.mark.parametrize("step", [0, 3, 9])
def test_the_middle_lies_between(middle, step):
    student = small()
    term = Semigroup(middle=middle)
    batch = term.batch(*at_work(student, ctm.data.ring(), batch=500, step=step))
    u = middle(batch)
    assert bool((u < batch.t).all())
    assert bool((u >= batch.s).all())


def test_schedules_are_those_of_the_papers():
    ict = Neighbour(10, 1280)
    assert [ict.levels(k / 8 + 1e-9) for k in range(8)] == [10, 20, 40, 80, 160, 320, 640, 1280]
    cm = Neighbour(2, 150, "root")
    assert cm.levels(0.0) == 2
    assert cm.levels(1.0) == pytest.approx(151, abs=1)
    assert cm.levels(0.25) == pytest.approx(151 / 2, abs=2)
    share = Share(0.1, 0.002)
    assert share.alpha(0.5) == pytest.approx((0.1 * 0.002) ** 0.5)
    alpha = Share(1.0, 0.005, "sigmoid")
    assert [alpha.alpha(k) for k in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.005], abs=1e-3)
    assert alpha.alpha(0.4) == pytest.approx(1 / (1 + math.exp(-1.6)))
    student = small()
    term = Semigroup(middle=Ratio(), to_data=1.0)
    batch = term.batch(*at_work(student, ctm.data.ring()))
    assert torch.equal(Ratio()(batch), batch.s)  # at first: denoising
    gap = (batch.t ** (1 / 7) - ict(batch) ** (1 / 7)) / (student.sigma_max ** (1 / 7) - student.sigma_min ** (1 / 7))
    assert torch.allclose(gap[ict(batch) > batch.s], torch.tensor(0.1), rtol=1e-3)  # a tenth of the way, of 10 levels
    late = Ratio()(batch._replace(progress=0.99)) / batch.t
    unit = batch.t / (2 * student.sigma_data)
    expected = 1 - (1 + 8 / (1 + torch.exp(unit))) / 2**7
    free = expected > batch.s / batch.t
    assert torch.allclose(late[free], expected[free])


# --- paths


@pytest.mark.slow
@pytest.mark.parametrize("path", [LINEAR, trigonometric(0.5)])
def test_one_oracle_serves_every_path(path):
    """The path's flow map, from the book's, against its own differential equation solved by small steps."""
    z = torch.tensor([[0.3], [-0.8], [1.1]], dtype=torch.float64)
    start, end = (float(path.time(torch.tensor(level, dtype=torch.float64))) for level in (2.0, 0.1))
    x, n = z, 300
    for k in range(n):  # the midpoint rule
        tau, h = start + (end - start) * k / n, (end - start) / n
        middle = x + h / 2 * path.velocity(TEACHER, x, tau)
        x = x + h * path.velocity(TEACHER, middle, tau + h / 2)
    assert torch.allclose(path.flow(TEACHER, z, start, end), x, atol=2e-5)


def test_on_the_straight_path_the_velocity_is_noise_less_data_and_the_average_is_of_g():
    z, r, q = torch.tensor([[0.3], [-0.8]], dtype=torch.float64), 0.7, 0.2
    t, s = r / (1 - r), q / (1 - q)
    x = z / (1 - r)
    clean = TEACHER.denoiser(x, t)
    noise = (z - (1 - r) * clean) / r
    assert torch.allclose(LINEAR.velocity(TEACHER, z, r), noise - clean)
    average = (z - LINEAR.flow(TEACHER, z, r, q)) / (r - q)
    g = exact().g(x, t, s)
    assert torch.allclose(average, (z - g) / r)


def test_on_the_angle_the_jump_has_the_same_g():
    path = trigonometric(STD)
    z, theta, phi = torch.tensor([[0.3], [-0.8]], dtype=torch.float64), 1.2, 0.4
    t, s = (STD * math.tan(angle) for angle in (theta, phi))
    g = exact().g(z / math.cos(theta), t, s)
    expected = math.sin(phi) / math.sin(theta) * z + math.sin(theta - phi) / math.sin(theta) * g
    assert torch.allclose(path.flow(TEACHER, z, theta, phi), expected)


def test_g_is_the_mean_of_the_denoiser_in_the_inverse_of_the_time():
    line = Line(ctm.GaussianMixture([[-0.8], [0.5]], 0.2, [0.3, 0.7]))
    assert line.shape == (1,)
    x, t, s, n = torch.tensor([[1.3]], dtype=torch.float64), 2.0, 0.1, 200
    inverse = 1 / t + (1 / s - 1 / t) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    mean = sum(line.denoiser(line.G(x, t, float(1 / k)), float(1 / k)) for k in inverse) / n
    g = (line.G(x, t, s) - s / t * x) / (1 - s / t)
    assert torch.allclose(g, mean, atol=1e-3)


# --- moments


def test_discrepancy_by_hand_and_its_least():
    g = generator()
    a, b = (torch.randn((2, 5, 3), generator=g, dtype=torch.float64) for _ in range(2))

    def kernel(x, y):
        return math.exp(-float((x - y).norm()) / 3)

    for k in range(2):
        own = sum(kernel(x, y) for x in a[k] for y in a[k]) / 25
        mixed = sum(kernel(x, y) for x in a[k] for y in b[k]) / 25
        other = sum(kernel(x, y) for x in b[k] for y in b[k]) / 25
        assert discrepancy(a, b)[k].item() == pytest.approx(own - 2 * mixed + other, abs=1e-4)
    assert discrepancy(a, a.flip(1)).abs().max() < 1e-12  # as sets they are one
    assert bool((discrepancy(a, b) > 0).all())
    same = torch.rand((2, 5, 5), generator=g) < 0.5
    pairs = [(0, i, j) for i in range(5) for j in range(5) if same[0, i, j]]
    joint = sum(kernel(a[k, i], a[k, j]) - 2 * kernel(a[k, i], b[k, j]) + kernel(b[k, i], b[k, j]) for k, i, j in pairs) / 25
    assert discrepancy(a, b, same)[0].item() == pytest.approx(joint, abs=1e-4)


def test_moments_of_one_class_do_not_stand_in_for_those_of_another():
    """The map that gives each point the place of its neighbour, of the other class, has the right points all together."""
    x = torch.randn((4, 8, 2), generator=generator(), dtype=torch.float64)
    label = torch.arange(8) % 2
    same = (label[:, None] == label).expand(4, 8, 8)
    shifted = x + 3 * (label[:, None] - 0.5)
    swapped = shifted.roll(1, 1)
    assert discrepancy(shifted, swapped).abs().max() < 1e-12
    assert discrepancy(shifted, swapped, same).min() > 0.1


def test_moments_by_hand():
    """A step along the slope from t to u, then two jumps to s, in units of c_out(t) (1 - s/t)."""
    student, term = ctm.CTM(AffineNetwork(0.5), STD), MomentMatching(group=8, k=3)
    batch = term.batch(*at_work(student, batch=20), 8)
    x, t, s = (part[:16] for part in (batch.xt, batch.t, batch.s))  # the last four make no group
    down = [max(a - max((student.sigma_max - student.sigma_min) / 8, a / 100), b) for a, b in zip(t, s, strict=True)]
    u = torch.stack(down)
    moved = x + (u - t) * (x - batch.x0[:16]) / t
    unit = t * STD / (t**2 + STD**2).sqrt() * (1 - s / t)
    ours, theirs = (student.G(y, level, s) / unit for y, level in ((x, t), (moved, u)))
    expected = discrepancy(ours.reshape(2, 8, 1), theirs.reshape(2, 8, 1)).mean()
    assert term(*at_work(student, batch=20)).item() == pytest.approx(expected.item(), rel=1e-6)
    assert expected > 1e-3


def test_moments_ask_for_the_distribution_and_not_for_the_map():
    """Mirrored, the exact map of a Gaussian still lands everywhere equally often, and this loss is as low."""

    class Mirrored(AffineNetwork):
        def forward(self, x_in, tau_t, tau_s):
            t, s = (torch.exp(4 * tau).reshape(-1, 1) for tau in (tau_t, tau_s))
            x = x_in / c_in(t, STD)
            there = MEAN - (x - MEAN) * ((STD**2 + s**2) / (STD**2 + t**2)).sqrt()
            g = (there - s / t * x) / (1 - s / t).clamp_min(1e-6)
            return self.scale * (g - c_skip(t, STD) * x) / c_out(t, STD)

    term = MomentMatching(to_data=1.0, from_noise=0.0, group=500, k=1)
    true, other, wrong = (
        term(*at_work(ctm.CTM(network, STD), batch=4000)) for network in (AffineNetwork(), Mirrored(), AffineNetwork(0.5))
    )
    assert max(true, other) < 0.01
    assert wrong > 5 * other, (true, other, wrong)
    laws = (Eulerian(TEACHER, step=0), Semigroup(jumps=True), Lagrangian(TEACHER, step=0))
    assert max(law(*at_work(ctm.CTM(Mirrored(), STD))) for law in laws) > 0.1


# --- terms and methods


def test_then_changes_over_and_keeps_both_states():
    world = ctm.data.ring()
    student = ctm.CTM(ctm.networks.MLP(2, width=16, layers=2), world.sigma_data)
    pooled = ctm.Consistency(world, pool=16, levels=4)
    term = Then(pooled, Denoising(0), 0.5)
    for step, twin in ((0, ctm.Consistency(world, pool=16, levels=4)), (5, Denoising(0))):
        assert torch.equal(term(*at_work(student, world, step=step)), twin(*at_work(student, world)))
    again = Then(ctm.Consistency(world, pool=16, levels=4), Denoising(0), 0.5)
    again.load_state_dict(term.state_dict())
    assert torch.equal(again.first.trajectories.points, pooled.trajectories.points)
    points = world.sample(3)
    assert term.probe(student, points, None) == pooled.probe(student, points, None)
    told = (world.denoiser(points, student.sigma_data) - points).mean(1).tolist()  # one number a point
    assert Semigroup(world).probe(student, points, None) == pytest.approx(told)
    assert repr(term).startswith("Then(Consistency(")


WITH = {name for name, method in METHODS.items() if name.startswith("CTM") or "istillation" in name} | {"mid-training"}
EITHER = {"continuous-time consistency"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_whether_it_has_use_for_a_teacher(name):
    world = ctm.data.ring()
    for teacher, fits in ((world, name in WITH | EITHER), (None, name not in WITH)):
        if fits:
            assert isinstance(METHODS[name](teacher), ctm.losses.Term)
        else:
            with pytest.raises(ValueError, match=f"teacher must be .* {name}"):
                METHODS[name](teacher)


@pytest.mark.parametrize(
    "data", [ctm.data.two_moons(), HALVES, ctm.Guided(HALVES, (1.0, 4.0), 0.1)], ids=["plain", "classes", "guided"]
)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name, data):
    """Twenty steps: the loss is finite and the weights move."""
    conditions = 0 if data is not HALVES and not isinstance(data, ctm.Guided) else 3
    student = ctm.CTM.for_data(data, ctm.networks.MLP(2, width=32, layers=2, conditions=conditions))
    before = copy.deepcopy(student)
    world = getattr(data, "data", data)
    objective = METHODS[name](world if name in WITH else None)
    history = ctm.train(student, data, objective, 20, batch=64)
    if name in EITHER:
        history.loss += ctm.train(student, data, METHODS[name](world), 20, batch=64).loss
    assert all(math.isfinite(loss) for loss in history.loss)
    assert not torch.equal(student.last_layer, before.last_layer)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (lambda: Lagrangian(), "own must be True"),
        (lambda: Lagrangian(own=True, through="some"), "through"),
        (lambda: Eulerian(step=-1.0), "step"),
        (lambda: Eulerian(warmup=2.0), "warmup"),
        (lambda: Semigroup(power=1.5), "power"),
        (lambda: MomentMatching(group=1), "group"),
        (lambda: Neighbour(1, 5), "first"),
        (lambda: Share(1.0, 0.1, "linear"), "law"),
        (lambda: Then(Denoising(), Denoising(), 1.5), "share"),
    ],
)
def test_bad_settings_are_named(term, message):
    with pytest.raises(ValueError, match=message):
        term()


# --- what laws and their data may be


def narrow():
    return ctm.CTM(ctm.networks.MLP(2, width=16, layers=2), RING.sigma_data)


@pytest.mark.parametrize("law", [Lagrangian, Eulerian, Semigroup])
def test_no_gradient_is_left_in_the_teacher(law):
    teacher = narrow()
    law(teacher)(*at_work(copy.deepcopy(teacher), RING)).backward()
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("term", [Lagrangian(RING), Eulerian(RING, through=True), Eulerian(RING)], ids=repr)
def test_differences_are_not_rounded_under_autocast(term):
    student, found = narrow(), []
    for cast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = term(*at_work(student, RING, batch=512))
        found.append(torch.autograd.grad(loss, student.last_layer)[0])
    assert (found[1] - found[0]).norm() < 0.03 * found[0].norm()


def test_the_derivative_goes_along_the_students_slope_beside_a_teacher():
    student, term = narrow(), Eulerian(RING, tangent=True)
    batch = term.batch(*at_work(student, RING))
    assert torch.equal(term.clean(batch, True), student.denoiser(batch.xt, batch.t.flatten()))
    assert not torch.allclose(term.error(batch), Eulerian(RING).error(batch))


@pytest.mark.parametrize("term", [Eulerian(RING), Lagrangian(RING)], ids=repr)
def test_a_law_of_g_refuses_a_structure_with_another_g(term):
    network = ctm.networks.MLP(2, width=8, layers=1)
    for inner in (edm, cm):
        term(*at_work(Parametrised(network, RING.sigma_data, "euler", inner), RING))
        with pytest.raises(ValueError, match="student must have outer=euler, got variance"):
            term(*at_work(Parametrised(network, RING.sigma_data, "variance", inner), RING))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_data_in_half_precision_are_noised_in_float32(dtype, tmp_path):
    class Half:
        def sample(self, n, *, generator=None):
            return RING.sample(n, generator=generator).to(dtype)

    student = narrow()
    assert Draw(Half(), student, 8, generator())()[0].dtype == torch.float32
    history = ctm.train(student, Half(), Semigroup(references=64), 10, batch=64, checkpoint=tmp_path / "run.safetensors")
    assert all(math.isfinite(loss) for loss in history.loss)


def test_a_middle_that_is_t_makes_no_nan():
    assert Semigroup(middle=lambda batch: batch.t.clone())(*at_work(narrow(), RING)) == 0


def test_a_group_larger_than_the_batch_is_named():
    with pytest.raises(ValueError, match=r"group must lie in \[2, 8\], got 16"):
        ctm.train(narrow(), RING, MomentMatching(group=16), 2, batch=8)


@pytest.mark.parametrize("law", [Eulerian, Lagrangian, Semigroup, MomentMatching])
def test_a_law_checks_its_teacher(law):
    with pytest.raises(TypeError, match="teacher must have a method denoiser"):
        law("ring")


@pytest.mark.parametrize(
    ("law", "flag"),
    [(Semigroup, "jumps"), (Semigroup, "held"), (Eulerian, "own"), (Eulerian, "tangent"), (Eulerian, "through")],
)
def test_a_law_checks_its_flags(law, flag):
    with pytest.raises(TypeError, match=f"{flag} must be True or False, got 'no'"):
        law(**{flag: "no"})


def test_then_refuses_a_foreign_state():
    with pytest.raises(ValueError, match="bogus"):
        Then(Denoising(), Denoising(), 0.5).load_state_dict({"bogus": torch.ones(1)})


def test_a_path_reaches_the_highest_noise_in_float32():
    model = ctm.CTM(ctm.networks.MLP(1, width=8, layers=1), 100.0)
    start = model.sigma_max / (1 + model.sigma_max)
    z = torch.randn((3, 1), generator=generator())
    found, exact = (LINEAR.flow(model, z.to(dtype), start, 0.5) for dtype in (torch.float32, torch.float64))
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact, rtol=1e-4)
