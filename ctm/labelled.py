"""Mixtures whose components carry class labels: the conditional worlds, and the guided ones, are exact too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctm._checks import check_number, check_order, check_points, check_times
from ctm.flow_map import FlowMap, Time
from ctm.mixture import CHUNK, GaussianMixture
from ctm.oracle import integrate

NO_LABEL = -1
"""The label of a sample that may belong to any class."""

Label = int | Tensor | None
"""One class for all samples or, as a tensor ``(n,)``, one for each; None and -1 stand for any class."""


class LabelledMixture(GaussianMixture):
    r"""A mixture of which each component belongs to one class :math:`c`, so that :math:`p(x \mid c)` is again a mixture.

    As a :class:`ctm.mixture.GaussianMixture` it is the world without regard to classes.

    Args:
        means, stds, weights: as there.
        labels: the class of each component, whole numbers 0, 1, ... of shape ``(k,)``, each class at least once.

    Attributes:
        classes: the number of classes.
    """

    def __init__(self, means: Any, stds: Any, labels: Any, weights: Any = None) -> None:
        super().__init__(means, stds, weights)
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.shape != (len(self.means),):
            raise ValueError(f"labels must be {len(self.means)} whole numbers, got {labels.dtype} {tuple(labels.shape)}")
        self.classes = int(labels.max()) + 1
        if sorted(set(labels.tolist())) != list(range(self.classes)):
            raise ValueError(f"labels must use every class from 0 on, got {sorted(set(labels.tolist()))}")
        self.labels = labels.to(torch.int64)

    def of_class(self, label: int) -> GaussianMixture:
        r"""The world of one class, :math:`p(x \mid c) \propto \sum_{k \in c} w_k N(\mu_k, c_k^2 I)`, with the noise levels
        and the ``sigma_data`` of the whole."""
        check_number(label, "label", 0, self.classes - 1, integer=True)
        own = self.labels == label
        world = GaussianMixture(self.means[own], self.stds[own], self.weights[own])
        world.sigma_data, world.sigma_min, world.sigma_max = self.sigma_data, self.sigma_min, self.sigma_max
        return world

    def sample_labelled(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw ``n`` points with their classes: shapes ``(n, *data_shape)`` and ``(n,)``."""
        check_number(n, "n", 1, integer=True)
        pick = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn((n, *self.shape), generator=generator, dtype=torch.float64)
        stds = self.stds[pick].reshape(-1, *[1] * len(self.shape))
        return (self.means[pick] + stds * noise).float(), self.labels[pick]

    def class_probabilities(self, x: Tensor, t: Time = 0.0) -> Tensor:
        r""":math:`p(c \mid x_t = x)` for every class, shape ``(n, classes)``, in float64: what the best classifier of noised
        points would say."""
        flat, time = self._flat(x, t)
        members = torch.nn.functional.one_hot(self.labels, self.classes).to(torch.float64)
        return torch.cat([self._log_terms(xs, ts)[0].softmax(1) @ members for xs, ts in self._chunks(flat, time)])

    def given(self, label: Label, w=None) -> GuidedMixture:
        label, w = split_condition(label, w)
        return GuidedMixture(self, label, w)
    def given_(self, label: Label, w: float | Tensor = 1.0) -> GuidedMixture:
        r"""The world of a class with classifier-free guidance of strength ``w``: 1 is the class itself, 0 the whole."""
        return GuidedMixture(self, label, w)

    def guided_score(self, flat: Tensor, time: Tensor, label: Tensor, w: Tensor) -> Tensor:
        r""":math:`(1 - w)\, \nabla \log p_t(x) + w\, \nabla \log p_t(x \mid c)`, as a sum over components.

        Each component pulls with :math:`(1 - w)\, r_k + w\, r_k^c`, its probability given ``x``, and given ``x`` and ``c``.
        All in float64: points ``(n, d)``, the others ``(n, 1)``.
        """
        parts = []
        for x, t, c, strength in zip(
            *(part.split(max(1, CHUNK // len(self.stds))) for part in (flat, time, label, w)), strict=True
        ):
            log_terms, variance = self._log_terms(x, t)
            foreign = (c != self.labels) & (c != NO_LABEL)
            share = (1 - strength) * log_terms.softmax(1) + strength * log_terms.masked_fill(foreign, -torch.inf).softmax(1)
            parts.append(self._pull(share, variance, x))
        return torch.cat(parts)


class GuidedMixture(FlowMap):
    r"""The exact denoiser :math:`D_w = D + w\,(D_c - D)` of classifier-free guidance (Ho and Salimans 2022), where
    :math:`D_c(x, t) = E[x_0 \mid x_t = x, c]`, and the exact flow map of the ODE that it drives.

    For :math:`w = 1` that is the flow map of :math:`p(x \mid c)`. For other :math:`w` it is the truth about a teacher, not
    about any data: no density is known whose flow map it would be.

    Args:
        world: the labelled world.
        label: the class, or one for each sample.
        w: strength of guidance, not negative, or one for each sample.
    """

    def __init__(self, world: LabelledMixture, label: Label, w: float | Tensor = 1.0) -> None:
        self.world = world
        self.sigma_data, self.sigma_min, self.sigma_max = world.sigma_data, world.sigma_min, world.sigma_max
        self.label, self.w = check_label(label, world.classes), check_strength(w)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`D_w(x, t) = x + t^2\, s_w(x, t)`, with the guided score :math:`s_w`. Shape of ``x``."""
        flat, time, label, w = self._columns(x, t)
        return (flat + time**2 * self.world.guided_score(flat, time, label, w)).reshape(x.shape).to(x.dtype)

    def G(self, x: Tensor, t: Time, s: Time) -> Tensor:  # noqa: N802
        r"""Where the guided trajectory through ``(x, t)`` is at ``s``. Shape of ``x``."""
        flat, start, label, w = self._columns(x, t)
        end = check_times(s, flat, "s", dtype=torch.float64).expand(len(flat), 1)
        check_order(start, end, ("s", "t"))
        d = flat.shape[1]

        def velocity(z: Tensor, u: Tensor) -> Tensor:  # label and strength ride along and stand still
            return torch.cat([-u * self.world.guided_score(z[:, :d], u, z[:, d : d + 1], z[:, d + 1 :]), 0 * z[:, d:]], 1)

        state = torch.cat([flat, label, w], 1)
        rows = max(1, CHUNK // d)
        scale, tolerance = float(self.world.stds.min()), 1e-9 * self.sigma_data
        parts = [
            integrate(velocity, z, u, v, scale, tolerance)
            for z, u, v in zip(*(whole.split(rows) for whole in (state, start, end)), strict=True)
        ]
        return torch.cat(parts)[:, :d].reshape(x.shape).to(x.dtype)

    def _columns(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        flat = check_points(x, "x", self.world.shape).reshape(len(x), -1).to(torch.float64)
        for name, value in (("label", self.label), ("w", self.w)):
            if len(value) not in (1, len(x)):
                raise ValueError(f"{name} holds {len(value)} values, x {len(x)} points")
        columns = (check_times(t, flat, "t"), self.label.to(torch.float64)[:, None], self.w.to(torch.float64)[:, None])
        time, label, w = (column.expand(len(flat), 1) for column in columns)
        return flat, time, label, w


def check_label(label: Label, classes: int) -> Tensor:
    """``label`` as whole numbers, shape ``(1,)`` or ``(n,)``, -1 for none; raise unless each names a class or none."""
    labels = torch.as_tensor(NO_LABEL if label is None else label)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim > 1 or not labels.numel():
        raise TypeError(f"label must be a whole number, a tensor (n,) of them, or None, got {label!r}")
    if bool((labels < NO_LABEL).any()) or bool((labels >= classes).any()):
        raise ValueError(f"label must lie in [0, {classes - 1}] or be -1 for none, got {labels.tolist()}")
    return labels.reshape(-1)


def check_strength(w: float | Tensor) -> Tensor:
    """``w`` as a tensor ``(1,)`` or ``(n,)``; raise unless it is finite and not negative."""
    strength = torch.as_tensor(w, dtype=torch.get_default_dtype())
    if strength.ndim > 1 or not strength.numel():
        raise ValueError(f"w must be one number or one per sample, got shape {tuple(strength.shape)}")
    if not bool(torch.isfinite(strength).all()) or bool((strength < 0).any()):
        raise ValueError(f"w must be finite and not negative, got values from {strength.min():g} to {strength.max():g}")
    return strength.reshape(-1)

Condition = Label
def split_condition(condition, w=None, classes=10**6):
    if isinstance(condition, Tensor) and condition.ndim == 2:
        return check_label(condition[:,0].long(), classes), check_strength(condition[:,1])
    return check_label(condition, classes), check_strength(1.0 if w is None else w)
