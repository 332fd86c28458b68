"""Sphinx extension: works in the bibliography are sorted and labelled by author and year, as the text cites them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx


class AuthorYear(BaseLabelStyle):
    """``Kim et al., 2024``; two works that would have one label are told apart by ``2021a`` in their field ``year``."""

    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        """One label for each work."""
        for entry in sorted_entries:
            people = [
                " ".join(str(Text.from_latex(part)) for part in [*person.prelast_names, *person.last_names])
                for person in entry.persons["author"]
            ]
            names = " and ".join(people) if len(people) < 3 else f"{people[0]} et al."
            yield f"{names}, {entry.fields['year']}"


class Style(Unsorted):
    """Pybtex's plain formatting, by author and year."""

    default_label_style = "author_year"
    default_sorting_style = "author_year_title"


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the style known to sphinxcontrib.bibtex."""
    register_plugin("pybtex.style.labels", "author_year", AuthorYear)
    register_plugin("pybtex.style.formatting", "author_year", Style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
