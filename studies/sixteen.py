"""What limits a denoiser learned from samples in 16 dimensions, and what a student without a teacher makes of a better one.

    python -m studies.sixteen

Denoisers and students with the gain of 8 and the noise levels of studies.regimes, or one of them changed; and the three
regimes at 2,000 updates in all with the package's own defaults. Three seeds of each. One thread, about twelve minutes;
results are kept in studies/sixteen.json as they come.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.flow_map import as_column
from ctm.losses import Draw, Models
from ctm.metrics import flow_map_error
from ctm.models import c_out
from ctm.noise import karras_times, randn, rho_times
from ctm.samplers import heun
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
WORLD = ctm.data.clusters()
# name of the variant: (choices of the network, options of the training, steps)
DENOISERS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "default": ({}, {}, 1000),
    "gain 2": ({"gain": 2.0}, {}, 1000),
    "gain 2, exact targets": ({"gain": 2.0}, {}, 1000),
    "gain 2, no references": ({"gain": 2.0}, {}, 1000),
    "gain 2, 4 x the batch": ({"gain": 2.0}, {"batch": 1280}, 1000),
}
STUDENTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "gain 2, 4 x the batch": ({"gain": 2.0}, {"batch": 1280}, 2000),
}


def exact_targets(models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
    """Denoising with the mean of the clean points as the target, in place of one of them: the same fit without noise."""
    student, (x0, _) = models.student, draw.clean()
    t = as_column(rho_times(len(x0), student, rng), x0)
    xt = x0 + t * randn(x0.shape, rng)
    miss = student.denoiser(xt, t) - WORLD.denoiser(xt, t)
    return (miss / c_out(t, student.sigma_data)).square().mean()


def measure_denoiser(denoiser: str, seed: int) -> dict[str, Any]:
    """The error of the denoiser's own trajectories, and of the denoiser itself at three noise levels."""
    network, options, steps = DENOISERS[denoiser]
    teacher = regimes.model(WORLD, seed, **network)
    objective = {
        "gain 2, exact targets": exact_targets,
        "gain 2, no references": regimes.denoising(references=0),
    }.get(denoiser, regimes.denoising())
    started = time.process_time()
    ctm.train(teacher, WORLD, objective, steps, seed, **options)
    seconds = time.process_time() - started
    generator = torch.Generator().manual_seed(0)
    x0 = WORLD.sample(2000, generator=generator)
    x = x0 + teacher.sigma_max * torch.randn(x0.shape, generator=generator)
    times = karras_times(64, teacher)
    difference = heun(teacher, x, times) - WORLD.G(x, teacher.sigma_max, teacher.sigma_min)
    size = x0.square().sum()
    row = {"error": round(float((difference.square().sum() / size).sqrt()), 5)}
    for t in (0.2, 0.5, 2.0):
        xt = x0 + t * torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            miss = teacher.denoiser(xt, t) - WORLD.denoiser(xt, t)
        row[f"denoiser_error_at_{t:g}"] = round(float((miss.square().sum() / size).sqrt()), 5)
    return {**row, "seconds": round(seconds, 1)}


def measure_student(student: str, seed: int) -> dict[str, Any]:
    """The one-step error of a model that had no teacher."""
    network, options, steps = STUDENTS[student]
    started = time.process_time()
    trained = regimes.train(regimes.model(WORLD, seed, **network), WORLD, "none", steps, seed, **options)
    return {"error": round(flow_map_error(trained, WORLD), 5), "seconds": round(time.process_time() - started, 1)}


def measure_regime(regime: str, steps: int, seed: int) -> dict[str, Any]:
    """The one-step error with the package's own defaults: a teacher that is exact, learned from samples, or none."""
    student = ctm.CTM.for_data(WORLD, seed=seed)
    started = time.process_time()
    regimes.train(student, WORLD, regime, steps, seed, term=ctm.Denoising())
    return {"error": round(flow_map_error(student, WORLD), 5), "seconds": round(time.process_time() - started, 1)}


def main() -> None:
    for seed in SEEDS:
        run(RESULTS, [{"regime": name, "steps": 2000, "seed": seed} for name in regimes.REGIMES], measure_regime)
        run(RESULTS, [{"denoiser": name, "seed": seed} for name in DENOISERS], measure_denoiser)
        run(RESULTS, [{"student": name, "seed": seed} for name in STUDENTS], measure_student)


if __name__ == "__main__":
    main()
