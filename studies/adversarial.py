"""With and without the adversarial term: where it helps, where it hurts, and what makes it fail.

    python -m studies.adversarial [seed ...]

Students of a teacher that takes four Euler steps, of learned teachers, two of them trained for a short time, and of the
exact teacher, one of those too small and one with few updates; three seeds each. Every student is trained three ways: with
the term; without it, three times as many updates, for about as many processor seconds; and without it, as many updates,
which is the control for the term itself. Beside them: the term with smaller weights, with the first and the exact teacher;
and with the first, three times the weight, or a part of it left out, or all of them, or the ends of the teacher's
trajectories as the real samples. Samples on the ring are judged by studies.samplers (sliced W1 over its noise floor, width
of the modes), by the share of them within three standard deviations of a mode, and by the scarcest mode's share over the
mean; the map by its error. Some runs are made once more: for their seconds and other jumps (measure_more), and with a look
at every tenth update for what the discriminator's slope does to samples (measure_pull), or at where samples that lay outside
the modes lie with the term (measure_strays, which keeps some samples of the first seed for the chapter's figure). One
thread, about seventeen minutes; results are kept in studies/adversarial.json as they come.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.losses import Draw, Models, Objective
from ctm.metrics import flow_map_error
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling, noise, one_step
from ctm.solvers import euler_step
from studies import regimes
from studies.checkpoints import FOLDER
from studies.harness import run
from studies.samplers import judge

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
WORLD = ctm.data.ring()
BATCH, POOL = 128, 1024
# name: (choices of the consistency term, the network's width, the updates with the adversarial term)
SETTINGS: dict[str, tuple[dict[str, Any], int, int]] = {
    "four Euler steps": ({"step": euler_step, "levels": 4}, 32, 700),
    "learned, 100 updates": ({}, 32, 700),
    "learned, 300 updates": ({}, 32, 700),
    "learned": ({}, 32, 700),
    "exact": ({}, 32, 700),
    "exact, too small": ({}, 8, 700),
    "exact, few updates": ({}, 32, 100),
}
# name: (weight of the adversarial term, its choices)
VARIANTS: dict[str, tuple[float, dict[str, Any]]] = {
    "without": (0.0, {}),
    "without, as many updates": (0.0, {}),
    "with": (1.0, {}),
    "weight 3": (3.0, {}),
    "weight 0.3": (0.3, {}),
    "weight 0.1": (0.1, {}),
    "no R1": (1.0, {"r1": 0.0}),
    "no noise": (1.0, {"noise": 0.0}),
    "neither": (1.0, {"r1": 0.0, "noise": 0.0}),
    "no warm-up": (1.0, {"start": 0.0}),
    "no aid": (1.0, {"r1": 0.0, "noise": 0.0, "start": 0.0}),
    "ends as real": (1.0, {}),
}
WAYS = ("with", "without, as many updates", "without")
MORE = 3.0  # updates of "without" for one with the term
PULLS = [("four Euler steps", variant) for variant in ("no aid", "with", "weight 3")] + [("exact", "with")]
MORE_OF = [("four Euler steps", variant) for variant in ("without, as many updates", "with")]
SAMPLES = 1500  # of each student that are kept for a figure
EVERY, SHOWN, DRAWS = 10, 512, 8  # of a run that is looked at: updates from look to look, samples, draws of noise for each
HASTY = {"learned, 100 updates": 100, "learned, 300 updates": 300}  # updates of a teacher that is trained anew


def new_student(seed: int, width: int = 32) -> ctm.CTM:
    """The untrained student."""
    return regimes.model(WORLD, seed, width=width, layers=3)


def teacher(setting: str, seed: int) -> ctm.FlowMap:
    """The teacher of a setting: the exact one, a stored denoiser, or one trained for a short time."""
    if setting == "learned":
        return ctm.load(FOLDER / "ring_denoiser.safetensors")
    if setting in HASTY:
        denoiser = new_student(seed + 100)
        ctm.train(denoiser, WORLD, regimes.denoising(), HASTY[setting], seed)
        return denoiser.requires_grad_(False)
    return WORLD


class TeacherAsReal(ctm.Adversarial):
    """The ends of the teacher's trajectories, those of ``jumps``, in place of data."""

    jumps: ctm.Consistency

    def learn(self, student: ctm.CTM, x0: torch.Tensor, fake: torch.Tensor, rng: torch.Generator) -> float:
        ends = self.jumps.trajectories.points[:, -1]
        picked = torch.randint(len(ends), (len(x0),), generator=rng)
        return super().learn(student, ends[picked], fake, rng)


