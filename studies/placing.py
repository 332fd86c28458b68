"""Where to place the calls: Karras's times against levels below the noise at which neighbouring modes part.

    python -m studies.placing

Every row is one model of the ring, one way of placing its calls, one gamma and one number of calls. "karras" is Karras's
times; "late" puts all levels between the ends from 0.1 down to 0.05, equal in log t. 12 sets of 10,000 samples (the
starting noise is the same for all rows with gamma = 0): sliced W1 and sliced W2 over their noise floors, each with its 95%
interval; the share of strays, samples over four widths from every mode; and, where a sample has a place to be (gamma = 0),
its distance from it. "heun" is EDM's usual 18 Heun steps over the learned denoiser. One thread, about five minutes; results
are kept in studies/placing.json as they come.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling, heun
from studies.checkpoints import FOLDER
from studies.harness import run
from studies.samplers import WORLDS, judge, off

RESULTS = Path(__file__).with_suffix(".json")
MODELS = ("ring_quick", "ring_exact")
CALLS = (1, 2, 4, 8, 16)
DRAWS = 12
HIGH, LOW = 0.1, 0.05  # of the late levels


def late_times(calls: int, model: ctm.FlowMap) -> Tensor:
    """sigma_max, the late levels, sigma_min; for two calls the one level in the middle is sqrt(HIGH * LOW)."""
    share = torch.linspace(0, 1, calls - 1, dtype=torch.float64) if calls > 2 else torch.full((calls - 1,), 0.5)
    middle = (HIGH * (LOW / HIGH) ** share).double()
    ends = torch.tensor([model.sigma_max, model.sigma_min], dtype=torch.float64)
    return torch.cat([ends[:1], middle, ends[1:]])


PLACES = {"karras": karras_times, "late": late_times}


def strays(x: Tensor) -> float:
    """The share of points on the ring over four widths from the centre of every mode."""
    ring = WORLDS["ring"]
    return float((torch.cdist(x.double(), ring.means).amin(1) > 4 * ring.stds[0]).double().mean())


def figures(sampler: Any, gamma: float, seed: int) -> dict[str, Any]:
    found: list[float] = []

    def counted(x: Tensor, generator: torch.Generator) -> Tensor:
        end = sampler(x, generator)
        found.append(strays(end))
        return end

    row = judge(counted, "ring", DRAWS, seed) | {"strays": round(sum(found) / len(found), 5)}
    return row | ({"off": off(lambda x: sampler(x, None), seed)} if gamma == 0 else {})


def measure(name: str, placing: str, gamma: float, calls: int, seed: int) -> dict[str, Any]:
    model = WORLDS["ring"] if name == "exact" else ctm.load(FOLDER / f"{name}.safetensors")
    times = PLACES[placing](calls, model)
    return figures(lambda x, generator: gamma_sampling(model, x, times, gamma, generator=generator), gamma, seed)


def measure_heun(solver: str, steps: int, seed: int) -> dict[str, Any]:
    model = ctm.load(FOLDER / "ring_denoiser.safetensors")
    with torch.no_grad():
        return figures(lambda x, _: heun(model, x, karras_times(steps, model)), 0.0, seed) | {"calls": 2 * steps}


def main() -> None:
    cells = [("karras", 0.0, 1)] + [(place, g, n) for n in CALLS[1:] for g in (0.0, 1.0) for place in PLACES]
    jobs = [{"name": name, "placing": p, "gamma": g, "calls": n, "seed": 0} for p, g, n in cells for name in MODELS]
    run(RESULTS, jobs, measure)
    run(RESULTS, [{"solver": "heun", "steps": 18, "seed": 0}], measure_heun)


if __name__ == "__main__":
    main()
