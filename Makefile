# make demo | test | soak | bench | lint | readme: each sets itself up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak bench lint readme clean

$(BIN)/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(BIN)/ready
	$(BIN)/python demo/run.py

test: $(BIN)/ready
	$(BIN)/python -m ruff check --quiet .
	$(BIN)/python -m pytest -m "not soak"

soak: $(BIN)/ready
	$(BIN)/python -m pytest -m soak -s

bench: $(BIN)/ready
	$(BIN)/python benchmarks/run.py

lint: $(BIN)/ready
	$(BIN)/python -m ruff check .

readme: $(BIN)/ready
	$(BIN)/python tests/test_documents.py

clean:
	rm -rf .venv .ruff_cache .hypothesis build *.egg-info
