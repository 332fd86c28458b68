"""The training step of consistency with one part changed at a time, and how far the truth climbs with each.

    python -m studies.step

Small networks on two Gaussians in one dimension, 24 levels, 500 steps, six seeds; with a teacher and without. Then
global without the weight, and two steps that are written anew: at a quarter of the learning rate, and with a pseudo-Huber
distance. One thread, about two minutes; results are kept in studies/step.json as they come.
"""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.losses import Pairs, Route, Trajectories, draw_levels
from ctm.solvers import heun_step
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = tuple(range(6))
LEVELS, STEPS, EVERY = 24, 500, 100
WORLD = ctm.data.two_gaussians()
# name of the setting: what of train() is changed
SETTINGS: dict[str, dict[str, Any]] = {
    "global": {"kind": "global"},
    "local": {},
    "local, EMA 0.9": {"decay": 0.9},
    "local, EMA 0.99": {"decay": 0.99},
    "local, EMA 0.99 swapped": {"decay": 1 - 0.99},
    "local, no weight": {"weighted": False},
    "local, gradient through the target": {"stop_gradient": False},
    "no teacher": {"teacher": False},
    "no teacher, gradient through the target": {"teacher": False, "stop_gradient": False},
}


def training_step(
    student: ctm.CTM,
    target: ctm.CTM,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    stop_gradient: bool = True,
    decay: float = 0.0,
    weighted: bool = True,
) -> float:
    """The step as the chapter on the loss writes it."""
    xt, t, xu, u, s = pairs
    estimate = student.jump(xt, t, s)
    goal = (target if stop_gradient else student).jump(xu, u, s)
    scale = student.output_scale(t, s) if weighted else 1.0
    loss = ((estimate - goal) / scale).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), student.parameters(), strict=True):
            slow.copy_(decay * slow + (1 - decay) * fast)
    return loss.item()


def slower(student: ctm.CTM, target: ctm.CTM, optimizer: torch.optim.Optimizer, pairs: Pairs) -> float:
    """The step at a quarter of the learning rate, which is set anew before each."""
    optimizer.param_groups[0]["lr"] /= 4
    return training_step(student, target, optimizer, pairs)


def huber_step(student: ctm.CTM, target: ctm.CTM, optimizer: torch.optim.Optimizer, pairs: Pairs, c: float = 0.03) -> float:
    """The step with a pseudo-Huber distance in place of the square."""
    xt, t, xu, u, s = pairs
    y = (student.jump(xt, t, s) - target.jump(xu, u, s)) / student.output_scale(t, s)
    loss = ((y.square().sum(1) + c**2).sqrt() - c).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    target.load_state_dict(student.state_dict())
    return loss.item()


# as SETTINGS, but not in the chapter's figure; two with another step
FURTHER: dict[str, dict[str, Any]] = {
    "global, no weight": {"kind": "global", "weighted": False},
    "local, a quarter of the rate": {"step": slower},
    "no teacher, pseudo-Huber": {"teacher": False, "step": huber_step},
}


@cache
def pool(seed: int) -> Trajectories:
    """4,096 trajectories down a fixed grid, from which the runs of a seed draw their pairs."""
    rng, found = torch.Generator().manual_seed(100 + seed), Trajectories()
    route = Route(LEVELS, False, WORLD, heun_step, 1, (WORLD.sigma_min, WORLD.sigma_max))
    found.refill(WORLD.sample(4096, generator=rng), route, rng)
    return found


@torch.no_grad()
def profile(student: ctm.CTM) -> list[float]:
    """Error of the jumps from every level to the end, against trajectories that no run draws from."""
    points, times = pool(-1).points[:1000], pool(-1).times[0].tolist()
    ends = torch.stack([student.G(points[:, k], times[k], WORLD.sigma_min) for k in range(LEVELS)])
    errors = (ends - points[:, -1]).square().mean((1, 2)).sqrt() / WORLD.sigma_data
    return [round(error, 4) for error in errors.tolist()]


def fresh(pairs: Pairs, rng: torch.Generator) -> Pairs:
    """Pairs without a teacher: data and noise that both points share."""
    x0 = WORLD.sample(len(pairs.t), generator=rng)
    eps = torch.randn(x0.shape, generator=rng)
    return Pairs(x0 + pairs.t * eps, pairs.t, x0 + pairs.u * eps, pairs.u, pairs.s)


def train(
    kind: str = "local", teacher: bool = True, seed: int = 0, step: Callable[..., float] = training_step, **switches: Any
) -> dict[str, Any]:
    """Loss at the end, error at the end, spread of one-step samples, and the profile of errors every 100 steps."""
    student = ctm.CTM.for_data(WORLD, ctm.networks.MLP(1, width=32, layers=2, seed=seed))
    target = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), lr=8e-3, betas=(0.9, 0.99), fused=True)
    rng = torch.Generator().manual_seed(seed)
    losses, profiles = [], [profile(student)]
    for i in range(STEPS):
        pairs = pool(seed).pairs(draw_levels(256, LEVELS, kind, 0.4, 0.5, rng), rng)
        pairs = pairs if teacher else fresh(pairs, rng)
        optimizer.param_groups[0]["lr"] = 8e-3 * ctm.training.rate(i, STEPS)
        losses.append(step(student, target, optimizer, pairs, **switches))
        if (i + 1) % EVERY == 0:
            profiles.append(profile(student))
    return {
        "loss": round(sum(losses[-50:]) / 50, 6),
        "error": profiles[-1][0],
        "width": round(width(student), 4),
        "profiles": profiles,
    }


def width(student: ctm.CTM) -> float:
    """Standard deviation of one-step samples, over that of the data."""
    start: Tensor = WORLD.sigma_max * torch.randn(2000, 1, generator=torch.Generator().manual_seed(1))
    return ctm.samplers.one_step(student, start).std().item() / WORLD.sigma_data


def measure(setting: str, seed: int) -> dict[str, Any]:
    return train(seed=seed, **(SETTINGS | FURTHER)[setting])


def main() -> None:
    run(RESULTS, [{"setting": name, "seed": seed} for seed in SEEDS for name in (*SETTINGS, *FURTHER)], measure)


if __name__ == "__main__":
    main()
