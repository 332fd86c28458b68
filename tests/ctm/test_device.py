"""Every public function on a pretended second device, and under other defaults of torch: the same numbers as without."""

import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from pretend import DEVICE, Elsewhere, GeneratorElsewhere, MixedError, pretended
from sklearn.naive_bayes import GaussianNB
from torch import nn

import ctm
from ctm import diagnosis, editing, likelihood, metrics, noise, plotting, samplers, solvers, two_samples
from ctm.closed_forms import AffineMap, Line, Perturbed
from ctm.networks import MLP, Discriminator, ImageDiscriminator, Transformer, UNet
from ctm.noise import karras_times
from ctm.parametrisations import INNER, OUTER, Parametrised

HALF = editing.inpainting(torch.tensor([True, False]))


class Affine(ctm.FlowMap):
    """The flow map of N(0.5, 0.5^2) in each coordinate, about a center that is a tensor."""

    sigma_min, sigma_max, sigma_data, shape = 0.002, 10.0, 0.5, (2,)

    def __init__(self, center):
        self.center = center

    def to(self, device):
        return Affine(self.center.to(device))

    def columns(self, x, *times):
        return [torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1, 1) for t in times]

    def G(self, x, t, s):
        t, s = self.columns(x, t, s)
        c = self.center.to(x)
        return c + (x - c) * ((0.25 + s**2) / (0.25 + t**2)).sqrt()

    def denoiser(self, x, t):
        (t,) = self.columns(x, t)
        return (self.center.to(x) * t**2 + 0.25 * x) / (0.25 + t**2)

    def sample(self, n, *, generator=None):
        return samplers.center(self, x := samplers.noise(self, n, generator=generator)) + 0.05 * x


class Learned(nn.Module, ctm.FlowMap):
    """A small network as a flow map."""

    sigma_min, sigma_max, sigma_data, shape = 0.002, 10.0, 0.5, (2,)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, device="cpu")
        table = torch.linspace(-1, 1, 4, dtype=torch.float32, device="cpu").reshape(2, 2)
        self.layer.weight = nn.Parameter(0.3 * table)
        self.layer.bias = nn.Parameter(table[0].clone())

    def G(self, x, t, s):
        t, s = ctm._checks.check_jump(x, t, s, self.sigma_min, self.sigma_max, self.shape)
        return s / t * x + (1 - s / t) * self.layer(x / (1 + t)).tanh()

    def denoiser(self, x, t):
        return self.G(x, t, self.sigma_min)


class Place:
    """Where a case puts its things, and what draws its numbers."""

    def __init__(self, device="cpu", generator=torch.Generator):
        self.device, self.generator = device, generator

    def rng(self, seed=0):
        return self.generator(device="cpu").manual_seed(seed)

    def put(self, thing):
        return thing.to(self.device)

    def points(self, n=6, seed=0, scale=1.0):
        x = torch.randn((n, 2), generator=torch.Generator(device="cpu").manual_seed(seed), dtype=torch.float32, device="cpu")
        return self.put(scale * x)

    def affine(self):
        return self.put(Affine(torch.full((2,), 0.5, dtype=torch.float64, device="cpu")))

    def learned(self):
        return self.put(Learned())


def walk(sampler):
    return lambda p: [
        sampler(model, p.points(scale=10.0), karras_times(4, model), path=True) for model in (p.affine(), p.learned())
    ]


def drawn(p):
    _, (ax, other) = plt.subplots(1, 2)
    plotting.scatter(ax, p.points(), "data")
    plotting.histogram(other, p.points()[:, :1], "data", 2.0)
    plotting.paths(other, p.points()[:3, 0], p.points()[:3, :, None], "exact")
    plt.close()


def gradient(p):
    x = p.points().requires_grad_(True)
    likelihood.log_likelihood(p.learned(), x, steps=4).sum().backward()
    return x.grad


def on_a_world(p, world):
    """All that a world says of points."""
    x, world = p.points(), p.put(world)
    drawn = [world.sample(5, generator=p.rng()), world.noised(5, 2.0, p.rng())]
    said = [f(x, 0.7) for f in (world.log_prob, world.score, world.denoiser, world.velocity)]
    return drawn + said + [world.G(x[:2], *levels(x[:2]))]


