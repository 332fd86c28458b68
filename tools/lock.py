"""Write the locks: every package that requirements.txt brings in, on any system, with the hashes of its files.

python -m tools.lock

`requirements.lock` holds all but what only PyTorch's build for graphics cards needs; that is in `requirements-cuda.lock`.
To PyTorch's hashes comes that of the file which pip takes here: on Linux often the smaller build without graphics cards,
which has another index of its own.
"""

from __future__ import annotations

import hashlib
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


def compiled(folder: Path) -> list[str]:
    """The requirements as uv resolves them; versions locked before stay where they can."""
    found = folder / "all.lock"
    found.write_text("\n".join(path.read_text() for path in (LOCK, CUDA) if path.exists()))
    command = [sys.executable, "-m", "uv", "pip", "compile", ROOT / "requirements.txt", *OPTIONS, "--output-file", found]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return blocks(found.read_text())


def hash_here(block: str, folder: Path) -> str:
    """The hash of the file that pip takes for a requirement on this machine."""
    requirement = block.partition(" ")[0]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder / "file", requirement], check=True
    )
    (file,) = (folder / "file").iterdir()
    return f"    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, lock, cuda = Path(name), [], []
        for block in compiled(folder):
            if block.startswith("torch==") and (line := hash_here(block, folder)) not in block:
                block += f" \\\n{line}"
            (cuda if block.startswith(GRAPHICS) else lock).append(block)
    LOCK.write_text("# Written by `make lock` from requirements.txt.\n" + "\n".join(lock) + "\n")
    CUDA.write_text("# Written by `make lock`: what PyTorch's build for graphics cards needs.\n" + "\n".join(cuda) + "\n")
    print(f"{len(lock)} packages in {LOCK.name}, {len(cuda)} in {CUDA.name}")


if __name__ == "__main__":
    main()
