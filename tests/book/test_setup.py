"""The reader's machine does not decide: settings, encodings, line endings."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("ctm", "studies", "book", "tools", "tests") for path in (ROOT / folder).rglob("*.py")]


def opened_without_encoding(source):
    """The lines of ``source`` that read or write text as the machine is set up."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and not any(word.arg in ("encoding", None) for word in node.keywords):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            mode = node.args[1] if name == "open" and len(node.args) > 1 else None
            binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
            alone = isinstance(node.func, ast.Name) and not any(isinstance(part, ast.Starred) for part in node.args)
            if name == "write_text" or (name == "read_text" and not node.args) or (name == "open" and alone and not binary):
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_opened_as_utf8(path):
    assert list(opened_without_encoding(path.read_text(encoding="utf-8"))) == []


def test_an_open_without_encoding_is_seen():
    source = "open(a)\nopen(a, 'rb')\np.read_text()\np.write_text(t)\np.read_text(encoding='utf-8')\nm.read_text('x')"
    assert list(opened_without_encoding(source)) == [1, 3, 4]


SHOWN = """
import os, sys, matplotlib, IPython
history = IPython.get_ipython().history_manager.hist_file
print(matplotlib.rcParams["font.size"], matplotlib.get_backend(), history, "mine" in globals(), os.environ["HOME"])
"""


def test_the_readers_own_settings_do_not_reach_the_kernels(tmp_path):
    """A home with a start-up file, a style, other kernels, and no right to write."""
    home = tmp_path / "home"
    for name, text in {
        ".ipython/profile_default/startup/mine.py": "mine = 1",
        ".config/matplotlib/matplotlibrc": "font.size: 31",
        ".local/share/jupyter/kernels/python3/kernel.json": '{"argv": ["false"], "display_name": "", "language": "python"}',
        ".jupyter/jupyter_config.json": '{"KernelManager": {"shutdown_wait_time": "wrong"}}',
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    home.chmod(0o555)
    cell = nbformat.v4.new_code_cell(SHOWN)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "shown.ipynb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("IPYTHON", "JUPYTER", "MPL"))}
    environment |= {"HOME": str(home), "MPLBACKEND": "pdf", "MATPLOTLIBRC": str(home / ".config/matplotlib")}
    run = [sys.executable, ROOT / "tools/execute.py", tmp_path / "shown.ipynb"]
    subprocess.run(run, env=environment, check=True, cwd=ROOT)
    (output,) = nbformat.read(tmp_path / "shown.ipynb", as_version=4).cells[0].outputs
    size, backend, history, mine, where = output.text.split()
    assert where == str(home)
    assert float(size) == 10.0
    assert backend.lower() != "pdf"
    assert mine == "False"
    assert not history.startswith(str(home))


def test_lines_end_alike_everywhere():
    said = subprocess.run(
        ["git", "check-attr", "eol", "text", "--", ".ci/run", "Makefile", "book/ring.png", "book/a.safetensors"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if said.returncode:
        pytest.skip("not a checkout of git")
    assert ".ci/run: eol: lf" in said.stdout
    assert "Makefile: eol: lf" in said.stdout
    assert "book/a.safetensors: text: unset" in said.stdout
