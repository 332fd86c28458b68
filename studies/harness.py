"""What the studies share: rows that are measured once each, kept as they come, and read back."""

import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch


def keep(path: Path, results: list[dict[str, Any]]) -> None:
    """Write the rows whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text("[\n" + ",\n".join(" " + json.dumps(row) for row in results) + "\n]\n")
    os.replace(part, path)


def run(path: Path, jobs: Iterable[dict[str, Any]], measure: Callable[..., dict[str, Any]]) -> None:
    """Measure every job that is not yet in the file ``path`` and add ``{**job, **measure(**job)}`` to it.

    One thread, one job after another. Delete the file to start over.
    """
    torch.set_num_threads(1)
    results = json.loads(path.read_text()) if path.exists() else []
    for job in jobs:
        if not any(job.items() <= row.items() for row in results):
            row = {**job, **measure(**job)}
            results.append(row)
            keep(path, results)
            print(row, file=sys.stderr, flush=True)


def select(path: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of the file ``path`` that have all the ``wanted`` values."""
    return [row for row in json.loads(Path(path).read_text()) if wanted.items() <= row.items()]


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]
