"""Train the small models that chapters load, and write each with its card into book/checkpoints.

    python -m studies.checkpoints [name ...]

One thread, about six minutes in all. A test loads every file and measures its figures again.
"""

import sys
import time
from pathlib import Path

import torch

import ctm
from ctm.metrics import flow_map_error

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
    for name in sys.argv[1:] or MODELS:
        if name not in MODELS:
            raise SystemExit(f"name must be one of {', '.join(MODELS)}; got {name}")
        make(name)


if __name__ == "__main__":
    main()
