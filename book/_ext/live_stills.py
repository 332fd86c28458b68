"""The pictures that stand in for the live figures where scripts are off, and in notebooks: run as a program, this
draws them anew into ``book/_static/live``."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import ctm
from ctm.noise import karras_times
from ctm.plotting import COLOURS, paths, scatter, time_axis, use_style
from ctm.samplers import euler, gamma_sampling, heun, noise

BOOK = Path(__file__).parents[1]
CHECKPOINTS = BOOK / "checkpoints"


def load(name: str) -> ctm.CTM:
    return ctm.load(CHECKPOINTS / f"{name}.safetensors").requires_grad_(False)


def noise_axis(ax: plt.Axes, high: float, low: float) -> None:
    """Noise levels from left to right down, even in t^(1/7)."""
    ax.set(xlabel="noise level $t$", ylabel="$x$, scaled to one spread", xlim=(high, low))
    ax.set_xscale("function", functions=(lambda t: t.clip(0) ** (1 / 7), lambda u: u**7))
    ax.set_xticks([30, 10, 3, 1, 0.3, 0.1, 0.01], labels=["30", "10", "3", "1", "0.3", "0.1", "0.01"])


def line_drawer(ax: plt.Axes, world: ctm.GaussianMixture) -> Callable[..., None]:
    """Draws ways of points on a line, scaled to one spread."""

    def curve(times: torch.Tensor, points: torch.Tensor, kind: str, **options: object) -> None:
        scaled = points[..., 0] * (world.sigma_data / (world.sigma_data**2 + times**2).sqrt())[:, None]
        ax.plot(times, scaled, color=COLOURS[kind], **options)

    return curve


def jump_still() -> None:
    """One noise point on the line, and four ways down from it."""
    world, model = ctm.data.two_gaussians(), load("pair_small")
    high, low = world.sigma_max, world.sigma_min
    _, ax = plt.subplots(figsize=(6.2, 3.2))
    curve = line_drawer(ax, world)
    fine, few = karras_times(80, low, high), karras_times(4, low, high)
    fan = torch.linspace(-2.3, 2.3, 17, dtype=torch.float64)[:, None] * high
    curve(fine, gamma_sampling(world, fan, fine, path=True), "noise", lw=0.6)
    start = torch.tensor([[0.28 * high]], dtype=torch.float64)
    curve(fine, gamma_sampling(world, start, fine, path=True), "exact", lw=2.2)
    curve(few, euler(world, start, few, path=True), "euler", marker="o", ms=4)
    for s, style in ((low, "--"), (1.0, "-")):
        two = torch.tensor([high, s], dtype=torch.float64)
        curve(two, gamma_sampling(model, start.float(), two, path=True), "student", ls=style, marker="o", ms=4)
    noise_axis(ax, high, low)


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


def score_still() -> None:
    """The density of the noised ring in grey, its score, and one point with its guess."""
    world, t, limit = ctm.data.ring(), 0.2, 1.25
    _, ax = plt.subplots(figsize=(3.4, 3.4))
    line = torch.linspace(-limit, limit, 90, dtype=torch.float64)
    places = torch.cartesian_prod(line, line)
    density = world.log_prob(places, t).exp().reshape(90, 90).T
    ax.imshow(density, cmap="Greys", vmax=2 * density.max(), extent=(-limit, limit) * 2, origin="lower")
    feet = torch.cartesian_prod(line[3::7], line[3::7])
    slope = t * world.score(feet, t)
    arrows = 0.18 * slope / (1 + slope.norm(dim=1, keepdim=True))
    ax.quiver(*feet.T, *arrows.T, color=COLOURS["exact"], angles="xy", scale_units="xy", scale=1, width=0.004)
    scatter(ax, world.means, "data", limit=limit)
    x = torch.tensor([[0.2, 0.5]], dtype=torch.float64)
    way = torch.cat([x, world.denoiser(x, t)])
    ax.plot(*way.T, "-o", color=COLOURS["exact"], lw=2.4)
    ax.plot(*x.T, "o", color="black", ms=9)


def ode_still() -> None:
    """A trajectory on the line with its tangent at one point, which ends at the guess."""
    world, t = ctm.data.two_gaussians(), 2.5
    _, ax = plt.subplots(figsize=(6.2, 3.2))
    root = torch.linspace(6.0**0.5, 0, 90, dtype=torch.float64)
    fan = torch.tensor([[-6.5], [-4], [-2], [-0.7], [0.7], [2], [4], [6.5]], dtype=torch.float64)
    paths(ax, root**2, gamma_sampling(world, fan, root**2, path=True), "noise", lw=0.7)
    x, down = torch.tensor([[0.6]], dtype=torch.float64), torch.linspace(t**0.5, 0, 60, dtype=torch.float64) ** 2
    paths(ax, down, gamma_sampling(world, x, down, path=True), "exact", lw=2.2)
    guess = world.denoiser(x, t)
    ax.plot(down, (guess + (x - guess) * down / t)[0], "--", color=COLOURS["euler"])
    ax.plot(0, guess, "o", mfc="none", color=COLOURS["euler"])
    ax.plot(t, x, "o", color="black")
    time_axis(ax, 6.0)
    ax.set_ylabel("$x$")


def denoiser_still() -> None:
    """24 data points, larger with more weight for one noised point, and their weighted mean."""
    world, t, x = ctm.data.ring(), 0.3, torch.tensor([[0.3, 0.05]], dtype=torch.float64)
    points = world.sample(24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = (-torch.cdist(x, points).square() / (2 * t**2)).softmax(1)
    mean = weights @ points
    _, ax = plt.subplots(figsize=(3.4, 3.4))
    for weight, point in zip(weights[0], points, strict=True):
        ax.plot(*torch.cat([x, point[None]]).T, color="#cccccc", lw=8 * float(weight))
        ax.plot(*point, "o", color=COLOURS["data"], ms=3 + 16 * float(weight) ** 0.5)
    ax.add_patch(plt.Circle(tuple(x[0]), t, fill=False, ls="--", color=COLOURS["noise"]))
    ax.plot(*torch.cat([x, mean]).T, color=COLOURS["exact"])
    ax.plot(*x.T, "o", color="black", ms=8)
    ax.plot(*mean.T, "o", color=COLOURS["exact"], ms=8)
    ax.plot(*world.denoiser(x, t).T, "o", color=COLOURS["exact"], ms=11, mfc="none")
    scatter(ax, points[:0], "data", limit=1.2)


def solvers_still() -> None:
    """Eight steps of Euler's method and four of Heun's along one trajectory."""
    world = ctm.data.two_gaussians()
    _, ax = plt.subplots(figsize=(6.2, 3.2))
    curve, high, low = line_drawer(ax, world), world.sigma_max, world.sigma_min
    start = torch.tensor([[0.35 * high]], dtype=torch.float64)
    fine = karras_times(80, world)
    curve(fine, gamma_sampling(world, start, fine, path=True), "exact", lw=2.4)
    for solver, n, style in ((euler, 8, "-"), (heun, 4, "--")):
        times = karras_times(n, world)
        points = solver(world, start, times, path=True)
        share = torch.linspace(0, 1, 9, dtype=torch.float64)[:-1]
        between = torch.cat([torch.lerp(times[:-1, None], times[1:, None], share).flatten(), times[-1:]])
        ways = torch.cat([torch.lerp(points[:-1, 0], points[1:, 0], share).flatten(), points[-1, 0]])
        curve(between, ways[:, None, None], "euler", ls=style)
        curve(times, points, "euler", ls="", marker="o", ms=4, mfc="none" if n == 4 else None)
    ax.set_ylim(-3.3, 3.3)
    noise_axis(ax, high, low)


def triangle_still() -> None:
    """The errors of a consistency model and of a CTM over all pairs of times."""
    world, start = ctm.data.ring(), torch.Generator().manual_seed(0)
    times = karras_times(20, world)
    points = gamma_sampling(world, noise(world, 500, generator=start).double(), times, path=True)
    figure, axes = plt.subplots(1, 2, figsize=(6.2, 3.0), sharey=True)
    for ax, name, title in zip(axes, ("ring_small", "ring_cm"), ("CTM", "consistency model"), strict=True):
        model, table = load(name), torch.full((21, 21), torch.nan)
        for i in range(20):
            for j in range(i + 1, 21):
                jumped = model.G(points[i].float(), float(times[i]), float(times[j]))
                table[i, j] = ctm.metrics.relative_error(jumped, points[j], world.sigma_data)
        mesh = ax.imshow(table.T, cmap="Oranges", norm="log", vmin=0.004, vmax=0.5)
        ax.set(title=title, xlabel="from $t$", xticks=(0, 20), yticks=(0, 20))
        ax.set_xticklabels(["10", "0.002"])
        ax.set_yticklabels(["10", "0.002"])
    axes[0].set_ylabel("to $s$")
    figure.colorbar(mesh, ax=axes, label="error", shrink=0.8)


def loss_still() -> None:
    """Local consistency of an untrained student: estimate and target are close, and both far from the trajectory."""
    world = ctm.data.two_gaussians()
    _, ax = plt.subplots(figsize=(6.2, 3.2))
    curve, high = line_drawer(ax, world), world.sigma_max
    fine, levels = karras_times(80, world), karras_times(12, world)
    start = torch.tensor([[0.35 * high]], dtype=torch.float64)
    curve(fine, gamma_sampling(world, start, fine, path=True), "exact")
    t, u, s = levels[[3, 4, 10]]
    xt, xu = world.G(start, high, t), world.G(start, high, u)
    curve(torch.stack([t, u]), torch.stack([xt, xu]), "teacher", lw=5)
    for x, time, style in ((xt, t, "--"), (xu, u, "-")):
        skip = world.sigma_data**2 / (world.sigma_data**2 + time**2)
        landed = s / time * x + (1 - s / time) * skip * x
        curve(torch.stack([time, s]), torch.stack([x, landed]), "student", ls=style, marker="o", ms=5)
    curve(s[None], world.G(start, high, s)[None], "exact", marker="o")
    noise_axis(ax, high, world.sigma_min)


STILLS = {name.removesuffix("_still"): still for name, still in globals().items() if name.endswith("_still")}


def write(folder: Path) -> None:
    """Draw the pictures into ``folder``."""
    use_style()
    for name, still in STILLS.items():
        still()
        plt.savefig(folder / f"live-{name}.png")
        plt.close()


if __name__ == "__main__":
    write(BOOK / "_static/live")
