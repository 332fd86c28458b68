"""Training, jumps, data and import against fixed marks, and against the version before the training loop was rebuilt.

    python -m studies.joint                 # all parts
    python -m studies.joint loop imports    # some: loop, jump, plane, sixteen, points, imports

loop: weights after 300 steps and steps a second, the old loop (commit 2a0be88, taken out of git) and the new one in turn.
jump: G on 256 points, checks included, over the bare network and its scalings. plane: one call on the ring and the moons,
with an exact teacher, a learned one and none. sixteen: a mixture in 16 dimensions from samples alone. points: a table of
5,000 rows whose columns are of unlike scale and far from 0, and the same table as it was. imports: cold starts.

Models are what `CTM.for_data` makes of the data; three seeds. One thread, about an hour on an idle machine; rows are kept in
studies/joint.json as they come. The numbers of steps are fixed, to about 60, 120 and 90 processor seconds.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.metrics import flow_map_error, ratio_to_floor
from ctm.models import c_in, c_noise, c_out, c_skip
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling, noise, one_step
from studies import regimes
from studies.harness import load, run, run_parts, spread

RESULTS = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).parents[1]
OLD = "2a0be88"  # the last commit before the loop was rebuilt
SEEDS = (0, 1, 2)
ALTERNATIONS = 9
COMPARED = 300  # steps after which weights are compared
BLOCK = 614  # steps timed at once: as many as one pool of trajectories serves, so that each block solves one
# updates in all, for 60 processor seconds; half of them for the learned teacher's or the model's own denoiser
PLANE = {
    ("ring", "exact"): 13_500,
    ("ring", "learned"): 8_500,
    ("ring", "none"): 8_000,
    ("two_moons", "exact"): 8_000,
    ("two_moons", "learned"): 8_500,
    ("two_moons", "none"): 8_000,
}
SIXTEEN = 16_000  # for 120 processor seconds
TABLE = 8_000  # for 90 processor seconds
ROWS = 5_000
LOSSES = ("distilled", "distilled_and_denoised", "denoised")

WORKER = """
import sys, time
import torch
import ctm

def run(loss, steps):  # a training run on the ring, by the loop of the version that is imported
    world = ctm.data.ring()
    student = ctm.CTM(ctm.networks.MLP(2, gain=8.0, seed=0), world.sigma_data)
    if hasattr(ctm, "Recipe"):
        from ctm.run import Run
        both = ctm.Recipe(dsm=0.1, references=1024)
        recipe = {"distilled": ctm.Recipe(), "distilled_and_denoised": both, "denoised": ctm.DENOISER}[loss]
        return Run(student, world, world, steps, 0, recipe)
    jumps, denoising = ctm.Consistency(world), ctm.Denoising(times=ctm.noise.rho_times)
    terms = {"distilled": jumps, "distilled_and_denoised": jumps + 0.1 * denoising, "denoised": denoising}
    return ctm.training.State(student, world, terms[loss], steps)

torch.set_num_threads(1)
timed = run("distilled", 1_000_000)
print(ctm.__file__, flush=True)
for line in sys.stdin:
    command, steps, *loss = line.split()
    state = timed if command == "time" else run(*loss, int(steps))
    started = time.process_time()
    for _ in range(int(steps)):
        state.step()
    spent = time.process_time() - started
    if command == "train":
        average = state.average if hasattr(state, "average") else state.models.average
        torch.save([part.detach() for part in average.parameters()], loss[0] + ".pt")
    print(spent, flush=True)
"""


class Worker:
    """One version of the package in a process of its own, on one thread, which trains when asked."""

    def __init__(self, version: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(version), "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", WORKER], cwd=folder, env=environment, **pipes)
        imported = self._answer()
        if Path(imported).parents[1] != version:
            raise RuntimeError(f"ctm must come from {version}, got {imported}")

    def ask(self, command: str, steps: int, loss: str = "") -> float:
        """Processor seconds of ``steps`` steps."""
        print(command, steps, loss, file=self.process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def both_versions() -> Iterator[tuple[Worker, Worker]]:
    """The old version and this one, side by side."""
    with tempfile.TemporaryDirectory() as name:
        old = Path(name).resolve() / "old"
        old.mkdir()
        archive = subprocess.run(["git", "archive", OLD, "ctm"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(old)], input=archive, check=True)
        workers = [Worker(version, old.parent / name) for version, name in ((old, "by_old"), (ROOT.resolve(), "by_new"))]
        try:
            yield workers[0], workers[1]
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.wait()


def measure_weights(loss: str, steps: int) -> dict[str, Any]:
    """The averaged weights after ``steps`` steps of both loops: are they equal, and by how much do they differ?"""
    with both_versions() as workers:
        for worker in workers:
            worker.ask("train", steps, loss)
        old, new = (torch.load(worker.folder / f"{loss}.pt") for worker in workers)
    return {
        "equal": all(torch.equal(a, b) for a, b in zip(old, new, strict=True)),
        "largest_difference": max(float((a - b).abs().max()) for a, b in zip(old, new, strict=True)),
    }


def measure_speed(alternations: int, steps: int) -> dict[str, Any]:
    """Steps a second of both loops, with the defaults and the ring's exact teacher."""
    rates: list[list[float]] = [[], []]
    with both_versions() as workers:
        for _ in range(alternations + 1):  # the first of each warms up
            for worker, rate in zip(workers, rates, strict=True):
                rate.append(steps / worker.ask("time", steps))
    old, new = (rate[1:] for rate in rates)
    return {
        "old": round(spread(old)[0], 1),
        "new": round(spread(new)[0], 1),
        "ratio": round(spread(b / a for a, b in zip(old, new, strict=True))[0], 3),
    }


