"""Every method of `ctm.losses.METHODS` on one oracle: one network, one optimiser, one draw of times, equal processor time.

    python -m studies.family              # all parts
    python -m studies.family ring best    # some: tune, ring, longer, best

tune: three settings of each method that does without a teacher, on the two moons, two processor seconds each, one seed;
the best is the default in the package. ring: every method with its default, 8 seconds. longer: those still above .10
after them, 60. best: a denoiser first, then global consistency on it, nothing beside: without a teacher (60 seconds on the
ring, 120 in 16 dimensions), and with one that was learned (90 seconds in all).

With a teacher means the world's own denoiser, whose calls are counted in the time. Steps are as many as fit: a few of each
kind are timed first. Evaluations are rows through the network a step, over the batch; a call under forward mode counts once.
Rows are kept in studies/family.json as they come.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from ctm.metrics import flow_map_error, ratio_to_floor
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling, noise
from ctm.training import State
from studies.harness import load, run, run_parts

RESULTS = Path(__file__).with_suffix(".json")
PAIRS = 4096 * 48 // 320  # batches drawn from one pool of trajectories
Build = Callable[[Any], Objective]
# a noise level for each start and end of a jump, in units of the data's spread
TABLE = ((20.0, 0.004), (20.0, 0.4), (2.0, 0.004), (2.0, 0.4), (0.4, 0.04))


def data(**choices: Any) -> Semigroup:
    """Pairs whose slope comes from the data."""
    return Semigroup(references=256, **choices)


def refined(first: int, last: int, growth: str, power: float = 0.0) -> Objective:
    return data(middle=Neighbour(first, last, growth), to_data=1.0, power=power)


def ect(share: float, stages: int) -> Objective:
    return Then(Denoising(256), data(middle=Ratio(stages=stages), to_data=1.0), share)


def scm(warmup: float, power: float) -> Objective:
    return Then(Denoising(256), Eulerian(references=256, to_data=1.0, power=power, warmup=warmup), 0.2)


def split(share: float) -> Objective:
    return Then(Denoising(256), Semigroup(middle=anywhere, jumps=True) + Denoising(256), share)


def with_denoising(*terms: Term) -> list[Objective]:
    return [term + Denoising(256) for term in terms]


POWERS = (0.0, 0.5, 1.0)
WEIGHTS = (0.1, 0.3, 1.0)
# three settings each; the package's own among them
SETTINGS: dict[str, list[Objective]] = {
    "consistency training": [refined(2, n, "root", p) for n, p in ((40, 0.0), (150, 0.0), (40, 0.5))],
    "improved consistency training": [refined(10, n, "doubling", p) for n, p in ((1280, 0.5), (160, 0.5), (1280, 0.0))],
    "easy consistency tuning": [ect(a, n) for a, n in ((0.3, 8), (0.3, 5), (0.1, 5))],
    "shortcut": [Semigroup(middle=half, jumps=True) + w * Denoising(256) for w in WEIGHTS],
    "SplitMeanFlow": [split(a) for a in (0.1, 0.3, 0.5)],
    "MeanFlow": with_denoising(*(Eulerian(references=256, power=p) for p in POWERS)),
    "improved MeanFlow": with_denoising(*(Eulerian(references=256, tangent=True, power=p) for p in POWERS)),
    "AlphaFlow": with_denoising(*(data(middle=Share(1.0, 0.005, "sigmoid"), power=p) for p in POWERS)),
    "continuous-time consistency": [scm(a, p) for a, p in ((0.8, 0.0), (0.4, 0.0), (0.8, 0.5))],
    "terminal velocity matching": [Lagrangian(own=True) + w * Denoising(256) for w in WEIGHTS],
    "LSD": [Lagrangian(own=True, through="all") + w * Denoising(256) for w in WEIGHTS],
    "ESD": with_denoising(*(Eulerian(own=True, power=p) for p in POWERS)),
    "PSD": [Semigroup(middle=anywhere, jumps=True, held=False) + w * Denoising(256) for w in (0.3, 1.0, 3.0)],
    "SoFlow": with_denoising(*(data(middle=Share(0.1, a)) for a in (0.002, 0.01, 0.05))),
    "inductive moment matching": [MomentMatching(k=k) for k in (4.0, 6.0, 8.0)],
}


def needs_teacher(method: str) -> bool:
    """Whether the package's objective is none without a teacher."""
    try:
        METHODS[method](None)
    except ValueError:
        return True
    return False


def default(method: str, teacher: Any) -> Objective:
    """The package's objective, with the teacher where the method needs one."""
    return METHODS[method](teacher if needs_teacher(method) else None)


def timed(state: State, parts: int = 3, least: int = 20, seconds: float = 0.15) -> float:
    """Processor seconds of a step, the mean over the stages of training, with its share of a pool of trajectories."""
    started, each = time.process_time(), []
    state.step()  # fills the pool, if there is one
    pool = time.process_time() - started
    for part in range(parts):
        state.models.step = round((part + 0.5) / parts * state.steps)
        state.step()
        started, done = time.process_time(), 0
        while done < least or time.process_time() - started < seconds:
            state.step()
            done += 1
        each.append((time.process_time() - started) / done)
    return sum(each) / parts + pool / PAIRS


