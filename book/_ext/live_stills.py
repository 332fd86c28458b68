"""The pictures that stand in for the live figures where scripts are off."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import ctm
from ctm.noise import karras_times
from ctm.plotting import COLOURS, scatter, use_style
from ctm.samplers import euler, gamma_sampling, noise

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def load(name: str) -> ctm.CTM:
    return ctm.load(CHECKPOINTS / f"{name}.safetensors").requires_grad_(False)


def jump_still() -> None:
    """One noise point on the line, and four ways down from it."""
    world, model = ctm.data.two_gaussians(), load("pair_small")
    high, low = world.sigma_max, world.sigma_min

    def curve(times: torch.Tensor, points: torch.Tensor, kind: str, **options: object) -> None:
        scaled = points[..., 0] * (world.sigma_data / (world.sigma_data**2 + times**2).sqrt())[:, None]
        ax.plot(times, scaled, color=COLOURS[kind], **options)

    _, ax = plt.subplots(figsize=(6.2, 3.2))
    fine, few = karras_times(80, low, high), karras_times(4, low, high)
    fan = torch.linspace(-2.3, 2.3, 17, dtype=torch.float64)[:, None] * high
    curve(fine, gamma_sampling(world, fan, fine, path=True), "noise", lw=0.6)
    start = torch.tensor([[0.28 * high]], dtype=torch.float64)
    curve(fine, gamma_sampling(world, start, fine, path=True), "exact", lw=2.2)
    curve(few, euler(world, start, few, path=True), "euler", marker="o", ms=4)
    for s, style in ((low, "--"), (1.0, "-")):
        two = torch.tensor([high, s], dtype=torch.float64)
        curve(two, gamma_sampling(model, start.float(), two, path=True), "student", ls=style, marker="o", ms=4)
    ax.set(xlabel="noise level $t$", ylabel="$x$, scaled to one spread", xlim=(high, low))
    ax.set_xscale("function", functions=(lambda t: t.clip(0) ** (1 / 7), lambda u: u**7))
    ax.set_xticks([30, 10, 3, 1, 0.3, 0.1, 0.01], labels=["30", "10", "3", "1", "0.3", "0.1", "0.01"])


def cloud_still() -> None:
    """500 points of noise, and where the network and the exact map put them."""
    world, model = ctm.data.ring(), load("ring_small")
    x = noise(model, 500, (2,), generator=torch.Generator().manual_seed(0))
    truth, guess = (flow_map.G(x, model.sigma_max, model.sigma_min) for flow_map in (world, model))
    _, axes = plt.subplots(1, 2, figsize=(6.2, 3.0))
    scatter(axes[0], x, "noise", "noise", limit=30)
    scatter(axes[1], truth, "exact", "exact map", limit=1.3)
    scatter(axes[1], guess, "student", "network", limit=1.3)
    for pair in torch.stack([truth, guess], 1):
        axes[1].plot(*pair.T, color=COLOURS["student"], lw=0.8)


def gamma_still() -> None:
    """Samples in four calls beside the data."""
    world, model = ctm.data.ring(), load("ring_small")
    generator = torch.Generator().manual_seed(0)
    x = noise(model, 500, (2,), generator=generator)
    samples = gamma_sampling(model, x, karras_times(4, model))
    _, axes = plt.subplots(1, 2, figsize=(6.2, 3.0))
    scatter(axes[0], samples, "student", "samples", limit=1.3)
    scatter(axes[1], world.sample(500, generator=generator), "data", "data", limit=1.3)


def write(folder: Path) -> None:
    """Draw the three pictures into ``folder``."""
    use_style()
    for name, still in (("jump", jump_still), ("cloud", cloud_still), ("gamma", gamma_still)):
        still()
        plt.savefig(folder / f"live-{name}.png")
        plt.close()
