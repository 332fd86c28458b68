"""The built pages, as files: whole, described, and free of what a reader must not see. Run after `make book`."""

import functools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_share import share

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "_build/html/book").glob("*.html"))


class Page(HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self, path):
        super().__init__()
        self.images, self.links, self.scripts, self.ids, self.text = [], [], [], set(), []
        self.skipping = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.add(attrs["id"])
        if tag == "img":
            self.images.append(attrs)
        elif tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        elif tag in ("script", "style"):
            self.skipping += 1
            if "src" in attrs:
                self.scripts.append(attrs["src"])

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.skipping -= 1

    def handle_data(self, data):
        if not self.skipping:
            self.text.append(data)


parsed = functools.cache(Page)  # a page is parsed once, however many links lead to it


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def page(request):
    return request.param, parsed(request.param)


def test_every_chapter_of_the_contents_is_built():
    chapters = re.findall(r"(?:file|root): (book/\w+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert len(chapters) >= 16
    assert {f"book/{path.stem}" for path in PAGES} >= set(chapters)


def test_every_figure_is_described(page):
    _, content = page
    for image in content.images:
        if "_images/" in image["src"]:
            assert len(image.get("alt", "")) > 40, f"{image['src']} has alt text {image.get('alt')!r}"
            assert (ROOT / "_build/html/book" / image["src"]).exists()


def test_links_inside_the_book_arrive(page):
    path, content = page
    for link in content.links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{path.name} links to {link}"
        if anchor and file.suffix == ".html" and anchor != "":
            assert anchor in parsed(file).ids, f"{path.name} links to {link}"


def test_code_and_output_leave_room_for_the_argument(page):
    """The aim is 30%; the short chapter that trains a model at once shows most."""
    path, _ = page
    part, lines = share(path)
    assert part <= 0.4 or not lines
    assert max(lines, default=0) <= 24


def test_no_traceback_warning_or_machine_path_is_shown(page):
    _, content = page
    text = "".join(content.text)
    for bad in ("Traceback", "Warning:", "<Figure size", "site-packages", "[eq-", "??", "```{"):
        assert bad not in text, bad
    assert not re.search(r"(?<![\w.:/])/(work|root|tmp|home)/", text)


def test_mathematics_and_live_figures_load_from_the_book_itself(page):
    path, content = page
    mathjax = [source for source in content.scripts if "mathjax" in source.lower()]
    assert all(not source.startswith("http") for source in mathjax)
    if "math notranslate" in path.read_text(encoding="utf-8"):
        assert mathjax
    for source in mathjax + [source for source in content.scripts if "live" in source]:
        assert (path.parent / source.partition("?")[0]).exists()


def test_every_icon_has_its_font():
    static = ROOT / "_build/html/_static"
    faces = re.findall(r"@font-face{[^}]*}", (static / "icons.css").read_text(encoding="utf-8"))
    named = {name for face in faces for name in re.findall(r"url\((webfonts/[^)]+)\)", face)}
    assert named == {f"webfonts/{path.name}" for path in (static / "webfonts").iterdir()}
    assert any("font-weight:900" in face and "6 Free" in face for face in faces)
