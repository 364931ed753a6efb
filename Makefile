# make demo      sets up, then runs the main job: from data to a live Triton answer
# make test      sets up, then runs the tests
# make test-all  the same, the slow ones included
# make lint      sets up, then checks style, types and the import contracts
# make results   sets up, then measures what docs/results.md says (QUICK=1: a small part, printed)
export VENV ?= .venv
bin = $(abspath $(VENV))/bin

.PHONY: setup demo test test-all lint results format clean

setup:
	@./scripts/setup.sh

demo: setup
	@$(bin)/python scripts/demo.py

# side by side, a file at a time; each process computes on one thread
pytest = OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: setup
	$(pytest)

test-all: setup
	$(pytest) -m "slow or not slow"

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

results: setup
	$(bin)/python benchmarks/trained.py $(if $(QUICK),--quick)
	$(bin)/python benchmarks/results.py $(if $(QUICK),--quick)

format: setup
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

clean: # what the tool wrote while it worked; not the environment
	rm -rf .thresher mlflow.db .mlflow.db.lock mlruns mlartifacts examples scored .model_repository.staging
	find model_repository -mindepth 1 ! -name README.md -delete
