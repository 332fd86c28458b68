"""With and without the adversarial term: where it helps, where it hurts, and what makes it fail.

    python -m studies.adversarial [seed ...]

Students of a teacher that takes four Euler steps, of learned teachers, two of them trained for a short time, and of the
exact teacher, one of those too small and one with few updates; three seeds each. Every student is trained three ways: with
the term; without it, three times as many updates, for about as many processor seconds; and without it, as many updates,
which is the control for the term itself. Beside them: the term with smaller weights, with the first and the exact teacher;
and with the first, three times the weight, or a part of it left out. Samples on the ring are judged by studies.samplers
(sliced W1 over its noise floor, width of the modes), by the share of them within three standard deviations of a mode, and
by the scarcest mode's share over the mean; the map by its error. One thread, about twelve minutes; results are kept in
studies/adversarial.json as they come.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.losses import Objective
from ctm.metrics import flow_map_error
from ctm.samplers import noise, one_step
from ctm.solvers import euler_step
from studies import regimes
from studies.checkpoints import FOLDER
from studies.harness import run
from studies.samplers import judge

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
WORLD = ctm.data.ring()
BATCH, POOL = 128, 1024
# name: (choices of the consistency term, the network's width, the updates with the adversarial term)
SETTINGS: dict[str, tuple[dict[str, Any], int, int]] = {
    "four Euler steps": ({"step": euler_step, "levels": 4}, 32, 700),
    "learned, 100 updates": ({}, 32, 700),
    "learned, 300 updates": ({}, 32, 700),
    "learned": ({}, 32, 700),
    "exact": ({}, 32, 700),
    "exact, too small": ({}, 8, 700),
    "exact, few updates": ({}, 32, 100),
}
# name: (weight of the adversarial term, its choices)
VARIANTS: dict[str, tuple[float, dict[str, Any]]] = {
    "without": (0.0, {}),
    "without, as many updates": (0.0, {}),
    "with": (1.0, {}),
    "weight 3": (3.0, {}),
    "weight 0.3": (0.3, {}),
    "weight 0.1": (0.1, {}),
    "no R1": (1.0, {"r1": 0.0}),
    "no noise": (1.0, {"noise": 0.0}),
    "neither": (1.0, {"r1": 0.0, "noise": 0.0}),
    "no warm-up": (1.0, {"start": 0.0}),
}
WAYS = ("with", "without, as many updates", "without")
MORE = 3.0  # updates of "without" for one with the term
HASTY = {"learned, 100 updates": 100, "learned, 300 updates": 300}  # updates of a teacher that is trained anew


def new_student(seed: int, width: int = 32) -> ctm.CTM:
    """The untrained student."""
    return regimes.model(WORLD, seed, width=width, layers=3)


def teacher(setting: str, seed: int) -> ctm.FlowMap:
    """The teacher of a setting: the exact one, a stored denoiser, or one trained for a short time."""
    if setting == "learned":
        return ctm.load(FOLDER / "ring_denoiser.safetensors")
    if setting in HASTY:
        denoiser = new_student(seed + 100)
        ctm.train(denoiser, WORLD, regimes.denoising(), HASTY[setting], seed)
        return denoiser.requires_grad_(False)
    return WORLD


def objective(setting: str, variant: str, seed: int) -> Objective:
    """The loss of a setting, with its adversarial term if the variant has one."""
    choices, (weight, term) = SETTINGS[setting][0], VARIANTS[variant]
    jumps = ctm.Consistency(teacher(setting, seed), pool=POOL, **choices)
    if not weight:
        return jumps
    return jumps + weight * ctm.Adversarial(levels=jumps.levels, seed=seed, **term)


def trained(setting: str, variant: str, seed: int) -> tuple[ctm.CTM, float]:
    """A student of a setting, and the processor seconds it took, its teacher's training not counted."""
    _, width, steps = SETTINGS[setting]
    student, loss = new_student(seed, width), objective(setting, variant, seed)
    started = time.process_time()
    steps = round(MORE * steps) if variant == "without" else steps
    ctm.train(student, WORLD, loss, steps, seed, batch=BATCH)
    return student, time.process_time() - started


def modes(x: torch.Tensor) -> tuple[float, float]:
    """The share of samples within three standard deviations of a mode; the scarcest mode's share over the mean share."""
    distance, nearest = torch.cdist(x.double(), WORLD.means).min(1)
    inside = distance < 3 * WORLD.stds[0]
    counts = torch.bincount(nearest[inside], minlength=len(WORLD.means)).double()
    return float(inside.double().mean()), float(counts.min() / counts.mean())


def figures(student: ctm.CTM) -> dict[str, float]:
    inside, scarcest = modes(one_step(student, noise(student, 20_000, (2,), generator=torch.Generator().manual_seed(1))))
    return {
        **judge(lambda x, _: one_step(student, x), "ring", 4, 0),
        "inside": round(inside, 4),
        "scarcest": round(scarcest, 3),
        "error": round(flow_map_error(student, WORLD, n=1000), 4),
    }


def measure(setting: str, variant: str, seed: int) -> dict[str, Any]:
    student, seconds = trained(setting, variant, seed)
    return {**figures(student), "seconds": round(seconds, 1)}


def main() -> None:
    for seed in map(int, sys.argv[1:] or SEEDS):
        pairs = [(setting, variant) for setting in SETTINGS for variant in WAYS]
        pairs += [("four Euler steps", variant) for variant in VARIANTS]
        pairs += [("exact", variant) for variant in ("weight 0.3", "weight 0.1")]
        run(RESULTS, [{"setting": s, "variant": v, "seed": seed} for s, v in pairs], measure)


if __name__ == "__main__":
    main()
