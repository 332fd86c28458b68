"""Every method of `ctm.losses.METHODS` on one oracle: one network, one optimiser, equal processor time.

    python -m studies.family               # all parts
    python -m studies.family tune compare  # some: tune, compare, starts, longer, other, minute, best, two_runs

tune: six settings of each method, three of its own at two learning rates, on a world that is not reported, the pinwheel: 1.5
seconds each, one seed. compare: every method in the best of its six, three seconds on each of six worlds, three seeds.
starts: some losses with t = sigma_max in 40% of the draws and never; 400 steps, no weight on the error. longer: twenty
seconds on the ring, one seed, for those whose median error is above .10 after three; other: one more setting of those still
above. minute: sixty seconds for those that stay above it even so, as they are and with one thing changed. best: a denoiser
first, by Adam in large batches or on the ring by SOAP, then global consistency on it, most of it from sigma_max to
sigma_min: without a teacher (60 seconds on the ring, 120 in 16 dimensions), and with one that was learned (90 seconds in
all, the same two runs); three seeds, five by SOAP, settings found with the first on the worlds themselves. two_runs: the
same way on the terms of the others, six tries on the pinwheel, then as in compare on the ring and in 16 dimensions.

With a teacher means the world's own denoiser, whose calls are counted in the time. Equal time is counted in steps of
denoising: a second is RATE of them, about what one quiet thread does. A method's steps are timed beside those, in turn, so
that its share does not depend on what else the machine does. Evaluations are rows through the network a step, over the
batch; a call under forward mode counts once. Rows are kept in studies/family.json as they come. One thread, two hours.
"""

from __future__ import annotations

import copy
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ctm
from ctm.losses import (
    METHODS,
    Consistency,
    Denoising,
    Eulerian,
    Lagrangian,
    MomentMatching,
    Neighbour,
    Objective,
    Ratio,
    Semigroup,
    Share,
    Term,
    Then,
    anywhere,
    half,
)
from ctm.metrics import ratio_to_floor, relative_error
from ctm.noise import karras_times, lognormal_times, noised
from ctm.samplers import gamma_sampling, noise
from ctm.training import State
from studies.harness import load, run, run_parts

RESULTS = Path(__file__).with_suffix(".json")
RATE = 320  # steps of denoising in a second, one quiet thread
PAIRS = 4096 * 48 // 320  # batches drawn from one pool of trajectories
Build = Callable[[Any], Objective]
Settings = dict[str, Objective]
# methods that learn jumps to the end alone
TO_THE_END = (
    "consistency distillation",
    "consistency training",
    "improved consistency training",
    "easy consistency tuning",
    "mid-training",
    "continuous-time consistency",
)
# a noise level for each start and end of a jump, in units of the data's spread
TABLE = ((20.0, 0.004), (20.0, 0.4), (2.0, 0.004), (2.0, 0.4), (0.4, 0.04))


def data(**choices: Any) -> Semigroup:
    """Pairs whose slope comes from the data."""
    return Semigroup(references=256, **choices)


def refined(first: int, last: int, growth: str, power: float = 0.0) -> Objective:
    return data(middle=Neighbour(first, last, growth), to_data=1.0, power=power)


def ect(share: float, stages: int) -> Objective:
    return Then(Denoising(256), data(middle=Ratio(stages=stages), to_data=1.0), share)


def cmt(teacher: Any, share: float) -> Objective:
    points = Consistency(teacher, "global", to_data=1.0)
    return Then(points, data(middle=Neighbour(40, 80), to_data=1.0), share)


def scm(warmup: float, power: float) -> Objective:
    return Then(Denoising(256), Eulerian(references=256, to_data=1.0, power=power, warmup=warmup), 0.2)


def split(share: float) -> Objective:
    return Then(Denoising(256), Semigroup(middle=anywhere, jumps=True) + Denoising(256), share)


def levels(teacher: Any, kind: str, *numbers: int, **choices: Any) -> Settings:
    return {f"{n} levels": Consistency(teacher, kind, levels=n, **choices) for n in numbers}


