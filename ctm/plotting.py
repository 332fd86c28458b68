"""One look for every figure of the book: its colours, each with one meaning, and the
drawings that recur. Tensors may be on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ctm.mixture import GaussianMixture

COLOURS = {
    "data": "#555555",
    "noise": "#909090",
    "exact": "#0072B2",
    "euler": "#009E73",
    "teacher": "#CC79A7",
    "student": "#D55E00",
}
"""One colour, one meaning, in the whole book (Okabe and Ito's palette, which colour-blind
readers can tell apart)."""


def use_style() -> None:
    """Set the book's look for every figure of this session."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.4,
            "image.cmap": "Greys",
        }
    )


def scatter(ax: Axes, points: Tensor, kind: str, limit: float = 1.25) -> None:
    """Draw 2-D ``points`` as small dots in the colour of ``kind`` (a key of
    :data:`COLOURS`), axes equal and bare."""
    look: dict[str, Any] = {"s": 2.5, "lw": 0, "alpha": 0.6, "color": COLOURS[kind]}
    ax.scatter(*_numbers(points).T[:2], rasterized=True, **look)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")


def time_axis(ax: Axes, t_max: float, *, label: bool = True) -> None:
    """A horizontal time axis from noise (left) to data (right), in the square root of
    ``t``, which leaves room near the data."""
    ax.set_xscale("function", functions=(lambda t: np.sqrt(np.maximum(t, 0)), np.square))
    ticks = [tick for tick in (0, 0.1, 0.5, 1, 2, 5, 10, 20, 30) if tick <= t_max]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xlim(t_max, 0)
    if label:
        ax.set_xlabel("noise level $t$ (noise on the left, data on the right)")


def density(ax: Axes, world: GaussianMixture, t_max: float, limit: float) -> None:
    """Shade a 1-D world's noised density over time and place; each moment is scaled to its
    own maximum."""
    times = np.linspace(0, t_max**0.5, 240) ** 2
    x = _line(world, limit, 300)
    columns = [world.log_prob(x, float(t)).exp() for t in times]
    image = _numbers(torch.stack([column / column.max() for column in columns], 1))
    place = _numbers(x[:, 0])
    ax.pcolormesh(times, place, image, alpha=0.35, shading="nearest", rasterized=True)
    ax.set_ylim(-limit, limit)


def paths(
    ax: Axes, times: Sequence[float] | Tensor, path: Tensor, kind: str, **options: Any
) -> None:
    """Draw 1-D trajectories ``path`` of shape ``(len(times), n, 1)`` over their times, in
    the colour of ``kind``."""
    look: dict[str, Any] = {"lw": 1.0, "color": COLOURS[kind]} | options
    ax.plot(_numbers(times), _numbers(path[..., 0]), **look)


def histogram(
    ax: Axes, points: Tensor, kind: str, limit: float, bins: int = 80, **options: Any
) -> None:
    """The density of 1-D samples as a filled histogram in the colour of ``kind``."""
    look: dict[str, Any] = {"alpha": 0.45, "color": COLOURS[kind]} | options
    x, ends = _numbers(points).flatten(), (-limit, limit)
    ax.hist(x, bins=bins, range=ends, density=True, histtype="stepfilled", **look)


def three_panels(
    world: GaussianMixture, columns: dict[str, tuple[Sequence[float] | Tensor, Tensor]]
) -> None:
    r"""Prior, trajectories and samples of several samplers side by side, for a 1-D world.

    Points are drawn as :math:`x_t\, \sigma_{data} / \sqrt{\sigma_{data}^2 + t^2}`, which
    keeps the spread the same at every noise level, so that the three rows share one
    horizontal axis.

    Args:
        world: the truth, drawn in grey on top.
        columns: for each title, the times of a sampler and its path ``(len(times), n, 1)``;
            24 trajectories are drawn, the densities use all.
    """
    sd = world.sigma_data
    limit = 2.3 * sd
    line = _line(world, limit, 400)
    grid, truth = _numbers(line[:, 0]), _numbers(world.log_prob(line).exp())
    _, axes = plt.subplots(
        3,
        len(columns),
        figsize=(2.9 * len(columns), 5.6),
        sharex=True,
        sharey="row",
        height_ratios=[2, 3, 1.3],
        squeeze=False,
    )
    for (title, (times, path)), (top, middle, bottom) in zip(
        columns.items(), axes.T, strict=True
    ):
        t = _numbers(times)
        scaled = _numbers(path[..., 0]) * (sd / np.sqrt(sd**2 + t**2))[:, None]
        top.plot(grid, truth, color=COLOURS["data"], label="data")
        histogram(top, scaled[-1], "student", limit, label="samples")
        top.set_title(title)
        middle.plot(scaled[:, :24], t, color=COLOURS["student"], lw=0.8, marker=".", ms=3)
        middle.set_yscale("log")
        histogram(bottom, scaled[0], "noise", limit)
        bottom.set_xlabel("$x$, scaled to the spread of the data")
    middle.set_xlim(-limit, limit)
    for axis, label in zip(
        axes[:, 0], ("density", "noise level $t$", "prior"), strict=True
    ):
        axis.set_ylabel(label)
    axes[1, 0].invert_yaxis()
    axes[0, 0].set_ylim(top=1.4 * truth.max())  # room for the legend
    axes[0, 0].legend(loc="upper center", ncols=2, fontsize=8, handlelength=1)


def _numbers(x: Sequence[float] | Tensor | np.ndarray) -> np.ndarray:
    """``x`` as NumPy's numbers, from any device and precision."""
    return np.asarray(x.detach().cpu().double() if isinstance(x, Tensor) else x)


def _line(world: GaussianMixture, limit: float, n: int) -> Tensor:
    """Points on a line where the world is, shape ``(n, 1)``."""
    like = world.means
    return torch.linspace(-limit, limit, n, dtype=like.dtype, device=like.device)[:, None]
