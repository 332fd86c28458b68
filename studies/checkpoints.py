"""Train the small models that chapters load, and write each with its card into book/checkpoints.

    python -m studies.checkpoints [name ...]

One thread, about nine minutes in all. A test loads every file and measures its figures again.
"""

import sys
import time
from pathlib import Path

import torch

import ctm
from ctm.metrics import flow_map_error
from ctm.samplers import one_step

FOLDER = Path(__file__).parents[1] / "book/checkpoints"
CONSISTENCY_MODEL = ctm.Recipe(to_data=1.0)  # every jump goes to the end: all that a consistency model learns
BOTH = ctm.Recipe(dsm=1.0, references=1024)  # jumps, and the denoiser on the diagonal kept true: for likelihoods
# name: (world, teacher, recipe or None for the default, steps); a learned teacher is the checkpoint of that name
MODELS: dict[str, tuple[str, str | None, ctm.Recipe | None, int]] = {
    "ring_denoiser": ("ring", None, ctm.DENOISER, 7_000),
    "ring_exact": ("ring", "exact", None, 13_500),
    "ring_quick": ("ring", "exact", None, 400),
    "ring_cm": ("ring", "exact", CONSISTENCY_MODEL, 9_000),
    "ring_learned": ("ring", "ring_denoiser", None, 9_000),
    "ring_scratch": ("ring", None, None, 9_000),
    "ring_both": ("ring", "ring_denoiser", BOTH, 7_000),
    "pair_exact": ("two_gaussians", "exact", None, 9_000),
}
# name, also of the world: (network, recipe or None, strengths of guidance, share of labels hidden, steps); exact teachers
CONDITIONAL: dict[str, tuple[dict[str, int | float], ctm.Recipe | None, tuple[float, float], float, int]] = {
    "half_rings": ({}, None, (1.0, 4.0), 0.1, 5_000),
    "digits": (
        {"width": 256, "layers": 4, "gain": 2.0},
        ctm.Recipe(pool=2048, levels=24, reuse=250, lr=4e-3),
        (1.0, 3.0),
        0.1,
        4_000,
    ),
}
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
    network, recipe, strengths, drop, steps = CONDITIONAL[name]
    world = ctm.data.LABELLED[name]()
    mlp = ctm.networks.MLP(world.means[0].numel(), seed=SEED, conditions=world.classes + 1, **network)
    model = ctm.ConditionalCTM(mlp, world.sigma_data)
    started = time.process_time()
    ctm.train_conditional(model, world, None, steps, SEED, recipe, strengths=strengths, drop=drop)
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
    world_name, teacher_name, recipe, steps = MODELS[name]
    world = ctm.data.WORLDS[world_name]()
    model = ctm.CTM(ctm.networks.MLP(world.means[0].numel(), seed=SEED), world.sigma_data)
    teacher = world if teacher_name == "exact" else teacher_name and ctm.load(FOLDER / f"{teacher_name}.safetensors")
    if isinstance(teacher, ctm.CTM):
        model.load_state_dict(teacher.state_dict())
    started = time.perf_counter()
    ctm.train(model, world, teacher, steps, SEED, recipe)
    card = {
        "command": f"python -m studies.checkpoints {name}",
        "world": world_name,
        "teacher": teacher_name or "none",
        "seed": SEED,
        "steps": steps,
        "seconds": round(time.perf_counter() - started),
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