def objective(setting: str, variant: str, seed: int) -> Objective:
    """The loss of a setting, with its adversarial term if the variant has one."""
    choices, (weight, term) = SETTINGS[setting][0], VARIANTS[variant]
    jumps = ctm.Consistency(teacher(setting, seed), pool=POOL, **choices)
    if not weight:
        return jumps
    if variant == "ends as real":
        copy = TeacherAsReal(levels=jumps.levels, seed=seed, **term)
        copy.jumps = jumps
        return jumps + weight * copy
    return jumps + weight * ctm.Adversarial(levels=jumps.levels, seed=seed, **term)


def trained(setting: str, variant: str, seed: int) -> tuple[ctm.CTM, float]:
    """A student of a setting, and the processor seconds it took, its teacher's training not counted."""
    _, width, steps = SETTINGS[setting]
    student, loss = new_student(seed, width), objective(setting, variant, seed)
    started = time.process_time()
    steps = round(MORE * steps) if variant == "without" else steps
    ctm.train(student, WORLD, loss, steps, seed, batch=BATCH)
    return student, time.process_time() - started


def modes(x: torch.Tensor) -> tuple[float, float]:
    """The share of samples within three standard deviations of a mode; the scarcest mode's share over the mean share."""
    distance, nearest = torch.cdist(x.double(), WORLD.means).min(1)
    inside = distance < 3 * WORLD.stds[0]
    counts = torch.bincount(nearest[inside], minlength=len(WORLD.means)).double()
    return float(inside.double().mean()), float(counts.min() / counts.mean())


def figures(student: ctm.CTM) -> dict[str, float]:
    inside, scarcest = modes(one_step(student, noise(student, 20_000, (2,), generator=torch.Generator().manual_seed(1))))
    return {
        **judge(lambda x, _: one_step(student, x), "ring", 4, 0),
        "inside": round(inside, 4),
        "scarcest": round(scarcest, 3),
        "error": round(flow_map_error(student, WORLD, n=1000), 4),
    }


def measure(setting: str, variant: str, seed: int) -> dict[str, Any]:
    student, seconds = trained(setting, variant, seed)
    return {**figures(student), "seconds": round(seconds, 1)}


def measure_more(part: str, variant: str, seed: int) -> dict[str, Any]:
    """The processor seconds of runs that follow each other, so that a busy minute of the machine falls on all; and what the
    term does to other jumps: samples in two and in four calls, and the jump to the middle level 0.5."""
    student, seconds = trained(part.removeprefix("more, "), variant, seed)
    row = {"seconds": round(seconds, 2), "middle": round(flow_map_error(student, WORLD, s=0.5, n=1000), 4)}
    for calls in (2, 4):
        times = karras_times(calls, student)
        row[f"w1_{calls}"] = judge(lambda x, _, times=times: gamma_sampling(student, x, times), "ring", 4, 0)["w1"]
    return row


def measure_strays(part: str, seed: int) -> dict[str, Any]:
    """Of the samples outside the modes without the term, in equal time: the share nearest to the mode where their exact
    trajectory ends; where the student with the term puts the same noises, in that mode, in another or outside; and the share
    that came nearer to that end. Beside them the mean squared distances to it, of the strays and of the others."""
    without, with_it = (trained(part.removeprefix("strays, "), variant, seed)[0] for variant in ("without", "with"))
    start = noise(without, 4000, (2,), generator=torch.Generator().manual_seed(seed))
    both = [one_step(student, start).double() for student in (without, with_it)]
    ends = WORLD.G(start, WORLD.sigma_max, WORLD.sigma_min).double()
    home = torch.cdist(ends, WORLD.means).argmin(1)
    (far, first), (reach, second) = (torch.cdist(x, WORLD.means).min(1) for x in both)
    lost, inside = far > 3 * WORLD.stds[0], reach <= 3 * WORLD.stds[0]
    off = [(x - ends).square().sum(1) for x in both]
    shares = {
        "right": first == home,
        "home": inside & (second == home),
        "wrong": inside & (second != home),
        "outside": ~inside,
        "nearer": off[1] < off[0],
    }
    row: dict[str, Any] = {name: round(float(where[lost].double().mean()), 4) for name, where in shares.items()}
    for name, x, distances in zip(("without", "with"), both, off, strict=True):
        row |= {
            f"inside_{name}": round(modes(x)[0], 4),
            f"off_{name}": [round(float(distances[group].mean()), 4) for group in (lost, ~lost)],
        }
        if seed == SEEDS[0]:
            row[f"samples_{name}"] = [[round(value, 3) for value in point] for point in x[:SAMPLES].tolist()]
    return row


