"""Weigh the built pages: bytes that the browser really loads, gzipped as a server would, and the time until they answer.

Usage: python -m tools.weigh [NAME ...]   (all pages, or those named; after `make book`)
"""

import sys
from pathlib import Path

from playwright.sync_api import Browser

from tools.browser import DESK, HTML, opened, pages, served, sizes

# The page answers once it is loaded and the first group of its formulas is set; then comes the rest.
READY = """async () => {
  await (window.MathJax?.startup?.promise);
  const [first] = performance.getEntriesByName("first-mathematics"), [load] = performance.getEntriesByType("navigation");
  return [Math.max(first?.startTime ?? 0, load.domContentLoadedEventEnd), performance.now()];
}"""


def weigh(browser: Browser, home: str, path: Path) -> tuple[dict[str, tuple[int, int]], tuple[float, float]]:
    """Each file that a page loads, its bytes raw and gzipped; seconds until it answers and is whole."""
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{home}/{path.relative_to(HTML)}")
    answers, whole = page.evaluate(READY)
    page.wait_for_load_state("networkidle")
    context.close()
    return sizes(asked, home), (answers / 1000, whole / 1000)


def main() -> None:
    """Print a line for each page, and the heaviest files of the heaviest page."""
    chosen = [path for path in pages() if not sys.argv[1:] or path.stem in sys.argv[1:]]
    heaviest: dict[str, tuple[int, int]] = {}
    with opened() as browser, served() as root:
        print(f"{'page':36} {'raw MB':>7} {'gzip MB':>8} {'files':>6} {'answers s':>10} {'whole s':>8}")
        for path in chosen:
            files, (answers, whole) = weigh(browser, root, path)
            raw, packed = (sum(column) / 1e6 for column in zip(*files.values(), strict=True))
            print(f"{path.stem:36} {raw:7.2f} {packed:8.2f} {len(files):6d} {answers:10.2f} {whole:8.2f}")
            if packed > sum(size for _, size in heaviest.values()) / 1e6:
                heaviest = files
    print("\nthe heaviest page's files, gzipped:")
    for name, (_, size) in sorted(heaviest.items(), key=lambda item: -item[1][1])[:12]:
        print(f"{size / 1000:8.1f} KB  {name.rpartition('/')[2]}")


if __name__ == "__main__":
    main()
