"""How fast is it? Measured, stored with the machine's facts, and compared with what was stored before.

    python -m tools.bench                # all parts but the book
    python -m tools.bench step oracle    # some parts: step, start, sampling, oracle, scaling, book
    python -m tools.bench --keep         # store the figures in tools/bench.json

Ratios are taken in one run on one thread, the two sides in turn, each at its fastest: what else the machine does then
falls on both. Times are processor seconds of this thread, but for the cold starts and the book, which are wall seconds.
The curves of the part scaling are drawn in _build/bench.png.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import ctm
from ctm.losses import consistency_loss, draw_levels
from ctm.noise import karras_times
from ctm.oracle import integrate
from ctm.samplers import heun, noise, one_step
from ctm.training import State
from studies.samplers import judge

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).with_suffix(".json")
SLOWER = 1.3  # times a stored figure: what counts as a regression
LOADED = {"sliced_w1_over_floor"}  # qualities, not speeds: shown, never a regression

Figures = dict[str, float]


def machine() -> dict[str, Any]:
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def seconds(*calls: Callable[[], Any], repeats: int = 7, least: float = 0.05) -> list[float]:
    """Processor seconds of one call of each, the least of several turns; short calls are repeated within a turn."""
    times = []
    for call in calls:
        call()
        started = time.thread_time()
        call()
        times.append(max(1, math.ceil(least / max(1e-7, time.thread_time() - started))))
    best = [math.inf] * len(calls)
    for _ in range(repeats):
        for index, (call, count) in enumerate(zip(calls, times, strict=True)):
            started = time.thread_time()
            for _ in range(count):
                call()
            best[index] = min(best[index], (time.thread_time() - started) / count)
    return best


def step() -> Figures:
    """FLOP/s of a training step over those of the matrix product of its hidden layers' shape."""
    result = {}
    world = ctm.data.ring()
    for width, batch in ((128, 256), (256, 512)):
        student = ctm.CTM(ctm.networks.MLP(2, width=width), world.sigma_data)
        run = State(student, world, ctm.Consistency(world, pool=1024, reuse=10_000), 10_000, batch=batch)
        for _ in range(3):
            run.step()  # the pool is solved once, in the first
        with FlopCounterMode(display=False) as counter:
            run.step()
        a, b = torch.randn(batch, width), torch.randn(width, width)
        out = torch.empty(batch, width)
        ours, bare = seconds(run.step, lambda a=a, b=b, out=out: torch.mm(a, b, out=out), repeats=9, least=0.2)
        rate, peak = counter.get_total_flops() / ours, 2 * batch * width * width / bare
        name = f"width {width}, batch {batch}"
        result |= {f"{name}: share of the peak": rate / peak, f"{name}: ms a step": 1000 * ours}
        result[f"{name}: peak in GFLOP/s"] = peak / 1e9
    return result


START = """
import sys, ctm
from ctm.metrics import flow_map_error
from studies.first_light import train
teacher, first, steps, seed = sys.argv[1], *map(int, sys.argv[2:])
world = ctm.data.ring()
student = train(world, teacher, first, steps, seed)[0]
print(flow_map_error(student, world, n=10_000, seed=100 + seed))
"""