class Watched(ctm.Adversarial):
    """The term, which also keeps the hinge loss of each update and whether the adaptive weight was cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.readings: list[tuple[float, float]] = []

    def learn(self, student: ctm.CTM, x0: torch.Tensor, fake: torch.Tensor, rng: torch.Generator) -> float:
        self.hinge = super().learn(student, x0, fake, rng)
        return self.hinge

    def judge(self, student: ctm.CTM, fake: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        self.verdict = super().judge(student, fake, rng)
        return self.verdict

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> torch.Tensor:
        loss = super().__call__(models, draw, rng)
        if loss.requires_grad:
            ratio = float(loss.detach() / self.verdict.detach())
            self.readings.append((self.hinge, float(ratio > 0.999 * self.most)))
        return loss


def pull(term: ctm.Adversarial, models: Models, rng: torch.Generator) -> list[float]:
    """What the discriminator does to samples now: the mean cosine of its slope, of one draw of the noise and of the mean of
    some, with the way from the sample to the nearest mode, over the samples more than three standard deviations from every
    mode; and the shares of samples and of data at which it is within the margins, ``|J| < 1``."""
    draw = Draw(WORLD, models.student, SHOWN, rng)
    with torch.no_grad():
        fake, _ = term.estimates(models, draw, rng)
    real = WORLD.sample(SHOWN, generator=rng)
    real = real + WORLD.sigma_min * torch.randn(real.shape, generator=rng)
    judge, _ = term.opponent(models.student, fake)
    slopes, within = [], []
    for _ in range(DRAWS):
        at, tau = term.noised(models.student, fake, rng)
        at.requires_grad_(True)
        verdict = judge(at, tau)
        slopes.append(torch.autograd.grad(verdict.sum(), at)[0])
        with torch.no_grad():
            within.append(
                [float((J.abs() < 1).double().mean()) for J in (verdict, judge(*term.noised(models.student, real, rng)))]
            )
    distance, nearest = torch.cdist(fake.double(), WORLD.means).min(1)
    way = WORLD.means[nearest] - fake
    stray = distance > 3 * WORLD.stds[0]
    cosine = [
        torch.cosine_similarity(slope.double(), way)[stray].mean() for slope in (slopes[0], torch.stack(slopes).mean(0))
    ]
    return [*map(float, cosine), *(sum(part) / DRAWS for part in zip(*within, strict=True))]


def measure_pull(part: str, variant: str, seed: int) -> dict[str, Any]:
    """:func:`pull` in the mean over a run and over its halves; the hinge loss; the share of the updates in which the cap of
    the adaptive weight held."""
    setting = part.removeprefix("pull, ")
    choices, width, steps = SETTINGS[setting]
    weight, options = VARIANTS[variant]
    jumps = ctm.Consistency(teacher(setting, seed), pool=POOL, **choices)
    term = Watched(levels=jumps.levels, seed=seed, **options)
    state = ctm.training.State(new_student(seed, width), WORLD, jumps + weight * term, steps, seed, batch=BATCH)
    rng, looks = torch.Generator().manual_seed(100 + seed), []
    for done, _ in ctm.training.training_steps(state):
        if term.readings and done % EVERY == 0:
            looks.append(pull(term, state.models, rng))
    half = len(looks) // 2
    one, drawn, samples, data = (sum(column) / len(looks) for column in zip(*looks, strict=True))
    hinge, capped = zip(*term.readings, strict=True)
    return {
        "cosine": round(one, 3),
        "cosine_mean": round(drawn, 3),
        "cosine_early": round(sum(look[1] for look in looks[:half]) / half, 3),
        "cosine_late": round(sum(look[1] for look in looks[half:]) / (len(looks) - half), 3),
        "within_samples": round(samples, 3),
        "within_data": round(data, 3),
        "hinge": round(sorted(hinge)[len(hinge) // 2], 3),
        "hinge_first": round(sum(hinge[:10]) / 10, 3),
        "hinge_last": round(sum(hinge[-50:]) / 50, 3),
        "capped": round(sum(capped) / len(capped), 3),
    }


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or SEEDS
    for seed in seeds:
        pairs = [(setting, variant) for setting in SETTINGS for variant in WAYS]
        pairs += [("four Euler steps", variant) for variant in VARIANTS]
        pairs += [("exact", variant) for variant in ("weight 0.3", "weight 0.1")]
        run(RESULTS, [{"setting": s, "variant": v, "seed": seed} for s, v in pairs], measure)
    for seed in seeds:
        run(RESULTS, [{"part": f"pull, {s}", "variant": v, "seed": seed} for s, v in PULLS], measure_pull)
        run(RESULTS, [{"part": f"more, {s}", "variant": v, "seed": seed} for s, v in MORE_OF], measure_more)
        run(RESULTS, [{"part": "strays, four Euler steps", "seed": seed}], measure_strays)


if __name__ == "__main__":
    main()
