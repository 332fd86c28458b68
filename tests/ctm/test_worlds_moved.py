"""Worlds far from the origin, wide worlds, devices, copies, numbers of other libraries."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import generator, noised
from scipy import stats

import ctm
from ctm.closed_forms import AffineMap, Line, Perturbed
from ctm.metrics import flow_map_error, relative_error, sliced_wasserstein
from ctm.mixture import plain_denoiser

FAR = torch.tensor([5e5, 5.4e6], dtype=torch.float64)


def spread_out(k=30, std=1.0, spread=10.0):
    means = torch.randint(-64, 64, (k, 2), generator=generator(3)).double() / 64 * spread
    return means, torch.linspace(std, 2 * std, k, dtype=torch.float64)


def test_a_world_far_away_is_the_world_at_the_origin():
    means, stds = spread_out()  # sixty-fourths: the shift rounds nothing
    labels = torch.arange(30) % 3
    here = ctm.LabelledMixture(means, stds, labels)
    there = ctm.LabelledMixture(means + FAR, stds, labels)
    assert there.sigma_data == pytest.approx(here.sigma_data, rel=1e-9)
    x = (noised(here, 3.0, n=40) * 64).round() / 64
    y, t = x + FAR, 3.0
    same = {"rtol": 1e-9, "atol": 1e-8}  # 5.4e6 is itself rounded to 1e-9
    assert torch.allclose(there.log_prob(y, t), here.log_prob(x, t), **same)
    assert torch.allclose(there.score(y, t), here.score(x, t), **same)
    assert torch.allclose(there.velocity(y, t), here.velocity(x, t), **same)
    assert torch.allclose(there.denoiser(y, t) - FAR, here.denoiser(x, t), **same)
    assert torch.allclose(there.G(y, t, 0.01) - FAR, here.G(x, t, 0.01), rtol=0, atol=1e-7)
    probabilities = there.class_probabilities(y, t)
    assert torch.allclose(probabilities, here.class_probabilities(x, t), **same)
    for w in (0.0, 1.0, 3.0):
        far, near = there.given(labels[:1], w), here.given(labels[:1], w)
        assert torch.allclose(far.denoiser(y, t) - FAR, near.denoiser(x, t), **same)
        assert torch.allclose(far.G(y, t, 0.1) - FAR, near.G(x, t, 0.1), rtol=0, atol=1e-7)
    # the class worlds are measured from the centre of the whole
    assert torch.equal(there.of_class(1).center, there.center)
    assert torch.allclose(there.of_class(1).score(y, t), here.of_class(1).score(x, t), **same)


def test_the_density_far_away_is_scipys():
    means, c, offset, t = np.array([[0.0], [0.5]]), 0.0625, 5e6, 0.125
    world = ctm.GaussianMixture(means + offset, c, [0.25, 0.75])
    x = np.array([0.125, 0.25, 0.75])
    density = 0.25 * stats.norm.pdf(x, 0, np.hypot(c, t)) + 0.75 * stats.norm.pdf(x, 0.5, np.hypot(c, t))
    found = world.log_prob(torch.from_numpy(x + offset)[:, None], t)
    assert np.allclose(found.numpy(), np.log(density), rtol=0, atol=1e-9)


def test_a_wide_world_is_measured_by_differences():
    # twin components a millionth of the spread apart: squares of 1e6 would swallow their distance
    means = torch.tensor([[1e9, 0.0], [1e9, 3.0], [-1e9, 0.0], [-1e9, 3.0]])
    world, pair = ctm.GaussianMixture(means, 1.0), ctm.GaussianMixture(means[:2] - means[0], 1.0)
    x = torch.tensor([[0.5, 1.0], [0.0, 2.0], [-1.0, 1.75]], dtype=torch.float64)
    y = x + means[0].double()
    log_two = torch.tensor(2.0).double().log()
    assert torch.allclose(world.log_prob(y, 0.5), pair.log_prob(x, 0.5) - log_two, atol=1e-9)
    assert torch.allclose(world.score(y, 0.5), pair.score(x, 0.5), atol=1e-7)
    assert torch.allclose(world.denoiser(y, 0.5)[:, 1], pair.denoiser(x, 0.5)[:, 1], atol=1e-7)
    uneven = ctm.GaussianMixture(means, [1.0, 2.0, 1.0, 2.0])
    near = ctm.GaussianMixture(means[:2] - means[0], [1.0, 2.0])
    assert torch.allclose(uneven.score(y, 0.5), near.score(x, 0.5), atol=1e-7)


@pytest.mark.parametrize("stds", [0.2, [0.1, 0.4, 0.2]])
@pytest.mark.parametrize("t", [0.01, 0.7, 8.0])
def test_the_plain_denoiser_is_the_fast_one(stds, t):
    means = torch.tensor([[0.0, 1.0], [-2.0, 0.5], [1.0, 1.0]], dtype=torch.float64)
    world = ctm.GaussianMixture(means, stds, [1.0, 2.0, 3.0])
    x = noised(world, t)
    plain = plain_denoiser(x, t, world.means, world.stds, world.weights)
    assert torch.allclose(plain, world.denoiser(x, t), rtol=1e-9, atol=1e-9)
    # and by a third way: a direct sum of numbers
    variances = [(c * c + t * t) for c in world.stds.tolist()]
    for point, found in zip(x[:3].tolist(), plain[:3].tolist(), strict=True):
        weight = [
            w * stats.multivariate_normal(mu, v * np.eye(2)).pdf(point)
            for w, mu, v in zip(world.weights.tolist(), means.tolist(), variances, strict=True)
        ]
        for axis in (0, 1):
            own = [
                ((v - t * t) * point[axis] + t * t * mu[axis]) / v for mu, v in zip(means.tolist(), variances, strict=True)
            ]
            assert found[axis] == pytest.approx(np.average(own, weights=weight), rel=1e-8)


def test_the_centre_is_the_mean_and_zero_where_it_is_next_to_nothing():
    assert ctm.data.ring().center == 0.0
    world = ctm.data.uneven_two_gaussians()
    assert world.center.tolist() == pytest.approx([0.7 * -1.5 + 0.3 * 1.5])
    digits = ctm.LabelledMixture(torch.ones(2, 3, 4), 0.1, [0, 1])
    assert digits.center.shape == digits.given(1).center.shape == (3, 4)


def test_one_time_in_pieces_and_times_that_stay():
    world = ctm.data.uneven_two_gaussians()
    x = noised(world, 2.0, n=5)
    s = torch.tensor([2.0, 1.0, 2.0, 0.5, 0.0])
    mapped = world.G(x, 2.0, s)
    assert torch.equal(mapped[s == 2.0], x[s == 2.0])
    assert (mapped[s < 2.0] != x[s < 2.0]).all()


@pytest.mark.parametrize("chunk", [1, 8])
def test_guided_worlds_in_chunks(monkeypatch, chunk):
    world = ctm.LabelledMixture([[-1.0, 0.0], [1.0, 0.5]], 0.4, [0, 1])
    x, guided = noised(world, 1.0, n=9), world.given(torch.arange(9) % 2, 2.0)
    whole = guided.denoiser(x, 1.0), guided.G(x, 1.0, 0.5), world.class_probabilities(x, 1.0)
    monkeypatch.setattr("ctm.mixture.CHUNK", chunk)
    parts = guided.denoiser(x, 1.0), guided.G(x, 1.0, 0.5), world.class_probabilities(x, 1.0)
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_conditions_of_every_kind_agree():
    world = ctm.LabelledMixture([[-1.0], [1.0], [0.0]], [0.3, 0.2, 0.5], [0, 1, 1])
    x = noised(world, 0.5, n=4)
    classes, strengths = torch.tensor([0, 1, -1, 1]), torch.tensor([1.0, 3.0, 2.0, 0.0])
    table = torch.stack([classes.double(), strengths.double()], 1)
    by_table = world.given(table).G(x, 0.5, 0.1)
    assert torch.equal(by_table, world.given(classes, strengths).G(x, 0.5, 0.1))
    assert torch.equal(by_table, world.given(table.numpy()).G(x, 0.5, 0.1))
    singles = [(0, 1.0), (np.int64(1), np.float64(3.0)), (None, 2.0), (1, torch.tensor(0.0))]
    for i, (condition, w) in enumerate(singles):
        alone = world.given(condition, w).G(x[i : i + 1], 0.5, 0.1)
        assert torch.allclose(by_table[i : i + 1], alone, rtol=1e-9, atol=1e-9)
    own = world.of_class(1)
    assert torch.allclose(world.given(1).denoiser(x, 0.5), own.denoiser(x, 0.5), atol=1e-12)
    assert torch.allclose(world.given(None).denoiser(x, 0.5), world.denoiser(x, 0.5), atol=1e-12)
    guided = (1 - 3.0) * world.score(x, 0.5) + 3.0 * own.score(x, 0.5)
    assert torch.allclose(world.given(1, 3.0).score(x, 0.5), guided, atol=1e-9)


RINGS = ctm.data.half_rings()


@pytest.mark.parametrize(
    ("condition", "w", "error", "message"),
    [
        (2, None, ValueError, r"condition must be a class in \[0, 1\], or -1"),
        (-2, None, ValueError, "condition must be a class"),
        (0.5, None, TypeError, "condition must be whole"),
        (float("nan"), None, TypeError, "condition must be whole"),
        ("cat", None, TypeError, "condition must hold real numbers"),
        (True, None, TypeError, "condition must hold real numbers"),
        (torch.zeros(2, 3), None, ValueError, r"shape \(2, 3\)"),
        (torch.zeros(2, 2), 1.0, ValueError, "w must be None"),
        (0, -1.0, ValueError, "w must be finite and not negative"),
        (0, float("nan"), ValueError, "w must be finite"),
        (torch.tensor([[0.0, -1.0]]), None, ValueError, "w must be finite and not negative"),
        (0, [[1.0, 2.0]], ValueError, "w must be one number or one per sample"),
    ],
)
def test_a_wrong_condition_is_named(condition, w, error, message):
    with pytest.raises(error, match=message):
        RINGS.given(condition, w)


def test_conditions_for_other_points_are_named():
    with pytest.raises(ValueError, match="condition holds 3 values, x 4 points"):
        RINGS.given([0, 1, 0]).denoiser(torch.zeros(4, 2), 1.0)
    with pytest.raises(ValueError, match="w holds 3 values, x 4 points"):
        RINGS.given(0, [1.0, 2.0, 3.0]).G(torch.zeros(4, 2), 1.0, 0.5)


def test_a_world_keeps_copies():
    means, stds, weights = torch.ones(3, 2).double(), torch.ones(3).double(), torch.ones(3).double()
    labels = torch.tensor([0, 1, 0])
    world = ctm.LabelledMixture(means, stds, labels, weights)
    before = world.log_prob(torch.zeros(1, 2).double())
    for given in (means, stds, weights, labels):
        given += 5
    assert torch.equal(world.log_prob(torch.zeros(1, 2).double()), before)
    assert world.labels.tolist() == [0, 1, 0]
    assert world.means.max() == 1
    table = np.zeros((3, 2))
    other = ctm.GaussianMixture(table, 1.0)
    table += 1
    assert other.means.abs().max() == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(">f8"),
        lambda a: a.astype("<f4"),
        lambda a: a.astype(">i4"),
        lambda a: np.flip(np.flip(a, 0).copy(), 0),
        lambda a: np.asfortranarray(a),
        lambda a: np.ma.array(a, mask=False),
        lambda a: a.tolist(),
        lambda a: torch.from_numpy(a).bfloat16(),
    ],
)
def test_numbers_of_other_libraries(change):
    means, labels = np.array([[1.0, 2.0], [-3.0, 4.0], [5.0, -6.0]]), np.array([0, 1, 1])
    stds, weights = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0])
    plain = ctm.LabelledMixture(means, stds, labels, weights)
    given = [change(table) for table in (means, stds, labels.astype(float), weights)]
    other = ctm.LabelledMixture(*given)
    x = torch.tensor([[0.5, 0.5]])
    assert torch.equal(other.denoiser(x, 1.0), plain.denoiser(x, 1.0))
    assert torch.equal(other.given(0, 2.0).denoiser(x, 1.0), plain.given(0, 2.0).denoiser(x, 1.0))


MASKED = np.ma.array(np.ones((1000, 2)), mask=np.eye(1000, 2, dtype=bool))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((MASKED, 1.0), ValueError, "means must hold no masked values, got 2 of them"),
        ((np.ones((1000, 2)), MASKED[:, 0]), ValueError, "stds must hold no masked values, got 1"),
        ((np.ones((2, 2)), 1.0, np.ma.array([1.0, 2.0], mask=[0, 1])), ValueError, "weights must"),
        ((np.ones((1000, 2)), 1.0, -np.ones(1000)), ValueError, "weights must be finite, not neg"),
        ((np.ones((1000, 2)), np.zeros(1000)), ValueError, "stds must be finite and above 0"),
        ((np.ones((1000, 2)), np.ones(999)), ValueError, r"stds must have shape \(1000,\)"),
        ((np.ones((1000, 2)), 1.0, np.ones((1000, 1))), ValueError, "weights must have shape"),
        ((np.ones(1000), 1.0), ValueError, "means must have shape"),
        ((np.full((1000, 2), np.nan), 1.0), ValueError, "means must be finite"),
        (([[1.0], [1.0, 2.0]], 1.0), TypeError, "means must be numbers, in rows of one length"),
        ((np.ones((2, 2)) > 0, 1.0), TypeError, "means must hold real numbers, got dtype bool"),
        ((np.ones((2, 2)) * 1j, 1.0), TypeError, "means must hold real numbers, got dtype compl"),
        ((torch.ones(2, 2) * 1j, 1.0), TypeError, "means must hold real numbers"),
        ((np.array([["a", "b"]]), 1.0), TypeError, "means must hold real numbers"),
    ],
)
def test_a_wrong_table_is_named_and_not_printed(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        ctm.GaussianMixture(*arguments)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1], ValueError, r"labels must have shape \(3,\)"),
        ([0, 2, 2], ValueError, "labels must use every class from 0 on"),
        ([1, 2, 1], ValueError, "labels must use every class from 0 on"),
        ([-1, 0, 1], ValueError, "labels must use every class from 0 on"),
        ([0, 0.5, 1], TypeError, "labels must be whole numbers"),
        ([0, np.nan, 1], TypeError, "labels must be whole numbers"),
        (["a", "b", "a"], TypeError, "labels must hold real numbers"),
        (np.ma.array([0, 1, 0], mask=[0, 0, 1]), ValueError, "labels must hold no masked"),
    ],
)
def test_wrong_labels_are_named(labels, error, message):
    with pytest.raises(error, match=message):
        ctm.LabelledMixture(np.eye(3), 1.0, labels)
    with pytest.raises(error, match=message):
        ctm.data.Points(np.eye(3), labels)


def test_samples_are_fine_enough_for_their_place():
    for offset, dtype in ((0.0, torch.float32), (100.0, torch.float64), (1e6, torch.float64)):
        world = ctm.LabelledMixture([[-1.0], [1.0]], 0.05, [0, 1])
        moved = ctm.LabelledMixture(world.means + offset, 0.05, [0, 1])
        near, far = (w.sample(500, generator=generator()) for w in (world, moved))
        assert far.dtype == dtype
        assert (far.double() - offset - near.double()).abs().max() < 1e-5  # of 0.05
        assert moved.noised(3, 1.0, generator()).dtype == dtype
        assert moved.sample_labelled(3, generator=generator())[0].dtype == dtype
        assert moved.sample(3, dtype=torch.float16).dtype == torch.float16


def test_noised_points_are_sampled_and_noised():
    world, t = ctm.data.ring(), torch.tensor([0.1, 1.0, 10.0])
    g = generator(4)
    x0 = world.sample(3, generator=g)
    expected = x0 + t[:, None] * torch.randn(3, 2, generator=g)
    assert torch.equal(world.noised(3, t, generator(4)), expected)
    assert not torch.equal(world.noised(3, t, generator(5)), expected)


def test_a_world_moves_with_all_its_tables():
    world = ctm.data.half_rings()
    there = world.to("meta")
    tables = [value for value in vars(there).values() if isinstance(value, torch.Tensor)]
    assert len(tables) >= 6
    assert {table.device.type for table in tables} == {"meta"}
    assert world.means.device.type == "cpu"
    with pytest.raises(ValueError, match=r"x must be where the world is, on meta, got cpu"):
        there.denoiser(torch.zeros(1, 2), 1.0)
    back = world.to("cpu")
    assert back is not world
    assert torch.equal(back.denoiser(torch.ones(1, 2), 1.0), world.denoiser(torch.ones(1, 2), 1.0))


@pytest.mark.slow
def test_the_defaults_of_torch_do_no_harm():
    code = (
        "import torch, ctm; torch.set_default_dtype(torch.float64)\n"
        "torch.set_default_device('meta')\n"
        "w = ctm.data.half_rings(); g = torch.Generator(device='cpu').manual_seed(0)\n"
        "x = w.sample(4, generator=g); assert x.dtype == torch.float32 and x.device.type == 'cpu'\n"
        "y = w.given(1, 2.0).G(x, 1.0, 0.1); assert y.dtype == torch.float32\n"
        "p = ctm.data.Points(x.numpy()); assert p.sample(3, generator=g).dtype == torch.float32\n"
        "ctm.metrics.sliced_wasserstein(x, y); ctm.metrics.energy_distance(x, y)\n"
        "assert ctm.noise.karras_times(3, w).dtype == torch.float64\n"
        "ctm.noise.rho_times(3, w, g); ctm.noise.lognormal_times(3, w, g)\n"
        "ctm.noise.image_times(3, w, g)\n"
        "assert ctm.metrics.flow_map_error(w, w, n=5) < 1e-3\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_worlds_and_metrics_import_no_scipy_no_pot_no_sklearn():
    code = (
        "import sys, ctm.data, ctm.metrics, ctm.closed_forms\n"
        "ctm.data.ring().sample(3)\n"
        "own = [n for n in ('scipy', 'ot', 'sklearn') if n in sys.modules]\n"
        "print(own)\n"
    )
    stub = "import types, sys; p = types.ModuleType('ctm'); p.__path__ = ['ctm']; "
    stub += "sys.modules['ctm'] = p\n"
    run = [sys.executable, "-c", stub + code]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_times_are_drawn_within_the_limits():
    world = ctm.data.ring()
    drawn = ctm.noise.rho_times(4000, world, generator())
    assert drawn.shape == (4000,)
    low, high = world.sigma_min ** (1 / 7), world.sigma_max ** (1 / 7)
    fraction = (drawn ** (1 / 7) - low) / (high - low)
    assert stats.kstest(fraction.numpy(), "uniform").pvalue > 0.01
    normal = ctm.noise.lognormal_times(4000, world, generator(1)).log().numpy()
    assert stats.kstest(normal, "norm", (-1.2, 1.0)).pvalue > 0.01  # 2 sigma_data = 1
    world.sigma_data, world.sigma_max = 50.0, 60.0
    assert ctm.noise.lognormal_times(4000, world, generator(1)).max() == 60.0
    with pytest.raises(ValueError, match="sigma_max must lie in"):
        ctm.noise.karras_times(3, 1.0, 0.1)
    with pytest.raises(TypeError, match="sigma_max must be a number"):
        ctm.noise.karras_times(3, 1.0)


def test_noise_is_noise_of_the_point_and_the_seed():
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    assert ctm.noise.noised(x, 2.0, generator()).dtype == torch.bfloat16
    x0, t = torch.ones(2, 3), torch.tensor([1.0, 5.0])
    expected = 1 + t[:, None] * torch.randn(2, 3, generator=generator())
    assert torch.equal(ctm.noise.noised(x0, t, generator()), expected)
    assert torch.equal(ctm.noise.rand((4,), generator()), torch.rand(4, generator=generator()))


def test_the_affine_map_is_that_of_a_mixture_of_one():
    mean, std = torch.tensor([0.3, -1.1]).double(), torch.tensor(0.7).double()
    world, affine = ctm.GaussianMixture(mean[None], 0.7), AffineMap(mean, std)
    assert affine.sigma_data == pytest.approx(world.sigma_data)
    x = noised(world, 3.0)
    assert torch.allclose(affine.G(x, 3.0, 0.2), world.G(x, 3.0, 0.2), atol=1e-7)
    assert torch.allclose(affine.denoiser(x, 3.0), world.denoiser(x, 3.0), atol=1e-9)
    wide = AffineMap(0.0, torch.tensor([1.0, 3.0]))  # each axis on its own
    line = AffineMap(0.0, 3.0)
    found = wide.G(x.float(), 2.0, 0.5)
    assert found.dtype == torch.float32
    assert torch.allclose(found[:, 1:], line.G(x[:, 1:].float(), 2.0, 0.5))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_the_map_by_quantiles_is_the_integrated_one(offset):
    base = ctm.data.uneven_two_gaussians()
    world = ctm.GaussianMixture(base.means + offset, base.stds, base.weights)
    x = noised(world, 2.0)
    line = Line(world)
    assert torch.allclose(line.G(x, 2.0, 0.1), world.G(x, 2.0, 0.1), rtol=0, atol=2e-4)
    assert line.G(x.float(), 2.0, 0.1).dtype == torch.float32
    wrong = Perturbed(world, lambda x, t, s, there: 0.05 * (there - offset))
    shifted = wrong.G(x, 2.0, 0.1) - world.G(x, 2.0, 0.1)
    assert torch.allclose(shifted, 0.05 * (world.G(x, 2.0, 0.1) - offset))
    assert torch.equal(wrong.denoiser(x, 2.0), world.denoiser(x, 2.0))


@pytest.mark.slow
def test_errors_do_not_depend_on_the_origin():
    base = ctm.data.ring()
    errors = []
    for offset in (0.0, 128.0, 2.0**20):
        world = ctm.GaussianMixture(base.means + offset, base.stds)
        wrong = Perturbed(world, lambda x, t, s, there, o=offset: 0.05 * (there - o))
        errors.append(flow_map_error(wrong, world, n=500))
    assert errors[2] == pytest.approx(errors[1], rel=1e-6)
    for error in errors:  # the first is of other draws, in float32
        assert error == pytest.approx(0.05, rel=0.01)  # of points as spread as the data


def test_relative_error_by_hand():
    x, exact = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert relative_error(x, exact, 2.0) == pytest.approx((25 / 2) ** 0.5 / 2)
    tiny = torch.full((2, 2), 1e-30)
    assert relative_error(tiny, torch.zeros(2, 2), 1e-30) == pytest.approx(1.0)  # not in float32
    with pytest.raises(ValueError, match=r"x must have the shape of exact, \(7, 1\), got \(7, 7\)"):
        relative_error(torch.zeros(7, 7), torch.zeros(7, 1), 1.0)


@pytest.mark.parametrize("d", [1, 3])
def test_distances_do_not_depend_on_the_origin(d):
    x = (torch.randn(200, d, generator=generator(), dtype=torch.float64) * 64).round() / 64
    y = (torch.rand(150, d, generator=generator(1), dtype=torch.float64) * 64).round() / 64
    for name, metric in ctm.metrics.METRICS.items():
        here, there = metric(x, y), metric(x + 1e8, y + 1e8)
        assert there == pytest.approx(here, rel=1e-7), name
    for p in (1, 2):
        shifted = ctm.metrics.wasserstein(x + 1e8, x + 1e8 + 1, p)
        assert shifted == pytest.approx(d**0.5, rel=1e-7)


def test_distances_of_clusters_far_apart():
    # a millionth of the spread is what differs; squares of the spread would swallow it
    x = torch.cat([torch.zeros(50, 2), torch.full((50, 2), 2.0**27)]).double()
    shift = torch.tensor([0.5, 0.0]).double()
    assert ctm.metrics.wasserstein(x, x + shift) == pytest.approx(0.5, rel=1e-9)
    assert sliced_wasserstein(x, x) == pytest.approx(0, abs=1e-9)
