"""Which choices of the loss and the training matter, what more steps buy, and how three regimes learn.

    python -m studies.training

One factor at a time from the default, 2,000 steps on the ring with the exact teacher; the default at 250 to 8,000 steps;
learning curves with an exact teacher, a learned one and none; some of the factors again, with as many steps as take the
default's time; a learned teacher's student from three sets of first weights; higher peaks of the rate; 400 steps planned
as such and as the beginning of 8,000; a small network at three peaks. Three seeds each. One thread, about half an hour;
results are kept in studies/training.json as they come.
"""

import copy
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import error_table, flow_map_error
from ctm.training import State, training_steps
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 2000
WORLD = ctm.data.ring()
LEVELS = (10.0, 2.0, 0.5, 0.2, 0.05, 0.002)
# name of the variant: (choices of the network, choices of the loss and of the training)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "gain 1": ({"gain": 1.0}, {}),
    "gain 3": ({"gain": 3.0}, {}),
    "gain 20": ({"gain": 20.0}, {}),
    "width 48": ({"width": 48}, {}),
    "width 160": ({"width": 160}, {}),
    "layers 3": ({"layers": 3}, {}),
    "layers 7": ({"layers": 7}, {}),
    "features 1": ({"features": 1}, {}),
    "features 12": ({"features": 12}, {}),
    "levels 12": ({}, {"levels": 12}),
    "levels 18, fixed": ({}, {"levels": 18, "continuous": False}),
    "levels 96, fixed": ({}, {"continuous": False}),
    "from_noise 0": ({}, {"from_noise": 0.0}),
    "to_data 0": ({}, {"to_data": 0.0}),
    "batch 80": ({}, {"batch": 80}),
    "lr 2e-3": ({}, {"lr": 2e-3}),
    "lr 16e-3": ({}, {"lr": 1.6e-2}),
    "ema 0": ({}, {"ema": 0.0}),
    "ema 0.99": ({}, {"ema": 0.99}),
    "reuse 400": ({}, {"reuse": 400}),
}
BUDGETS = (250, 500, 1000, 2000, 4000, 8000)
CURVE_STEPS = 4000
# variant: steps that take about as long as 1,000 of the default, by the seconds of the rows at equal steps
EQUAL_TIME = {"batch 80": 1600, "width 48": 1450, "width 160": 700}
# the same for the time of 2,000
TWICE_THE_TIME = {"batch 80": 3200}
PEAKS = (0.032, 0.064)  # of the learning rate, above those of the variants
STARTS = ("random", "copy", "Euler")
START_STEPS = 500
PLANNED, BEGUN = (400, 8000), 400  # steps for which the rate falls, and those that are made
SMALL = {"width": 32, "layers": 2}
SMALL_PEAKS, SMALL_STEPS = (0.008, 0.032, 0.128), 500


def measure(variant: str, seed: int, steps: int) -> dict[str, Any]:
    network, choices = VARIANTS[variant]
    student = regimes.model(WORLD, seed, **network)
    started = time.process_time()
    regimes.distil(student, WORLD, WORLD, steps, seed, **choices)
    seconds = time.process_time() - started
    table = error_table(student, WORLD, LEVELS, n=1000)
    return {
        "error": round(flow_map_error(student, WORLD), 5),
        "table_error": round(float(table.nanmean()), 5),
        "seconds": round(seconds, 1),
    }


def peak(lr: float, seed: int) -> dict[str, Any]:
    """Errors of a higher peak of the rate, and the mean loss of every 100 steps."""
    student, means, part = regimes.model(WORLD, seed), list[float](), list[float]()
    state = State(student, WORLD, ctm.Consistency(WORLD), STEPS, seed, lr=lr)
    for done, loss in training_steps(state):
        part.append(loss)
        if done % 100 == 0:
            means.append(round(sum(part) / 100, 6))
            part.clear()
    model = state.models.average
    return {
        "error": round(flow_map_error(model, WORLD), 5),
        "table_error": round(float(error_table(model, WORLD, LEVELS, n=1000).nanmean()), 5),
        "losses": means,
    }


