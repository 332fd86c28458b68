"""Files of weights: safetensors, a JSON card in the header. Written whole; no pickle."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import time
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ctm.models import CTM, MODELS
from ctm.networks import NETWORKS

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LEFT_OVER = (
    3600.0  # seconds without a change, after which a part's writer was surely killed
)


def save(model: CTM, path: str | Path, **card: Any) -> None:
    """Write ``model`` to ``path``, with further facts (seed, figures ...) as a card.

    Raises:
        TypeError: the model is of no kind in :data:`ctm.models.MODELS`, its network not
            registered (:func:`ctm.networks.register`), or the card nothing that JSON can
            write.
        ValueError: the weights are not finite, or not of 16, 32 or 64 bits.
        OSError: the file cannot be written; an older one of that name is then still whole.
    """
    network = model.network
    for name, thing, known in (("model", model, MODELS), ("network", network, NETWORKS)):
        kind = type(thing)
        if kind is not known.get(kind.__name__):
            raise TypeError(f"{name} must be one of {sorted(known)}, got {kind.__name__}")
    tensors = model.state_dict()
    for key, value in tensors.items():
        if not _sound(value, value):
            raise ValueError(
                f"model must have finite weights of 16 to 64 bits, {key} has not"
            )
    config = model.config
    try:
        with torch.device("meta"):  # shapes alone
            again = _build(config)
    except Exception as error:  # such as a structure of one's own, which has no name here
        raise TypeError(f"model cannot be made again from {config}") from error
    wrong = _wrong(tensors, again.state_dict()) or ", ".join(
        name  # a setting that a subclass has, and its config has not
        for name in signature(type(model)).parameters
        if isinstance(value := vars(model).get(name), int | float | str)
        and value != vars(again).get(name)
    )
    if wrong:
        raise TypeError(f"model cannot be made again from {config}: other {wrong}")
    write(path, tensors, {"model": config, "card": card})


def load(path: str | Path) -> CTM:
    """Read the model that :func:`save` wrote, or the averaged one of a training run's file.

    No code from the file is run, and no more memory taken than it holds. The model does not
    depend on the file any longer; it is on the processor, in the dtype that was saved.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole checkpoint, or of a kind of model or network that is not
            known here; the message says which.
    """
    tensors, header = read(path)
    if "run" in header:  # the state of a run holds several models
        tensors = average_of(tensors)
    try:
        if "model" not in header:
            raise ValueError("its header describes no model")
        with torch.device("meta"):  # shapes alone, compared before anything is allocated
            wanted = _build(header["model"]).state_dict()
        if wrong := _wrong(tensors, wanted):
            raise ValueError(f"tensors not finite, or not those of its model: {wrong}")
        with torch.device("cpu"):  # whatever torch's default is
            model = _build(header["model"])
    except Exception as error:  # a constructor may raise anything at what the file says
        message = f"path {path} is not a CTM checkpoint that can be loaded: {error}"
        raise ValueError(message) from error
    for key, _ in list(model.named_parameters())[:1]:  # buffers that no file holds follow
        model.to(tensors[key].dtype)
    for key, weights in model.state_dict(keep_vars=True).items():
        weights.data = weights.data.to(tensors[key].dtype)
    model.load_state_dict(tensors)
    return model


def average_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged model among the tensors of a run."""
    head = "average."
    return {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}


def _build(config: dict[str, Any]) -> CTM:
    """The model, with new weights, that has this ``config``."""
    facts = {"kind": "CTM", **config}  # the first files had one kind only
    for name, known in (("kind", MODELS), ("network", NETWORKS)):
        if facts[name] not in known:
            raise ValueError(f"{name} must be one of {sorted(known)}, got {facts[name]!r}")
    for name in ("center", "shift", "scale"):
        if isinstance(facts.get(name), list):
            facts[name] = torch.tensor(facts[name], dtype=torch.float64, device="cpu")
    kind, network = MODELS[facts.pop("kind")], NETWORKS[facts.pop("network")]
    return kind(network(**facts.pop("config")), **facts)


def _wrong(held: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first names of tensors that cannot stand for those of a model."""
    wrong = wanted.keys() ^ held.keys()
    wrong |= {key for key in wanted.keys() - wrong if not _sound(held[key], wanted[key])}
    return ", ".join(sorted(wrong)[:4])


def _sound(held: Tensor, wanted: Tensor) -> bool:
    """Whether ``held`` is finite and can stand for ``wanted``: any float for a float."""
    if not wanted.is_floating_point():
        return held.dtype == wanted.dtype and held.shape == wanted.shape
    fits = held.dtype in FLOATS and held.shape == wanted.shape
    return fits and bool(held.isfinite().all())


def read_card(path: str | Path) -> dict[str, Any]:
    """The card that :func:`save` was given."""
    return read(path)[1].get("card", {})


def write(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to a new file, flush it, then rename it to ``path``.

    Many may write to one path at once: the file is always whole, and that of the last.

    Raises:
        OSError: the file cannot be written; an older one of that name is then still whole.
    """
    path = Path(path)
    contents = {
        k: value.detach().cpu().clone().contiguous() for k, value in tensors.items()
    }
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
        with contextlib.suppress(OSError):  # another writer was first, or it is not ours
            if time.time() - part.stat().st_mtime > LEFT_OVER:
                part.unlink()


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where a folder can be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that :func:`write` made.

    The tensors still lie in the file: check their shapes, then copy what is to be kept.

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
                raise ValueError(f"its header must be an object, got {header!r:.40}")
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, header
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # a RuntimeError: too large to map
        raise ValueError(f"path {path} is not a CTM checkpoint: {error}") from error
