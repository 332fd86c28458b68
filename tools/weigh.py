"""Weigh the built pages: bytes that the browser really loads, gzipped as a server would, and the time until they answer.

Usage: python -m tools.weigh [NAME ...]   (all pages, or those named; after `make book`)
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser

from tools.browser import DESK, HTML, PATIENCE, opened, pages, served, sizes

# The page answers once it is read and the first group of its formulas is set; then comes the rest.
ANSWERS = """() => performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd > 0
  && (!window.MathJax || performance.getEntriesByName("first-mathematics").length > 0)"""
TIMES = """async () => {
  await window.MathJax?.startup?.promise;
  const [first] = performance.getEntriesByName("first-mathematics"), [load] = performance.getEntriesByType("navigation");
  return [Math.max(first?.startTime ?? 0, load.domContentLoadedEventEnd), performance.now()];
}"""


@dataclass
class Weight:
    """What a page loads and how long it takes: each file's bytes, raw and gzipped; seconds until it answers and is whole by
    the clock; the processor seconds of its thread until it answers, which other work on the machine hardly changes."""

    files: dict[str, tuple[int, int]]
    answers: float
    whole: float
    work: float


def weigh(browser: Browser, home: str, path: Path) -> Weight:
    """Open a page in an empty browser."""
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    inspector = context.new_cdp_session(page)
    inspector.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(f"{home}/{path.relative_to(HTML)}", wait_until="commit")
    page.wait_for_function(ANSWERS)
    work = {metric["name"]: metric["value"] for metric in inspector.send("Performance.getMetrics")["metrics"]}
    answers, whole = page.evaluate(TIMES)
    page.wait_for_load_state("networkidle")
    context.close()
    return Weight(sizes(asked, home), answers / 1000, whole / 1000, work["TaskDuration"])


def main() -> None:
    """Print a line for each page, and the heaviest files of the heaviest page."""
    chosen = [path for path in pages() if not sys.argv[1:] or path.stem in sys.argv[1:]]
    heaviest: dict[str, tuple[int, int]] = {}
    with opened() as browser, served() as root:
        print(f"{'page':36} {'raw MB':>7} {'gzip MB':>8} {'files':>6} {'answers s':>10} {'processor s':>12} {'whole s':>8}")
        for path in chosen:
            found = weigh(browser, root, path)
            raw, packed = (sum(column) / 1e6 for column in zip(*found.files.values(), strict=True))
            times = f"{found.answers:10.2f} {found.work:12.2f} {found.whole:8.2f}"
            print(f"{path.stem:36} {raw:7.2f} {packed:8.2f} {len(found.files):6d} {times}", flush=True)
            if packed > sum(size for _, size in heaviest.values()) / 1e6:
                heaviest = found.files
    print("\nthe heaviest page's files, gzipped:")
    for name, (_, size) in sorted(heaviest.items(), key=lambda item: -item[1][1])[:12]:
        print(f"{size / 1000:8.1f} KB  {name.rpartition('/')[2]}")


if __name__ == "__main__":
    main()
