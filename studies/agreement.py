"""Do the package's solvers agree with those of a library written by others?

    pip install diffusers==0.42.1
    python -m studies.agreement

Each scheduler of diffusers chooses its own noise levels; the package's sampler is then walked through the same levels, from
the same points, over the exact denoiser of the ring. The largest difference of any coordinate after 20 steps is kept in
studies/agreement.json. The schedulers compute in float32 at places, so about 1e-6 is all that can be expected. diffusers
is not needed for anything else.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ctm
from ctm.samplers import euler, heun, multistep
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
WORLD = ctm.data.ring()
STEPS = 20


def start(sigma: float) -> Tensor:
    return sigma * torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_euler() -> tuple[Tensor, Tensor]:
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    x = first = start(float(scheduler.sigmas[0]))
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        x = scheduler.step((x - WORLD.denoiser(x, sigma)) / sigma, t, x).prev_sample.double()
    return x, euler(WORLD, first, scheduler.sigmas)


def by_ddim() -> tuple[Tensor, Tensor]:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(STEPS)
    alphas = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = ((1 - alphas) / alphas).sqrt()
    first = start(float(sigmas[0]))
    z = first * alphas[0].sqrt()  # in these variables points shrink while they are noised
    for t, alpha, sigma in zip(scheduler.timesteps, alphas, sigmas, strict=True):
        z = scheduler.step(WORLD.denoiser(z / alpha.sqrt(), float(sigma)), t, z).prev_sample
    return z, euler(WORLD, first, [*sigmas.tolist(), 0.0])


def by_heun() -> tuple[Tensor, Tensor]:
    from diffusers import HeunDiscreteScheduler

    scheduler = HeunDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    x = first = start(float(scheduler.sigmas[0]))
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        x = scheduler.step((x - WORLD.denoiser(x, sigma)) / sigma, t, x).prev_sample.double()
    return x, heun(WORLD, first, list(dict.fromkeys(scheduler.sigmas.tolist())))


def by_multistep() -> tuple[Tensor, Tensor]:
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="sample",
        use_karras_sigmas=True,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double()
    alphas = 1 / (1 + sigmas**2).sqrt()
    first = start(float(sigmas[0]))
    z = first * alphas[0]
    for i, t in enumerate(scheduler.timesteps):
        z = scheduler.step(WORLD.denoiser(z / alphas[i], float(sigmas[i])), t, z).prev_sample
    levels = list(dict.fromkeys(sigmas.tolist()))  # the last level is named twice: a step of no length
    return z / alphas[-1], multistep(WORLD, first, levels)


SCHEDULERS = {
    "EulerDiscreteScheduler": by_euler,
    "DDIMScheduler": by_ddim,
    "HeunDiscreteScheduler": by_heun,
    "DPMSolverMultistepScheduler": by_multistep,
}


def measure(scheduler: str) -> dict[str, Any]:
    import diffusers

    theirs, ours = SCHEDULERS[scheduler]()
    return {"diffusers": diffusers.__version__, "largest_difference": float(f"{(theirs - ours).abs().max():.1e}")}


if __name__ == "__main__":
    run(RESULTS, [{"scheduler": name} for name in SCHEDULERS], measure)
