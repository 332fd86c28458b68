"""What the live figures of the book compute with, written where a page can load it: worlds and weights as plain scripts.

A page read from a file may load scripts but no data, so each world and each stored model becomes a script that adds to one
global. As an extension of Sphinx this writes them into the built book, and loads the scripts of a figure on its page only.
"""

import base64
import functools
import json
import re
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import relative_error
from ctm.noise import karras_times
from ctm.samplers import gamma_sampling

STATIC = Path(__file__).parents[1] / "_static"
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
MATHEMATICS = ["live-world", "live-network", "live-sampler", "live-distance"]
SHARED = [*MATHEMATICS, "live-draw"]
MAPPED = ("ring_small", "ring_small_quick", "ring_cm")  # models of the ring whose errors are drawn over all pairs of times


def world_script(name: str) -> str:
    """A script that adds the world ``name`` of :mod:`ctm.data` to the global ``ctmData``."""
    world = ctm.data.WORLDS[name]()
    facts = {key: getattr(world, key).tolist() for key in ("means", "stds", "weights")}
    facts |= {key: getattr(world, key) for key in ("sigma_data", "sigma_min", "sigma_max")}
    return _script("worlds", name, facts)


def model_script(path: Path) -> str:
    """A script that adds the stored model to ``ctmData``: its sizes, and all its weights as float32 in base64."""
    model = ctm.load(path)
    layers = [layer for layer in model.network.body if isinstance(layer, torch.nn.Linear)]
    tensors = [model.network.frequencies, *(part for layer in layers for part in (layer.weight, layer.bias))]
    numbers = torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy().astype("<f4")
    facts = {**model.network.config, **{key: getattr(model, key) for key in ("sigma_data", "sigma_min", "sigma_max")}}
    return _script("models", path.stem, {**facts, "weights": base64.b64encode(numbers.tobytes()).decode()})


@functools.cache
def exact_points(steps: int, n: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The levels, the points of ``n`` trajectories of the ring at each of them, and its spread."""
    world = ctm.data.ring()
    times = karras_times(steps, world)
    start = ctm.samplers.noise(world, n, generator=torch.Generator().manual_seed(0)).double()
    return times, gamma_sampling(world, start, times, path=True), world.sigma_data


def errors_script(name: str, steps: int = 20, n: int = 500) -> str:
    """A script that adds the errors of a stored model of the ring: row i, column j is the flow-map error of the jump from
    level i to level j of :func:`ctm.noise.karras_times`, over ``n`` points of exact trajectories."""
    model = ctm.load(CHECKPOINTS / f"{name}.safetensors").requires_grad_(False)
    times, points, sigma_data = exact_points(steps, n)

    def error(i: int, j: int) -> float | None:
        if j < i:
            return None
        jumped = model.G(points[i].float(), float(times[i]), float(times[j]))
        return round(float(relative_error(jumped, points[j], sigma_data)), 5)

    return _script("errors", f"{name}_errors", [[error(i, j) for j in range(steps + 1)] for i in range(steps + 1)])


def _script(kind: str, name: str, facts: Any) -> str:
    start = "(globalThis.ctmData ??= { worlds: {}, models: {}, errors: {} })"
    return f"{start}.{kind}.{name} = {json.dumps(facts)};\n"


def write(folder: Path) -> None:
    """Write the scripts of the worlds and stored models that the live figures name into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    named = set(re.findall(r"\w+", "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("live-*.js"))))
    for name in named & ctm.data.WORLDS.keys():
        (folder / f"{name}.js").write_text(world_script(name), encoding="utf-8")
    for path in CHECKPOINTS.glob("*.safetensors"):
        if path.stem in named:
            (folder / f"{path.stem}.js").write_text(model_script(path), encoding="utf-8")
    for name in MAPPED:
        (folder / f"{name}_errors.js").write_text(errors_script(name), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""

    def load_scripts(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
        found = re.findall(r'<div class="live (live-\w+)"', context.get("body", ""))
        for script in dict.fromkeys(script for name in found for script in [*SHARED, name]):
            app.add_js_file(f"{script}.js", loading_method="defer")

    def write_scripts(app: Any, error: Exception | None) -> None:
        if error is None and app.builder.format == "html":
            write(Path(app.outdir) / "_static/live")

    app.connect("html-page-context", load_scripts)
    app.connect("build-finished", write_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