def curve(regime: str, seed: int) -> dict[str, Any]:
    """Loss and flow-map error of the averaged model along training, and of the weights themselves.

    The training of a learned teacher is not shown; without a teacher the denoiser's steps are the first half.
    """
    student = regimes.model(WORLD, seed)
    steps = 2 * CURVE_STEPS if regime == "learned" else CURVE_STEPS
    rows: dict[str, list[float]] = {"step": [], "loss": [], "error": [], "last_error": []}
    losses, before = [], CURVE_STEPS - steps
    for state in regimes.stages(student, WORLD, regime, steps, seed):
        for done, loss in training_steps(state):
            losses.append(loss)
            if done % 200 == 0 and before >= 0:
                rows["step"].append(before + done)
                rows["loss"].append(round(sum(losses) / len(losses), 6))
                rows["error"].append(round(flow_map_error(state.models.average, WORLD, n=1000), 5))
                rows["last_error"].append(round(flow_map_error(state.models.student, WORLD, n=1000), 5))
                losses.clear()
        losses.clear()
        before += state.steps
    return rows


@torch.no_grad()
def euler_start(denoiser: ctm.CTM) -> ctm.CTM:
    """A copy of a trained denoiser for which g(x, t, s) = D(x, t) at every s, so that each jump is an Euler step.

    A denoiser has only seen equal times. So the weights of the features of s may be added to those of t and set to 0.
    """
    student = copy.deepcopy(denoiser)
    dim, features = (student.network.config[name] for name in ("dim", "features"))
    weight = student.network.body[0].weight  # columns: x, the two times, sines of t and of s, cosines of t and of s
    times = weight[:, dim:]
    for start, width in ((0, 1), (2, features), (2 + 2 * features, features)):
        of_t, of_s = times[:, start : start + width], times[:, start + width : start + 2 * width]
        of_t += of_s
        of_s.zero_()
    return student


@cache
def denoiser(seed: int) -> ctm.CTM:
    model = regimes.model(WORLD, seed)
    ctm.train(model, WORLD, regimes.denoising(), START_STEPS, seed)
    return model


def start(first: str, seed: int) -> dict[str, Any]:
    """Error along the training of a learned teacher's student, from the weights ``first``."""
    teacher = copy.deepcopy(denoiser(seed))
    starts = {"random": regimes.model(WORLD, seed + 100), "copy": copy.deepcopy(teacher), "Euler": euler_start(teacher)}
    student, teacher = starts[first], teacher.requires_grad_(False)
    state = State(student, WORLD, ctm.Consistency(teacher), START_STEPS, seed)
    rows: dict[str, list[float]] = {"step": [0], "error": [round(flow_map_error(student, WORLD), 5)]}
    for done, _ in training_steps(state):
        if done in (10, 25, 50, 100, 200, 300, 400, 500):
            rows["step"].append(done)
            rows["error"].append(round(flow_map_error(state.models.average, WORLD), 5))
    return rows


def begin(planned: int, seed: int) -> dict[str, Any]:
    """Errors of the last weights and of their average after the first steps of a run."""
    student = ctm.CTM.for_data(WORLD, seed=seed)
    state = State(student, WORLD, ctm.Consistency(WORLD), planned, seed)
    for done, _ in training_steps(state):
        if done == BEGUN:
            break
    models = {"last_error": student, "error": state.models.average}
    return {name: round(flow_map_error(model, WORLD), 5) for name, model in models.items()}


def small(small_lr: float, seed: int) -> dict[str, Any]:
    """Error of a small network at a peak of the rate."""
    student = ctm.CTM.for_data(WORLD, ctm.networks.MLP(2, seed=seed, **SMALL))
    ctm.train(student, WORLD, ctm.Consistency(WORLD), SMALL_STEPS, seed, lr=small_lr)
    return {"error": round(flow_map_error(student, WORLD), 5)}


def main() -> None:
    for seed in SEEDS:
        run(RESULTS, [{"regime": regime, "seed": seed} for regime in regimes.REGIMES], curve)
        run(RESULTS, [{"variant": name, "seed": seed, "steps": STEPS} for name in VARIANTS], measure)
        run(RESULTS, [{"variant": "default", "seed": seed, "steps": steps} for steps in BUDGETS], measure)
        run(RESULTS, [{"variant": name, "seed": seed, "steps": steps} for name, steps in EQUAL_TIME.items()], measure)
        run(RESULTS, [{"variant": name, "seed": seed, "steps": steps} for name, steps in TWICE_THE_TIME.items()], measure)
        run(RESULTS, [{"lr": lr, "seed": seed} for lr in PEAKS], peak)
        run(RESULTS, [{"first": first, "seed": seed} for first in STARTS], start)
        run(RESULTS, [{"planned": planned, "seed": seed} for planned in PLANNED], begin)
        run(RESULTS, [{"small_lr": lr, "seed": seed} for lr in SMALL_PEAKS], small)


if __name__ == "__main__":
    main()
