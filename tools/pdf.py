"""Print the built pages and join them to one PDF, _build/ctm-book.pdf, with bookmarks and links from page to page.

Usage: python -m tools.pdf [NAME ...]   (the whole book, or the chapters named; after `make book`)
"""

import io
import re
import sys

from playwright.sync_api import Browser
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

from tools.browser import ROOT, opened, served
from tools.visits import READY, SCRIPT

BOOK = ROOT / "_build/ctm-book.pdf"
WIDTH = 860  # of the text on paper, in the pages' own pixels
PAPER = {"width": "210mm", "height": "297mm", "margin": {"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}}
SCALE = 178 / 25.4 * 96 / WIDTH
STYLE = """
  .bd-sidebar, .bd-header, .bd-header-article, .bd-footer, .prev-next-area, .headerlink, .copybtn,
    .toggle-button, .viewcode-link,
    #jb-print-docs-body, details.hide > summary { display: none !important; }
  .bd-main, .bd-content, .bd-article-container, .bd-article { display: block !important; max-width: none !important;
    width: auto !important; margin: 0 !important; padding: 0 !important; }
  figure, img, tr, div.math, div.cell_input, div[class*='highlight-'] { break-inside: avoid; }
  h1, h2, h3, h4, summary, .admonition-title { break-inside: avoid; break-after: avoid; }
  img { max-height: 235mm; object-fit: contain; }
  .bd-main :not(mjx-container, mjx-container *) { overflow: visible !important; }  /* a box that scrolls does not break */
  pre { white-space: pre-wrap !important; break-inside: auto !important; orphans: 4; widows: 4; }
  .bd-article h1 { display: block !important; margin: 0 0 1.5rem !important; }
"""
# Open what is folded; give every place a name that is its own in the whole book, and a link that leads there, since Chromium
# keeps only such places; shrink what is wider than the paper. Returns what is still too wide.
PREPARE = """
async (name) => {
  document.documentElement.dataset.theme = "light";
  for (const box of document.querySelectorAll("details")) box.open = true;
  for (const box of document.querySelectorAll(".toggle-hidden")) box.classList.remove("toggle-hidden");
  for (const link of document.querySelectorAll("a[href^='#']")) link.hash = `${name}--${link.hash.slice(1)}`;
  const places = document.createElement("p");
  places.hidden = true;
  document.querySelector(".bd-article h1").id = "";
  for (const place of document.querySelectorAll(".bd-article [id]")) {
    place.id = `${name}--${place.id}`;
    places.append(Object.assign(document.createElement("a"), { href: "#" + place.id }));
  }
  document.body.append(places);
  await Promise.all([...document.images].map((image) => image.decode()));
  const wide = () => [...document.querySelectorAll("div.math, table, pre, img")]
    .filter((e) => e.scrollWidth > e.clientWidth + 1);
  for (const box of wide()) {
    const size = parseFloat(getComputedStyle(box).fontSize);
    box.style.fontSize = `${Math.floor(100 * size * box.clientWidth / box.scrollWidth) / 100}px`;
  }
  return wide().map((e) => `${e.tagName}: ${e.textContent.slice(0, 60)}`);
}
"""


def contents() -> list[str]:
    """The pages in the order of the contents."""
    return re.findall(r"(?:file|root): book/(\w+)", (ROOT / "_toc.yml").read_text())


def printed(browser: Browser, root: str, name: str) -> tuple[bytes, list[str]]:
    """The PDF of one page, and what is wider than the paper."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1200}, reduced_motion="reduce")
    page.set_default_timeout(180_000)  # a busy machine
    page.add_init_script(path=SCRIPT)
    page.goto(f"{root}/book/{name}.html")
    page.evaluate(READY)
    page.emulate_media(media="print")
    page.add_style_tag(content=STYLE)
    wide = page.evaluate(PREPARE, name)
    foot = (
        '<p style="font: 8px sans-serif; color: #555; width: 100%; text-align: center">'
        '<span class="title"></span>, <span class="pageNumber"></span> / <span class="totalPages"></span></p>'
    )
    data = page.pdf(
        **PAPER,
        scale=SCALE,
        print_background=True,
        outline=True,
        tagged=True,
        display_header_footer=True,
        header_template="<p></p>",
        footer_template=foot,
    )
    page.close()
    return data, wide


def joined(chapters: dict[str, bytes]) -> PdfWriter:
    """One PDF. The headings are its bookmarks, and a link from page to page leads to the place and not to a server."""
    writer, places = PdfWriter(), set()
    for data in chapters.values():
        reader = PdfReader(io.BytesIO(data))
        places |= set(reader.named_destinations)
        writer.append(reader)
    for page in writer.pages:
        for link in (entry.get_object() for entry in page.get("/Annots", [])):
            address = str(link.get("/A", {}).get("/URI", ""))
            inside = re.match(r"http://127\.0\.0\.1:\d+/(?:book/(\w+)\.html#?(.*))?", address)
            if inside:
                del link["/A"]  # a listing of source code, say, is not in the book
                if f"/{inside[1]}--{inside[2]}" in places:
                    link[NameObject("/Dest")] = TextStringObject(f"/{inside[1]}--{inside[2]}")
    writer.compress_identical_objects()
    writer.add_metadata({"/Title": "Consistency Trajectory Models"})
    return writer


def main() -> None:
    """Print, join, write."""
    names = sys.argv[1:] or contents()
    with opened() as browser, served() as root:
        found = {name: printed(browser, root, name) for name in names}
    for name, (_, wide) in found.items():
        for what in wide:
            print(f"{name}: wider than the paper: {what}")
    writer = joined({name: data for name, (data, _) in found.items()})
    writer.write(BOOK)
    print(f"{len(writer.pages)} pages, {BOOK.stat().st_size / 1e6:.1f} MB: {BOOK.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
