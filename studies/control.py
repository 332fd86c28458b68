"""Control: students told a class and a strength, labels hidden or not, and how far edits are from the exact conditional.

    python -m studies.control

Three seeds each. One thread, about four minutes; results are kept in studies/control.json as they come.
"""

import functools
import time
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.editing import LinearConstraint, constrained_sampling
from ctm.metrics import wasserstein
from ctm.noise import karras_times
from ctm.samplers import heun, one_step
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
RINGS = ctm.data.half_rings()
STRENGTHS = (1.0, 2.0, 4.0)
RANGES = ((1.0, 1.0), (1.0, 4.0))  # of the strengths that a student is trained on
STEPS = 800
DROPS = (0.0, 0.2)

MOONS = ctm.data.two_moons()
KNOWN = LinearConstraint([[1.0, 0.0]])  # the first coordinate is given
GIVEN = torch.tensor([0.1])
N = 200
CALLS = (1, 4, 16, 32)
WAYS = ("levels", "rounds", "walk, noised", "walk, clean")


def start(n: int, seed: int, sigma_max: float = RINGS.sigma_max) -> torch.Tensor:
    return sigma_max * torch.randn((n, 2), generator=torch.Generator().manual_seed(seed))


def error(x: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference over that of the data of the ring."""
    return float((x - exact).square().sum(1).mean().sqrt() / (2**0.5 * RINGS.sigma_data))


def outside(x: torch.Tensor, label: int) -> float:
    """Share of points whose nearest mode is of another class."""
    return float((RINGS.labels[torch.cdist(x.double(), RINGS.means).argmin(1)] != label).double().mean())


@functools.cache
def truth(label: int) -> tuple[list[torch.Tensor], float]:
    """Forty sets of 500 points of a class, and the mean W2 between neighbours among them: the noise floor.

    Of few sets the floor is too uncertain: W2 between two true sets is mostly a matter of how many points fell to each
    mode, and varies by a third.
    """
    world, generator = RINGS.of_class(label), torch.Generator().manual_seed(9 + label)
    sets = [world.sample(500, generator=generator) for _ in range(40)]
    return sets, sum(map(wasserstein, sets, sets[1:] + sets[:1])) / len(sets)


def ratio(x: torch.Tensor, label: int) -> float:
    """W2 to the exact conditional over the noise floor: two sets of 500 samples, each against ten true sets of its own."""
    sets, floor = truth(label)
    values = [wasserstein(x[500 * i : 500 * (i + 1)], true) for i in range(2) for true in sets[i::4]]
    return sum(values) / len(values) / floor


def measure_truth(seed: int) -> dict[str, Any]:
    """:func:`ratio` of 1,000 true samples of each class: what a perfect sampler scores with so few points."""
    return {
        f"class_{c}": round(ratio(RINGS.of_class(c).sample(1000, generator=torch.Generator().manual_seed(100 + seed)), c), 3)
        for c in (0, 1)
    }


def measure_student(strengths: list[float], seed: int) -> dict[str, Any]:
    """A student after ``STEPS`` updates: its error, its distance to the conditional and its strays, by strength."""
    student = regimes.model(RINGS, seed, conditions=3)
    started = time.process_time()
    data = ctm.Guided(RINGS, strengths=(strengths[0], strengths[1]), drop=0.1)
    ctm.train(student, data, ctm.Consistency(RINGS), STEPS, seed)
    seconds = time.process_time() - started
    x, row = start(2000, 100 + seed), {}
    for w in STRENGTHS:
        if w <= strengths[1]:
            samples = [one_step(student.given(c, w), x) for c in (0, 1)]
            errors = [error(samples[c][:500], RINGS.given(c, w).G(x[:500], 10.0, 0.002)) for c in (0, 1)]
            row |= {
                f"error_{w:g}": round(sum(errors) / 2, 4),
                f"ratio_{w:g}": round((ratio(samples[0], 0) + ratio(samples[1], 1)) / 2, 3),
                f"outside_{w:g}": (outside(samples[0], 0) + outside(samples[1], 1)) / 2,
            }
    return {**row, "seconds": round(seconds, 1)}


def measure_exact(w: float, seed: int) -> dict[str, Any]:
    """The exact guided map: the least that a student told ``w`` could differ from the conditional."""
    samples = [RINGS.given(c, w).G(start(1000, 100 + seed), 10.0, 0.002) for c in (0, 1)]
    ratios = [ratio(samples[c], c) for c in (0, 1)]
    return {"ratio": round(sum(ratios) / 2, 3), "outside": (outside(samples[0], 0) + outside(samples[1], 1)) / 2}


def measure_denoiser(drop: float, seed: int) -> dict[str, Any]:
    """A conditional denoiser learned with a share of the labels hidden, and classifier-free guidance with it."""
    model = regimes.model(RINGS, seed, conditions=3)
    ctm.train(model, ctm.Guided(RINGS, drop=drop), regimes.denoising(references=0), STEPS, seed, batch=512)
    x0, label = RINGS.sample_labelled(2000, generator=torch.Generator().manual_seed(seed))
    xt = x0 + 1.0 * start(2000, seed, 1.0)
    x, times = start(500, 100 + seed), karras_times(32, model)
    with torch.no_grad():
        row = {
            "conditional": error(model.given(label).denoiser(xt, 1.0), RINGS.given(label).denoiser(xt, 1.0)),
            "unconditional": error(model.denoiser(xt, 1.0), RINGS.denoiser(xt, 1.0)),
        }
        for w in (1.0, 3.0):
            exact = RINGS.given(0, w).G(x, model.sigma_max, model.sigma_min)
            row[f"guided_{w:g}"] = error(heun(ctm.GuidedModel(model).given(0, w), x, times), exact)
    return {name: round(value, 4) for name, value in row.items()}


def walk(noised: bool, times: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Jumps without renewed noise; on arrival the known part is replaced by itself, at the level reached or clean."""
    y = GIVEN.expand(N, 1)
    x = MOONS.sigma_max * torch.randn((N, 2), generator=generator)
    for t, s in zip(times.tolist(), times[1:].tolist(), strict=False):
        level = s * noised * torch.randn((N, 1), generator=generator)
        x = KNOWN.project(MOONS.G(x, t, s), y + (level if s > MOONS.sigma_min else 0.0))
    return KNOWN.project(x, y)


def edited(way: str, calls: int, generator: torch.Generator) -> torch.Tensor:
    """Samples with the known coordinate given, by the exact map in ``calls`` calls."""
    low, high = 0.05, MOONS.sigma_max
    y = GIVEN.expand(N, 1)
    if way.startswith("walk"):
        return walk(way == "walk, noised", karras_times(calls, MOONS.sigma_min, high), generator)
    if way == "rounds" and calls > 4:
        times, repeats = karras_times(3, low, high), calls // 4
    else:
        times, repeats = (karras_times(calls - 1, low, high) if calls > 1 else [high]), 1
    return constrained_sampling(MOONS, KNOWN, y, times, repeats, generator=generator)


def distance(x: torch.Tensor, draws: int = 20) -> float:
    """W2 of the free coordinate to the exact conditional, over the noise floor."""
    exact, generator = KNOWN.conditional(MOONS, GIVEN), torch.Generator().manual_seed(9)
    sets = [exact.sample(N, generator=generator) for _ in range(2 * draws)]
    floor = sum(wasserstein(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)) / draws
    z = (x.double() @ KNOWN.plane.T).float()
    return sum(wasserstein(z, a) for a in sets) / len(sets) / floor


def measure_edit(way: str, calls: int, seed: int) -> dict[str, Any]:
    x = edited(way, calls, torch.Generator().manual_seed(seed))
    return {"ratio": round(distance(x), 3)}


def main() -> None:
    for part, measure, settings in (
        ("edit", measure_edit, [{"way": way, "calls": calls} for way in WAYS for calls in CALLS]),
        ("labels", measure_denoiser, [{"drop": drop} for drop in DROPS]),
        ("exact", measure_exact, [{"w": w} for w in STRENGTHS]),
        ("student", measure_student, [{"strengths": list(pair)} for pair in reversed(RANGES)]),
    ):
        jobs = [{"part": part, **setting, "seed": seed} for seed in SEEDS for setting in settings]
        run(RESULTS, jobs, _without(measure))
    run(RESULTS, [{"part": "truth", "seed": seed} for seed in range(10)], _without(measure_truth))


def _without(measure: Any) -> Any:
    """``measure`` without the name of the part, which only sorts the rows."""
    return lambda part, **job: measure(**job)


if __name__ == "__main__":
    main()
