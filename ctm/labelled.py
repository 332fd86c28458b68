"""Mixtures whose components have classes: exact given a class, and guided towards it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctm._checks import check_number
from ctm.flow_map import FlowMap, Time
from ctm.mixture import GaussianMixture, Rng, ends, numbers, shares

NO_LABEL = -1
"""The label of a sample that may belong to any class."""

Condition = int | Tensor | None
"""A class for all samples, one for each ``(n,)``, or classes and strengths of guidance
``(n, 2)``; None and -1 stand for any class."""


class LabelledMixture(GaussianMixture):
    r"""A mixture of which each component belongs to one class :math:`c`, so that
    :math:`p(x \mid c)` is again a mixture.

    As a :class:`ctm.mixture.GaussianMixture` it is the world without regard to classes.

    Args:
        means, stds, weights: as there.
        labels: the class of each component, whole numbers 0, 1, ... of shape ``(k,)``, each
            class at least once.

    Attributes:
        classes: the number of classes.

    Raises:
        TypeError, ValueError: a wrong type, shape or value; the message names the argument.
    """

    def __init__(self, means: Any, stds: Any, labels: Any, weights: Any = None) -> None:
        super().__init__(means, stds, weights)
        self.labels, self.classes = check_labels(labels, len(self.means))
        self.labels = self.labels.to(self.means.device)
        share = self.weights.new_zeros(self.classes).index_add(0, self.labels, self.weights)
        if not bool(share.all()):
            raise ValueError(f"weights must give each class some, got {share.tolist()}")

    def of_class(self, label: int) -> GaussianMixture:
        r"""The world of one class,
        :math:`p(x \mid c) \propto \sum_{k \in c} w_k N(\mu_k, c_k^2 I)`, with the noise
        levels, the ``sigma_data`` and the ``center`` of the whole."""
        own = self.labels == check_number(label, "label", 0, self.classes - 1, integer=True)
        world = GaussianMixture(self.means[own], self.stds[own], self.weights[own])
        world.sigma_data = self.sigma_data
        world.sigma_min, world.sigma_max = self.sigma_min, self.sigma_max
        world._centre(self.center)
        return world

    def sample_labelled(self, n: int, *, generator: Rng = None) -> tuple[Tensor, Tensor]:
        """Draw ``n`` points with their classes: ``(n, *data_shape)`` and ``(n,)``."""
        points, component = self._draw(n, generator, None)
        return points, self.labels[component]

    def class_probabilities(self, x: Tensor, t: Time = 0.0) -> Tensor:
        r""":math:`p(c \mid x_t = x)` for every class, shape ``(n, classes)``, in float64:
        what the best classifier of noised points would say."""
        members = torch.nn.functional.one_hot(self.labels, self.classes).to(torch.float64)
        chunks = self._chunks(*self._flat(x, t))
        return torch.cat([shares(self._log_terms(*part)[0]) @ members for part in chunks])

    def given(self, condition: Condition, w: float | Tensor | None = None) -> GuidedMixture:
        r"""The world of a class with classifier-free guidance of strength ``w``: 1 (or
        None) is the class itself, 0 the whole. See :func:`read_condition`."""
        return GuidedMixture(self, condition, w)

    def guided_score(self, flat: Tensor, time: Tensor, label: Tensor, w: Tensor) -> Tensor:
        r""":math:`(1 - w)\, \nabla \log p_t(x) + w\, \nabla \log p_t(x \mid c)`, as a sum
        over components.

        Each component pulls with :math:`(1 - w)\, r_k + w\, r_k^c`, its probability given
        ``x``, and given ``x`` and ``c``. Points ``(n, d)`` are measured from ``center``;
        the others are ``(n, 1)``, all in float64 but the labels.
        """
        parts = []
        for x, t, c, strength in self._chunks(flat, time, label, w):
            log_terms, variance = self._log_terms(x, t)
            foreign = (c != self.labels) & (c != NO_LABEL)
            own = shares(log_terms.masked_fill(foreign, -torch.inf))
            share = (1 - strength) * shares(log_terms) + strength * own
            parts.append(self._pull(share, variance, x))
        return torch.cat(parts)


class GuidedMixture(FlowMap):
    r"""The exact denoiser :math:`D_w = D + w\,(D_c - D)` of classifier-free guidance (Ho
    and Salimans 2022), where :math:`D_c(x, t) = E[x_0 \mid x_t = x, c]`, and the exact flow
    map of the ODE that it drives.

    For :math:`w = 1` that is the flow map of :math:`p(x \mid c)`. For other :math:`w` it is
    the truth about a teacher, not about any data: no density is known whose flow map it
    would be.

    Args:
        world: the labelled world.
        condition, w: as :func:`read_condition` takes them.
    """

    def __init__(
        self, world: LabelledMixture, condition: Condition, w: float | Tensor | None = None
    ) -> None:
        self.world, self.shape, self.center = world, world.shape, world.center
        self.sigma_data = world.sigma_data
        self.sigma_min, self.sigma_max = world.sigma_min, world.sigma_max
        label, strength = read_condition(condition, w, world.classes)
        self.label, self.w = label.to(world.means.device), strength.to(world.means.device)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D_w(x, t) = x + t^2\, s_w(x, t)`, with the guided score :math:`s_w`."""
        flat, time = self.world._flat(x, t)
        time = time.expand(len(flat), 1)
        pull = self.world.guided_score(flat, time, *self._columns(x))
        return self.world._as_given(flat + time**2 * pull, x)

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        r"""Where the guided trajectory through ``(x, t)`` is at ``s``. Shape of ``x``."""

        def velocity(y: Tensor, u: Tensor, label: Tensor, w: Tensor) -> Tensor:
            return -u * self.world.guided_score(y, u, label, w)

        return self.world._integrate(velocity, x, t, s, *self._columns(x))

    def _columns(self, x: Tensor) -> list[Tensor]:
        """The class and the strength of each sample, ``(n, 1)``."""
        for name, table in (("condition", self.label), ("w", self.w)):
            if len(table) not in (1, len(x)):
                raise ValueError(f"{name} holds {len(table)} values, x {len(x)} points")
        return [table[:, None].expand(len(x), 1) for table in (self.label, self.w)]


