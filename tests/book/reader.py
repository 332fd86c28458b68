"""A reader of the built pages: the machine's own Chromium (``CHROMIUM`` names another) with no network.

Each page is opened once, from the disk, and everything that a test may ask about it is written down during that visit.
"""

import contextlib
import functools
import gzip
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, ViewportSize, sync_playwright

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build/html"
SCRIPT = Path(__file__).with_name("visit.js")
READY = "visit.ready()"
PHONE: ViewportSize = {"width": 320, "height": 740}
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
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def pages() -> list[Path]:
    """The pages that a reader meets: the book's own, the search page and the index, without listings of source code."""
    return sorted([*(HTML / "book").glob("*.html"), HTML / "search.html", HTML / "genindex.html"])


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing; a connection stays open for the next file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """No log."""


@contextlib.contextmanager
def served(folder: Path = HTML) -> Iterator[str]:
    """Serve ``folder`` on this machine; gives the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.handle_error = lambda *_: None  # a browser that closes a connection is no news
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


@functools.cache
def megabytes(path: Path) -> float:
    """What a server would send for a built file, gzipped."""
    data = path.read_bytes()
    return (len(data) if path.suffix in PACKED else len(gzip.compress(data, 6))) / 1e6


@dataclass
class Findings:
    """What a visit saw."""

    asked: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mathematics: list[int] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    wider_by: int = 0
    sticks_out: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    scrolling: list[int] = field(default_factory=list)
    axe: list[list[Any]] = field(default_factory=list)


class Reader:
    """One window that opens page after page from ``home``, a server or the disk, and notes what it sees."""

    def __init__(self, browser: Browser, home: str) -> None:
        self.home, self.found = home, Findings()
        self.kinds: dict[str, set[str]] = {"light": set(), "dark": set()}
        self.context = browser.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
        self.context.add_init_script(path=SCRIPT)
        self.page = page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        self.context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
        # A request to anywhere but home fails, since the browser knows no other place; here it is remembered.
        page.on("request", lambda request: self.found.asked.add(request.url))
        page.on("requestfailed", lambda request: self.found.missing.append(request.url))
        page.on("response", lambda response: response.status >= 400 and self.found.missing.append(response.url))
        page.on("pageerror", lambda error: self.found.errors.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and self.found.errors.append(said.text))

    def open(self, path: Path) -> Findings:
        """Open a page and wait until it is whole."""
        self.found = Findings()
        self.page.goto(f"{self.home}/{path.relative_to(HTML)}")
        self.page.evaluate(READY)
        self.found.mathematics = self.page.evaluate("visit.mathematics()")
        return self.found

    def examine(self, path: Path) -> Findings:
        """Open a page at a desk, turn the desk into a phone and back, and let axe look in light and in dark."""
        found, page = self.open(path), self.page
        found.headings = page.evaluate("visit.headings()")
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(50)
        found.wider_by, found.sticks_out = page.evaluate("visit.sticksOut()")
        found.cut_off = page.evaluate("visit.cutOff()")
        found.scrolling = page.evaluate("visit.scrolling()")
        page.set_viewport_size(DESK)
        page.evaluate("visit.thin()")
        page.evaluate(AXE_SCRIPT)
        found.axe = page.evaluate("visit.axe()") + self.contrast("light")
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.wait_for_timeout(100)
        found.axe += self.contrast("dark")
        return found

    def contrast(self, theme: str) -> list[list[Any]]:
        """What axe says of the kinds of text that no page before this one had; they look the same on every page."""
        wrong, kinds = self.page.evaluate("seen => visit.contrast(seen)", sorted(self.kinds[theme]))
        self.kinds[theme].update(kinds)
        return wrong

    def outside(self, found: Findings) -> list[str]:
        """The requests that went elsewhere."""
        return [address for address in found.asked if not address.startswith((self.home, "data:", "blob:"))]

    def weight(self, found: Findings) -> float:
        """Megabytes that a server would have sent."""
        names = {address.removeprefix(self.home).partition("?")[0].lstrip("/") for address in found.asked}
        return sum(megabytes(HTML / name) for name in names if (HTML / name).is_file())
