"""The notebooks as stored, and the promises between the parts of the project."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

import ctm

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_cell_was_run_in_order_and_wrote_no_error(notebook):
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type not in ("error", "execute_result")  # an object shown by its address is no output
            assert output.get("name") != "stderr"
            assert "/site-packages/" not in str(output)


def test_the_metadata_are_clean(notebook):
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "mystnb"}


def test_every_figure_has_alt_text_a_caption_and_a_mention(notebook):
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            options = cell.metadata["mystnb"]
            assert len(options["image"]["alt"]) > 40
            assert len(options["figure"]["caption"]) > 40
            assert re.search(r"set_ylabel|ylabel=|scatter\(|three_panels\(", cell.source)


def test_no_cell_calls_a_private_name(notebook):
    """Nor takes one from a module: what begins with an underscore may change without a word."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                names = [node.attr] if isinstance(node, ast.Attribute) else []
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                parts = [part for name in names for part in name.split(".")]
                assert not [part for part in parts if part.startswith("_") and not part.endswith("__")]


def test_claims_are_asserted(notebook):
    asserts = sum(cell.source.count("assert ") for cell in code_cells(notebook))
    assert asserts >= 1
    for cell in code_cells(notebook):
        measured = any(re.search("≈|: ~ ", output.get("text", "")) for output in cell.outputs)
        assert not measured or "assert" in cell.source, "a measured figure without an assert beside it"


def test_no_number_is_compared_to_its_last_digit(notebook):
    # the last digits of what is computed in floating point differ from one processor to the next
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert not re.search(r"\d\.\d{8}", output.get("text", "")), "round what is printed"


def test_exercises_have_solutions(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    labels = re.findall(r"^:label: (ex-[\w-]+)", text, flags=re.M)
    assert sorted(labels) == sorted(re.findall(r"\{solution-start\} (ex-[\w-]+)", text))
    assert text.count("{solution-start}") == text.count("{solution-end}") == text.count(":class: dropdown")


def chapters():
    """The notebooks of Parts I and II, in the order of the contents."""
    numbered = (
        (ROOT / "_toc.yml").read_text(encoding="utf-8").partition("caption: Part I.")[2].partition("caption: Reference")[0]
    )
    return [ROOT / f"{name}.ipynb" for name in re.findall(r"file: (book/\w+)", numbered)]


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_has_all_its_parts(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in ("**You will be able to**", "**You need**", "**It runs**", "## The question", "**Predict first.**"):
        assert part in prose, part
    for part in ("## What goes wrong", "## Exercises", "## Summary", "**Further reading.**", "{literalinclude} ../ctm/"):
        assert part in prose, part
    for kind in ("**Compute.**", "**Change the code.**", "**Explain.**"):
        assert kind in prose, kind
    assert len(re.findall(r"^\$\$ \(eq-", prose, flags=re.M)) >= 3
    assert sum("assert " in cell.source for cell in code_cells(notebook)) >= 6
    assert sum("image/png" in output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs) >= 3


@pytest.mark.parametrize("path", sorted((ROOT / "book").rglob("*.md")) + NOTEBOOKS, ids=lambda path: path.stem)
def test_no_text_holds_a_control_character(path):
    r"""A backslash that was read as an escape makes a tab of \theta, a form feed of \frac, a bell of \alpha."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        options = [cell.metadata["mystnb"] for cell in cells if "mystnb" in cell.metadata]
        captions = [part for option in options if "image" in option for part in (option.image.alt, option.figure.caption)]
        text = "\n".join([*(cell.source for cell in cells if cell.cell_type == "markdown"), *captions])
    found = re.search(r"[\x00-\x09\x0b-\x1f\x7f]\w*", text)
    assert found is None, repr(found[0])


def test_every_public_name_says_what_it_is():
    for path in (ROOT / "ctm").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(('"""', 'r"""')), path.name
        for i, line in enumerate(lines):
            if re.match(r"(class|def) [A-Za-z]", line) and not line.split()[1].startswith("_"):
                end = next(j for j in range(i, len(lines)) if lines[j].rstrip().endswith((":", "...")))
                assert '"""' in lines[end + 1] or lines[end].endswith("..."), f"{path.name}: {line}"
    assert len(ctm.__all__) == len(set(ctm.__all__))


def test_the_readme_quotes_the_study():
    results = json.loads((ROOT / "studies/first_light.json").read_text(encoding="utf-8"))
    errors = {}
    for result in results:
        if "error" in result:
            errors.setdefault(tuple(result["run"][:3]), []).append(result["error"])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for (world, teacher, budget), values in errors.items():
        row = re.search(rf"\| {world} \| {teacher} \| {budget} s? ?\|[^\n]*", readme)
        assert row, (world, teacher, budget)
        assert f"{sorted(values)[len(values) // 2]:.4f}" in row.group(0)


def test_no_two_works_are_cited_by_the_same_author_and_year():
    cited = []
    for entry in re.split(r"^@", (ROOT / "book/references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]:
        authors = re.search(r"author = \{(.*)\},$", entry, flags=re.M)[1].split(" and ")
        names = [author.partition(",")[0] for author in authors]
        year = re.search(r"year = \{(\w+)\}", entry)[1]
        cited.append((" and ".join(names) if len(names) < 3 else names[0] + " et al.", year))
    assert len(cited) == len(set(cited)) > 30
