"""Pitfalls: broken training runs, the questions that tell them apart, and how far these lead in other worlds.

    python -m studies.pitfalls

At least three seeds each; the cases have a world for each seed. The runs of few updates are sound ones, each a whole run
with a falling learning rate. One thread, about seven minutes; results are kept in studies/pitfalls.json as they come.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.losses import Draw, Models, Objective, Pairs, draw_levels, grid_times, move_average
from ctm.metrics import flow_map_error
from ctm.models import c_noise
from ctm.noise import randn, rho_times
from ctm.parametrisations import Parametrised, edm, no_outer
from ctm.samplers import noise, one_step
from ctm.training import State, rate
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 1500
FEW = (50, 100, 200, 500)  # updates of a sound run
RING = ctm.data.ring()
# the tree was made from the runs on the ring; the other two are held out
WORLDS = {0: ctm.data.ring, 1: ctm.data.two_moons, 2: ctm.data.pinwheel}
DENOISING = ctm.Denoising(references=0, times=rho_times)
FEWER = {"pool": 1024, "reuse": 192}  # the default recipe, with less time spent on the teacher


def network(seed: int = 0) -> ctm.networks.MLP:
    """The small network of the chapter."""
    return ctm.networks.MLP(dim=2, width=64, layers=4, seed=seed)


# What a fault does to the loss.


class Backwards(ctm.Consistency):
    """The grid runs down, the index was meant for one that runs up: s lies above t."""

    def pairs(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Pairs, Any]:
        p, condition = super().pairs(models, draw, rng)
        return Pairs(xt=p.xu, t=p.u, xu=p.xt, u=p.t, s=p.t), condition


class Still(ctm.Consistency):
    """The teacher's step is G(x, t, t), the identity."""

    def pairs(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Pairs, Any]:
        p, condition = super().pairs(models, draw, rng)
        return Pairs(p.xt, p.t, p.xt, p.u, p.s), condition


def same_draw(models: Models, draw: Draw, rng: torch.Generator) -> torch.Tensor:
    """The seed is set inside the loop."""
    rng.manual_seed(0)
    return DENOISING(models, draw, rng)


def without_teacher(through: bool) -> Objective:
    """A loss with x_t and x_u from one draw of noise.

    The target is held still, or (the fault) the gradient goes through it.
    """

    def objective(models: Models, draw: Draw, rng: torch.Generator) -> torch.Tensor:
        student, (x0, _) = models.student, draw()
        noise = randn(x0.shape, rng)
        levels = draw_levels(len(x0), 24, "local", 0.4, 0.5, rng)
        t, u, s = (grid_times(k, 24, None, student.sigma_min, student.sigma_max)[:, None] for k in levels)
        with torch.set_grad_enabled(through):
            goal = student.jump(x0 + u * noise, u, s)
        error = student.jump(x0 + t * noise, t, s) - goal
        return (error / student.output_scale(t, s)).square().mean()

    return objective


# What a fault does to the model.


