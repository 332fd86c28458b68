"""The licence of everything that `requirements.txt` brings in, as each package states it.

python -m tools.licences            compare with licences.json
python -m tools.licences --write    store it anew
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
STORED = ROOT / "licences.json"
GRAPHICS = ("nvidia-", "cuda-", "triton")  # what PyTorch's build for graphics cards brings; nothing here uses them


def name_of(requirement: str) -> str:
    """The package's name in its one normal form."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement.strip())[0]).lower()  # type: ignore[index]


def pinned() -> list[str]:
    """The names in requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [name_of(line) for line in lines if line.strip() and not line.startswith("#")]


def licence(package: metadata.Distribution) -> str:
    """The stated expression, else the classifiers, else the first line of the free text or of the licence's own file."""
    found = package.metadata
    if expression := found.get("License-Expression"):
        return expression
    stated = [value.rpartition(" :: ")[2] for value in found.get_all("Classifier") or [] if value.startswith("License ::")]
    named = "; ".join(sorted(set(stated) - {"OSI Approved"})) or (found.get("License") or "").strip().partition("\n")[0]
    if named:
        return named
    files = [package.read_text(f"licenses/{file}") for file in found.get_all("License-File") or []]
    return next((text.strip().partition("\n")[0] for text in files if text), "")


def licences() -> dict[str, str]:
    """Name and licence of every installed package that the pinned ones need, directly or through others."""
    left, found = pinned(), {}
    while left:
        name = left.pop()
        if name in found or name.startswith(GRAPHICS):
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in pinned():
                raise
            continue  # needed on another system or Python, or an extra
        found[name] = licence(package)
        needs = [need for need in package.requires or [] if not re.search(r"\bextra\s*==", need)]
        left += [name_of(need) for need in needs]
    return dict(sorted(found.items()))


def main() -> None:
    found = licences()
    unstated = [name for name, value in found.items() if not value]
    if unstated:
        sys.exit(f"no licence stated by {', '.join(unstated)}")
    if "--write" in sys.argv:
        STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    if missing := {name: value for name, value in found.items() if stored.get(name) != value}:
        sys.exit(f"licences.json lacks {missing}; look at them, then python -m tools.licences --write")
    print(f"{len(found)} packages, all listed in licences.json")


if __name__ == "__main__":
    main()
