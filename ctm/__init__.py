"""Consistency trajectory models, small enough to read, checked against an exact oracle."""

from ctm import (
    checkpoints,
    closed_forms,
    conditional,
    data,
    diagnosis,
    editing,
    fidelity,
    flow_map,
    images,
    likelihood,
    losses,
    metrics,
    mixture,
    models,
    networks,
    noise,
    parametrisations,
    samplers,
    solvers,
    training,
    two_samples,
)
from ctm.checkpoints import load, read_card, save
from ctm.conditional import ConditionalCTM, Guided, GuidedModel
from ctm.diagnosis import doctor
from ctm.flow_map import FlowMap
from ctm.labelled import LabelledMixture
from ctm.losses import Adversarial, Consistency, Denoising
from ctm.mixture import GaussianMixture
from ctm.models import CTM
from ctm.samplers import sample
from ctm.training import History, train

__version__ = "0.2.0"
__all__ = [
    "CTM",
    "Adversarial",
    "ConditionalCTM",
    "Consistency",
    "Denoising",
    "FlowMap",
    "GaussianMixture",
    "Guided",
    "GuidedModel",
    "History",
    "LabelledMixture",
    "checkpoints",
    "closed_forms",
    "conditional",
    "data",
    "diagnosis",
    "doctor",
    "editing",
    "fidelity",
    "flow_map",
    "images",
    "likelihood",
    "load",
    "losses",
    "metrics",
    "mixture",
    "models",
    "networks",
    "noise",
    "parametrisations",
    "read_card",
    "sample",
    "samplers",
    "save",
    "solvers",
    "train",
    "training",
    "two_samples",
]