class Minus(ctm.CTM):
    """A sign: G = (s/t) x - (1 - s/t) g."""

    def jump(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return s / t * x - (1 - s / t) * self(x, t, s)


class Overwritten(ctm.CTM):
    """A method of the model overwrites t by its logarithm."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        tau_s = c_noise(s).flatten().expand(len(x))
        tau_t = (t.log_() / 4).flatten().expand(len(x))  # changes t itself
        skip, scale, unit = self.scalings(t)
        return skip * x + scale * self.network(unit * x, tau_t, tau_s)


class RawTime(ctm.CTM):
    """One branch of the network sees log(t)/4, the other s itself."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        tau_t = c_noise(t).flatten().expand(len(x))
        raw = s.flatten().expand(len(x))
        skip, scale, unit = self.scalings(t)
        return skip * x + scale * self.network(unit * x, tau_t, raw)


# The same of a second list, written down once the tree was made.


class Twice(ctm.Consistency):
    """x_t gets its noise twice."""

    def pairs(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Pairs, Any]:
        p, condition = super().pairs(models, draw, rng)
        return Pairs(p.xt + p.t * randn(p.xt.shape, rng), p.t, p.xu, p.u, p.s), condition


class WrongRow(ctm.Consistency):
    """The target is that of another point of the batch."""

    def pairs(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Pairs, Any]:
        p, condition = super().pairs(models, draw, rng)
        return Pairs(p.xt, p.t, p.xu.roll(1, 0), p.u, p.s), condition


class ToTheEnd(ctm.Consistency):
    """Every jump is trained to the end alone."""

    def pairs(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Pairs, Any]:
        p, condition = super().pairs(models, draw, rng)
        return Pairs(p.xt, p.t, p.xu, p.u, torch.full_like(p.s, 0.002)), condition


class NeverTold(ctm.CTM):
    """The network is told t in the place of s."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return super().forward(x, t, t.expand_as(s))


class RawInput(ctm.CTM):
    """c_in is forgotten."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        tau_t, tau_s = (c_noise(v).flatten().expand(len(x)) for v in (t, s))
        skip, scale, _ = self.scalings(t)
        return skip * x + scale * self.network(x, tau_t, tau_s)


# What a fault does to the run.


class ConstantRate(State):
    """The learning rate stays at its peak."""

    def step(self) -> float:
        for group in self.optimizer.param_groups:
            group["initial_lr"] = self.lr / rate(self.done, self.steps)
        return super().step()


@dataclass
class Fault:
    """One training run: its loss, its model, its data, and where that is wrong."""

    objective: Callable[[ctm.GaussianMixture], Objective] = lambda world: ctm.Consistency(world, **FEWER)
    kind: Callable[..., ctm.CTM] = ctm.CTM
    state: type[State] = State
    decay: float | None = None  # of an average of its own, in place of the package's
    wide: float = 1.0  # the data are so many times wider than the model is told
    lr: float = 8e-3
    facts: tuple[str, ...] = ()  # answers that are read off the program, not measured


def consistency(term: type = ctm.Consistency, **choices: Any) -> Callable[[ctm.GaussianMixture], Objective]:
    """A consistency term with the world as its teacher."""
    return lambda world: term(world, **{**FEWER, **choices})


def consistency_of(*mixture: torch.Tensor) -> Callable[[ctm.GaussianMixture], Objective]:
    """A consistency term whose teacher is exact, for other data."""
    return lambda world: ctm.Consistency(ctm.GaussianMixture(*mixture), **FEWER)


FAULTS = {
    "sound": Fault(),
    "times reversed": Fault(consistency(Backwards)),
    "gradient through the target": Fault(lambda world: without_teacher(True), facts=("target with a gradient?",)),
    "one batch for ever": Fault(lambda world: same_draw),
    "the teacher stands still": Fault(consistency(Still)),
    "the teacher stands still, soft": Fault(consistency(Still, kind="soft"), lr=1e-3),
    "a solver too coarse": Fault(consistency(pool=0, substeps=1)),
    "a grid too coarse": Fault(consistency(levels=2, continuous=False, substeps=48)),
    "no boundary built in": Fault(kind=lambda net, sd: Parametrised(net, sd, no_outer, edm)),
    "a sign": Fault(kind=Minus),
    "times overwritten": Fault(kind=Overwritten),
    "raw time throughout": Fault(kind=RawTime),
    "data not scaled": Fault(wide=20.0),
    "constant rate, averaged": Fault(state=ConstantRate),
    "an average that never moves": Fault(state=ConstantRate, decay=0.9999),
    "an average, swapped": Fault(state=ConstantRate, decay=0.001),
}
LATER = {
    "noise added twice": Fault(consistency(Twice)),
    "targets of the wrong row": Fault(consistency(WrongRow)),
    "only jumps to the end": Fault(consistency(ToTheEnd), facts=("only jumps to the end trained?",)),
    "a teacher of half the data": Fault(consistency_of(RING.means[:4], RING.stds[:4], RING.weights[:4])),
    "a teacher of wider data": Fault(consistency_of(1.3 * RING.means, 1.3 * RING.stds, RING.weights)),
    "s never reaches the network": Fault(kind=NeverTold),
    "c_in forgotten": Fault(kind=RawInput),
    "learning rate ten times too high": Fault(lr=8e-2),
}
CONTROLS = {
    "gradient through the target": Fault(lambda world: without_teacher(False)),
    "one batch for ever": Fault(lambda world: DENOISING, facts=("only s = t trained?",)),
}


@dataclass
class Case:
    """What a run left behind, and what the doctor says of its model."""

    model: ctm.FlowMap
    report: ctm.diagnosis.Report
    error: float
    losses: list[float] = field(default_factory=list)
    yes: set[str] = field(default_factory=set)

    @property
    def last(self) -> float:
        """The mean of the last 50 losses."""
        return sum(self.losses[-50:]) / 50

    @property
    def first_red(self) -> str:
        """The name of the first red check, or "none"."""
        return self.report.first_red.name if self.report.first_red else "none"


def examine(fault: Fault, world: ctm.GaussianMixture = RING, seed: int = 0, steps: int = 500) -> Case:
    """Train with the fault, ask the doctor, and answer the questions of the tree."""
    data = ctm.GaussianMixture(fault.wide * world.means, fault.wide * world.stds, world.weights)
    student = fault.kind(network(seed), world.sigma_data)
    first = copy.deepcopy(student)
    state = fault.state(student, data, fault.objective(data), steps, seed, lr=fault.lr)
    own, losses = copy.deepcopy(student).requires_grad_(False), []
    for _ in range(steps):
        losses.append(state.step())
        if fault.decay is not None:
            move_average(own, student, fault.decay)
    model = own if fault.decay is not None else state.models.average
    report = ctm.doctor(model, data, n=800, seed=seed)
    case = Case(model, report, flow_map_error(model, data, n=500), losses)
    case.yes = answers(state, case, first) | set(fault.facts)
    return case


def answers(state: State, case: Case, first: ctm.CTM) -> set[str]:
    """The questions of the tree that are answered with yes, each measured on the run."""
    rng = torch.Generator().manual_seed(99)
    draw = Draw(state.data, state.models.student, 320, rng)
    x0, _ = draw(2000)
    x, t, s = x0[:100] + 2.0, torch.full((100, 1), 2.0), torch.full((100, 1), 0.3)
    told = t.clone()
    objective = state.objective
    with torch.no_grad():
        jump = first.jump(x, told, s)
        stays = first.jump(x, t.clone(), t.clone())
        g = first(x, t.clone(), s)
        fresh = DENOISING(state.models, draw, rng) if objective is same_draw else 0.0
    yes = {
        "a call changes its times?": not torch.equal(told, t),
        "G(x, t, t) other than x before training?": not torch.allclose(stays, x, atol=1e-3),
        "G other than (s/t) x + (1 - s/t) g?": not torch.allclose(jump, s / t * x + (1 - s / t) * g, atol=1e-3),
        "spread of the data not sigma_data?": abs(float(x0.std(0).square().mean().sqrt()) / case.model.sigma_data - 1) > 0.1,
        "loss far below that on fresh points?": float(fresh) > 20 * case.last,
        "average equal to the weights?": distance(state.models.student, case.model) < 1e-3,
        "average still near its start?": distance(first, case.model) < 0.1,
    }
    if isinstance(objective, ctm.Consistency):
        p, _ = objective.pairs(state.models, draw, rng)
        finer = copy.copy(objective)
        finer.substeps, finer.pool = 2 * objective.substeps, 0
        if not objective.pool:
            rough, fine = (o.pairs(state.models, draw, rng.manual_seed(5))[0].xu for o in (objective, finer))
            yes["twice the substeps move x_u?"] = float((rough - fine).std() / fine.std()) > 0.1
        yes |= {
            "x_u equal to x_t?": torch.equal(p.xu, p.xt),
            "s > t in a batch?": bool((p.s > p.t).any()),
            "few different times in training?": len(p.t.unique()) < 20,
        }
    return {question for question, answer in yes.items() if answer}


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """Distance of the weights of two models, relative to the first."""
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    moved = sum((p - q).detach().square().sum().item() for p, q in pairs)
    return math.sqrt(moved / sum(p.detach().square().sum().item() for p, _ in pairs))


TREE = {  # first red check: questions, and the cause if the answer is yes
    "boundary": [
        ("a call changes its times?", "times overwritten"),
        ("G(x, t, t) other than x before training?", "no boundary built in"),
    ],
    "slope": [
        ("G other than (s/t) x + (1 - s/t) g?", "a sign"),
        ("x_u equal to x_t?", "the teacher stands still"),
    ],
    "direction": [
        ("x_u equal to x_t?", "the teacher stands still"),
        ("spread of the data not sigma_data?", "data not scaled"),
        ("twice the substeps move x_u?", "a solver too coarse"),
    ],
    "regression": [
        ("loss far below that on fresh points?", "one batch for ever"),
        ("few different times in training?", "a grid too coarse"),
        ("only jumps to the end trained?", "a consistency model"),
        ("other network inputs in use than in training?", "raw time in use only"),
    ],
    "semigroup": [
        ("s > t in a batch?", "times reversed"),
        ("average still near its start?", "an average that never moves"),
        ("only s = t trained?", "a denoiser"),
        ("target with a gradient?", "gradient through the target"),
    ],
    "none": [("average equal to the weights?", "an average, swapped")],
}


def cause(first_red: str, yes: set[str]) -> tuple[str, int]:
    """The cause that the tree leads to and the number of questions asked: from the first red check down to the end, and
    then those above it."""
    names = list(TREE)
    start = names.index(first_red) if first_red in names else names.index("semigroup")
    asked: list[str] = []
    for name in names[start:] + names[:start]:
        for question, found in TREE[name]:
            if question not in asked:
                asked.append(question)
                if question in yes:
                    return found, len(asked)
    return "nothing broken: train longer", len(asked)


VARIANTS = {"control": without_teacher(False), "gradient through the target": without_teacher(True)}


def measure(variant: str, seed: int) -> dict[str, Any]:
    """What the doctor says of a model after ``STEPS`` updates, and its error of one step."""
    student = ctm.CTM(network(seed), RING.sigma_data)
    ctm.train(student, RING, VARIANTS[variant], STEPS, seed)
    report = ctm.doctor(student, RING, n=800, seed=seed)
    error = round(flow_map_error(student, RING, n=500), 3)
    return {**values(report), "error": error, "red": report.red}


def values(report: ctm.diagnosis.Report) -> dict[str, float]:
    """What each check measured, by its name."""
    return {check.name: round(check.value, 3) for check in report.checks}


def row_of(case: Case) -> dict[str, Any]:
    """What each check measured, the error of one step, and which checks are red."""
    return {**values(case.report), "error": round(case.error, 3), "red": case.report.red}


def measure_moons(variant: str, seed: int) -> dict[str, Any]:
    """The same on two moons."""
    return row_of(examine(Fault(lambda _: VARIANTS[variant]), ctm.data.two_moons(), seed, STEPS))


def measure_few(variant: str, steps: int, seed: int) -> dict[str, Any]:
    """What the doctor says of a run on the ring that is too short."""
    return row_of(examine(FAULTS[variant], RING, seed, steps))


def measure_case(variant: str, seed: int) -> dict[str, Any]:
    """A fault in the world that goes with the seed: what the doctor says, and where the tree leads."""
    world = WORLDS[seed]
    case = examine(FAULTS[variant], world(), seed)
    found, asked = cause(case.first_red, case.yes)
    ends = one_step(case.model, noise(case.model, 1000, (2,), generator=torch.Generator().manual_seed(seed)))
    return {
        "world": world.__name__,
        "error": float(f"{case.error:.3g}"),
        "loss": float(f"{case.last:.3g}"),
        "wide": float(f"{float(ends.std()) / (FAULTS[variant].wide * case.model.sigma_data):.3g}"),
        "red": case.report.red,
        "cause": found,
        "asked": asked,
        "from_top": cause("boundary", case.yes)[1],
    }


def measure_later(variant: str, seed: int) -> dict[str, Any]:
    """A fault of the second list on the ring: what the doctor says, and where the tree leads."""
    case = examine(LATER[variant], RING, seed)
    found, _ = cause(case.first_red, case.yes)
    return {"error": round(case.error, 3), "first": case.first_red, "red": case.report.red, "cause": found}


def main() -> None:
    longer = [{"part": "longer", "variant": variant, "seed": seed} for seed in SEEDS for variant in VARIANTS]
    run(RESULTS, longer, lambda part, variant, seed: measure(variant, seed))
    moons = [{"part": "moons", "variant": variant, "seed": seed} for variant in VARIANTS for seed in SEEDS]
    run(RESULTS, moons, lambda part, variant, seed: measure_moons(variant, seed))
    jobs = [{"part": "case", "variant": fault, "seed": seed} for seed in WORLDS for fault in FAULTS]
    run(RESULTS, jobs, lambda part, variant, seed: measure_case(variant, seed))
    few = [{"part": "few", "variant": "sound", "steps": steps, "seed": seed} for steps in FEW for seed in SEEDS]
    run(RESULTS, few, lambda part, variant, steps, seed: measure_few(variant, steps, seed))
    later = [{"part": "later", "variant": variant, "seed": seed} for seed in SEEDS for variant in LATER]
    run(RESULTS, later, lambda part, variant, seed: measure_later(variant, seed))


if __name__ == "__main__":
    main()
