"""Run notebooks from top to bottom and store their outputs, with nothing in the metadata that changes from run to run, and
figures with a palette: Matplotlib stores four bytes a pixel.

Usage: python tools/execute.py book/name.ipynb ...
"""

import base64
import io
import os
import sys
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PALETTE_ERROR = 12  # levels of 255: a figure that 256 colours miss by more keeps all of its own


def palette(data: bytes) -> bytes:
    """The same PNG on white with at most 256 colours, or as it was where a pixel would change by more than the limit."""
    whole = Image.open(io.BytesIO(data)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    small = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    change = np.abs(np.asarray(small.convert("RGB"), dtype=int) - np.asarray(image, dtype=int)).max()
    packed = io.BytesIO()
    small.save(packed, "png", optimize=True)
    return packed.getvalue() if change <= PALETTE_ERROR and packed.tell() < len(data) else data


def execute(path: Path) -> None:
    """Execute one notebook in its own folder and write it back whole, or leave it as it was if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=900,
        record_timing=False,
        coalesce_streams=True,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # the kernel and we are on one machine: no word on encryption
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)  # its kernel is gone
            if figure := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = base64.b64encode(palette(base64.b64decode(figure))).decode()
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path}, cell {number} writes to stderr: {output['text'][:200]}")
    nbformat.validate(notebook)
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    import settings

    settings.apply()
    for name in sys.argv[1:]:
        execute(Path(name))
