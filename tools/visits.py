"""Visit a built page in a browser without network, and write down what a test may ask about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, Response

from tools.browser import DESK, HTML, PHONE, sizes

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


def watched(context: BrowserContext, home: str) -> tuple[Page, Findings]:
    """A page whose requests to anywhere but ``home`` are refused and noted, with its errors."""
    found = Findings()
    context.add_init_script(path=SCRIPT)
    page = context.new_page()

    def route(request):  # type: ignore[no-untyped-def]
        url = request.request.url
        if url.startswith((home, "data:", "blob:")):
            request.continue_()
        else:
            found.outside.append(url)
            request.abort()

    page.route("**/*", route)
    page.on("console", lambda message: found.errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("response", lambda response: found.missing.append(response.url) if response.status >= 400 else None)
    page.on("requestfailed", lambda request: found.missing.append(request.url))
    return page, found


def read_from_server(browser: Browser, root: str, path: Path) -> Findings:
    """Open the page at a desk, in light and in dark, and turn the desk into a phone."""
    context = browser.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
    page, found = watched(context, root)
    responses: list[Response] = []
    page.on("response", lambda response: responses.append(response))
    page.goto(f"{root}/{path.relative_to(HTML)}")
    page.evaluate(READY)
    found.megabytes = sum(packed for _, packed in sizes(responses).values()) / 1e6
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(50)
    found.wider_by, found.sticks_out = page.evaluate("visit.sticksOut()")
    found.cut_off = page.evaluate("visit.cutOff()")
    page.set_viewport_size(DESK)
    page.evaluate("visit.thin()")
    page.evaluate(AXE_SCRIPT)
    found.axe = page.evaluate("visit.axe()")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(100)
    found.axe += page.evaluate("visit.axe(['color-contrast'])")
    context.close()
    return found


def read_from_disk(browser: Browser, path: Path, size: dict[str, int]) -> Findings:
    """Open the page as a file, as from a USB stick."""
    context = browser.new_context(viewport=size)  # type: ignore[arg-type]
    page, found = watched(context, HTML.as_uri())
    page.goto(path.as_uri())
    page.evaluate(READY)
    found.mathematics = page.evaluate("visit.mathematics()")
    context.close()
    return found
