"""Sampling under a linear constraint, and from a guide under partial noise: two edits that
need no training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctm._checks import check_number, check_points, check_schedule
from ctm.flow_map import FlowMap
from ctm.mixture import GaussianMixture, numbers
from ctm.noise import rand, randn_like
from ctm.samplers import Times, center, gamma_sampling


class LinearConstraint:
    r"""The constraint :math:`A x = y`, with orthonormal rows, :math:`A A^T = I`.

    Inpainting, super-resolution and colourisation differ in :math:`A` alone
    (:func:`inpainting`, :func:`superresolution`, :func:`colourisation`). :math:`A^T y` is
    the shortest point that meets the constraint, and :math:`x + A^T (y - A x)` the nearest
    to :math:`x`.

    Args:
        matrix: :math:`A`, shape ``(m, d)`` with ``m < d``; a point has ``d`` numbers in
            all. It is copied, in float64, and goes where the points are.
        shape: the shape of a point, ``(d,)`` if None.

    Raises:
        TypeError: ``matrix`` holds no numbers.
        ValueError: the rows are not orthonormal, or the sizes do not agree.
    """

    def __init__(self, matrix: Any, shape: tuple[int, ...] | None = None) -> None:
        self.matrix = numbers(matrix, "matrix").cpu()
        if self.matrix.ndim != 2 or not 0 < self.matrix.shape[0] < self.matrix.shape[1]:
            got = tuple(self.matrix.shape)
            raise ValueError(f"matrix must have shape (m, d) with 0 < m < d, got {got}")
        m, d = self.matrix.shape
        if not bool(((self.matrix @ self.matrix.T - _eye(m)).abs() < 1e-9).all()):
            raise ValueError(
                "matrix must have orthonormal rows: matrix @ matrix.T is not I"
            )
        self.shape = (d,) if shape is None else tuple(shape)
        if torch.Size(self.shape).numel() != d:
            raise ValueError(f"shape must hold {d} numbers, got {self.shape}")
        # (d - m, d): an orthonormal basis of what A does not see
        self.plane = torch.linalg.svd(self.matrix).Vh[m:]

    def measure(self, x: Tensor) -> Tensor:
        r""":math:`y = A x`, shape ``(n, m)``."""
        return check_points(x, "x", self.shape).reshape(len(x), -1) @ self.matrix.T.to(x)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        r""":math:`x + A^T (y - A x)`: the measured part replaced by ``y``, the rest kept.
        Shape of ``x``."""
        return x + ((y.to(x) - self.measure(x)) @ self.matrix.to(x)).reshape(x.shape)

    def conditional(self, world: GaussianMixture, y: Tensor) -> GaussianMixture:
        r"""The exact :math:`p(z \mid A x = y)` for one ``y`` of shape ``(m,)``;
        :math:`z = B x` is the place in the plane.

        :math:`A x` and :math:`z` are independent within a component, so that

        .. math::

            p(z \mid y) \propto
            \sum_k w_k\, N(y;\, A \mu_k, c_k^2 I)\; N(z;\, B \mu_k, c_k^2 I) .
        """
        if y.shape != self.matrix.shape[:1]:
            wanted = f"({len(self.matrix)},)"
            raise ValueError(f"y must have shape {wanted}, got {tuple(y.shape)}")
        means = world.means.reshape(len(world.means), -1)
        away = (means @ self.matrix.T.to(means) - y.to(means)).square().sum(1)
        logits = world.weights.log() - away / (2 * world.stds**2)
        logits = logits - len(self.matrix) * world.stds.log()
        return GaussianMixture(
            means @ self.plane.T.to(means), world.stds, logits.softmax(0)
        )

    def lift(self, z: Tensor, y: Tensor) -> Tensor:
        r"""The point :math:`A^T y + B^T z`. Shape ``(n, *shape)``."""
        return (y.to(z) @ self.matrix.to(z) + z @ self.plane.to(z)).reshape(-1, *self.shape)


def inpainting(known: Tensor) -> LinearConstraint:
    """The coordinates where the mask ``known`` is True are given; its shape is that of a
    point. TypeError unless it is a tensor of True and False."""
    if not isinstance(known, Tensor) or known.dtype != torch.bool:
        raise TypeError("known must be a torch.Tensor of True and False")
    return LinearConstraint(_eye(known.numel())[known.flatten().cpu()], tuple(known.shape))


def superresolution(side: int, block: int) -> LinearConstraint:
    """The means of ``block`` x ``block`` pixels of a square image are given, times
    ``block``, so that rows have norm 1."""
    side = check_number(side, "side", 2, integer=True)
    block = check_number(block, "block", 2, side, integer=True)
    if side % block:
        raise ValueError(f"block must divide side, got {block} and {side}")
    average = _eye(side // block).repeat_interleave(block, 1) / block**0.5
    return LinearConstraint(torch.kron(average, average), (side, side))


def colourisation(shape: tuple[int, ...], channels: int = 3) -> LinearConstraint:
    r"""The mean over the channels of each pixel, times :math:`\sqrt{channels}`, is given;
    points have shape ``(channels, *shape)``."""
    channels = check_number(channels, "channels", 2, integer=True)
    pixels = torch.Size(shape).numel()
    grey = torch.full((1, channels), channels**-0.5, dtype=torch.float64, device="cpu")
    return LinearConstraint(torch.kron(grey, _eye(pixels)), (channels, *shape))


def _eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64, device="cpu")


@torch.no_grad()
def constrained_sampling(
    flow_map: FlowMap,
    constraint: LinearConstraint,
    y: Tensor,
    times: Times,
    repeats: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Samples that meet :math:`A x = y` exactly, by the editing algorithm of consistency
    models (Song et al. 2023, algorithm 4).

    From the point of :math:`A x = y` nearest to the ``center`` of the data (:math:`A^T y`
    where that is 0), at each noise level :math:`t`, ``repeats`` times over:

    .. math::

        x \leftarrow G(x + t\,\epsilon,\, t,\, \sigma_{min}), \qquad
        x \leftarrow x + A^T (y - A x) .

    It needs no training and no gradient. It samples :math:`p(x \mid A x = y)` only in the
    limit of small ``t`` and many repeats, where it is Langevin dynamics on the plane
    :math:`A x = y`.

    Args:
        flow_map: an exact, solved or learned flow map.
        constraint: :math:`A`.
        y: one measurement for each sample, shape ``(n, m)``.
        times: decreasing noise levels above 0, one or more.
        repeats: rounds at each level.
        generator: source of the noise.

    Returns:
        Points of shape ``(n, *data_shape)``.
    """
    check_points(y, "y", (len(constraint.matrix),))
    repeats = check_number(repeats, "repeats", 1, integer=True)
    start = y.new_zeros(len(y), *constraint.shape)
    x = constraint.project(start + center(flow_map, start), y)
    for t in check_schedule([*times, 0.0])[:-1]:
        for _ in range(repeats):
            x = flow_map.G(x + t * randn_like(x, generator), t, flow_map.sigma_min)
            x = constraint.project(x, y)
    return x


