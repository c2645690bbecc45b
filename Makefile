.DEFAULT_GOAL := help
.PHONY: help setup tools demo test lint types unit mpi bench docs gallery torture clean
PY := .venv/bin/python
# Under root Open MPI asks twice whether one is sure.
MPIRUN := OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: ## Debian packages (as root), .venv, Python packages; at once when they are there
	@.ci/setup

demo: setup ## the main job on real input: dolfinx ensemble under MPI, operator, report
	@$(PY) -m sciflow.demo

test: tools lint types unit mpi ## every check that CI runs

tools: ## what only the tests need: a Slurm, a browser
	@.ci/setup --tests

lint: setup ## ruff, and who may import whom
	@$(PY) -m ruff check --no-fix .
	@$(PY) -m ruff format --check .
	@.venv/bin/lint-imports --no-cache

types: setup ## mypy --strict
	@$(PY) -m mypy

# These wait for clocks, heartbeats and servers most of the time: one at a time each, but beside each other, and those
# with a Slurm or a network beside all others.
SLURM := tests/slurm $(patsubst %,tests/test_%.py,dask packaging)
SERVERS := $(patsubst %,tests/test_%.py,outbox prefect serving)
BEATS := tests/test_executors.py $(patsubst %,tests/online/test_%.py,faults mpi resume)
# The HDF5 libraries of h5py and dolfinx do not share a process.
FORMATS := tests/formats

unit: setup ## pytest
	@mkdir -p build; export OMP_NUM_THREADS=1; \
	beside() { log=build/$$1.log; shift; $(PY) -m pytest "$$@" >$$log 2>&1; ended=$$?; \
		if [ $$ended = 0 ]; then tail -n 2 $$log; else cat $$log; fi; return $$ended; }; \
	beside slurm $(SLURM) & slurm=$$!; \
	$(PY) -m pytest -n 2 --dist worksteal $(addprefix --ignore=,$(SLURM) $(SERVERS) $(BEATS) $(FORMATS)); two=$$?; \
	{ beside servers $(SERVERS); first=$$?; beside formats $(FORMATS); exit $$((first + $$?)); } & servers=$$!; \
	$(PY) -m pytest $(BEATS); beats=$$?; wait $$servers; servers=$$?; wait $$slurm; \
	exit $$((two + beats + servers + $$?))

mpi: setup ## the tests that hold for any number of ranks, on two
	@if command -v mpirun >/dev/null && $(PY) -c 'import mpi4py' 2>/dev/null; then \
		$(MPIRUN) -n 2 $(PY) -m pytest -p no:cacheprovider tests/parallel; \
	else echo "no mpirun or mpi4py: the tests on two ranks were not run"; fi

bench: setup ## every figure with its target; k=PATTERN for some
	@$(PY) -m pip install -q -c constraints.txt neuraloperator || true
	@$(PY) -m benchmarks $(if $(k),-k $(k))

docs: setup ## the documentation as HTML in site/, warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "site/index.html"

gallery: setup ## the pictures of reports in docs/gallery, half an hour
	@OMP_NUM_THREADS=1 $(PY) docs/gallery/make.py

torture: tools ## long proofs: kill loops, a Debian 13 tree
	@$(PY) -m pytest -o timeout=3000 -m torture tests
	@bash tests/debian13.sh

clean: ## what was built, never results
	@rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache
