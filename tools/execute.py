"""Run notebooks from top to bottom and store their outputs, with nothing in the metadata that changes from run to run.

Usage: python tools/execute.py book/name.ipynb ...
"""

import os
import sys
from pathlib import Path

import nbformat
import settings
from nbclient import NotebookClient

settings.apply()
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


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
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path}, cell {number} writes to stderr: {output['text'][:200]}")
    nbformat.validate(notebook)
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


for name in sys.argv[1:]:
    execute(Path(name))
