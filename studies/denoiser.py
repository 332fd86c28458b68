"""What a denoiser's form, weight, scale and training set do to it, over seeds.

    python -m studies.denoiser

The network and the training are those of the chapter on learning a denoiser: 500 steps of 256 points of the ring, unless
said. Errors are relative to the spread of the data.

forms: EDM's form and those that ask for the clean point and for the noise, each with the weight of its own scale and with
that of another. ``errors`` are those of the denoiser at 14 noise levels, ``end`` that of the ends of trajectories, after 32
Heun steps from pure noise.
scale: EDM's form with a sigma_data wrong by a factor in all scalings. The law of the times keeps the right one.
moved: the same, and the law of the times has the wrong one, too.
bands: two laws of the times, on the ring and in 16 dimensions, trained as `ctm.train` trains. The error at the end with the
learned denoiser above t = 2, from 2 to 0.1 or below 0.1 alone, and the exact one elsewhere.
laws: on the ring, bells of the times about other centres, and the clean point alone as the target; the error at the end.
by level: the models of the ring of bands and laws again; ``errors`` are those of the denoiser at five noise levels.
few: n training points, a new draw for each seed. Distances of the minimiser, the network and the truth, means over the
levels from 0.05 to 1; ``nearest`` are medians of the distance to the nearest training point, of new data and of samples.

Three seeds, of ``few`` five. One thread, about six minutes; results are kept in studies/denoiser.json as they come.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.losses import Denoising
from ctm.models import c_in, c_noise, c_out, c_skip
from ctm.networks import MLP
from ctm.noise import karras_times, lognormal_times, noised, rho_times
from ctm.samplers import heun
from studies.harness import run, run_parts

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 500
RING = ctm.data.ring()
SIZE = RING.sigma_data
FIVE = (0.1, 0.2, 0.5, 2.0, 5.0)
LEVELS = torch.logspace(-2.3, 0.95, 14).tolist()
WORLDS = {"ring": RING, "clusters": ctm.data.clusters()}
LAWS = {"log-normal": lognormal_times, "equal in t^(1/7)": rho_times}
BELLS = {f"bell at {centre}": centre for centre in (0.1, 0.9)}
BANDS = {"all": (0.0, math.inf), "above 2": (2.0, math.inf), "0.1 to 2": (0.1, 2.0), "below 0.1": (0.0, 0.1)}

Scale = Callable[[Tensor], Tensor]


def form(name: str, size: float = SIZE) -> tuple[Scale, Scale]:
    """The functions c_skip and c_out of a form."""
    forms: dict[str, tuple[Scale, Scale]] = {
        "EDM": (lambda t: c_skip(t, size), lambda t: c_out(t, size)),
        "clean point": (lambda t: 0 * t, lambda t: 0 * t + size),
        "noise": (lambda t: 0 * t + 1, lambda t: t),
    }
    return forms[name]


class Denoiser:
    """A network with given functions c_skip and c_out around it."""

    def __init__(self, name: str, seed: int, size: float = SIZE) -> None:
        self.skip, self.out = form(name, size)
        self.size = size
        self.sigma_data, self.sigma_min, self.sigma_max = SIZE, RING.sigma_min, RING.sigma_max
        self.network = MLP(2, seed=seed)

    def denoiser(self, x: Tensor, t: Tensor | float) -> Tensor:
        t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1).expand(len(x), 1)
        tau = c_noise(t).flatten()
        return self.skip(t) * x + self.out(t) * self.network(c_in(t, self.size) * x, tau, tau)


class Few:
    """A world that hands out only n training points."""

    def __init__(self, n: int, draw: int) -> None:
        self.points = RING.sample(n, generator=torch.Generator().manual_seed(draw))
        self.minimiser = ctm.GaussianMixture(self.points, 1e-3)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.points[torch.randint(len(self.points), (n,), generator=generator)]


def train(model: Denoiser, seed: int, *, data: Any = RING, weight: Scale | None = None, steps: int = STEPS) -> Denoiser:
    """The chapter's loop: the scale of errors is c_out unless given."""
    optimizer = torch.optim.Adam(model.network.parameters(), lr=4e-3, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        x0 = data.sample(256, generator=generator)
        t = lognormal_times(256, model, generator)[:, None]
        xt = noised(x0, t, generator)
        scale = (weight or model.out)(t)
        loss = ((model.denoiser(xt, t) - x0) / scale).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        optimizer.step()
    return model


def far(a: Tensor, b: Tensor) -> float:
    return round(float((a - b).square().mean().sqrt() / SIZE), 5)


@torch.no_grad()
def errors(model: Any, truth: Any = RING, n: int = 2000) -> list[float]:
    """Those of a denoiser against another at every level, on noised points of the ring."""
    rng = torch.Generator().manual_seed(100)
    found = []
    for t in LEVELS:
        xt = RING.noised(n, t, rng)
        found.append(far(model.denoiser(xt, t), truth.denoiser(xt, t)))
    return found


def mean_error(model: Any, truth: Any = RING) -> float:
    inside = [e for e, t in zip(errors(model, truth), LEVELS, strict=True) if 0.05 < t < 1]
    return round(sum(inside) / len(inside), 5)


@torch.no_grad()
def end_error(model: Any, world: Any = RING, n: int = 2000) -> float:
    """That of the ends of trajectories from the same noise, with as many Heun steps."""
    start = RING.sigma_max * torch.randn((n, *world.shape), generator=torch.Generator().manual_seed(101))
    walk = karras_times(32, RING)
    return far(heun(model, start, walk), heun(world, start, walk))


class Between:
    """The model's denoiser for low < t <= high, the exact one elsewhere."""

    def __init__(self, model: Any, world: Any, low: float, high: float) -> None:
        self.model, self.world, self.low, self.high = model, world, low, high

    def denoiser(self, x: Tensor, t: Any) -> Tensor:
        which = self.model if self.low < float(torch.as_tensor(t).max()) <= self.high else self.world
        return which.denoiser(x, t)


def measure_form(asked: str, weight: str, seed: int, **_: Any) -> dict[str, Any]:
    model = train(Denoiser(asked, seed), seed, weight=form(weight)[1])
    return {"errors": errors(model), "end": end_error(model)}


def measure_scale(factor: float, seed: int, **_: Any) -> dict[str, Any]:
    model = train(Denoiser("EDM", seed, factor * SIZE), seed)
    return {"errors": errors(model), "end": end_error(model)}


def measure_moved(factor: float, seed: int, **_: Any) -> dict[str, Any]:
    model = Denoiser("EDM", seed, factor * SIZE)
    model.sigma_data = factor * SIZE  # in the law of the times
    train(model, seed)
    return {"errors": errors(model), "end": end_error(model)}


def measure_bands(world: str, law: str, seed: int, **_: Any) -> dict[str, Any]:
    data = WORLDS[world]
    model = ctm.CTM.for_data(data, seed=seed)
    ctm.train(model, data, Denoising(times=LAWS[law]), STEPS, seed)
    return {name: end_error(Between(model, data, *ends), data) for name, ends in BANDS.items()}


def by_law(law: str, references: int, seed: int) -> ctm.CTM:
    """The ring's denoiser, trained as `ctm.train` trains, with times of a law."""

    def bell(n: int, model: Any, rng: torch.Generator) -> Tensor:
        """Log-normal times as the package draws them, with another centre."""
        return (math.log(BELLS[law]) + torch.randn(n, generator=rng)).exp().clamp(model.sigma_min, model.sigma_max)

    model = ctm.CTM.for_data(RING, seed=seed)
    ctm.train(model, RING, Denoising(references, LAWS.get(law, bell)), STEPS, seed)
    return model


def measure_law(law: str, references: int, seed: int, **_: Any) -> dict[str, Any]:
    return {"all": end_error(by_law(law, references, seed))}


@torch.no_grad()
def at_five(model: Any) -> list[float]:
    """The errors of a denoiser of the ring at five noise levels."""
    row = []
    for t in FIVE:
        xt = RING.noised(2000, t, torch.Generator().manual_seed(1))
        row.append(far(model.denoiser(xt, t), RING.denoiser(xt, t)))
    return row


def measure_by_level(law: str, references: int, seed: int, **_: Any) -> dict[str, Any]:
    return {"errors": at_five(by_law(law, references, seed))}


@torch.no_grad()
def nearest(points: Tensor, few: Few) -> float:
    return round(float(torch.cdist(points, few.points).min(1).values.median()), 5)


def measure_few(points: int, steps: int, seed: int, **_: Any) -> dict[str, Any]:
    few = Few(points, seed)
    model = train(Denoiser("EDM", seed), seed, data=few, steps=steps)
    rng = torch.Generator().manual_seed(102)
    start = RING.sigma_max * torch.randn((2000, 2), generator=rng)
    with torch.no_grad():
        samples = heun(model, start, karras_times(32, RING))
    return {
        "minimiser_truth": mean_error(few.minimiser),
        "network_truth": mean_error(model),
        "network_minimiser": mean_error(model, few.minimiser),
        "nearest_new": nearest(RING.sample(10_000, generator=rng), few),
        "nearest_samples": nearest(samples, few),
    }


def forms() -> None:
    pairs = [("EDM", "EDM"), ("clean point", "clean point"), ("noise", "noise")]
    pairs += [("EDM", "clean point"), ("clean point", "EDM"), ("noise", "EDM")]
    run(RESULTS, [{"part": "forms", "asked": a, "weight": b, "seed": n} for a, b in pairs for n in SEEDS], measure_form)


def scale() -> None:
    run(RESULTS, [{"part": "scale", "factor": f, "seed": n} for f in (0.25, 4.0) for n in SEEDS], measure_scale)


def moved() -> None:
    run(RESULTS, [{"part": "moved", "factor": f, "seed": n} for f in (0.25, 4.0) for n in SEEDS], measure_moved)


def bands() -> None:
    jobs = [{"part": "bands", "world": w, "law": law, "seed": n} for w in WORLDS for law in LAWS for n in SEEDS]
    run(RESULTS, jobs, measure_bands)


def laws() -> None:
    ways = [(law, 1024) for law in BELLS] + [("log-normal", 0)]
    run(RESULTS, [{"part": "laws", "law": law, "references": k, "seed": n} for law, k in ways for n in SEEDS], measure_law)


def by_level() -> None:
    ways = [(law, 1024) for law in (*LAWS, *BELLS)] + [("log-normal", 0)]
    jobs = [{"part": "by level", "law": law, "references": k, "seed": n} for law, k in ways for n in SEEDS]
    run(RESULTS, jobs, measure_by_level)


def few() -> None:
    jobs = [{"part": "few", "points": n, "steps": STEPS, "seed": seed} for n in (8, 24, 256) for seed in range(5)]
    run(RESULTS, jobs, measure_few)


if __name__ == "__main__":
    parts = {"forms": forms, "scale": scale, "moved": moved, "few": few, "bands": bands, "laws": laws, "by level": by_level}
    run_parts(parts)
