"""One browser for all tests of the pages, with no network; each page is visited once and its findings kept."""

import functools
import os

import pytest
from reader import HTML, Reader, find_chromium, opened, served


@pytest.fixture(scope="session")
def browser():
    """Chromium; where there is none the tests that need it are skipped, or fail if ``NEED_BROWSER`` is set."""
    if find_chromium() is None:
        if os.environ.get("NEED_BROWSER"):
            pytest.fail("NEED_BROWSER is set and no Chromium was found")
        pytest.skip("no Chromium on this machine: the pages were not opened in a browser")
    with opened() as running:
        yield running


@pytest.fixture(scope="session")
def address():
    """The built book on a server of this machine."""
    with served() as root:
        yield root


@pytest.fixture(scope="session")
def reader(browser):
    """Opens pages from the disk."""
    return Reader(browser, HTML.as_uri())


@pytest.fixture(scope="session")
def visit(reader):
    """For a page: what was found when it was opened from the disk, at a desk and on a phone, in light and in dark."""
    return functools.cache(reader.examine)
