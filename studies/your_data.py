"""A model of a table, judged without the truth and with it; and how many rows a table must have.

    python -m studies.your_data

The table is that of studies/pumps.py. Nothing is told to the model but rows; it is what `CTM.for_data` makes and `ctm.train`
trains without a teacher. Samples are judged in units of the training rows' spread.

table: a file of 5,000 rows, half of them to train, half held out, 8,000 steps (at most three processor minutes). ``halves``
is what the owner of the file can measure, ``ratio`` the same from new rows that only the study has. ``same_rows`` is the
like ratio of the training rows, ``own`` figures those of the training half in place of samples.
rows: 100 to 5,000 rows, 2,000 steps; 500 rows also for 500 and 6,000 steps. How near are samples to training rows?
wave: the models of the table again. How much of the oil level's variance does the speed
explain, in samples of one and of four calls, and in those that a solver makes with the model's denoiser?
dial: 500 steps on a table as it is, and on one whose speeds were read from a dial, repaired as in the chapter.
luck: 50 files for each seed, and no model. What do the training rows have in place of samples?
draws: eight draws of the chapter's model B, and of two trained with other seeds, judged as there.
spoilt: new true rows of which a share is replaced by the chapter's training rows, each column shuffled, judged as there.
simple: four simple ways to make such rows, fitted to the chapter's training rows by formulas and scikit-learn.

Three seeds: of the rows, the weights and the training. One thread, about 25 minutes; rows are kept in
studies/your_data.json as they come.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture
from torch import Tensor

import ctm
from ctm.likelihood import log_likelihood
from ctm.metrics import precision_recall, ratio_to_floor
from ctm.noise import karras_times
from ctm.samplers import heun, noise
from ctm.two_samples import classifier_test, copy_test, energy_test, nearest, ratio_to_halves
from studies import pumps
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
ROWS = 5_000
TABLE = 8_000  # steps, for a minute and a half to three on one processor
SIZES = (100, 500, 2_000, 5_000)
STEPS = 2_000
CALLS = (1, 2, 4)


class Fresh:
    """New rows as a table standardises them."""

    def __init__(self, data: ctm.data.Points) -> None:
        self.data = data

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=generator))
        return self.data.standardise(pumps.table(n, seed)[0])


def trained(data: ctm.data.Points, steps: int, seed: int) -> tuple[ctm.CTM, float]:
    """The model of the README's six lines, and its processor seconds."""
    started = time.process_time()
    model = ctm.CTM.for_data(data, seed=seed)
    ctm.train(model, data, steps=steps, seed=seed)
    return model, time.process_time() - started


def nats(model: ctm.CTM, data: ctm.data.Points, rows: Tensor) -> float:
    """The mean log density of rows in their own units: that of the standardised ones, less the logarithm of each scale."""
    found = log_likelihood(model, data.standardise(rows), steps=16).double() - data.scale.log().sum()
    return float(found.mean())


def sampler(model: ctm.CTM, data: ctm.data.Points, calls: int) -> Callable[[int, torch.Generator], Tensor]:
    """Standardised samples by a number and a generator."""

    def draw(n: int, rng: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=rng))
        return data.standardise(ctm.sample(model, n, steps=calls, seed=seed))

    return draw


def judged(model: ctm.CTM, data: ctm.data.Points, rows: Tensor, held_rows: Tensor, seed: int) -> dict[str, Any]:
    """The figures of every model, of one-step samples."""
    train, held = data.standardise(rows), data.standardise(held_rows)
    ratio = ratio_to_floor(sampler(model, data, 1), Fresh(data), n=len(held), draws=8, seed=200 + seed)
    samples = data.standardise(ctm.sample(model, len(held), seed=seed))
    precision, recall = precision_recall(held, samples)
    few = slice(500)
    return {
        "ratio_1": round(ratio.mean, 3),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "near": round(float(nearest(samples, train).median() / nearest(held, train).median()), 3),
        "copied": round(copy_test(samples, train, held).value, 3),
        "nats_train": round(nats(model, data, rows[few]), 3),
        "nats_held": round(nats(model, data, held_rows[few]), 3),
        "truth_train": round(float(pumps.log_density(rows[few]).mean()), 3),
        "truth_held": round(float(pumps.log_density(held_rows[few]).mean()), 3),
    }


def tested(real: Tensor, fake: Tensor) -> dict[str, float]:
    """The p-values of two tests, and how often the second one's classifier is right."""
    trees = classifier_test(real, fake)
    return {
        "energy_p": energy_test(real, fake).p,
        "classifier": round(trees.value, 4),
        "classifier_p": float(f"{trees.p:.3g}"),
    }


