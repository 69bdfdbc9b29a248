# Thin names for the commands of the README. `make report` and `make test` set up all they need.
#
#   make report                 the default report (offline, CPU, minutes)
#   make report PROFILE=paper   the paper's checkpoints and benchmarks (GPU, data)

PROFILE ?= mini
ARGS ?=
PYTHON ?= python3.11

# An active conda environment made from environment.yml is used as it is; otherwise .venv is made here.
ifeq ($(CONDA_DEFAULT_ENV),beyond-accuracy)
BIN := $(CONDA_PREFIX)/bin
BASE :=
TEST :=
WORLD :=
else
BIN := .venv/bin
BASE := .venv/.base
TEST := .venv/.test
WORLD := .venv/.world
endif

.PHONY: report paper test soak lint lab bench world train lock clean

report: $(BASE)
	$(BIN)/beyond-accuracy report --profile $(PROFILE) $(ARGS)

paper: $(BASE)
	$(BIN)/beyond-accuracy report --profile paper $(ARGS)

test: $(TEST)
	$(BIN)/ruff check lib tests
	$(BIN)/ruff format --check lib tests
	$(BIN)/pytest -m "not slow" $(ARGS)

soak: $(TEST)
	$(BIN)/pytest -m slow $(ARGS)

lab: $(BASE)
	$(BIN)/jupyter lab notebooks

bench: $(BASE)
	$(BIN)/python -m beyond_accuracy.bench $(ARGS)

world: $(WORLD)
	$(BIN)/python -m mini_world.build $(ARGS)

train: $(WORLD)
	$(BIN)/python -m mini_world.train --all $(ARGS)

lock: $(TEST)
	$(BIN)/python -m beyond_accuracy.lock

clean:
	rm -rf report/*/ figures/*/ .cache/store

INSTALL = .venv/bin/pip install -q --disable-pip-version-check -c constraints.txt

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.base: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) torch torchvision
	$(INSTALL) -e .
	touch $@

.venv/.test: .venv/.base
	$(INSTALL) -e '.[test,imagenet-x]'
	touch $@

.venv/.world: .venv/.base
	$(INSTALL) -e '.[world]'
	touch $@
