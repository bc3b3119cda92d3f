# The README's two commands. Each does all of its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLUSTER := -m "slurm and not slow" tests/slurm

.PHONY: demo test test-slurm lint bench slurm clean

demo: $(VENV)/.installed
	$(BIN)/bench grid grids/quickstart.yaml
	$(BIN)/bench report grids/quickstart.yaml
	$(BIN)/bench findings grids/quickstart.yaml

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --doctest-modules --ignore=bench/__main__.py tests bench analysis
	$(MAKE) --no-print-directory test-slurm

# Real faults on real daemons, on two private clusters side by side. Needs Debian's slurm-wlm and
# munge, and skips without; with slurmdbd, mariadb-server-core, mariadb-client-core and
# slurm-wlm-mysql-plugin also with accounting.
test-slurm: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(CLUSTER) --numprocesses 2 --dist worksteal \
	  || { echo "what failed, once more and alone: a busy machine adds faults of its own"; \
	       $(BIN)/python -m pytest $(CLUSTER) --last-failed --last-failed-no-failures none; }

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every figure beside its named peer; wants a quiet machine. Writes benchmarks/RESULTS.md.
bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.run

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or newer is needed; $(PYTHON) is {v.major}.{v.minor}. Try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo 'Installing PyTorch and the other packages into $(VENV): up to 6 GB on Linux, some minutes'
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo 'Installing PyTorch, the other packages and those of the tests into $(VENV): up to 6 GB on Linux, some minutes'
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info

# A private SLURM cluster on this machine, to try things out. Debian: slurm-wlm munge
SLURM_HOME ?= /tmp/bench-slurm-$(shell id -u)
slurm: $(VENV)/.installed
	@SLURM_CPUS=$${SLURM_CPUS:-4} scripts/slurm_up.sh $(SLURM_HOME)
	@echo 'To use it, run the line above in your shell, then for example:'
	@echo '  $(BIN)/bench grid grids/quickstart.yaml --slurm'
	@echo '  $(BIN)/bench status grids/quickstart.yaml --watch'
	@echo 'To end it: scripts/slurm_down.sh $(SLURM_HOME) --purge'
