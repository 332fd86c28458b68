"""Every method of `ctm.losses.METHODS` on one oracle: one network, one optimiser, one draw of times, equal processor time.

    python -m studies.family              # all parts
    python -m studies.family ring best    # some: tune, ring, longer, best

tune: three settings of each method that does without a teacher, on the two moons, two processor seconds each, one seed; the
best one is the method's default in the package. ring: every method with its default, 8 seconds. longer: those still above .10 after them, 60.
best: a denoiser first, then global consistency on it, nothing beside: without a teacher (60 seconds on the ring, 120 in 16
dimensions), and with one that was learned (90 seconds in all).

With a teacher means the world's own denoiser, whose calls are counted in the time. Steps are as many as fit: a few of each
kind are timed first. Evaluations are rows through the network a step, over the batch; a call under forward mode counts once.
Rows are kept in studies/family.json as they come.
"""

from __future__ import annotations

import copy
import sys
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
    Then,
    anywhere,
    half,
)
from ctm.metrics import flow_map_error, ratio_to_floor
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling, noise
from ctm.training import State
from studies.harness import load, run

RESULTS = Path(__file__).with_suffix(".json")
PAIRS = 4096 * 48 // 320  # batches drawn from one pool of trajectories
Build = Callable[[Any], Objective]
# a noise level for each start and end of a jump, in units of the data's spread
TABLE = ((20.0, 0.004), (20.0, 0.4), (2.0, 0.004), (2.0, 0.4), (0.4, 0.04))


def ect(share: float, stages: int, power: float = 0.5) -> Objective:
    return Then(Denoising(256), Semigroup(middle=Ratio(stages=stages), to_data=1.0, power=power), share)


def cmt(teacher: Any, share: float) -> Objective:
    tuned = Semigroup(middle=Ratio(stages=2), to_data=1.0, power=0.5)
    return Then(Consistency(teacher, "global", to_data=1.0), tuned, share)


def split(share: float) -> Objective:
    return Then(Denoising(256), Semigroup(middle=anywhere, jumps=True) + Denoising(256), share)


def scm(teacher: Any, warmup: float, power: float) -> Objective:
    return Then(Denoising(256), Eulerian(teacher, to_data=1.0, power=power, warmup=warmup), 0.2)


def trained(last: int, growth: str, power: float) -> Objective:
    first = 10 if growth == "doubling" else 2
    return Semigroup(middle=Neighbour(first, last, growth), to_data=1.0, power=power)


