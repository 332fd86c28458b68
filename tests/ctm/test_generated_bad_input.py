"""More than a thousand wrong calls: every argument of every public function, with every kind of wrong value.

Each must raise TypeError, ValueError or an error of the package that names the argument; none may crash, hang or return.
"""

import math
from functools import partial

import pytest
import torch
from helpers import wrongly_answered
from sklearn.naive_bayes import GaussianNB

import ctm
from ctm import metrics, networks, noise, samplers, two_samples
from ctm.parametrisations import Parametrised, edm, euler

world = ctm.data.ring()
model = ctm.CTM(networks.MLP(2, width=8, layers=1), 0.5).requires_grad_(False)
other = Parametrised(networks.MLP(2, width=8, layers=1), 0.5, euler, edm)
x = torch.randn((6, 2), generator=torch.Generator().manual_seed(0))
rng = torch.Generator().manual_seed(0)
NAN, INF = math.nan, math.inf

NOT_NUMBERS = {"None": None, "text": "1", "list": [1.0], "bool": True, "complex": 1j, "object": object()}
BAD = {
    "points": {
        "None": None,
        "text": "x",
        "list": [[0.0, 0.0]],
        "number": 1.0,
        "numpy": x.numpy(),
        "integers": torch.zeros((6, 2), dtype=torch.int64),
        "bools": torch.zeros((6, 2), dtype=torch.bool),
        "complex": torch.zeros((6, 2), dtype=torch.complex64),
        "no axis": torch.tensor(0.0),
        "one axis": torch.zeros(6),
        "no points": torch.zeros((0, 2)),
        "no coordinates": torch.zeros((6, 0)),
        "three coordinates": torch.zeros((6, 3)),
        "NaN": torch.full((6, 2), NAN),
        "one NaN": torch.cat([x[:5], torch.tensor([[0.0, NAN]])]),
        "infinite": torch.full((6, 2), INF),
        "beyond float64": torch.full((6, 2), 1e200, dtype=torch.float64),
        "sparse": x.to_sparse(),
        "no data": torch.zeros((6, 2), device="meta"),
    },
    "time": NOT_NUMBERS
    | {
        "negative": -1.0,
        "NaN": NAN,
        "infinite": INF,
        "minus infinity": -INF,
        "huge": 1e300,
        "too few": torch.ones(5),
        "too many": torch.ones(7),
        "none at all": torch.ones(0),
        "a table": torch.ones((6, 2)),
        "one NaN": torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, NAN]),
        "one negative": torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -1.0]),
        "complex tensor": torch.ones(6, dtype=torch.complex64),
        "bool tensor": torch.ones(6, dtype=torch.bool),
        "no data": torch.ones(6, device="meta"),
    },
    "count": NOT_NUMBERS
    | {"zero": 0, "negative": -3, "half": 1.5, "NaN": NAN, "infinite": INF, "huge": 10**15, "endless": 10**400},
    "positive": NOT_NUMBERS | {"zero": 0.0, "negative": -1.0, "NaN": NAN, "infinite": INF, "minus infinity": -INF},
    "share": NOT_NUMBERS | {"negative": -0.1, "above one": 1.1, "NaN": NAN, "infinite": INF},
    "seed": NOT_NUMBERS | {"negative": -1, "half": 0.5, "NaN": NAN, "beyond 64 bits": 2**64},
    "flag": {"None": None, "text": "yes", "number": 1, "list": []},
    "choice": {"None": None, "text": "no such thing", "number": 3, "list": [], "dict": {}},
    "schedule": {
        "None": None,
        "number": 1.0,
        "text": "10",
        "texts": ["a", "b"],
        "empty": [],
        "one alone": [1.0],
        "upwards": [0.1, 1.0],
        "repeated": [1.0, 1.0, 0.5],
        "negative": [1.0, -1.0],
        "NaN": [1.0, NAN],
        "infinite": [INF, 1.0],
        "a table": torch.ones((3, 2)),
        "Nones": [None, None],
    },
}
BAD["steps"] = {name: value for name, value in BAD["count"].items() if name not in ("huge", "endless")}
BAD["optional"] = {name: value for name, value in BAD["positive"].items() if name != "None"}
BAD["one time"] = {name: value for name, value in BAD["time"].items() if name != "None"}
BAD["set"] = {
    name: value for name, value in BAD["points"].items() if name != "three coordinates"
}  # then y is the other size
BAD["weights"] = {name: value for name, value in BAD["choice"].items() if name != "None"} | {
    "negative": [1.0, -1.0],
    "bools": [True, True],
}
BAD["end"] = BAD["time"] | {"above t": 3.0}

