"""The page that leads from the paper to the code: every line number, name and test on it exists."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book/paper_to_code.md").read_text()
ROWS = [row for row in PAGE.splitlines() if row.startswith("| ") and "{py:" in row]
LINKS = [link for row in ROWS for link in re.findall(r"\{py:\w+\}`(\w+\.py):(\d+) <ctm\.(\w+)\.([\w.]+)>`", row)]


def test_every_row_names_code_book_and_test():
    assert len(ROWS) >= 20
    for row in ROWS:
        cells = [cell.strip() for cell in row.replace(r"\|", "").strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert re.search(r"\{eq\}|\{doc\}", cells[2]), row
        assert re.fullmatch(r"`test_\w+\.py::test_\w+`", cells[3]), row
    assert len(LINKS) >= len(ROWS)


@pytest.mark.parametrize(("file", "line", "module", "name"), LINKS, ids=lambda value: str(value))
def test_the_line_is_where_the_name_is_defined(file, line, module, name):
    assert file == f"{module}.py"
    thing = importlib.import_module(f"ctm.{module}")
    for part in name.split("."):
        thing = getattr(thing, part)
    lines = (ROOT / "ctm" / file).read_text().splitlines()
    if callable(thing):
        start = inspect.getsourcelines(thing)[1]  # the first decorator, if there is one
        first = next(i for i in range(start, start + 5) if lines[i - 1].lstrip().startswith(("def ", "class ")))
    else:
        first = next(i for i, text in enumerate(lines, 1) if text.startswith(f"{name} "))
    assert int(line) == first, f"{module}.{name} begins at line {first}"


@pytest.mark.parametrize("test", re.findall(r"`(test_\w+\.py::test_\w+)`", PAGE))
def test_the_test_exists(test):
    file, name = test.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), flags=re.M)
