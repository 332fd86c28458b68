"""nano_ctm.py as it is, and with each change of one line that its page suggests: what it prints, draws and reaches.

    python -m studies.nano

On one thread, 10 to 20 minutes on one core. The file as it is has five seeds, its own first; each change is run once, with
the file's own seed. The first half of the training is the same for every change and is trained once. The results are in
studies/nano.json, the pictures of the page in book/_static. Every run is measured anew.
"""

import contextlib
import io
import math
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from ctm.metrics import ratio_to_floor
from studies.harness import Rows, keep

RESULTS = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "book/_static"
SOURCE = (ROOT / "nano_ctm.py").read_text(encoding="utf-8")
# What a line of the file has, and what stands there instead.
CHANGES = {
    "as it is": None,
    "local": ("ui = si  #", "ui = ti + 1  #"),
    "without the factor": ("s / t * x + (1 - s / t) * g", "s / t * x + g"),
    "without the division": ("- target) / (c_out(t) * (1 - s / t))).square", "- target)).square"),
}
SEEDS = (0, 1, 2, 3, 4)  # the file's own first
POINTS, DRAWS, SHOWN, BATCHES, MIDDLE = 20_000, 8, 600, 100, 0.5
ENDS = 2000  # ends of jumps, and of small steps, in one draw
PACKAGE_POINTS = 50_000  # as studies/joint.py judges the package
GREY, ORANGE = "#555555", "#D55E00"


def nano(change: tuple[str, str] | None = None) -> ModuleType:
    """The file as a module, one place of its text replaced."""
    if change and SOURCE.count(change[0]) != 1:
        raise ValueError(f"nano_ctm.py must have {change[0]!r} once, got {SOURCE.count(change[0])}")
    module = ModuleType("nano_ctm")
    exec(compile(SOURCE.replace(*change) if change else SOURCE, "nano_ctm.py", "exec"), module.__dict__)
    return module


def jump(file: ModuleType, model: torch.nn.Module, x: torch.Tensor, t: float, s: float) -> torch.Tensor:
    """One call: from the level t to s."""
    with torch.no_grad():
        return file.G(model, x, *(torch.full((len(x), 1), level) for level in (t, s)))


def one_call(file: ModuleType, model: torch.nn.Module, n: int, rng: torch.Generator) -> torch.Tensor:
    """Samples of one jump, as the file makes them."""
    return jump(file, model, file.SIGMA_MAX * torch.randn(n, 2, generator=rng), file.SIGMA_MAX, file.SIGMA_MIN)


def two_calls(file: ModuleType, model: torch.nn.Module, n: int, rng: torch.Generator, fresh: bool) -> torch.Tensor:
    """Samples of two jumps, by way of the level MIDDLE: along the curve, or down to the data and up with fresh noise."""
    x = file.SIGMA_MAX * torch.randn(n, 2, generator=rng)
    x = jump(file, model, x, file.SIGMA_MAX, file.SIGMA_MIN if fresh else MIDDLE)
    if fresh:
        x = x + math.sqrt(MIDDLE**2 - file.SIGMA_MIN**2) * torch.randn(n, 2, generator=rng)
    return jump(file, model, x, MIDDLE, file.SIGMA_MIN)


def walked(file: ModuleType, teacher: torch.nn.Module, n: int, rng: torch.Generator) -> torch.Tensor:
    """The ends of the teacher's own trajectories from pure noise, over the grid that the student learned from."""
    return file.trajectories(teacher, file.SIGMA_MAX * torch.randn(n, 2, generator=rng), file.grid(96))[:, -1]


def apart(file: ModuleType, model: torch.nn.Module, teacher: torch.nn.Module, draws: int = 3) -> dict[str, list[float]]:
    """How far a jump from noise ends from where the teacher's small steps end, and the model's own; of the data's spread.

    "walks": how far these two ends are from each other.
    """
    found: dict[str, list[float]] = {"teacher": [], "own": [], "walks": []}
    for seed in range(draws):
        end, far, own = (  # from the same noise
            sampler(file, net, ENDS, torch.Generator().manual_seed(seed))
            for sampler, net in ((one_call, model), (walked, teacher), (walked, model))
        )
        for name, missed in (("teacher", end - far), ("own", end - own), ("walks", far - own)):
            found[name].append(round(missed.square().mean().sqrt().item() / file.SIGMA_DATA, 4))
    return found


class Watched:
    """The file's ``run``, which keeps what it learned and then splits the loss of the jumps into its two parts.

    A ``half`` is a teacher that is already trained, with what its training printed: then only the draws of the first half
    are made again, so that the second half has the same ones.
    """

    def __init__(self, file: ModuleType, half: tuple[torch.nn.Module, str] | None = None):
        self.learn, self.consistency, self.alone = file.run, file.consistency_loss, []
        self.half, self.printed, self.parts = half, half[1] if half else "", {}
        self.teacher: torch.nn.Module | None = None
        file.run, file.consistency_loss = self, self.noted

    def noted(self, *pair: Any) -> torch.Tensor:
        """The file's loss, and a note of its value."""
        value = self.consistency(*pair)
        self.alone.append(value.item())
        return value

    def __call__(self, net: torch.nn.Module, loss: Callable[[Any, int], torch.Tensor], steps: int) -> torch.nn.Module:
        if self.teacher is not None:  # the second half
            before = deepcopy(net)
            after, told = printed(self.learn, net, loss, steps)
            self.parts = {"before": self.split(before, loss), "after": self.split(after, loss)}
            self.printed += told
            return after
        if self.half:
            self.teacher = self.half[0]
            for step in range(steps):
                loss(lambda x, t, s: x, step)
        else:
            self.teacher, self.printed = printed(self.learn, net, loss, steps)
        return self.teacher

    def split(self, model: torch.nn.Module, loss: Callable[[Any, int], torch.Tensor]) -> list[float]:
        """The mean consistency loss of ``model``, and the tenth of the denoising loss that is added to it."""
        self.alone = []
        with torch.no_grad():
            whole = sum(loss(model, 1).item() for _ in range(BATCHES)) / BATCHES
        alone = sum(self.alone) / BATCHES
        return [round(alone, 5), round(whole - alone, 5)]


