"""Visit built pages in a browser without network, and write down what a test may ask about them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, ConsoleMessage, Request, Response, ViewportSize

from tools.browser import DESK, HTML, PATIENCE, PHONE, sizes

SCRIPT = Path(__file__).with_name("visit.js")
READY = "visit.ready()"


@dataclass
class Findings:
    """What a visit saw."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    axe: list[list[Any]] = field(default_factory=list)
    wider_by: int = 0
    sticks_out: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    megabytes: float = 0.0
    mathematics: list[int] = field(default_factory=list)


class Reader:
    """One window that opens page after page, from a server or from the disk, and notes what it sees."""

    def __init__(self, browser: Browser, home: str, size: ViewportSize) -> None:
        self.home, self.found = home, Findings()
        self.responses: list[Response] = []
        self.context = browser.new_context(viewport=size, color_scheme="light", reduced_motion="reduce")
        self.context.add_init_script(path=SCRIPT)
        self.page = page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        self.context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
        page.on("request", self.note_request)
        page.on("requestfailed", lambda request: self.found.missing.append(request.url))
        page.on("response", lambda response: self.responses.append(response))
        page.on("pageerror", lambda error: self.found.errors.append(str(error)))
        page.on("console", self.note_message)

    def note_request(self, request: Request) -> None:
        """A request to anywhere but home fails, since the browser knows no other place; here it is remembered."""
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.found.outside.append(request.url)

    def note_message(self, message: ConsoleMessage) -> None:
        """What a reader with the console open would see."""
        if message.type in ("error", "warning"):
            self.found.errors.append(message.text)

    def open(self, path: Path) -> Findings:
        """Open a page and wait until it is whole."""
        self.found, self.responses = Findings(), []
        self.page.goto(f"{self.home}/{path.relative_to(HTML)}")
        self.page.evaluate(READY)
        self.found.mathematics = self.page.evaluate("visit.mathematics()")
        self.found.missing += [response.url for response in self.responses if response.status >= 400]
        return self.found

    def examine(self, path: Path) -> Findings:
        """Open a page at a desk, weigh it, turn the desk into a phone and back, and let axe look in light and in dark."""
        found, page = self.open(path), self.page
        found.megabytes = (
            sum(packed for _, packed in sizes([response.url for response in self.responses], self.home).values()) / 1e6
        )
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(50)
        found.wider_by, found.sticks_out = page.evaluate("visit.sticksOut()")
        found.cut_off = page.evaluate("visit.cutOff()")
        page.set_viewport_size(DESK)
        page.evaluate("visit.thin()")
        page.evaluate(AXE_SCRIPT)
        found.axe = page.evaluate("visit.axe()") + page.evaluate("visit.contrast()")
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.wait_for_timeout(100)
        found.axe += page.evaluate("visit.contrast()")
        return found
