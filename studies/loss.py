"""What each choice in CTM's loss does: the kind of consistency, where it is compared, the target's average, the teacher's
solver, and denoising score matching.

    python -m studies.loss

One choice at a time, 2,000 steps on the ring with the exact teacher, three seeds. One thread, about twenty minutes;
results are kept in studies/loss.json as they come.
"""

import time
from pathlib import Path
from typing import Any

import torch

import ctm
from ctm.metrics import error_table, flow_map_error
from ctm.solvers import euler_step
from studies import regimes
from studies.harness import run

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
STEPS = 2000
WORLD = ctm.data.ring()
LEVELS = (10.0, 2.0, 0.5, 0.2, 0.05, 0.002)
# name of the variant: choices of regimes.distil
VARIANTS: dict[str, dict[str, Any]] = {
    "global at s": {},
    "soft at s": {"kind": "soft"},
    "local at s": {"kind": "local"},
    "global at x0": {"compare": "x0"},
    "soft at x0": {"kind": "soft", "compare": "x0"},
    "local at x0": {"kind": "local", "compare": "x0"},
    "local, target EMA 0.9": {"kind": "local", "target_ema": 0.9},
    "local, target EMA 0.99": {"kind": "local", "target_ema": 0.99},
    "local, target EMA 0.999": {"kind": "local", "target_ema": 0.999},
    "local, 24 levels": {"kind": "local", "levels": 24},
    "local, 24 levels, EMA 0.9": {"kind": "local", "levels": 24, "target_ema": 0.9},
    "local, 24 levels, EMA 0.99": {"kind": "local", "levels": 24, "target_ema": 0.99},
    "soft, target EMA 0.999": {"kind": "soft", "target_ema": 0.999},
    "DSM 0.1": {"dsm": 0.1, "beside": {"references": 0}},
    "DSM 1": {"dsm": 1.0, "beside": {"references": 0}},
    "DSM 1, adaptive": {"dsm": 1.0, "beside": {"references": 0, "adaptive": True}},
    "DSM 1, stable target": {"dsm": 1.0},
    "Euler, 12 levels": {"step": euler_step, "levels": 12},
    "Euler, 24 levels": {"step": euler_step, "levels": 24},
    "Euler, 96 levels": {"step": euler_step},
    "Heun, 12 levels": {"levels": 12},
    "as in the paper": {
        "kind": "soft",
        "compare": "x0",
        "target_ema": 0.999,
        "dsm": 1.0,
        "beside": {"references": 0, "adaptive": True},
        "levels": 18,
        "continuous": False,
    },
}


def measure(variant: str, seed: int, steps: int = STEPS) -> dict[str, Any]:
    student = regimes.model(WORLD, seed)
    started = time.process_time()
    regimes.distil(student, WORLD, WORLD, steps, seed, **VARIANTS[variant])
    seconds = time.process_time() - started
    generator = torch.Generator().manual_seed(1)
    x0 = WORLD.sample(2000, generator=generator)
    xt = x0 + 0.3 * torch.randn(x0.shape, generator=generator)
    with torch.no_grad():
        difference = student.denoiser(xt, 0.3) - WORLD.denoiser(xt, 0.3)
    return {
        "error": round(flow_map_error(student, WORLD), 5),
        "table_error": round(float(error_table(student, WORLD, LEVELS, n=1000).nanmean()), 5),
        "denoiser_error": round(float((difference.square().sum() / x0.square().sum()).sqrt()), 5),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    jobs = [{"variant": variant, "seed": seed} for seed in SEEDS for variant in VARIANTS]
    run(RESULTS, jobs, measure)


if __name__ == "__main__":
    main()
