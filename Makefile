# Two commands do everything on a fresh machine with Python 3.10+ and a C++20 compiler: make quickstart, make test.
# Each step leaves a stamp in the virtual environment, so a second run only redoes what changed.
PYTHON ?= python3
VENV ?= .venv
# The versions everything was tested with, so that a release of somebody else breaks nothing here. `make CONSTRAINTS=`
# takes the newest of everything that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
# Pinned in any case: a plain `torch` brings a CUDA build of several GB on Linux. `make TORCH=torch` asks for that one.
TORCH ?= $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
# The Python of `make gpu-check`, and its flags: GPU_FLAGS="--only trie_lookup --record".
GPU_PYTHON ?= $(PYTHON)
GPU_FLAGS ?=
# How long `make fuzz` calls at random.
SECONDS ?= 60
# What `pip install` would fetch into an isolated build; here it stays, so that rebuilding after an edit takes seconds.
BUILD_TOOLS := "scikit-build-core>=1.0" "pybind11>=3.0" "cmake>=3.24" ninja

ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
else
  BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL := $(PIP) install --no-build-isolation -c $(VENV)/constraints.txt
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc python -type f \
  \( -name '*.py' -o -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.pyi' -o -name 'py.typed' \) 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-newest dev editable install wheel lint format constraints clean fuzz gpu-check
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   build, install into $(VENV), train on a small synthetic shop and recommend (no download)"
	@echo "make test         build, install into $(VENV) with the test extras, run the tests"
	@echo "make test-newest  the same in $(VENV)-newest, with the newest of everything that pyproject.toml allows"
	@echo "make editable     install into $(VENV) from the tree: Python as edited, C++ rebuilt at import when it changed"
	@echo "make constraints  look up the newest versions and write them into constraints.txt and .ci/oldest.txt"
	@echo "make wheel        build a wheel, repair it, run the tests against it in a clean environment"
	@echo "make gpu-check    on a machine with a card: suites, equality and times of all that runs there, in minutes"
	@echo "make fuzz         random calls of everything public for SECONDS=60, compared with the twins"
	@echo "make lint         every static check of CI          make format   let ruff and clang-format rewrite"
	@echo "make clean        remove builds, $(VENV) and $(VENV)-newest"

quickstart: $(VENV)/.stamp-package
	@$(BIN)/genrec-fast quickstart

test: $(VENV)/.stamp-test
	@$(BIN)/python -m pytest tests

# Made anew each time: what was the newest yesterday need not be it today.
test-newest:
	@rm -rf $(VENV)-newest
	@$(MAKE) --no-print-directory test VENV=$(VENV)-newest CONSTRAINTS=

install: $(VENV)/.stamp-package
dev: $(VENV)/.stamp-dev

$(VENV)/.stamp-venv:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "genrec_fast needs Python 3.10 or newer, and '$(PYTHON)' is not on the PATH;"; \
	  echo "install it, or name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "genrec_fast needs Python 3.10 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1);"; \
	  echo "name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null 2>&1 || { \
	  echo "genrec_fast needs a C++20 compiler, and '$${CXX:-c++}' is not on the PATH"; \
	  echo "(Debian, Ubuntu: apt-get install g++ · macOS: xcode-select --install)"; exit 1; }
	@test -x $(BIN)/python || { echo "making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed (Debian, Ubuntu: apt-get install python3-venv)"; rm -rf $(VENV); exit 1; }; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(VENV) holds $$($(BIN)/python --version 2>&1), and genrec_fast needs 3.10 or newer: make clean"; exit 1; }
	@touch $@

# All but torch, which TORCH names; sed reads /dev/null where CONSTRAINTS is empty.
$(VENV)/constraints.txt: $(VENV)/.stamp-venv $(CONSTRAINTS)
	@sed '/^torch==/d' $(CONSTRAINTS) /dev/null >$@

$(VENV)/.stamp-torch: $(VENV)/constraints.txt
	@echo "installing $(TORCH) and the build tools (the longest step: a few hundred MB)"
	@$(INSTALL) "$(TORCH)" $(BUILD_TOOLS)
	@touch $@

$(VENV)/.stamp-package: $(VENV)/.stamp-torch $(SOURCES)
	@echo "building and installing genrec_fast"
	@$(INSTALL) ".[all]"
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-torch $(SOURCES)
	@echo "building and installing genrec_fast with what its tests need"
	@$(INSTALL) ".[test]"
	@touch $@ $(VENV)/.stamp-package

$(VENV)/.stamp-dev: $(VENV)/.stamp-test
	@echo "installing the checkers"
	@$(INSTALL) ".[dev]"
	@touch $@

# In the place of the installed package, hence the stamps: "make test" goes back to that one.
editable: $(VENV)/.stamp-dev
	@$(INSTALL) -e . --config-settings=editable.rebuild=true --config-settings=build-dir=build-dev
	@rm -f $(VENV)/.stamp-package $(VENV)/.stamp-test $(VENV)/.stamp-dev

# Which versions are tested is a decision: look at the difference and run "make test" before committing it.
constraints:
	@PYTHON="$(PYTHON)" bash .ci/constraints $(BUILD_TOOLS)

wheel:
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" bash .ci/wheel

# In the Python at hand, with the torch and CuPy that it has: $(VENV) has the CPU's torch.
gpu-check:
	@$(GPU_PYTHON) -m pip --disable-pip-version-check -qq install --no-build-isolation --no-deps --target build/gpu/site .
	@PYTHONPATH=build/gpu/site $(GPU_PYTHON) bench/gpu_check.py $(GPU_FLAGS)

fuzz: $(VENV)/.stamp-test
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

lint: $(VENV)/.stamp-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=python $(BIN)/lint-imports --no-logo
	@git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.stamp-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cuh' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build build-dev dist wheelhouse $(VENV) $(VENV)-newest