def levels(x):
    return x[:, 0].abs() + 1, x[:, 0].abs() + 0.1


def on_labels(p):
    world, x = p.put(ctm.data.half_rings()), p.points()
    classes = (x[:, 0] > 0).long()
    table = torch.stack([classes.float(), x[:, 1].abs()], 1)
    guided = [world.given(*c) for c in ((1,), (None,), (classes,), (classes, 2.0), (table,))]
    drawn = [*world.sample_labelled(5, generator=p.rng()), *on_a_world(p, world)]
    told = ctm.Guided(world, (1.0, 3.0), 0.5)
    drawn += [*told.sample_labelled(5, generator=p.rng()), *told.sample_conditioned(5, generator=p.rng())]
    said = [world.class_probabilities(x, 0.5), world.of_class(1).score(x, 1.0)]
    said += [f for w in guided for f in (w.denoiser(x, 1.0), w.score(x, 1.0))]
    return drawn + said + [world.given(1, 2.0).G(x[:2], 2.0, 0.5)]


def on_points(p):
    x = p.points(12).double() * 3 + 100
    labels = [0, 1] * 6
    made_there = ctm.data.Points(x, labels)
    made_here = p.put(ctm.data.Points(x.cpu().numpy(), labels))
    images = p.put(ctm.data.Points(x.reshape(6, 2, 2).cpu()))
    found = [images.sample(3, generator=p.rng()), images.restore(p.points(4).reshape(2, 2, 2))]
    for data in (made_there, made_here):
        found += [data.sample(4, generator=p.rng()), *data.sample_labelled(4, generator=p.rng())]
        found += [data.standardise(x), data.restore(p.points()), data.shift, data.scale]
    return found


UNITS = {"shape": (2,), "center": [0.5, -0.5], "shift": [3.0, 1e6], "scale": 0.1}


def in_units(data):
    """The data as if they counted in these units, as a model trained on them must."""
    data.shift, data.scale = UNITS["shift"], UNITS["scale"]
    return data


def small(p, kind=ctm.CTM, seed=0, **options):
    network = MLP(2, 8, 2, 2, seed=seed, conditions=3 if kind is ctm.ConditionalCTM else 0)
    return p.put(kind(network, 0.5, **(UNITS | options)))


def on_a_model(p, model):
    x = p.points()
    t, s = levels(x)
    said = [model.G(x, 2.0, 0.1), model.g(x, t, s), model.denoiser(x, t), model.score(x, 1.0), model.velocity(x, t)]
    columns = t[:, None], s[:, None]
    said += [model(x, *columns), model.jump(x, *columns), model.output_scale(*columns), model.restore(x)]
    return [*said, model.G(x.bfloat16(), 2.0, 0.1), samplers.sample(model, 4, 2, 1, gamma=0.3)]


def on_conditions(p):
    model, x = small(p, ctm.ConditionalCTM), p.points()
    classes = (x[:, 0] > 0).long()
    table = torch.stack([classes.float(), x[:, 1].abs()], 1)
    found = [samplers.sample(model, 3, 2, condition=1), model.embedding(classes, 2.0), *on_a_model(p, model)]
    for condition in ((1,), (None,), (classes,), (classes, 2.0), (table,)):
        given, guided = model.given(*condition), ctm.GuidedModel(model).given(*condition)
        found += [given.G(x, 2.0, 0.1), given.denoiser(x, 1.0), guided.denoiser(x, 1.0)]
    return found


def made_for(p):
    shaped = ctm.data.Points(
        p.points(12).cpu() * torch.tensor([1.0, 1e-3], dtype=torch.float32, device="cpu") + 5, [0, 1] * 6
    )
    found = []
    for data in (ctm.data.half_rings(), ctm.GaussianMixture([[5.0, 1.0]], 0.2), shaped, Affine(p.points(1)[0].cpu())):
        model = p.put(ctm.CTM.for_data(p.put(data)))
        found += [model.G(p.points(), 1.0, 0.1), samplers.sample(model, 3), model.restore(p.points())]
    return found


