"""nano_ctm.py as it is, and with each change of one line that its page suggests: what it prints, draws and reaches.

    python -m studies.nano

One run of each, with the file's own seed, on one thread: about five minutes on one core. The results are in
studies/nano.json, the pictures of the page in book/_static. Every run is measured anew.
"""

import contextlib
import io
import time
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
    "local": ("u = s  #", "u = t + 1  #"),
    "without the factor": ("s / t * x + (1 - s / t) * g", "s / t * x + g"),
    "without the division": ("- target) / (c_out(t) * (1 - s / t))).square", "- target)).square"),
}
POINTS, DRAWS, SHOWN = 20_000, 8, 600
GREY, ORANGE = "#555555", "#D55E00"


def nano(change: tuple[str, str] | None = None) -> ModuleType:
    """The file as a module, one place of its text replaced."""
    if change and SOURCE.count(change[0]) != 1:
        raise ValueError(f"nano_ctm.py must have {change[0]!r} once, got {SOURCE.count(change[0])}")
    module = ModuleType("nano_ctm")
    exec(compile(SOURCE.replace(*change) if change else SOURCE, "nano_ctm.py", "exec"), module.__dict__)
    return module


def one_call(file: ModuleType, model: torch.nn.Module, n: int, rng: torch.Generator) -> torch.Tensor:
    """Samples of one jump, as the file makes them."""
    ends = (torch.full((n, 1), level) for level in (file.SIGMA_MAX, file.SIGMA_MIN))
    with torch.no_grad():
        return file.G(model, file.SIGMA_MAX * torch.randn(n, 2, generator=rng), *ends)


def measure(change: tuple[str, str] | None, **settings: int) -> tuple[dict[str, Any], torch.Tensor]:
    """Figures of one run, and some of its samples. The ``settings`` are those of the file's ``train``."""
    file, printed, started = nano(change), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(printed):
        model = file.train(file.moons, **settings)
    seconds = time.process_time() - started
    world = SimpleNamespace(sample=lambda n, generator: file.moons(n, generator))
    ratio = ratio_to_floor(lambda n, rng: one_call(file, model, n, rng), world, n=POINTS, draws=DRAWS)
    samples = one_call(file, model, POINTS, torch.Generator().manual_seed(1))
    row = {
        "printed": printed.getvalue().splitlines(),
        "ratio": round(ratio.mean, 3),
        "interval": [round(ratio.low, 3), round(ratio.high, 3)],
        "spread": round(samples.std().item(), 4),
        "processor_seconds": round(seconds, 1),
    }
    return row, samples[:SHOWN]


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
    rows, shown = Rows(), {}
    for name, change in CHANGES.items():
        row, shown[name] = measure(change)
        rows.append({"variant": name, **row})
        keep(RESULTS, rows)
        print(rows[-1], flush=True)
    rows += [{"variant": "untrained", "scale": scale, "loss": round(first_loss(scale), 4)} for scale in (0.25, 1, 4)]
    keep(RESULTS, rows)
    data = nano().moons(SHOWN, torch.Generator().manual_seed(1))
    first, *changed = shown.values()
    nano().draw(PICTURES / "nano_ctm.svg", (data, GREY), (first, ORANGE))
    nano().draw(PICTURES / "nano_changed.svg", *((points / 2, ORANGE) for points in changed))


if __name__ == "__main__":
    main()
