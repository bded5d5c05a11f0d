# `make demo` and `make test` do all their own set-up: they need Python 3.11 or newer, pip and make, nothing else.
PYTHON ?= python3
BIN = .venv/bin
# at least one model of every family
DEMO = gaussian,histogram,gmm,kde,made,gru,vae,gan,realnvp,ddpm,ebm,rbm
PIP = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check test-slow test-golden bench lint clean

demo: .venv/.demo  ## compare one model of every family on handwritten digits; report in runs/demo/report.html
	$(BIN)/polymode compare digits --models $(DEMO) --minutes 0.25 --out runs/demo --fresh

test: lint .venv/.dev  ## lint, types, architecture, documentation and the default suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: test

test-slow: .venv/.dev  ## trainings to a number, and the longer of the exact tests; hours
	$(BIN)/python -m pytest -m slow --timeout 1800

test-golden: .venv/.bench  ## numbers against peers, with all of them installed
	$(BIN)/python -m pytest tests/golden tests/exact -m '' -rs

bench: .venv/.bench  ## ratios against peers, side by side in one process; wants a quiet machine
	for script in vae rbm flows diffusion metrics gpt sampling compression; do $(BIN)/python -m benchmarks.$$script || exit; done

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and by itself, so that no other requirement can choose its build
.venv/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e '.[demo,tables]'
	touch $@

.venv/.dev: .venv/.demo
	$(PIP) -e '.[dev]'
	touch $@

.venv/.bench: .venv/.dev
	$(PIP) -e '.[bench]'
	# their requirements would bring another torch
	$(PIP) --no-deps torch-fidelity clean-fid prdc learnergy denoising-diffusion-pytorch ema-pytorch
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
