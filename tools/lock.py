"""Write the locks: every package that requirements.txt brings in, on any system, with the hashes of its files.

python -m tools.lock

`requirements.lock` holds all but what only PyTorch's build for graphics cards needs; that is in `requirements-cuda.lock`.
`requirements-cpu.lock` is kept by hand: PyTorch's build without graphics cards, which has an index of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.licences import GRAPHICS

ROOT = Path(__file__).parents[1]
LOCK, CUDA = ROOT / "requirements.lock", ROOT / "requirements-cuda.lock"
OPTIONS = ["--generate-hashes", "--universal", "--python-version", "3.11", "--no-annotate", "--no-header"]


def blocks(text: str) -> list[str]:
    """The requirements of a lock, each with its lines of hashes."""
    return re.findall(r"^[\w.-]+==.*(?:\n +--hash=.*)*", text, re.MULTILINE)


def compiled() -> list[str]:
    """The requirements as uv resolves them; versions locked before stay where they can."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "all.lock"
        found.write_text(
            "\n".join(path.read_text(encoding="utf-8") for path in (LOCK, CUDA) if path.exists()), encoding="utf-8"
        )
        command = [sys.executable, "-m", "uv", "pip", "compile", ROOT / "requirements.txt", *OPTIONS, "--output-file", found]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return blocks(found.read_text(encoding="utf-8"))


def main() -> None:
    lock, cuda = [], []
    for block in compiled():
        (cuda if block.startswith(GRAPHICS) else lock).append(block)
    LOCK.write_text("# Written by `make lock` from requirements.txt.\n" + "\n".join(lock) + "\n", encoding="utf-8")
    CUDA.write_text(
        "# Written by `make lock`: what PyTorch's build for graphics cards needs.\n" + "\n".join(cuda) + "\n",
        encoding="utf-8",
    )
    print(f"{len(lock)} packages in {LOCK.name}, {len(cuda)} in {CUDA.name}; requirements-cpu.lock is kept by hand")


if __name__ == "__main__":
    main()
