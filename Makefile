# A reader needs these four; `nox --list` shows what maintainers run (howto/maintain.md).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= 2
# Nothing is installed that the lock does not name, nor any file whose hash it does not hold, nor built from source.
# Python compiles what it loads; to compile all of it here would take longer than to install it.
INSTALL := $(BIN)/python -m pip install --quiet --no-deps --no-compile --require-hashes --only-binary :all: --requirement
PYTEST := $(BIN)/pytest -n $(WORKERS) -rs -p no:cacheprovider
# One thread for each worker: two notebooks then share two cores, and results do not depend on their number.
export OMP_NUM_THREADS := 1
# Where glibc gives memory back after every step of training, a third of the time goes to asking for it again.
export MALLOC_TRIM_THRESHOLD_ := 1000000000
export MALLOC_MMAP_THRESHOLD_ := 1000000000
# Where this is set Python keeps nothing that it has compiled: each process would take four seconds to load PyTorch, not one.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help book test lab lint unit notebooks pages clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(READY) ## build the pages and print the one to open
	@echo "Building the pages: about 20 seconds."
	$(BIN)/jupyter-book build . -W -n --keep-going --all -q
	@echo "Open $(CURDIR)/_build/html/book/welcome.html"

lab: $(READY) ## open the notebooks in JupyterLab on this machine
	$(BIN)/python -m pip install --quiet jupyterlab==4.6.6
	$(BIN)/python -m jupyterlab --notebook-dir book

test: $(READY) ## style and types, tests of the package, every notebook against its stored outputs, the built pages
	$(MAKE) --jobs=2 lint book
	$(PYTEST) tests book

lint: $(READY) ## of these, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy ctm
	$(BIN)/lint-imports --no-cache

unit: $(READY) ## of these, the package
	$(PYTEST) tests/ctm

notebooks: $(READY) ## of these, the notebooks
	$(PYTEST) book

pages: book ## of these, the book and its pages, in Chromium where there is one
	$(PYTEST) tests/book

clean: ## remove what was built, and the environment
	rm -rf _build .venv *.egg-info

$(READY): requirements.lock requirements-cpu.lock requirements-cuda.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("The book needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "Making the environment in .venv: some minutes and 2 GB, once."
# an environment whose making was interrupted is made anew: half a package looks installed
	test ! -e .venv/.half && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	touch .venv/.half
# PyTorch without graphics cards, where pip knows such a file; the lock then finds it there
	$(INSTALL) requirements-cpu.lock 2>/dev/null || echo "pip knows no locked PyTorch without graphics cards here: taking PyPI's"
	$(INSTALL) requirements.lock
# where pip took PyTorch's build for graphics cards: it cannot be imported without these
	! $(BIN)/python -m pip show torch | grep -q nvidia || $(INSTALL) requirements-cuda.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	rm .venv/.half
	touch $(READY)
