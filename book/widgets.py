"""Explorations with sliders: computed as you move them where there is a kernel, pre-rendered where there is none."""

from __future__ import annotations

import base64
import functools
import html
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import torch
from ctm._checks import check_choice
from ctm.checkpoints import load, read_card
from ctm.data import WORLDS
from ctm.metrics import noise_floor, sliced_wasserstein
from ctm.mixture import GaussianMixture
from ctm.models import CTM
from ctm.noise import karras_times
from ctm.plotting import scatter
from ctm.samplers import gamma_sampling, noise
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

POINTS = 800
Picture = tuple[Figure, str]
Draw = Callable[..., Picture]


class Exploration(ipywidgets.VBox):
    """A choice of world and checkpoint, sliders, a picture and a sentence that says what it shows.

    In a notebook with a kernel it is a widget. Everywhere else its HTML stands for it: every picture of a coarser grid of
    the same sliders, drawn beforehand for the world and checkpoint first chosen, which plain ``<input>`` elements switch
    between. So a stored output needs neither a kernel nor a widget manager.

    Args:
        draw: called with a model, its world and one value for each slider; returns a figure and a sentence.
        sliders: for each slider its values and those that are drawn beforehand, the first of which it starts from.
        title: what is explored.
        folder: where the checkpoints are.
        world: a name in :data:`ctm.data.WORLDS`.
        checkpoint: the name of a file in ``folder`` trained for that world, without its ending.

    Raises:
        ValueError: no checkpoint of a 2-D world in the folder, or no such world or checkpoint among them.
    """

    def __init__(
        self,
        draw: Draw,
        sliders: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        title: str,
        folder: str | Path,
        world: str,
        checkpoint: str,
    ) -> None:
        stored = _stored(Path(folder))
        check_choice(world, "world", stored)
        check_choice(checkpoint, "checkpoint", stored[world])
        self.draw, self.title, self.stored = draw, title, stored
        self.frames = [values for _, values in sliders.values()]
        self.world = ipywidgets.Dropdown(
            options=list(stored), value=world, description="world"
        )
        self.checkpoint = ipywidgets.Dropdown(
            options=list(stored[world]), value=checkpoint, description="checkpoint"
        )
        self.sliders = [
            ipywidgets.SelectionSlider(
                options=[
                    (f"{value:.3g}", value)
                    for value in sorted({*values, *drawn}, reverse=values[0] > values[-1])
                ],
                value=drawn[0],
                description=name,
                continuous_update=True,
            )
            for name, (values, drawn) in sliders.items()
        ]
        self.picture = ipywidgets.Image(format="png")
        self.sentence = ipywidgets.Label()
        choices = ipywidgets.HBox([self.world, self.checkpoint])
        super().__init__([choices, *self.sliders, self.picture, self.sentence])
        self.world.observe(self._list_checkpoints, "value")
        for control in (self.checkpoint, *self.sliders):
            control.observe(self._redraw, "value")
        self._redraw()

    def _list_checkpoints(self, _: Any) -> None:
        self.checkpoint.options = list(self.stored[self.world.value])

    def _render(self, values: Sequence[float]) -> tuple[bytes, str]:
        path = self.stored[self.world.value][self.checkpoint.value]
        figure, sentence = self.draw(_model(path), _world(self.world.value), *values)
        return _png(figure), sentence

    def _redraw(self, _: Any = None) -> None:
        if (
            self.checkpoint.value in self.stored[self.world.value]
        ):  # not while a new world's checkpoints are being listed
            self.picture.value, self.sentence.value = self._render(
                [slider.value for slider in self.sliders]
            )

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        return bundle | {"text/plain": self.title, "text/html": self.to_html()}

    def to_html(self) -> str:
        """The pictures drawn beforehand, and sliders that choose among them without a kernel."""
        shown = f"{self.title}: {self.checkpoint.value}, {self.world.value}"
        return "\n".join(
            [
                f'<div class="ctm-frames" role="group" aria-label="{html.escape(shown)}">',
                *(
                    _input(slider.description, values)
                    for slider, values in zip(self.sliders, self.frames, strict=True)
                ),
                '<div aria-live="polite">',
                *(
                    _frame(i, self.title, *self._render(values))
                    for i, values in enumerate(itertools.product(*self.frames))
                ),
                "</div>",
                "</div>",
            ]
        )


