r"""Inductive moment matching: jumps from two levels must have one distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctm._checks import check_number
from ctm.losses.laws import Law
from ctm.losses.objective import Draw, Models


@dataclass(repr=False, eq=False)
class MomentMatching(Law):
    r"""Inductive moment matching (Zhou et al. 2025): in groups of :math:`M` points that
    share their times, the squared maximum mean discrepancy

    .. math:: \frac{1}{M^2} \sum_{i,j} k(y_i, y_j) - 2 k(y_i, y'_j) + k(y'_i, y'_j), \qquad
        y = G_\theta(x_t, t, s), \quad y' = G_{sg}(x_u, u, s),

    with the Laplace kernel :math:`k(y, y') = \exp(-|y - y'| / (d\,c_{out}(t)(1 - s/t)))`
    in :math:`d` dimensions, and :math:`x_u = x_0 + u\,\epsilon` a little below: :math:`u =
    t - (\sigma_{max} - \sigma_{min})/2^k`, by ``t/100`` at least, and not below ``s``.

    It asks for the right distribution at ``s``, not for the right point: a map that sends
    points elsewhere, but as many to every place, has no loss. So the flow map is one
    minimiser of many. Points of different classes are not compared. The weight of a law
    (``power``, ``floor``) plays no part.
    """

    group: int = 16
    """Points :math:`M` that are compared with one another."""
    k: float = 8.0
    r"""How near ``u`` is to ``t``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.group, "group", 2, integer=True)
        check_number(self.k, "k", 0, 30)

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        batch = self.batch(models, draw, rng, self.group)
        check_number(self.group, "group", 2, len(batch.xt), integer=True)
        student, (xt, t, s) = batch.student, batch[1:4]
        step = (student.sigma_max - student.sigma_min) / 2**self.k
        # a step of less than a hundredth of t would be lost in rounding
        u = torch.maximum(t - torch.maximum(t.new_tensor(step), 0.01 * t), s)
        ours = student.jump(xt, t, s)
        with torch.no_grad():
            xu = u / t * xt + (1 - u / t) * self.clean(batch)
            theirs = batch.target.jump(xu, u, s)
            scale = student.output_scale(t, s)
        whole = len(xt) // self.group * self.group
        a, b = (
            (y / scale).flatten(1)[:whole].unflatten(0, (-1, self.group))
            for y in (ours, theirs)
        )
        same = None
        if batch.condition is not None:
            told = batch.condition[:whole].reshape(len(a), self.group, -1)
            same = (told[:, :, None] == told[:, None]).all(3)
        return discrepancy(a, b, same).mean()


def discrepancy(a: Tensor, b: Tensor, same: Tensor | None = None) -> Tensor:
    r"""Squared maximum mean discrepancy of two groups ``(groups, M, d)`` with the kernel
    :math:`\exp(-|y - y'|/d)`; a point's distance to itself counts. Shape ``(groups,)``.

    Where points have a condition, ``same`` says which of a group share theirs, ``(groups,
    M, M)``: the kernel of two others is 0, which compares points and conditions jointly."""
    shared = 1.0 if same is None else same.to(a.dtype)

    def kernel(y: Tensor, z: Tensor) -> Tensor:
        apart = (y[:, :, None] - z[:, None]).square().sum(3)
        near = torch.exp(-(apart + 1e-8).sqrt() / y.shape[2])
        return (shared * near).mean((1, 2))

    return kernel(a, a) - 2 * kernel(a, b) + kernel(b, b)
