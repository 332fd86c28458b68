"""The state of a training run and its one step; everything that must be kept for the run to go on bit for bit."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from ctm._checks import NonFiniteError, check_number, check_points, seeded
from ctm.adversarial import Adversary
from ctm.losses import adaptive_weight, consistency_loss, dsm_loss
from ctm.models import CTM
from ctm.pairs import Data, Pairs, Route, Trajectories, draw_levels, fresh_pairs, noised_points
from ctm.recipe import Recipe
from ctm.noise import rho_time
from ctm.solvers import STEPS, Denoiser


class Run:
    """Everything a training run needs to go on: weights, averages, optimiser, random state and pool."""

    def __init__(self, student: CTM, data: Data, teacher: Denoiser | None, steps: int, seed: int, recipe: Recipe) -> None:
        self.student, self.data, self.steps, self.recipe = student, data, steps, recipe
        self.done = 0
        self.average, self.target, self.guide = (copy.deepcopy(student).requires_grad_(False) for _ in range(3))
        self.teacher = self.guide if teacher is None else teacher
        self.optimizer = torch.optim.Adam(student.parameters(), lr=recipe.lr, betas=(0.9, 0.99), fused=True)
        self.generator = seeded(seed)
        self.pool = Trajectories() if recipe.pool and recipe.consistency else None
        # the target jumps only where something is left to jump: not with u = s compared at s, not in denoising alone
        self._has_target_jump = bool(recipe.consistency) and (recipe.consistency, recipe.compare) != ("global", "s")
        self._first = math.ceil(recipe.dsm_first * steps)  # steps of denoising score matching alone
        self.adversary: Adversary | None = None
        if recipe.gan is not None:
            self._has_target_jump = True
            self._unopposed = max(self._first, math.ceil(recipe.gan.start * steps))  # steps without a discriminator
            self.adversary = Adversary(self._draw(1)[0].shape, student, recipe.gan, seed, self.generator)

    @property
    def limits(self) -> tuple[float, float]:
        return self.student.sigma_min, self.student.sigma_max

    def step(self) -> float:
        """One update of the weights; returns the loss before it."""
        try:
            loss = self._loss()
            value = loss.item()
        except NonFiniteError:  # points on their way through the loss
            value = math.nan
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {self.done} (lr {self.recipe.lr:g}, batch {self.recipe.batch}): the weights "
                "have diverged or the data hold NaN; try a smaller lr, and check what data.sample returns"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self._rate()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        move_average(self.average, self.student, ramped(self.recipe.ema, self.done))
        if self._has_target_jump:
            move_average(self.target, self.student, ramped(self.recipe.target_ema, self.done))
        if self.done == self._first:
            self.student.load_state_dict(self.average.state_dict())
        if self.teacher is self.guide and (self.done == self._first or not self._first):
            move_average(self.guide, self.average, 0.0)
        return value

    def _rate(self) -> float:
        """The learning rate's share of its peak; it falls once over the first steps and once over the rest."""
        if self.done < self._first:
            return rate(self.done, self._first)
        return rate(self.done - self._first, self.steps - self._first)

    def _loss(self) -> Tensor:
        recipe = self.recipe
        if recipe.consistency is None or self.done < self._first:
            return self._dsm()
        loss = consistency = consistency_loss(self.student, self.target, self._pairs(recipe.consistency), recipe.compare)
        if recipe.dsm:
            dsm = self._dsm()
            weight = adaptive_weight(consistency, dsm, self.student.last_layer) if recipe.adaptive_dsm else 1.0
            loss = loss + recipe.dsm * weight * dsm
        if self.adversary is not None and self.done >= self._unopposed:
            fake = self._estimates()
            self.adversary.learn(self._draw(recipe.batch), fake)
            loss = loss + self.adversary.term(fake, consistency)
        return loss

    def _estimates(self) -> Tensor:
        """Jumps from noised data, carried on to the end by the target: what the discriminator judges."""
        recipe, generator = self.recipe, self.generator
        levels = draw_levels(recipe.batch, recipe.levels, "global", recipe.from_noise, recipe.to_data, generator)
        xt, t, _, s = noised_points(self._draw(recipe.batch), levels, self._route(), generator)
        return self.target.G(self.student.G(xt, t, s), s, self.student.sigma_min)

    def _route(self) -> Route:
        recipe = self.recipe
        step = STEPS[recipe.solver]
        return Route(recipe.levels, recipe.continuous, self.teacher, step, recipe.substeps, self.limits)

    def _pairs(self, consistency: str) -> Pairs:
        recipe, generator, route = self.recipe, self.generator, self._route()
        levels = draw_levels(recipe.batch, recipe.levels, consistency, recipe.from_noise, recipe.to_data, generator)
        if self.pool is None:
            return fresh_pairs(self._draw(recipe.batch), levels, route, generator)
        if (self.done - self._first) % max(1, recipe.pool * recipe.reuse // recipe.batch) == 0:
            self.pool.refill(self._draw(recipe.pool), route, generator)
        return self.pool.pairs(levels, generator)

    def _dsm(self) -> Tensor:
        x0 = self._draw(self.recipe.batch)
        fraction = torch.rand((len(x0), *[1] * (x0.ndim - 1)), generator=self.generator)
        t = rho_time(fraction, *self.limits).clamp(*self.limits)
        noise = torch.randn(x0.shape, generator=self.generator)
        references = self._draw(self.recipe.references) if self.recipe.references else None
        return dsm_loss(self.student, x0, noise, t, references)

    def _draw(self, n: int) -> Tensor:
        x0 = check_points(self.data.sample(n, generator=self.generator), "data.sample(n)")
        if len(x0) != n:
            raise ValueError(f"data.sample(n) must return n = {n} points, got {len(x0)}")
        return x0

    def check(self) -> None:
        """Raise FloatingPointError if the last update left weights that are not finite."""
        if not all(bool(torch.isfinite(weights).all()) for weights in self.average.parameters()):
            raise FloatingPointError(f"the weights are not finite after step {self.done}; try a smaller lr")

    def _modules(self) -> dict[str, torch.nn.Module]:
        modules: dict[str, torch.nn.Module] = {
            name: getattr(self, name) for name in ("student", "average", "target", "guide")
        }
        return modules if self.adversary is None else modules | {"discriminator": self.adversary.discriminator}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": self.optimizer}
        return optimizers if self.adversary is None else optimizers | {"rival": self.adversary.optimizer}

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors."""
        state = {"generator": self.generator.get_state()}
        for name, module in self._modules().items():
            state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            for index, moments in optimizer.state_dict()["state"].items():
                state |= {f"{name}.{index}.{key}": value for key, value in moments.items()}
        if self.pool is not None and self.done > self._first:
            state |= {"pool.points": self.pool.points, "pool.times": self.pool.times}
        return state

    def _shapes(self, done: int) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that :meth:`tensors` gives after ``done`` steps."""
        shapes: dict[str, tuple[int, ...]] = {"generator": tuple(self.generator.get_state().shape)}
        for name, module in self._modules().items():
            shapes |= {f"{name}.{key}": tuple(value.shape) for key, value in module.state_dict().items()}
        for name, optimizer in self._optimizers().items():
            first = self._unopposed if name == "rival" else 0
            for index, weights in enumerate(optimizer.param_groups[0]["params"] if done > first else []):
                both = dict.fromkeys(("exp_avg", "exp_avg_sq"), tuple(weights.shape))
                shapes |= {f"{name}.{index}.{key}": shape for key, shape in (both | {"step": ()}).items()}
        if self.pool is not None and done > self._first:
            size = (self.recipe.pool, self.recipe.levels + 1)
            shapes |= {"pool.points": (*size, *self._draw(1).shape[1:]), "pool.times": size}
        return shapes

    def restore(self, state: dict[str, Tensor], done: int) -> None:
        """Take up the state that :meth:`tensors` gave after ``done`` steps.

        Raises:
            ValueError: a tensor is missing, or another one there, or one has another shape or is not finite.
        """
        check_number(done, "done", 0, self.steps, integer=True)
        wanted, held = self._shapes(done), {key: tuple(value.shape) for key, value in state.items()}
        wrong = [key for key in sorted(wanted.keys() | held.keys()) if wanted.get(key) != held.get(key)]
        wrong += [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
        if wrong:
            raise ValueError(f"tensors are not those of this run, or not finite: {', '.join(wrong[:4])}")
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = value
        self.done = done
        self.generator.set_state(groups["generator"][""])
        for name, module in self._modules().items():
            module.load_state_dict(groups[name])
        for name, optimizer in self._optimizers().items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in groups.get(name, {}).items():
                index, _, moment = key.partition(".")
                moments.setdefault(int(index), {})[moment] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        if self.pool is not None and "pool" in groups:
            self.pool.points, self.pool.times = groups["pool"]["points"], groups["pool"]["times"]


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at ``step`` of ``steps``: linear warm-up over 2%, then half a cosine down to 0."""
    return min(1.0, (step + 1) / (0.02 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def ramped(decay: float, step: int) -> float:
    """``decay``, but no more than ``(1 + step) / (10 + step)``: a young average forgets its first weights quickly."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def move_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    r"""Exponential moving average of the weights: :math:`\bar\theta \leftarrow decay\,\bar\theta + (1 - decay)\,\theta`."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
