# Two commands do everything on a fresh machine with Python 3.10+ and a C++20 compiler: make quickstart, make test.
# Each step leaves a stamp in the virtual environment, so a second run only redoes what changed.
PYTHON ?= python3
VENV ?= .venv
# Pinned: a plain `torch` brings a CUDA build of several GB on Linux. `make TORCH=torch` asks for that one.
TORCH ?= torch==2.13.0
# What `pip install` would fetch into an isolated build; here it stays, so that rebuilding after an edit takes seconds.
BUILD_TOOLS := "scikit-build-core>=1.0" "pybind11>=3.0" "cmake>=3.24" ninja

ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
else
  BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc python -type f \
  \( -name '*.py' -o -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.pyi' -o -name 'py.typed' \) 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help quickstart test dev install wheel lint format clean
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   build, install into $(VENV), train on a small synthetic shop and recommend (no download)"
	@echo "make test         build, install into $(VENV) with the test extras, run the tests"
	@echo "make wheel        build a wheel, repair it, run the tests against it in a clean environment"
	@echo "make lint         every static check of CI          make format   let ruff and clang-format rewrite"
	@echo "make clean        remove builds and $(VENV)"

quickstart: $(VENV)/.stamp-package
	@$(BIN)/genrec-fast quickstart

test: $(VENV)/.stamp-test
	@$(BIN)/python -m pytest tests

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

$(VENV)/.stamp-torch: $(VENV)/.stamp-venv
	@echo "installing $(TORCH) and the build tools (the longest step: a few hundred MB)"
	@$(PIP) install "$(TORCH)" $(BUILD_TOOLS)
	@touch $@

$(VENV)/.stamp-package: $(VENV)/.stamp-torch $(SOURCES)
	@echo "building and installing genrec_fast"
	@$(PIP) install --no-build-isolation ".[all]"
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-torch $(SOURCES)
	@echo "building and installing genrec_fast with what its tests need"
	@$(PIP) install --no-build-isolation ".[test]"
	@touch $@ $(VENV)/.stamp-package

$(VENV)/.stamp-dev: $(VENV)/.stamp-test
	@echo "installing the checkers"
	@$(PIP) install --no-build-isolation ".[dev]"
	@touch $@

wheel:
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" bash .ci/wheel

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
	rm -rf build dist wheelhouse $(VENV)
