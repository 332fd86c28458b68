"""Consistency trajectory models, small enough to read and checked against an exact oracle."""

from ctm import (
    adversarial,
    checkpoints,
    data,
    likelihood,
    losses,
    metrics,
    models,
    networks,
    noise,
    parametrisations,
    samplers,
    solvers,
)
from ctm.adversarial import Adversarial
from ctm.checkpoints import load, read_card, save
from ctm.conditional import ConditionalCTM
from ctm.diagnosis import doctor
from ctm.flow_map import FlowMap
from ctm.guidance import train_conditional
from ctm.labelled import LabelledMixture
from ctm.mixture import GaussianMixture
from ctm.models import CTM
from ctm.recipe import DENOISER, SCRATCH, Recipe
from ctm.training import History, train, train_denoiser

__version__ = "0.1.0"
__all__ = [
    "CTM",
    "DENOISER",
    "SCRATCH",
    "Adversarial",
    "ConditionalCTM",
    "FlowMap",
    "GaussianMixture",
    "History",
    "LabelledMixture",
    "Recipe",
    "adversarial",
    "checkpoints",
    "data",
    "doctor",
    "likelihood",
    "load",
    "losses",
    "metrics",
    "models",
    "networks",
    "noise",
    "parametrisations",
    "read_card",
    "samplers",
    "save",
    "solvers",
    "train",
    "train_conditional",
    "train_denoiser",
]
