"""Calls against gamma: exact maps, exact maps with an error put in on purpose, trained models, and solvers.

    python -m studies.samplers

Every row is one map (or solver), one gamma and one number of calls on Karras's times. Samples are judged at sigma_min by
their sorted projections against the exact quantiles: sliced W2 and sliced W1 over their noise floors, each with its 95%
interval; the width of the modes over the right one; and, where a sample has a place to be (gamma = 0), its distance from it.
Then, of models of rings with 4, 8 and 16 modes of one width, trained as briefly as ring_quick: the noise level at which the
error of the jump to the end has fallen to a fifth of its largest value. Last, ring_exact with one call and with a second at
one of two levels, walking: the error of a sample, over 12 sets of 5,000 starts. One thread, about ten minutes; results are
kept in studies/samplers.json as they come.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ctm
from ctm.closed_forms import Line, Perturbed
from ctm.metrics import relative_error
from ctm.noise import karras_times
from ctm.samplers import euler, gamma_sampling, heun, multistep, noise
from studies import regimes
from studies.checkpoints import FOLDER
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
CALLS = (1, 2, 4, 8, 16)
GAMMAS = (0.0, 0.5, 1.0)
MODELS = ("ring_quick", "ring_exact", "ring_cm", "ring_learned", "ring_scratch")
SIZES = (0.02, 0.1)
FOUR = math.sqrt(0.5) * torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
WORLDS = {
    "ring": ctm.data.ring(),
    "pair": ctm.data.two_gaussians(),
    "two_moons": ctm.data.two_moons(),
    "four_modes": ctm.data.GaussianMixture(FOUR * 0.68, 0.137),  # as far from each other as 7 of their own widths
}
POINTS = {"ring": 10_000, "pair": 20_000, "two_moons": 10_000, "four_modes": 10_000}
Error = Callable[[Tensor, float, float, Tensor], Tensor]  # of x, t, s and the exact G(x, t, s)


def smooth(shape: Callable[[float, float, float], float]) -> Callable[[float, float, int], Error]:
    """A fixed random field whose root mean square is size * sigma_data * shape(t, s, sigma_data).

    It is a sum of 24 waves in the scaled point and in the logarithms of both times.
    """

    def make(size: float, sigma_data: float, seed: int) -> Error:
        generator = torch.Generator().manual_seed(seed)
        waves = 3 * torch.randn(3, 24, generator=generator).double()
        phases = 2 * math.pi * torch.rand(24, generator=generator).double()
        sides = torch.randn(24, 1, generator=generator).double()
        sides *= math.sqrt(2) / sides.norm()

        def error(x: Tensor, t: float, s: float, there: Tensor) -> Tensor:
            place = x / math.hypot(t, sigma_data) * waves[0]
            angle = place + (math.log(t) * waves[1] + math.log(s) * waves[2]) / 4 + phases
            return size * sigma_data * shape(t, s, sigma_data) * angle.cos() @ sides

        return error

    return make


def fresh(size: float, sigma_data: float, seed: int) -> Error:
    """As "in g" in size, but drawn anew for each point and call."""
    generator = torch.Generator().manual_seed(seed)

    def error(x: Tensor, t: float, s: float, there: Tensor) -> Tensor:
        drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return size * sigma_data * (1 - s / t) * drawn

    return error


# by name: size, sigma_data, seed -> error
ERRORS: dict[str, Callable[[float, float, int], Error]] = {
    "none": lambda size, sd, seed: lambda x, t, s, there: torch.zeros_like(there),
    # no boundary condition: even a jump of no length errs
    "every jump": smooth(lambda t, s, sd: 1.0),
    # the aim g is wrong by the same amount at every noise level
    "in g": smooth(lambda t, s, sd: 1 - s / t),
    # short jumps are better than in proportion, as when the denoiser is trained well
    "long jumps": smooth(lambda t, s, sd: (1 - s / t) ** 2),
    # the network's output F is, and reaches g through EDM's c_out
    "in F": smooth(lambda t, s, sd: (1 - s / t) * t / math.hypot(t, sd)),
    # the score is: below the width 0.3 of the modes the error of the aim falls like t^2
    "in the score": smooth(lambda t, s, sd: (1 - s / t) * t**2 / (t**2 + 0.3**2)),
    "fresh": fresh,
    # the aim is pulled towards the mean, 0: g becomes (1 - size) g
    "shrunk aim": lambda size, sd, seed: lambda x, t, s, there: -size * (there - s / t * x),
}


class ExactDistances:
    """Distances of a set of points to the exact law at sigma_min, by sorted projections."""

    def __init__(self, world: ctm.GaussianMixture, points: int) -> None:
        self.world, self.points = world, points
        angle = math.pi * torch.arange(25, dtype=torch.float64) / 25
        one = torch.ones(1, 1, dtype=torch.float64)
        self.sides = one if world.shape == (1,) else torch.stack([angle.cos(), angle.sin()])
        spread = math.hypot(float(world.stds[0]), world.sigma_min)
        level = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        columns = []
        for middles in (world.means @ self.sides).T:
            reach = float(middles.abs().max()) + 7 * spread
            table = torch.linspace(-reach, reach, 20_001, dtype=torch.float64)
            below = torch.special.ndtr((table[:, None] - middles) / spread) @ world.weights
            columns.append(np.interp(level, below, table))
        self.quantiles = torch.from_numpy(np.stack(columns, 1))
        self.right_width = spread * math.sqrt(len(self.sides))

    def distances(self, x: Tensor) -> tuple[float, float]:
        """Sliced W1 and sliced W2."""
        gap = torch.from_numpy(np.sort((x.double() @ self.sides).numpy(), axis=0)) - self.quantiles  # NumPy sorts faster
        return float(gap.abs().mean()), float(gap.square().mean().sqrt())

    def width(self, x: Tensor) -> float:
        """Root mean square distance to the centre of the nearest mode, over the right one."""
        return float(torch.cdist(x.double(), self.world.means).amin(1).square().mean().sqrt()) / self.right_width

    def truth(self, generator: torch.Generator) -> Tensor:
        """As many true points, at sigma_min."""
        x0 = self.world.sample(self.points, generator=generator, dtype=torch.float64)
        return x0 + self.world.sigma_min * torch.randn(x0.shape, generator=generator, dtype=torch.float64)


@lru_cache
def exact_distances(world: str) -> tuple[ExactDistances, np.ndarray]:
    """The exact distances of a world, and their noise floor: the distances of 100 true sets."""
    made = ExactDistances(WORLDS[world], POINTS[world])
    generator = torch.Generator().manual_seed(999)
    return made, np.array([made.distances(made.truth(generator)) for _ in range(100)])


@lru_cache
def destined(seed: int, points: int = 4000) -> tuple[Tensor, Tensor]:
    """Starting noise on the ring, and the points where the exact trajectories through it end."""
    world = WORLDS["ring"]
    start = noise(world, points, world.shape, generator=torch.Generator().manual_seed(seed))
    return start, world.G(start, world.sigma_max, world.sigma_min)


def judge(sampler: Callable[[Tensor, torch.Generator], Tensor], world: str, draws: int, seed: int) -> dict[str, float]:
    """What every row holds."""
    measured, floor = exact_distances(world)
    model = WORLDS[world]
    generator = torch.Generator().manual_seed(1000 + seed)
    found, widths = [], []
    for _ in range(draws):
        start = noise(model, measured.points, model.shape, generator=generator)
        x = sampler(start.double() if world == "pair" else start, generator)
        found.append(measured.distances(x))
        widths.append(measured.width(x))
    row: dict[str, float] = {}
    for i, name in enumerate(("w1", "w2")):
        values = np.array(found)[:, i]
        ratio = float(values.mean() / floor[:, i].mean())
        parts = [float(part.std(ddof=1) / part.mean()) / math.sqrt(len(part)) for part in (values, floor[:, i])]
        half = 1.96 * ratio * math.hypot(*parts)
        row |= {name: round(ratio, 3), f"{name}_low": round(ratio - half, 3), f"{name}_high": round(ratio + half, 3)}
    return row | {"width": round(float(np.mean(widths)), 4)}


def off(sampler: Callable[[Tensor], Tensor], seed: int) -> float:
    """Root mean square distance to where the exact trajectories end, in units of the data's."""
    start, ends = destined(seed)
    return round(float((sampler(start) - ends).square().mean().sqrt()) / WORLDS["ring"].sigma_data, 4)