def powers(term: Callable[[float], Term], beside: bool = True) -> Settings:
    """Three exponents of the weight, mostly with the denoising term beside."""
    return {f"$p = {p}$": term(float(p)) + Denoising(256) if beside else term(float(p)) for p in ("0", "0.5", "1")}


def weights(term: Term, *numbers: str) -> Settings:
    """Three weights of the denoising term beside."""
    return {f"denoising by {w}": term + float(w) * Denoising(256) for w in numbers or ("0.1", "0.3", "1")}


RATES = (8e-3, 2e-3)
# three settings of each method by name, given the teacher; the package's own among them
SETTINGS: dict[str, Callable[[Any], Settings]] = {
    "consistency distillation": lambda w: levels(w, "local", 12, 24, 48, to_data=1.0),
    "consistency training": lambda _: {
        "to 40 levels": refined(2, 40, "root"),
        "to 150 levels": refined(2, 150, "root"),
        "to 40 levels, $p = 0.5$": refined(2, 40, "root", 0.5),
    },
    "improved consistency training": lambda _: {
        "to 1,280 levels, $p = 0.5$": refined(10, 1280, "doubling", 0.5),
        "to 160 levels, $p = 0.5$": refined(10, 160, "doubling", 0.5),
        "to 1,280 levels, $p = 0$": refined(10, 1280, "doubling"),
    },
    "easy consistency tuning": lambda _: {
        f"{round(100 * a)}% denoising first, {n} stages": ect(a, n) for a, n in ((0.3, 8), (0.3, 5), (0.1, 5))
    },
    "CTM, local": lambda w: levels(w, "local", 12, 24, 48),
    "CTM, soft": lambda w: levels(w, "soft", 24, 48, 96),
    "CTM, global": lambda w: levels(w, "global", 24, 48, 96),
    "mid-training": lambda w: {f"{round(100 * a)}% on the solver's points": cmt(w, a) for a in (0.5, 0.7, 0.9)},
    "shortcut": lambda _: weights(Semigroup(middle=half, jumps=True)),
    "SplitMeanFlow": lambda _: {f"{round(100 * a)}% denoising first": split(a) for a in (0.1, 0.3, 0.5)},
    "MeanFlow": lambda _: powers(lambda p: Eulerian(references=256, power=p)),
    "improved MeanFlow": lambda _: powers(lambda p: Eulerian(references=256, tangent=True, power=p)),
    "AlphaFlow": lambda _: powers(lambda p: data(middle=Share(1.0, 0.005, "sigmoid"), power=p)),
    "continuous-time consistency": lambda _: {
        f"warm-up {round(100 * a)}%, $p = {p:g}$": scm(a, p) for a, p in ((0.8, 0.0), (0.4, 0.0), (0.8, 0.5))
    },
    "Lagrangian distillation": lambda w: powers(lambda p: Lagrangian(w, power=p), beside=False),
    "Eulerian distillation": lambda w: powers(lambda p: Eulerian(w, through=True, power=p), beside=False),
    "terminal velocity matching": lambda _: weights(Lagrangian(own=True)),
    "LSD": lambda _: weights(Lagrangian(own=True, through="all")),
    "ESD": lambda _: powers(lambda p: Eulerian(own=True, power=p)),
    "PSD": lambda _: weights(Semigroup(middle=anywhere, jumps=True, held=False), "0.3", "1", "3"),
    "SoFlow": lambda _: {f"share to {a}": data(middle=Share(0.1, a)) + Denoising(256) for a in (0.002, 0.01, 0.05)},
    "inductive moment matching": lambda _: {f"kernel, $k = {k:g}$": MomentMatching(k=k) for k in (4.0, 6.0, 8.0)},
}


def digits() -> ctm.GaussianMixture:
    """The 8 x 8 digits as 64 numbers without classes, a narrow Gaussian on each."""
    labelled = ctm.data.digits()
    return ctm.GaussianMixture(labelled.means.flatten(1), labelled.stds[0])


TRUTHS = ctm.data.WORLDS | {"digits": digits}
WORLDS = ("ring", "two_moons", "checkerboard", "spirals", "clusters", "digits")
SEEDS = (0, 1, 2)


