"""The two terms of CTM's loss, and the weight that balances them."""

from __future__ import annotations

import torch
from torch import Tensor

from ctm._checks import check_choice
from ctm.models import CTM, c_out
from ctm.pairs import Pairs

COMPARE = ("s", "x0")


def consistency_loss(student: CTM, target: CTM, pairs: Pairs, compare: str = "s") -> Tensor:
    r"""The jump :math:`G_\theta(x_t, t, s)` against the teacher's step to ``u`` followed by the target's jump to ``s``.

    .. math::

        x_{est} = G_\theta(x_t, t, s), \qquad x_{target} = G_{sg}\bigl(Solver(x_t, t, u), u, s\bigr)

    and the loss is the mean of :math:`|x_{est} - x_{target}|^2` per coordinate, in units of
    :math:`c_{out}(t)^2 (1 - s/t)^2`, which for ``compare="s"`` makes it the squared error of the network's own output.
    With ``compare="x0"`` both points first jump on to ``sigma_min`` by the target, as in the paper's soft consistency
    matching (Kim et al. 2024); the gradient then flows through the target's jump to the student's, so the target must be
    a model whose weights require none.

    Args:
        student: the model in training.
        target: the same model with the weights to be held still. For "s" it may be the student itself.
        pairs: the batch.
        compare: "s" or "x0".
    """
    check_choice(compare, "compare", COMPARE)
    xt, t, xu, u, s = pairs
    estimate = student.G(xt, t, s)
    with torch.no_grad():
        goal = target.G(xu, u, s) if bool((u > s).any()) else xu
    if compare == "x0":
        estimate = target.G(estimate, s, target.sigma_min)
        with torch.no_grad():
            goal = target.G(goal, s, target.sigma_min)
    return ((estimate - goal) / student.output_scale(t, s)).square().mean()


def dsm_loss(student: CTM, x0: Tensor, noise: Tensor, t: Tensor, references: Tensor | None = None) -> Tensor:
    r"""Denoising score matching (Vincent 2011).

    The mean of :math:`|g_\theta(x_0 + t\,\epsilon, t, t) - x_0|^2 / c_{out}(t)^2` per coordinate.

    Its minimiser over all functions is :math:`E[x_0 \mid x_t]`; the weight is EDM's :math:`1 / c_{out}^2`. With
    ``references`` the target :math:`x_0` becomes :func:`stable_target`: given :math:`x_t` and the set of all candidates,
    :math:`x_0` is the :math:`j`-th with probability :math:`w_j`, so the mean over candidates has the same expectation as
    :math:`x_0` and less variance. The references must be drawn independently of :math:`x_0`.

    Args:
        student: the model in training.
        x0: clean points ``(n, *data_shape)``.
        noise: standard normal draws, of the same shape.
        t: noise levels ``(n, 1, ...)``.
        references: more clean points, drawn independently.
    """
    xt = x0 + t * noise
    goal = x0 if references is None else stable_target(xt, t, x0, references)
    return ((student.denoiser(xt, t) - goal) / c_out(t, student.sigma_data)).square().mean()


def stable_target(xt: Tensor, t: Tensor, x0: Tensor, references: Tensor) -> Tensor:
    r"""The stable target field (Xu, Tong and Jaakkola 2023): a mean of clean points, each weighted by how likely it
    would have become :math:`x_t`.

    .. math::

        \sum_j w_j\, y_j, \qquad w_j \propto \exp\bigl(-|x_t - y_j|^2 / 2t^2\bigr), \qquad y \in \{x_0\} \cup references

    It is a self-normalised estimate of :math:`E[x_0 \mid x_t]`: at high noise nearly that mean, at low noise
    :math:`x_0` itself. Shapes as in :func:`dsm_loss`.
    """
    flat, own, others = (part.reshape(len(part), -1) for part in (xt, x0, references))

    def half_square(y: Tensor) -> Tensor:
        return y.square().sum(1) / 2

    # log w_j up to a constant in j: |x|^2 is left out of |x - y|^2
    own_logit = (flat * own).sum(1) - half_square(own)
    logits = torch.cat([own_logit[:, None], flat @ others.T - half_square(others)], 1)
    weights = (logits / t.reshape(-1, 1) ** 2).softmax(1)
    return (weights[:, :1] * own + weights[:, 1:] @ others).reshape(xt.shape)


def adaptive_weight(main: Tensor, auxiliary: Tensor, last_layer: Tensor) -> Tensor:
    r""":math:`\lambda = |\nabla_{\theta_L} L_{main}| / |\nabla_{\theta_L} L_{aux}|` at the last layer's weights
    :math:`\theta_L`, with no gradient (Esser et al. 2021; Kim et al. 2024)."""
    norms = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (main, auxiliary)]
    return (norms[0] / norms[1].clamp_min(1e-12)).detach()
