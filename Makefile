# Every target sets up what it needs; CI runs these targets and nothing else.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# Small tensors: one thread a process is fastest, and two processes then share two cores.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
# Empty, whatever the environment says: tests start a hundred processes, which need not compile the same modules again.
export PYTHONDONTWRITEBYTECODE =

DEMO   := @$(BIN)
DEMO_PROMPTS := --prompt "A green colored rabbit" --prompt "Four wolves in the park" \
                --prompt "A cat and a dog" --prompt "A dog on the moon"

.DEFAULT_GOAL := help
.PHONY: help install test test-long test-slow check lint types layers docs docs-site format wheel readme-check release demo scenes sweep experiments bench peers torture gpu-check gpu-bundle browser label-studio clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ppod needs Python 3.11: make PYTHON=/path/to/python3.11 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/.installed  ## make .venv with everything

# Three processes for two cores: each test uses one thread, and some wait for a browser, a server or a process of their
# own. A file's tests share their fixtures. tests/conftest.py puts the files of the longest tests first, so that all
# processes end together.
TESTS  := $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test: install  ## run the tests (not the long and the slow ones)
	$(TESTS)

test-long: install  ## run the long tests: clusters, browsers, kills everywhere; CI runs them after the others
	$(TESTS) -m "long and not slow"

test-slow: install  ## run every test, the slow ones as well
	$(TESTS) -m "slow or not slow"

check: lint types layers docs  ## lint, types, import layers, docs

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports

docs: install
	$(BIN)/python -m pytest -q -m "not slow" tests/contracts

docs-site: install  ## build the docs site into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs site: build/site; to read and search it: $(BIN)/python -m http.server -d build/site"

format: install  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: install  ## build the wheel, install it in a clean environment, run the commands from another folder
	tests/wheel.sh $(BIN)/python

readme-check: install  ## run the README's commands as printed in a new HOME and environment (minutes; a network and 7 GB)
	$(BIN)/python -m tests.support.readme_check

release: install  ## build and check the sdist and the wheel in dist/, and print how to publish them
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	@version=$$($(BIN)/python -c 'import ppod_data; print(ppod_data.__version__)'); printf '%s\n' \
	  "built and checked ppod $$version; to publish it, date its heading in CHANGELOG.md, then type" \
	  "  git tag v$$version && git push origin v$$version" "  $(BIN)/python -m twine upload dist/*"

demo: install  ## the main job on the embedded model, in a few minutes: from prompts to a better model
	$(DEMO)/ppod-gen demo/data $(DEMO_PROMPTS) --num-images-per-prompt 256
	$(DEMO)/ppod-score demo/data --reward scenes
	$(DEMO)/ppod-pair rank demo/data --reward scenes --num-pairs-per-prompt 1024 --min-margin 0.5
	$(DEMO)/ppod-train offline demo/data --out demo/run --timesteps-per-update 5
	$(DEMO)/ppod-train eval --out demo --adapter demo/run/policy $(DEMO_PROMPTS) --num-images-per-prompt 128
	$(DEMO)/ppod-train report demo demo/run --out demo/report.html

scenes: install  ## train the embedded model and its scorers again (hours; needs Debian's fonts-noto-color-emoji)
	$(BIN)/python -m ppod_data.scenes.training.train

sweep: install  ## the sweep behind the trainer's defaults (half an hour)
	$(BIN)/python docs/experiments/sweep.py

experiments: install  ## the comparison of methods of docs/experiments.md, in build/experiments (hours; go on by running it again)
	$(BIN)/python docs/experiments/tune.py & $(BIN)/python docs/experiments/tune.py; wait
	$(BIN)/python docs/experiments/tune.py
	$(BIN)/python docs/experiments/run.py & $(BIN)/python docs/experiments/run.py; wait
	$(BIN)/python docs/experiments/run.py
	$(BIN)/python docs/experiments/judge_again.py
	$(BIN)/python docs/experiments/stability.py
	$(BIN)/python docs/experiments/recipe.py
	$(BIN)/python docs/experiments/annotators.py
	$(BIN)/python docs/experiments/collect.py

bench: install  ## every benchmark: ratios measured side by side
	failed=0; for script in benchmarks/bench_*.py; do $(BIN)/python $$script || failed=1; done; exit $$failed

GPU_PYTHON ?= python3
GPU_OUT    ?= build
gpu-check:  ## check numbers, speed, memory and resuming on this machine's GPU (8 minutes; no network, no .venv: GPU_PYTHON's torch)
	mkdir -p build/gpu-site $(GPU_OUT)
	$(GPU_PYTHON) -c 'import diffusers, pyarrow' 2>/dev/null || tar -xf build/gpu-site.tar.xz -C build/gpu-site
	PYTHONPATH=.:cli:build/gpu-site $(GPU_PYTHON) benchmarks/gpu/check.py --out $(GPU_OUT)/gpu-check.json $(GPU_OPTIONS)

gpu-bundle: install  ## pack the packages that a bare GPU machine lacks into build/gpu-site.tar.xz, for gpu-check
	$(BIN)/python benchmarks/gpu/bundle.py

torture: install  ## damage and kills by the thousand, into docs/reliability.md (half an hour)
	PYTHONPATH=. $(BIN)/python tests/support/torture.py

build/trl-venv/.installed: benchmarks/peers/requirements.txt
	test -x build/trl-venv/bin/python || $(PYTHON) -m venv build/trl-venv
	build/trl-venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	touch $@

peers: install build/trl-venv/.installed  ## compare with TRL's DDPOTrainer, in an environment of its own (gigabytes)
	$(BIN)/python benchmarks/bench_peers.py

browser:  ## install Debian's chromium, which the tests of the labelling page drive; without it they are skipped
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; }

build/label-studio-venv/.installed: tests/label-studio-requirements.txt
	test -x build/label-studio-venv/bin/python || $(PYTHON) -m venv build/label-studio-venv
	build/label-studio-venv/bin/pip install --quiet --disable-pip-version-check -r tests/label-studio-requirements.txt
	touch $@

label-studio: install build/label-studio-venv/.installed  ## pairs to the real Label Studio and back, into the tests' data (a gigabyte)
	PYTHONPATH=. $(BIN)/python -m tests.support.label_studio build/label-studio-venv/bin/python tests/fixtures/label_studio_export.json

clean:  ## remove the environment and what was built
	rm -rf $(VENV) dist demo .pytest_cache .mypy_cache .ruff_cache
