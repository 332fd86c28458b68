"""What the places where CTM's published code and its paper differ do on a world with a known answer.

    python -m studies.official

The ring, 600 steps, three seeds for everything that is trained; the rest is arithmetic or repeated draws. One thread;
results are kept in studies/official.json as they come.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ctm
from ctm.losses import Draw, Models
from ctm.losses.trajectories import Levels, Pairs, draw_levels, noised_points
from ctm.metrics import error_table, flow_map_error
from ctm.noise import Levels as Limits
from ctm.noise import lognormal_times, rand, randint, rho_time
from ctm.solvers import heun_step
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 600
WORLD = ctm.data.ring()
TABLE = (10.0, 2.0, 0.5, 0.2, 0.05, 0.002)
NOISE = (0.05, 0.2, 0.5, 2.0, 8.0)
SIZES = (640, 6400, 50_000)


def weighted_length(most: int, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Lengths from 1 to ``most``, each as likely as it is long."""
    mass = torch.arange(1, most + 1, dtype=torch.float64).cumsum(0)
    return 1 + torch.searchsorted(mass, mass[-1] * rand(shape, rng, dtype=torch.float64), right=True)


def official_levels(n: int, levels: int, shared: bool, rng: torch.Generator) -> Levels:
    """The code's law: a length, then t uniform over the levels that leave room for it, s uniform from u to the end."""
    length = weighted_length(levels, (1 if shared else n,), rng).expand(n)
    t = (rand((n,), rng) * (levels - length + 1)).long()
    u = t + length
    return Levels(t, u, u + (rand((n,), rng) * (levels - u + 1)).long())