SETTINGS: dict[str, dict[str, Build]] = {
    "consistency distillation": {
        f"levels={n}": lambda t, n=n: Consistency(t, "local", to_data=1.0, levels=n) for n in (12, 24, 48)
    },
    "consistency training": {
        f"last={n}, power={p}": lambda _, n=n, p=p: trained(n, "root", p) for n, p in ((150, 0.0), (40, 0.0), (40, 0.5))
    },
    "improved consistency training": {
        f"last={n}, power={p}": lambda _, n=n, p=p: trained(n, "doubling", p)
        for n, p in ((1280, 0.5), (160, 0.5), (40, 0.5))
    },
    "easy consistency tuning": {
        f"share={a}, stages={n}": lambda _, a=a, n=n: ect(a, n) for a, n in ((0.3, 8), (0.3, 5), (0.1, 5))
    },
    "CTM, local": {f"levels={n}": lambda t, n=n: Consistency(t, "local", levels=n) for n in (12, 24, 48)},
    "CTM, soft": {f"levels={n}": lambda t, n=n: Consistency(t, "soft", levels=n) for n in (24, 48, 96)},
    "CTM, global": {f"levels={n}": lambda t, n=n: Consistency(t, "global", levels=n) for n in (24, 48, 96)},
    "mid-training": {f"share={a}": lambda t, a=a: cmt(t, a) for a in (0.5, 0.7, 0.9)},
    "shortcut": {
        f"denoising={w}": lambda _, w=w: Semigroup(middle=half, jumps=True) + w * Denoising(256) for w in (0.1, 0.3, 1.0)
    },
    "SplitMeanFlow": {f"share={a}": lambda _, a=a: split(a) for a in (0.1, 0.3, 0.5)},
    "MeanFlow": {f"power={p}": lambda _, p=p: Eulerian(power=p) + Denoising(256) for p in (0.0, 0.5, 1.0)},
    "improved MeanFlow": {
        f"power={p}": lambda _, p=p: Eulerian(tangent=True, power=p) + Denoising(256) for p in (0.0, 0.5, 1.0)
    },
    "AlphaFlow": {
        f"power={p}": lambda _, p=p: Semigroup(middle=Share(1.0, 0.005, "sigmoid"), power=p) + Denoising(256)
        for p in (0.0, 0.5, 1.0)
    },
    "continuous-time consistency": {
        f"warmup={a}, power={p}": lambda t, a=a, p=p: scm(t, a, p) for a, p in ((0.4, 0.5), (0.8, 0.5), (0.4, 0.0))
    },
    "Lagrangian distillation": {
        f"through={w}, to_data={d}": lambda t, w=w, d=d: Lagrangian(t, through=w, to_data=d)
        for w, d in (("derivative", 0.1), ("output", 0.1), ("derivative", 0.4))
    },
    "Eulerian distillation": {
        "through": lambda t: Eulerian(t, through=True),
        "held": lambda t: Eulerian(t),
        "held, power=0.5": lambda t: Eulerian(t, power=0.5),
    },
    "terminal velocity matching": {
        f"denoising={w}": lambda _, w=w: Lagrangian(own=True) + w * Denoising(256) for w in (0.1, 0.3, 1.0)
    },
    "LSD": {
        f"denoising={w}": lambda _, w=w: Lagrangian(own=True, through="all") + w * Denoising(256) for w in (0.1, 0.3, 1.0)
    },
    "ESD": {f"power={p}": lambda _, p=p: Eulerian(own=True, power=p) + Denoising(256) for p in (0.0, 0.5, 1.0)},
    "PSD": {
        f"denoising={w}": lambda _, w=w: Semigroup(middle=anywhere, jumps=True, held=False) + w * Denoising(256)
        for w in (0.3, 1.0, 3.0)
    },
    "SoFlow": {
        f"last={a}": lambda _, a=a: Semigroup(middle=Share(0.1, a), power=0.5) + Denoising(256) for a in (0.002, 0.01, 0.05)
    },
    "inductive moment matching": {f"k={k}": lambda _, k=k: MomentMatching(k=k) for k in (4.0, 6.0, 8.0)},
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


def evaluations(student: ctm.CTM) -> list[int]:
    """A list to which every call of the network, by the student or a copy of it, adds its rows."""
    rows: list[int] = []
    student.network.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
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
    rows = evaluations(state.models.student)
    state.models._target = copy.deepcopy(state.models.student).requires_grad_(False)
    state.models._moving[2] = list(state.models._target.parameters()), list(state.models._target.buffers())
    started = time.process_time()
    for _ in range(steps):
        state.step()
    seconds = time.process_time() - started
    cost = {"steps": steps, "seconds": round(seconds, 1), "evaluations": round(sum(rows) / steps / state.draw.batch, 2)}
    state.models.average.network._forward_hooks.clear()
    return state.models.average, cost


def ratio(model: ctm.CTM, truth: ctm.GaussianMixture, calls: int, seed: int, n: int = 2000, draws: int = 4) -> float:
    """Sliced W2 of the samples in ``calls`` calls over its noise floor."""
    times = karras_times(calls, model)

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        return gamma_sampling(model, noise(model, n, truth.shape, generator=generator), times)

    return round(ratio_to_floor(sampler, truth, n=n, draws=draws, seed=200 + seed).mean, 3)


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
    model, cost = learn(SETTINGS[method][setting], world, budget, seed, steps)
    return {"error": round(flow_map_error(model, ctm.data.WORLDS[world](), n=1000), 4), **cost}


def measure(method: str, world: str, budget: float, seed: int, steps: int | None = None, n: int = 2000) -> dict[str, Any]:
    model, cost = learn(lambda teacher: default(method, teacher), world, budget, seed, steps)
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
    above = [row["method"] for row in load("family").where(world="ring", budget=8, seed=0) if row["error"] > 0.1]
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
    asked = sys.argv[1:] or list(PARTS)
    if unknown := set(asked) - PARTS.keys():
        raise SystemExit(f"a part must be one of {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    for name in asked:
        PARTS[name]()
    summary()


if __name__ == "__main__":
    main()
