# Every target installs what it needs: `make book` and `make test` work in a fresh clone.
#   make PYTHON=python3.12 book     with that Python; otherwise tools/venv.sh looks for 3.11, 3.12 and 3.13
#   PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels make book     offline, after `make wheels` with a network

VENV := .venv
READY := $(VENV)/installed
# PyTorch for the benchmarks. To use an environment that has it already: D2LCLS_TORCH_PYTHON=python make bench
RIVALS := .venv-bench
D2LCLS_TORCH_PYTHON ?= $(CURDIR)/$(RIVALS)/bin/python
BIN := $(CURDIR)/$(VENV)/bin
# Two tests at a time: one keeps little more than one core busy. Every test and every cell has a time limit (see
# conftest.py). If pytest itself hangs, it is interrupted after $(LIMIT) and prints its summary.
LIMIT := 1h
PYTEST = timeout --foreground -s INT -k 60 $(LIMIT) $(BIN)/python -m pytest -n 2
# Not --dist loadfile, which the cells need: with it, pytest-xdist 3.8 waits for ever when a worker dies and is replaced.
TESTS = $(PYTEST) -p no:nbval --dist worksteal
CELLS = D2LCLS_SCALE=smoke D2LCLS_PROGRESS=off $(PYTEST) --dist loadfile --max-worker-restart 0 --timeout 360 \
	-W ignore --nbval --nbval-cell-timeout 300
NOTEBOOKS = $(shell $(BIN)/python tools/toc.py)

.PHONY: help check format book site axe test test-all coverage fuzz lab execute bench deploy-demo wheels lock clean distclean

help:
	@echo "make check     check errors, style, format and types"
	@echo "make format    format the code, and correct what ruff can"
	@echo "make book      build the site"
	@echo "make site      serve the built site at http://127.0.0.1:8000, which its live page needs"
	@echo "make axe       report accessibility problems of the built site; needs npm"
	@echo "make test      run every test, and every notebook at a small scale"
	@echo "make test-all  the same with the slow tests"
	@echo "make coverage  run the tests and print the share of lines that they reach"
	@echo "make fuzz KIND=pth  look for a file that a reader neither opens nor refuses (Linux on x86-64)"
	@echo "make lab       open the notebooks in JupyterLab"
	@echo "make execute   run the notebooks at lesson scale and store their outputs"
	@echo "make bench     measure again what results/ holds (hours)"
	@echo "make deploy-demo  convert one trained network to every form and compare them"
	@echo "make wheels    download all packages into wheels/, to install without a network later"
	@echo "make lock      update requirements.lock after a change of pyproject.toml"
	@echo "make clean     remove what was built;  make distclean: the environment too"

$(READY): requirements.lock pyproject.toml tools/venv.sh
	sh tools/venv.sh $(VENV) $(PYTHON)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

book: $(READY)
	$(BIN)/jupyter-book build . --warningiserror --keep-going --quiet
	@echo "The book is built. Open: file://$(CURDIR)/_build/html/index.html (and with the live page: make site)"

site: $(READY)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html

axe: $(READY)
	$(BIN)/python tools/axe.py

test: $(READY)
	$(TESTS) -m "not slow"
	$(CELLS) $(NOTEBOOKS)

test-all: LIMIT := 4h
test-all: $(READY)
	$(TESTS)
	$(CELLS) $(NOTEBOOKS)

coverage: $(READY)
	$(TESTS) -m "not slow" --cov

fuzz: $(READY)
	$(BIN)/python tests/fuzz/fuzz.py "$(KIND)" $(SECONDS)

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=book

execute: $(READY)
	D2LCLS_SCALE=lesson $(BIN)/python tools/execute.py $(or $(ONLY),$(NOTEBOOKS))

bench: $(READY) $(if $(filter $(CURDIR)/$(RIVALS)/%,$(D2LCLS_TORCH_PYTHON)),$(RIVALS)/installed)
	export D2LCLS_TORCH_PYTHON="$(D2LCLS_TORCH_PYTHON)"; \
		for script in $(or $(ONLY),benchmarks/*.py); do $(BIN)/python $$script || exit 1; done

$(RIVALS)/installed: benchmarks/rivals/requirements.txt tools/venv.sh
	sh tools/venv.sh $(RIVALS) $(PYTHON)
	$(RIVALS)/bin/python -m pip install --quiet -r benchmarks/rivals/requirements.txt
	@touch $@

deploy-demo: $(READY)
	$(BIN)/python tools/deploy_demo.py

wheels: $(READY)
	$(BIN)/python -m pip download --quiet --require-hashes --no-deps -r requirements.lock -d wheels

lock: $(READY)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --extra cpu --extra book --extra test --extra tune \
		--extra weights --extra hub --extra deploy --extra serve --extra check --extra lock -o requirements.lock pyproject.toml

clean:
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .coverage book/runs runs
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(RIVALS) *.egg-info
