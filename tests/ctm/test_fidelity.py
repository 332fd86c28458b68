"""Distances between sets of features, against scipy, closed forms and plain loops."""

import numpy as np
import pytest
import torch
from scipy import linalg

from ctm.data import Points
from ctm.fidelity import Classifier, Depths, frechet_distance, shifted


def features(n, d, seed, scale=1.0, move=0.0):
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=rng, dtype=torch.float64)
    return scale * torch.randn(n, d, generator=rng, dtype=torch.float64) @ mix + move


@pytest.mark.parametrize(("n", "d"), [(50, 1), (200, 7), (40, 64)])  # 40 points in 64 dimensions: a singular covariance
def test_the_frechet_distance_by_scipys_matrix_root(n, d):
    x, y = features(n, d, 0), features(n + 3, d, 1, move=0.3)
    a, b = (np.atleast_2d(np.cov(z.numpy(), rowvar=False)) for z in (x, y))
    ridge = 1e-9 * np.eye(d)  # scipy's root of a singular matrix is not exact
    root = linalg.sqrtm((a + ridge) @ (b + ridge)).real
    apart = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    assert frechet_distance(x, y) == pytest.approx(apart + np.trace(a + b - 2 * root), rel=1e-4)


def test_the_frechet_distance_of_known_gaussians():
    x = features(500, 5, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2.0) == pytest.approx(5 * 4.0)
    spread = float(x.T.cov().trace())
    assert frechet_distance(x, x.mean(0) + 3 * (x - x.mean(0))) == pytest.approx(4 * spread)  # (3 - 1)^2 tr S
    assert frechet_distance(x.float(), 2 * x.float()) == pytest.approx(frechet_distance(2 * x, x), rel=1e-4)
    rng = torch.Generator().manual_seed(0)
    narrow, wide = (s * torch.randn(200_000, 1, generator=rng, dtype=torch.float64) for s in (1.0, 2.5))
    assert frechet_distance(narrow, wide) == pytest.approx(1.5**2, rel=0.02)  # W2 of centred Gaussians


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: frechet_distance(x[0], x), ValueError, "x must have shape"),
        (lambda x: frechet_distance(x, x[:, :2]), ValueError, r"y must have shape \(n, 3\)"),
        (lambda x: frechet_distance(x[:1], x), ValueError, "two rows or more, got 1 and 9"),
        (lambda x: frechet_distance(x.tolist(), x), TypeError, "x must be a torch.Tensor"),
        (lambda x: frechet_distance(x / 0, x), ValueError, "x must be finite"),
        (lambda x: Classifier((6, 8), 3), ValueError, r"sides divisible by 4, got \(6, 8\)"),
        (lambda x: Classifier.trained(Points(torch.randn(9, 8, 8))), ValueError, "data must have labels"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.ones(9, 3))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 12)])
def test_a_classifier_learns_classes_that_can_be_told_apart(shape):
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    bars = torch.zeros(300, *shape)
    for i, label in enumerate(labels):
        bars[i, ..., 2 * int(label) + 1, :] = 1.0  # a bar at one of three heights
    data = Points(bars + 0.2 * torch.randn(bars.shape, generator=rng), labels)
    before = torch.random.get_rng_state()
    train, test = data.split(200)
    model = Classifier.trained(train, steps=60)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.accuracy(test.rows, test.labels) > 0.95
    assert model.features(test.rows).shape == (100, 64)
    by_hand = torch.nn.functional.silu(model.features(test.rows)) @ model.leave.weight.T + model.leave.bias
    assert torch.allclose(model(test.rows), by_hand, atol=1e-5)
    assert torch.equal(Classifier.trained(train, steps=60)(test.rows), model(test.rows))


def test_images_are_moved_by_whole_pixels():
    rng = torch.Generator().manual_seed(0)
    x = torch.arange(2 * 200 * 4 * 5, dtype=torch.float32).reshape(200, 2, 4, 5)
    moved, seen = shifted(x, 1, rng), set()
    for image, other in zip(x, moved, strict=True):
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
        found = [(i, j) for i in range(3) for j in range(3) if torch.equal(padded[:, i : i + 4, j : j + 5], other)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 9
    flat = shifted(x[:, 0], 1, torch.Generator().manual_seed(0))
    assert torch.equal(flat, moved[:, 0])
    assert torch.equal(shifted(x, 0, rng), x)


def test_a_classifiers_depths_have_unit_variance_over_the_data():
    rng = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(40, 8, 12, generator=rng)
    judge = Classifier((8, 12), 3, seed=1).requires_grad_(False)
    seen, scaled = judge.depths(x), Depths(judge, x)(x)
    assert [tuple(h.shape) for h in seen] == [(40, 16, 8, 12), (40, 32, 4, 6), (40, 64)]
    assert torch.allclose(seen[-1], judge.features(x))
    first = torch.nn.functional.silu(judge.body[0](x[:, None]))
    assert torch.equal(seen[0], first)
    for h, scale in zip(scaled, seen, strict=True):
        for channel in range(h.shape[1]):
            spread = scale[:, channel].flatten().numpy().std(ddof=1)
            assert np.allclose(h[:, channel] * spread, scale[:, channel], atol=1e-4)
            assert h[:, channel].std().item() == pytest.approx(1, rel=1e-4)
    # cut to the data's range: what lies beyond is not seen, and has no gradient
    beyond = torch.where(torch.rand(x.shape, generator=rng) < 0.5, x.min() - 3, x.max() + 2).requires_grad_(True)
    cut = Depths(judge, x, cut=True)(beyond)
    for h, known in zip(cut, Depths(judge, x)(beyond.detach().clamp(x.min(), x.max())), strict=True):
        assert torch.equal(h, known)
    sum(h.sum() for h in cut).backward()
    assert not beyond.grad.any()
    with pytest.raises(ValueError, match="x must have two images or more, got 1"):
        Depths(judge, x[:1])