def networks(p):
    images = p.points(32).reshape(4, 4, 4)
    tau = images[:, 0, 0]
    judges = Discriminator(16, 0.5, 8), ImageDiscriminator((4, 4), 0.5, 8)
    found = [p.put(judge)(images, tau.abs()[:, None, None]) for judge in judges]
    for network in (MLP(16, 8, 2, 2), UNet((4, 4), 8, features=2), Transformer((4, 4), width=8, layers=1, features=2)):
        found += [p.put(network)(images, tau, tau)]
    told = p.put(MLP(16, 8, 2, 2, conditions=2))
    return [*found, told(images, tau, tau, p.points(4)), told(images, tau, tau, p.points(1))]


def trained(p, objective, kind=ctm.CTM, data=lambda world: world):
    """Three steps, and after a pause two more; without a teacher all five, and then none."""
    world = in_units(p.put(ctm.data.half_rings()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        for steps in (3, 5) if objective else (5, 5):
            model = small(p, kind)
            how = {"batch": 8, "checkpoint": path, "save_every": 2}
            history = ctm.train(model, data(world), objective and objective(world), steps, **how)
        loaded = ctm.load(path)
    held = [w.tolist() for w in loaded.parameters()]
    assert held == [w.tolist() for w in model.parameters()]
    return [model.G(p.points(), 2.0, 0.1), history.loss]


def pairs(teacher, **options):
    return ctm.Consistency(teacher, levels=4, **({"pool": 16, "reuse": 2} | options))


def measured(p):
    world, model = in_units(p.put(ctm.data.ring())), small(p, center=0.0)
    x, y = p.points(9), p.points(9, 1)
    sampler = partial(torch.Tensor.__getitem__, p.points(20))
    values = [metrics.flow_map_error(model, world, 2.0, 0.5, n=2), metrics.relative_error(x, y, 2.0)]
    values += [metric(x, y) for metric in metrics.METRICS.values()]
    values += [metrics.wasserstein(x[:, :1], y[:, :1], p) for p in (1, 2)]
    values += metrics.noise_floor(world, n=20, draws=2)
    ratio = metrics.ratio_to_floor(lambda n, rng: sampler(slice(n)), world, "energy", n=20, draws=2)
    halves = two_samples.ratio_to_halves(lambda n, rng: sampler(slice(n)), x, "energy", draws=2)
    table = metrics.error_table(model, world, [2.0, 0.5], n=2)
    values += [*metrics.precision_recall(x, y, k=2), *two_samples.energy_test(x, y, permutations=9)]
    values += [*two_samples.classifier_test(x, y, GaussianNB()), *two_samples.copy_test(x, y, p.points(9, 2))]
    return [*values, ratio.mean, ratio.high, halves.mean, table.nan_to_num().tolist()]


def noises(p):
    x, model = p.points(), p.affine()
    t, _ = levels(x)
    drawn = [f((2, 3), p.rng(), device=p.device) for f in (noise.randn, noise.rand, partial(noise.randint, 9))]
    drawn += [noise.randn_like(x, p.rng()), noise.noised(x, 2.0, p.rng()), noise.noised(x, t, p.rng())]
    times = [f(4, model, p.rng()).tolist() for f in (noise.rho_times, noise.lognormal_times, noise.image_times)]
    return [*drawn, times, karras_times(3, model).tolist(), noise.rho_time(t, 0.1, 9.0)]


def structures(p):
    found = []
    for outer in OUTER:
        for inner in INNER:
            model, x = small(p, partial(Parametrised, outer=outer, inner=inner), center=0.0), p.points()
            found += [model.G(x, 2.0, 0.1), model.g(x, *levels(x)), model.denoiser(x, 1.0)]
            found += [model.output_scale(*(t[:, None] for t in levels(x)))]
    return found


def closed(p):
    x = p.points()
    affine = AffineMap(x[0], x[1].abs() + 0.1)
    wrong = Perturbed(affine, lambda x, t, s, there: 0.1 * (there - x))
    line = Line(p.put(ctm.data.two_gaussians()))
    columns = [m.G(x[:, :1], 2.0, 0.5) for m in (line, AffineMap(0.3, 0.5))] + [line.denoiser(x[:, :1], 2.0)]
    return columns + [f for m in (affine, wrong) for f in (m.G(x, 2.0, 0.5), m.denoiser(x, 2.0))]


def stored(p):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        ctm.save(model := small(p), path, seed=3)
        loaded = p.put(ctm.load(path))
    return [loaded.G(p.points(), 2.0, 0.1), model.G(p.points(), 2.0, 0.1), samplers.sample(loaded, 3)]


# name: what is called with a Place and returns tensors (or numbers), the same wherever that place is
CASES = {
    "a world": lambda p: on_a_world(p, ctm.data.ring()),
    "a world that lies elsewhere": lambda p: on_a_world(p, ctm.GaussianMixture([[5.0, 1.0], [6.0, 1.0]], [0.2, 0.3])),
    "a world of classes": on_labels,
    "points": on_points,
    "a model": lambda p: on_a_model(p, small(p)),
    "a conditional model": on_conditions,
    "for_data": made_for,
    "networks": networks,
    "consistency from a pool": lambda p: trained(p, pairs),
    "consistency from noised data": lambda p: trained(p, partial(pairs, kind="soft", compare="x0", pool=0)),
    "denoising": lambda p: trained(p, lambda world: ctm.Denoising(16)),
    "no teacher": lambda p: trained(p, None),
    "a sum": lambda p: trained(
        p, lambda world: pairs(world) + 0.1 * ctm.Denoising(16, adaptive=True) + 0.1 * ctm.Adversarial(start=0.2, width=8)
    ),
    "classes": lambda p: trained(
        p,
        lambda world: pairs(world, pool=0) + ctm.Denoising(16),
        ctm.ConditionalCTM,
        lambda world: ctm.Guided(world, (1.0, 2.0), 0.3),
    ),
    "metrics": measured,
    "noise levels": noises,
    "parametrisations": structures,
    "closed forms": closed,
    "a file": stored,
    "noise": lambda p: [samplers.noise(model, 5, generator=p.rng()) for model in (p.affine(), p.learned())],
    "sample": lambda p: [samplers.sample(model, 5, 3, 1, gamma=0.5) for model in (p.affine(), p.learned())],
    "one_step": lambda p: samplers.one_step(p.learned(), p.points()),
    "gamma_sampling": lambda p: samplers.gamma_sampling(
        p.learned(), p.points(), [9.0, 1.0, 0.1], 0.7, generator=p.rng(), path=True
    ),
    "euler": walk(samplers.euler),
    "heun": walk(samplers.heun),
    "multistep": walk(samplers.multistep),
    "solve": lambda p: solvers.solve(
        solvers.heun_step, p.affine(), p.points(), *(p.points(1, 2).new_full((1, 1), t) for t in (5.0, 0.1)), 4
    ),
    "times for each sample": lambda p: p.learned().G(p.points(), p.points()[:, 0].abs() + 1, p.points()[:, 0].abs()),
    "constraints": lambda p: [HALF.measure(p.points()), HALF.project(p.points(), p.points()[:, :1])],
    "constrained_sampling": lambda p: editing.constrained_sampling(
        p.learned(), HALF, p.points()[:, :1], [2.0, 0.5], 2, generator=p.rng()
    ),
    "partial_noise": lambda p: editing.partial_noise(p.affine(), p.points(), [2.0, 0.5], 0.5, generator=p.rng()),
    "accept": lambda p: editing.accept(p.points(50)[:, 0], generator=p.rng()),
    "log_likelihood": lambda p: [likelihood.log_likelihood(m, p.points(), steps=4) for m in (p.affine(), p.learned())],
    "gradient of log_likelihood": gradient,
    "hutchinson": lambda p: likelihood.hutchinson_log_likelihood(p.learned(), p.points(), 3, generator=p.rng(), steps=4),
    "encode": lambda p: likelihood.encode(p.learned(), p.points(), 3.0, steps=4),
    "jump_log_det": lambda p: likelihood.jump_log_det(p.learned(), p.points(), 3.0, 0.1),
    "invert": lambda p: likelihood.invert(p.affine(), p.points(), 3.0, 0.1, p.points(seed=3), iterations=5),
    "doctor": lambda p: [check.value for check in diagnosis.doctor(p.affine(), p.affine(), n=50).checks],
    "plotting": drawn,
}


def numbers(result, device):
    """The tensors and numbers in a result, on the processor; each tensor was where it should be."""
    if isinstance(result, torch.Tensor):
        assert result.device == torch.device(device)
        return [result.detach().cpu()]
    if isinstance(result, list | tuple):
        return [number for part in result for number in numbers(part, device)]
    return [] if result is None else [torch.tensor(result, dtype=torch.float64, device="cpu")]


@pytest.fixture(scope="module")
def expected():
    return {name: numbers(case(Place()), "cpu") for name, case in CASES.items()}


def same(case, place, wanted):
    found = numbers(case(place), place.device)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


LONG = ("a world", "a world of classes", "no teacher", "metrics")


@pytest.mark.parametrize("generator", [pytest.param(torch.Generator, marks=pytest.mark.slow), GeneratorElsewhere])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES])
def test_a_second_device_gives_the_same_numbers(name, generator, expected):
    with pretended():
        same(CASES[name], Place(DEVICE, generator), expected[name])


