"""The training loop as it was when a recipe was one class of settings: a frozen copy, as plain as possible.

test_old_loop.py runs it beside the loop of today. Of the package it uses the world and the network alone.
"""

import copy
import math

import torch

LEVELS, BATCH, POOL, REUSE, LR, EMA = 16, 64, 256, 2, 8e-3, 0.999


def time_at(fraction, low, high):
    t = (high ** (1 / 7) + fraction * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return t.clamp(low, high)


def g(network, x, t, s, sd):
    taus = (torch.log(time).flatten() / 4 for time in (t, s))
    output = network(1 / torch.sqrt(t**2 + sd**2) * x, *taus)
    return sd**2 / (t**2 + sd**2) * x + t * sd / torch.sqrt(t**2 + sd**2) * output


def heun(world, x, t, u):
    start = (x - world.denoiser(x, t.flatten())) / t
    guess = x + (u - t) * start
    end = (guess - world.denoiser(guess, u.flatten())) / u
    return x + (u - t) / 2 * (start + end)


def solved(world, low, high, rng):
    """A pool of trajectories and their times."""
    x0 = world.sample(POOL, generator=rng)
    offset, k = torch.rand((POOL, 1), generator=rng), torch.arange(LEVELS + 1)
    fraction = torch.where((k > 0) & (k < LEVELS), (k - 0.5 + offset) / LEVELS, k / LEVELS)
    times = time_at(fraction, low, high)
    points = [x0 + high * torch.randn(x0.shape, generator=rng)]
    for t, u in zip(times.T, times.T[1:], strict=False):
        points.append(heun(world, points[-1], t[:, None], u[:, None]))
    return torch.stack(points, 1), times


def drawn_levels(rng):
    pick_t, pick_s, _, use_noise, use_data = torch.rand((5, BATCH), generator=rng)
    t = torch.where(use_noise < 0.4, 0, (pick_t * LEVELS).long())
    return t, torch.where(use_data < 0.5, LEVELS, t + 1 + (pick_s * (LEVELS - t)).long())


def denoising(world, network, references, low, high, sd, rng):
    x0 = world.sample(BATCH, generator=rng)
    t = time_at(torch.rand((BATCH, 1), generator=rng), low, high)
    xt = x0 + t * torch.randn(x0.shape, generator=rng)
    others = world.sample(references, generator=rng)
    own = (xt * x0).sum(1) - x0.square().sum(1) / 2
    logits = torch.cat([own[:, None], xt @ others.T - others.square().sum(1) / 2], 1)
    weights = (logits / t**2).softmax(1)
    goal = weights[:, :1] * x0 + weights[:, 1:] @ others
    c_out = t * sd / torch.sqrt(t**2 + sd**2)
    return ((g(network, xt, t, t, sd) - goal) / c_out).square().mean()


def old_loop(world, network, steps, seed, weight=0.0, references=128):
    """Global consistency with the exact teacher, plus ``weight`` times denoising: the average of the weights."""
    sd, rng = world.sigma_data, torch.Generator().manual_seed(seed)
    low, high = 0.004 * sd, 20 * sd
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        kt, ks = drawn_levels(rng)
        if step % (POOL * REUSE // BATCH) == 0:
            points, times = solved(world, low, high, rng)
        row = torch.randint(POOL, (BATCH,), generator=rng)
        xt, xs, t, s = points[row, kt], points[row, ks], times[row, kt][:, None], times[row, ks][:, None]
        jump = s / t * xt + (1 - s / t) * g(network, xt, t, s, sd)
        scale = t * sd / torch.sqrt(t**2 + sd**2) * (1 - s / t)
        loss = ((jump - xs) / scale).square().mean()
        if weight:
            loss = loss + weight * denoising(world, network, references, low, high, sd, rng)
        share = min(1.0, (step + 1) / (0.02 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LR * share
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = min(EMA, (2 + step) / (11 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
    return average
