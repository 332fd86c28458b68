"""What most studies train, and how: with an exact teacher, a learned one, or none.

The rows of those studies were measured with a network whose inputs have gain 8 in every dimension, and with the noise levels
of denoising uniform in t^(1/7). Both are written out here, for the package's own defaults follow the data.
"""

import copy
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import ctm
from ctm.flow_map import Conditional, Data, Denoiser
from ctm.losses import Objective
from ctm.noise import rho_times
from ctm.training import State, training_steps

REGIMES = ("exact", "learned", "none")


def model(world: ctm.GaussianMixture, seed: int, **network: Any) -> ctm.CTM:
    """An untrained model for points of ``world``; conditional if ``conditions`` is among the choices of the network."""
    mlp = ctm.networks.MLP(world.means[0].numel(), seed=seed, **{"gain": 8.0} | network)
    return (ctm.ConditionalCTM if mlp.conditions else ctm.CTM)(mlp, world.sigma_data)


def denoising(**choices: Any) -> ctm.Denoising:
    """The denoising term with noise levels uniform in t^(1/7)."""
    return ctm.Denoising(times=rho_times, **choices)


def distil(
    student: ctm.CTM,
    data: Data,
    teacher: Denoiser | Conditional,
    steps: int,
    seed: int,
    *,
    dsm: float = 0.0,
    beside: dict[str, Any] | None = None,
    **choices: Any,
) -> None:
    """Train on a teacher: consistency plus ``dsm`` times :func:`denoising`.

    Args:
        student, data, teacher, steps, seed: as for :func:`ctm.train` and :class:`ctm.Consistency`.
        dsm, beside: weight and choices of the denoising term.
        choices: fields of :class:`ctm.Consistency`, or options of :func:`ctm.train`.
    """
    names = {field.name for field in fields(ctm.Consistency)}
    objective = ctm.Consistency(teacher, **{key: value for key, value in choices.items() if key in names})
    options = {key: value for key, value in choices.items() if key not in names}
    if dsm:
        objective = objective + dsm * denoising(**beside or {})
    ctm.train(student, data, objective, steps, seed, **options)


def stages(
    student: ctm.CTM,
    world: ctm.GaussianMixture,
    regime: str,
    steps: int,
    seed: int,
    *,
    first: int | None = None,
    term: ctm.Denoising | None = None,
    **options: Any,
) -> Iterator[State]:
    """The runs that a regime is made of, each to be brought to its end before the next is asked for.

    "exact" is one run on the exact teacher. "learned" makes a denoiser of the student first, then distils it; "none" is the
    same with a tenth of the denoising kept in the second run, as :func:`ctm.train` does without an objective.

    Args:
        student, world, seed, options: as for :func:`ctm.train`.
        regime: one of ``REGIMES``.
        steps: updates in all.
        first: those of the denoiser, half of them if None; none with the exact teacher.
        term: how the denoiser is trained; :func:`denoising` if None.
    """
    term = term or denoising()
    objective: Objective = ctm.Consistency(world)
    first = (steps // 2 if first is None else first) if regime != "exact" else 0
    if first:
        yield (run := State(student, world, term, first, seed, **options))
        student.load_state_dict(run.models.average.state_dict())
        jumps = ctm.Consistency(copy.deepcopy(student).requires_grad_(False))
        objective = jumps + 0.1 * term if regime == "none" else jumps
    yield (run := State(student, world, objective, steps - first, seed, **options))
    student.load_state_dict(run.models.average.state_dict())


def train(student: ctm.CTM, world: ctm.GaussianMixture, regime: str, steps: int, seed: int, **options: Any) -> ctm.CTM:
    """The student after all :func:`stages` of a regime."""
    for run in stages(student, world, regime, steps, seed, **options):
        for _ in training_steps(run):
            pass
    return student
