"""Every public function on a pretended second device, and under other defaults of torch: the same numbers as without."""

import matplotlib.pyplot as plt
import pytest
import torch
from pretend import DEVICE, Elsewhere, GeneratorElsewhere, MixedError, pretended
from torch import nn

import ctm
from ctm import diagnosis, editing, likelihood, plotting, samplers, solvers
from ctm.noise import karras_times

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
        self.layer = nn.Linear(2, 2)
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


# name: what is called with a Place and returns tensors (or numbers), the same wherever that place is
CASES = {
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


@pytest.mark.parametrize("generator", [torch.Generator, GeneratorElsewhere])
@pytest.mark.parametrize("name", CASES)
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
    torch.set_default_device("meta")
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
