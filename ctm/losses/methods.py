"""The methods of the field by name, each as an objective in this package's terms.

A method is a law, a draw of times, a slope, what carries the gradient, and a weight. All
use the same network and parametrisation; what the papers do otherwise is said with each.
Where the slope comes from the data, 256 further points steady it (Xu et al. 2023), as they
do the target of denoising: without them a batch of 320 says little about a slope. Of three
settings each, the one with the smallest error of one step after a short run on the pinwheel
(``studies/family.py``) is the default; iCT alone keeps its own distance, without which it
did better there. Other data and longer runs may want another.
"""

from __future__ import annotations

from collections.abc import Callable

from ctm.flow_map import Conditional, Denoiser
from ctm.losses.consistency import Consistency
from ctm.losses.denoising import Denoising
from ctm.losses.eulerian import Eulerian
from ctm.losses.lagrangian import Lagrangian
from ctm.losses.laws import Then
from ctm.losses.moments import MomentMatching
from ctm.losses.objective import Term
from ctm.losses.semigroup import Neighbour, Ratio, Semigroup, Share, anywhere, half

Teacher = Denoiser | Conditional | None
Method = Callable[[Teacher], Term]

STEADY = 256  # further clean points

METHODS: dict[str, Method] = {}
"""Name to a function of the teacher, or of None, that returns the objective.

:meta hide-value:
"""


def method(name: str, needs_teacher: bool | None) -> Callable[[Method], Method]:
    """Put a method into :data:`METHODS` under ``name``. ``needs_teacher`` is None where it
    can do with one and without."""

    def keep(build: Method) -> Method:
        def checked(teacher: Teacher) -> Term:
            if needs_teacher and teacher is None:
                raise ValueError(f"teacher must be given to {name}, got None")
            if needs_teacher is False and teacher is not None:
                kind = type(teacher).__name__
                raise ValueError(f"teacher must be None for {name}, got {kind}")
            return build(teacher)

        checked.__doc__ = build.__doc__
        METHODS[name] = checked
        return build

    return keep


@method("consistency distillation", True)
def _(teacher: Teacher) -> Term:
    """CD (Song et al. 2023): local consistency with the end at ``sigma_min`` alone."""
    return Consistency(teacher, "local", to_data=1.0, levels=12)  # type: ignore[arg-type]


@method("consistency training", False)
def _(_: Teacher) -> Term:
    """CT (Song et al. 2023): the pair shares its noise; the grid is refined."""
    refined = Neighbour(2, 40, "root")
    return Semigroup(references=STEADY, middle=refined, to_data=1.0, power=0.5)


@method("improved consistency training", False)
def _(_: Teacher) -> Term:
    """iCT (Song and Dhariwal 2024): the grid doubles, the distance is pseudo-Huber. It
    wants a low learning rate, 2e-3 rather than 8e-3; the paper's grid ends at 1,280."""
    return Semigroup(references=STEADY, middle=Neighbour(10, 160), to_data=1.0, power=0.5)


@method("easy consistency tuning", False)
def _(_: Teacher) -> Term:
    """ECT (Geng et al. 2025): first a denoiser, then pairs that draw together."""
    pairs = Semigroup(references=STEADY, middle=Ratio(stages=5), to_data=1.0)
    return Then(Denoising(STEADY), pairs, 0.1)


@method("CTM, local", True)
def _(teacher: Teacher) -> Term:
    """CTM (Kim et al. 2024) with ``u`` next to ``t``."""
    return Consistency(teacher, "local", levels=12)  # type: ignore[arg-type]


@method("CTM, soft", True)
def _(teacher: Teacher) -> Term:
    """CTM (Kim et al. 2024) with ``u`` anywhere from ``t`` to ``s``."""
    return Consistency(teacher, "soft", levels=24)  # type: ignore[arg-type]


@method("CTM, global", True)
def _(teacher: Teacher) -> Term:
    """CTM (Kim et al. 2024) with ``u = s``: the solver goes all the way."""
    return Consistency(teacher, "global", levels=24)  # type: ignore[arg-type]


