"""Sphinx extension: what a built page carries, and nothing it does not use.

The theme ships 1,500 icons as a script and as fonts, MathJax ships a dozen bundles. After the build this keeps the icons
that occur and the one bundle of MathJax. Everything comes from the installed packages; the pages ask for nothing from
elsewhere.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image
from sphinx.application import Sphinx

logging.getLogger("fontTools").setLevel(logging.WARNING)

ICONS = "vendor/fontawesome"
MATHJAX = "tex-chtml.js"
OTHER_BUNDLES = ("*svg*.js", "mml-*.js", "tex-mml-*.js", "tex-chtml-full*.js", "node-main.js", "latest.js")
UNUSED = ("sphinx-thebe.*", "styles/*.map", "scripts/*.map", "scripts/*.LICENSE.txt", "locales")


def keep_used_icons(out: Path) -> None:
    """Write ``icons.css`` and fonts with only the icons that the pages or the theme's styles name."""
    static = out / "_static"
    css = next(static.glob(f"{ICONS}/*/css/all.min.css"), None)
    if css is None:  # nothing was built anew, and the icons are lean already
        return
    pages = [*out.glob("*.html"), *out.glob("book/*.html"), *static.glob("scripts/*.js"), *static.glob("*.js")]
    names = {name for page in pages for name in re.findall(r"\bfa-[a-z0-9-]+", page.read_text(encoding="utf-8"))}
    codes = {
        ord(c)
        for style in static.glob("styles/*.css")
        for c in style.read_text(encoding="utf-8")
        if "\ue000" <= c <= "\uf8ff"
    }

    def rule(match: re.Match[str]) -> str:
        if not names & set(re.findall(r"\.(fa-[a-z0-9-]+):before", match[0])):
            return ""
        codes.add(int(match["code"], 16))
        return match[0]

    text = re.sub(r'(\.fa-[a-z0-9-]+:before,?)+{content:"\\(?P<code>[0-9a-f]+)"}', rule, css.read_text(encoding="utf-8"))
    text = re.sub(r"@font-face{[^}]*(v4compat|fa-regular-400[^}]*unicode-range)[^}]*}", "", text)
    text = re.sub(
        r'url\(\.\./(webfonts/[\w-]+)\.woff2\) format\("woff2"\),url\([^)]*\) format\("truetype"\)', r"url(\1.woff)", text
    )
    (static / "icons.css").write_text(text, encoding="utf-8")
    (static / "webfonts").mkdir(exist_ok=True)
    for file in css.parent.parent.glob("webfonts/*-[49]00.ttf"):
        font = TTFont(file)
        options = subset.Options(name_IDs=["*"], notdef_outline=True)
        work = subset.Subsetter(options)
        work.populate(unicodes=codes)
        work.subset(font)
        font.flavor = "woff"
        font.save(static / "webfonts" / f"{file.stem}.woff")
    shutil.rmtree(static / ICONS)


def copy_mathjax(static: Path) -> None:
    """Copy the bundle that the pages load, with its fonts, extensions and menu."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.origin).parent / "static/mathjax"  # type: ignore[union-attr, arg-type]
    shutil.rmtree(static / "mathjax", ignore_errors=True)
    shutil.copytree(source, static / "mathjax", ignore=shutil.ignore_patterns(*OTHER_BUNDLES))


def mend_body(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Say each figure's size in its tag, so that the text does not jump when it arrives; references are items of a list.
    What stands in for a storage that the browser refuses comes before the theme's first script."""

    def sized(match: re.Match[str]) -> str:
        with Image.open(Path(app.srcdir, sources[match["name"]])) as image:
            width, height = image.size
        return f'{match[0]} width="{width}" height="{height}" style="--width: {width}px" decoding="async"'

    storage = f'<script src="{context["pathto"]("_static/storage.js", 1)}"></script>'
    context["metatags"] = context.get("metatags", "") + storage
    sources = {name: source for source, name in app.builder.images.items()}
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
        context["body"] = re.sub(r'<img [^>]*?src="[./]*_images/(?P<name>[^"]+\.png)"', sized, context["body"])


def finish(app: Sphinx, error: Exception | None) -> None:
    """After the pages are written and the files copied."""
    if error is None and app.builder.format == "html":
        out = Path(app.outdir)
        keep_used_icons(out)
        copy_mathjax(out / "_static")
        for pattern in UNUSED:
            for path in (out / "_static").glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    app.config.mathjax_path = f"mathjax/{MATHJAX}"
    app.connect("html-page-context", mend_body, priority=900)
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