def measure_jump(times: str, alternations: int, calls: int = 200) -> dict[str, Any]:
    """Microseconds of ``G``, and of the same jump written bare: no check, times that are columns already."""
    world = ctm.data.ring()
    model = ctm.CTM.for_data(world).requires_grad_(False)
    x = world.sigma_max * torch.randn((256, 2), generator=torch.Generator().manual_seed(0))
    t, s = (torch.full((256, 1), level) for level in (world.sigma_max, world.sigma_min))
    told: Any = (world.sigma_max, world.sigma_min) if times == "numbers" else (t[:, 0], s[:, 0])

    def bare(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        output = model.network(c_in(t, model.sigma_data) * x, c_noise(t)[:, 0], c_noise(s)[:, 0])
        g = c_skip(t, model.sigma_data) * x + c_out(t, model.sigma_data) * output
        return s / t * x + (1 - s / t) * g

    sides: tuple[Callable[[], Tensor], ...] = (lambda: model.G(x, *told), lambda: bare(x, t, s))
    spent: list[list[float]] = [[], []]
    with torch.no_grad():
        apart = float((sides[0]() - sides[1]()).abs().max())
        for _ in range(alternations + 1):
            for side, seconds in zip(sides, spent, strict=True):
                started = time.process_time()
                for _ in range(calls):
                    side()
                seconds.append((time.process_time() - started) / calls)
    whole, alone = (seconds[1:] for seconds in spent)
    return {
        "whole": round(1e6 * spread(whole)[0], 1),
        "bare": round(1e6 * spread(alone)[0], 1),
        "ratio": round(spread(a / b for a, b in zip(whole, alone, strict=True))[0], 3),
        "apart": apart,
    }


def ratio(model: ctm.CTM, world: ctm.GaussianMixture, calls: int, n: int, seed: int) -> float:
    """Sliced W2 of the samples in ``calls`` calls over its noise floor, the mean of eight draws."""
    times = karras_times(calls, model)

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        x = noise(model, n, world.shape, generator=generator)
        return gamma_sampling(model, x, times) if calls > 1 else one_step(model, x)

    return round(ratio_to_floor(sampler, world, n=n, draws=8, seed=200 + seed).mean, 3)


def measure_plane(world: str, regime: str, steps: int, seed: int, points: int = 50_000) -> dict[str, Any]:
    truth = ctm.data.WORLDS[world]()
    started = time.process_time()
    student = ctm.CTM.for_data(truth, seed=seed)
    if regime == "none":
        ctm.train(student, truth, steps=steps, seed=seed)
    else:
        regimes.train(student, truth, regime, steps, seed, term=ctm.Denoising())
    seconds = time.process_time() - started
    return {
        "error": round(flow_map_error(student, truth, n=10_000, seed=100 + seed), 5),
        "ratio": ratio(student, truth, 1, points, seed),
        "seconds": round(seconds, 1),
    }


class SamplesAlone:
    """A world of which nothing is known but its samples."""

    def __init__(self, world: ctm.GaussianMixture) -> None:
        self.sample = world.sample


def measure_sixteen(world: str, steps: int, seed: int, points: int = 20_000) -> dict[str, Any]:
    truth = ctm.data.WORLDS[world]()
    data = SamplesAlone(truth)
    started = time.process_time()
    student = ctm.CTM.for_data(data, seed=seed)
    ctm.train(student, data, steps=steps, seed=seed)
    seconds = time.process_time() - started
    return {
        "error": round(flow_map_error(student, truth), 5),
        "ratio_1": ratio(student, truth, 1, points, seed),
        "ratio_2": ratio(student, truth, 2, points, seed),
        "seconds": round(seconds, 1),
    }


class Rescaled:
    """Points of a world with each column scaled and shifted by much, in float64."""

    def __init__(self, world: ctm.GaussianMixture, unlike: bool, seed: int) -> None:
        columns, rng = world.means.shape[1], torch.Generator().manual_seed(1000 + seed)
        self.world, self.scale, self.shift = world, torch.ones(columns), torch.zeros(columns)
        if unlike:
            powers = torch.linspace(-3, 3, columns, dtype=torch.float64)[torch.randperm(columns, generator=rng)]
            self.scale = 10**powers
            self.shift = 1e6 * (2 * torch.rand(columns, generator=rng, dtype=torch.float64) - 1)
            self.shift[0] = 1e6

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.shift + self.scale * self.world.sample(n, generator=generator, dtype=torch.float64)


class Fresh:
    """New points of a world as a table standardises them: what its model's samples should be like."""

    def __init__(self, world: Rescaled, table: ctm.data.Points) -> None:
        self.world, self.table = world, table

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.table.standardise(self.world.sample(n, generator=generator))


def measure_points(columns: str, steps: int, seed: int, points: int = ROWS) -> dict[str, Any]:
    """One call of a model of 5,000 rows against as many new ones, in units of the table's own spread.

    ``same_rows`` is the like ratio of the rows themselves, which a model that only repeats them would have.
    """
    world = Rescaled(ctm.data.clusters(), columns == "unlike", seed)
    rows = world.sample(ROWS, generator=torch.Generator().manual_seed(seed))
    table = ctm.data.Points(rows.numpy())
    started = time.process_time()
    student = ctm.CTM.for_data(table, seed=seed)
    ctm.train(student, table, steps=steps, seed=seed)
    seconds = time.process_time() - started

    def sampler(n: int, generator: torch.Generator) -> Tensor:
        draw = int(torch.randint(2**31, (), generator=generator))
        return table.standardise(ctm.sample(student, n, seed=draw))

    judged = {"world": Fresh(world, table), "n": points, "draws": 8, "seed": 200 + seed}
    return {
        "ratio": round(ratio_to_floor(sampler, **judged).mean, 3),
        "same_rows": round(ratio_to_floor(lambda n, g: table.standardise(rows)[:n], **judged).mean, 3),
        "seconds": round(seconds, 1),
    }


def measure_imports(alternations: int) -> dict[str, Any]:
    """Wall and processor seconds of a cold start with each import, in turn."""
    spent: dict[str, list[tuple[float, float]]] = {"torch": [], "ctm": []}
    for _ in range(alternations + 1):  # the first reads files that later ones find in memory
        for module, values in spent.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            values.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    row = {f"{module}_seconds": round(spread(wall for wall, _ in values[1:])[0], 3) for module, values in spent.items()}
    pairs = list(zip(spent["torch"][1:], spent["ctm"][1:], strict=True))
    row["ratio"] = round(spread(ours[0] / bare[0] for bare, ours in pairs)[0], 3)
    return row | {"processor_ratio": round(spread(ours[1] / bare[1] for bare, ours in pairs)[0], 3)}


def loop() -> None:
    run(RESULTS, [{"loss": loss, "steps": COMPARED} for loss in LOSSES], measure_weights)
    run(RESULTS, [{"alternations": ALTERNATIONS, "steps": BLOCK}], measure_speed)


def jump() -> None:
    jobs = [{"times": times, "alternations": ALTERNATIONS} for times in ("numbers", "one a point")]
    run(RESULTS, jobs, measure_jump)


def plane() -> None:
    cells = [{"world": world, "regime": regime, "steps": steps} for (world, regime), steps in PLANE.items()]
    run(RESULTS, [cell | {"seed": seed} for seed in SEEDS for cell in cells], measure_plane)


def sixteen() -> None:
    run(RESULTS, [{"world": "clusters", "steps": SIXTEEN, "seed": seed} for seed in SEEDS], measure_sixteen)


def points() -> None:
    jobs = [{"columns": kind, "steps": TABLE, "seed": seed} for seed in SEEDS for kind in ("alike", "unlike")]
    run(RESULTS, jobs, measure_points)


def imports() -> None:
    run(
        RESULTS,
        [{"part": "imports", "alternations": ALTERNATIONS}],
        lambda part, alternations: measure_imports(alternations),
    )


PARTS = {part.__name__: part for part in (loop, jump, plane, sixteen, points, imports)}


def summary() -> None:
    """Each setting with the medians of its figures over the seeds."""
    settings = ("loss", "times", "world", "regime", "columns", "part", "alternations", "steps")
    rows = load("joint")
    named = [tuple((key, row[key]) for key in settings if key in row) for row in rows]
    for name in dict.fromkeys(named):
        found = [row for row, other in zip(rows, named, strict=True) if other == name]
        figures = [key for key in found[0] if key not in (*settings, "seed")]
        medians = {key: spread(row[key] for row in found)[0] for key in figures}
        print(*(f"{value}" for _, value in name), "|", ", ".join(f"{key} {value:g}" for key, value in medians.items()))


def main() -> None:
    run_parts(PARTS)
    summary()


if __name__ == "__main__":
    main()
