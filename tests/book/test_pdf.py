"""The book on paper, on one chapter and the glossary: whole, opened, with links that stay inside."""

import io
import re

import pytest
from pypdf import PdfReader

from tools.browser import HTML
from tools.pdf import joined, printed


@pytest.fixture(scope="module")
def pages(browser, address):
    """What Chromium printed, by name: the PDF and what was too wide."""
    return {name: printed(browser, address, name) for name in ("solvers", "glossary")}


@pytest.fixture(scope="module")
def book(pages):
    """The two, joined and read again."""
    file = io.BytesIO()
    joined({name: data for name, (data, _) in pages.items()}).write(file)
    return PdfReader(file)


def test_nothing_is_wider_than_the_paper(pages):
    assert [wide for _, wide in pages.values()] == [[], []]


@pytest.fixture(scope="module")
def texts(book):
    """What stands on each page."""
    return [page.extract_text() for page in book.pages]


def test_text_figures_solutions_and_answers_are_there_and_sidebars_are_not(book, texts):
    text = " ".join(" ".join(texts).split())
    for part in ("You will be able to", "The value in the middle stands for", "of order one", "You need"):
        assert part in text, part
    for part in ("Skip to main content", "Part II. Consistency", "From paper to code", "Hide code cell", "Print to PDF"):
        assert part not in text, part
    figures = re.findall(r"<img [^>]*_images/", (HTML / "book/solvers.html").read_text())
    assert sum(len(page.images) for page in book.pages) >= len(figures) > 5


def test_headings_are_bookmarks(book):
    titles = [entry.title for entry in flat(book.outline)]
    headings = re.findall(r"<h[12]>(.*?)<a", (HTML / "book/solvers.html").read_text().partition("bd-article")[2])
    assert {re.sub("<[^>]+>", "", heading) for heading in headings} <= set(titles)
    assert "Glossary" in titles


def flat(outline):
    """The entries of an outline, however deep."""
    for entry in outline:
        yield from flat(entry) if isinstance(entry, list) else [entry]


def test_a_link_to_the_glossary_leads_to_its_page_and_none_to_a_server(book, texts):
    links = [link.get_object() for page in book.pages for link in page.get("/Annots", [])]
    assert not any("127.0.0.1" in str(link.get("/A", "")) for link in links)
    places = book.named_destinations
    aims = [str(link["/Dest"]) for link in links if "/Dest" in link]
    terms = [aim for aim in aims if aim.startswith("/glossary--term-")]
    assert len(terms) > 5
    assert set(aims) <= set(places)
    first = next(i for i, text in enumerate(texts) if "adaptive weight" in text)
    assert all(book.get_destination_page_number(places[term]) >= first for term in terms)
