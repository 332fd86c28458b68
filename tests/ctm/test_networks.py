"""Networks: weights by seed alone, outputs recomputed by hand, shapes, dtypes, transforms of torch.func."""

import copy
import json
import math
import threading

import numpy as np
import pytest
import torch
from scipy import signal
from torch import nn

import ctm
from ctm.networks import (
    MLP,
    NETWORKS,
    Discriminator,
    ImageDiscriminator,
    Transformer,
    UNet,
    discriminator_for,
    register,
)

IMAGES = {
    "unet 8": lambda **more: UNet((8, 8), width=8, **more),
    "unet 12, one level": lambda **more: UNet((2, 12, 12), width=4, levels=1, **more),
    "unet 8, patches of 2": lambda **more: UNet((3, 8, 8), width=8, patch=2, **more),
    "unet 28": lambda **more: UNet((1, 28, 28), width=4, levels=3, **more),
    "unet 32 by 16": lambda **more: UNet((3, 32, 16), width=6, levels=4, **more),
    "transformer 8": lambda **more: Transformer((8, 8), width=16, layers=2, heads=2, **more),
    "transformer 28": lambda **more: Transformer((1, 28, 28), patch=7, width=8, layers=1, heads=1, **more),
    "transformer 12 by 6": lambda **more: Transformer((3, 12, 6), patch=3, width=16, layers=2, **more),
}
ALL = IMAGES | {"mlp": lambda **more: MLP(3, width=16, layers=2, **more)}


def shape_of(network):
    return getattr(network, "shape", (3,))


def inputs(network, n=4, seed=0, dtype=torch.float32):
    """Points, times and later times."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape_of(network), generator=rng, dtype=dtype)
    tau_t = torch.rand(n, generator=rng, dtype=dtype)
    return x, tau_t, tau_t - torch.rand(n, generator=rng, dtype=dtype)


def shaken(network, seed=1):
    """The network with every weight moved, so that none is zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=rng).to(weights)
    return network


# -- weights ----------------------------------------------------------------------------------------------------