def read_condition(condition: Any, w: Any, classes: int) -> tuple[Tensor, Tensor]:
    """Classes (int64, -1 for any) and strengths (float64), each ``(1,)`` or ``(n,)``.

    Args:
        condition: None, a class, labels ``(n,)``, or classes and strengths ``(n, 2)``.
        w: a strength or one for each sample, where ``condition`` has none; 1 if None.
        classes: how many there are.

    Raises:
        TypeError, ValueError: no such class, or a strength that is negative or not finite.
    """
    label = numbers(NO_LABEL if condition is None else condition, "condition")
    if label.ndim == 2 and label.shape[1] == 2:
        if w is not None:
            raise ValueError("w must be None where condition (n, 2) holds the strengths")
        label, w = label.unbind(1)
    strength = numbers(1.0 if w is None else w, "w")
    if label.ndim > 1 or not label.numel():
        shape = tuple(label.shape)
        raise ValueError(
            f"condition must be None, a class, (n,) or (n, 2), got shape {shape}"
        )
    if bool((label != label.round()).any()):
        raise TypeError(f"condition must be whole numbers, got {ends(label)}")
    if bool((label < NO_LABEL).any()) or bool((label >= classes).any()):
        allowed = f"in [0, {classes - 1}], or -1 for any"
        raise ValueError(f"condition must be a class {allowed}, got {ends(label)}")
    if strength.ndim > 1 or not strength.numel():
        shape = tuple(strength.shape)
        raise ValueError(f"w must be one number or one per sample, got shape {shape}")
    if not (bool(torch.isfinite(strength).all()) and bool((strength >= 0).all())):
        raise ValueError(f"w must be finite and not negative, got {ends(strength)}")
    if 1 != label.numel() != strength.numel() != 1:
        held = f"w {strength.numel()}"
        raise ValueError(f"condition holds {label.numel()} values, {held}")
    return label.reshape(-1).to(torch.int64), strength.reshape(-1)


def check_labels(labels: Any, n: int) -> tuple[Tensor, int]:
    """The classes of ``n`` samples as int64, and how many there are; raise unless they are
    whole numbers from 0 on, each used at least once."""
    table = numbers(labels, "labels")
    if table.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {tuple(table.shape)}")
    if bool((table != table.round()).any()):
        raise TypeError(f"labels must be whole numbers, got {ends(table)}")
    used = table.unique()
    if float(used[0]) != 0 or float(used[-1]) != len(used) - 1:
        got = f"{len(used)} of them, {ends(table)}"
        raise ValueError(f"labels must use every class from 0 on, got {got}")
    return table.to(torch.int64), len(used)
