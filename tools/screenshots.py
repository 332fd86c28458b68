"""Photograph the built pages, light and dark, at a desk and on a phone, into _build/screenshots.

Usage: python -m tools.screenshots [NAME ...]   (all pages, or those named; after `make book`)
"""

import sys

from tools.browser import DESK, HTML, PATIENCE, PHONE, ROOT, opened, pages, served
from tools.visits import READY, SCRIPT

FOLDER = ROOT / "_build/screenshots"


def main() -> None:
    """Four pictures a page, each of its whole length."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chosen = [path for path in pages() if not sys.argv[1:] or path.stem in sys.argv[1:]]
    with opened() as browser, served() as root:
        for path in chosen:
            page = browser.new_page(viewport=DESK)
            page.set_default_timeout(PATIENCE)
            page.add_init_script(path=SCRIPT)
            page.goto(f"{root}/{path.relative_to(HTML)}")
            page.evaluate(READY)
            page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")  # they decode when they please
            for size in (DESK, PHONE):
                page.set_viewport_size(size)
                for theme in ("light", "dark"):
                    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
                    page.wait_for_timeout(200)
                    page.screenshot(path=FOLDER / f"{path.stem}-{size['width']}-{theme}.png", full_page=True)
            page.close()
    print(f"{4 * len(chosen)} pictures in {FOLDER.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
