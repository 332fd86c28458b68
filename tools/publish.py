"""Give the book its addresses: launch buttons, links of other sites, and the cell that Colab needs appear with them.

Usage: python -m tools.publish https://github.com/OWNER/NAME https://OWNER.github.io/NAME/
Run it once, commit what it changed, and build.
"""

import re
import sys
from pathlib import Path

import nbformat

# Hidden in the page. It brings a notebook that Colab opened alone to the rest of the book.
COLAB = """\
import sys

if "google.colab" in sys.modules:  # anywhere else this cell does nothing
    import os
    import subprocess

    subprocess.run(["git", "clone", "--depth=1", "{repository}", "/content/book"], check=not os.path.exists("/content/book"))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "/content/book"], check=True)
    sys.path[:0] = ["/content/book", "/content/book/book"]
    os.chdir("/content/book/book")"""


# How the welcome says where the repository is, before and after it has an address.
ADDRESS = re.compile(
    r"which has no public address yet: it is the folder in which these pages were built|at <https?://[^>]*>"
)


def with_colab_cell(notebook: nbformat.NotebookNode, repository: str) -> None:
    """Put the cell behind the title, or a new one in the place of the old; later cells count one more."""
    notebook.cells = [cell for cell in notebook.cells if "google.colab" not in cell.source]
    cell = nbformat.v4.new_code_cell(COLAB.format(repository=repository), metadata={"tags": ["remove-cell"]})
    notebook.cells.insert(1, cell)
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count


def publish(root: Path, repository: str, site: str) -> None:
    """Write the addresses into the configuration and the notebooks of the book at ``root``."""
    config = root / "_config.yml"
    text = re.sub(r'(?<=\nrepository: \{url: ")[^"]*', repository, config.read_text(encoding="utf-8"))
    config.write_text(re.sub(r'(?<=\n  baseurl: ")[^"]*', site.rstrip("/") + "/", text), encoding="utf-8")
    for path in sorted((root / "book").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with_colab_cell(notebook, repository)
        for cell in notebook.cells if path.stem == "welcome" else ():
            cell.source = ADDRESS.sub(f"at <{repository}>", cell.source)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    publish(Path(__file__).parents[1], sys.argv[1].rstrip("/"), sys.argv[2])
