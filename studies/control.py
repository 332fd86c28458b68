"""Control: students told a class and a strength, labels hidden or not, and how far edits are from the exact conditional.

    python -m studies.control

Three seeds each; how the rounds of an edit with a learned map are best shared among its levels; and how completions of
digits depend on the number of calls and on the class told. One thread, about fifteen minutes; results are kept in
studies/control.json as they come.
"""

import functools
import time
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.editing import LinearConstraint, constrained_sampling, inpainting, superresolution
from ctm.metrics import wasserstein
from ctm.noise import karras_times
from ctm.oracle import integrate
from ctm.samplers import heun, one_step
from studies import regimes
from studies.checkpoints import FOLDER
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
DIGITS = ctm.data.digits()
LEVELS = (10.0, 4.0, 2.0, 1.0, 0.5, 0.25)  # of a completion
TASKS = {"inpainting": inpainting(torch.arange(64).reshape(8, 8) < 32), "super-resolution": superresolution(8, 2)}
COMPLETED = 200
N = 3000
CALLS = {"levels": (1, 4, 16), "rounds": (16, 64), "walk, noised": (4,), "walk, clean": (4,)}
MANY, FEW = 20_000, 5000  # samples of the ways below, whose map is learned if nothing else is said
LOWEST = (0.02, 0.05, 0.1, 0.2)  # levels at which the low rounds end
LEARNED = {
    "rounds": (4, 16, 64, 256),
    **{f"low, {lowest:g}": (16, 64, 256) for lowest in LOWEST},
    "walk, clean": (4, 16, 64),
    "walk, noised": (4, 16, 64),
    "low, 0.05, exact map": (64,),
}


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


def measure_strength(seed: int) -> dict[str, Any]:
    """Two denoisers of 800 updates, guided by each strength: samples off every mode, in the two outer modes of the class
    (both in percent), and the distance to the class."""
    model = regimes.model(RINGS, seed, conditions=3)
    ctm.train(model, ctm.Guided(RINGS, drop=0.2), ctm.Denoising(references=0), STEPS, seed)
    x, times, row = start(1000, 50 + seed), karras_times(24, model), {}
    for w in STRENGTHS:
        samples = heun(ctm.GuidedModel(model).given(0, w), x, times)
        far, mode = torch.cdist(samples.double(), RINGS.means).min(1)
        row[f"off_{w:g}"] = round(100 * float((far > 4 * RINGS.stds[0]).double().mean()), 1)
        row[f"outer_{w:g}"] = round(100 * float(((mode == 0) | (mode == 3)).double().mean()), 1)
        row[f"ratio_{w:g}"] = round(ratio(samples, 0), 3)
    return row


def measure_no_class(drop: float, seed: int) -> dict[str, Any]:
    """The share off every mode, in percent, of a learned denoiser's samples at w = 0: those without a class."""
    model = regimes.model(RINGS, seed, conditions=3)
    ctm.train(model, ctm.Guided(RINGS, drop=drop), ctm.Denoising(references=0), STEPS, seed)
    samples = heun(ctm.GuidedModel(model).given(0, 0.0), start(1000, 50 + seed), karras_times(24, model))
    far = torch.cdist(samples.double(), RINGS.means).amin(1) > 4 * RINGS.stds[0]
    return {"off_0": round(100 * float(far.double().mean()), 1)}


class Solved(ctm.FlowMap):
    """The exact map of the two moons, integrated to a step error of 1e-5: five times as fast as ``MOONS.G``, and its own
    error of about 1e-5 is far below what 9,000 samples can show."""

    sigma_min, sigma_max, sigma_data = MOONS.sigma_min, MOONS.sigma_max, MOONS.sigma_data

    def G(self, x: torch.Tensor, t: ctm.flow_map.Time, s: ctm.flow_map.Time) -> torch.Tensor:  # noqa: N802
        start, end = (torch.full((len(x), 1), float(time), dtype=torch.float64) for time in (t, s))
        return integrate(MOONS.velocity, x.double(), start, end, float(MOONS.stds.min()), 1e-5).to(x.dtype)

    def denoiser(self, x: torch.Tensor, t: ctm.flow_map.Time) -> torch.Tensor:
        return MOONS.denoiser(x, t)


