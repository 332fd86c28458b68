"""Tests share one thread each, so that they run the same alone and side by side."""

import os

import torch

torch.set_num_threads(1)
os.environ.setdefault("TQDM_DISABLE", "1")  # kernels inherit it: a progress bar is no output to compare
