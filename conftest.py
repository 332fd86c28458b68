"""Tests and notebooks run alike on every machine: with the project's settings, on one thread each."""

import os

from tools import settings

settings.apply()
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402 (reads its number of threads when it is loaded)

torch.set_num_threads(1)
