"""Every choice that a training run makes, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from ctm._checks import check_choice, check_number
from ctm.adversarial import Adversarial
from ctm.losses import COMPARE
from ctm.pairs import CONSISTENCY
from ctm.solvers import STEPS


@dataclass(frozen=True)
class Recipe:
    r"""How :func:`ctm.training.train` trains. The defaults are the book's recipe for a good teacher.

    The loss is consistency (:func:`ctm.losses.consistency_loss`) plus ``dsm`` times denoising score matching
    (:func:`ctm.losses.dsm_loss`), plus the adversarial term if ``gan`` names one.
    """

    consistency: str | None = "global"
    """Where :math:`u` lies between :math:`t` and :math:`s`, "local", "soft" or "global"; None leaves the term out."""
    compare: str = "s"
    """Compare the two jumps where they land ("s") or after one more jump to the end of the trajectory ("x0")."""
    dsm: float = 0.0
    """Weight of denoising score matching, which teaches :math:`g(x, t, t)`, beside the consistency loss."""
    references: int = 0
    """Further clean points that steady the target of denoising score matching (:func:`ctm.losses.stable_target`)."""
    dsm_first: float = 0.0
    """Share of the steps, at the start, with denoising score matching alone. The learning rate then starts again, and
    without a teacher the average reached becomes the teacher of the rest."""
    adaptive_dsm: bool = False
    """Multiply ``dsm`` by the ratio of the two gradients' norms at the last layer (Kim et al. 2024)."""
    gan: Adversarial | None = None
    """The adversarial term (:mod:`ctm.adversarial`), or None to leave it out."""
    target_ema: float = 0.0
    """Decay of the average whose weights make the target jumps; 0 uses the current weights. (The paper's are near 1.) It
    has no effect where no target jump is made: "global" consistency compared at "s"."""

    solver: str = "heun"
    """The teacher's step, "euler" or "heun"."""
    substeps: int = 1
    """Solver steps from one level of a trajectory to the next; without a pool, from ``t`` to ``u``."""
    levels: int = 96
    """Steps of the grid on which the times of a pair are drawn."""
    continuous: bool = True
    """Shift the grid at random for each sample, so that every time is drawn; else its times are fixed."""
    from_noise: float = 0.4
    """Probability that ``t`` is ``sigma_max``."""
    to_data: float = 0.5
    """Probability that ``s`` is ``sigma_min``."""
    pool: int = 4096
    """Teacher trajectories solved at once and drawn from many times; 0 solves anew for every pair."""
    reuse: int = 48
    """Pairs drawn from each pooled trajectory, on average, before the pool is solved again."""

    batch: int = 320
    """Samples in a step."""
    lr: float = 8e-3
    """Peak learning rate of Adam, with linear warm-up over 2% of the steps, then half a cosine down to 0."""
    ema: float = 0.999
    """Decay of the average of the weights that the trained model ends with, ramped up from 0."""

    def __post_init__(self) -> None:
        if self.consistency is not None:
            check_choice(self.consistency, "consistency", CONSISTENCY)
        check_choice(self.compare, "compare", COMPARE)
        check_choice(self.solver, "solver", STEPS)
        for name, low in (("substeps", 1), ("levels", 2), ("pool", 0), ("references", 0), ("reuse", 1), ("batch", 1)):
            check_number(getattr(self, name), name, low, integer=True)
        check_number(self.dsm, "dsm", 0)
        check_number(self.lr, "lr", 0, above=True)
        for name in ("from_noise", "to_data", "dsm_first"):
            check_number(getattr(self, name), name, 0, 1)
        for name in ("ema", "target_ema"):
            check_number(getattr(self, name), name, 0, 1 - 1e-6)
        for name in ("adaptive_dsm", "continuous"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.adaptive_dsm and not self.dsm:
            raise ValueError("dsm must be above 0 where adaptive_dsm is True: there is nothing to adapt")
        if self.gan is not None and not isinstance(self.gan, Adversarial):
            raise TypeError(f"gan must be an Adversarial or None, got {type(self.gan).__name__}")
        if self.gan is not None and self.consistency is None:
            raise ValueError("gan must be None where consistency is None: its weight is measured against consistency")
        if self.consistency is None and not self.dsm:
            raise ValueError("dsm must be above 0 where consistency is None: nothing is left to train")


DENOISER = Recipe(consistency=None, dsm=1.0, references=1024)
"""Denoising score matching alone. A model trained so is an EDM denoiser, :math:`D(x, t) = g(x, t, t)`."""

SCRATCH = Recipe(dsm=0.1, references=1024, dsm_first=0.5)
"""No teacher. The model's own denoiser guides its jumps, and denoising score matching keeps it true."""
