r"""The Eulerian law: moved along its trajectory, the start of a jump does not move the
end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctm._checks import check_flags, check_number
from ctm.losses.laws import Batch, Law, derivative, in_output, still
from ctm.models import c_skip


@dataclass(repr=False, eq=False)
class Eulerian(Law):
    r""":math:`\partial_t G + (\nabla_x G)\, v(x, t) = 0`, which in terms of :math:`g` is
    MeanFlow's identity (Geng et al. 2025):

    .. math:: e = \frac{s}{t}\,(g - D) + \Bigl(1 - \frac{s}{t}\Bigr)\,
        \frac{d g(x_t, t, s)}{d \log t}, \qquad
        \frac{d}{d \log t} = (x_t - D) \cdot \nabla_x + t\, \partial_t .

    Both places of :math:`D` may be filled by :math:`x_0`, whose mean given :math:`x_t` is
    :math:`D`: that is training without a teacher. At :math:`s = \sigma_{min}` it is the
    continuous-time consistency loss, whose tangent (Lu and Song 2025) is this :math:`e`, as
    EDM's preconditioning is TrigFlow's. With the error of :math:`g` held in
    :math:`c_{out}(t)`, the loss is one of the network's output.
    """

    from_noise: float = 0.0
    """Probability that ``t`` is ``sigma_max``. There the derivative is a difference of two
    large terms, and beyond it nothing is trained: with the 0.4 of the other laws training
    is slow and may diverge (``studies/family.py``, starts)."""
    tangent: bool | None = None
    """Whether the derivative's direction is the student's own slope, where the target's is
    the data's (improved MeanFlow); the same slope for both if None."""
    through: bool = False
    """Let the gradient through the derivative too, as Eulerian map distillation does (Boffi
    et al. 2024); else the target is held still."""
    warmup: float = 0.0
    r"""Share of the training over which the derivative comes in. At first
    :math:`c_{skip}(t)\,(g - D)` stands in its place, which pulls :math:`g` to :math:`D`
    (sCM's warm-up of the tangent)."""
    step: float = 3e-3
    """Step of the finite difference in :math:`\\log t`; 0 for forward mode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.warmup, "warmup", 0, 1)
        check_number(self.step, "step", 0, 0.1)
        check_flags(self, "through")
        if self.tangent is not None:
            check_flags(self, "tangent")

    def error(self, batch: Batch) -> Tensor:
        student, (xt, t, s) = batch.student, batch[1:4]
        goal = self.clean(batch)
        aim = goal if self.tangent is None else self.clean(batch, self.tangent)
        along = xt - aim, t, torch.zeros_like(s)
        g = student(xt, t, s)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.through):
            model = student if self.through else batch.target
            slope = derivative(model, (xt, t, s), along, self.step)
        far = 1 - s / t
        if batch.progress < self.warmup:
            share = batch.progress / self.warmup
            pull = c_skip(t, student.sigma_data) * (g - aim)
            slope = share * slope + (1 - share) * pull
        # with one slope for both this is (s/t) (g - D) + (1 - s/t) dg/dlog t
        error = (g - goal) - far * (g - aim) + far * slope
        return in_output(error if self.through else still(error, g), batch)
