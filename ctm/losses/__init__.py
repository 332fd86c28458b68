"""Losses: terms that are called with the models, a draw of data and a generator, and that
add and scale."""

from ctm.losses.adversarial import Adversarial, hinge_loss, r1_penalty
from ctm.losses.consistency import Consistency, consistency_loss
from ctm.losses.denoising import Denoising, dsm_loss, stable_target
from ctm.losses.eulerian import Eulerian
from ctm.losses.frechet import Frechet, affine_map, mean_and_covariance
from ctm.losses.lagrangian import Lagrangian
from ctm.losses.laws import Batch, Law, Then
from ctm.losses.methods import METHODS
from ctm.losses.moments import MomentMatching
from ctm.losses.objective import (
    Draw,
    Models,
    Objective,
    Term,
    adaptive_weight,
    as_term,
    move_average,
    ramped,
)
from ctm.losses.semigroup import (
    Neighbour,
    Ratio,
    Semigroup,
    Share,
    anywhere,
    half,
)
from ctm.losses.trajectories import (
    Levels,
    Pairs,
    Route,
    Trajectories,
    draw_levels,
    fresh_pairs,
    grid_times,
    noised_points,
)

__all__ = [
    "METHODS",
    "Adversarial",
    "Batch",
    "Consistency",
    "Denoising",
    "Draw",
    "Eulerian",
    "Frechet",
    "Lagrangian",
    "Law",
    "Levels",
    "Models",
    "MomentMatching",
    "Neighbour",
    "Objective",
    "Pairs",
    "Ratio",
    "Route",
    "Semigroup",
    "Share",
    "Term",
    "Then",
    "Trajectories",
    "adaptive_weight",
    "affine_map",
    "anywhere",
    "as_term",
    "consistency_loss",
    "draw_levels",
    "dsm_loss",
    "fresh_pairs",
    "grid_times",
    "half",
    "hinge_loss",
    "mean_and_covariance",
    "move_average",
    "noised_points",
    "r1_penalty",
    "ramped",
    "stable_target",
]
