"""Weigh the built pages: bytes that the browser really loads, gzipped as a server would, and the time until they answer.

Usage: python -m tools.weigh [NAME ...]   (all pages, or those named; after `make book`)
"""

import gzip
import sys

from playwright.sync_api import Browser

from tools.browser import DESK, HTML, opened, pages, served

PACKED = (".png", ".woff", ".woff2", ".jpg")  # compressed already: a server sends them as they are
# The page answers once it is loaded and the mathematics in view is set.
READY = "async () => { if (window.MathJax?.startup?.promise) await MathJax.startup.promise; return performance.now(); }"


def weigh(browser: Browser, address: str) -> tuple[dict[str, tuple[int, int]], float]:
    """Bytes raw and gzipped of every file that the page at ``address`` loads, and the milliseconds until it answers."""
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    responses = []
    page.on("response", lambda response: responses.append(response))
    page.goto(address, wait_until="load")
    ready = page.evaluate(READY)
    page.wait_for_load_state("networkidle")
    files = {}
    for response in responses:
        body = response.body()
        name = response.url.partition("?")[0]
        files[name] = (len(body), len(body) if name.endswith(PACKED) else len(gzip.compress(body, 6)))
    context.close()
    return files, ready


def main() -> None:
    """Print a line for each page, and the heaviest files of the heaviest page."""
    chosen = [path for path in pages() if not sys.argv[1:] or path.stem in sys.argv[1:]]
    heaviest: dict[str, tuple[int, int]] = {}
    with opened() as browser, served() as root:
        print(f"{'page':36} {'raw MB':>7} {'gzip MB':>8} {'files':>6} {'ready s':>8}")
        for path in chosen:
            files, ready = weigh(browser, f"{root}/{path.relative_to(HTML)}")
            raw, packed = (sum(sizes) / 1e6 for sizes in zip(*files.values(), strict=True))
            print(f"{path.stem:36} {raw:7.2f} {packed:8.2f} {len(files):6d} {ready / 1000:8.2f}")
            if packed > sum(size for _, size in heaviest.values()) / 1e6:
                heaviest = files
    print("\nthe heaviest page's files, gzipped:")
    for name, (_, size) in sorted(heaviest.items(), key=lambda item: -item[1][1])[:12]:
        print(f"{size / 1000:8.1f} KB  {name.rpartition('/')[2]}")


if __name__ == "__main__":
    main()
