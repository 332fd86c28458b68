"""The denoising term: g on the diagonal s = t is the mean of the clean points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctm._checks import check_flags, check_number
from ctm.conditional import given
from ctm.flow_map import as_column
from ctm.losses.objective import Draw, Models, Term, balance
from ctm.models import CTM, c_out
from ctm.noise import DrawTimes, lognormal_times, randn
from ctm.samplers import center


def dsm_loss(
    student: CTM,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    references: Tensor | None = None,
    same: Tensor | None = None,
) -> Tensor:
    r"""Denoising score matching (Vincent 2011): the mean per coordinate of

    .. math:: |g_\theta(x_0 + t\,\epsilon,\, t,\, t) - x_0|^2 / c_{out}(t)^2 .

    Its minimiser over all functions is :math:`E[x_0 \mid x_t]`; the weight is EDM's
    :math:`1 / c_{out}^2`. With ``references`` the target :math:`x_0` becomes
    :func:`stable_target`: given :math:`x_t` and the set of :math:`x_0` and them,
    :math:`x_0` is the :math:`j`-th with probability :math:`w_j`, so the mean over the set
    has the same expectation as :math:`x_0` and less variance.

    Args:
        student: the model in training.
        x0: clean points ``(n, *data_shape)``.
        noise: standard normal draws, of the same shape.
        t: noise levels ``(n, 1, ...)``.
        references: more clean points, drawn independently of ``x0``.
        same: which references have the condition of which point; all if None.
    """
    xt = x0 + t * noise
    goal = x0
    if references is not None:
        middle = center(student, x0)
        goal = stable_target(xt, t, x0, references, same, middle)
    return ((student.denoiser(xt, t) - goal) / c_out(t, student.sigma_data)).square().mean()


def stable_target(
    xt: Tensor,
    t: Tensor,
    x0: Tensor,
    references: Tensor,
    same: Tensor | None = None,
    center: float | Tensor = 0.0,
) -> Tensor:
    r"""The stable target field (Xu, Tong and Jaakkola 2023): a mean of clean points, each
    weighted by how likely it would have become :math:`x_t`.

    .. math::

        \sum_j w_j\, y_j, \qquad w_j \propto \exp\bigl(-|x_t - y_j|^2 / 2t^2\bigr), \qquad
        y \in \{x_0\} \cup references

    It is a self-normalised estimate of :math:`E[x_0 \mid x_t]`: at high noise nearly that
    mean, at low noise :math:`x_0` itself. Shapes as in :func:`dsm_loss`; ``same`` is ``(n,
    m)``, False where a reference belongs to another class than the point and must not
    count. Points are measured from ``center``: far from 0, squares swallow differences.
    """
    flat, own, others = ((part - center).flatten(1) for part in (xt, x0, references))

    def half_square(y: Tensor) -> Tensor:
        return y.square().sum(1) / 2

    # half precision would round the logits
    with torch.autocast(xt.device.type, enabled=False):
        # log w_j up to a constant in j: |x|^2 is left out of |x - y|^2
        own_logit = (flat * own).sum(1) - half_square(own)
        others_logit = flat @ others.T - half_square(others)
        if same is not None:
            others_logit = others_logit.masked_fill(~same, -torch.inf)
        logits = torch.cat([own_logit[:, None], others_logit], 1)
        weights = (logits / t.reshape(-1, 1) ** 2).softmax(1)
        mean = weights[:, :1] * own + weights[:, 1:] @ others
        return center + mean.reshape(xt.shape)


@dataclass(repr=False, eq=False)
class Denoising(Term):
    r"""Denoising score matching (:func:`dsm_loss`), which teaches :math:`g(x, t, t) = D(x,
    t)`.

    A model trained with this term alone is an EDM denoiser (Karras et al. 2022), a learned
    teacher. Strengths of guidance play no part: a class has clean points, a strength has
    none.
    """

    references: int = 1024
    """Further clean points that steady the target (:func:`stable_target`); 0 for none."""
    times: DrawTimes = lognormal_times
    """How noise levels are drawn (:mod:`ctm.noise`)."""
    adaptive: bool = False
    """Multiply by the ratio of two gradients' norms at the last layer, that of the first
    term of the sum over this one's (Kim et al. 2024)."""

    def __post_init__(self) -> None:
        check_number(self.references, "references", 0, integer=True)
        check_flags(self, "adaptive")

    def __call__(self, models: Models, draw: Draw, rng: torch.Generator) -> Tensor:
        x0, condition = draw.clean()
        t = as_column(self.times(len(x0), models.student, rng), x0)
        noise = randn(x0.shape, rng, dtype=x0.dtype, device=x0.device)
        references = same = None
        if self.references:
            references, same = draw.references(self.references, condition)
        loss = dsm_loss(given(models.student, condition), x0, noise, t, references, same)
        return balance(models, loss) * loss if self.adaptive else loss
