"""Visit a built page in a browser without network, and write down what a test may ask about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, Response

from tools.browser import DESK, HTML, PHONE, sizes

READY = "async () => { await (window.MathJax?.startup?.promise); await document.fonts.ready; }"
# Axe looks at every element there is: each kind of token of the code, and each formula as its words, is enough.
THIN = """() => {
  const seen = new Set();
  for (const e of document.querySelectorAll(".highlight pre span, .sig span")) {
    if (!e.isConnected || e.children.length || seen.size !== seen.add(e.className).size) continue;
    e.replaceWith(e.textContent);
  }
  for (const e of document.querySelectorAll("mjx-container")) e.replaceWith(e.querySelector("mjx-assistive-mml").textContent);
  document.body.normalize();
}"""
AXE = """async (rules) => {
  const options = rules ? {runOnly: {type: "rule", values: rules}} : {};
  const found = await axe.run({...options, resultTypes: ["violations"], preload: false});
  return found.violations.map((v) => [v.id, v.impact, v.nodes.map((n) => n.target.join(" ") + " " + n.failureSummary)]);
}"""
# What sticks out of the screen and lies in no box of its own that scrolls or clips.
STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth, out = [];
  const boxed = (e) => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== "visible") return true; return false; };
  for (const e of document.querySelectorAll("main *, header *")) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > width + 1 && getComputedStyle(e).position !== "fixed" && !boxed(e))
      out.push(e.tagName + "." + e.className + " to " + Math.round(box.right) + ": " + e.textContent.slice(0, 60));
  }
  return [document.scrollingElement.scrollWidth - width, out.slice(0, 5)];
}"""
# Lines, figures and formulas that are cut off at the edge of the text with no way to scroll to the rest.
CUT_OFF = """() => [...document.querySelectorAll(".bd-article pre, .bd-article div.math, .bd-article table, .bd-article img, .bd-article canvas")]
  .filter((e) => { let p = e; const right = e.getBoundingClientRect().left + e.scrollWidth;
    for (; p && !p.matches(".bd-article"); p = p.parentElement) if (["auto", "scroll"].includes(getComputedStyle(p).overflowX)) return false;
    return e.getClientRects().length && right > document.documentElement.clientWidth + 1; })
  .map((e) => e.tagName + ": " + e.textContent.slice(0, 60))"""
MATHEMATICS = """() => [document.querySelectorAll(".math.notranslate").length, document.querySelectorAll(".math.notranslate mjx-container").length,
  document.querySelectorAll("mjx-merror").length, [...document.fonts].filter((f) => f.status === "loaded").length]"""


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
    found.wider_by, found.sticks_out = page.evaluate(STICKS_OUT)
    found.cut_off = page.evaluate(CUT_OFF)
    page.set_viewport_size(DESK)
    page.evaluate(THIN)
    page.evaluate(AXE_SCRIPT)
    found.axe = page.evaluate(AXE)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    found.axe += page.evaluate(AXE, ["color-contrast"])
    context.close()
    return found


def read_from_disk(browser: Browser, path: Path, size: dict[str, int]) -> Findings:
    """Open the page as a file, as from a USB stick."""
    context = browser.new_context(viewport=size)  # type: ignore[arg-type]
    page, found = watched(context, HTML.as_uri())
    page.goto(path.as_uri())
    page.evaluate(READY)
    found.mathematics = page.evaluate(MATHEMATICS)
    context.close()
    return found