def explore_gamma(
    folder: str | Path = "checkpoints", world: str = "ring", checkpoint: str = "ring_exact"
) -> Exploration:
    r"""Samples by :func:`ctm.samplers.gamma_sampling` beside the data, with their distance.

    Sliders set the number of network calls and :math:`\gamma`. Start and fresh noise are the same in every picture.

    Args:
        folder, world, checkpoint: as for :class:`Exploration`.
    """
    sliders = {
        "calls": (range(1, 17), (1, 2, 4, 8)),
        "gamma": ([i / 20 for i in range(21)], (0.0, 0.5, 1.0)),
    }
    return Exploration(_draw_gamma, sliders, "Gamma-sampling", folder, world, checkpoint)


def _draw_gamma(model: CTM, world: GaussianMixture, calls: int, gamma: float) -> Picture:
    generator = torch.Generator().manual_seed(0)
    x = noise(model, POINTS, world.shape, generator=generator)
    samples = gamma_sampling(
        model,
        x,
        karras_times(calls, model.sigma_min, model.sigma_max),
        gamma,
        generator=generator,
    )
    truth, floor = _ruler(world)
    limit = 2.4 * world.sigma_data
    left, right = _panels(f"{calls} call{'s' * (calls > 1)}, gamma = {gamma:g}", "data")
    scatter(left, samples, "student", limit=limit)
    scatter(right, truth, "data", limit=limit)
    ratio = sliced_wasserstein(samples, truth) / floor
    what = f"Left, {POINTS} samples in {calls} call{'s' * (calls > 1)} with gamma = {gamma:g}; right, as many true points"
    return (
        left.figure,
        f"{what}. Sliced W2 between them ≈ {ratio:.1f} times that of two true sets.",
    )


def _panels(*titles: str, size: float = 2.8) -> list[Any]:
    """The axes of a new figure, which no backend shows by itself."""
    n = len(titles)
    figure = Figure(figsize=(size * n, size + 0.1), dpi=90)
    grid = {
        "left": 0.08 / n,
        "right": 1 - 0.02 / n,
        "bottom": 0.08,
        "top": 0.9,
        "wspace": 0.1,
    }
    axes = figure.subplots(1, n, squeeze=False, gridspec_kw=grid)[0]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=10)
    return list(axes)


def _png(figure: Figure) -> bytes:
    """The figure with 64 colours: a third of the size, and no difference to be seen in points and letters."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png")
    Image.open(full).convert("RGB").quantize(
        64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(small, format="png", optimize=True)
    return small.getvalue()


def _input(name: str, values: Sequence[float]) -> str:
    """A slider over ``values``, whose handler shows the frame that belongs to all sliders of its group."""
    texts = [f"{value:.3g}" for value in values]
    handler = (
        "const box = this.closest('.ctm-frames');"
        "const at = [...box.querySelectorAll('input')].reduce((n, input) => n * (+input.max + 1) + +input.value, 0);"
        "box.querySelectorAll('.frame').forEach((frame, i) => { frame.hidden = i !== at; });"
        "const text = this.dataset.values.split(' ')[this.value];"
        "this.nextElementSibling.textContent = text; this.setAttribute('aria-valuetext', text)"
    )
    return (
        f'<label><span>{name}</span><input type="range" min="0" max="{len(values) - 1}" value="0" step="1" '
        f'autocomplete="off" aria-valuetext="{texts[0]}" data-values="{" ".join(texts)}" oninput="{handler}">'
        f'<span aria-hidden="true">{texts[0]}</span></label>'
    )


def _frame(number: int, title: str, png: bytes, sentence: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    hidden = " hidden" if number else ""
    text = html.escape(sentence)
    return f'<div class="frame"{hidden}><img alt="{html.escape(title)}. {text}" src="{source}"><p>{text}</p></div>'


@functools.lru_cache(maxsize=8)
def _model(path: Path) -> CTM:
    return load(path)


@functools.cache
def _world(name: str) -> GaussianMixture:
    return WORLDS[name]()


@functools.cache
def _ruler(world: GaussianMixture) -> tuple[Tensor, float]:
    """A true cloud, and the mean distance between two of that size."""
    floor = noise_floor(world, n=POINTS, draws=8)
    return world.sample(POINTS, generator=torch.Generator().manual_seed(1)), sum(
        floor
    ) / len(floor)


def _stored(folder: Path) -> dict[str, dict[str, Path]]:
    """The checkpoints in ``folder`` of each 2-D world, by name."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        name = read_card(path).get("world")
        if name in WORLDS and _world(name).shape == (2,):
            found.setdefault(name, {})[path.stem] = path
    if not found:
        raise ValueError(f"folder {folder} must hold checkpoints of 2-D worlds, got none")
    return found