def walk(flow_map: ctm.FlowMap, noised: bool, times: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Jumps without renewed noise; on arrival the known part is replaced by itself, at the level reached or clean."""
    y = GIVEN.expand(n, 1)
    x = flow_map.sigma_max * torch.randn((n, 2), generator=generator)
    for t, s in zip(times.tolist(), times[1:].tolist(), strict=False):
        level = s * noised * torch.randn((n, 1), generator=generator)
        x = KNOWN.project(flow_map.G(x, t, s), y + (level if s > flow_map.sigma_min else 0.0))
    return KNOWN.project(x, y)


@torch.no_grad()
def edited(flow_map: ctm.FlowMap, way: str, calls: int, n: int, seed: int) -> torch.Tensor:
    """``n`` samples with the known coordinate given, in ``calls`` calls of the map."""
    low, high, generator = 0.05, flow_map.sigma_max, torch.Generator().manual_seed(seed)
    if way.startswith("walk"):
        return walk(flow_map, way == "walk, noised", karras_times(calls, flow_map.sigma_min, high), n, generator)
    levels = 4 if way == "rounds" else calls
    times = karras_times(levels - 1, low, high) if levels > 1 else [high]
    return constrained_sampling(flow_map, KNOWN, GIVEN.expand(n, 1), times, calls // levels, generator=generator)


@torch.no_grad()
def low_rounds(
    flow_map: ctm.FlowMap, calls: int, n: int, generator: torch.Generator, lowest: float = LOWEST[1]
) -> torch.Tensor:
    """``n`` samples by one round at each of three higher levels and all others at the lowest."""
    y = GIVEN.expand(n, 1)
    x = KNOWN.lift(torch.zeros_like(y), y)
    for t in karras_times(3, lowest, 10.0).tolist()[:3] + [lowest] * (calls - 3):
        noised = x + t * torch.randn(x.shape, generator=generator)
        x = KNOWN.project(flow_map.G(noised, t, flow_map.sigma_min), y)
    return x


@functools.cache
def conditional_quantiles(n: int) -> torch.Tensor:
    """The exact conditional of the free coordinate at the probabilities (i + 1/2)/n, from a fine table of its density."""
    sign = KNOWN.plane[0, 1]  # the basis vector of the free line may point down
    line = torch.linspace(-2, 2, 400_001, dtype=torch.float64)[:, None]
    chance = KNOWN.conditional(MOONS, GIVEN).log_prob(sign * line).softmax(0).cumsum(0)
    probabilities = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return line[torch.searchsorted(chance, probabilities).clamp_max(len(line) - 1), 0]


def distance(x: torch.Tensor) -> float:
    """W1 of the free coordinate to the exact conditional: the mean distance between quantiles."""
    return float((x[:, 1].double().sort().values - conditional_quantiles(len(x))).abs().mean())


def upper(x: torch.Tensor) -> float:
    """Share of the samples in the upper peak."""
    return float((x[:, 1] > 0).double().mean())


def measure_edit(way: str, calls: int, seed: int) -> dict[str, Any]:
    x = edited(Solved(), way, calls, N, seed)
    return {"w1": round(distance(x), 5), "upper": round(upper(x), 4)}


def measure_line(seed: int) -> dict[str, Any]:
    """The same of ``N`` true samples of the conditional: what a perfect sampler scores."""
    z = KNOWN.conditional(MOONS, GIVEN).sample(N, generator=torch.Generator().manual_seed(100 + seed))
    x = KNOWN.lift(z, GIVEN.expand(N, 1))
    return {"w1": round(distance(x), 5), "upper": round(upper(x), 4)}


def measure_learned(way: str, calls: int, seed: int) -> dict[str, Any]:
    """The same of ``MANY`` samples by a learned map, or ``FEW`` by the exact one, and the widths of the two peaks."""
    learned, generator = ctm.load(FOLDER / "two_moons_small.safetensors"), torch.Generator().manual_seed(seed)
    if way == "true samples":
        z = KNOWN.conditional(MOONS, GIVEN).sample(MANY, generator=generator)
        x = KNOWN.lift(z, GIVEN.expand(MANY, 1))
    elif way.startswith("low"):
        _, lowest, *exact = way.split(", ")
        flow_map, n = (Solved(), FEW) if exact else (learned, MANY)
        x = low_rounds(flow_map, calls, n, generator, float(lowest))
    else:
        x = edited(learned, way, calls, MANY, seed)
    lower, higher = (x[(x[:, 1] > a) & (x[:, 1] < b), 1].std() for a, b in ((-0.8, -0.2), (0.1, 0.7)))
    row = {"w1": distance(x), "upper": upper(x), "lower_width": float(lower), "upper_width": float(higher)}
    return {name: round(value, 5) for name, value in row.items()}


def measure_sides(seed: int) -> dict[str, Any]:
    """After the three higher levels: the share of the samples in the upper peak and between the peaks; and of those in a
    peak the share that has changed sides after 61 rounds at the lowest level."""
    learned = ctm.load(FOLDER / "two_moons_small.safetensors")
    before, after = (low_rounds(learned, calls, MANY, torch.Generator().manual_seed(seed))[:, 1] for calls in (3, 64))
    in_peak = (before < -0.3) | (before > 0.2)
    row = {
        "upper": (before > 0).double().mean(),
        "between": ((before > -0.25) & (before < 0.15)).double().mean(),
        "crossed": ((before > 0) != (after > 0))[in_peak].double().mean(),
    }
    return {name: round(float(share), 4) for name, share in row.items()}


def judged(images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The share of digits of their class, by the exact mixture, and the median distance to the nearest training image."""
    guess = DIGITS.class_probabilities(images, 0.3).argmax(1)
    away = torch.cdist(images.flatten(1).double(), DIGITS.means.flatten(1)).amin(1)
    return {"right": round(float((guess == labels).double().mean()), 3), "nearest": round(float(away.median()), 3)}


@torch.no_grad()
def measure_completion(way: str, told: bool, calls: int, seed: int) -> dict[str, Any]:
    """Completions of noised training images by the stored student; with one call, its samples without a constraint."""
    model, generator = ctm.load(FOLDER / "digits.safetensors"), torch.Generator().manual_seed(seed)
    labels = DIGITS.labels[:COMPLETED]
    asked = model.given(labels) if told else model
    if calls == 1:
        x = model.sigma_max * torch.randn((COMPLETED, 8, 8), generator=generator)
        return judged(one_step(asked, x), labels)
    images = DIGITS.means[:COMPLETED].float()
    y = TASKS[way].measure(images + 0.15 * torch.randn(images.shape, generator=generator))
    return judged(constrained_sampling(asked, TASKS[way], y, LEVELS, calls // len(LEVELS), generator=generator), labels)


def main() -> None:
    for part, measure, settings in (
        ("edit", measure_edit, [{"way": way, "calls": calls} for way in CALLS for calls in CALLS[way]]),
        ("line", measure_line, [{}]),
        ("learned", measure_learned, [{"way": way, "calls": calls} for way in LEARNED for calls in LEARNED[way]]),
        ("sides", measure_sides, [{}]),
        ("strength", measure_strength, [{}]),
        ("no class", measure_no_class, [{"drop": drop} for drop in DROPS]),
        ("labels", measure_denoiser, [{"drop": drop} for drop in DROPS]),
        ("exact", measure_exact, [{"w": w} for w in STRENGTHS]),
        (
            "digits",
            measure_completion,
            [{"way": "one step", "told": told, "calls": 1} for told in (False, True)]
            + [{"way": way, "told": False, "calls": calls} for way in TASKS for calls in (12, 48, 192)]
            + [{"way": way, "told": True, "calls": calls} for way in TASKS for calls in (12, 48)],
        ),
        ("student", measure_student, [{"strengths": list(pair)} for pair in reversed(RANGES)]),
    ):
        jobs = [{"part": part, **setting, "seed": seed} for seed in SEEDS for setting in settings]
        run(RESULTS, jobs, _without(measure))
    run(RESULTS, [{"part": "truth", "seed": seed} for seed in range(10)], _without(measure_truth))
    true = [{"part": "learned", "way": "true samples", "calls": 0, "seed": seed} for seed in range(20)]
    run(RESULTS, true, _without(measure_learned))


def _without(measure: Any) -> Any:
    """``measure`` without the name of the part, which only sorts the rows."""
    return lambda part, **job: measure(**job)


if __name__ == "__main__":
    main()
