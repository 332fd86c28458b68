"""Link the first use of every glossary term in every chapter.

    python tools/link_terms.py            # report first uses that are not links, exit 1 if there are any
    python tools/link_terms.py --write    # make them links

Headings, code, mathematics, links, directives and captions are left alone.
"""

import re
import sys
from pathlib import Path

import nbformat

BOOK = Path(__file__).parents[1] / "book"
# Other spellings under which a term of the glossary is used. Terms not named here have only their own and its plural.
SPELLINGS = {
    "denoising score matching": ["DSM"],
    "consistency trajectory model": ["CTM", "CTMs"],
    "Euler step": ["Euler steps"],
    "Eulerian equation": ["Eulerian law"],
    "Heun's method": ["Heun steps", "Heun step", "Heun"],
    "Lagrangian equation": ["Lagrangian law"],
    "semigroup law": ["*semigroup* property", "semigroup property"],
    "NFE": ["NFEs"],
    "order of accuracy": ["orders of accuracy"],
    "trajectory": ["trajectories"],
    "velocity": ["velocities"],
    "stop-gradient": ["stop-gradients"],
    "world": ["*worlds*", "worlds"],
    "EMA": ["exponential moving average"],
}
# No place for a term: code blocks and directives, inline code and roles, mathematics, links, headings, options, tables
SKIP = re.compile(
    r"^(`{3,})[^\n]*\n.*?^\1[^\n]*$|\{[\w:-]+\}`[^`]*`|`[^`]*`|\$\$.*?\$\$|(?<!\$)\$[^$]*\$|\[[^\]]*\]\([^)]*\)"
    r"|^\#[^\n]*$|^:[\w-]+:[^\n]*$|^\|[^\n]*$|^\([\w-]+\)=$",
    re.M | re.S,
)


def terms() -> dict[str, list[str]]:
    """Every term of the glossary with the spellings it goes by, longest first."""
    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    names = re.findall(r"^(\S.*)\n  \S", text.partition("```{glossary}")[2], flags=re.M)
    return {name: sorted({name, f"{name}s", *SPELLINGS.get(name, [])}, key=len, reverse=True) for name in names}


def blank(text: str) -> str:
    """``text`` with all that is not prose overwritten, at the same length."""

    def cover(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", "\0", match.group(0))

    return SKIP.sub(cover, text)


def first_uses(cells: list[str]) -> dict[str, tuple[int, int, int]]:
    """For each term the cell, start and end of its first use in prose that is not a link."""
    owner = {spelling.lower(): name for name, spellings in terms().items() for spelling in spellings}
    longest_first = sorted(owner, key=len, reverse=True)  # "trajectory" is not used where "consistency trajectory model" is
    pattern = re.compile(r"(?<![\w\0-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w\0-])", re.I)
    found: dict[str, tuple[int, int, int]] = {}
    for number, text in enumerate(cells):
        for match in pattern.finditer(blank(text)):
            found.setdefault(owner[match.group(1).lower()], (number, match.start(), match.end()))
    return found


def linked_at(cells: list[str], name: str) -> tuple[int, int]:
    """Cell and position of the first link to the term ``name``, or beyond the end."""
    pattern = re.compile(r"\{term\}`(?:[^`<]*<)?" + re.escape(name) + r">?`", re.I)
    for number, text in enumerate(cells):
        found = pattern.search(text)
        if found:
            return number, found.start()
    return len(cells), 0


def main(write: bool) -> int:
    missing = 0
    for path in sorted(BOOK.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        cells = [cell.source if cell.cell_type == "markdown" else "" for cell in notebook.cells]
        uses = first_uses(cells)
        # from the last to the first, so that writing a link moves no other use
        for name in sorted(uses, key=lambda name: uses[name], reverse=True):
            use = uses[name]
            if linked_at(cells, name) < use[:2]:
                continue
            number, start, end = use
            missing += 1
            if not write:
                print(f"{path.name}, cell {number}: the first use of '{name}' is not a link to the glossary")
                continue
            text = cells[number]
            shown = text[start:end]
            if "$" in shown:  # a link shows no mathematics, only its source: the term's own name stands in
                shown = name
            link = f"{{term}}`{shown}`" if shown == name else f"{{term}}`{shown} <{name}>`"
            cells[number] = text[:start] + link + text[end:]
        if write:
            for cell, text in zip(notebook.cells, cells, strict=True):
                if cell.cell_type == "markdown":
                    cell.source = text
            nbformat.write(notebook, path)
    return 0 if write else min(missing, 1)


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
