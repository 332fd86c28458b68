"""Sphinx extension: the first use of each term of the glossary in a chapter is a link to it.

Only the running text counts: no headings, code, formulas, links, tables, captions or boxes. Where the author has linked a
term already, that was its first use.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

# Other spellings under which a term is used. Terms not named here have only their own and its plural.
SPELLINGS = {
    "denoising score matching": ["DSM"],
    "consistency trajectory model": ["CTM", "CTMs"],
    "Euler step": ["Euler steps"],
    "Eulerian equation": ["Eulerian law"],
    "Heun's method": ["Heun steps", "Heun step", "Heun"],
    "Lagrangian equation": ["Lagrangian law"],
    "semigroup law": ["semigroup property"],
    "order of accuracy": ["orders of accuracy"],
    "trajectory": ["trajectories"],
    "velocity": ["velocities"],
    "EMA": ["exponential moving average"],
}
RUNNING = (nodes.document, nodes.section, nodes.bullet_list, nodes.enumerated_list, nodes.list_item, nodes.block_quote)
INLINE = (nodes.paragraph, nodes.emphasis, nodes.strong)


def running_text(node: nodes.Node) -> bool:
    """Whether a text stands in a paragraph of the page itself."""
    parent = node.parent
    while isinstance(parent, INLINE):
        parent = parent.parent
    while isinstance(parent, RUNNING) and not isinstance(parent, nodes.document):
        parent = parent.parent
    return isinstance(parent, nodes.document)


class LinkFirstUses(SphinxPostTransform):
    """Before references are resolved, so that the author's own links can still be told by their kind."""

    default_priority = 5
    builders = ("html",)

    def run(self, **_: Any) -> None:
        """Link what is not linked yet, in the order of the text."""
        if not self.env.doc2path(self.env.docname).endswith(".ipynb"):
            return
        found = self.env.get_domain("std").objects.items()
        places = {name: place for (kind, name), place in found if kind == "term"}
        owner = {word.lower(): name for name in places for word in (name, f"{name}s", *SPELLINGS.get(name, []))}
        pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(owner, key=len, reverse=True)))})(?![\w-])", re.I)
        seen: set[str] = set()
        for node in list(self.document.findall()):
            if isinstance(node, pending_xref) and node["reftype"] == "term":
                seen.add(owner.get(node["reftarget"].lower(), ""))
            elif isinstance(node, nodes.Text) and owner and running_text(node):
                node.parent.replace(node, list(self.linked(str(node), pattern, owner, places, seen)))

    def linked(self, text: str, pattern: re.Pattern[str], owner: dict, places: dict, seen: set[str]):
        """The pieces of one text, with a link for each term not seen before."""
        start = 0
        for match in pattern.finditer(text):
            name = owner[match[0].lower()]
            if name not in seen:
                seen.add(name)
                page, label = places[name]
                yield nodes.Text(text[start : match.start()])
                builder, here = self.app.builder, self.env.docname
                yield make_refnode(builder, here, page, label, nodes.inline("", match[0], classes=["std", "std-term"]), name)
                start = match.end()
        yield nodes.Text(text[start:])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_post_transform(LinkFirstUses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
