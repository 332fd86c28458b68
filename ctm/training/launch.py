"""Training on one process or many: ``python -m ctm.training --config FILE``, alone or
behind ``accelerate launch``."""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctm import checkpoints
from ctm.losses import Objective
from ctm.models import CTM
from ctm.training.config import (
    Config,
    consistency,
    denoising,
    load_data,
    new_student,
    told,
)
from ctm.training.log import Log
from ctm.training.loop import check_same, read_run, writable
from ctm.training.state import State


def part_seed(seed: int, part: int) -> int:
    """A seed for each part; the first has the run's own. PyTorch's generator takes 32 bits
    of a seed, so parts that differ above them would draw the same points."""
    return int(np.random.SeedSequence([seed, part]).generate_state(1)[0]) if part else seed


class PartLoss(nn.Module):
    """The loss of a part as a module: what the engine wraps, to average its gradients."""

    def __init__(self, student: CTM) -> None:
        super().__init__()
        self.student = student

    def forward(self, part: State) -> Tensor:
        """A scalar."""
        return part.loss()


class Launch:
    """A run on the processes that share it.

    A batch is the union of ``parts``, each drawn by a generator of its own and kept by one
    process: one after another where a process has several. So the run does not depend on
    how many processes there are, up to the rounding of sums.
    """

    def __init__(self, config: Config) -> None:
        try:
            from accelerate import Accelerator  # `import ctm` does without it
            from accelerate.utils import is_tensorboard_available
        except ImportError as error:
            raise ImportError(
                "training from a file needs accelerate: pip install accelerate"
            ) from error
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if asked not in ("no", config.precision):
            raise ValueError(f"precision is {config.precision}, the launcher has {asked}")
        self.config, self.folder = config, Path(config.folder)
        self.engine = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision=config.precision,
            log_with="tensorboard" if is_tensorboard_available() else None,
            project_dir=self.folder,
        )
        processes = self.engine.num_processes
        self.parts = config.parts or processes
        if self.parts % processes or config.batch % self.parts:
            raise ValueError(
                f"parts must be a multiple of the {processes} processes and divide batch "
                f"{config.batch}, got {self.parts}"
            )
        self.engine.gradient_accumulation_steps = self.parts // processes
        # pools go through the processors' memory: a GPU could not hold those of all
        self.own_memory = (
            torch.distributed.new_group(backend="gloo") if processes > 1 else None
        )

    def run(self) -> CTM:
        """Train as the file says; returns the averaged model, which is written too.

        Raises:
            OSError, TypeError, ValueError: something in the file is not as it must be, or
                ``folder`` holds the state of another run.
            FloatingPointError: the loss or the weights are not finite.
        """
        config, device = self.config, self.engine.device
        self.folder.mkdir(parents=True, exist_ok=True)
        self.engine.init_trackers("board")
        world = load_data(config.data)  # in the processor's memory: batches are moved
        if config.objective == "teacher" and config.teacher != "exact":
            if config.network or config.width or config.layers:
                raise ValueError("network must be empty: the student begins as its teacher")
            model = checkpoints.load(config.teacher).to(device).requires_grad_(False).eval()
        else:
            model = new_student(config, world).to(device)
        data = told(config, world)
        first = {"denoiser": config.steps, "scratch": config.steps // 2}.get(
            config.objective, 0
        )
        if first:
            model = self.fit(model, data, partial(denoising, config), 0, first)
        if first < config.steps:  # from scratch as ctm.training.from_scratch does
            teacher = world.to(device) if config.teacher == "exact" else model
            make = partial(consistency, config, teacher)
            model = self.fit(model, data, make, first, config.steps)
        if self.engine.is_main_process:
            checkpoints.save(model, self.folder / "model.safetensors", **asdict(config))
        self.engine.end_training()
        return model

    def fit(
        self, model: CTM, data: Any, make: Callable[[], Objective], first: int, last: int
    ) -> CTM:
        """The average after steps ``first`` to ``last`` of a copy of ``model``, with an
        objective that ``make`` makes for each part. A state in the folder is taken up."""
        config, engine, steps = self.config, self.engine, last - first
        path = writable(self.folder / f"{'then' if first else 'first'}.safetensors")
        student = copy.deepcopy(model).requires_grad_(True).train()
        own = range(engine.process_index, self.parts, engine.num_processes)
        parts = [self.part(student, data, make(), steps, k) for k in own]
        for part in parts[1:]:  # one model, one optimiser
            part.models, part.optimizer = parts[0].models, parts[0].optimizer
        state = parts[0]
        run = state.identity() | {"steps": steps, "parts": self.parts}
        run |= {name: getattr(config, name) for name in ("seed", "batch", "precision")}
        if path.exists():
            tensors, held = read_run(path)
            check_same(held, run, path)
            for part, k in zip(parts, own, strict=True):
                part.load_state_dict(split(tensors, k), held.get("done", -1))
        loss_of = engine.prepare(PartLoss(student))
        watch = engine.is_main_process and state.done < steps
        log = (
            Log(self.folder / "log.jsonl", engine, config, first + state.done)
            if watch
            else None
        )
        total, since = torch.zeros((), device=engine.device), state.done
        while state.done < steps:
            state.optimizer.zero_grad()
            for part in parts:
                with engine.accumulate(loss_of):
                    loss = loss_of(part)
                    engine.backward(loss)
                total += loss.detach() / len(parts)
            state.update()
            done = state.done
            saves = done % config.save_every == 0 or done == steps
            if done % config.log_every == 0 or saves:
                mean = engine.reduce(total / (done - since), "mean").item()
                if log:
                    log.write(first + done, mean, state.optimizer.param_groups[0]["lr"])
                total, since = total.zero_(), done
            if saves:
                state.check()
                self.save(path, parts, own, run | {"done": done})
        return state.models.average.eval()  # as a teacher it drops nothing

    def part(
        self, student: CTM, data: Any, objective: Objective, steps: int, k: int
    ) -> State:
        """A part of every batch: its draws, and what its objective keeps."""
        config, seed = self.config, part_seed(self.config.seed, k)
        lr = config.lr or getattr(student.network, "lr", 8e-3)
        optimizer = partial(getattr(torch.optim, config.optimizer), lr=lr)
        return State(
            student,
            data,
            objective,
            steps,
            seed,
            batch=config.batch // self.parts,
            lr=lr,
            ema=config.ema,
            target_ema=config.target_ema,
            optimizer=None if config.optimizer == "Adam" else optimizer,
        )

    def save(self, path: Path, parts: list[State], own: range, run: dict[str, Any]) -> None:
        """Write the state of all processes to one file, whole."""
        mine: dict[str, Tensor] = {}
        for part, k in zip(parts, own, strict=True):
            tensors = part.state_dict()
            mine |= {f"part{k}.{n}": v.cpu() for n, v in tensors.items() if is_own(n)}
        pieces = [mine] * self.engine.num_processes  # to be filled by those of the others
        if self.own_memory:
            at_main = pieces if self.engine.is_main_process else None
            torch.distributed.gather_object(mine, at_main, group=self.own_memory)
        if self.engine.is_main_process:
            tensors = {n: v for n, v in parts[0].state_dict().items() if not is_own(n)}
            for piece in pieces:
                tensors |= piece
            run, facts = run | {"tensors": len(tensors)}, parts[0].models.student.config
            checkpoints.write(path, tensors, {"model": facts, "run": run})


def is_own(name: str) -> bool:
    """Whether a tensor of a state is a part's own: not the models', nor the optimiser's."""
    return name.startswith(("generator", "objective."))


def split(tensors: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Of a file's tensors, the state of part ``k``."""
    shared = {n: v for n, v in tensors.items() if not n.startswith("part")}
    start = f"part{k}."
    return shared | {
        n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line; see ``python -m ctm.training --help``."""
    parser = argparse.ArgumentParser(prog="python -m ctm.training", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="the run, a TOML file")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="change a key")
    parser.add_argument("--example", action="store_true", help="print a file of all keys")
    given = parser.parse_args(arguments)
    if given.example:
        print(Config.example())
        return
    if given.config is None:
        parser.error("--config FILE is needed; --example prints one")
    try:
        Launch(Config.read(given.config, given.set)).run()
    except (ImportError, OSError, TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
