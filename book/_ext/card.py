"""The picture that other sites show with a link to the book: curves from noise to data, and one jump."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import ctm
from ctm.plotting import COLOURS


def draw(path: Path) -> None:
    """Draw the card, 1200 x 630 pixels, from the exact flow map of two Gaussians."""
    world, t_max = ctm.data.two_gaussians(), 6.0
    times = torch.linspace(t_max**0.5, 0.05, 80, dtype=torch.float64) ** 2
    start = torch.linspace(-9, 9, 13, dtype=torch.float64)[:, None]
    curves = torch.stack([world.G(start, t_max, t) for t in times.tolist()])[..., 0]
    figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 0.72))
    ax.plot(t_max**0.5 - times.sqrt(), curves, color=COLOURS["exact"], lw=2.5)
    jump = [0, t_max**0.5 - times[-1].sqrt()], [curves[0, 8], curves[-1, 8]]
    ax.plot(*jump, "o--", color=COLOURS["student"], lw=5, ms=16)
    ax.set_axis_off()
    figure.text(0.05, 0.84, "Consistency Trajectory Models", fontsize=46)
    figure.text(0.05, 0.75, "A book that runs: every claim checked against an exact truth", fontsize=23)
    figure.savefig(path)
    plt.close(figure)
