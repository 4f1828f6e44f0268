# make demo    train, evaluate and export on real photographs, no download
# make test    the tests
# make lint    formatting and lint
# make weights-test   the published networks against PyTorch and ONNX Runtime
# make gpu-test   what needs a GPU; SIMULATED=1 tries the tests themselves without
# make browser-test   the server's page in Chromium, where it is installed
# make notebook-test   run the notebooks from top to bottom
# make package-test   install the package elsewhere, and use it
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WEIGHTS_VENV := .venv-weights

.PHONY: demo test lint weights-test gpu-test browser-test notebook-test package-test clean

# A directory for each NVIDIA GPU; where there is none, nvidia-smi may know better.
NVIDIA_GPUS := /proc/driver/nvidia/gpus
GPU = $(shell ls $(NVIDIA_GPUS) 2>/dev/null || nvidia-smi -L 2>/dev/null)

$(VENV)/installed: requirements.txt requirements-gpu.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12" % v)'
	@echo "installing TensorFlow and what else is needed into $(VENV), some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt \
	  $(if $(GPU),-r requirements-gpu.txt)
	@touch $@

demo: $(VENV)/installed
	$(BIN)/python train.py

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

$(WEIGHTS_VENV)/installed: requirements.txt requirements-weights.txt
	$(PYTHON) -m venv $(WEIGHTS_VENV)
	$(WEIGHTS_VENV)/bin/pip install --quiet -r requirements.txt
	$(WEIGHTS_VENV)/bin/pip install --quiet -r requirements-weights.txt
	@touch $@

# PyTorch first: where TensorFlow is loaded before it, its compiler crashes.
weights-test: $(WEIGHTS_VENV)/installed
	$(WEIGHTS_VENV)/bin/python -m pytest -n 0 -p torchvision tests/other_frameworks.py

gpu-test: $(VENV)/installed
	GPU_TESTS=$(if $(SIMULATED),simulated,real) $(BIN)/python -m pytest -n 0 -m gpu -rs

browser-test: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check playwright
	$(BIN)/python -m pytest -n 0 -rs tests/browser.py

notebook-test: $(VENV)/installed
	$(BIN)/python -m pytest -n 0 tests/notebooks.py

package-test: $(VENV)/installed
	$(BIN)/python tests/install_and_run.py

clean:
	rm -rf $(VENV) $(WEIGHTS_VENV) build