jump_arguments = {"x": ("points", x), "t": ("time", 2.0), "s": ("end", 0.5)}
pointwise = {"x": ("points", x), "t": ("time", 2.0)}
walk = {"x": ("points", x), "times": ("schedule", [10.0, 1.0, 0.1])}
# name: (function, {argument: (kind, a good value)})
CALLS = {
    **{
        f"{name}.{f}": (getattr(thing, f), jump_arguments)
        for name, thing in (("world", world), ("model", model))
        for f in "G"
    },
    "model.g": (model.g, jump_arguments),
    "other.G": (other.G, jump_arguments),
    **{
        f"{name}.{f}": (getattr(thing, f), pointwise)
        for name, thing in (("world", world), ("model", model), ("other", other))
        for f in ("denoiser", "score", "velocity")
    },
    "world.log_prob": (world.log_prob, pointwise),
    "world.sample": (world.sample, {"n": ("count", 5)}),
    "GaussianMixture": (
        lambda stds, weights: ctm.GaussianMixture([[0.0], [1.0]], stds, weights),
        {"stds": ("positive", 0.1), "weights": ("weights", [1.0, 2.0])},
    ),
    "karras_times": (
        noise.karras_times,
        {"n": ("count", 4), "sigma_min": ("positive", 0.1), "sigma_max": ("positive", 1.0)},
    ),
    "MLP": (
        networks.MLP,
        {
            "dim": ("count", 2),
            "width": ("count", 8),
            "layers": ("count", 1),
            "features": ("count", 2),
            "gain": ("optional", 1.0),
            "seed": ("seed", 0),
        },
    ),
    "CTM": (
        lambda **options: ctm.CTM(networks.MLP(2, 8, 1), **options),
        {"sigma_data": ("positive", 0.5), "sigma_min": ("optional", 0.01), "sigma_max": ("optional", 5.0)},
    ),
    "noise": (lambda n: samplers.noise(world, n, (2,)), {"n": ("count", 5)}),
    "one_step": (lambda x: samplers.one_step(model, x), {"x": ("points", x)}),
    "gamma_sampling": (
        lambda **options: samplers.gamma_sampling(model, generator=rng, **options),
        walk | {"gamma": ("share", 0.5)},
    ),
    "euler": (lambda **options: samplers.euler(model, **options), walk),
    "heun": (lambda **options: samplers.heun(model, **options), walk),
    "multistep": (lambda **options: samplers.multistep(model, **options), walk),
    "flow_map_error": (
        lambda **options: metrics.flow_map_error(model, world, **options),
        {"t": ("one time", 2.0), "s": ("one time", 0.5), "n": ("count", 10), "seed": ("seed", 0)},
    ),
    "error_table": (
        lambda **options: metrics.error_table(model, world, **options),
        {"times": ("schedule", [10.0, 1.0]), "n": ("count", 10)},
    ),
    "wasserstein": (metrics.wasserstein, {"x": ("set", x), "y": ("points", x), "p": ("count", 2)}),
    "sliced_wasserstein": (
        metrics.sliced_wasserstein,
        {"x": ("set", x), "y": ("points", x), "projections": ("count", 4), "seed": ("seed", 0)},
    ),
    "energy_distance": (metrics.energy_distance, {"x": ("set", x), "y": ("points", x)}),
    "noise_floor": (
        lambda **options: metrics.noise_floor(world, **options),
        {"metric": ("choice", "sliced W2"), "n": ("count", 10), "draws": ("steps", 2), "seed": ("seed", 0)},
    ),
    "ratio_to_floor": (
        lambda **options: metrics.ratio_to_floor(lambda n, g: world.sample(n, generator=g), world, **options),
        {"metric": ("choice", "W2"), "n": ("count", 10), "draws": ("steps", 2), "seed": ("seed", 0)},
    ),
    "precision_recall": (metrics.precision_recall, {"real": ("set", x), "fake": ("points", x), "k": ("count", 1)}),
    "energy_test": (
        two_samples.energy_test,
        {"x": ("set", x), "y": ("points", x), "permutations": ("count", 4), "seed": ("seed", 0)},
    ),
    "classifier_test": (
        partial(two_samples.classifier_test, classifier=GaussianNB()),
        {"real": ("set", x), "fake": ("points", x), "seed": ("seed", 0)},
    ),
    "ratio_to_halves": (
        lambda **options: two_samples.ratio_to_halves(lambda n, g: world.sample(n, generator=g), **options),
        {"held": ("set", x), "metric": ("choice", "W2"), "draws": ("steps", 2), "seed": ("seed", 0)},
    ),
    "copy_test": (
        two_samples.copy_test,
        {"samples": ("points", x), "train": ("set", x), "held": ("points", x)},
    ),
    "nearest": (two_samples.nearest, {"x": ("set", x), "rows": ("points", x)}),
    "doctor": (lambda **options: ctm.doctor(model, world, **options), {"n": ("count", 10), "seed": ("seed", 0)}),
}
CASES = [
    (call, argument, kind, bad)
    for call, (_, arguments) in CALLS.items()
    for argument, (kind, _) in arguments.items()
    for bad in BAD[kind]
]


def test_there_are_a_thousand_of_them():
    assert len(CASES) >= 1000


@pytest.mark.parametrize("call", CALLS)
def test_good_values_are_taken(call):
    function, arguments = CALLS[call]
    function(**{name: good for name, (_, good) in arguments.items()})


@pytest.mark.parametrize(("call", "argument"), sorted({case[:2] for case in CASES}))
def test_a_wrong_value_raises_an_error_that_names_the_argument(call, argument):
    function, arguments = CALLS[call]
    kind = arguments[argument][0]
    good = {name: value for name, (_, value) in arguments.items()}
    wrong = wrongly_answered(function, good, argument, BAD[kind])
    assert not wrong, "\n".join(wrong)
