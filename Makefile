# Thin names for the commands of the README. `make report` and `make test` set up all they need.
#
#   make report                 the default report (offline, CPU, minutes)
#   make report PROFILE=open    the paper's checkpoints on a part of open data (no account; asks, then downloads 14 GB)
#   make report PROFILE=paper   the paper's checkpoints and benchmarks (GPU, data)

PROFILE ?= mini
ARGS ?=
PYTHON ?= $(or $(shell command -v python3.11 || command -v python3.12),python3.11)
# Without an NVIDIA driver the CPU build of torch, which lacks gigabytes of CUDA libraries; TORCH=cuda or cpu overrides.
TORCH ?= $(if $(shell command -v nvidia-smi),cuda,cpu)

# An active conda environment made from environment.yml, whatever its name, is used as it is; else .venv is made here.
ifneq ($(and $(CONDA_PREFIX),$(wildcard $(CONDA_PREFIX)/bin/beyond-accuracy)),)
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

# Profiles that download what they need. Profiles on ImageNet's validation set read labels and factors of imagenet-x
# (CC BY-NC 4.0); those that never see that set go without.
FETCH := $(if $(filter open published,$(PROFILE)),--fetch)
LABELS := $(if $(BASE),$(if $(filter mini smoke open,$(PROFILE)),,.venv/.imagenet-x))

.PHONY: report compare paper test soak lint lab bench coverage world train ablation replicates shape lock clean

report: $(BASE) $(LABELS)
	$(BIN)/beyond-accuracy report --profile $(PROFILE) $(FETCH) $(ARGS)

# Your own images (docs/own-images.md): make compare DIR=~/pets ARGS="--depth quick"
compare: $(BASE)
	$(BIN)/beyond-accuracy compare "$(or $(DIR),$(error which folder? make compare DIR=~/pets))" $(ARGS)

paper: $(BASE) $(if $(BASE),.venv/.imagenet-x)
	$(BIN)/beyond-accuracy report --profile paper $(ARGS)

test: $(TEST)
	$(BIN)/ruff check lib tests tools
	$(BIN)/ruff format --check lib tests tools
	$(BIN)/pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal $(ARGS)

soak: $(TEST)
	$(BIN)/pytest -m slow $(ARGS)

lab: $(BASE)
	JUPYTER_CONFIG_PATH=$(CURDIR):$$JUPYTER_CONFIG_PATH $(BIN)/jupyter lab notebooks

bench: $(BASE)
	$(BIN)/python tools/bench.py $(ARGS)

# How often the printed intervals hold the truth, by simulation: writes the tables of docs/metrics.md. ARGS=--quick tries it.
coverage: $(BASE)
	OMP_NUM_THREADS=1 $(BIN)/python tools/interval_coverage.py $(ARGS)

# Every image of the mini world, from seeds: about 80 core-minutes. world_a is filtered by a fifth network's mistakes.
world: $(WORLD)
	$(BIN)/python -m mini_world.build --only world_train
	$(BIN)/python -m mini_world.build $(ARGS)
	$(BIN)/python -m mini_world.train --cell reference --recipe reference
	$(BIN)/python -m mini_world.evaluate --model reference --set world_a_pool
	$(BIN)/python -m mini_world.filter_a --predictions .cache/mini_world/predictions/world_a_pool/reference.parquet

# The four models: about 40 core-minutes; resumes where it stopped. Needs world_train.
train: $(WORLD)
	$(BIN)/python -m mini_world.build --only world_train
	$(BIN)/python -m mini_world.train $(ARGS)

# The ablation's 24 runs and its table: about 30 core-minutes of rendering, 90 of training, 15 of evaluation. Resumes too.
ablation: $(WORLD)
	$(BIN)/python -m mini_world.build --only world_train world_train_broad
	for recipe in short short_broad; do for seed in 1 2 3; do \
	  $(BIN)/python -m mini_world.train --recipe $$recipe --seed $$seed $(ARGS) || exit 1; done; done
	$(BIN)/python -m mini_world.ablation

# Two more seeds of the four models on every metric of the report: about 60 core-minutes of rendering, 80 to 180 of training and
# 10 of evaluation. Resumes too. Their numbers ship (replicates.csv), their weights do not.
replicates: $(WORLD)
	$(BIN)/python -m mini_world.build --only world_train
	for seed in 1 2; do $(BIN)/python -m mini_world.train --seed $$seed $(ARGS) || exit 1; done
	$(BIN)/python -m mini_world.replicates

# Sizes and arrows of the library, beside the bounds that it is to keep.
shape: $(TEST)
	$(BIN)/python tools/shape.py

lock: $(TEST)
	$(BIN)/python tools/lock.py

clean:
	rm -rf report/*/ figures/*/ runs .cache/store

INSTALL = .venv/bin/pip install -q --disable-pip-version-check -c constraints.txt
# The package index holds no CPU build for Linux on x86; where torch's own index does not answer, the index's build does it.
CPU_BUILD = --no-deps --retries 0 --timeout 10 --index-url https://download.pytorch.org/whl/cpu torch torchvision
TORCH_FIRST = $(if $(filter cpu,$(TORCH)),$(INSTALL) $(CPU_BUILD) ||)

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.base: pyproject.toml constraints.txt | .venv/bin/pip
	$(TORCH_FIRST) $(INSTALL) torch torchvision
	$(INSTALL) -e .
	touch $@

.venv/.test: .venv/.base
	$(INSTALL) -e '.[test,imagenet-x]'
	$(INSTALL) --no-deps axe-playwright-python==0.1.8  # for the axe-core in it; the tests drive Chromium themselves
	touch $@

.venv/.imagenet-x: .venv/.base
	$(INSTALL) -e '.[imagenet-x]'
	touch $@

.venv/.world: .venv/.base
	$(INSTALL) -e '.[world]'
	touch $@
