"""Files of weights: safetensors, a JSON card in the header. Written whole or not at all; never pickle."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ctm.conditional import ConditionalCTM
from ctm.models import CTM
from ctm.networks import NETWORKS
from ctm.parametrisations import Parametrised

MODELS: dict[str, type[CTM]] = {"CTM": CTM, "ConditionalCTM": ConditionalCTM, "Parametrised": Parametrised}
"""Kinds of models by name. One of your own is added by ``MODELS["Mine"] = Mine``; its ``config`` must
hold, beside what :class:`ctm.models.CTM` keeps, the further arguments of its constructor."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LEFT_OVER = 3600.0  # seconds after which an unfinished file is taken for that of a writer that was killed


def save(model: CTM, path: str | Path, **card: Any) -> None:
    """Write ``model`` to ``path``, with any further facts (command, seed, figures ...) as a card.

    Raises:
        TypeError: the model is not of a kind in :data:`MODELS`, or its network is not registered
            (:func:`ctm.networks.register`), or the card cannot be written as JSON.
        ValueError: the weights are not finite, or of less than 16 bits.
        OSError: the file cannot be written; an older file of that name is then still whole.
    """
    for name, thing, known in (("model", model, MODELS), ("network", model.network, NETWORKS)):
        kind = type(thing)
        if kind is not known.get(kind.__name__):
            raise TypeError(f"{name} must be one of {sorted(known)} to be saved, got {kind.__name__}")
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not (value.dtype in FLOATS and bool(value.isfinite().all())):
            raise ValueError(f"model must have finite weights of 16, 32 or 64 bits, {key} has not")
    write(path, model.state_dict(), {"model": model.config, "card": card})


def load(path: str | Path) -> CTM:
    """Read the model that :func:`save` wrote, or the averaged model of a training run's file.

    No code from the file is run, no more memory taken than it holds, and the model is independent
    of the file once it is there. It has the dtype of the weights that were saved, on the processor.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a whole checkpoint, or its kind of model or network is not known
            here; the message says what is wrong.
    """
    tensors, header = read(path)
    if "run" in header:  # the state of the run holds several models: the average is the one to use
        tensors = {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
    try:
        with torch.device("meta"):  # shapes without memory: compared before anything is allocated
            wanted = _build(header["model"]).state_dict()
        wrong = [key for key in sorted(wanted.keys() ^ tensors.keys())]
        wrong += [key for key in wanted.keys() & tensors.keys() if not _fits(wanted[key], tensors[key])]
        if wrong:
            raise ValueError(f"tensors differ from the card, or are not finite: {', '.join(wrong[:4])}")
        model = _build(header["model"])
    except Exception as error:  # of any kind: constructors are called with whatever the file says
        reason = "its header names no model" if "model" not in header else error
        raise ValueError(f"path {path} is not a CTM checkpoint to load here: {reason}") from error
    for key, value in model.state_dict(keep_vars=True).items():
        value.data = value.data.to(tensors[key].dtype)
    model.load_state_dict(tensors)
    return model


def _build(config: dict[str, Any]) -> CTM:
    """A model with new weights, from what its ``config`` was."""
    facts = {"kind": "CTM", **config}  # files of before there were kinds
    for name, known in (("kind", MODELS), ("network", NETWORKS)):
        if facts[name] not in known:
            raise ValueError(f"{name} must be one of {sorted(known)}, got {facts[name]!r}")
    for name in ("center", "shift", "scale"):
        if isinstance(facts.get(name), list):
            facts[name] = torch.tensor(facts[name], dtype=torch.float64, device="cpu")
    kind, network = MODELS[facts.pop("kind")], NETWORKS[facts.pop("network")]
    return kind(network(**facts.pop("config")), **facts)


def _fits(wanted: Tensor, held: Tensor) -> bool:
    """Whether a tensor of the file can be one of the model: any float for a float, and finite."""
    if wanted.is_floating_point():
        return held.dtype in FLOATS and held.shape == wanted.shape and bool(held.isfinite().all())
    return held.dtype == wanted.dtype and held.shape == wanted.shape


def read_card(path: str | Path) -> dict[str, Any]:
    """The card that :func:`save` was given."""
    return read(path)[1].get("card", {})


def write(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to a new file beside ``path``, flush it to disk, then rename it.

    Several writers may write the same path at once: each file is whole, and the last one stays.

    Raises:
        OSError: the file cannot be written; an older file of that name is then still whole.
    """
    path = Path(path)
    contents = {key: value.detach().clone().contiguous().cpu() for key, value in tensors.items()}
    data = to_bytes(contents, metadata={"ctm": json.dumps(header, allow_nan=False)})
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        _remove_if_left_over(part)


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the system can open a folder."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_if_left_over(part: Path) -> None:
    """Remove a file that nobody has written to for an hour; the new file is safe whether or not this works."""
    with contextlib.suppress(OSError):  # another writer was first, or it is somebody else's
        if time.time() - part.stat().st_mtime > LEFT_OVER:
            part.unlink()


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that :func:`write` made.

    The tensors lie in the file itself: copy, once shapes and sizes are seen to be right, what is kept.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or one cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path {path} does not exist or is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["ctm"])
            if not isinstance(header, dict):
                raise ValueError(f"its header must be a JSON object, got {type(header).__name__}")
            return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118 (no dict)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:  # too large to map
        raise ValueError(f"path {path} is not a CTM checkpoint: {error}") from error
