r"""The Lagrangian law: as its end time falls, the end of a jump moves along the
trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctm._checks import check_choice, check_number
from ctm.losses.laws import Batch, Law, derivative, in_output, still
from ctm.models import jump

THROUGH = ("output", "derivative", "all")


@dataclass(repr=False, eq=False)
class Lagrangian(Law):
    r""":math:`\partial_s G(x_t, t, s) = v(G, s)`, which in terms of :math:`g` is

    .. math:: e = g - \Bigl(1 - \frac{s}{t}\Bigr)\, \frac{\partial g(x_t, t, s)}{\partial
        \log s} - D\bigl(G(x_t, t, s), s\bigr) .

    :math:`D` is the teacher's (Lagrangian map distillation, Boffi et al. 2024), or the
    student's own at the end of its jump (self-distillation, Boffi et al. 2025; terminal
    velocity matching, Zhou et al. 2025), which must learn it elsewhere: add
    :class:`ctm.losses.Denoising`. The data cannot stand in for it, for no clean point is
    known of where the student lands. Near :math:`s = \sigma_{min}` the error says little,
    for there :math:`D(G, s) \approx G`.
    """

    to_data: float = 0.1
    """As for :class:`ctm.losses.Law`."""
    through: str = "derivative"
    """What carries the gradient, the network's "output" alone, with a target held still;
    its "derivative" too; or "all", the velocity at the end as well."""
    step: float = 3e-3
    r"""Step of the finite difference in :math:`\log s`; 0 for forward mode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.through, "through", THROUGH)
        check_number(self.step, "step", 0, 0.1)
        if self.teacher is None and not self.own:
            raise ValueError("own must be True without a teacher, got False")

    def error(self, batch: Batch) -> Tensor:
        student, (xt, t, s) = batch.student, batch[1:4]
        g = student(xt, t, s)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.through != "output"):
            slope = derivative(lambda end: student(xt, t, end), (s,), (s,), self.step)
        end = jump(xt, t, s, g)
        if batch.teacher is not None:
            with torch.no_grad():
                clean = batch.teacher.denoiser(end, s.flatten())
        elif self.through == "all":
            clean = student(end, s, s)
        else:
            clean = batch.target(end.detach(), s, s)
        error = g - (1 - s / t) * slope - clean
        return in_output(still(error, g) if self.through == "output" else error, batch)
