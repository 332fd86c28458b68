"""Train the small models that chapters load, and write each with its card into book/checkpoints.

    python -m studies.checkpoints [name ...]

One thread, about twelve minutes in all; the seconds on a card are the processor's. A test loads every file and measures its
figures again.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import flow_map_error
from ctm.samplers import one_step
from studies import regimes
from studies.regimes import distil

FOLDER = Path(__file__).parents[1] / "book/checkpoints"
Way = Callable[..., object]  # of training: called with the model, the world, the teacher, steps and seed


def denoise(model: ctm.CTM, world: ctm.GaussianMixture, teacher: None, steps: int, seed: int) -> None:
    """Denoising alone: a learned teacher."""
    ctm.train(model, world, regimes.denoising(), steps, seed)


def without_teacher(model: ctm.CTM, world: ctm.GaussianMixture, teacher: None, steps: int, seed: int) -> None:
    regimes.train(model, world, "none", steps, seed)


to_the_end = partial(distil, to_data=1.0)  # every jump goes to the end: all that a consistency model learns
both = partial(distil, dsm=1.0)  # jumps, and the denoiser on the diagonal kept true: for likelihoods
# name: (world, teacher, way of training, steps); a learned teacher is the checkpoint of that name
MODELS: dict[str, tuple[str, str | None, Way, int]] = {
    "ring_denoiser": ("ring", None, denoise, 7_000),
    "ring_exact": ("ring", "exact", distil, 13_500),
    "ring_quick": ("ring", "exact", distil, 400),
    "ring_cm": ("ring", "exact", to_the_end, 9_000),
    "ring_learned": ("ring", "ring_denoiser", distil, 9_000),
    "ring_scratch": ("ring", None, without_teacher, 9_000),
    "ring_both": ("ring", "ring_denoiser", both, 7_000),
    "pair_exact": ("two_gaussians", "exact", distil, 9_000),
    "pair_small": ("two_gaussians", "exact", distil, 6_000),
    "ring_small": ("ring", "exact", distil, 13_500),
    "ring_small_quick": ("ring", "exact", distil, 400),
    "two_moons_small": ("two_moons", "exact", distil, 13_500),
    "pinwheel_small": ("pinwheel", "exact", distil, 13_500),
}
# name, also of the world: (network, choices of the training, strengths of guidance, share of labels hidden, steps); exact
# teachers
CONDITIONAL: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[float, float], float, int]] = {
    "half_rings": ({}, {}, (1.0, 4.0), 0.1, 5_000),
    "digits": (
        {"width": 256, "layers": 4, "gain": 2.0},
        {"pool": 2048, "levels": 24, "reuse": 250, "lr": 4e-3},
        (1.0, 3.0),
        0.1,
        4_000,
    ),
}
SMALL = {"width": 32, "layers": 4}  # a "small" network is fast enough for a live figure: 500 points in every frame
SEED = 0


def figures(model: ctm.CTM, world: ctm.GaussianMixture) -> dict[str, float]:
    """What the card promises: the error of one step, and of the denoiser at two noise levels, against the exact ones."""
    generator = torch.Generator().manual_seed(1)
    x0 = world.sample(4000, generator=generator)
    found = {"one_step_error": flow_map_error(model, world)}
    for t in (0.2, 2.0):
        xt = x0 + t * torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            difference = model.denoiser(xt, t) - world.denoiser(xt, t)
        found[f"denoiser_error_at_{t:g}"] = float((difference.square().sum() / x0.square().sum()).sqrt())
    return {name: round(value, 5) for name, value in found.items()}


def conditional_figures(model: ctm.ConditionalCTM, world: ctm.LabelledMixture, strongest: float) -> dict[str, float]:
    """The error of one step against the exact guided map: no label, the class itself, the strongest guidance."""
    generator = torch.Generator().manual_seed(1)
    x0, label = world.sample_labelled(100, generator=generator)
    x = x0 + model.sigma_max * torch.randn(x0.shape, generator=generator)
    found = {}
    for name, told, w in (("no_label", None, 1.0), ("w_1", label, 1.0), (f"w_{strongest:g}", label, strongest)):
        exact = world.given(told, w).G(x, model.sigma_max, model.sigma_min)
        difference = one_step(model.given(told, w), x) - exact
        found[f"one_step_error_{name}"] = round(float((difference.square().sum() / x0.square().sum()).sqrt()), 5)
    return found


def make_conditional(name: str) -> None:
    network, choices, strengths, drop, steps = CONDITIONAL[name]
    world = ctm.data.LABELLED[name]()
    model = regimes.model(world, SEED, conditions=world.classes + 1, **network)
    started = time.process_time()
    distil(model, ctm.Guided(world, strengths, drop), world, steps, SEED, **choices)
    card = {
        "command": f"python -m studies.checkpoints {name}",
        "world": name,
        "teacher": "exact, guided",
        "seed": SEED,
        "steps": steps,
        "seconds": round(time.process_time() - started),
        "figures": conditional_figures(model, world, strengths[1]),
    }
    ctm.save(model, FOLDER / f"{name}.safetensors", **card)
    print(card, flush=True)


def make(name: str) -> None:
    world_name, teacher_name, way, steps = MODELS[name]
    world = ctm.data.WORLDS[world_name]()
    model = regimes.model(world, SEED, **(SMALL if "small" in name else {}))
    teacher = world if teacher_name == "exact" else teacher_name and ctm.load(FOLDER / f"{teacher_name}.safetensors")
    if isinstance(teacher, ctm.CTM):
        model.load_state_dict(teacher.state_dict())
    started = time.process_time()
    way(model, world, teacher, steps, SEED)
    card = {
        "command": f"python -m studies.checkpoints {name}",
        "world": world_name,
        "teacher": teacher_name or "none",
        "seed": SEED,
        "steps": steps,
        "seconds": round(time.process_time() - started),
        "figures": figures(model, world),
    }
    FOLDER.mkdir(exist_ok=True)
    ctm.save(model, FOLDER / f"{name}.safetensors", **card)
    print(card, flush=True)


def main() -> None:
    torch.set_num_threads(1)
    every = [*MODELS, *CONDITIONAL]
    for name in sys.argv[1:] or every:
        if name not in every:
            raise SystemExit(f"name must be one of {', '.join(every)}; got {name}")
        (make_conditional if name in CONDITIONAL else make)(name)


if __name__ == "__main__":
    main()
