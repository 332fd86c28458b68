"""Gaussian mixtures: data whose noised density, score, denoiser and flow map are all known exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctm._checks import check_held, check_number, check_order, check_points, check_times
from ctm.flow_map import FlowMap, Time
from ctm.oracle import integrate

CHUNK = 2**17  # numbers in the largest (samples x components) table held at once: 1 MB in float64, within a core's cache


class GaussianMixture(FlowMap):
    r"""Data :math:`p_{data} = \sum_k w_k N(\mu_k, c_k^2 I)`, and the exact truth about its diffusion.

    Adding noise keeps a mixture a mixture, :math:`p_t = \sum_k w_k N(\mu_k, (c_k^2 + t^2) I)`, so that density, score and
    denoiser are sums over components; they are computed in float64 whatever the dtype of ``x``. The flow map is their
    integral (:func:`ctm.oracle.integrate`), each step to 1e-9 of ``sigma_data``.

    Args:
        means: component means, shape ``(k, *data_shape)``.
        stds: component standard deviations, one number or ``(k,)``, above 0.
        weights: component weights ``(k,)``, not negative, normalised here; equal if None.

    Raises:
        TypeError, ValueError: a wrong type, shape or value; the message names the argument.
    """

    def __init__(self, means: Any, stds: Any, weights: Any = None) -> None:
        means = _numbers(means, "means")
        if means.ndim < 2 or not means.numel():
            raise ValueError(f"means must have shape (k, *data_shape), got {tuple(means.shape)}")
        k = len(means)
        stds = _numbers(stds, "stds")
        if stds.ndim and stds.shape != (k,):
            raise ValueError(f"stds must be one number or have shape ({k},), got {tuple(stds.shape)}")
        weights = torch.ones(k, dtype=torch.float64) if weights is None else _numbers(weights, "weights")
        if weights.shape != (k,):
            raise ValueError(f"weights must have shape ({k},), got {tuple(weights.shape)}")
        if not torch.isfinite(means).all():
            raise ValueError("means must be finite, got NaN or infinite values")
        if not (torch.isfinite(stds).all() and bool((stds > 0).all())):
            raise ValueError(f"stds must be finite and above 0, got values from {stds.min():g} to {stds.max():g}")
        if not (torch.isfinite(weights).all() and bool((weights >= 0).all()) and weights.sum() > 0):
            raise ValueError(f"weights must be finite, not negative and not all 0, got {weights.tolist()}")
        self.means = means
        self.stds = stds.expand(k).clone()
        self.weights = weights / weights.sum()
        self.shape = means.shape[1:]
        self._mu = means.reshape(k, -1)
        self._mu_squared = self._mu.square().sum(1)
        self._pairing = torch.cat([-2 * self._mu, torch.ones(k, 1, dtype=torch.float64)], 1).T
        self._c = self.stds[:1] if bool((self.stds == self.stds[0]).all()) else self.stds  # one column if all are equal
        self.sigma_data = self._spread()
        self.sigma_min, self.sigma_max = time_range(self.sigma_data)

    def _spread(self) -> float:
        """Standard deviation of the data, averaged over coordinates: the sigma_data of EDM.

        To twelve digits: those beyond depend on the order in which a processor sums, and everything here on this number.
        """
        centre = self.weights @ self._mu
        between = ((self._mu - centre) ** 2).mean(1)
        return float(f"{math.sqrt(float(self.weights @ (between + self.stds**2))):.12g}")

    def sample(self, n: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw ``n`` points from the data, shape ``(n, *data_shape)``."""
        check_number(n, "n", 1, integer=True)
        pick = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn((n, *self.shape), generator=generator, dtype=torch.float64)
        stds = self.stds[pick].reshape(-1, *[1] * len(self.shape))
        return (self.means[pick] + stds * noise).to(dtype)

    def log_prob(self, x: Tensor, t: Time = 0.0) -> Tensor:
        r""":math:`\log p_t(x)` in nats, shape ``(n,)``; ``t = 0`` is the data itself."""
        flat, time = self._flat(x, t)
        log_terms = [self._log_terms(xs, ts)[0].logsumexp(1) for xs, ts in self._chunks(flat, time)]
        return torch.cat(log_terms).to(x.dtype)

    def score(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`\nabla_x \log p_t(x) = \sum_k r_k(x, t) (\mu_k - x) / (c_k^2 + t^2)`, where :math:`r_k` is the
        probability that ``x`` came from component ``k``. Defined at ``t = 0`` too. Shape of ``x``."""
        flat, time = self._flat(x, t)
        return self._score(flat, time).reshape(x.shape).to(x.dtype)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D(x, t) = E[x_0 \mid x_t = x] = x + t^2 \nabla_x \log p_t(x)`. Shape of ``x``."""
        flat, time = self._flat(x, t)
        return torch.addcmul(flat, time**2, self._score(flat, time)).reshape(x.shape).to(x.dtype)

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`dx/dt = -t \nabla_x \log p_t(x)`, the probability-flow ODE, without the division by ``t`` that would
        lose digits near 0. Shape of ``x``."""
        flat, time = self._flat(x, t)
        return (-time * self._score(flat, time)).reshape(x.shape).to(x.dtype)

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        r"""The exact :math:`G(x, t, s)`, any :math:`t \ge s \ge 0`: where the trajectory through ``(x, t)`` is at ``s``."""
        flat, t_col = self._flat(x, t)
        s_col = check_times(s, flat, "s", dtype=torch.float64)
        check_order(t_col, s_col)
        pairs = [flat, t_col.expand(len(flat), 1), s_col.expand(len(flat), 1)]
        rows = max(1, CHUNK // flat.shape[1])  # of the integration's own tables; the score minds its chunks itself
        scale = float(self.stds.min())
        parts = [
            integrate(lambda y, u: -u * self._score(y, u), y, start, end, scale, 1e-9 * self.sigma_data)
            for y, start, end in zip(*(part.split(rows) for part in pairs), strict=True)
        ]
        return torch.cat(parts).reshape(x.shape).to(x.dtype)

    def _flat(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Checked points ``(n, d)`` and times ``(n or 1, 1)`` in float64."""
        flat = check_points(x, "x", self.shape).reshape(len(x), -1).to(torch.float64)
        return flat, check_times(t, flat, "t")

    def _chunks(self, flat: Tensor, time: Tensor) -> list[tuple[Tensor, Tensor]]:
        rows = max(1, CHUNK // len(self.stds))
        times = time.expand(len(flat), 1).split(rows) if len(time) > 1 else [time] * -(-len(flat) // rows)
        return list(zip(flat.split(rows), times, strict=True))

    def _log_terms(self, flat: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """``log w_k N(x; mu_k, v_k)``, shape ``(n, k)``, and ``v_k = c_k^2 + t^2``, which broadcasts against it."""
        variance = self._c**2 + time**2
        # |x - mu|^2 by a matrix product; its cancellation is harmless in float64 for data near 0
        lengths = flat.square().sum(1, keepdim=True)
        terms = torch.addmm(self._mu_squared, torch.cat([flat, lengths], 1), self._pairing)
        terms *= -0.5 / variance  # in place, here and below: a new table would cost more than the product
        terms -= 0.5 * flat.shape[1] * torch.log(2 * torch.pi * variance)
        terms += self.weights.log()
        return terms, variance

    def _score(self, flat: Tensor, time: Tensor) -> Tensor:
        result = torch.empty_like(flat)  # filled piece by piece: pieces held between the tables would tear the heap apart
        done = 0
        for xs, ts in self._chunks(flat, time):
            log_terms, variance = self._log_terms(xs, ts)
            result[done : done + len(xs)] = self._pull(log_terms.softmax(1), variance, xs)
            done += len(xs)
        return result

    def _pull(self, share: Tensor, variance: Tensor, x: Tensor) -> Tensor:
        """``sum_k share_k (mu_k - x) / v_k`` for shares ``(n, k)`` that sum to 1."""
        if variance.shape[1] == 1:  # all components are equally wide: one division at the end
            return (share @ self._mu - x) / variance
        pull = share / variance
        return pull @ self._mu - pull.sum(1, keepdim=True) * x


def _numbers(value: Any, name: str) -> Tensor:
    try:
        table = value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))  # Python floats in float64
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must hold numbers, got {value!r}") from error
    if table.is_complex() or table.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got dtype {table.dtype}")
    check_held(table, name)
    return table.to(torch.float64)


def time_range(sigma_data: float) -> tuple[float, float]:
    r""":math:`[\sigma_{min}, \sigma_{max}] = [0.004, 20]\,\sigma_{data}`, the range of noise levels used in the book.

    At ``sigma_data = 0.5`` this is EDM's 0.002 below and 10 above: at 20 times the data's spread, noise hides them.
    """
    return 0.004 * sigma_data, 20.0 * sigma_data
