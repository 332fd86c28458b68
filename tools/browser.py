"""What the checks of the built pages share: a browser with no network, a server on this machine, the list of pages.

Chromium is the one that the machine has (``CHROMIUM`` names another); nothing is downloaded.
"""

import contextlib
import functools
import gzip
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, sync_playwright

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build/html"
NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE: ViewportSize = {"width": 375, "height": 812}
DESK: ViewportSize = {"width": 1280, "height": 900}
PATIENCE = 180_000  # milliseconds: a busy machine is no fault of a page
PACKED = (".png", ".woff", ".woff2", ".jpg")  # compressed already: a server sends them as they are
# Every name but this machine's own resolves to nothing: no request can leave, whoever makes it.
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def find_chromium() -> str | None:
    """Path of the browser, or None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def pages() -> list[Path]:
    """The pages that a reader meets: the book's own, the search page and the index, without listings of source code."""
    return sorted([*(HTML / "book").glob("*.html"), HTML / "search.html", HTML / "genindex.html"])


@functools.cache
def size(path: Path) -> tuple[int, int]:
    """Bytes of a built file as it is, and gzipped as a server would send it."""
    data = path.read_bytes()
    return len(data), len(data) if path.suffix in PACKED else len(gzip.compress(data, 6))


def sizes(addresses: list[str], home: str) -> dict[str, tuple[int, int]]:
    """The sizes of the files that a browser asked ``home`` for."""
    names = {address.removeprefix(home).partition("?")[0] for address in addresses}
    return {name: size(HTML / name.lstrip("/")) for name in names if (HTML / name.lstrip("/")).is_file()}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing; a connection stays open for the next file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """No log."""


@contextlib.contextmanager
def served(folder: Path = HTML) -> Iterator[str]:
    """Serve ``folder`` on this machine; gives the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


@contextlib.contextmanager
def opened() -> Iterator[Browser]:
    """One browser, closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGS)
        try:
            yield browser
        finally:
            browser.close()
