# make demo, make serve and make test work on a fresh machine. CI runs the other targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Installation doesn't compile bytecode: Python compiles modules when they are imported, only a small part of PyTorch's.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# Containers often set this variable. Without cached bytecode, each of the tests' processes would compile its imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo serve test coverage lint types wheel docs clean

demo: $(VENV)/installed-demo
	$(BIN)/lsr demo

# Serves the collection that is part of the package, and prints the address.
serve: $(VENV)/installed-serve
	test -e cranfield.idx || $(BIN)/lsr index lsr/data/cranfield --out cranfield.idx
	$(BIN)/lsr serve cranfield=cranfield.idx

# Compiles the kernels first: two processes would compile them twice. All tests of a file run in one process, so
# fixtures that they share are built once.
test: $(VENV)/installed-dev
	$(BIN)/lsr warmup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Runs the tests with coverage.
coverage: $(VENV)/installed-dev
	$(BIN)/lsr warmup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		--cov lsr --cov index --cov eval --cov-report term:skip-covered

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers don't follow the map of packages to folders (lsr.index is index/): check the package as it is built.
types: $(VENV)/installed-dev
	rm -rf build
	$(INSTALL) --no-deps --target build/types .
	$(BIN)/mypy

# Writes site/. The reference is generated from the built package. A warning, such as a dead link, is an error.
docs: $(VENV)/installed-dev
	$(BIN)/python benchmarks/tables.py --check
	rm -rf build
	$(INSTALL) --no-deps --target build/types .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Builds a wheel, installs it into a new environment, and checks that it works in an empty folder.
wheel: $(VENV)/installed-dev
	rm -rf build
	LSR_TEST_WHEEL=1 $(BIN)/python -m pytest tests/test_package.py -k wheel

$(VENV)/installed-demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt -e ".[eval]"
	touch $@

$(VENV)/installed-serve: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt -e ".[serve]"
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt -e ".[all,dev]"
	touch $@ $(VENV)/installed-demo $(VENV)/installed-serve

clean:
	rm -rf $(VENV) build dist site lsr-demo cranfield.idx *.egg-info
