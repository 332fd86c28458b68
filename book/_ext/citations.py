"""Sphinx extension: works in the bibliography are sorted and labelled by author and year, as the text cites them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import pybtex.plugin
from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting import BaseSortingStyle
from sphinx.application import Sphinx


def label(entry: Entry) -> str:
    """``Kim et al., 2024``; works that would have one label are told apart in their field ``year``, as ``2021a``."""
    people = [
        " ".join(str(Text.from_latex(part)) for part in [*person.prelast_names, *person.last_names])
        for person in entry.persons["author"]
    ]
    names = " and ".join(people) if len(people) < 3 else f"{people[0]} et al."
    return f"{names}, {entry.fields['year']}"


class Labels(BaseLabelStyle):
    """Each work by its :func:`label`."""

    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        """The labels, in the order of the works."""
        return map(label, sorted_entries)


class Order(BaseSortingStyle):
    """Works in the order of their labels."""

    def sorting_key(self, entry: Entry) -> str:
        """What works are compared by."""
        return label(entry).casefold()


class Style(Unsorted):
    """Pybtex's plain formatting, by author and year."""

    default_label_style = default_sorting_style = "by_author_year"


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the style known to sphinxcontrib.bibtex."""
    pybtex.plugin.find_plugin = functools.cache(pybtex.plugin.find_plugin)  # it asks every package for every citation
    register_plugin("pybtex.style.labels", "by_author_year", Labels)
    register_plugin("pybtex.style.sorting", "by_author_year", Order)
    register_plugin("pybtex.style.formatting", "by_author_year", Style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