@dataclass(repr=False, eq=False)
class Lengths(ctm.Consistency):
    """The consistency term with the times of the published code."""

    shared: bool = True

    def pairs(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Pairs, Tensor | None]:
        if not self.left:
            x0, _ = draw(self.pool)
            self.trajectories.refill(x0, self.route(models.student, None), rng)
            self.left = max(1, self.pool * self.reuse // draw.batch)
        self.left -= 1
        row = randint(self.pool, (draw.batch,), rng)
        return self.trajectories.at(row, official_levels(draw.batch, self.levels, self.shared, rng)), None


@dataclass(repr=False, eq=False)
class Targets(ctm.Consistency):
    """Compared at the end, with a choice of the weights for the target's first and last jump."""

    inner: str = "current"
    outer: str = "average"

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        (xt, t, xu, u, s), _ = self.pairs(models, draw, rng)
        which = {"current": models.student, "average": models.target}
        end = s.new_full([1] * s.ndim, models.student.sigma_min)
        outer = held(which[self.outer])
        estimate = outer.jump(models.student.jump(xt, t, s), s, end)
        with torch.no_grad():
            goal = outer.jump(which[self.inner].jump(xu, u, s), s, end)
        return ((estimate - goal) / models.student.output_scale(t, s)).square().mean()


def held(model: ctm.CTM) -> ctm.CTM:
    """A copy whose weights take no gradient, where the model's do."""
    return copy.deepcopy(model).requires_grad_(False) if any(w.requires_grad for w in model.parameters()) else model


@dataclass(repr=False, eq=False)
class LongTargets(Targets, Lengths):
    """The same choice of weights, with the times of the published code."""


@dataclass(repr=False, eq=False)
class SelfTaught(ctm.Consistency):
    """Without a teacher: the point at u by the target's own jump, or by Heun steps over its own denoiser."""

    by: str = "jump"

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        levels = draw_levels(draw.batch, self.levels, "soft", self.from_noise, self.to_data, rng)
        x0, _ = draw()
        target = models.target
        xt, t, u, s = noised_points(x0, levels, self.route(models.student, None), rng)
        with torch.no_grad():
            xu = self.walk(target, xt, t, u, levels)
            goal = target.jump(xu, u, s)
        return ((models.student.jump(xt, t, s) - goal) / models.student.output_scale(t, s)).square().mean()

    def walk(self, target: ctm.CTM, x: Tensor, t: Tensor, u: Tensor, levels: Levels) -> Tensor:
        if self.by == "jump":
            return target.jump(x, t, u)
        grid = ctm.noise.karras_times(self.levels, target).float()
        for k in range(int((levels.u - levels.t).max())):
            now, then = (grid[torch.minimum(levels.t + j, levels.u)][:, None] for j in (k, k + 1))
            x = torch.where(now > then, heun_step(target, x, now, then), x)
        return x


def half_and_half(n: int, model: Limits, rng: torch.Generator) -> Tensor:
    """Half of the levels log-normal, half on the grid from the top down to 0.7 of its length."""
    low, high = model.sigma_min, model.sigma_max
    return torch.cat([lognormal_times(n // 2, model, rng), rho_time(0.7 * rand((n - n // 2,), rng), low, high)])


GRID: dict[str, Any] = {"levels": 39, "continuous": False, "from_noise": 0.0, "to_data": 0.0}
TIMES = {"log-normal": lognormal_times, "half and half": half_and_half}


def objective(check: str, variant: str, student: ctm.CTM) -> tuple[Any, dict[str, Any]]:
    """The loss of a variant, and the options of training."""
    average = {"target_ema": 0.999}
    if check == "length":
        shared = {"one a batch": True, "one a sample": False}
        if variant in shared:
            return Lengths(WORLD, shared=shared[variant], **GRID), {}
        return ctm.Consistency(WORLD) if variant == "default" else ctm.Consistency(WORLD, variant, **GRID), {}
    if check in ("target", "long"):
        inner, outer = ("average", "average") if variant == "0.9, 0.9" else variant.split(", ")
        kind: Any = LongTargets if check == "long" else Targets
        decay = {"target_ema": 0.9} if variant == "0.9, 0.9" else average
        return kind(WORLD, "local", inner=inner, outer=outer, **GRID), decay
    if check == "times":
        return ctm.Denoising(references=0, times=TIMES[variant]), {}
    own = SelfTaught(student, by=variant, **GRID | {"levels": 17})
    return own + ctm.Denoising(references=0), average


def denoiser_errors(model: ctm.CTM) -> dict[str, float]:
    """Relative RMS error of the denoiser at each noise level."""
    rng = torch.Generator().manual_seed(1)
    errors = {}
    for t in NOISE:
        x0 = WORLD.sample(4000, generator=rng)
        xt = x0 + t * torch.randn(x0.shape, generator=rng)
        with torch.no_grad():
            difference = model.denoiser(xt, t) - WORLD.denoiser(xt, t)
        errors[f"denoiser {t:g}"] = round(float((difference.square().sum() / x0.square().sum()).sqrt()), 5)
    return errors


def trained(check: str, variant: str, seed: int, steps: int = STEPS) -> dict[str, Any]:
    student = ctm.CTM.for_data(WORLD, seed=seed)
    started = time.process_time()
    if variant == "denoiser first":
        ctm.train(student, WORLD, steps=steps, seed=seed)
    elif variant == "denoiser first, alike":
        denoising = ctm.Denoising(references=0)
        ctm.train(student, WORLD, denoising, steps // 2, seed)
        teacher = copy.deepcopy(student).requires_grad_(False)
        term = ctm.Consistency(teacher, "soft", **GRID | {"levels": 17}) + denoising
        ctm.train(student, WORLD, term, steps - steps // 2, seed, target_ema=0.999)
    else:
        if variant == "jump, 2,100 steps":
            variant, steps = "jump", 2100
        term, options = objective(check, variant, student)
        ctm.train(student, WORLD, term, steps, seed, **options)
    seconds = time.process_time() - started
    return {
        "error": round(flow_map_error(student, WORLD), 5),
        "table": round(float(error_table(student, WORLD, TABLE, n=1000).nanmean()), 5),
        **denoiser_errors(student),
        "seconds": round(seconds, 1),
    }


def gamma_rule(variant: str, gamma: float) -> dict[str, Any]:
    """Standard deviation of what each jump is given, over the right one, when the map of one Gaussian is exact."""
    low, data = 0.002, 0.5
    times = ctm.noise.karras_times(4, low, 80.0).tolist()
    ratios, variance = [], data**2 + times[0] ** 2
    for t, u in zip(times, times[1:-1], strict=False):
        root = math.sqrt(1 - gamma**2)
        s = root * (u - low) + low if variant == "code" else max(root * u, low)
        variance = variance * (data**2 + s**2) / (data**2 + t**2) + (u**2 - s**2)
        ratios.append(math.sqrt(variance / (data**2 + u**2)))
    return {"worst": max(abs(ratio - 1) for ratio in ratios), "s over t": round(s / u, 5)}


def grid_index(levels: int) -> dict[str, Any]:
    """The level of index 39 of a grid of this many levels, at which the code's two-step sampler ends."""
    top, bottom = 80 ** (1 / 7), 0.002 ** (1 / 7)
    base = top + 39 / (levels - 1) * (bottom - top)
    return {"base": round(base, 5), "t": float(f"{base**7:.5g}")}


def frechet(n: int, seed: int) -> dict[str, Any]:
    """Frechet distance between two independent sets of n true digits, whose true value is 0."""
    world = ctm.data.digits()
    rng = torch.Generator().manual_seed(seed)
    a, b = (world.sample(n, generator=rng).flatten(1).double().numpy() for _ in range(2))
    ca, cb = np.cov(a.T), np.cov(b.T)
    roots = np.linalg.eigvals(ca @ cb).real.clip(0) ** 0.5
    return {"distance": round(float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * roots.sum()), 6)}


VARIANTS = {
    "length": ("soft", "one a batch", "one a sample", "global", "default"),
    "target": ("current, average", "average, average", "current, current", "0.9, 0.9"),
    "long": ("current, average", "average, average", "current, current"),
    "times": tuple(TIMES),
    "self": ("jump", "ODE", "denoiser first, alike", "denoiser first", "jump, 2,100 steps"),
}


def jobs() -> Iterator[dict[str, Any]]:
    yield from ({"check": "grid", "levels": n} for n in (18, 40))
    yield from ({"check": "gamma", "variant": v, "gamma": g} for v in ("code", "paper") for g in (0.2, 0.5, 0.9))
    yield from ({"check": "frechet", "n": n, "seed": seed} for n in SIZES for seed in range(5))
    for seed in SEEDS:
        yield from ({"check": check, "variant": v, "seed": seed} for check, names in VARIANTS.items() for v in names)


def measure(check: str, **job: Any) -> dict[str, Any]:
    simple = {"grid": grid_index, "gamma": gamma_rule, "frechet": frechet}
    return simple[check](**job) if check in simple else trained(check, **job)


if __name__ == "__main__":
    run(RESULTS, jobs(), measure)
