"""Begin a chapter: python -m tools.chapter NAME "Title" --after NAME_OF_ANOTHER

Makes book/NAME.ipynb and book/quiz/NAME.md of their templates and adds a line to _toc.yml and to book/chapters.yml. What is
left to write are the notebook, its quiz, and its line in chapters.yml.
"""

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUIZ = """## Check yourself

Three questions. Open the answer that you would give; each says why it is right or wrong.
""" + "".join(
    f"\n**{number}.** A question?\n"
    + "".join(f"\n```{{dropdown}} An answer.\n**{verdict}.** A sentence on why.\n```\n" for verdict in ("Right", "No", "No"))
    for number in (1, 2, 3)
)


def begin(root: Path, name: str, title: str, after: str) -> None:
    """Write and change the four files of the book at ``root``."""
    notebook, quiz = root / f"book/{name}.ipynb", root / f"book/quiz/{name}.md"
    if not re.fullmatch(r"[a-z]\w*", name) or notebook.exists():
        raise ValueError(f"NAME must be a new name in small letters, digits and _, got {name!r}")
    changed = {}
    for path, line, new in (
        (root / "_toc.yml", rf"^ *- file: book/{after}\n", None),
        (root / "book/chapters.yml", rf"^{after}: .*\n", f'{name}: {{level: in depth, why: "A line on why to read it."}}\n'),
    ):
        text = path.read_text(encoding="utf-8")
        found = re.search(line, text, flags=re.M)
        if not found:
            raise ValueError(f"--after must be a page of {path.name}, got {after!r}")
        changed[path] = text[: found.end()] + (new or found[0].replace(after, name)) + text[found.end() :]
    template = (root / "book/template.ipynb").read_text(encoding="utf-8")
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    notebook.write_text(template.replace("NAME", name).replace("TITLE", title), encoding="utf-8")
    quiz.write_text(QUIZ, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("title")
    parser.add_argument("--after", required=True)
    begin(ROOT, **vars(parser.parse_args()))