def needs_teacher(method: str) -> bool:
    """Whether the package's objective is none without a teacher."""
    try:
        METHODS[method](None)
    except ValueError:
        return True
    return False


def made(method: str, teacher: Any, setting: int) -> Objective:
    """The objective of a method in one of its three settings."""
    return list(SETTINGS[method](teacher).values())[setting]


def seconds_of(state: State, steps: int) -> float:
    """Processor seconds of some steps."""
    started = time.process_time()
    for _ in range(steps):
        state.step()
    return time.process_time() - started


def steps_in(
    budget: float, start: Callable[..., State], build: Callable[[], Objective], rounds: int = 3, **options: Any
) -> int:
    """Steps that take as long as ``budget`` seconds of denoising, with their share of a pool of trajectories.

    Both are timed in turn over three stages of training; of some rounds the median counts. ``options``: of the run timed.
    """
    beside, state = start(Denoising(256)), start(build(), **options)
    seconds_of(beside, 3)
    pool, found = seconds_of(state, 1), []
    for _ in range(rounds):
        one = other = 0.0
        for part in range(3):
            for each in (beside, state):
                each.models.step = round((part + 0.5) / 3 * each.steps)
                each.step()
            one, other = one + seconds_of(beside, 6) / 18, other + seconds_of(state, 6) / 18
        found.append((other + max(0.0, pool - other) / PAIRS) / one)
    return max(20, int(budget * RATE / statistics.median(found)))


def evaluations(*models: ctm.CTM) -> list[int]:
    """A list to which every call of the models' networks, and of later copies of them, adds its rows."""
    rows: list[int] = []
    for model in models:
        model.network.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    return rows


def run_of(objective: Objective, world: str, seed: int = 0, steps: int = 10**6, **options: Any) -> State:
    """A run from scratch on a ready-made world."""
    truth = TRUTHS[world]()
    return State(ctm.CTM.for_data(truth, seed=seed), truth, objective, steps, seed, **options)


def learn(build: Build, world: str, seed: int, steps: int, **options: Any) -> tuple[ctm.CTM, dict[str, Any]]:
    """Train for so many ``steps``; the averaged model and what it cost."""
    state = run_of(build(TRUTHS[world]()), world, seed, steps, **options)
    rows = evaluations(state.models.student, state.models.target)
    started = time.process_time()
    for _ in range(steps):
        state.step()
    seconds = time.process_time() - started
    cost = {"steps": steps, "seconds": round(seconds, 1), "evaluations": round(sum(rows) / steps / state.draw.batch, 2)}
    return state.models.average, cost


def ratio(model: ctm.CTM, world: str, calls: int, seed: int, gamma: float) -> float | None:
    """Sliced W2 of the samples in ``calls`` calls over its noise floor; None where they leave the range of numbers."""
    truth, times = TRUTHS[world](), karras_times(calls, model)

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        x = noise(model, n, truth.shape, generator=generator)
        return gamma_sampling(model, x, times, gamma, generator=generator)

    try:
        return round(ratio_to_floor(sampler, truth, n=2000, draws=2, seed=200 + seed).mean, 3)
    except ValueError:
        return None


