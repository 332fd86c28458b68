"""Files of weights: safetensors with a JSON card in the header. Written whole or not at all; never pickle."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ctm.conditional import ConditionalCTM
from ctm.models import CTM
from ctm.networks import MLP

NETWORKS = {"MLP": MLP}
MODELS = {"CTM": CTM, "ConditionalCTM": ConditionalCTM}


def save(model: CTM, path: str | Path, **card: Any) -> None:
    """Write ``model`` to ``path``, with any further facts (command, seed, figures ...) as a card.

    Raises:
        ValueError: the weights are not finite, or not float32.
        TypeError: the model or its network is not one of this package's, or the card cannot be written as JSON.
        OSError: the file cannot be written; an older file of that name is then still whole.
    """
    kind, name = type(model).__name__, type(model.network).__name__
    if type(model) is not MODELS.get(kind):
        raise TypeError(f"model must be one of {sorted(MODELS)} to be saved, got {kind}")
    if type(model.network) is not NETWORKS.get(name):
        raise TypeError(f"network must be one of {sorted(NETWORKS)} to be saved, got {name}")
    for key, value in model.state_dict().items():
        if value.dtype != torch.float32 or not bool(torch.isfinite(value).all()):
            raise ValueError(f"model must have finite float32 weights to be saved, {key} has not")
    model_card = {
        "kind": kind,
        "network": name,
        "config": model.network.config,
        "sigma_data": model.sigma_data,
        "sigma_min": model.sigma_min,
        "sigma_max": model.sigma_max,
    }
    write(path, model.state_dict(), {"model": model_card, "card": card})


def load(path: str | Path) -> CTM:
    """Read the model that :func:`save` wrote. No code from the file is run, and no more memory taken than it holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a whole checkpoint of this package; the message says what is wrong.
    """
    tensors, header = read(path)
    try:
        facts = header["model"]
        model_class, network_class = MODELS[facts.get("kind", "CTM")], NETWORKS[facts["network"]]
        if len(tensors) < facts["config"]["layers"]:
            raise ValueError(f"{facts['config']['layers']} layers named, {len(tensors)} tensors held")
        with torch.device("meta"):  # shapes without memory: compared with the file's before anything is allocated
            network = network_class(**facts["config"])
            model = model_class(network, facts["sigma_data"], facts["sigma_min"], facts["sigma_max"])
        wanted = {key: (tuple(value.shape), value.dtype) for key, value in model.state_dict().items()}
        held = {key: (tuple(value.shape), value.dtype) for key, value in tensors.items()}
        if wanted != held:
            wrong = sorted(key for key in wanted.keys() | held.keys() if wanted.get(key) != held.get(key))
            raise ValueError(f"tensors differ from the card: {', '.join(wrong[:4])}")
        if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
            raise ValueError("weights are not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path {path} is not a CTM checkpoint: {error}") from error
    model.load_state_dict(tensors, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def read_card(path: str | Path) -> dict[str, Any]:
    """The card that :func:`save` was given."""
    return read(path)[1].get("card", {})


def write(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to a new file beside ``path``, flush it to disk, then rename it to ``path``.

    Raises:
        OSError: the file cannot be written; an older file of that name is then still whole.
    """
    path = Path(path)
    contents = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    data = to_bytes(contents, metadata={"ctm": json.dumps(header, allow_nan=False)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # of writers that were killed
        if not _alive(part.suffixes[-2][1:]):
            part.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the system can open a folder."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _alive(process: str) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):  # no number of ours, or somebody else's process
        pass
    return True


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that :func:`write` made.

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
            return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: too large to map
        raise ValueError(f"path {path} is not a CTM checkpoint: {error}") from error