def measure(name: str, gamma: float, calls: int, seed: int) -> dict[str, Any]:
    """A model on the ring (or ``exact``, its true map)."""
    model = WORLDS["ring"] if name == "exact" else ctm.load(FOLDER / f"{name}.safetensors")
    times = karras_times(calls, model)
    row = judge(lambda x, generator: gamma_sampling(model, x, times, gamma, generator=generator), "ring", 12, seed)
    return row | ({"off": off(lambda x: gamma_sampling(model, x, times), seed)} if gamma == 0 else {})


def measure_error(error: str, size: float, gamma: float, calls: int, seed: int) -> dict[str, Any]:
    """The exact 1-D map with an error put in; the seed is also that of the error."""
    line = Line(WORLDS["pair"])
    model = Perturbed(line, ERRORS[error](size, line.sigma_data, seed))
    times = karras_times(calls, model)
    return judge(lambda x, generator: gamma_sampling(model, x, times, gamma, generator=generator), "pair", 4, seed)


def measure_solver(solver: str, calls: int, seed: int) -> dict[str, Any]:
    """A solver over the learned denoiser, with ``calls`` network calls a sample."""
    model = ctm.load(FOLDER / "ring_denoiser.safetensors")
    walk, steps = {"euler": (euler, calls), "heun": (heun, calls // 2), "multistep": (multistep, calls)}[solver]
    times = karras_times(steps, model)
    with torch.no_grad():
        return judge(lambda x, _: walk(model, x, times), "ring", 12, seed) | {
            "off": off(lambda x: walk(model, x, times), seed)
        }


def ring_of(modes: int) -> ctm.GaussianMixture:
    """As :func:`ctm.data.ring` with another number of modes."""
    turn = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    radius, width = WORLDS["ring"].means.norm(dim=1)[0].item(), WORLDS["ring"].stds[0].item()
    return ctm.GaussianMixture(radius * torch.stack([turn.cos(), turn.sin()], 1), width)


@torch.no_grad()
def bend(world: ctm.GaussianMixture, model: ctm.CTM) -> float:
    """Where, coming down from 10, the error of the jump to the end falls below a fifth of its largest value."""
    clean = world.sample(1000, generator=torch.Generator().manual_seed(5))
    fresh = torch.randn(clean.shape, generator=torch.Generator().manual_seed(6))
    levels, errors = torch.logspace(1, -2.3, 34, dtype=torch.float64).tolist(), []
    for t in levels:
        pair = (part.G(clean + t * fresh, t, model.sigma_min) for part in (model, world))
        errors.append(relative_error(*pair, world.sigma_data))
    most = max(errors)
    k = next(k for k in range(errors.index(most), len(errors)) if errors[k] < most / 5)
    share = math.log(5 * errors[k - 1] / most) / math.log(errors[k - 1] / errors[k])  # between two levels, in log t
    return levels[k - 1] * (levels[k] / levels[k - 1]) ** share


def measure_bend(modes: int, seed: int) -> dict[str, Any]:
    world = ring_of(modes)
    model = regimes.model(world, seed)
    regimes.distil(model, world, world, 400, seed)
    return {"bend": round(bend(world, model), 5)}


def measure_second(middle: float, seed: int) -> dict[str, Any]:
    """Error of a sample of ring_exact with one call, and with a second at the level ``middle``, from the same starts."""
    model = ctm.load(FOLDER / "ring_exact.safetensors")
    start, ends = destined(200 + seed, 5000)
    ways = {"one": [model.sigma_max, model.sigma_min], "two": [model.sigma_max, middle, model.sigma_min]}
    found = {name: gamma_sampling(model, start, way, 0.0) for name, way in ways.items()}
    return {name: round(relative_error(x, ends, WORLDS["ring"].sigma_data), 6) for name, x in found.items()}


def main() -> None:
    cells = [(gamma, calls) for calls in CALLS for gamma in GAMMAS if calls > 1 or not gamma]
    run(RESULTS, [{"name": name, "gamma": g, "calls": n, "seed": 0} for name in MODELS for g, n in cells], measure)
    calls = [(solver, n) for solver in ("euler", "multistep", "heun") for n in (4, 8, 16, 32)]
    run(RESULTS, [{"solver": solver, "calls": n, "seed": 0} for solver, n in calls], measure_solver)
    for seed in range(5):
        kinds = [{"error": error, "size": size} for error in ERRORS for size in SIZES]
        run(RESULTS, [kind | {"gamma": g, "calls": n, "seed": seed} for kind in kinds for g, n in cells], measure_error)
    run(RESULTS, [{"name": "exact", "gamma": g, "calls": n, "seed": 0} for g, n in ((0.0, 1), (0.5, 2), (1.0, 2))], measure)
    run(RESULTS, [{"modes": modes, "seed": 0} for modes in (4, 8, 16)], measure_bend)
    run(RESULTS, [{"middle": middle, "seed": seed} for seed in range(12) for middle in (0.05, 0.07)], measure_second)


if __name__ == "__main__":
    main()
