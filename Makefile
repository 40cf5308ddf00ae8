# Everything runs from the project's own environment in .venv; the first command that needs it creates it.
VENV := .venv
PY := $(VENV)/bin/python
SETUP := $(VENV)/.packages ros2_ws/install/.built

# Peers on this machine only: no talk with other ROS 2 systems on the network.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST

.DEFAULT_GOAL := help
.PHONY: help setup envs demo retrain-demo soak test test-quick lint format bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Create or refresh .venv and the ROS 2 workspace (PYTHON=python3.12 to choose the interpreter)
	@PYTHON='$(PYTHON)' .ci/setup.sh

envs: | $(SETUP) ## Install the optional games: SMAX, SMACv2's wrapper, Google Research Football (compiled once)
	@.ci/envs.sh

$(SETUP) &:
	@PYTHON='$(PYTHON)' .ci/setup.sh

demo: | $(SETUP) ## Drive a simulated fleet (MAP=... ROBOTS=... DURATION=... SEED=... POLICY=...)
	$(VENV)/bin/marlgpt demo $(if $(MAP),--map '$(MAP)') $(if $(ROBOTS),--robots '$(ROBOTS)') \
		$(if $(DURATION),--duration '$(DURATION)') $(if $(SEED),--seed '$(SEED)') \
		$(if $(POLICY),--policy '$(POLICY)')

retrain-demo: | $(SETUP) ## Record an expert, import, fine-tune, swap the policy of a driving fleet (ARGS=...)
	OMP_NUM_THREADS=1 $(VENV)/bin/marlgpt retrain-demo $(ARGS)

soak: | $(SETUP) ## Simulate many robot-hours with every fault mixed (HOURS=100 WORKERS=2)
	OMP_NUM_THREADS=1 $(VENV)/bin/marlgpt soak $(if $(HOURS),--hours '$(HOURS)') --workers '$(or $(WORKERS),2)'

# One process more than cores: tests of the ROS graph wait much of their time.
JOBS ?= $(shell expr $$(nproc) + 1)

test: | $(SETUP) ## Run the tests in parallel (JOBS=... processes, ARGS=... for pytest)
	PYTHONHASHSEED=0 $(PY) -m pytest -n $(JOBS) --dist loadfile --durations 10 $(ARGS)

test-quick: | $(SETUP) ## Run what takes seconds and needs no ROS graph: for the inner loop
	PYTHONHASHSEED=0 $(PY) -m pytest -n $(JOBS) --dist loadfile -m "not slow and not graph" --durations 10 $(ARGS)

lint: | $(SETUP) ## Check style, formatting, and who may import whom
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache >/dev/null || $(VENV)/bin/lint-imports --no-cache

format: | $(SETUP) ## Fix style and formatting
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: | $(SETUP) ## Run every benchmark
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(PY) "$$script"; done

clean: ## Remove build results, logs and caches; keeps .venv
	rm -rf build out log ros2_ws/build ros2_ws/install ros2_ws/log .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
