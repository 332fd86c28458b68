"""The first use of a term in the running text of a chapter is a link to the glossary, and nothing else is."""

import re
import sys

import nbformat
import pytest
from sphinx.application import Sphinx

GLOSSARY = """# Glossary

```{glossary}
denoiser
  What removes noise.

flow map
  Where a point goes.

trajectory
  Its way.

velocity
  Its speed.

EMA
  An average.
```
"""
CHAPTER = r"""# The denoiser and its velocity

A `denoiser` in code, a *flow map* with stress, and $velocity$ in a formula. Two denoisers, another denoiser. The
co-trajectory is another word; here are *trajectories*. An exponential moving average. The {term}`velocity` is linked by
its author, one more velocity is not.

| trajectory | in a table |
|---|---|
| a | b |

```{note}
EMA in a box.
```
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The chapter as built."""
    source = tmp_path_factory.mktemp("terms")
    cells = [nbformat.v4.new_markdown_cell(CHAPTER)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), source / "chapter.ipynb")
    (source / "glossary.md").write_text(GLOSSARY, encoding="utf-8")
    (source / "index.md").write_text("# A\n\n```{toctree}\nchapter\nglossary\n```\n", encoding="utf-8")
    options = {"extensions": ["myst_nb", "glossary_links"], "nb_execution_mode": "off", "html_theme": "basic"}
    options["myst_enable_extensions"] = ["dollarmath"]
    out = source / "_build"
    Sphinx(
        source, None, out, out / "doctrees", "html", options, status=None, warning=sys.stderr, warningiserror=True
    ).build()
    return (out / "chapter.html").read_text(encoding="utf-8")


def test_each_first_use_is_linked_once_with_its_own_spelling(page):
    found = re.findall(r'href="glossary\.html#term-([\w-]+)".*?>([\w ]+)</span>', page)
    assert found == [
        ("flow-map", "flow map"),
        ("denoiser", "denoisers"),
        ("trajectory", "trajectories"),
        ("EMA", "exponential moving average"),
        ("velocity", "velocity"),
    ]


def test_the_text_is_as_it_was(page):
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "with stress" in text
    assert "Two denoisers, another denoiser. The co-trajectory is another word; here are trajectories." in text
