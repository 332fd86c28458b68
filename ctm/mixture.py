"""Gaussian mixtures: data whose noised density, score, denoiser and flow map are exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ctm import noise
from ctm._checks import check_held, check_jump, check_number, check_points, check_times
from ctm.flow_map import FlowMap, Time, as_column
from ctm.oracle import integrate

CHUNK = 2**17  # numbers in the largest table at once: 1 MB in float64, a core's cache
WIDE = 1e5  # spread over smallest std from which distances by a matrix product lose digits
FEW = 32  # components up to which softmax is quicker down the columns, on processors
Rng = torch.Generator | None
Held = TypeVar("Held")


class GaussianMixture(FlowMap):
    r"""Data :math:`p_{data} = \sum_k w_k N(\mu_k, c_k^2 I)`, and the exact truth about its
    diffusion.

    Adding noise keeps a mixture a mixture,
    :math:`p_t = \sum_k w_k N(\mu_k, (c_k^2 + t^2) I)`, so that density, score and denoiser
    are sums over components. They are computed in float64 whatever the dtype of ``x``, and
    about the mean of the data. The flow map is their integral
    (:func:`ctm.oracle.integrate`), each step to 1e-9 of ``sigma_data``.

    Args:
        means: component means ``(k, *data_shape)``. Their device is the world's.
        stds: component standard deviations, one number or ``(k,)``, above 0.
        weights: component weights ``(k,)``, not negative, normalised here; equal if None.

    Attributes:
        shape: of one point.
        center: the mean of the data, of that shape; 0.0 where it is next to nothing.

    Raises:
        TypeError, ValueError: a wrong type, shape or value; the message names the argument.
    """

    def __init__(self, means: Any, stds: Any, weights: Any = None) -> None:
        means = numbers(means, "means")
        if means.ndim < 2 or not means.numel():
            shape = tuple(means.shape)
            raise ValueError(f"means must have shape (k, *data_shape), got {shape}")
        k = len(means)
        stds = numbers(stds, "stds").to(means.device)
        weights = means.new_ones(k) if weights is None else numbers(weights, "weights")
        for name, table in (("stds", stds), ("weights", weights)):
            if table.shape != (k,) and (name == "weights" or table.ndim):
                raise ValueError(f"{name} must have shape ({k},), got {tuple(table.shape)}")
        if not means.isfinite().all():
            raise ValueError("means must be finite, got NaN or infinite values")
        if not (stds.isfinite().all() and (stds > 0).all()):
            raise ValueError(f"stds must be finite and above 0, got {ends(stds)}")
        if not (weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
            allowed = "finite, not negative and not all 0"
            raise ValueError(f"weights must be {allowed}, got {ends(weights)}")
        self.means, self.stds = means, stds.expand(k).clone()
        self.shape = tuple(means.shape[1:])
        self.weights = (weights / weights.sum()).to(means.device)
        equal = bool((self.stds == self.stds[0]).all())
        self._c = self.stds[:1] if equal else self.stds  # one column where one will do
        flat = means.reshape(k, -1)
        mean = self.weights @ flat
        variance = float(self.weights @ (((flat - mean) ** 2).mean(1) + self.stds**2))
        # EDM's sigma_data, the spread averaged over coordinates, to twelve digits: those
        # beyond depend on the order in which a processor sums.
        self.sigma_data = float(f"{math.sqrt(variance):.12g}")
        self.sigma_min, self.sigma_max = time_range(self.sigma_data, len(mean))
        centred = float(mean.norm()) < 1e-9 * self.sigma_data
        self._centre(0.0 if centred else mean.reshape(self.shape))

    def _centre(self, center: float | Tensor) -> None:
        """Measure points from ``center``: far from 0, squares swallow differences."""
        self.center = center
        self._mu = (self.means - center).reshape(len(self.means), -1)
        self._mu_squared = self._mu.square().sum(1)
        self._pairing = torch.cat([-2 * self._mu, torch.ones_like(self._mu[:, :1])], 1).T
        self._wide = float(self._mu.abs().max()) > WIDE * float(self.stds.min())

    def to(self, device: torch.device | str) -> Self:
        """The same world with its tables on ``device``."""
        return moved(self, device)

    def sample(
        self, n: int, *, generator: Rng = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw ``n`` points from the data, ``(n, *data_shape)``. Without a dtype in
        float32, or float64 where float32 is coarser than 1e-4 of the smallest std."""
        return self._draw(n, generator, dtype)[0]

    def noised(self, n: int, t: Time, rng: Rng) -> Tensor:
        r"""Draw ``n`` points :math:`x_t = x_0 + t\,\epsilon`, ``t`` a number or
        ``(n,)``."""
        x0 = self.sample(n, generator=rng)
        return noise.noised(x0, check_times(t, x0), rng)

    def _draw(self, n: int, rng: Rng, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Points ``(n, *data_shape)`` and the components ``(n,)`` that they came from."""
        n = check_number(n, "n", 1, integer=True)
        rounding = torch.finfo(torch.float32).eps * self.means.abs().max()
        fine = bool(rounding <= 1e-4 * self.stds.min())
        weights = self.weights.to(noise.home(rng))
        pick = torch.multinomial(weights, n, replacement=True, generator=rng)
        pick = pick.to(self.means.device)
        means = self.means[pick]
        x = noise.randn_like(means, rng).mul_(as_column(self.stds[pick], means)).add_(means)
        return x.to(dtype or (torch.float32 if fine else torch.float64)), pick

    def log_prob(self, x: Tensor, t: Time = 0.0) -> Tensor:
        r""":math:`\log p_t(x)` in nats, shape ``(n,)``; ``t = 0`` is the data itself."""
        chunks = self._chunks(*self._flat(x, t))
        parts = [self._log_terms(*part)[0].logsumexp(1) for part in chunks]
        return torch.cat(parts).to(x.dtype)

    def score(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`\nabla_x \log p_t(x) = \sum_k r_k(x, t) (\mu_k - x) / (c_k^2 + t^2)`,
        with :math:`r_k` the probability that ``x`` came from component ``k``. Defined at
        ``t = 0`` too. Shape of ``x``."""
        flat, time = self._flat(x, t)
        return self._score(flat, time).reshape(x.shape).to(x.dtype)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D(x, t) = E[x_0 \mid x_t = x] = x + t^2 \nabla_x \log p_t(x)`."""
        flat, time = self._flat(x, t)
        return self._as_given(torch.addcmul(flat, time**2, self._score(flat, time)), x)

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`dx/dt = -t \nabla_x \log p_t(x)`, the probability-flow ODE, without the
        division by ``t`` that would lose digits near 0. Shape of ``x``."""
        flat, time = self._flat(x, t)
        return (-time * self._score(flat, time)).reshape(x.shape).to(x.dtype)

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        r"""The exact :math:`G(x, t, s)`, any :math:`t \ge s \ge 0`: where the trajectory
        through ``(x, t)`` is at ``s``. Shape of ``x``."""
        return self._integrate(lambda y, u: -u * self._score(y, u), x, t, s)

    def _integrate(
        self, velocity: Callable[..., Tensor], x: Tensor, t: Time, s: Time, *extra: Tensor
    ) -> Tensor:
        flat, _ = self._flat(x, t)
        t_col, s_col = check_jump(flat, t, s)
        columns = [part.expand(len(flat), -1) for part in (flat, t_col, s_col, *extra)]
        rows = max(1, CHUNK // flat.shape[1])  # of the integrator's own tables
        scale, tolerance = float(self.stds.min()), 1e-9 * self.sigma_data
        parts = [
            integrate(velocity, y, start, end, scale, tolerance, tuple(more))
            for y, start, end, *more in zip(*(c.split(rows) for c in columns), strict=True)
        ]
        still = as_column(t_col == s_col, x).bool()  # these are x itself, not rounded
        return torch.where(still, x, self._as_given(torch.cat(parts), x))

    def _flat(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Checked points ``(n, d)`` from the centre and times ``(n or 1, 1)``, in
        float64."""
        if check_points(x, "x", self.shape).device != self.means.device:
            where = f"on {self.means.device}, got {x.device}; move one with .to(device)"
            raise ValueError(f"x must be where the world is, {where}")
        flat = (x.to(torch.float64) - self.center).flatten(1)
        return flat, check_times(t, flat, "t")

    def _as_given(self, flat: Tensor, x: Tensor) -> Tensor:
        """Points from the centre with the origin, shape and dtype of ``x``."""
        return (flat.reshape(x.shape) + self.center).to(x.dtype)

    def _chunks(self, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Rows of points and of what goes with them, so many that their tables stay
        small."""
        rows = max(1, CHUNK // (self._mu.numel() if self._wide else len(self._mu)))
        for i in range(0, len(columns[0]), rows):
            yield tuple(c if len(c) == 1 else c[i : i + rows] for c in columns)

    def _log_terms(self, flat: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """``log w_k N(x; mu_k, v_k)``, shape ``(n, k)``, and ``v_k = c_k^2 + t^2``, which
        broadcasts against it."""
        variance = self._c**2 + time**2
        if self._wide:
            terms = (flat[:, None] - self._mu).square().sum(2)
        else:  # |x - mu|^2 by a matrix product
            lengths = flat.square() @ torch.ones_like(flat[0])  # summing short rows is slow
            joined = torch.cat([flat, lengths[:, None]], 1)
            terms = torch.addmm(self._mu_squared, joined, self._pairing)
        terms *= -0.5 / variance  # in place: a new table would cost more than the product
        terms -= 0.5 * flat.shape[1] * torch.log(2 * torch.pi * variance)
        terms += self.weights.log()
        return terms, variance

    def _score(self, flat: Tensor, time: Tensor) -> Tensor:
        result = torch.empty_like(flat)  # filled piece by piece, which needs less memory
        done = 0
        for xs, ts in self._chunks(flat, time):
            log_terms, variance = self._log_terms(xs, ts)
            result[done : done + len(xs)] = self._pull(shares(log_terms), variance, xs)
            done += len(xs)
        return result

    def _pull(self, share: Tensor, variance: Tensor, x: Tensor) -> Tensor:
        """``sum_k share_k (mu_k - x) / v_k`` for shares ``(n, k)`` that sum to 1."""
        if self._wide:
            return ((share / variance)[:, :, None] * (self._mu - x[:, None])).sum(1)
        if variance.shape[1] == 1:  # all components are equally wide: divide at the end
            return (share @ self._mu - x) / variance
        pull = share / variance
        return pull @ self._mu - pull.sum(1, keepdim=True) * x


def shares(log_terms: Tensor) -> Tensor:
    r""":math:`r_k = e^{l_k} / \sum_j e^{l_j}` over the components, for ``(n, k)``."""
    if log_terms.shape[1] > FEW:
        return log_terms.softmax(1)
    return log_terms.T.softmax(0).T


def plain_denoiser(
    x: Tensor, t: float, means: Tensor, stds: Tensor, weights: Tensor
) -> Tensor:
    r"""The denoiser of :class:`GaussianMixture` written as its formula, to be read:

    .. math:: D(x, t) = \sum_k r_k\, \frac{c_k^2\, x + t^2 \mu_k}{c_k^2 + t^2}, \qquad
        r_k \propto w_k\, N(x; \mu_k, (c_k^2 + t^2) I)

    for points ``(n, d)``, means ``(k, d)``, standard deviations and weights ``(k,)``.
    """
    variance = stds**2 + t**2
    squared = (x[:, None] - means).square().sum(2)  # (n, k): from each point to each mean
    density = -squared / (2 * variance) - x.shape[1] / 2 * variance.log()
    share = (weights.log() + density).softmax(1)  # r_k
    own = stds[:, None] ** 2 * x[:, None] + t**2 * means
    return (share[:, :, None] * own / variance[:, None]).sum(1)


def numbers(value: Any, name: str) -> Tensor:
    """A copy of ``value`` in float64: a tensor, lists, or NumPy's of any layout, any bytes.

    Raises TypeError or ValueError where it does not hold real numbers or some are masked.
    """
    if isinstance(value, Tensor):
        check_held(value, name)
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
        return value.detach().to(torch.float64, copy=True)
    parts = value if isinstance(value, list | tuple) else [value]  # a list of masked rows
    if masked := sum(np.ma.count_masked(v) for v in parts if np.ma.is_masked(v)):
        raise ValueError(f"{name} must hold no masked values, got {masked} of them")
    try:
        table = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"got {type(value).__name__}"
        raise TypeError(f"{name} must be numbers, in rows of one length; {got}") from error
    if table.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {table.dtype}")
    return torch.from_numpy(np.array(table, dtype=np.float64, order="C"))


def moved(held: Held, device: torch.device | str) -> Held:
    """A shallow copy of an object with all its tensors on ``device``."""
    there = copy.copy(held)
    for name, value in vars(held).items():
        if isinstance(value, Tensor):
            setattr(there, name, value.to(device))
    return there


def time_range(sigma_data: float, dimension: int = 1) -> tuple[float, float]:
    r""":math:`[\sigma_{min}, \sigma_{max}] = [0.004, \max(20, \sqrt{6 d})]\,\sigma_{data}`.

    At ``sigma_data = 0.5`` this is EDM's 0.002 below and 10 above. A sampler starts from
    the noise alone. In :math:`d` dimensions the divergence of the noised data from it,
    whatever is told of the data (a class), is at most :math:`d\, \sigma_{data}^2 / 2
    \sigma_{max}^2` nats on average: 1/400 in 2 dimensions, and never above 1/12.
    """
    return 0.004 * sigma_data, max(20.0, math.sqrt(6 * dimension)) * sigma_data


def ends(table: Tensor) -> str:
    """How an error tells of a table without printing it."""
    return f"values from {float(table.min()):g} to {float(table.max()):g}"
