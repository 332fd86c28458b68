import torch
from ctm._checks import check_number
from ctm.schedules import rho_time, karras_times, RHO
from collections.abc import Callable
DrawTimes = Callable[..., torch.Tensor]
def randn(shape, rng, *, dtype=torch.float32, device="cpu"): return torch.randn(shape, generator=rng, dtype=dtype)
def rand(shape, rng, *, dtype=torch.float32, device="cpu"): return torch.rand(shape, generator=rng, dtype=dtype)
def randint(high, shape, rng, *, device="cpu"): return torch.randint(high, shape, generator=rng)
def rho_times(n, model, rng):
    low, high = model.sigma_min, model.sigma_max
    return rho_time(rand((n,), rng), low, high).clamp(low, high)
def lognormal_times(n, model, rng):
    import math
    return torch.exp(math.log(2*model.sigma_data)-1.2+randn((n,), rng)).clamp(model.sigma_min, model.sigma_max)
