"""Tests and notebooks run alike on every machine: with the project's settings, on one thread each, shared out to workers so
that what is costly is done once."""

import os
import sys

import pytest
from xdist.scheduler import LoadScopeScheduling

from tools import settings

settings.apply()
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402 (reads its number of threads when it is loaded)

torch.set_num_threads(1)


class Sharing(LoadScopeScheduling):
    """A notebook, the tests of one built page or live figure and those of the faults, which share what is costly to make,
    stay with one worker; others go one by one.

    (Marks of xdist_group do nothing under pytest 9.2, which no longer reads the name that they change.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file.endswith((".ipynb", "test_faults.py")):
            return file
        if file.endswith(("test_browser.py", "test_live_figures.py")) and test.endswith("]"):
            return f"page {test.partition('[')[2]}"
        return nodeid


@pytest.hookimpl
def pytest_xdist_make_scheduler(config, log):
    return Sharing(config, log)


def pytest_runtest_teardown(item):
    """Two workers have to fit into the memory of a small laptop: the first test that passes 3 GB is named."""
    if sys.platform == "linux":
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        assert most < 3, f"this worker has used {most:.1f} GB by now"
