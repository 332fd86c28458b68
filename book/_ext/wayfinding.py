"""Sphinx extension: how a reader finds the way.

Under each title, how long the page takes and how hard it is; at the foot, a line on why the next page is worth reading; an
index of all numbered equations; and, once the book has an address, what other sites ask of a page.
"""

from __future__ import annotations

import functools
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import card  # Sphinx finds the neighbours of an extension by their own names
import yaml
from sphinx.application import Sphinx

BOOK = Path(__file__).parents[1]
MARKUP = re.compile(r"^```\{raw\} html\n.*?^```$|^:[\w-]+:[^\n]*$", re.M | re.S)  # and the options of a directive
WORDS_A_MINUTE = 150  # of prose between equations, slower than a novel
ENDS = re.compile(r"\s*(?<!\\)[.,:;]?\s*(\\qquad \\square)?$")  # the end of its sentence, or of a proof
EQUATION = re.compile(r"^\$\$ *\n((?:(?!\$\$).)*)\n\$\$ \((eq-[\w-]+)\)", re.M | re.S)


@functools.cache
def chapters() -> dict[str, dict[str, str]]:
    """What ``chapters.yml`` says of the pages."""
    return yaml.safe_load((BOOK / "chapters.yml").read_text(encoding="utf-8"))


def about(name: str) -> dict[str, str]:
    """What it says of one page."""
    return chapters().get(name, {})


def prose(name: str) -> str:
    """The markdown that a page shows, cell by cell if it is a notebook."""
    notebook = BOOK / f"{name}.ipynb"
    if not notebook.exists():
        return (BOOK / f"{name}.md").read_text(encoding="utf-8")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [c for c in cells if c["cell_type"] == "markdown" and "remove-cell" not in c["metadata"].get("tags", [])]
    return "\n\n".join("".join(cell["source"]) for cell in shown)


def badges(name: str) -> list[str]:
    """Minutes for the main text and for the exercises, time to run, difficulty: for chapters only."""
    level = about(name).get("level")
    if level is None:
        return []
    text = MARKUP.sub("", prose(name))
    main, _, rest = text.partition("## Exercises")
    exercises, _, questions = rest.partition("## More questions")
    quiz = questions[questions.find("```{include} quiz/") :]  # questions are opened one by one: not timed
    read, solve = (5 * math.ceil(len(part.split()) / WORDS_A_MINUTE / 5) for part in (main, exercises + quiz))
    runs = re.search(r"\*\*It runs\*\* in (about [\w ]+?) on ", text)
    return [f"{read} min to read, exercises {solve} min", *([f"runs in {runs[1]}"] if runs else []), level]


def index_of_equations() -> str:
    """Every labelled equation under its chapter, in the order of the contents, with what it is."""
    what = yaml.safe_load((BOOK / "equations.yml").read_text(encoding="utf-8"))
    names = re.findall(r"file: book/(\w+)", (BOOK.parent / "_toc.yml").read_text(encoding="utf-8"))
    sections = []
    for name in names:
        found = EQUATION.findall(prose(name)) if (BOOK / f"{name}.ipynb").exists() else []
        if found:
            rows = [f"{{eq}}`{label}` {what.get(label, '')}\n\n$$\n{ENDS.sub('', latex)}\n$$\n" for latex, label in found]
            title = re.search(r"^# (.+)$", prose(name), flags=re.M)[1]  # type: ignore[index]
            sections.append(f"## {title}\n\nIn {{doc}}`{name}`.\n\n" + "\n".join(rows))
    return "\n\n".join(sections)


def fill_index(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the equations where the page asks for them."""
    if page == "book/equations":
        source[0] = source[0].replace("<!-- the equations -->", index_of_equations())


def summary(name: str) -> str:
    """The first paragraph of a page in plain words, for other sites that show a link to it."""
    if "level" in about(name):
        match = re.search(r"\*\*You will be able to\*\* (.+?)\n\n", prose(name), flags=re.S)
        text = f"You will be able to {match[1]}" if match else ""
    else:
        text = about(name).get("why", "")
    text = re.sub(r"\{[\w:]+\}`([^`<]*?)(?: <[^>]*>)?`|\$([^$]*)\$|[*`]", lambda m: m[1] or m[2] or "", text)
    return " ".join(text.split())


def on_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Badges, reasons to go on, and the tags that other sites read."""
    folder, _, name = page.rpartition("/")
    if folder != "book":
        return
    line = "".join(f"<li>{html.escape(badge)}</li>" for badge in badges(name))
    if line:
        block = f'</h1>\n<ul class="badges" aria-label="About this chapter">{line}</ul>'
        context["body"] = context["body"].replace("</h1>", block, 1)
    for side in ("prev", "next"):
        if context.get(side):
            context[f"{side}_why"] = about(Path(context[side]["link"]).stem).get("why", "")
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            address = context["pathto"]("book/ways_to_read") + "#run-it-yourself"
            own = {"type": "link", "text": "Your own JupyterLab", "tooltip": "Run it on this machine", "url": address}
            group["buttons"].append({**own, "icon": "fas fa-laptop"})
    base = app.config.html_baseurl
    tags = {"og:title": context.get("title", ""), "og:type": "article", "og:description": summary(name)}
    if base:
        tags |= {"og:url": f"{base}{page}.html", "og:image": f"{base}_static/card.png"}
    meta = [
        f'<meta property="{key}" content="{html.escape(re.sub("<[^>]+>", "", value))}" />' for key, value in tags.items()
    ]
    context["metatags"] = "\n".join([context.get("metatags", ""), *meta])


def write_for_others(app: Sphinx, error: Exception | None) -> None:
    """``sitemap.xml`` and the picture of links, for a book that has an address."""
    base = app.config.html_baseurl
    if error is None and base and app.builder.format == "html":
        rows = [f"<url><loc>{html.escape(base)}{page}.html</loc></url>" for page in sorted(app.env.found_docs)]
        head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        Path(app.outdir, "sitemap.xml").write_text("\n".join([head, *rows, "</urlset>\n"]), encoding="utf-8")
        card.draw(Path(app.outdir, "_static/card.png"))


def no_address_no_buttons(app: Sphinx, config: Any) -> None:
    """The theme cannot make launch buttons without the address of a repository, and does not say so."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options["launch_buttons"] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    app.connect("config-inited", no_address_no_buttons)
    app.connect("source-read", fill_index)
    app.connect("html-page-context", on_page, priority=800)
    app.connect("build-finished", write_for_others)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