def printed(job: Callable[..., Any], *given: Any) -> tuple[Any, str]:
    """What a job returns and what it prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        found = job(*given)
    return found, told.getvalue()


def measure(
    change: tuple[str, str] | None,
    half: tuple[torch.nn.Module, str] | None = None,
    more: bool = False,
    seed: int = 0,
    **settings: int,
) -> tuple[dict[str, Any], torch.Tensor, tuple[torch.nn.Module, str]]:
    """Figures of one run, some of its samples, and its first half. ``more``: the teacher and two calls are judged too.

    The ``seed`` and the ``settings`` are those of the file's ``train``. The draws that judge a model are the same for every
    seed, but for those of "as the package".
    """
    file, started = nano(change), time.process_time()
    watched = Watched(file, half)
    model = file.train(file.moons, seed=seed, **settings)
    seconds = time.process_time() - started
    world = SimpleNamespace(sample=lambda n, generator: file.moons(n, generator))

    def ratio(sampler: Callable[..., torch.Tensor], *given: Any, **judged: int) -> list[float]:
        judged = {"n": POINTS, "draws": DRAWS} | judged
        found = ratio_to_floor(lambda n, rng: sampler(file, given[0], n, rng, *given[1:]), world, **judged)
        return [round(value, 3) for value in (found.mean, found.low, found.high)]

    mean, *interval = ratio(one_call, model)
    samples = one_call(file, model, POINTS, torch.Generator().manual_seed(1))
    lines = watched.printed.splitlines()
    row: dict[str, Any] = {
        "printed": lines,
        "parts": watched.parts,
        "ratio": mean,
        "interval": interval,
        "spread": round(samples.std().item(), 4),
        "processor_seconds": round(seconds, 1),
    }
    if more:
        row["teacher"] = ratio(walked, watched.teacher)
        row["two calls"] = ratio(two_calls, model, False)
        row["two calls, fresh noise"] = ratio(two_calls, model, True)
        row["as the package"] = ratio(one_call, model, n=PACKAGE_POINTS, seed=200 + seed)
        row["apart"] = apart(file, model, watched.teacher)
    first = "".join(f"{line}\n" for line in lines[: len(lines) // 2])
    return row, samples[:SHOWN], (watched.teacher, first)


def name_panels(path: Path, names: list[str]) -> None:
    """Write a name over each set of points of a picture that the file drew."""
    words = "".join(
        f'<text x="{200 * i + 100}" y="14" font-family="sans-serif" font-size="12" text-anchor="middle">{name}</text>'
        for i, name in enumerate(names)
    )
    path.write_text(path.read_text(encoding="utf-8").replace("</svg>", f"{words}</svg>"), encoding="utf-8")


def first_loss(scale: float) -> float:
    """The denoising loss before any training, if the data are ``scale`` times as wide."""
    file, rng = nano(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    t = (2 * file.SIGMA_DATA * (torch.randn(POINTS, 1, generator=rng) - 1.2).exp()).clamp(file.SIGMA_MIN, file.SIGMA_MAX)
    with torch.no_grad():
        return file.denoising_loss(
            file.MLP(), scale * file.moons(POINTS, rng), torch.randn(POINTS, 2, generator=rng), t
        ).item()


def main() -> None:
    torch.set_num_threads(1)
    rows, shown, half = Rows(), {}, None
    for name, change in CHANGES.items():
        row, shown[name], half = measure(change, half, more=change is None, seed=SEEDS[0])
        rows.append({"variant": name, "seed": SEEDS[0], **row})
        keep(RESULTS, rows)
        print(rows[-1], flush=True)
    for seed in SEEDS[1:]:
        rows.append({"variant": "as it is", "seed": seed, **measure(None, more=True, seed=seed)[0]})
        keep(RESULTS, rows)
        print(rows[-1], flush=True)
    rows += [{"variant": "untrained", "scale": scale, "loss": round(first_loss(scale), 4)} for scale in (0.25, 1, 4)]
    keep(RESULTS, rows)
    data = nano().moons(SHOWN, torch.Generator().manual_seed(1))
    first, *changed = shown.values()
    nano().draw(PICTURES / "nano_ctm.svg", (data, GREY), (first, ORANGE))
    local, factor, division = changed
    path = PICTURES / "nano_changed.svg"
    nano().draw(path, *((points, ORANGE) for points in (first, local, factor / 3, division)))
    name_panels(path, ["as it is", "1. local", "2. no factor (at a third)", "3. no division"])


if __name__ == "__main__":
    main()
