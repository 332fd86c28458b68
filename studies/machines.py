"""Training on two processes against one, and in half precision against float32.

    python -m studies.machines

Speed: the U-Net on 8 x 8 digits, denoising, 320 images a step; the time between two lines of the log, and the processor
time of the first process, beside the load of the machine. Precision: the ring, 1,000 steps, three seeds. Both go through
the launcher. Rounding: the same ring and recipe, with the points or the times of every pair in bfloat16. Compared: the run
of the chapter in four parts, on one process and on two. Draws: its losses with one seed for both parts, or with other draws,
beside those of the run itself. Both with three seeds. About eight minutes on two cores; results are kept in
studies/machines.json as they come.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import accelerate
import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

import ctm
from ctm.losses import Draw, Models
from ctm.losses.trajectories import Pairs
from ctm.metrics import flow_map_error
from ctm.training import launch
from ctm.training.config import Config
from ctm.training.log import Log
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
DIGITS = {"data": "digits", "objective": "denoiser", "references": 0, "log_every": 10, "save_every": 1000}
RING = {"objective": "teacher", "teacher": "exact", "log_every": 1000}
CHAPTER = {"objective": "teacher", "teacher": "exact", "width": 32, "layers": 3, "steps": 300, "batch": 128, "parts": 2}
CHAPTER |= {"levels": 24, "pool": 256, "log_every": 10}  # ring.toml of the chapter


class Timed(Log):
    """A log that also keeps the processor time of the first process at each line."""

    def write(self, step: int, loss: float, lr: float) -> None:
        super().write(step, loss, lr)
        with self.path.with_name("seconds").open("a", encoding="utf-8") as file:
            file.write(f"{time.process_time()}\n")


def train(config: Config) -> None:
    """One process of a run."""
    AcceleratorState._reset_state(True)  # of the process it was forked from
    GradientState._reset_state()
    torch.set_num_threads(1)
    launch.Log = Timed  # type: ignore[misc]
    with contextlib.redirect_stdout(None):
        launch.Launch(config).run()


def speed(processes: int, parts: int, repeat: int) -> dict[str, Any]:
    """Images a second and processor seconds a step of one process, over the last 10 of 20 steps, and the load before."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        config = Config(**DIGITS, steps=20, parts=parts, folder=folder)
        accelerate.debug_launcher(train, (config,), processes) if processes > 1 else train(config)
        last = json.loads((Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        before, after = map(float, (Path(folder) / "seconds").read_text(encoding="utf-8").split())
    images, seconds = last["points_per_second"], (after - before) / 10
    return {"images per second": round(images, 1), "processor seconds": round(seconds, 4), "load": round(load, 2)}


def precision(precision: str, seed: int) -> dict[str, Any]:
    """The error of one step after training in that precision, the model used in float32."""
    with tempfile.TemporaryDirectory() as folder:
        train(Config(**RING, steps=1000, precision=precision, seed=seed, folder=folder))
        model = ctm.load(Path(folder) / "model.safetensors")
    return {"error": round(flow_map_error(model, ctm.data.ring()), 5)}


@dataclass(repr=False, eq=False)
class Rounded(ctm.Consistency):
    """The consistency term with the points or the times of every pair rounded to bfloat16."""

    what: str = "nothing"

    def pairs(self, models: Models, draw: Draw, rng: torch.Generator) -> tuple[Pairs, Tensor | None]:
        (xt, t, xu, u, s), condition = super().pairs(models, draw, rng)
        if self.what == "points":
            xt, xu = (x.bfloat16().float() for x in (xt, xu))
        if self.what == "times":
            t, u, s = (time.bfloat16().float() for time in (t, u, s))
        return Pairs(xt, t, xu, u, s), condition


def rounding(rounded: str, kind: str, seed: int) -> dict[str, Any]:
    """The error of one step after training on such pairs, the model used without any rounding."""
    world = ctm.data.ring()
    student = ctm.CTM.for_data(world, seed=seed)
    term = Rounded(world, kind, what=rounded) + 0.1 * ctm.Denoising()
    ctm.train(student, world, term, 1000, seed)
    return {"error": round(flow_map_error(student, world), 5)}


def ended(processes: int = 1, **keys: Any) -> tuple[Tensor, np.ndarray]:
    """Weights and logged losses of the chapter's run with these keys."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(**{**CHAPTER, **keys}, folder=folder)
        accelerate.debug_launcher(train, (config,), processes) if processes > 1 else train(config)
        model = ctm.load(Path(folder) / "model.safetensors")
        lines = (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return weights, np.array([json.loads(line)["loss"] for line in lines])


def four_parts(seed: int) -> dict[str, Any]:
    """The largest difference of the weights of one process and of two after 100 steps in four parts."""
    one, two = (ended(n, parts=4, steps=100, seed=seed)[0] for n in (1, 2))
    return {"apart": float(f"{(two - one).abs().max().item():.3g}")}


def draws(draws: str, seed: int) -> dict[str, Any]:
    """Losses over those of the run itself, which has the same first weights: medians over the first and last 100 steps."""
    seed_of = launch.part_seed
    others = {"one seed": lambda seed, part: seed, "others": lambda seed, part: seed_of(seed + 100, part)}
    _, honest = ended(seed=seed)
    with mock.patch.object(launch, "part_seed", others[draws]):
        _, changed = ended(seed=seed)
    ratio = changed / honest
    first, last = (float(np.median(np.abs(ratio[span] - 1))) for span in (slice(10), slice(-10, None)))
    return {"first": round(first, 4), "last": round(last, 4), "ratios": [round(float(r), 4) for r in ratio[-10:]]}


def jobs() -> Iterator[dict[str, Any]]:
    yield from ({"precision": p, "seed": seed} for seed in range(3) for p in ("no", "bf16"))
    yield from ({"processes": n, "parts": k, "repeat": r} for r in range(1) for n, k in ((1, 1), (1, 2), (2, 2)))
    what = {"global": ("points", "times"), "local": ("nothing", "points", "times")}  # global with nothing: precision "no"
    yield from ({"rounded": w, "kind": kind, "seed": seed} for kind in what for seed in range(3) for w in what[kind])
    yield from ({"compared": "four parts", "seed": seed} for seed in range(3))
    yield from ({"draws": which, "seed": seed} for seed in range(3) for which in ("one seed", "others"))


def measure(**job: Any) -> dict[str, Any]:
    if "compared" in job:
        return four_parts(job["seed"])
    if "draws" in job:
        return draws(**job)
    if "rounded" in job:
        return rounding(**job)
    return speed(**job) if "processes" in job else precision(**job)


if __name__ == "__main__":
    run(RESULTS, jobs(), measure)
