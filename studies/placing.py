"""Where to place the calls: Karras's times against levels below the noise at which neighbouring modes part.

    python -m studies.placing

Every row is one model of the ring, one way of placing its calls, one gamma and one number of calls. "karras" is Karras's
times; "late" puts all levels between the ends from 0.1 down to 0.05, equal in log t. 12 sets of 10,000 samples (the
starting noise is the same for all rows with gamma = 0): sliced W1 and sliced W2 over their noise floors, each with its 95%
interval; the share of strays, samples over four widths from every mode; and, where a sample has a place to be (gamma = 0),
its distance from it. Two solvers over the learned denoiser: "heun" is EDM's usual 18 Heun steps, "multistep" has 32.

Then two other worlds, three models each, as briefly trained as ``ring_quick``. "placed" puts the levels where the model
itself says, with no exact map: from the level at which its jumps to the end differ from its own solution by a fifth of
the most that they do, down to half that level. One thread, about nine minutes; results are kept in studies/placing.json as
they come.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.metrics import relative_error
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling, heun, multistep
from studies import regimes
from studies.checkpoints import FOLDER
from studies.harness import run
from studies.samplers import WORLDS, judge, off

RESULTS = Path(__file__).with_suffix(".json")
MODELS = ("ring_quick", "ring_exact")
CALLS = (1, 2, 4, 8, 16)
DRAWS = 12
SEEDS = (0, 1, 2)
ELSEWHERE = ("four_modes", "two_moons")
HIGH, LOW = 0.1, 0.05  # of the late levels


def late_times(calls: int, model: ctm.FlowMap, high: float = HIGH, low: float = LOW) -> Tensor:
    """sigma_max, the late levels, sigma_min; for two calls the one level in the middle is sqrt(high * low)."""
    share = torch.linspace(0, 1, calls - 1, dtype=torch.float64) if calls > 2 else torch.full((calls - 1,), 0.5)
    middle = (high * (low / high) ** share).double()
    ends = torch.tensor([model.sigma_max, model.sigma_min], dtype=torch.float64)
    return torch.cat([ends[:1], middle, ends[1:]])


PLACES = {"karras": karras_times, "late": late_times}


def strays(x: Tensor, world: str = "ring") -> float:
    """The share of points over four widths from the centre of every mode."""
    data = WORLDS[world]
    return float((torch.cdist(x.double(), data.means).amin(1) > 4 * data.stds[0]).double().mean())


def judged(sampler: Any, world: str, seed: int) -> dict[str, Any]:
    """Both distances, the width and the strays of the samples."""
    found: list[float] = []

    def counted(x: Tensor, generator: torch.Generator) -> Tensor:
        end = sampler(x, generator)
        found.append(strays(end, world))
        return end

    return judge(counted, world, DRAWS, seed) | {"strays": round(sum(found) / len(found), 5)}


def figures(sampler: Any, gamma: float, seed: int) -> dict[str, Any]:
    row = judged(sampler, "ring", seed)
    return row | ({"off": off(lambda x: sampler(x, None), seed)} if gamma == 0 else {})


def measure(name: str, placing: str, gamma: float, calls: int, seed: int) -> dict[str, Any]:
    model = WORLDS["ring"] if name == "exact" else ctm.load(FOLDER / f"{name}.safetensors")
    times = PLACES[placing](calls, model)
    return figures(lambda x, generator: gamma_sampling(model, x, times, gamma, generator=generator), gamma, seed)


def measure_solver(solver: str, steps: int, seed: int) -> dict[str, Any]:
    model = ctm.load(FOLDER / "ring_denoiser.safetensors")
    walk, calls = {"heun": (heun, 2 * steps), "multistep": (multistep, steps)}[solver]
    with torch.no_grad():
        return figures(lambda x, _: walk(model, x, karras_times(steps, model)), 0.0, seed) | {"calls": calls}


def stand_in(model: ctm.CTM, world: str) -> tuple[Tensor, list[float]]:
    """Levels, and the error of jumps from them to the end with the model's own solution for the truth."""
    data, rng = WORLDS[world], torch.Generator().manual_seed(0)
    x0 = data.sample(1000, generator=rng)
    eps = torch.randn(x0.shape, generator=rng)
    levels, errors = torch.logspace(1, -2, 25, dtype=torch.float64).clamp(max=model.sigma_max), []
    for t in levels.tolist():
        x = x0 + t * eps
        times = [t, *karras_times(32, model.sigma_min, 0.999 * t).tolist()[1:]]
        with torch.no_grad():
            errors.append(relative_error(model.G(x, t, model.sigma_min), heun(model, x, times), data.sigma_data))
    return levels, errors


def below_the_bend(model: ctm.CTM, world: str) -> float:
    """The level at which that error is first a fifth of its largest value, between the levels in proportion to log t."""
    levels, errors = stand_in(model, world)
    high = torch.tensor(errors).log()
    aim = float(high.max()) - math.log(5)
    k = int((high[int(high.argmax()) :] < aim).nonzero()[0]) + int(high.argmax())
    share = float((high[k - 1] - aim) / (high[k - 1] - high[k]))
    return float(levels[k - 1] * (levels[k] / levels[k - 1]) ** share)


@lru_cache
def rough(world: str, seed: int) -> tuple[ctm.CTM, float]:
    """A model trained as briefly as ``ring_quick``, and the highest of its late levels; without an exact map for these."""
    data = WORLDS[world]
    model = regimes.model(data, seed)
    regimes.distil(model, data, data, 400, seed)
    return model, below_the_bend(model, world)


def measure_elsewhere(world: str, placing: str, gamma: float, calls: int, seed: int) -> dict[str, Any]:
    """Late levels from ``high`` to half of it, where the model itself says."""
    model, high = rough(world, seed)
    times = karras_times(calls, model) if placing == "karras" else late_times(calls, model, high, high / 2)
    row = judged(lambda x, generator: gamma_sampling(model, x, times, gamma, generator=generator), world, seed)
    return row | {"high": round(high, 4)}


def measure_stand_in(stand_in_of: str) -> dict[str, Any]:
    return {"high": round(below_the_bend(ctm.load(FOLDER / f"{stand_in_of}.safetensors"), "ring"), 4)}


def main() -> None:
    cells = [("karras", 0.0, 1)] + [(place, g, n) for n in CALLS[1:] for g in (0.0, 1.0) for place in PLACES]
    jobs = [{"name": name, "placing": p, "gamma": g, "calls": n, "seed": 0} for p, g, n in cells for name in MODELS]
    run(RESULTS, jobs, measure)
    run(
        RESULTS,
        [{"solver": "heun", "steps": 18, "seed": 0}, {"solver": "multistep", "steps": 32, "seed": 0}],
        measure_solver,
    )
    between = [{"name": name, "placing": "late", "gamma": 0.5, "calls": n, "seed": 0} for name in MODELS for n in (4, 8)]
    one_call = {"name": "ring_learned", "placing": "karras", "gamma": 0.0, "calls": 1, "seed": 0}
    run(RESULTS, [*between, one_call], measure)
    run(RESULTS, [{"stand_in_of": name} for name in MODELS], measure_stand_in)
    cells = [("karras", 0.0, 1)] + [(place, g, n) for n in (2, 4) for g in (0.0, 1.0) for place in ("karras", "placed")]
    for seed in SEEDS:
        for world in ELSEWHERE:
            jobs = [{"world": world, "placing": p, "gamma": g, "calls": n, "seed": seed} for p, g, n in cells]
            run(RESULTS, jobs, measure_elsewhere)


if __name__ == "__main__":
    main()
