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
from ctm.metrics import flow_map_error, noise_floor, sliced_wasserstein
from ctm.mixture import GaussianMixture
from ctm.models import CTM
from ctm.noise import karras_times
from ctm.plotting import COLOURS, scatter
from ctm.samplers import euler, gamma_sampling, noise
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

# of the sliders for t and s
LEVELS = [round(level, 3) for level in karras_times(20, 0.002, 10.0).tolist()]
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


def explore_jump(
    folder: str | Path = "checkpoints", world: str = "ring", checkpoint: str = "ring_exact"
) -> Exploration:
    r"""Jumps :math:`G_\theta(x, t, s)` of a cloud at noise level ``t``, over the exact ones, with their error.

    Sliders set ``t`` and ``s``. Where ``s`` is above ``t`` the jump goes from ``t`` to ``t``: time runs down.

    Args:
        folder, world, checkpoint: as for :class:`Exploration`.
    """
    sliders = {"t": (LEVELS, (10.0, 2.0, 0.5)), "s": (LEVELS, (0.002, 0.1, 0.5))}
    return Exploration(_draw_jump, sliders, "Jumps from t to s", folder, world, checkpoint)


def explore_ways(
    folder: str | Path = "checkpoints", world: str = "ring", checkpoint: str = "ring_exact"
) -> Exploration:
    r"""Ways down from one noise point: exact trajectory, Euler steps, consistency jump, and :math:`G_\theta` to any ``s``.

    Sliders set the seed of the noise point, the number of Euler steps and ``s``.

    Args:
        folder, world, checkpoint: as for :class:`Exploration`.
    """
    sliders = {
        "point": (range(1, 21), (1, 2, 3)),
        "steps": (range(1, 21), (2, 4, 16)),
        "s": (LEVELS, (0.1, 0.5)),
    }
    return Exploration(_draw_ways, sliders, "Ways down", folder, world, checkpoint)


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


def _draw_jump(model: CTM, world: GaussianMixture, t: float, s: float) -> Picture:
    s = min(s, t)
    generator = torch.Generator().manual_seed(0)
    x0 = world.sample(POINTS, generator=generator)
    x = x0 + t * torch.randn(x0.shape, generator=generator)
    with torch.no_grad():
        truth, guess = world.G(x, t, s), model.G(x, t, s)
    limit = 2.4 * world.sigma_data
    left, right = _panels(f"points at t = {t:.3g}", f"jumped to s = {s:.3g}")
    scatter(left, x, "noise", limit=limit * (1 + (t / world.sigma_data) ** 2) ** 0.5)
    at_s = limit * (1 + (s / world.sigma_data) ** 2) ** 0.5
    scatter(right, truth, "exact", limit=at_s)
    scatter(right, guess, "student", limit=at_s)
    error = flow_map_error(model, world, t, s, n=POINTS)
    what = f"Left, {POINTS} points at t = {t:.3g}; right, at s = {s:.3g} by the exact map (blue) and the network (orange)"
    return left.figure, f"{what}. Error ≈ {error:.3f} of the data's size."


def _draw_ways(
    model: CTM, world: GaussianMixture, point: float, steps: float, s: float
) -> Picture:
    high, low = world.sigma_max, world.sigma_min
    generator = torch.Generator().manual_seed(int(point))
    x = high * torch.randn((1, 2), generator=generator, dtype=torch.float64)
    fine, few = karras_times(64, low, high), karras_times(int(steps), low, high)
    exact, stairs = (
        world.G(x.expand(len(fine), 2), high, fine)[:, None],
        euler(world, x, few, path=True),
    )
    with torch.no_grad():
        end, jumped = (model.G(x.float(), high, level).double() for level in (low, s))
    there = world.G(x, high, s)
    (ax,) = _panels(f"{steps:.0f} Euler steps, jump to s = {s:.3g}", size=4.0)

    def way(points: Tensor, levels: Tensor, kind: str, **style: Any) -> None:
        spread = (world.sigma_data**2 + levels**2).sqrt()[:, None]
        ax.plot(*(points[:, 0] * world.sigma_data / spread).T, color=COLOURS[kind], **style)

    scatter(
        ax, world.sample(POINTS, generator=generator), "data", limit=2.4 * world.sigma_data
    )
    way(exact, fine, "exact", lw=2, label="exact trajectory")
    way(stairs, few, "euler", lw=1.4, marker="o", ms=4, label="Euler steps")
    for target, level, dash, label in (
        (end, low, "--", "jump to the end"),
        (jumped, s, "-", "jump to s"),
    ):
        two = torch.tensor([high, level], dtype=torch.float64, device="cpu")
        way(
            torch.stack([x, target]),
            two,
            "student",
            lw=1.4,
            ls=dash,
            marker="o",
            ms=6,
            mfc="none",
            label=label,
        )
    ax.legend(fontsize=7, loc="upper right", handlelength=3.5)
    way(torch.stack([x]), few[:1], "exact", marker="o", ms=9, mfc="black", mec="black")
    misses = [
        (reached - true).norm().item()
        for reached, true in ((stairs[-1], exact[-1]), (end, exact[-1]), (jumped, there))
    ]
    return ax.figure, (
        f"From noise point {point:.0f} (large), {steps:.0f} Euler steps (green) end ≈ {misses[0]:.3f} from the end of the "
        f"exact trajectory (blue), the consistency jump (dashed) ≈ {misses[1]:.3f}. "
        f"CTM's jump to s = {s:.3g} (solid) lands ≈ {misses[2]:.3f} from the trajectory."
    )


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
