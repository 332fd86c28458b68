"""What the studies share: rows that are measured once each, kept as they come, and read back."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch


class Rows(list[dict[str, Any]]):
    """Rows of a study, each the settings and the figures of one measurement.

    ``load("loss").median("error", variant="DSM 1")`` is the median over the seeds of that variant.
    """

    def where(self, **wanted: Any) -> Rows:
        """The rows that have all the ``wanted`` values; None stands for "has no such entry"."""
        return Rows(row for row in self if all(row.get(key) == value for key, value in wanted.items()))

    def one(self, **wanted: Any) -> dict[str, Any]:
        """The only row that has the ``wanted`` values."""
        found = self.where(**wanted)
        if len(found) != 1:
            raise ValueError(f"one row must have {wanted}, got {len(found)}")
        return found[0]

    def values(self, figure: str, **wanted: Any) -> list[Any]:
        """One figure of all those rows, in the order in which they were measured."""
        return [row[figure] for row in self.where(**wanted)]

    def median(self, figure: str, **wanted: Any) -> float:
        """The median of one figure over those rows."""
        return self.spread(figure, **wanted)[0]

    def spread(self, figure: str, **wanted: Any) -> tuple[float, float, float]:
        """Median, smallest and largest of one figure over those rows."""
        found = self.values(figure, **wanted)
        if not found:
            raise ValueError(f"a row must have {wanted}, got none")
        return spread(found)


def load(name: str) -> Rows:
    """The stored rows of the study ``name``, such as "samplers"."""
    return Rows(json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8")))


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]


def fastest(*calls: Callable[[], Any], turns: int = 7, least: float = 0.05) -> list[float]:
    """Processor seconds of one call of each, the least of several turns; short calls are repeated within a turn.

    All are called in every turn, one after the other, so that the machine falls out of their ratios.
    """
    counts, best = [], [math.inf] * len(calls)
    for call in calls:
        call()
        started = time.thread_time()
        call()
        counts.append(max(1, math.ceil(least / max(1e-7, time.thread_time() - started))))
    for _ in range(turns):
        for index, (call, count) in enumerate(zip(calls, counts, strict=True)):
            started = time.thread_time()
            for _ in range(count):
                call()
            best[index] = min(best[index], (time.thread_time() - started) / count)
    return best


def run(path: Path, jobs: Iterable[dict[str, Any]], measure: Callable[..., dict[str, Any]]) -> None:
    """Measure every job that is not yet in the file ``path`` and add ``{**job, **measure(**job)}`` to it.

    One thread, one job after another. Delete the file to start over.
    """
    torch.set_num_threads(1)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for job in jobs:
        if not any(job.items() <= row.items() for row in results):
            row = {**job, **measure(**job)}
            results.append(row)
            keep(path, results)
            print(row, file=sys.stderr, flush=True)


def run_parts(parts: dict[str, Callable[[], None]]) -> None:
    """Run the parts of a study that the command line names, all if it names none."""
    asked = sys.argv[1:] or list(parts)
    if unknown := set(asked) - parts.keys():
        raise SystemExit(f"a part must be one of {', '.join(parts)}; got {', '.join(sorted(unknown))}")
    for name in asked:
        parts[name]()


def keep(path: Path, results: list[dict[str, Any]]) -> None:
    """Write the rows whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text("[\n" + ",\n".join(" " + json.dumps(row) for row in results) + "\n]\n", encoding="utf-8")
    os.replace(part, path)