@pytest.mark.parametrize("name", CASES)
def test_the_default_dtype_does_not_matter(name, expected):
    torch.set_default_dtype(torch.float64)
    try:
        same(CASES[name], Place(), expected[name])
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", [name for name in CASES if name != "plotting"])
def test_the_default_device_does_not_matter(name, expected):
    torch.set_default_device(DEVICE)  # which this machine has not: nothing can be made there
    try:
        same(CASES[name], Place(), expected[name])
    finally:
        torch.set_default_device(None)


# the pretence itself: what a real device refuses is refused, and what it takes is taken
FAULTS = {
    "made without a device": lambda x: torch.zeros(3) + x,
    "of the processor": lambda x: torch.zeros(3, device="cpu") + x,
    "a list": lambda x: x * torch.tensor([1.0, 2.0, 3.0], device="cpu"),
    "joined": lambda x: torch.cat([x, torch.ones(3, device="cpu")]),
    "written into": lambda x: torch.ones(3, device="cpu").add_(x),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: __import__("numpy").asarray(x),
    "drawn without a device": lambda x: x + torch.randn(3, generator=torch.Generator()),
    "the other's generator": lambda x: torch.randn(3, generator=torch.Generator(), device=x.device),
    "its own generator, here": lambda x: torch.randn(3, generator=GeneratorElsewhere(), device="cpu"),
    "drawn in place": lambda x: x.clone().normal_(generator=torch.Generator()),
    "an index": lambda x: torch.ones(3, device="cpu")[x.long()],
    "a matrix": lambda x: torch.ones((2, 3), device="cpu") @ x,
    "a module left behind": lambda x: nn.Linear(3, 3, device="cpu")(x),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_pretence_sees_a_fault(name):
    with pretended():
        x = torch.ones(3, device="cpu").to(DEVICE)
        with pytest.raises(MixedError):
            FAULTS[name](x)


def test_the_pretence_takes_what_a_device_takes():
    with pretended():
        x = torch.ones(3, device="cpu").to(DEVICE)
        assert isinstance(x, Elsewhere)
        assert x.device == DEVICE
        results = [
            x + torch.tensor(2.0),  # a number is taken from anywhere
            x[torch.tensor([0, 0, 1], device="cpu")],
            torch.zeros(3, device=DEVICE) + x,
            torch.randn(3, generator=torch.Generator(), device="cpu").to(x) + x,
            nn.Linear(3, 3).to(DEVICE)(x),
            torch.zeros_like(x).copy_(torch.ones(3, device="cpu")),
            x.new_zeros(2),
        ]
        assert all(isinstance(result, Elsewhere) for result in results)
        assert x.cpu().numpy().sum() == 3.0
        y = x.clone().requires_grad_(True)
        (y**3).sum().backward()
        assert y.grad.tolist() == [3.0, 3.0, 3.0]
