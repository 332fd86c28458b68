"""Tests that need points alone: against brute force, enumeration, and their own promise under the null."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from helpers import generator
from scipy import stats
from sklearn.linear_model import LogisticRegression

import ctm
from ctm.metrics import energy_distance, precision_recall
from ctm.two_samples import classifier_test, copy_test, energy_test, nearest, ratio_to_halves
from studies import pumps, your_data


def gaussian(n, seed=0, d=3):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def test_precision_and_recall_by_hand():
    real, fake = (torch.tensor(values)[:, None] for values in ([0.0, 1.0, 3.0], [-1.5, -0.9, 4.9, 5.1]))
    # radii to the nearest: 1, 1, 2 for the real points, so [-1, 2] and [1, 5]; .6, .6, .2, .2 for the others
    assert precision_recall(real, fake, k=1) == (0.5, 0.0)
    # to the second: 3, 2, 3 and 6.4, 5.8, 5.8, 6.0
    assert precision_recall(real, fake, k=2) == (1.0, 1.0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_by_brute_force(k):
    real, fake = gaussian(70), 1.3 * gaussian(50, 1) + 0.5

    def covered(points, of):
        radii = [sorted((a - b).norm().item() for b in of)[k] for a in of]
        inside = [any((x - a).norm().item() <= r for a, r in zip(of, radii, strict=True)) for x in points]
        return sum(inside) / len(inside)

    expected = covered(fake, real), covered(real, fake)
    assert precision_recall(real, fake, k=k) == pytest.approx(expected)
    assert precision_recall(fake, real, k=k) == pytest.approx(expected[::-1])
    shapes = (part.reshape(-1, 3, 1).float() for part in (real, fake))
    assert precision_recall(*shapes, k=k) == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
def test_precision_and_recall_tell_two_faults_apart():
    ring = ctm.data.ring()
    real, other = (ring.sample(2000, generator=generator(seed)) for seed in range(2))
    assert min(precision_recall(real, other)) > 0.95
    precision, recall = precision_recall(real, other[other[:, 0] > 0])  # half of the modes are missing
    assert precision > 0.95
    assert 0.4 < recall < 0.6
    precision, recall = precision_recall(real, other + 0.3 * torch.randn(2000, 2, generator=generator(2)))
    assert precision < 0.7
    assert recall > 0.85
    assert precision_recall(real, other + 10) == (0.0, 0.0)
    far = torch.tensor([1e8, -1e8])
    assert precision_recall(real.double() + far, other.double() + far) == pytest.approx(
        precision_recall(real, other), abs=2e-3
    )


def test_the_energy_test_is_the_share_of_all_orders():
    x, y = gaussian(4), gaussian(3, 1) + 0.8
    both, true = torch.cat([x, y]), energy_distance(x, y)
    as_large = []
    for chosen in itertools.combinations(range(7), 4):
        rest = [i for i in range(7) if i not in chosen]
        as_large.append(energy_distance(both[list(chosen)], both[rest]) >= true - 1e-9)
    found = energy_test(x, y, permutations=20_000)
    assert found.value == pytest.approx(true)
    assert found.p == pytest.approx(np.mean(as_large), abs=4 * 0.5 / 20_000**0.5)
    assert energy_test(x, y + 100, permutations=9).p >= 0.1
    assert energy_test(x.repeat(5, 1), y.repeat(5, 1) + 100, permutations=9).p == 0.1


@pytest.mark.slow
def test_under_the_null_p_is_as_often_small_as_it_says():
    found = [energy_test(gaussian(30, s), gaussian(20, 500 + s), permutations=99, seed=s).p for s in range(300)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=3 * (0.09 / 300) ** 0.5)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=3 * (0.25 / 300) ** 0.5)
    classifier = LogisticRegression()
    found = [classifier_test(gaussian(60, s), gaussian(60, 500 + s), classifier, seed=s).p for s in range(200)]
    assert 0.02 < np.mean(np.array(found) <= 0.1) < 0.16
    assert classifier_test(gaussian(200), gaussian(200, 1) + 0.8, classifier).p < 1e-4
    assert energy_test(gaussian(100), gaussian(100, 1) + 0.8).p == 1 / 500


class Knows:
    """Keeps what it is given, and says what it was told to."""

    def __init__(self, says):
        self.says = says

    def fit(self, points, is_real):
        self.learned, self.truth = points, is_real

    def predict(self, points):
        self.asked = points
        return self.says(points)


def test_the_classifier_learns_on_one_half_and_is_asked_about_the_other():
    real, fake = gaussian(41), gaussian(41, 1) + 50
    knows = Knows(lambda points: points[:, 0] < 25)
    found = classifier_test(real, fake, knows, seed=3)
    assert found == (1.0, pytest.approx(0.5**42))
    assert len(knows.learned) == 40
    assert knows.truth.sum() == 20
    assert (knows.truth == (knows.learned[:, 0] < 25)).all()
    seen = np.concatenate([knows.learned, knows.asked])
    expected = (torch.cat([real, fake]) - real.mean(0)).numpy()
    assert np.array_equal(seen[np.lexsort(seen.T)], expected[np.lexsort(expected.T)])
    assert classifier_test(real, fake, Knows(lambda points: np.ones(len(points), bool))).value == 0.5
    wrong = classifier_test(real, fake, Knows(lambda points: points[:, 0] > 25))
    assert wrong == (0.0, 1.0)
    right = classifier_test(real, fake, Knows(lambda points: np.arange(len(points)) % 3 > 0))
    assert right.p == pytest.approx(stats.binom.sf(round(right.value * 42) - 1, 42, 0.5))


def test_boosted_trees_see_what_the_mean_does_not():
    real, fake = gaussian(600), 1.7 * gaussian(600, 1)
    assert classifier_test(real, fake).p < 1e-6
    assert classifier_test(real, gaussian(600, 2)).p > 0.01


def test_the_floor_is_between_disjoint_halves(monkeypatch):
    held, pairs = torch.arange(10.0)[:, None], []
    monkeypatch.setitem(ctm.metrics.METRICS, "W1", lambda x, y: pairs.append((x, y)) or 1.0 + len(pairs) % 5)
    ratio_to_halves(lambda n, rng: torch.full((n, 1), 99.0), held, "W1", draws=3)
    assert len(pairs) == 6
    for (fake, one), (other, again) in zip(pairs[::2], pairs[1::2], strict=True):
        assert torch.equal(one, again)
        assert fake.flatten().tolist() == [99.0] * 5
        assert sorted(torch.cat([one, other]).flatten().tolist()) == list(range(10))
    assert not torch.equal(pairs[0][1], pairs[2][1])


def test_the_ratio_of_true_samples_is_one():
    ring, held = ctm.data.ring(), ctm.data.ring().sample(1001, generator=generator())
    sampler = partial(lambda n, rng, wide: wide * ring.sample(n, generator=rng), wide=1.0)
    means = [ratio_to_halves(sampler, ring.sample(800, generator=generator(s)), seed=s).mean for s in range(8)]
    assert np.mean(means) == pytest.approx(1, abs=0.15)
    wrong = ratio_to_halves(partial(sampler, wide=1.3), held)
    assert wrong.low > 1.5
    assert ratio_to_halves(sampler, held, seed=1) == ratio_to_halves(sampler, held, seed=1)


def test_the_nearest_row():
    x, rows = gaussian(1500), gaussian(40, 1)
    expected = [(rows - point).norm(dim=1).min().item() for point in x]
    assert nearest(x, rows).tolist() == pytest.approx(expected)
    assert nearest(rows, rows).max() < 1e-6


def test_bad_input_is_named():
    x = gaussian(5)
    for argument, call in {
        "fake must have shape": lambda: precision_recall(x, gaussian(5, d=2)),
        "real must be a torch": lambda: precision_recall([[0.0]], x),
        r"k must lie in \[1, 4\]": lambda: precision_recall(x, gaussian(9), k=5),
        "real and fake must have as many points, 4 or more, got 5 and 6": lambda: classifier_test(x, gaussian(6)),
        r"len\(held\) must": lambda: ratio_to_halves(None, x[:3]),
        "metric must be one of": lambda: ratio_to_halves(None, x, "FID"),
        "draws must": lambda: ratio_to_halves(None, x, draws=1),
        "rows must have shape": lambda: nearest(x, gaussian(5, d=2)),
        "permutations must": lambda: energy_test(x, x, permutations=0),
    }.items():
        with pytest.raises((TypeError, ValueError), match=argument):
            call()


def test_the_density_of_a_row_by_its_jacobian():
    rows, kinds = pumps.table(6, 3)
    y = pumps.WORLD.sample_labelled(6, generator=generator(3))[0].double()
    assert torch.allclose(pumps.from_latent(y), rows)
    for i, point in enumerate(y):
        slopes = torch.func.jacfwd(lambda p: pumps.from_latent(p[None])[0])(point)
        expected = pumps.WORLD.log_prob(point[None])[0] - slopes.slogdet().logabsdet
        assert pumps.log_density(rows)[i] == pytest.approx(expected.item(), abs=1e-6)
    impossible = rows.clone()
    impossible[0, 8], impossible[1, 5] = 101.0, -1.0
    assert pumps.log_density(impossible).isfinite().tolist() == [False, False, True, True, True, True]
    assert kinds.max() < len(pumps.KINDS)


def test_a_csv_gives_the_same_rows_back(tmp_path):
    pumps.write(tmp_path / "pumps.csv", 50, 3)
    numbers, kinds = pumps.read(tmp_path / "pumps.csv")
    rows, labels = pumps.table(50, 3)
    assert np.array_equal(numbers, rows.numpy())
    assert kinds.tolist() == [pumps.KINDS[label] for label in labels]


def test_nats_are_in_the_units_of_the_rows():
    scale, shift = torch.tensor([3.0, 1e-3], dtype=torch.float64), torch.tensor([5.0, 100.0], dtype=torch.float64)
    rows = shift + scale * gaussian(200, d=2)
    data = ctm.data.Points(rows)
    mean, std = rows.mean(0).numpy(), rows.std(0, correction=0).numpy()
    expected = stats.norm(mean, std).logpdf(rows.numpy()).sum(1).mean()
    normal = ctm.GaussianMixture(torch.zeros(1, 2), 1.0)
    assert your_data.nats(normal, data, rows) == pytest.approx(expected, abs=2e-3)


def test_copies_are_nearer_to_their_rows():
    train, held, new = gaussian(300), gaussian(250, 1), gaussian(280, 2)
    assert copy_test(train + 1e-6, train, held).value == 1.0
    assert copy_test(new + 9, train, held) == (0.0, pytest.approx(1.0))
    found = copy_test(new, train, held)
    nearer = (nearest(new, train)[:, None] < nearest(held, train)).double().mean().item()
    assert found.value == pytest.approx(nearer)
    # under the null the mean of the statistic is 1/2, its variance (n + m + 1) / 12 n m
    z = (nearer - 0.5) / (531 / (12 * 250 * 280)) ** 0.5
    assert found.p == pytest.approx(stats.norm.sf(z), abs=0.01)
    assert copy_test(held, train, held).value == pytest.approx(0.5)