def measure_table(steps: int, seed: int, **_: Any) -> dict[str, Any]:
    rows, _ = pumps.table(ROWS, seed)
    train_rows, held_rows = rows.split(ROWS // 2)
    data = ctm.data.Points(train_rows.numpy())
    model, seconds = trained(data, steps, seed)
    train, held = data.standardise(train_rows), data.standardise(held_rows)
    figures = judged(model, data, train_rows, held_rows, seed) | {"seconds": round(seconds, 1)}
    for calls in CALLS:
        draw = sampler(model, data, calls)
        ratio = ratio_to_floor(draw, Fresh(data), n=len(held), draws=8, seed=200 + seed)
        halves = ratio_to_halves(draw, held, seed=300 + seed)
        figures[f"ratio_{calls}"] = round(ratio.mean, 3)
        figures[f"halves_{calls}"] = [round(value, 3) for value in (halves.mean, halves.low, halves.high)]
    figures |= tested(held, data.standardise(ctm.sample(model, len(held), seed=seed)))
    figures |= {f"own_{name}": value for name, value in tested(held, train).items()}
    precision, recall = precision_recall(held, train)
    same = ratio_to_floor(lambda n, rng: train[:n], Fresh(data), n=len(held), draws=8, seed=200 + seed)
    return figures | {
        "own_precision": round(precision, 4),
        "own_recall": round(recall, 4),
        "same_rows": round(same.mean, 3),
        "red": ctm.doctor(model, data).red,
    }


def measure_rows(rows: int, steps: int, seed: int, **_: Any) -> dict[str, Any]:
    seen, held = pumps.table(rows, seed)[0], pumps.table(ROWS // 2, 1000 + seed)[0]
    data = ctm.data.Points(seen.numpy())
    model, seconds = trained(data, steps, seed)
    return judged(model, data, seen, held, seed) | {"seconds": round(seconds, 1)}


def explained(points: np.ndarray, groups: int = 20) -> float:
    """Share of the oil level's variance that the means of groups of like speed have."""
    oil = points[points[:, 2].argsort(), 9]
    return float(np.var([group.mean() for group in np.array_split(oil, groups)]) / oil.var())


def parted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``measure_table``: those to train on, those held out."""
    one, other = pumps.table(ROWS, seed)[0].split(ROWS // 2)
    return one.numpy(), other.numpy()


def measure_wave(steps: int, seed: int, **_: Any) -> dict[str, Any]:
    seen, held = parted(seed)
    data = ctm.data.Points(seen)
    model, seconds = trained(data, steps, seed)
    made = {calls: ctm.sample(model, len(held), steps=calls, seed=seed) for calls in (1, 4)}
    start = noise(model, len(held), generator=torch.Generator().manual_seed(seed))
    solved = model.restore(heun(model, start, karras_times(40, model)))
    precision, _recall = precision_recall(data.standardise(held), data.standardise(made[1]))
    return {
        "precision": round(precision, 4),
        "held": round(explained(held), 4),
        **{f"made_{calls}": round(explained(points.numpy()), 4) for calls, points in made.items()},
        "solved": round(explained(solved.numpy()), 4),
        "seconds": round(seconds, 1),
    }


def measure_dial(steps: int, seed: int, **_: Any) -> dict[str, Any]:
    seen, held = parted(seed)
    marks = np.random.default_rng(1 + seed).uniform(-12.5, 12.5, len(seen))
    dialled, kept = seen.copy(), held.copy()
    dialled[:, 2] = 25 * np.round(seen[:, 2] / 25) + marks
    kept[:, 2] = 25 * np.round(held[:, 2] / 25)
    figures = {}
    for name, rows, real in (("plain", seen, held), ("repaired", dialled, kept)):
        data = ctm.data.Points(rows)
        made = ctm.sample(trained(data, steps, seed)[0], len(held), seed=seed).numpy()
        if name == "repaired":
            made[:, 2] = 25 * np.round(made[:, 2] / 25)
        figures[name] = round(classifier_test(data.standardise(real), data.standardise(made)).value, 4)
    return figures


def measure_luck(files: int, seed: int, **_: Any) -> dict[str, Any]:
    """The training rows' ratio to the held-out ones, and the worst column's mean and deviation, each in order."""
    found = []
    for number in range(files):
        seen, held_rows = parted(10_000 + files * seed + number)
        data = ctm.data.Points(seen)
        train, held = data.standardise(seen), data.standardise(held_rows)
        ratio = ratio_to_halves(lambda n, rng, z=train: z[torch.randperm(len(z), generator=rng)[:n]], held)
        shift = float((train.mean(0) - held.mean(0)).abs().max())
        width = float((train.std(0) / held.std(0) - 1).abs().max())
        found.append((ratio.mean, shift, width))
    return {
        name: sorted(round(v, 3) for v in column)
        for name, column in zip(("ratios", "shifts", "widths"), zip(*found, strict=True), strict=True)
    }


def of_the_chapter() -> tuple[np.ndarray, np.ndarray, ctm.data.Points]:
    """The rows of the chapter's file, parted as there, and the units of the first half."""
    with tempfile.TemporaryDirectory() as folder:
        pumps.write(Path(folder) / "pumps.csv", ROWS, seed=0)
        rows = np.loadtxt(Path(folder) / "pumps.csv", delimiter=",", skiprows=1, usecols=range(16))
    seen, held = np.split(np.random.default_rng(0).permutation(rows), 2)
    return seen, held, ctm.data.Points(seen)


def judge(z: Tensor, train: Tensor, held: Tensor) -> dict[str, float]:
    """The chapter's six figures of standardised samples."""
    ratio = ratio_to_halves(lambda n, rng: z[torch.randperm(len(z), generator=rng)[:n]], held)
    precision, recall = precision_recall(held, z)
    found = {
        "ratio": ratio.mean,
        "energy p": energy_test(held, z, permutations=199).p,
        "trees right": classifier_test(held, z).value,
        "precision": precision,
        "recall": recall,
        "nearer": copy_test(z, train, held).value,
    }
    return {name: round(value, 4) for name, value in found.items()}


def measure_draws(steps: int, seed: int, **_: Any) -> dict[str, Any]:
    seen, held, data = of_the_chapter()
    model, _seconds = trained(data, steps, seed)
    train, held_z = data.standardise(seen), data.standardise(held)
    found = [judge(data.standardise(ctm.sample(model, len(held), seed=k)), train, held_z) for k in range(1, 9)]
    return {name: sorted(one[name] for one in found) for name in found[0]}


def measure_spoilt(share: float, seed: int, **_: Any) -> dict[str, Any]:
    seen, held, data = of_the_chapter()
    new, k = pumps.table(len(held), 501 + seed)[0].numpy(), int(share * len(held))
    new[:k] = np.random.default_rng(seed).permuted(seen, axis=0)[:k]
    return judge(data.standardise(new), data.standardise(seen), data.standardise(held))


def simple(train: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """As many rows as ``train`` has, made in four simple ways."""
    draw, n = np.random.default_rng(seed), len(train)

    def normal(mean: np.ndarray, covariance: np.ndarray, n: int = n) -> np.ndarray:
        return draw.multivariate_normal(mean, covariance, n, method="cholesky")

    fits = [GaussianMixture(k, random_state=0).fit(train) for k in range(1, 7)]
    mixture = min(fits, key=lambda fit: fit.bic(train))
    scores = stats.norm.ppf(stats.rankdata(train, axis=0) / (n + 1))
    ranks = stats.norm.cdf(normal(np.zeros(train.shape[1]), np.corrcoef(scores.T)))
    points = torch.as_tensor(train)
    around = torch.cdist(points, points).topk(6, largest=False).indices[:, 1:].numpy()
    one, other, way = draw.integers(n, size=n), draw.integers(5, size=n), draw.random((n, 1))
    parts = zip(mixture.means_, mixture.covariances_, draw.multinomial(n, mixture.weights_), strict=True)
    return {
        "Gaussian": normal(train.mean(0), np.cov(train.T)),
        "Gaussian copula": np.stack([np.quantile(a, b) for a, b in zip(train.T, ranks.T, strict=True)], axis=1),
        f"{mixture.n_components} Gaussians": np.concatenate([normal(*part) for part in parts]),
        "between neighbours": train[one] + way * (train[around[one, other]] - train[one]),
    }


def measure_simple(seed: int, **_: Any) -> dict[str, Any]:
    seen, held, data = of_the_chapter()
    train, held_z = data.standardise(seen), data.standardise(held)
    made = simple(train.double().numpy(), seed)
    return {name: judge(data.standardise(data.restore(torch.as_tensor(z))), train, held_z) for name, z in made.items()}


def main() -> None:
    cells = [(rows, STEPS) for rows in SIZES] + [(500, 500), (500, 6_000)]
    for seed in SEEDS:
        run(RESULTS, [{"part": "table", "steps": TABLE, "seed": seed}], measure_table)
        jobs = [{"part": "rows", "rows": rows, "steps": steps, "seed": seed} for rows, steps in cells]
        run(RESULTS, jobs, measure_rows)
    run(RESULTS, [{"part": "luck", "files": 50, "seed": seed} for seed in SEEDS], measure_luck)
    run(RESULTS, [{"part": "dial", "steps": 500, "seed": seed} for seed in SEEDS], measure_dial)
    run(RESULTS, [{"part": "draws", "steps": 1_300, "seed": seed} for seed in SEEDS], measure_draws)
    shares = (0.0, 0.1, 0.2, 0.4)
    run(RESULTS, [{"part": "spoilt", "share": share, "seed": seed} for seed in SEEDS for share in shares], measure_spoilt)
    run(RESULTS, [{"part": "simple", "seed": seed} for seed in SEEDS], measure_simple)
    run(RESULTS, [{"part": "wave", "steps": TABLE, "seed": seed} for seed in SEEDS], measure_wave)


if __name__ == "__main__":
    main()
