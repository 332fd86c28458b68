"""What a run is, as a flat TOML file says it, and what is made from that."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ctm import data, networks
from ctm._checks import check_choice, check_number
from ctm.conditional import ConditionalCTM, Guided, GuidedModel
from ctm.losses import Consistency, Denoising, Objective
from ctm.losses.consistency import COMPARE
from ctm.losses.trajectories import KINDS
from ctm.models import CTM
from ctm.noise import image_times, lognormal_times

OBJECTIVES = ("scratch", "teacher", "denoiser")
OPTIMIZERS = ("Adam", "AdamW", "RAdam")
PRECISIONS = ("no", "bf16")
AT_LEAST_ONE = ("steps", "batch", "log_every", "save_every", "substeps", "reuse")
SHARES = ("from_noise", "to_data")
TIMES = {"points": lognormal_times, "images": image_times}


def key(default: Any, text: str) -> Any:
    """A key of the file: what it is where the file is silent, and what it means."""
    return field(default=default, metadata={"text": text})


@dataclass(frozen=True)
class Config:
    """What a run is, as a flat TOML file says it; :meth:`example` is such a file."""

    data: str = key("ring", "a ready-made world by its name, or a .npy, .npz, .csv file")
    objective: str = key("scratch", f"one of {', '.join(OBJECTIVES)}")
    teacher: str = key("", "of objective teacher: a model's file, or exact for a world")
    network: str = key("", "a class of ctm.networks; empty: by the shape of the data")
    width: int = key(0, "its width; 0: its own default")
    layers: int = key(0, "its layers; 0: its own default")
    steps: int = key(5000, "updates of the weights")
    batch: int = key(320, "points in an update, over all processes")
    parts: int = key(0, "parts in which a batch is drawn; 0: one for each process")
    seed: int = key(0, "of the first weights and of everything drawn")
    lr: float = key(0.0, "peak learning rate; 0: the network's own")
    optimizer: str = key("Adam", f"one of {', '.join(OPTIMIZERS)}")
    ema: float = key(0.999, "decay of the average of the weights, which is the result")
    target_ema: float = key(0.0, "decay of the average that makes the target; 0: none")
    precision: str = key("no", "bf16: networks compute in bfloat16; no: in float32")
    kind: str = key("global", "of consistency: global, soft or local")
    compare: str = key("s", "where jumps are compared: s, or x0 as in the paper")
    levels: int = key(96, "steps of the grid of times: 17 is the paper's N = 18")
    continuous: bool = key(True, "shift the grid at random, so that all times are drawn")
    substeps: int = key(1, "solver steps from one level to the next")
    from_noise: float = key(0.4, "share of jumps that start at sigma_max")
    to_data: float = key(0.5, "share of jumps that end at sigma_min")
    pool: int = key(4096, "trajectories a part keeps; 0: solved anew from t to u")
    reuse: int = key(48, "pairs drawn from each of them before the pool is solved again")
    denoising: float = key(0.1, "weight of denoising beside consistency")
    references: int = key(1024, "points that steady the denoising target; 0: none")
    times: str = key("points", "noise levels of denoising, for points; images: higher")
    guidance: float = key(1.0, "strengths up to this are told with the labels; 1: none")
    drop: float = key(0.0, "share of labels hidden, so that guidance is possible")
    folder: str = key("run", "where state, log and model are written")
    log_every: int = key(100, "steps between two lines of the log")
    save_every: int = key(1000, "steps between two writings of the state")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, name = getattr(self, entry.name), entry.name
            if type(entry.default) in (int, float):
                low = int(name in AT_LEAST_ONE)
                low += name == "steps" and self.objective == "scratch"  # of two halves
                low += name == "guidance"
                high = 1 if name in (*SHARES, "drop") else math.inf
                check_number(value, name, low, high, integer=type(entry.default) is int)
            elif type(value) is not type(entry.default):
                kind = type(entry.default).__name__
                raise TypeError(f"{name} must be a {kind}, got {value!r}")
        check_choice(self.objective, "objective", OBJECTIVES)
        check_choice(self.optimizer, "optimizer", OPTIMIZERS)
        check_choice(self.precision, "precision", PRECISIONS)
        check_choice(self.times, "times", TIMES)
        check_choice(self.kind, "kind", KINDS)
        check_choice(self.compare, "compare", COMPARE)
        if (self.objective == "teacher") != bool(self.teacher):
            raise ValueError(
                "teacher must be given with objective teacher, and only then, got "
                f"{self.teacher!r} with {self.objective}"
            )

    @classmethod
    def read(cls, path: str | Path, changes: list[str] | None = None) -> Config:
        """The file ``path`` with ``changes`` made to it, such as ``steps=100``.

        Raises:
            FileNotFoundError: no such file.
            TypeError, ValueError: not TOML, an unknown key, or a value that is not allowed.
        """
        try:
            found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"config {path} is not TOML: {error}") from error
        for change in changes or []:
            name, sign, value = change.partition("=")
            if not sign:
                raise ValueError(f"set must be key=value, got {change!r}")
            try:
                found[name] = tomllib.loads(f"x = {value}")["x"]
            except tomllib.TOMLDecodeError:
                found[name] = value  # a string without its quotes
        names = [entry.name for entry in fields(cls)]
        for name in found:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1, 0)[0]
                raise ValueError(f"config has no key {name!r}; the nearest is {near!r}")
        return cls(**found)

    @classmethod
    def example(cls) -> str:
        """A file with every key, its default and what it means."""
        lines = ((f"{f.name} = {json.dumps(f.default)}", f.metadata) for f in fields(cls))
        return "\n".join(f"{line:22} # {facts['text']}" for line, facts in lines)


def load_data(name: str) -> Any:
    """The world of that name, or the points of a file: a ``.npy``; a ``.npz`` with arrays
    ``points`` and, for a conditional model, ``labels``; a ``.csv``, whose first line may
    name its columns."""
    worlds = data.WORLDS | data.LABELLED
    if name in worlds:
        return worlds[name]()
    path = Path(name)
    if path.suffix == ".npy":
        return data.Points(np.load(path, allow_pickle=False))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as held:
            if "points" not in held:
                names = ", ".join(held) or "none"
                raise ValueError(f"data {name} must hold an array points, got {names}")
            return data.Points(held["points"], held.get("labels"))
    if path.suffix != ".csv":
        known = ", ".join(sorted(worlds))
        raise ValueError(
            f"data must be a .npy, .npz or .csv file or of {known}; got {name!r}"
        )
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    named = not _is_number("".join(lines[:1]).partition(",")[0])  # by its first field
    return data.Points(np.loadtxt(lines[named:], delimiter=",", ndmin=2))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def told(config: Config, world: Any) -> Any:
    """The data, with strengths of guidance and hidden labels where the file asks so."""
    if config.guidance == 1 and not config.drop:
        return world
    if not hasattr(world, "sample_labelled"):
        raise ValueError("guidance and drop need data with labels")
    return Guided(world, (1.0, config.guidance), config.drop)


def new_student(config: Config, world: Any) -> CTM:
    """An untrained model for the data, with the network that the file asks for."""
    student = CTM.for_data(world, seed=config.seed)
    sizes = {n: v for n in ("width", "layers") if (v := getattr(config, n))}
    if not config.network and not sizes:
        return student
    default: Any = student.network
    kind, facts = type(default), default.config
    if config.network and config.network != kind.__name__:
        check_choice(config.network, "network", networks.NETWORKS)
        kind, shape = networks.NETWORKS[config.network], student.shape or ()
        facts = {"seed": config.seed, "conditions": default.conditions}
        facts |= {"dim": int(np.prod(shape))} if kind is networks.MLP else {"shape": shape}
    try:
        return CTM.for_data(world, kind(**facts | sizes))
    except TypeError as error:
        raise ValueError(f"network {kind.__name__} takes no such size: {error}") from error


def denoising(config: Config) -> Denoising:
    """The denoising term as the file describes it."""
    return Denoising(config.references, TIMES[config.times])


def consistency(config: Config, teacher: Any) -> Objective:
    """The consistency term as the file describes it, with its share of denoising."""
    if config.guidance > 1 and not hasattr(teacher, "given"):
        raise ValueError("guidance needs a teacher that is told labels")
    if config.guidance > 1 and isinstance(teacher, ConditionalCTM):
        teacher = GuidedModel(teacher)  # an exact world guides by itself
    names = (
        "kind",
        "compare",
        "levels",
        "continuous",
        "substeps",
        *SHARES,
        "pool",
        "reuse",
    )
    term = Consistency(teacher, **{name: getattr(config, name) for name in names})
    return term + config.denoising * denoising(config) if config.denoising else term
