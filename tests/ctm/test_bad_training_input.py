"""Every wrong call of training and of its terms raises an error that names the argument."""

import math

import pytest
import torch
from helpers import generator, wrongly_answered

import ctm
from ctm import Adversarial, Consistency, Denoising, losses
from ctm.losses import draw_levels
from ctm.training import State

world = ctm.data.ring()
rng = generator()


def model():
    return ctm.CTM(ctm.networks.MLP(2, width=8, layers=1), 0.5)


def train(data=world, objective=None, student=None, **options):
    objective = Consistency(world, pool=0) if objective is None else objective
    return ctm.train(model() if student is None else student, data, objective, **({"steps": 1, "batch": 4} | options))


class Sometimes:
    """Data that return what they are given."""

    def __init__(self, points):
        self.points = points

    def sample(self, n, *, generator=None):
        return self.points


CALLS = {
    "unknown kind": (ValueError, "kind must be one of", lambda: Consistency(world, "hard")),
    "unknown comparison": (ValueError, "compare must be one of", lambda: Consistency(world, compare="u")),
    "continuous is a number": (TypeError, "continuous must be True or False", lambda: Consistency(world, continuous=1)),
    "one level": (ValueError, "levels must lie in", lambda: Consistency(world, levels=1)),
    "empty teacher": (TypeError, "teacher must have a method denoiser or given, got str", lambda: Consistency("")),
    "teacher is nothing": (TypeError, "teacher must have a method denoiser", lambda: Consistency(None)),
    "references below 0": (ValueError, "references must lie in", lambda: Denoising(-1)),
    "adaptive is a number": (TypeError, "adaptive must be True or False", lambda: Denoising(adaptive=1)),
    "adversarial adaptive is a number": (TypeError, "adaptive must be True or False", lambda: Adversarial(adaptive=1)),
    "start beyond the end": (ValueError, r"start must lie in \[0, 1\]", lambda: Adversarial(start=2.0)),
    "no discriminator": (ValueError, "width must lie in", lambda: Adversarial(width=0)),
    "more than all jumps": (ValueError, "from_noise must lie in", lambda: Adversarial(from_noise=1.5)),
    "a grid of one step": (ValueError, r"levels must lie in \[2, ", lambda: Adversarial(levels=1)),
    "no number of jumps": (TypeError, "to_data must be a number", lambda: Adversarial(to_data="all")),
    "weight negative": (ValueError, "weight must lie in", lambda: -1.0 * Adversarial()),
    "weight is NaN": (ValueError, "weight must lie in", lambda: math.nan * Adversarial()),
    "a number is no term": (TypeError, "objective must be callable, and so each term, got float", lambda: Denoising() + 0.5),
    "nothing added": (TypeError, "objective must be callable, and so each term, got NoneType", lambda: None + Denoising()),
    "adaptive alone": (ValueError, "adaptive must be False", lambda: train(objective=Denoising(0, adaptive=True))),
    "student is a world": (TypeError, "student must be a CTM", lambda: ctm.train(world, world, Denoising())),
    "student is a network": (TypeError, "student must be a CTM", lambda: train(student=ctm.networks.MLP(2))),
    "student is a class": (TypeError, "student must be a CTM", lambda: train(student=ctm.CTM)),
    "objective is a dict": (
        TypeError,
        "objective must be callable, and so each term, got dict",
        lambda: train(objective={"lr": 1}),
    ),
    "objective is a world": (TypeError, "objective must be callable", lambda: train(objective=world)),
    "objective is text": (TypeError, "objective must be callable", lambda: train(objective="consistency")),
    "no folder": (ValueError, "checkpoint must be a file in", lambda: train(checkpoint="no/where")),
    "data without sample": (TypeError, "data must have a method sample", lambda: train([1.0])),
    "data are nothing": (TypeError, "data must have a method sample", lambda: train(3)),
    "data of a list": (TypeError, r"data\.sample\(n\) must be a torch.Tensor", lambda: train(Sometimes([[0.0, 0.0]]))),
    "data of whole numbers": (TypeError, r"data\.sample\(n\)", lambda: train(Sometimes(torch.zeros(4, 2).long()))),
    "data without an axis": (ValueError, r"data\.sample\(n\)", lambda: train(Sometimes(torch.zeros(4)))),
    "too few data": (ValueError, r"data\.sample\(n\) must return n = 4", lambda: train(Sometimes(torch.zeros(3, 2)))),
    "unknown option": (TypeError, "dropout", lambda: train(dropout=0.1)),
    "no steps from scratch": (ValueError, "steps must lie in", lambda: ctm.train(model(), world, steps=1)),
    "optimiser is text": (TypeError, "optimizer must be a function of the weights", lambda: train(optimizer="Adam")),
    "steps done beyond the end": (
        ValueError,
        "done must lie in",
        lambda: State(model(), world, Denoising(), 3).load_state_dict({}, 4),
    ),
    "no state": (ValueError, "the state must have", lambda: State(model(), world, Denoising(), 3).load_state_dict({}, 3)),
    "a subclass that forgot to call": (
        NotImplementedError,
        "Term must define __call__",
        lambda: train(objective=losses.Term()),
    ),
    "a state for a term that has none": (ValueError, "has no state", lambda: Denoising().load_state_dict({"a": rng})),
    "a state for a function": (ValueError, "has no state", lambda: losses.as_term(train).load_state_dict({"a": rng})),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_names_the_argument(name):
    error, message, call = CALLS[name]
    with pytest.raises(error, match=message):
        call()


NOT_NUMBERS = {"None": None, "text": "1", "list": [1.0], "bool": True, "complex": 1j, "object": object()}
NAN, INF = math.nan, math.inf
BAD = {
    "count": NOT_NUMBERS | {"zero": 0, "negative": -3, "half": 1.5, "NaN": NAN, "infinite": INF, "endless": 10**400},
    "any count": NOT_NUMBERS | {"negative": -3, "half": 1.5, "NaN": NAN, "infinite": INF, "endless": 10**400},
    "positive": NOT_NUMBERS | {"zero": 0.0, "negative": -1.0, "NaN": NAN, "infinite": INF, "minus infinity": -INF},
    "rate": {"text": "1", "zero": 0.0, "negative": -1.0, "NaN": NAN, "infinite": INF},  # None is the network's own
    "not negative": NOT_NUMBERS | {"negative": -1.0, "NaN": NAN, "infinite": INF},
    "share": NOT_NUMBERS | {"negative": -0.1, "above one": 1.1, "NaN": NAN, "infinite": INF},
    "decay": NOT_NUMBERS | {"negative": -0.1, "one": 1.0, "above one": 1.1, "NaN": NAN},
    "seed": NOT_NUMBERS | {"negative": -1, "half": 0.5, "NaN": NAN, "beyond 64 bits": 2**64},
    "flag": {"None": None, "text": "yes", "number": 1, "list": []},
    "choice": {"None": None, "text": "no such thing", "number": 3, "list": [], "dict": {}},
}


# name: (function, {argument: (kind, a good value)})
ARGUMENTS = {
    "Consistency": (
        lambda **options: Consistency(world, **options),
        dict.fromkeys(("substeps", "reuse"), ("count", 4))
        | {"levels": ("count", 4), "pool": ("any count", 0)}
        | dict.fromkeys(("from_noise", "to_data"), ("share", 0.5))
        | {"kind": ("choice", "soft"), "compare": ("choice", "s"), "continuous": ("flag", True)},
    ),
    "Denoising": (Denoising, {"references": ("any count", 4), "adaptive": ("flag", False)}),
    "Adversarial": (
        Adversarial,
        dict.fromkeys(("most", "noise", "r1"), ("not negative", 0.5))
        | {"start": ("share", 0.5), "lr": ("positive", 0.01), "width": ("count", 4), "levels": ("count", 4)}
        | {"seed": ("seed", 0), "adaptive": ("flag", True)},
    ),
    "train": (
        train,
        {"steps": ("count", 1), "seed": ("seed", 0), "save_every": ("count", 5), "batch": ("count", 4)}
        | {"lr": ("rate", 0.01), "ema": ("decay", 0.5), "target_ema": ("decay", 0.5)},
    ),
    "State": (
        lambda **options: State(model(), world, Denoising(), **options),
        {"steps": ("count", 1), "seed": ("seed", 0), "batch": ("count", 4)}
        | {"lr": ("rate", 0.01), "ema": ("decay", 0.5), "target_ema": ("decay", 0.5)},
    ),
    "draw_levels": (lambda kind: draw_levels(4, 8, kind, 0.4, 0.5, rng), {"kind": ("choice", "soft")}),
    "consistency_loss": (
        lambda compare: losses.consistency_loss(model(), model(), losses.fresh_pairs(*route()), compare),
        {"compare": ("choice", "x0")},
    ),
    "Guided": (lambda drop: ctm.Guided(ctm.data.half_rings(), drop=drop), {"drop": ("share", 0.5)}),
}


def route():
    """What fresh pairs need."""
    levels = draw_levels(4, 8, "soft", 0.4, 0.5, rng)
    return world.sample(4, generator=rng), levels, Consistency(world, levels=8).route(model(), None), rng


@pytest.mark.parametrize("call", ARGUMENTS)
def test_good_values_are_taken(call):
    function, arguments = ARGUMENTS[call]
    function(**{name: good for name, (_, good) in arguments.items()})


@pytest.mark.parametrize(
    ("call", "argument"), [(call, argument) for call, (_, given) in ARGUMENTS.items() for argument in given]
)
def test_a_wrong_value_raises_an_error_that_names_the_argument(call, argument):
    function, arguments = ARGUMENTS[call]
    good = {name: value for name, (_, value) in arguments.items()}
    wrong = wrongly_answered(function, good, argument, BAD[arguments[argument][0]])
    assert not wrong, "\n".join(wrong)
