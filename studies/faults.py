"""Faults that users of flow-map losses report, each trained beside the run without it, and what the doctor says.

    python -m studies.faults

The small network of the chapter on pitfalls on the ring, 1,000 steps, three seeds; no teacher. One thread, six minutes;
results are kept in studies/faults.json as they come.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.losses import Denoising, Draw, Eulerian, Lagrangian, Models, Objective
from ctm.losses.laws import Batch, derivative, in_output, still
from ctm.metrics import flow_map_error, relative_error
from ctm.models import c_noise
from ctm.noise import Levels, lognormal_times, noised
from ctm.samplers import noise, one_step
from ctm.training import State
from studies.harness import run
from studies.pitfalls import RING, network

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 1000
LOW = 0.1  # in units of the data's spread: the noise level at which the denoiser is looked at


class Dropped(Eulerian):
    r"""The factor :math:`t - r` before the derivative is lost, on the straight path where MeanFlow is written.

    With :math:`u = (z - g)/r`, :math:`v = (z - D)/r` and :math:`dz/dr = v` it is :math:`du/dr = (v - u - dg/dr)/r`. So
    :math:`-r\,(u - v + du/dr) = -(g - D)/t + dg/dr`, and :math:`dg/dr = \frac{(1 + t)^2}{t}\, dg/d\log t` as :math:`r =
    t/(1 + t)`. The factor :math:`(1 + s)/(1 + t)` gives it the weight of the right one.
    """

    def error(self, batch: Batch) -> Tensor:
        xt, t, s = batch[1:4]
        clean = self.clean(batch)
        g = batch.student(xt, t, s)
        with torch.no_grad():
            slope = derivative(batch.target, (xt, t, s), (xt - clean, t, torch.zeros_like(s)), self.step)
        error = (1 + s) / (1 + t) * ((1 + t) ** 2 / t * slope - (g - clean) / t)
        return in_output(still(error, g), batch)


class Dead(Eulerian):
    """Both sides are computed without a gradient."""

    @torch.no_grad()
    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        return super().__call__(models, draw, rng)


class FromPair(Lagrangian):
    """At the end of the jump stands the clean point of the pair, where the denoiser of that place is meant."""

    def error(self, batch: Batch) -> Tensor:
        student, (xt, t, s) = batch.student, batch[1:4]
        slope = derivative(lambda end: student(xt, t, end), (s,), (s,), self.step)
        return in_output(student(xt, t, s) - (1 - s / t) * slope - batch.x0, batch)


def wrong_sign(n: int, model: Levels, rng: torch.Generator) -> Tensor:
    """The mean of the logarithm of t over twice the spread of the data, with its sign turned."""
    right = lognormal_times(n, model, rng)
    return (right * torch.exp(torch.tensor(2.4))).clamp(model.sigma_min, model.sigma_max)


class HalfTimes(ctm.CTM):
    """The times are embedded in bfloat16."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        tau_t, tau_s = (c_noise(time).flatten().expand(len(x)).bfloat16().float() for time in (t, s))
        skip, scale, unit = self.scalings(t)
        return skip * x + scale * self.network(unit * x, tau_t, tau_s)


def meanflow(term: type[Eulerian] = Eulerian, **denoising: Any) -> Callable[[], Objective]:
    return lambda: term(references=256) + Denoising(256, **denoising)


def scm(**choices: Any) -> Callable[[], Objective]:
    return lambda: Eulerian(references=256, to_data=1.0, **choices)


@dataclass
class Variant:
    """A loss and a model; ``control`` names the run without the fault."""

    objective: Callable[[], Objective]
    control: str = ""
    kind: type[ctm.CTM] = ctm.CTM


VARIANTS = {
    "MeanFlow": Variant(meanflow()),
    "factor t - r dropped": Variant(meanflow(Dropped), "MeanFlow"),
    "no gradient on either side": Variant(meanflow(Dead), "MeanFlow"),
    "sign of the lognormal mean": Variant(meanflow(times=wrong_sign), "MeanFlow"),
    "times embedded in bfloat16": Variant(meanflow(), "MeanFlow", HalfTimes),
    "terminal velocity": Variant(lambda: Lagrangian(own=True) + Denoising(256)),
    "conditional for marginal velocity": Variant(lambda: FromPair(own=True) + Denoising(256), "terminal velocity"),
    "continuous-time consistency": Variant(scm(warmup=0.8)),
    "no warm-up of the tangent": Variant(scm(), "continuous-time consistency"),
    "normalised tangent": Variant(scm(power=0.5), "continuous-time consistency"),
}


def trained(variant: str, seed: int, steps: int = STEPS) -> tuple[ctm.CTM, list[float], list[float]]:
    """The averaged model, and the loss and the norm of the gradient at each step."""
    case = VARIANTS[variant]
    state = State(case.kind(network(seed), RING.sigma_data), RING, case.objective(), steps, seed)
    losses, norms = [], []
    for _ in range(steps):
        losses.append(state.step())
        parts = [p.grad.norm() for p in state.models.student.parameters() if p.grad is not None]
        norms.append(float(torch.stack(parts).norm()))
    return state.models.average, losses, norms


def measure(variant: str, seed: int) -> dict[str, Any]:
    """``spike`` is the largest norm of the gradient in the last half of the training over its median there."""
    try:
        model, losses, norms = trained(variant, seed)
    except FloatingPointError:
        return {"error": None}
    rng = torch.Generator().manual_seed(seed)
    x0 = RING.sample(2000, generator=rng)
    t = LOW * RING.sigma_data
    xt = noised(x0, t, rng)
    ends = one_step(model, noise(model, 1000, (2,), generator=rng))
    late = sorted(norms[len(norms) // 2 :])
    report = ctm.doctor(model, RING, n=800, seed=seed)
    return {
        "error": round(flow_map_error(model, RING, n=1000, seed=seed), 3),
        "denoiser": round(relative_error(model.denoiser(xt, t), RING.denoiser(xt, t), t), 3),
        "wide": round(float(ends.std()) / RING.sigma_data, 3),
        "loss": [round(sum(part) / len(part), 4) for part in (losses[:50], losses[-50:])],
        "spike": round(late[-1] / late[len(late) // 2], 1),
        "red": report.red,
    }


def main() -> None:
    run(RESULTS, [{"variant": variant, "seed": seed} for variant in VARIANTS for seed in SEEDS], measure)


if __name__ == "__main__":
    main()
