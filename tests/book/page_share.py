"""How much of a page is code and output? Characters that a reader sees without opening anything.

    python tests/book/page_share.py

For each built page: the share of code and output in what it shows, and of its visible cells the median number of lines, the
largest, and the share with at most 24. Folded cells, solutions and quiz answers are not counted, formulas as they are typed.
"""

import statistics
from html.parser import HTMLParser
from pathlib import Path

PAGES = Path(__file__).parents[2] / "_build/html/book"
CLOSED = {"dropdown", "toggle", "toggle-hidden", "hide"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """Collects the visible text of the article, and which of it is code or output."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, set[str]]] = []
        self.shown = self.machine = 0
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in VOID:
            return
        classes = set((dict(attrs).get("class") or "").split())
        if "cell_input" in classes:
            self.cells.append("")
        self.stack.append((tag, classes))

    def handle_endtag(self, tag):
        while tag not in VOID and self.stack and self.stack.pop()[0] != tag:
            pass

    def handle_data(self, data):
        within = set().union(*(classes for _, classes in self.stack))
        tags = {tag for tag, _ in self.stack}
        if "article" not in tags or tags & {"details", "script", "style", "button"} or within & CLOSED:
            return
        size = len("".join(data.split()))
        self.shown += size
        if within & {"cell_input", "cell_output"}:
            self.machine += size
        if "cell_input" in within and self.cells:
            self.cells[-1] += data


def share(path: Path) -> tuple[float, list[int]]:
    """The share of code and output on a page, and the lines of each visible cell."""
    page = Page(path.read_text(encoding="utf-8"))
    lines = [len(cell.strip().splitlines()) for cell in page.cells if cell.strip()]
    return page.machine / max(1, page.shown), lines


def main() -> None:
    for path in sorted(PAGES.glob("*.html")):
        part, lines = share(path)
        if lines:
            short = sum(n <= 24 for n in lines) / len(lines)
            print(f"{path.stem:<36} {part:4.0%}  lines a cell: median {statistics.median(lines):g}, ", end="")
            print(f"most {max(lines)}, {short:.0%} at most 24")


if __name__ == "__main__":
    main()