def partial_noise(
    flow_map: FlowMap,
    guide: Tensor,
    times: Times,
    gamma: float = 0.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Make a rough ``guide`` look like data (SDEdit; Meng et al. 2022): noise it to
    ``times[0]``, then sample from there.

    .. math:: x_{t_0} = x_{guide} + t_0\,\epsilon, \qquad x = G(x_{t_0}, t_0, \sigma_{min})

    or, in more jumps, gamma-sampling from :math:`x_{t_0}`.

    Args:
        flow_map: an exact, solved or learned flow map.
        guide: points ``(n, *data_shape)``.
        times: decreasing noise levels, two or more.
        gamma: as in :func:`ctm.samplers.gamma_sampling`.
        generator: source of the noise.
    """
    check_points(guide, "guide")
    levels = check_schedule(times)
    start = guide + levels[0] * randn_like(guide, generator)
    return gamma_sampling(flow_map, start, levels, gamma, generator=generator)


def accept(
    log_ratio: Tensor,
    log_bound: float | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Rejection: keep a sample with probability :math:`r(x) / M`. Where :math:`r = p/q`
    and the samples come from :math:`q`, those kept are samples of :math:`p`.

    Args:
        log_ratio: :math:`\log r(x)` of each sample, up to a constant, shape ``(n,)``.
        log_bound: :math:`\log M \ge \log r`; the largest ``log_ratio`` given if None, as in
            discriminator rejection sampling (Azadi et al. 2019), which is right only as the
            samples become many.
        generator: source of the decisions.

    Returns:
        True where a sample is kept, shape ``(n,)``.

    Raises:
        TypeError, ValueError: ``log_ratio`` is no table of floating point numbers, holds
            NaN or infinity (minus infinity is allowed: never keep), or exceeds
            ``log_bound``.
    """
    if not isinstance(log_ratio, Tensor) or not log_ratio.is_floating_point():
        raise TypeError(f"log_ratio must be a floating torch.Tensor, got {type(log_ratio)}")
    if log_ratio.ndim != 1 or not log_ratio.numel():
        raise ValueError(f"log_ratio must have shape (n,), got {tuple(log_ratio.shape)}")
    top = float(log_ratio.max())  # NaN if any is
    bound = check_number(top if log_bound is None else log_bound, "log_bound or log_ratio")
    if not top <= bound + 1e-9:
        raise ValueError(f"log_ratio must not exceed log_bound = {bound:g}, got {top:g}")
    chance = (log_ratio - bound).exp()
    fine = torch.promote_types(chance.dtype, torch.float32)  # half precision draws 0 often
    return rand(chance.shape, generator, dtype=fine, device=chance.device) < chance