def python(code: str, *arguments: Any) -> str:
    """What a program prints in an interpreter of its own, on one thread."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def start() -> Figures:
    """Wall seconds from starting Python to a trained student on the ring, and the error of its one step; three seeds."""
    result = {}
    for teacher, first, steps in (("exact", 0, 2500), ("learned", 4000, 4500), ("none", 0, 8000)):
        walls, errors = [], []
        for seed in range(3):
            started = time.perf_counter()
            error = python(START, teacher, first, steps, seed)
            walls.append(time.perf_counter() - started)
            errors.append(float(error))
        result |= {f"{teacher}: seconds": float(np.median(walls)), f"{teacher}: error": float(np.median(errors))}
        result[f"{teacher}: largest error"] = max(errors)
    return result


def sampling() -> Figures:
    """One jump of a student against 18 Heun steps (35 calls) of the denoiser it was distilled from."""
    student, teacher = (
        ctm.load(ROOT / f"book/checkpoints/{name}.safetensors") for name in ("ring_learned", "ring_denoiser")
    )
    x = noise(student, 2000, (2,), generator=torch.Generator().manual_seed(0))
    times = karras_times(18, student)
    one, many = seconds(lambda: one_step(student, x), lambda: heun(teacher, x, times), repeats=5)
    result = {"one step is faster by": many / one, "one step: microseconds a sample": 1e6 * one / len(x)}
    for name, sampler in (
        ("one step", lambda x, _: one_step(student, x)),
        ("18 Heun steps", lambda x, _: heun(teacher, x, times)),
    ):
        result[f"{name}: sliced_w1_over_floor"] = judge(sampler, "ring", 4, 0)["w1"]
    return result


ROWS = (
    64  # of a chunk: with 2,000 components 1 MB, as in the package; larger tables are fetched from the system anew each time
)


MEMORY = """
import re, sys
from tools.bench import big, torch
def highest():  # of this process, in MB; rusage would count what its parent held
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
world = big(int(sys.argv[1]))
x = world.sample(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
open("/proc/self/clear_refs", "w").write("5")  # from here on the peak of the calls alone, not of drawing the samples
before = highest()
world.denoiser(x, 0.5)
world.G(10 * x[:1000], 10.0, 0.0)
print(highest() - before)
"""


def big(dim: int, components: int = 2000) -> ctm.GaussianMixture:
    means = 0.5 * torch.randn(components, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ctm.GaussianMixture(means, 0.1)


def oracle() -> Figures:
    """The exact denoiser and flow map of a mixture of 2,000 against the same sums written bare, and their memory."""
    result = {}
    for dim in (2, 64):
        world = big(dim)
        mu, squared = world.means, world.means.square().sum(1)
        x = world.sample(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

        def products(x: torch.Tensor = x, mu: torch.Tensor = mu, squared: torch.Tensor = squared) -> None:
            for part in x.split(ROWS):
                torch.mm(torch.addmm(squared, part, mu.T, alpha=-2), mu)

        def sums(x: torch.Tensor = x, mu: torch.Tensor = mu, squared: torch.Tensor = squared) -> None:
            for part in x.split(ROWS):
                torch.mm((torch.addmm(squared, part, mu.T, alpha=-2) * (-0.5 / (0.1**2 + 0.5**2))).softmax(1), mu)

        ours, bare, bare_sums = seconds(lambda w=world, x=x: w.denoiser(x, 0.5), products, sums, repeats=3)
        name = f"{dim}-D: 100,000 denoiser calls"
        result |= {f"{name}, over the bare sums": ours / bare_sums, f"{name}, over the matrix products alone": ours / bare}
        result |= {f"{name}: seconds": ours}
        evaluated = 0

        def velocity(y: torch.Tensor, u: torch.Tensor, world: ctm.GaussianMixture = world) -> torch.Tensor:
            nonlocal evaluated
            evaluated += len(y)
            return world.velocity(y, u)

        n = 10_000 if dim == 2 else 1000
        top = world.sigma_max * torch.randn(n, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        ends = torch.full((n, 1), world.sigma_max, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)
        started = time.thread_time()
        points = integrate(velocity, top, *ends, 0.1, 1e-6 * world.sigma_data)
        spent = time.thread_time() - started
        assert bool(torch.isfinite(points).all())
        name = f"{dim}-D: {n:,} exact trajectories to 1e-6"
        result |= {f"{name}: seconds": spent, f"{name}: calls each": evaluated / n}
        result[f"{name}, over the bare sums"] = spent / (bare_sums / len(x) * evaluated)
        result[f"{dim}-D: memory added by the calls and by 1,000 trajectories, MB"] = float(python(MEMORY, dim))
    return result


def scaling() -> Figures:
    """Seconds against size, and the slope between the two largest sizes on double logarithmic axes: 1 is linear."""
    x2 = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoiser(components: int, dim: int) -> Callable[[], Any]:
        world = big(dim, components)
        x = x2 if dim == 2 else torch.randn(2000, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return lambda: world.denoiser(x, 0.5)

    def batch(size: int) -> Callable[[], Any]:
        world = ctm.data.ring()
        student = ctm.CTM(ctm.networks.MLP(2), world.sigma_data)
        objective = ctm.Consistency(world, reuse=10_000)
        run = State(student, world, objective, 10_000)
        objective(run.models, run.draw, run.rng)  # solves the pool
        levels = draw_levels(size, 96, "global", 0.4, 0.5, run.rng)
        pairs = objective.trajectories.pairs(levels, run.rng)
        return lambda: consistency_loss(student, student, pairs, "s").backward()

    def steps(count: int) -> Callable[[], Any]:
        world = ctm.data.ring()

        def call() -> None:
            student = ctm.CTM(ctm.networks.MLP(2, width=32), 0.5)
            ctm.train(student, world, ctm.Consistency(world, pool=64, reuse=10_000), count, batch=64)

        return call

    curves = {
        "components": ([250, 500, 1000, 2000, 4000], lambda n: denoiser(n, 2)),
        "dimension": ([16, 32, 64, 128, 256], lambda n: denoiser(500, n)),
        "batch": ([128, 256, 512, 1024, 2048], batch),
        "steps": ([50, 100, 200, 400], steps),
    }
    result: Figures = {}
    figure, axes = plt.subplots(1, len(curves), figsize=(3 * len(curves), 3))
    for ax, (name, (sizes, make)) in zip(axes, curves.items(), strict=True):
        spent = seconds(*(make(size) for size in sizes), repeats=3)
        result |= {f"{name} {size}: seconds": value for size, value in zip(sizes, spent, strict=True)}
        result[f"{name}: slope at the top"] = math.log(spent[-1] / spent[-2]) / math.log(sizes[-1] / sizes[-2])
        ax.loglog(sizes, spent, "ko-")
        ax.loglog(sizes, [spent[-1] * size / sizes[-1] for size in sizes], "k:", lw=1)  # linear
        ax.set(xlabel=name, ylabel="processor seconds")
    figure.tight_layout()
    (ROOT / "_build").mkdir(exist_ok=True)
    figure.savefig(ROOT / "_build/bench.png", dpi=110)
    return result


def book() -> Figures:
    """Wall seconds of all notebooks against their stored outputs, two workers, and of a clean build of the HTML."""
    result = {}
    for name, command in (
        ("notebooks", ["make", "notebooks"]),
        (
            "clean build",
            [f"{Path(sys.executable).parent}/jupyter-book", "build", ".", "-W", "-n", "--keep-going", "--all", "-q"],
        ),
    ):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        result[f"{name}: seconds"] = time.perf_counter() - started
    return result


PARTS = {part.__name__: part for part in (step, start, sampling, oracle, scaling, book)}


def better_when_large(name: str) -> bool:
    return any(word in name for word in ("share of the peak", "peak in", "faster by"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all but book")
    parser.add_argument("--keep", action="store_true", help="store the figures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    worse = 0
    for part in asked.parts or [name for name in PARTS if name != "book"]:
        before = stored.get(part, {}).get("figures", {})
        now = {name: float(f"{value:.4g}") for name, value in PARTS[part]().items()}
        print(f"\n{part}: {PARTS[part].__doc__.splitlines()[0]}")
        for name, value in now.items():
            old = before.get(name)
            change = value / old if old else 1.0
            slower = 1 / change if better_when_large(name) else change
            by_chance = name.endswith("MB") and value < (old or 0.0) + 50  # the allocator's mood
            bad = slower > SLOWER and not by_chance and not any(word in name for word in LOADED)
            worse += bad
            print(f"  {name:66} {value:10.4g}" + (f"  stored {old:.4g}{'  WORSE' if bad else ''}" if old else ""))
        stored[part] = {"command": f"python -m tools.bench {part} --keep", "machine": machine(), "figures": now}
        if asked.keep:
            STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    if worse:
        sys.exit(f"{worse} figures are more than {SLOWER} times worse than stored in {STORED.name}")


if __name__ == "__main__":
    main()
