# `make book` and `make test` are all a reader needs; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRA := _build/extra
SUPPLY := _build/supply
# Nothing is installed that the lock does not name, nor any file whose hash it does not hold, nor built from source.
INSTALL := $(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: --requirement
HTML := _build/html/book
NB ?= $(wildcard book/*.ipynb)
WORKERS ?= 2
STUDIES ?= joint scaling first_light parametrisations loss training samplers factors teachers sixteen adversarial likelihood control pitfalls official machines
# One thread for each worker: two notebooks then share two cores, and results do not depend on their number.
export OMP_NUM_THREADS := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Outputs are stored and compared: no progress bar among them.
export TQDM_DISABLE := 1

.PHONY: help book serve test unit notebooks steady pages weigh screenshots lab pdf execute lint checkpoints studies licences lock audit agreement mutants bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(READY) ## build the HTML and print the page to open
	$(BIN)/jupyter-book build . -W -n --keep-going --all -q
	@echo "Open $(CURDIR)/$(HTML)/welcome.html"

serve: book ## build the book and serve it on this machine
	$(BIN)/python -m http.server --directory _build/html --bind 127.0.0.1 8000

test: lint unit notebooks pages ## everything: style and types, unit tests, notebooks, the built pages

unit: $(READY) ## the tests of the package
	$(BIN)/pytest tests -n $(WORKERS) --dist worksteal --ignore tests/built

notebooks: $(READY) ## run every notebook and compare each output with the stored one
	$(BIN)/pytest $(NB) --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg \
		--nbval-cell-timeout 600 -n $(WORKERS) --dist loadscope -p no:cacheprovider

steady: $(READY) ## the notebooks ten times over, in both orders, with one worker and with two (an hour)
	for workers in 2 2 2 2 1; do for order in -u -r; do \
		$(MAKE) --no-print-directory notebooks WORKERS=$$workers PYTEST_ADDOPTS=--no-loadscope-reorder \
			NB="$$(printf '%s\n' $(NB) | sort $$order | tr '\n' ' ')" || exit 1; done; done

pages: book ## the tests of the built pages; those in Chromium are skipped, and said to be, where there is none
	$(BIN)/pytest tests/built -rs -n $(WORKERS) --dist loadgroup

weigh: book ## bytes and seconds of every built page, in Chromium
	$(BIN)/python -m tools.weigh

screenshots: book ## photograph every page, light and dark, at 1280 and 375 pixels, into _build/screenshots
	$(BIN)/python -m tools.screenshots

lab: $(READY) ## open the notebooks in JupyterLab on this machine
	$(BIN)/python -m pip install --quiet jupyterlab==4.6.6
	$(BIN)/python -m jupyterlab --notebook-dir book

pdf: book ## print every page with Chromium into one PDF, _build/ctm-book.pdf
	$(BIN)/python -m tools.pdf

execute: $(READY) ## run notebooks and store their outputs: all of them, or NB=book/name.ipynb
	$(BIN)/python tools/execute.py $(NB)

lint: $(READY) ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy ctm
	$(BIN)/lint-imports --no-cache

checkpoints: $(READY) ## train the models that chapters load, each with its card (about eight minutes)
	$(BIN)/python -m studies.checkpoints

studies: $(READY) ## measure what the README quotes and the chapters plot (over an hour; a row already stored is kept)
	for study in $(STUDIES); do $(BIN)/python -m studies.$$study || exit 1; done

licences: $(READY) ## compare the licences of everything installed with the stored list
	$(BIN)/python -m tools.licences

lock: ## resolve requirements.txt anew: every package on every system, with hashes
	test -x $(SUPPLY)/bin/python || $(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --requirement requirements-supply.txt
	$(SUPPLY)/bin/python -m tools.lock

# strict: a package of which the service says nothing is a failure, not a pass
audit: ## ask PyPI's advisories about every package in the lock (needs its JSON pages, which a mirror may lack)
	test -x $(SUPPLY)/bin/python || $(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --requirement requirements-supply.txt
	$(SUPPLY)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

# an environment beside the book's, which sees all that is in it
define BESIDE
	test -x $(EXTRA)/bin/python || $(BIN)/python -m venv $(EXTRA)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > "$$(echo $(EXTRA)/lib/python3*/site-packages)/book.pth"
endef

agreement: $(READY) ## our samplers against k-diffusion's and diffusers', installed beside the environment
	$(BESIDE)
	$(EXTRA)/bin/python -m pip install --quiet --no-deps --requirement requirements-agreement.txt
	$(EXTRA)/bin/python -m pytest tests/test_agreement.py -rs

mutants: $(READY) ## break the mathematics in every small way and see whether a test notices (long; see tools/mutants.py)
	$(BESIDE)
	$(EXTRA)/bin/python -m pip install --quiet cosmic-ray==8.7.0
	$(EXTRA)/bin/python -m tools.mutants

bench: $(READY) ## measure speeds and compare with the stored ones (about eight minutes; idle machine)
	$(BIN)/python -m tools.bench

clean: ## remove what was built, and the environment
	rm -rf _build $(VENV) *.egg-info

$(READY): requirements.lock requirements-cpu.lock requirements-cuda.lock pyproject.toml
	$(PYTHON) tools/check_python.py
# an environment whose making was interrupted is made anew: half a package looks installed
	test ! -e $(VENV)/.half && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	touch $(VENV)/.half
# PyTorch without graphics cards, where pip knows such a file; the lock then finds it there
	$(INSTALL) requirements-cpu.lock 2>/dev/null || echo "pip knows no locked PyTorch without graphics cards here: taking PyPI's"
	$(INSTALL) requirements.lock
# where pip took PyTorch's build for graphics cards: it cannot be imported without these
	! $(BIN)/python -m pip show torch | grep -q nvidia || $(INSTALL) requirements-cuda.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	rm $(VENV)/.half
	touch $(READY)
