"""What several tests share."""

import torch
from torch import nn

import ctm
from ctm.models import c_in, c_out, c_skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weights_of(model):
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


def noised(world, t, n=64, seed=0, dtype=torch.float64):
    """Points x_t = x_0 + t eps."""
    g = generator(seed)
    x0 = world.sample(n, generator=g, dtype=dtype)
    return x0 + t * torch.randn(x0.shape, generator=g, dtype=dtype)


def rho_fraction(t, low, high):
    """The inverse of ctm.noise.rho_time: 0 at high, 1 at low."""
    return (high ** (1 / 7) - t ** (1 / 7)) / (high ** (1 / 7) - low ** (1 / 7))


class ExactNetwork(nn.Module):
    """The network that would make a CTM exact: it undoes the preconditioning around the oracle's g."""

    def __init__(self, world):
        super().__init__()
        self.world = world
        self.scale = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))  # something to differentiate by

    def forward(self, x_in, tau_t, tau_s):
        t, s = torch.exp(4 * tau_t), torch.exp(4 * tau_s)
        column = [-1] + [1] * (x_in.ndim - 1)
        sd = self.world.sigma_data
        t_col, s_col = t.reshape(column), s.reshape(column)
        x = x_in / c_in(t_col, sd)
        same = (t - s).abs() <= 1e-9 * t
        ratio = s_col / t_col
        with torch.no_grad():
            away = (self.world.G(x, t, torch.minimum(s, t)) - ratio * x) / torch.where(same.reshape(column), 1.0, 1 - ratio)
            g = torch.where(same.reshape(column), self.world.denoiser(x, t), away)
        return self.scale * (g - c_skip(t_col, sd) * x) / c_out(t_col, sd)


class AffineMap(ctm.FlowMap):
    """The flow map of the 1-D Gaussian N(0.5, 0.5^2) in closed form."""

    sigma_min, sigma_max, sigma_data = 0.002, 10.0, 0.5

    def G(self, x, t, s):
        return 0.5 + (x - 0.5) * ((0.25 + s**2) / (0.25 + t**2)) ** 0.5

    def denoiser(self, x, t):
        return (0.5 * t**2 + 0.25 * x) / (0.25 + t**2)


def exact_ctm(world):
    return ctm.CTM(ExactNetwork(world), world.sigma_data)


def wrongly_answered(function, good, argument, bad):
    """What each bad value of an argument got that is not a TypeError or ValueError which names the argument."""
    wrong = []
    for name, value in bad.items():
        try:
            function(**(good | {argument: value}))
        except (TypeError, ValueError) as error:
            if argument not in str(error):
                wrong.append(f"{name}: {type(error).__name__} does not name it: {str(error)[:90]}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:90]}")
        else:
            wrong.append(f"{name}: accepted")
    return wrong
