# demo   the example voice, from checkpoint to a measured bundle that speaks (build/demo)
# test   all tests          lint   format, style and types          clean   what the others made
# Each installs what it needs into .venv. PYTHON names the interpreter (3.11 or newer); pip's own settings are honoured.
.PHONY: demo test lint clean
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile -c constraints.txt
INPUTS := pyproject.toml constraints.txt wand_export/__init__.py
DEMO := build/demo
VOICE := models/wren/checkpoint
TARGETS := onnx-fp32 onnx-int8 onnx-int4 executorch-xnnpack-fp32 executorch-xnnpack-8da4w coreml-fp16 coreml-int4
SPOKEN := onnx-int4 executorch-xnnpack-8da4w coreml-int4

test: .venv/.dev
	$(BIN)/python -m pytest

lint: .venv/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# One step after the other: nothing else may run beside the benchmark.
demo: .venv/.export
	rm -rf $(DEMO)
	mkdir -p $(DEMO)
	$(BIN)/wand export $(VOICE) -o $(DEMO)/bundle $(TARGETS:%=--target %) --with-twin
	$(BIN)/wand inspect $(DEMO)/bundle --json > $(DEMO)/inspect.json
	$(BIN)/wand verify $(DEMO)/bundle --checkpoint $(VOICE) --json > $(DEMO)/verify.json
	$(BIN)/wand bench $(DEMO)/bundle -o $(DEMO) --json > $(DEMO)/bench.json
	for target in $(SPOKEN); do \
	  $(BIN)/wand speak $(DEMO)/bundle "Hello! I am Wren, and I speak from a small device." \
	    --target $$target -o $(DEMO)/hello-$$target.wav || exit; \
	done
	printf '%s\n' \
	  'The tide went out before sunrise, and the boats lay still on the sand.' \
	  'Nobody on the shore spoke until the first light reached the harbour.' \
	  'Then the wind turned, the ropes grew tight, and the day began.' > $(DEMO)/story.txt
	$(BIN)/wand speak $(DEMO)/bundle --file $(DEMO)/story.txt -o $(DEMO)/story.wav
	@$(BIN)/python -m wand_export.console $(DEMO)/inspect.json $(DEMO)/verify.json $(DEMO)/bench.json
	@echo "Listen to $(DEMO)/hello-*.wav and $(DEMO)/story.wav; read $(DEMO)/bundle/report.md and $(DEMO)/report.md."

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps. torch comes first and on its own, so that pip's settings decide which build of it is installed.
.venv/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	touch $@

.venv/.export: .venv/.torch $(INPUTS)
	$(PIP) -e '.[export,executorch,coreml]'
	touch $@

.venv/.dev: .venv/.torch $(INPUTS)
	$(PIP) -e '.[dev]'
	touch .venv/.export $@