def torch_mlp(dim, width, layers, features, seed, conditions=0):
    """The weights that torch's own layers draw, one after the other, from its global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [dim + 2 * (2 * features + 1) + conditions] + [width] * layers + [dim]
        made = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    return [weights for layer in made for weights in layer.parameters()]


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**40])
def test_an_mlps_weights_are_those_that_torch_draws(seed):
    for dim, width, layers, features, conditions in ((2, 96, 5, 6, 0), (1, 7, 1, 1, 0), (16, 33, 3, 4, 5)):
        mine = MLP(dim, width, layers, features, seed=seed, conditions=conditions)
        known = torch_mlp(dim, width, layers, features, seed, conditions)
        for ours, theirs in zip(mine.parameters(), known, strict=True):
            assert torch.equal(ours, theirs)


def test_a_unets_convolutions_are_drawn_as_torch_draws_them():
    network = UNet((8, 8), width=8, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                known = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            elif isinstance(layer, nn.Conv2d):
                size, pad = layer.kernel_size, layer.padding
                known = nn.Conv2d(layer.in_channels, layer.out_channels, size, padding=pad)
            else:
                continue
            if layer not in (network.leave, network.embedding.of_s):
                assert torch.equal(layer.weight, known.weight)
    assert all(torch.equal(w, torch.ones_like(w)) for k, w in network.named_parameters() if "norm.weight" in k)


@pytest.mark.parametrize("name", ALL)
def test_torchs_own_generator_is_neither_used_nor_moved(name):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = ALL[name](seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    second, other = ALL[name](seed=3), ALL[name](seed=4)
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.slow
def test_the_seed_decides_in_threads():
    known = {seed: MLP(2, width=16, layers=2, seed=seed).state_dict() for seed in (0, 1)}
    made = {0: [], 1: []}
    start = threading.Barrier(2)

    def work(seed):
        for _ in range(300):
            start.wait()
            made[seed].append(MLP(2, width=16, layers=2, seed=seed).state_dict())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (0, 1):
        assert len(made[seed]) == 300
        assert all(torch.equal(state[key], known[seed][key]) for state in made[seed] for key in state)


@pytest.mark.parametrize("name", ALL)
def test_torchs_defaults_do_no_harm(name):
    known = ALL[name](seed=2)
    torch.set_default_dtype(torch.float64)
    try:
        made = ALL[name](seed=2)
    finally:
        torch.set_default_dtype(torch.float32)
    for key, value in known.state_dict().items():
        assert made.state_dict()[key].dtype == torch.float32
        assert torch.equal(made.state_dict()[key], value)


@pytest.mark.parametrize("name", ALL)
def test_on_the_meta_device_only_shapes_are_made(name):
    with torch.device("meta"):
        shapes = ALL[name]()
    assert all(weights.is_meta for weights in shapes.parameters())
    known = ALL[name]().state_dict()
    assert {k: v.shape for k, v in shapes.state_dict().items()} == {k: v.shape for k, v in known.items()}


@pytest.mark.parametrize(("dim", "gain"), [(1, 8.0), (2, 8.0), (8, 4.0), (64, 8 * math.sqrt(1 / 32))])
def test_the_gain_of_many_dimensions(dim, gain):
    assert MLP(dim).gain == gain
    assert MLP(dim).config["gain"] == gain  # not None: a file outlives the default
    assert MLP(dim, gain=3.0).gain == 3.0


def test_numbers_of_parameters():
    def embedding(width, conditions):
        return 2 * 13 * width + width + conditions * width + width**2 + width

    def block(a, b, width):
        norms, convolutions = 2 * a + 2 * b, 9 * a * b + b + 9 * b * b + b
        return norms + convolutions + 2 * b * width + 2 * b + (a * b + b if a != b else 0)

    w = 24
    expected = embedding(4 * w, 10) + 10 * w + block(w, w, 4 * w) + block(w, 2 * w, 4 * w)
    expected += block(2 * w, 2 * w, 4 * w) + block(4 * w, 2 * w, 4 * w) + block(3 * w, w, 4 * w)
    expected += 2 * w + 9 * w + 1
    assert sum(weights.numel() for weights in UNet((8, 8), conditions=10).parameters()) == expected
    w, layers = 32, 3
    one = 6 * w * w + 6 * w + 3 * w * w + 3 * w + w * w + w + 8 * w * w + 5 * w
    expected = embedding(w, 0) + 16 * w + 4 * w + w + layers * one + 2 * w * w + 2 * w + 4 * w + 4
    network = Transformer((8, 8), width=w, layers=layers)
    assert sum(weights.numel() for weights in network.parameters()) == expected


# -- outputs ----------------------------------------------------------------------------------------------------


def features(tau, count=6):
    angles = [2 * math.pi * 2.0 ** (-3 + 4 * i / (count - 1)) for i in range(count)]
    return [math.sin(a * tau) for a in angles], [math.cos(a * tau) for a in angles]


def silu(x):
    return x / (1 + np.exp(-x))


def test_an_mlp_by_plain_matrix_products():
    network = MLP(3, width=8, layers=2, seed=4, conditions=2).double()
    x, tau_t, tau_s = inputs(network, dtype=torch.float64)
    condition = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    for told in (None, condition, condition * torch.arange(4.0)[:, None]):
        rows = []
        for i in range(4):
            t, s = float(tau_t[i]), float(tau_s[i])
            (sin_t, cos_t), (sin_s, cos_s) = features(t), features(s)
            c = [0.0, 0.0] if told is None else told[i % len(told)].tolist()
            h = np.array([*(network.gain * x[i]).tolist(), t, s, *sin_t, *sin_s, *cos_t, *cos_s, *c])
            for layer in (network.body[0], network.body[2]):
                h = silu(layer.weight.detach().numpy() @ h + layer.bias.detach().numpy())
            rows.append(network.body[4].weight.detach().numpy() @ h + network.body[4].bias.detach().numpy())
        found = network(x, tau_t, tau_s, told).detach().numpy()
        np.testing.assert_allclose(found, np.stack(rows), rtol=1e-6, atol=1e-7)  # frequencies are float32


def test_a_unet_of_one_level_by_plain_loops():
    network = shaken(UNet((4, 4), width=2, levels=1, seed=5, conditions=3)).double()
    x, tau_t, tau_s = inputs(network, n=1, dtype=torch.float64)
    state = {key: value.numpy() for key, value in network.state_dict().items()}

    def phi(tau):
        sin, cos = features(float(tau))
        return np.array([float(tau), *sin, *cos])

    def conv(name, h):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        pad = weight.shape[-1] // 2
        padded = np.pad(h, ((0, 0), (pad, pad), (pad, pad)))
        out = np.zeros((len(weight), *h.shape[1:]))
        for o in range(len(weight)):
            for i in range(h.shape[1]):
                for j in range(h.shape[2]):
                    patch = padded[:, i : i + weight.shape[2], j : j + weight.shape[3]]
                    out[o, i, j] = (patch * weight[o]).sum() + bias[o]
        return out

    def norm(name, h):  # two or four channels: groups of one
        h = (h - h.mean((1, 2), keepdims=True)) / np.sqrt(h.var((1, 2), keepdims=True) + 1e-5)
        return h * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    def block(name, h):
        scale, shift = np.split(state[f"{name}.told.weight"] @ e + state[f"{name}.told.bias"], 2)
        inner = norm(f"{name}.second_norm", conv(f"{name}.first", silu(norm(f"{name}.first_norm", h))))
        inner = conv(f"{name}.second", silu((1 + scale[:, None, None]) * inner + shift[:, None, None]))
        return inner + (conv(f"{name}.short", h) if f"{name}.short.weight" in state else h)

    e = state["embedding.of_t.weight"] @ phi(tau_t[0]) + state["embedding.of_t.bias"]
    e = e + state["embedding.of_s.weight"] @ (phi(tau_s[0]) - phi(tau_t[0]))
    e = silu(e + 3**0.5 * state["embedding.of_condition.weight"] @ [0.0, 1.0, -0.5])
    e = silu(state["embedding.out.weight"] @ e + state["embedding.out.bias"])
    down = block("down.0", conv("enter", x.numpy()))
    up = block("up.0", np.concatenate([block("middle", down), down]))
    expected = conv("leave", silu(norm("norm", up)))
    told = torch.tensor([[0.0, 1.0, -0.5]])
    np.testing.assert_allclose(network(x, tau_t, tau_s, told).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_attention_by_plain_loops():
    layer = Transformer((8, 8), width=8, layers=1, heads=2, seed=1).layers[0]
    h = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    asked = h @ layer.asks.weight.T + layer.asks.bias
    out = torch.zeros(2, 5, 8)
    for head in range(2):
        q, k, v = (asked[..., 8 * part + 4 * head : 8 * part + 4 * head + 4] for part in range(3))
        for n in range(2):
            for i in range(5):
                weights = torch.stack([(q[n, i] @ k[n, j] / 2).exp() for j in range(5)])
                out[n, i, 4 * head : 4 * head + 4] = (weights / weights.sum()) @ v[n]
    expected = out @ layer.mixes.weight.T + layer.mixes.bias
    assert torch.allclose(layer.attention(h), expected, atol=1e-6)


def test_patches_go_back_to_their_places():
    network = Transformer((2, 4, 6), patch=2, width=8, layers=1, heads=1)
    with torch.no_grad():  # no layer at work, and what enters leaves: the network is the identity up to the norm
        network.enter.weight.copy_(torch.eye(8))
        network.enter.bias.zero_()
        network.place.zero_()
        network.leave.weight.copy_(torch.eye(8))
    x, tau_t, tau_s = inputs(network)
    found = network(x, tau_t, tau_s)
    for i in range(2):
        for j in range(3):
            patch = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            mean, var = patch.mean((1, 2, 3), keepdim=True), patch.var((1, 2, 3), keepdim=True, correction=0)
            expected = (patch - mean) / (var + 1e-5).sqrt()
            assert torch.allclose(found[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], expected, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_a_new_network_returns_zero_and_does_not_see_s(name):
    network = IMAGES[name]()
    x, tau_t, tau_s = inputs(network)
    assert not network(x, tau_t, tau_s).any()
    zero = copy.deepcopy(network.embedding.of_s.weight)
    shaken(network)
    assert not torch.allclose(network(x, tau_t, tau_s), network(x, tau_t, tau_s - 0.3))
    network.embedding.of_s.weight = zero
    assert torch.equal(network(x, tau_t, tau_s), network(x, tau_t, tau_s - 0.3))
    assert not torch.allclose(network(x, tau_t, tau_s), network(x, tau_t - 0.3, tau_s))


@pytest.mark.parametrize("name", IMAGES)
def test_denoising_leaves_the_branch_of_s_at_zero_and_jumps_move_it(name):
    network = IMAGES[name]()
    x, tau_t, tau_s = inputs(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for later in (tau_t, tau_t, tau_t, tau_s, tau_s):
        before = network.embedding.of_s.weight.detach().clone()
        optimizer.zero_grad()
        (network(x, tau_t, later) - 1).square().mean().backward()
        optimizer.step()
        moved = not torch.equal(before, network.embedding.of_s.weight)
        assert moved == (later is tau_s)
    assert all(weights.grad is not None and weights.grad.any() for weights in network.parameters())


@pytest.mark.parametrize("name", ALL)
def test_the_condition_is_seen_and_its_shape_checked(name):
    network = shaken(ALL[name](conditions=3))
    x, tau_t, tau_s = inputs(network)
    none, table = network(x, tau_t, tau_s), torch.eye(4, 3)
    assert torch.equal(none, network(x, tau_t, tau_s, torch.zeros(1, 3)))
    assert torch.equal(none, network(x, tau_t, tau_s, torch.zeros(4, 3)))
    found = network(x, tau_t, tau_s, table)
    assert torch.allclose(found[3], none[3], atol=1e-6)  # its row is zero
    assert not torch.allclose(found[:3], none[:3])
    for i in range(4):
        row = [part[i : i + 1] for part in (x, tau_t, tau_s, table)]
        assert torch.allclose(network(*row)[0], found[i], atol=1e-5)
    for wrong in (torch.zeros(3), torch.zeros(4, 2), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match=r"condition must have shape \(4 or 1, 3\), got"):
            network(x, tau_t, tau_s, wrong)
    with pytest.raises(ValueError, match=r"condition must have shape \(4 or 1, 0\), got \(4, 3\)"):
        ALL[name]()(x, tau_t, tau_s, table)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("conditions", [0, 3])
def test_a_time_told_once_holds_for_all_points(name, conditions):
    network = shaken(ALL[name](conditions=conditions))
    x, tau_t, tau_s = inputs(network)
    known = network(x, tau_t[:1].expand(4), tau_s[:1].expand(4))
    assert torch.equal(network(x, tau_t[:1], tau_s[:1]), known)
    assert torch.equal(network(x, tau_t[:1], tau_s[:1].expand(4)), known)
    assert not torch.allclose(network(x, tau_t[:1], tau_s), known)


def test_a_wrong_shape_is_named_beside_the_right_one():
    tau = torch.zeros(2)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 1, 8, 8\), got \(2, 8, 8\)"):
        UNet((1, 8, 8))(torch.zeros(2, 8, 8), tau, tau)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 8, 8\), got \(2, 8, 6\)"):
        Transformer((8, 8))(torch.zeros(2, 8, 6), tau, tau)
    with pytest.raises(ValueError, match=r"x must have 3 numbers per sample, got \(2, 2, 2\)"):
        MLP(3)(torch.zeros(2, 2, 2), tau, tau)


WRONG = {
    "side": (lambda: UNet((9, 8)), r"both sides divisible by 2, got \(9, 8\)"),
    "side of three levels": (lambda: UNet((1, 28, 30), levels=3), r"divisible by 4, got \(1, 28, 30\)"),
    "patch": (lambda: Transformer((8, 8), patch=3), r"divisible by 3, got \(8, 8\)"),
    "flat": (lambda: UNet((64,)), r"shape must be \(height, width\)"),
    "four axes": (lambda: Transformer((1, 1, 8, 8)), r"shape must be \(height, width\)"),
    "side of patches": (lambda: UNet((8, 10), patch=2), r"divisible by 4, got \(8, 10\)"),
    "no patch": (lambda: UNet((8, 8), patch=0), "patch must lie in"),
    "no side": (lambda: UNet((0, 8)), "shape must lie in"),
    "heads": (lambda: Transformer((8, 8), width=10), "width must be divisible by heads = 4, got 10"),
    "levels": (lambda: UNet((8, 8), levels=0), "levels must lie in"),
    "layers": (lambda: MLP(2, layers=10**4), "layers must lie in"),
    "features": (lambda: Transformer((8, 8), features=0), "features must lie in"),
    "seed": (lambda: UNet((8, 8), seed=-1), "seed must lie in"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name):
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()


# -- dtypes and transforms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_dtypes(name):
    network = shaken(ALL[name](conditions=2))
    double = copy.deepcopy(network).double()
    x, tau_t, tau_s = inputs(network)
    exact = double(x.double(), tau_t.double(), tau_s.double())
    assert exact.dtype == torch.float64
    spread = exact.std()
    assert (network(x, tau_t, tau_s) - exact).abs().max() < 1e-4 * spread
    half = copy.deepcopy(network).to(torch.bfloat16)
    assert half.frequencies.dtype == torch.float32
    assert torch.equal(half.frequencies, network.frequencies)
    found = half(x.bfloat16(), tau_t, tau_s, torch.zeros(4, 2))  # times may stay as exact as they were
    assert found.dtype == torch.bfloat16
    assert (found - exact).square().mean().sqrt() < 0.05 * spread
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x, tau_t, tau_s)
    assert found.shape == x.shape
    assert (found - exact).square().mean().sqrt() < 0.05 * spread
    assert (found - exact).abs().max() > 1e-5 * spread  # it was at work


@pytest.mark.parametrize("name", ALL)
def test_forward_mode_derivatives_and_vmap(name):
    network = shaken(ALL[name]()).double().requires_grad_(False)
    x, tau_t, tau_s = inputs(network, dtype=torch.float64)
    _, slope = torch.func.jvp(lambda s: network(x, tau_t, s), (tau_s,), (torch.ones_like(tau_s),))
    h = 1e-6
    expected = (network(x, tau_t, tau_s + h) - network(x, tau_t, tau_s - h)) / (2 * h)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(slope, expected, atol=1e-5 * float(expected.abs().max()))
    times = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    mapped = torch.func.vmap(lambda t: network(x, t.expand(4), (t - 0.2).expand(4)))(times)
    each = torch.stack([network(x, t.expand(4), (t - 0.2).expand(4)) for t in times])
    assert torch.allclose(mapped, each, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "unet 8", "transformer 8"])
def test_compiles_without_a_break(name):
    network = shaken(ALL[name](conditions=2))
    x, tau_t, tau_s = inputs(network)
    table = torch.ones(1, 2)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x, tau_t, tau_s, table), network(x, tau_t, tau_s, table), atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_student_starts_as_its_teacher(name):
    network = shaken(ALL[name](conditions=3))  # also with weights on s, as a teacher that is a CTM has
    teacher = ctm.ConditionalCTM(network, 0.5).requires_grad_(False).double()
    student = ctm.models.student_of(teacher)
    assert all(weights.requires_grad for weights in student.parameters())
    x, t = inputs(network, dtype=torch.float64)[0], torch.tensor([4.0, 1.0, 0.3, 0.02], dtype=torch.float64)
    for told in (None, torch.tensor([0, 1, 1, -1])):
        clean = teacher.given(told).denoiser(x, t)
        for s in (t, t / 2, 0.01):
            assert torch.allclose(student.given(told).g(x, t, s), clean, atol=1e-12)
    assert not torch.allclose(teacher.g(x, t, t / 2), teacher.g(x, t, t), atol=1e-3)  # the teacher itself is untouched
    aim = student.jump(x, t.reshape(-1, *[1] * (x.ndim - 1)), torch.full([1] * x.ndim, 0.01, dtype=torch.float64))
    aim.square().sum().backward()
    first = network.body[0] if name == "mlp" else None
    of_s = student.network.body[0].weight.grad[:, 4] if first else student.network.embedding.of_s.weight.grad
    assert of_s.abs().max() > 1e-6  # and s is learned from there


def test_a_student_needs_a_network_that_can_forget_s():
    with pytest.raises(TypeError, match="teacher must be a CTM, got GaussianMixture"):
        ctm.models.student_of(ctm.data.ring())
    with pytest.raises(TypeError, match="network with forget_s, Linear has none"):
        ctm.models.student_of(ctm.CTM(nn.Linear(2, 2), 0.5))


def test_patches_are_the_squares_of_an_image():
    """A network over patches is the one over the small images that have a channel for each place in a patch."""
    whole, small = UNet((2, 8, 12), width=8, patch=2, seed=3), UNet((8, 4, 6), width=8, seed=3)
    shaken(whole), shaken(small)
    x, tau_t, tau_s = inputs(whole)
    cut = torch.stack([x[:, c, i::2, j::2] for c in range(2) for i in range(2) for j in range(2)], 1)
    out, expected = whole(x, tau_t, tau_s), small(cut, tau_t, tau_s)
    for k, (c, i, j) in enumerate((c, i, j) for c in range(2) for i in range(2) for j in range(2)):
        assert torch.allclose(out[:, c, i::2, j::2], expected[:, k], atol=1e-6)


# -- the register ------------------------------------------------------------------------------------------------


@pytest.fixture
def register_as_before():
    before = dict(NETWORKS)
    yield
    NETWORKS.clear()
    NETWORKS.update(before)


def test_the_arguments_are_kept(register_as_before):
    assert UNet((8, 8), width=np.int64(6)).config == {
        "shape": [8, 8],
        "width": 6,
        "levels": 2,
        "features": 6,
        "seed": 0,
        "conditions": 0,
        "patch": 1,
    }

    @register
    class Wide(MLP):
        def __init__(self, dim, *, scale=(1.0, 1.0), **more):
            super().__init__(dim, width=200, **more)

    config = Wide(2, scale=torch.ones(2), layers=1).config
    assert config == {"dim": 2, "scale": [1.0, 1.0], "layers": 1}
    assert json.loads(json.dumps(config)) == config
    assert Wide(**config).body[0].out_features == 200
    assert MLP(2).config["width"] == 96  # the base keeps its own


def test_a_name_is_registered_once(register_as_before):
    @register
    class Plain(nn.Module):
        pass

    assert NETWORKS["Plain"] is Plain
    assert Plain().config == {}
    with pytest.raises(ValueError, match=r"network must have a new name, .*test_networks has Plain"):
        register(type("Plain", (nn.Module,), {}))
    assert NETWORKS["Plain"] is Plain
    for _ in range(2):  # a cell that is run twice
        cell = register(type("Cell", (nn.Module,), {"__module__": "__main__"}))
        assert NETWORKS["Cell"] is cell


def test_arguments_that_no_file_can_hold_are_refused(register_as_before):
    @register
    class Acting(nn.Module):
        def __init__(self, act):
            super().__init__()

    with pytest.raises(TypeError, match="Acting must be given what JSON can write"):
        Acting(torch.relu)
    with pytest.raises(TypeError, match="Acting must be given what JSON can write"):
        Acting(math.nan)


def test_a_discriminator_by_plain_matrix_products():
    network = Discriminator(6, sigma_data=0.5, width=8, seed=2).double()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 2, generator=rng, dtype=torch.float64)
    tau = torch.rand(5, 1, 1, generator=rng, dtype=torch.float64) + 0.1
    for i in range(5):
        t = float(tau[i])
        h = np.array([*(4 * x[i].flatten() / math.hypot(t, 0.5)).tolist(), math.log(t) / 4])
        for layer in network.body[0:6:2]:
            h = silu(layer.weight.detach().numpy() @ h + layer.bias.detach().numpy())
        expected = network.body[6].weight.detach().numpy() @ h + network.body[6].bias.detach().numpy()
        assert network(x, tau)[i].item() == pytest.approx(expected.item(), rel=1e-12)
    before = torch.random.get_rng_state()
    assert torch.equal(Discriminator(6, 0.5, seed=2).body[0].weight, Discriminator(6, 0.5, seed=2).body[0].weight)
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        assert torch.equal(network.body[0].weight, nn.Linear(7, 8).weight.double())


@pytest.mark.parametrize("shape", [(9, 8), (2, 8, 11)])
def test_a_discriminator_of_images_by_plain_sums(shape):
    network = ImageDiscriminator(shape, sigma_data=0.5, width=4, seed=2).double()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape, generator=rng, dtype=torch.float64)
    tau = torch.rand(2, *[1] * len(shape), generator=rng, dtype=torch.float64) + 0.1
    found = network(x, tau)
    assert found.shape == (2,)
    for i in range(2):
        t = float(tau[i])
        h = (2 * x[i] / math.hypot(t, 0.5)).reshape(-1, *shape[-2:]).numpy()
        h = np.concatenate([h, np.full((1, *shape[-2:]), math.log(t) / 4)])
        for layer in network.body[0:6:2]:  # every second of correlation's values, from the first
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            maps = [sum(signal.correlate2d(a, b, "same") for a, b in zip(h, kernel, strict=True)) for kernel in weight]
            h = silu(np.stack(maps)[:, ::2, ::2] + bias[:, None, None])
        first, last = network.body[7], network.body[9]
        h = silu(first.weight.detach().numpy() @ h.ravel() + first.bias.detach().numpy())
        expected = last.weight.detach().numpy() @ h + last.bias.detach().numpy()
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-12)
    assert [layer.out_channels for layer in network.body[0:6:2]] == [2, 4, 8]


def test_which_discriminator_is_for_which_points():
    for shape in ((2,), (4, 4), (3, 7, 9), (1, 2, 8, 8)):
        assert type(discriminator_for(shape, 0.5, 8, 0)) is Discriminator
    for shape in ((8, 8), (3, 9, 28)):
        made = discriminator_for(shape, 0.5, 8, 3)
        assert type(made) is ImageDiscriminator
        assert torch.equal(made.body[0].weight, ImageDiscriminator(shape, 0.5, 8, 3).body[0].weight)
    for bad in ((8,), (1, 1, 8, 8)):
        with pytest.raises(ValueError, match=r"shape must be \(height, width\)"):
            ImageDiscriminator(bad, 0.5)
    with pytest.raises(ValueError, match=r"width must lie in \[2,"):
        ImageDiscriminator((8, 8), 0.5, width=1)


@pytest.mark.parametrize("name", ["unet 8", "transformer 8"])
def test_the_last_layer_is_the_one_that_leaves(name):
    network = ALL[name]()
    assert ctm.CTM(network, 0.5).last_layer is network.leave.weight
