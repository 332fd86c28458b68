# `make book` and `make test` are all a reader needs; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRA := _build/extra
HTML := _build/html/book
NB ?= $(wildcard book/*.ipynb)
WORKERS ?= 2
STUDIES ?= first_light parametrisations loss training samplers factors teachers sixteen adversarial likelihood control
# One thread for each worker: two notebooks then share two cores, and results do not depend on their number.
export OMP_NUM_THREADS := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help book serve test unit notebooks pages browser weigh screenshots execute lint checkpoints studies licences agreement mutants bench clean

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

pages: book ## the tests of the built pages; those in Chromium are skipped, and said to be, where there is none
	$(BIN)/pytest tests/built -rs -n $(WORKERS) --dist loadgroup

weigh: book ## bytes and seconds of every built page, in Chromium
	$(BIN)/python -m tools.weigh

screenshots: book ## photograph every page, light and dark, at 1280 and 375 pixels, into _build/screenshots
	$(BIN)/python -m tools.screenshots

execute: $(READY) ## run notebooks and store their outputs: all of them, or NB=book/name.ipynb
	$(BIN)/python tools/execute.py $(NB)

lint: $(READY) ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy ctm

checkpoints: $(READY) ## train the models that chapters load, each with its card (about eight minutes)
	$(BIN)/python -m studies.checkpoints

studies: $(READY) ## measure what the README quotes and the chapters plot (over an hour; a row already stored is kept)
	for study in $(STUDIES); do $(BIN)/python -m studies.$$study || exit 1; done

licences: $(READY) ## compare the licences of everything installed with the stored list
	$(BIN)/python -m tools.licences

agreement: $(READY) ## our samplers against k-diffusion's and diffusers', installed beside the environment
	test -x $(EXTRA)/bin/python || $(BIN)/python -m venv $(EXTRA)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > "$$(echo $(EXTRA)/lib/python3*/site-packages)/book.pth"
	$(EXTRA)/bin/python -m pip install --quiet --no-deps --requirement requirements-agreement.txt
	$(EXTRA)/bin/python -m pytest tests/test_agreement.py -rs

mutants: $(READY) ## break the mathematics in every small way and see whether a test notices (long; see tools/mutants.py)
	test -x $(EXTRA)/bin/python || $(BIN)/python -m venv $(EXTRA)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > "$$(echo $(EXTRA)/lib/python3*/site-packages)/book.pth"
	$(EXTRA)/bin/python -m pip install --quiet cosmic-ray==8.7.0
	$(EXTRA)/bin/python -m tools.mutants

bench: $(READY) ## measure speeds and compare with the stored ones (about eight minutes; idle machine)
	$(BIN)/python -m tools.bench

clean: ## remove what was built, and the environment
	rm -rf _build $(VENV) *.egg-info

$(READY): requirements.txt pyproject.toml
	$(PYTHON) tools/check_python.py
# an environment whose making was interrupted is made anew: half a package looks installed
	test ! -e $(VENV)/.half && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	touch $(VENV)/.half
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	rm $(VENV)/.half
	touch $(READY)