def evaluations(*models: ctm.CTM) -> list[int]:
    """A list to which every call of the models' networks, and of later copies of them, adds its rows."""
    rows: list[int] = []
    for model in models:
        model.network.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    return rows


def learn(
    build: Build, world: str, budget: float, seed: int, steps: int | None, **options: Any
) -> tuple[ctm.CTM, dict[str, Any]]:
    """Train for ``budget`` processor seconds, or so many ``steps``; the averaged model and what it cost."""
    truth = ctm.data.WORLDS[world]()

    def start(steps: int) -> State:
        return State(ctm.CTM.for_data(truth, seed=seed), truth, build(truth), steps, seed, **options)

    steps = steps or max(20, int(budget / timed(start(10**6))))
    state = start(steps)
    rows = evaluations(state.models.student, state.models.target)
    started = time.process_time()
    for _ in range(steps):
        state.step()
    seconds = time.process_time() - started
    cost = {"steps": steps, "seconds": round(seconds, 1), "evaluations": round(sum(rows) / steps / state.draw.batch, 2)}
    return state.models.average, cost


def ratio(model: ctm.CTM, truth: ctm.GaussianMixture, calls: int, seed: int, n: int = 2000, draws: int = 4) -> float | None:
    """Sliced W2 of the samples in ``calls`` calls over its noise floor; None where they leave the range of numbers."""
    times = karras_times(calls, model)

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        return gamma_sampling(model, noise(model, n, truth.shape, generator=generator), times)

    try:
        return round(ratio_to_floor(sampler, truth, n=n, draws=draws, seed=200 + seed).mean, 3)
    except ValueError:
        return None


def judge(model: ctm.CTM, world: str, seed: int, n: int) -> dict[str, Any]:
    """One-step error, the errors of :data:`TABLE`, and sample quality at 1, 2, 4 and 8 calls."""
    truth = ctm.data.WORLDS[world]()
    sd = truth.sigma_data
    table = [round(flow_map_error(model, truth, t * sd, s * sd, n=1000), 4) for t, s in TABLE]
    error = round(flow_map_error(model, truth, n=n, seed=100 + seed), 4)
    return {"error": error, "table": table} | {f"ratio_{k}": ratio(model, truth, k, seed) for k in (1, 2, 4, 8)}


def measure_setting(
    method: str, setting: str, world: str, budget: float, seed: int, steps: int | None = None
) -> dict[str, Any]:
    model, cost = learn(lambda _: copy.deepcopy(SETTINGS[method][setting]), world, budget, seed, steps)
    return {"error": round(flow_map_error(model, ctm.data.WORLDS[world](), n=1000), 4), **cost}


def measure(method: str, world: str, budget: float, seed: int, steps: int | None = None, n: int = 2000) -> dict[str, Any]:
    """``error`` is None where the weights diverged."""
    try:
        model, cost = learn(lambda teacher: default(method, teacher), world, budget, seed, steps)
    except FloatingPointError:
        return {"error": None}
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        return {"error": None} | cost
    return judge(model, world, seed, n) | cost


def tune() -> None:
    jobs = [
        {"method": m, "setting": s, "world": "two_moons", "budget": 2, "seed": 0}
        for m in SETTINGS
        if not needs_teacher(m)
        for s in SETTINGS[m]
    ]
    run(RESULTS, jobs, measure_setting)


def ring() -> None:
    run(RESULTS, [{"method": method, "world": "ring", "budget": 8, "seed": 0} for method in METHODS], measure)


def longer() -> None:
    rows = load("family").where(world="ring", budget=8, seed=0)
    above = [row["method"] for row in rows if not (row["error"] and row["error"] <= 0.1)]
    run(RESULTS, [{"method": method, "world": "ring", "budget": 60, "seed": 0} for method in above], measure)


def measure_best(part: str, world: str, budget: float, share: float, references: int, seed: int) -> dict[str, Any]:
    """A denoiser for a share of the time, then consistency on it for the rest: two runs, each with its own learning rate."""
    truth = ctm.data.WORLDS[world]()
    first, cost = learn(lambda _: Denoising(references), world, share * budget, seed, None)
    started = time.process_time()
    student = copy.deepcopy(first).requires_grad_(True)
    teacher = copy.deepcopy(first).requires_grad_(False)

    def start(steps: int) -> State:
        return State(copy.deepcopy(student), truth, Consistency(teacher), steps, seed)

    left = budget - cost["seconds"]
    state = start(max(20, int(left / timed(start(10**6)))))
    started = time.process_time()
    for _ in range(state.steps):
        state.step()
    seconds = cost["seconds"] + time.process_time() - started
    judged = judge(state.models.average, world, seed, 4000)
    return judged | {"first": cost["steps"], "steps": cost["steps"] + state.steps, "seconds": round(seconds, 1)}


def best() -> None:
    cells = (("none", "ring", 60), ("none", "clusters", 120), ("learned", "ring", 90))
    settings = {"share": 0.6, "references": 256, "seed": 0}
    run(RESULTS, [{"part": p, "world": w, "budget": b} | settings for p, w, b in cells], measure_best)


PARTS = {part.__name__: part for part in (tune, ring, longer, best)}


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
