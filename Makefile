# Thin wrappers; the README shows the plain commands.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test train lab stamp clean

demo: $(INSTALLED)  ## the first network on the built-in shapes: notebook, HTML and figures in runs/demo
	$(BIN)/python notebooks/run.py demo

test: $(INSTALLED)  ## lint, units, notebook rules, and every notebook in smoke mode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	OMP_NUM_THREADS=1 EVA_SMOKE=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 300 -n 2 --dist loadfile notebooks

train: $(INSTALLED)  ## the whole series in full on CIFAR-10, in place; goes on where it was cut
	$(BIN)/python notebooks/run.py full

lab: $(INSTALLED)  ## JupyterLab
	$(BIN)/jupyter lab notebooks

stamp: $(INSTALLED)  ## write the repository's address from pyproject.toml into the notebooks
	$(BIN)/python notebooks/run.py stamp

clean:  ## delete the environment and what runs left
	rm -rf .venv runs notebooks/runs

$(INSTALLED): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt -e .
	@touch $@
