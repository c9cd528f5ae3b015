# Two commands matter on a fresh machine: `make run` and `make test`.
PYTHON ?= $(shell deploy/which-python)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard fastpath/*.pyx fastpath/*.pxd fastpath/csrc/*)

.PHONY: setup run test simulate mutants faults lint bench sanitize clean

setup: $(VENV)/.built

# The compiled modules are built in place; a change of any source builds them anew.
$(VENV)/.built: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,yaml,load,plots,test,dev]'
	touch $@

run: setup
	$(BIN)/cardswitch up --demo --data .data

# In as many processes as there are cores, four at most; the tests of a file stay together.
test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Many seeds of the deterministic simulator, on all cores; a seed that fails is shown as its shortest
# story. SEEDS=1-20000 is over a million messages.
SEEDS ?= 1-2000
simulate: setup
	$(BIN)/python -m tests.simulator --seeds $(SEEDS)

# Protecting lines taken out one by one, in copies of the tree: each must turn its tests red.
mutants: setup
	$(BIN)/python -m tests.mutants

# Faults for real, as many rounds of each row as wanted; goes on where it was interrupted.
ROUNDS ?= 20
SEED ?= 1
faults: setup
	$(BIN)/python -m tests.faults --rounds $(ROUNDS) --seed $(SEED) $(if $(ROWS),--rows $(ROWS))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed, as ratios within one run. `make bench ARGS=--check` only asks whether one of them has fallen.
bench: setup
	$(BIN)/python -m bench $(ARGS)

# The compiled modules once more with the address and undefined-behaviour sanitizers, under their
# tests and the fuzz corpus. Needs gcc's libasan.
SANITIZED := build/sanitized
sanitize: setup
	FASTPATH_OPTIMIZE=-O1 CFLAGS="-g1 -fsanitize=address,undefined -fno-sanitize-recover=all" \
		LDFLAGS="-fsanitize=address,undefined" $(BIN)/python setup.py -q build_ext --force \
		--build-lib $(SANITIZED) --build-temp $(SANITIZED)-objects
	cp -r fastpath/*.py fastpath/packagers $(SANITIZED)/fastpath/
	cd $(SANITIZED) && PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		$(CURDIR)/$(BIN)/python -m pytest -q -s -p no:cacheprovider \
		-c $(CURDIR)/pyproject.toml $(CURDIR)/tests/fastpath

clean:
	rm -rf $(VENV) build *.egg-info fastpath/*.so fastpath/*.c
