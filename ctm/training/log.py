"""What a launched run says of itself while it runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ctm.training.config import Config


class Log:
    """The run's lines: JSON in ``log.jsonl``, TensorBoard where it is installed, and a line
    with the time that is left."""

    def __init__(self, path: Path, engine: Any, config: Config, done: int) -> None:
        self.path, self.engine, self.config = path, engine, config
        lines = (
            self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        )
        kept = [
            line
            for line in lines
            if line.endswith("}") and json.loads(line)["step"] <= done
        ]
        part = self.path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(part, self.path)
        self.start = self.last = time.perf_counter(), done

    def write(self, step: int, loss: float, lr: float) -> None:
        """A line at ``step``."""
        now, total = time.perf_counter(), self.config.steps
        (then, before), (begin, first) = self.last, self.start
        self.last = now, step
        left = (now - begin) / (step - first) * (total - step)
        figures = {
            "loss": loss,
            "lr": lr,
            "points_per_second": self.config.batch * (step - before) / (now - then),
            "seconds_left": left,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | figures) + "\n")
        self.engine.log(figures, step=step)
        rate = figures["points_per_second"]
        print(
            f"step {step} of {total}: loss {loss:.4g}, {rate:,.0f} points/s, "
            f"{left // 60:.0f} min {left % 60:.0f} s left",
            flush=True,
        )
