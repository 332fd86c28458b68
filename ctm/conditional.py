"""Models that are told a condition, a class and a strength of guidance, and data that have
one."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ctm._checks import check_number
from ctm.flow_map import Conditional, Data, Denoiser, as_column
from ctm.labelled import NO_LABEL, Condition, read_condition
from ctm.models import CTM
from ctm.noise import rand


class ConditionalCTM(CTM):
    r"""A family of flow maps :math:`G_\theta(x, t, s \mid c, w)` in one network.

    :meth:`given` fixes the condition and returns a plain :class:`ctm.models.CTM` over the
    same weights, so that losses, samplers and metrics need not know of conditions. Without
    it the model is the unconditional one, learned only where labels are hidden
    (:class:`Guided`). For a condition of another kind than a class and a strength override
    :meth:`embedding`.

    Args:
        network: a network with ``conditions`` one more than there are classes.
        sigma_data, sigma_min, sigma_max, options: as for :class:`ctm.models.CTM`.

    Raises:
        ValueError: the network is not told enough numbers.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, sigma_data, sigma_min, sigma_max, **options)
        told = getattr(network, "conditions", 0)
        if told < 2:
            raise ValueError(
                f"network must have conditions >= 2, the classes and one for w, got {told}"
            )
        self.classes = told - 1

    def given(self, condition: Condition, w: float | Tensor | None = None) -> CTM:
        r"""The model for one condition, or for one of each per sample: a class, labels
        ``(n,)``, a table ``(n, 2)`` of labels and strengths, or None. ``w`` has no meaning
        without a class."""
        network = _WithCondition(self.network, self.embedding(condition, w))
        levels = self.sigma_data, self.sigma_min, self.sigma_max
        model = CTM(network, *levels, shape=self.shape)
        # as they are: the constructor would copy them to the processor at every step
        model.center, model.shift, model.scale = self.center, self.shift, self.scale
        return model

    def embedding(self, condition: Condition, w: float | Tensor | None = None) -> Tensor:
        """What the network sees, shape ``(n or 1, classes + 1)``: the class as a one-hot
        vector, all zeros where there is none, followed by :math:`w - 1`."""
        labels, strength = read_condition(condition, w, self.classes)
        device = next(self.parameters()).device
        labels, strength = labels.to(device), strength.to(device, torch.float32)
        named = (labels >= 0)[:, None]
        one_hot = nn.functional.one_hot(labels.clamp_min(0), self.classes) * named
        rows = max(len(labels), len(strength))
        told = ((strength[:, None] - 1) * named).expand(rows, 1)
        return torch.cat([one_hot.expand(rows, -1), told], 1)


class _WithCondition(nn.Module):
    """The network with its condition fixed; the weights are shared."""

    def __init__(self, network: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.network, self.condition = network, condition

    def forward(self, x: Tensor, tau_t: Tensor, tau_s: Tensor) -> Tensor:
        return self.network(x, tau_t, tau_s, self.condition.to(x.dtype))


class Labelled(Data, Protocol):
    """Data with classes: a labelled world, labelled points."""

    def sample_labelled(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]: ...


class Guided:
    r"""Data whose condition is a class and a strength of guidance :math:`w`, for training.

    A student told both learns to jump along the trajectories of the guided denoiser
    :math:`D_w` of its teacher (:class:`GuidedModel`, or an exact labelled world), so that
    one call of the student is one guided sample.

    Args:
        data: points with classes.
        strengths: range of :math:`w`, drawn uniformly.
        drop: share of the labels hidden, so that the case without a class is learned too.

    Raises:
        TypeError, ValueError: an argument is not as said; the message names it.
    """

    def __init__(
        self, data: Labelled, strengths: tuple[float, float] = (1.0, 1.0), drop: float = 0.0
    ) -> None:
        if not callable(getattr(data, "sample_labelled", None)):
            kind = type(data).__name__
            raise TypeError(f"data must have a method sample_labelled, got {kind}")
        if not isinstance(strengths, tuple | list) or len(strengths) != 2:
            raise TypeError(f"strengths must be two numbers, got {strengths!r}")
        low = check_number(strengths[0], "strengths[0]", 0)
        self.strengths = low, check_number(strengths[1], "strengths[1]", low)
        self.drop = check_number(drop, "drop", 0, 1)
        self.data = data

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Points alone, shape ``(n, *data_shape)``."""
        return self.data.sample(n, generator=generator)

    def sample_labelled(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Points and their labels ``(n,)``, -1 where hidden."""
        x0, label = self.data.sample_labelled(n, generator=generator)
        hidden = rand((n,), generator, device=label.device) < self.drop
        return x0, label.masked_fill(hidden, NO_LABEL)

    def sample_conditioned(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Points and a table ``(n, 2)`` of labels and strengths."""
        x0, label = self.sample_labelled(n, generator=generator)
        low, high = self.strengths
        w = low + (high - low) * rand((n,), generator, device=label.device)
        return x0, torch.stack([label.to(w.dtype), w], 1)

    def __getattr__(self, name: str) -> object:
        if name in ("shape", "classes", "sigma_data", "center", "shift", "scale"):
            return getattr(self.data, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")


class GuidedModel:
    r"""Classifier-free guidance (Ho and Salimans 2022) of a conditional model that also
    knows the unconditional case:

    .. math:: D_w(x, t) = D(x, t) + w\,\bigl(D_c(x, t) - D(x, t)\bigr) .

    :math:`w = 0` is the unconditional denoiser, :math:`w = 1` the conditional one; beyond 1
    it extrapolates. (In the paper's own letters this is :math:`(1 + w')\, D_c - w'\, D`,
    with :math:`w' = w - 1`.)

    Args:
        model: a model whose ``given(label)`` has a denoiser for each class and for None.
    """

    def __init__(self, model: Conditional) -> None:
        self.model = model

    def given(self, condition: Condition, w: float | Tensor | None = None) -> Denoiser:
        """An object with the guided ``denoiser``; each call costs two of the model."""
        labels, strength = read_condition(condition, w, self.model.classes)
        return GuidedDenoiser(self.model.given(labels), self.model.given(None), strength)


class GuidedDenoiser:
    r"""The denoiser :math:`D_w` of :class:`GuidedModel` for one condition."""

    def __init__(self, conditional: Denoiser, unconditional: Denoiser, w: Tensor) -> None:
        self.conditional, self.unconditional, self.w = conditional, unconditional, w

    def denoiser(self, x: Tensor, t: float | Tensor) -> Tensor:
        r""":math:`D_w(x, t)`, shape of ``x``."""
        whole = self.unconditional.denoiser(x, t)
        if self.w.numel() not in (1, len(x)):
            raise ValueError(f"w holds {self.w.numel()} values, x {len(x)} points")
        return whole + as_column(self.w, x) * (self.conditional.denoiser(x, t) - whole)


def given(model: Any, condition: Condition) -> Any:
    """``model`` for this condition; the model itself where there is none, or no model."""
    return model if condition is None or model is None else model.given(condition)
