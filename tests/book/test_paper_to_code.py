"""The page that leads from the paper to the code: every name and test on it exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book/paper_to_code.md").read_text(encoding="utf-8")
ROWS = [row for row in PAGE.splitlines() if row.startswith("| ") and "{py:" in row]
LINKS = [link for row in ROWS for link in re.findall(r"\{py:\w+\}`([\w.]+) <ctm\.(\w+)\.([\w.]+)>`", row)]


def test_every_row_names_code_book_and_test():
    assert len(ROWS) >= 20
    for row in ROWS:
        cells = [cell.strip() for cell in row.replace(r"\|", "").strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert re.search(r"\{eq\}|\{doc\}", cells[2]), row
        assert re.fullmatch(r"`test_\w+\.py::test_\w+`", cells[3]), row
    assert len(LINKS) >= len(ROWS)


@pytest.mark.parametrize(("shown", "module", "name"), LINKS, ids=str)
def test_the_name_exists_and_is_the_one_shown(shown, module, name):
    thing = importlib.import_module(f"ctm.{module}")
    for part in name.split("."):
        thing = getattr(thing, part)
    assert shown == name


@pytest.mark.parametrize("test", re.findall(r"`(test_\w+\.py::test_\w+)`", PAGE))
def test_the_test_exists(test):
    file, name = test.split("::")
    (path,) = (ROOT / "tests").rglob(file)
    assert re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), flags=re.M)