@method("mid-training", True)
def _(teacher: Teacher) -> Term:
    """CMT (Hu et al. 2025): first the points of the teacher's solver, then ECT."""
    points = Consistency(teacher, "global", to_data=1.0)  # type: ignore[arg-type]
    pairs = Semigroup(references=STEADY, middle=Neighbour(40, 80), to_data=1.0)
    return Then(points, pairs, 0.9)


@method("shortcut", False)
def _(_: Teacher) -> Term:
    """Shortcut models (Frans et al. 2025): a jump against two halves, and denoising."""
    return Semigroup(middle=half, jumps=True) + Denoising(STEADY)


@method("SplitMeanFlow", False)
def _(_: Teacher) -> Term:
    """SplitMeanFlow (Guo et al. 2025): the additive law, after a denoiser has been made."""
    return Then(
        Denoising(STEADY), Semigroup(middle=anywhere, jumps=True) + Denoising(STEADY), 0.1
    )


@method("MeanFlow", False)
def _(_: Teacher) -> Term:
    """MeanFlow (Geng et al. 2025): the Eulerian law with the data's slope in both places.
    The paper draws most pairs with s = t, which is the denoising term here."""
    return Eulerian(references=STEADY) + Denoising(STEADY)


@method("improved MeanFlow", False)
def _(_: Teacher) -> Term:
    """iMF (Geng et al. 2025): the derivative goes along the student's own slope."""
    return Eulerian(references=STEADY, tangent=True, power=0.5) + Denoising(STEADY)


@method("AlphaFlow", False)
def _(_: Teacher) -> Term:
    """AlphaFlow (Zhang et al. 2025): from denoising to MeanFlow, the step shrinks to its
    least share, 1/200, where the paper goes over to the derivative."""
    shrinking = Share(1.0, 0.005, "sigmoid")
    steps = Semigroup(references=STEADY, middle=shrinking, power=0.5)
    return steps + Denoising(STEADY)


@method("continuous-time consistency", None)
def _(teacher: Teacher) -> Term:
    """sCM (Lu and Song 2025): the tangent, warmed up, after a denoiser has been made; sCD
    with a teacher, sCT without. The paper normalises it (``power=0.5``)."""
    tangent = Eulerian(teacher, references=STEADY, to_data=1.0, warmup=0.4)
    return Then(Denoising(STEADY), tangent, 0.2)


@method("Lagrangian distillation", True)
def _(teacher: Teacher) -> Term:
    """LMD (Boffi et al. 2024)."""
    return Lagrangian(teacher)


@method("Eulerian distillation", True)
def _(teacher: Teacher) -> Term:
    """EMD (Boffi et al. 2024)."""
    return Eulerian(teacher, through=True)


@method("terminal velocity matching", False)
def _(_: Teacher) -> Term:
    """TVM (Zhou et al. 2025): the Lagrangian law, the velocity at the end held still."""
    return Lagrangian(own=True) + Denoising(STEADY)


@method("LSD", False)
def _(_: Teacher) -> Term:
    """Lagrangian self-distillation (Boffi et al. 2025): the gradient goes through all."""
    return Lagrangian(own=True, through="all") + 0.3 * Denoising(STEADY)


@method("ESD", False)
def _(_: Teacher) -> Term:
    """Eulerian self-distillation (Boffi et al. 2025)."""
    return Eulerian(own=True) + Denoising(STEADY)


@method("PSD", False)
def _(_: Teacher) -> Term:
    """Progressive self-distillation (Boffi et al. 2025): the semigroup law; both ways
    learn."""
    return Semigroup(middle=anywhere, jumps=True, held=False) + 0.3 * Denoising(STEADY)


@method("SoFlow", False)
def _(_: Teacher) -> Term:
    """Solution consistency (Luo et al. 2025): a short step along the data's slope."""
    return Semigroup(references=STEADY, middle=Share(0.1, 0.05)) + Denoising(STEADY)


@method("inductive moment matching", False)
def _(_: Teacher) -> Term:
    """IMM (Zhou et al. 2025)."""
    return MomentMatching(k=4.0)
