"""A consistency trajectory model (Kim et al. 2024) in one file, from data alone: train it, sample it in one step.

    python nano_ctm.py        # half a minute to two minutes; writes nano_ctm.svg

It needs torch alone. A noise level t is the time, and it runs down: x_t = x_0 + t * noise. D(x, t) is the mean of the clean
points that could have become x, and the probability-flow ODE dx/dt = (x - D(x, t)) / t carries noise to data. A CTM learns
the jump G(x, t, s) along its trajectories, from any t to any s <= t. Half of the steps make a denoiser, which then is held
still; the other half learn to jump along its trajectories. Points are (n, 2), times (n, 1).
"""

from copy import deepcopy

import torch
from torch import nn

SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.002, 10.0


class MLP(nn.Module):
    """The network F(x, t, s) for points in the plane. It is shown log(t)/4 and log(s)/4, with sines and cosines of both."""

    def __init__(self, width=96, layers=5):
        super().__init__()
        self.frequencies = 2 * torch.pi * 2.0 ** torch.linspace(-3, 1, 6)
        sizes = [2 + 2 * 13] + [width] * layers
        hidden = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, x, t, s):
        times = torch.cat([t, s], 1).log() / 4
        angle = (times[:, :, None] * self.frequencies).flatten(1)
        return self.body(torch.cat([8 * x, times, angle.sin(), angle.cos()], 1))


def c_out(t):
    return t * SIGMA_DATA / (t**2 + SIGMA_DATA**2).sqrt()


def g(net, x, t, s):
    """The clean point to aim at: c_skip(t) x + c_out(t) F(c_in(t) x, t, s)."""
    square = t**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / square * x + c_out(t) * net(x / square.sqrt(), t, s)


def G(net, x, t, s):  # noqa: N802
    """The jump (s/t) x + (1 - s/t) g: for s = t it is x, whatever the weights."""
    return s / t * x + (1 - s / t) * g(net, x, t, s)


def denoising_loss(net, x0, noise, t):
    """g(x, t, t) = D(x, t): the least squares fit of the clean point is its mean."""
    xt = x0 + t * noise
    return ((g(net, xt, t, t) - x0) / c_out(t)).square().mean()


def consistency_loss(net, xt, t, xu, u, s):
    """Two ways from x_t end at one point: the jump to s, and the teacher's way to x_u followed by the jump from u to s."""
    with torch.no_grad():
        target = G(net, xu, u, s)
    return ((G(net, xt, t, s) - target) / (c_out(t) * (1 - s / t))).square().mean()


def grid(n):
    """n + 1 noise levels from SIGMA_MAX down to SIGMA_MIN, equal in t^(1/7)."""
    return torch.linspace(SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7), n + 1) ** 7


@torch.no_grad()
def trajectories(net, x, times):
    """Points (n, len(times), 2) of the teacher's trajectories from x: Heun's method, with the slope (x - D) / t."""
    points = [x]
    for t, u in zip(times, times[1:], strict=False):
        now, after = (level.expand(len(x), 1) for level in (t, u))
        start = (x - g(net, x, now, now)) / t
        guess = x + (u - t) * start
        x = x + (u - t) / 2 * (start + (guess - g(net, guess, after, after)) / u)
        points.append(x)
    return torch.stack(points, 1)


def moons(n, rng):
    """Two half circles, centred; the standard deviation over points and coordinates is 0.51."""
    angle, side = torch.pi * torch.rand(n, generator=rng), (torch.rand(n, generator=rng) < 0.5).float()
    x = torch.stack([angle.cos() * (1 - 2 * side) + side - 0.5, angle.sin() * (1 - 2 * side) + side / 2 - 0.25], 1)
    return 0.72 * (x + 0.08 * torch.randn(n, 2, generator=rng))


def run(net, loss, steps, lr=8e-3):
    """Adam, warmed up and annealed. Returns a running average of the weights."""
    average = deepcopy(net).requires_grad_(False)
    adam = torch.optim.Adam(net.parameters(), betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, lr, steps, pct_start=0.02, cycle_momentum=False)
    for step in range(steps):
        value = loss(net, step)
        adam.zero_grad()
        value.backward()
        adam.step()
        rate.step()
        decay = min(0.999, (2 + step) / (11 + step))
        for old, new in zip(average.parameters(), net.parameters(), strict=True):
            old.lerp_(new.detach(), 1 - decay)
        if step % 1000 == 0:
            print(f"step {step:5d}  loss {value.item():.4f}")
    return average


def train(data, steps=6000, batch=320, levels=96, pool=4096, seed=0):
    """A CTM of data(n, rng), from its samples alone."""
    torch.manual_seed(seed)
    rng, net, times = torch.Generator().manual_seed(seed), MLP(), grid(levels)

    def denoising(net, step):
        t = (2 * SIGMA_DATA * (torch.randn(batch, 1, generator=rng) - 1.2).exp()).clamp(SIGMA_MIN, SIGMA_MAX)
        return denoising_loss(net, data(batch, rng), torch.randn(batch, 2, generator=rng), t)

    teacher, points = run(net, denoising, steps // 2), None

    def jumping(net, step):
        nonlocal points
        if step % 600 == 0:  # a trajectory serves many pairs of its points
            noise = torch.randn(pool, 2, generator=rng)
            points = trajectories(teacher, data(pool, rng) + SIGMA_MAX * noise, times)
        row, pick = torch.randint(pool, (batch,), generator=rng), torch.rand(4, batch, generator=rng)
        ti = (pick[0] * levels * (pick[1] > 0.4)).long()  # from pure noise in two fifths of the pairs
        si = torch.where(pick[2] < 0.5, levels, ti + 1 + (pick[3] * (levels - ti)).long())  # to the data in half of them
        ui = si  # global consistency: the teacher goes all the way; ti + 1 is local, anything between is soft
        pair = points[row, ti], times[ti, None], points[row, ui], times[ui, None], times[si, None]
        return consistency_loss(net, *pair) + 0.1 * denoising(net, step)

    return run(deepcopy(teacher).requires_grad_(True), jumping, steps // 2)


def draw(path, *sets):
    """Sets of points side by side, as an SVG."""
    dots = "".join(
        f'<circle cx="{200 * (i + 0.5) + 70 * x:.1f}" cy="{100 - 70 * y:.1f}" r="1" fill="{colour}"/>'
        for i, (points, colour) in enumerate(sets)
        for x, y in points.tolist()
    )
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {200 * len(sets)} 200">{dots}</svg>\n')


if __name__ == "__main__":
    model, rng = train(moons), torch.Generator().manual_seed(1)
    noise = SIGMA_MAX * torch.randn(2000, 2, generator=rng)
    with torch.no_grad():
        one_step = G(model, noise, *(torch.full((2000, 1), level) for level in (SIGMA_MAX, SIGMA_MIN)))
    draw("nano_ctm.svg", (moons(2000, rng), "#555555"), (one_step, "#D55E00"))
    print("nano_ctm.svg: the data, and samples of one call each")