@functools.cache
def exact(world: str, t: float, s: float, n: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """Points at ``t``, where they are at ``s``, and the spread of the data: solved once for all methods."""
    truth, rng = TRUTHS[world](), torch.Generator().manual_seed(seed)
    x0 = truth.sample(n, generator=rng)
    xt = noised(x0, t, rng)
    return xt, truth.G(xt, t, s), float((x0.double() - truth.center).square().mean().sqrt())


def error_of(model: ctm.CTM, world: str, seed: int, n: int, t: float | None = None, s: float | None = None) -> float:
    """As :func:`ctm.metrics.flow_map_error`: of one step, or from ``t`` to ``s``."""
    t, s = model.sigma_max if t is None else t, model.sigma_min if s is None else s
    xt, end, spread = exact(world, t, s, n, seed)
    return round(relative_error(model.G(xt, t, s), end, spread), 4)


def judge(model: ctm.CTM, world: str, seed: int, n: int, gamma: float = 0.0) -> dict[str, Any]:
    """One-step error, the errors of :data:`TABLE`, and sample quality at 1, 2, 4 and 8 calls.

    ``gamma`` is 1 for a model that knows jumps to the end alone: it puts the noise of each level back.
    """
    truth = TRUTHS[world]()
    table = [error_of(model, world, 0, 400, t * truth.sigma_data, s * truth.sigma_data) for t, s in TABLE]
    error = error_of(model, world, 100 + seed, n)
    return {"error": error, "table": table} | {f"ratio_{k}": ratio(model, world, k, seed, gamma) for k in (1, 2, 4, 8)}


@functools.cache
def steps_of(method: str, setting: int, world: str, budget: float) -> int:
    """Steps of a method in ``budget`` seconds; timed once for all its seeds and rates."""
    truth = TRUTHS[world]()
    return steps_in(budget, lambda objective: run_of(objective, world), lambda: made(method, truth, setting))


def fit(method: str, setting: int, lr: float, world: str, budget: float, seed: int, steps: int = 0) -> Any:
    """The averaged model, None where its weights diverged, and what it cost."""
    steps = steps or steps_of(method, setting, world, budget)
    try:
        model, cost = learn(lambda teacher: made(method, teacher, setting), world, seed, steps, lr=lr)
    except FloatingPointError:
        return None, {"steps": steps}
    sound = all(bool(weights.isfinite().all()) for weights in model.parameters())
    return model if sound else None, cost


def measure_setting(part: str, **job: Any) -> dict[str, Any]:
    """The error of one step; None where training diverged."""
    model, cost = fit(**job)
    return {"error": model and error_of(model, job["world"], 0, 1000), **cost}


def measure(part: str, n: int = 2000, **job: Any) -> dict[str, Any]:
    """``error`` is None where training diverged."""
    model, cost = fit(**job)
    return cost | (
        judge(model, job["world"], job["seed"], n, float(job["method"] in TO_THE_END)) if model else {"error": None}
    )


def tune() -> None:
    jobs = [
        {"part": "tune", "method": m, "setting": k, "lr": lr, "world": "pinwheel", "budget": 1.5, "seed": 0}
        for m in SETTINGS
        for k in range(3)
        for lr in RATES
    ]
    run(RESULTS, jobs, measure_setting)


def chosen(method: str) -> dict[str, Any]:
    """The best of the method's six settings on the world they were tried on."""
    rows = [row for row in load("family").where(part="tune", method=method) if row["error"] is not None]
    best = min(rows, key=lambda row: row["error"])
    return {"setting": best["setting"], "lr": best["lr"]}


def compare() -> None:
    jobs = [
        {"part": "compare", "method": m, "world": world, "budget": 3, "seed": seed} | chosen(m)
        for world in WORLDS
        for m in METHODS
        for seed in SEEDS
    ]
    run(RESULTS, jobs, measure)


def longer() -> None:
    rows = load("family").where(part="compare", world="ring")
    for method in METHODS:
        errors = [row["error"] or math.inf for row in rows.where(method=method)]
        if statistics.median(errors) > 0.1:
            job = {"part": "longer", "method": method, "world": "ring", "budget": 20, "seed": 0}
            run(RESULTS, [job | chosen(method)], measure)


# one other setting of those that stay above .10: a finer grid, or the paper's weight
OTHER = {"consistency training": 1, "easy consistency tuning": 0, "improved MeanFlow": 0, "PSD": 1}


def other() -> None:
    for method, setting in OTHER.items():
        job = {"part": "other", "method": method, "world": "ring", "budget": 20, "seed": 0}
        run(RESULTS, [job | {"setting": setting, "lr": chosen(method)["lr"]}], measure)


# of those that stay above .10 even so, the better of the settings tried
BEST_YET = {"consistency training": 1, "improved MeanFlow": 0, "PSD": 0, "inductive moment matching": 0}
# and, of those that then do, that setting with all starts drawn uniformly
UNIFORM: dict[str, Build] = {
    "PSD": lambda _: Semigroup(middle=anywhere, jumps=True, held=False, from_noise=0.0) + 0.3 * Denoising(256),
    "inductive moment matching": lambda _: MomentMatching(k=4.0, from_noise=0.0),
}


def measure_uniform(part: str, method: str, change: str, world: str, budget: float, seed: int, lr: float) -> dict[str, Any]:
    build = UNIFORM[method]
    steps = steps_in(budget, lambda objective: run_of(objective, world), lambda: build(TRUTHS[world]()))
    model, cost = learn(build, world, seed, steps, lr=lr)
    return cost | judge(model, world, seed, 2000)


def minute() -> None:
    shared = {"part": "minute", "world": "ring", "budget": 60, "seed": 0}
    for method, setting in BEST_YET.items():
        job = shared | {"method": method, "lr": chosen(method)["lr"]}
        run(RESULTS, [job | {"setting": setting}], measure)
        if method in UNIFORM:
            run(RESULTS, [job | {"change": "t uniform"}], measure_uniform)


STARTS: dict[str, Callable[[Any, float], Objective]] = {
    "MeanFlow": lambda _, share: Eulerian(references=256, from_noise=share) + Denoising(256),
    "improved MeanFlow": lambda _, share: Eulerian(references=256, tangent=True, from_noise=share) + Denoising(256),
    "ESD": lambda _, share: Eulerian(own=True, from_noise=share) + Denoising(256),
    "Eulerian distillation": lambda w, share: Eulerian(w, through=True, from_noise=share),
    "SoFlow": lambda _, share: data(middle=Share(0.1, 0.05), from_noise=share) + Denoising(256),
    "shortcut": lambda _, share: Semigroup(middle=half, jumps=True, from_noise=share) + Denoising(256),
    "terminal velocity matching": lambda _, share: Lagrangian(own=True, from_noise=share) + Denoising(256),
    "Lagrangian distillation": lambda w, share: Lagrangian(w, from_noise=share),
}


def measure_start(part: str, method: str, from_noise: float, world: str, steps: int, seed: int) -> dict[str, Any]:
    model, cost = learn(lambda teacher: STARTS[method](teacher, from_noise), world, seed, steps)
    return {"error": error_of(model, world, 100 + seed, 2000)} | cost


def starts() -> None:
    jobs = [
        {"part": "starts", "method": m, "from_noise": share, "world": "ring", "steps": 400, "seed": seed}
        for m in STARTS
        for seed in SEEDS
        for share in (0.4, 0.0)
    ]
    run(RESULTS, jobs, measure_start)


def higher_times(n: int, model: ctm.CTM, rng: torch.Generator) -> Tensor:
    """Log-normal levels as the package draws them, but 1.6 times as high."""
    return (math.exp(0.5) * lognormal_times(n, model, rng)).clamp(model.sigma_min, model.sigma_max)


def by_soap(lr: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """Adam's steps in the eigenbases of each layer's gradients (Vyas et al. 2024), found anew every 25 steps."""
    from pytorch_optimizer import SOAP  # here: its import takes seconds, and no other part needs it

    return functools.partial(SOAP, lr=lr, betas=(0.9, 0.99), shampoo_beta=0.95, weight_decay=0.0, precondition_frequency=25)


def measure_best(
    part: str, world: str, budget: float, share: float, optimizer: str, batch: int, lr: float, seed: int
) -> dict[str, Any]:
    """A denoiser for a share of the time, then consistency on it (by Adam), mostly on the jump that is judged."""
    truth, choices = TRUTHS[world](), {"batch": batch, "lr": lr, "optimizer": by_soap(lr) if optimizer == "SOAP" else None}

    def start(objective: Objective, **options: Any) -> State:
        return run_of(objective, world, seed, **options)

    def denoising() -> Objective:
        return Denoising(256, times=higher_times)

    def jumps() -> Objective:
        return Consistency(teacher, levels=48, from_noise=0.9, to_data=0.8)

    first = steps_in(share * budget, start, denoising, **choices)
    model, cost = learn(lambda _: denoising(), world, seed, first, **choices)
    teacher = copy.deepcopy(model).requires_grad_(False)
    steps = steps_in((1 - share) * budget, start, jumps)
    state = State(model.requires_grad_(True), truth, jumps(), steps, seed)
    seconds = cost["seconds"] + seconds_of(state, steps)
    judged = judge(state.models.average, world, seed, 4000)
    return judged | {"first": first, "steps": steps, "seconds": round(seconds, 1)}


def best() -> None:
    ring: list[tuple[str, str, int]] = [("none", "ring", 60), ("learned", "ring", 90)]
    adam = {"share": 0.6, "optimizer": "Adam", "batch": 1280, "lr": 1.2e-2}
    soap = {"share": 0.75, "optimizer": "SOAP", "batch": 640, "lr": 4e-3}
    for settings, cells, seeds in ((adam, [*ring, ("none", "clusters", 120)], SEEDS), (soap, ring, range(5))):
        for seed in seeds:
            jobs = [{"part": p, "world": w, "budget": b} | settings | {"seed": seed} for p, w, b in cells]
            run(RESULTS, jobs, measure_best)


# the share of the time that goes into the denoiser
SHARES = (0.3, 0.5, 0.7)
TRIED, TWO_RUNS = "two runs, tried", "two runs"


@functools.cache
def steps_after(share: float, world: str, budget: float) -> int:
    """Steps of global consistency on a learned denoiser that fit into the rest of the time."""

    def jumps() -> Objective:
        return Consistency(run_of(Denoising(256), world).models.average, levels=24)

    return steps_in((1 - share) * budget, lambda objective: run_of(objective, world), jumps)


def fit_twice(world: str, budget: float, share: float, lr: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """A denoiser, then global consistency on it: the averaged model, None where it diverged, and what it cost."""
    truth, first, steps = TRUTHS[world](), round(share * budget * RATE), steps_after(share, world, budget)
    cost = {"first": first, "steps": steps}
    try:
        model, denoiser = learn(lambda _: Denoising(256), world, seed, first, lr=lr)
        teacher = copy.deepcopy(model).requires_grad_(False)
        # pools that the run uses up, so that each step has had its share
        pool = math.ceil(steps / math.ceil(steps / PAIRS) * 320 / 48)
        jumps = Consistency(teacher, levels=24, pool=pool)
        state = State(model.requires_grad_(True), truth, jumps, steps, seed, lr=lr)
        cost["seconds"] = round(denoiser["seconds"] + seconds_of(state, steps), 1)
    except FloatingPointError:
        return None, cost
    found = state.models.average
    return found if all(bool(weights.isfinite().all()) for weights in found.parameters()) else None, cost


def measure_try(part: str, **job: Any) -> dict[str, Any]:
    model, cost = fit_twice(**job)
    return {"error": model and error_of(model, job["world"], 0, 1000), **cost}


def measure_two_runs(part: str, **job: Any) -> dict[str, Any]:
    model, cost = fit_twice(**job)
    return cost | (judge(model, job["world"], job["seed"], 2000) if model else {"error": None})


def two_runs() -> None:
    tries = [
        {"part": TRIED, "world": "pinwheel", "budget": 1.5, "share": a, "lr": lr, "seed": 0} for a in SHARES for lr in RATES
    ]
    run(RESULTS, tries, measure_try)
    rows = [row for row in load("family").where(part=TRIED) if row["error"] is not None]
    best = min(rows, key=lambda row: row["error"])
    shared = {"part": TWO_RUNS, "share": best["share"], "lr": best["lr"]}
    jobs = [shared | {"world": world, "budget": 3, "seed": seed} for world in ("ring", "clusters") for seed in SEEDS]
    run(RESULTS, jobs, measure_two_runs)


PARTS = {part.__name__: part for part in (tune, compare, starts, longer, other, minute, best, two_runs)}


def summary() -> None:
    """Each row of a whole method with its figures."""
    for row in load("family"):
        if "table" in row:
            print(*(f"{key}={value}" for key, value in row.items()))


def main() -> None:
    run_parts(PARTS)
    summary()


if __name__ == "__main__":
    main()
