# The commands of the project; `make help` lists them. Each one does its own set-up.
#   PY=3.12      use this interpreter only, where a target runs Python
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PY ?=
only = $(if $(PY),--python $(PY),)
# The system's own interpreter before a version manager's shim; the tools need 3.8 or later.
TOOL_PYTHON = $$(for p in .venv/*/bin/python /usr/bin/python3 python3; do [ -x "$$(command -v $$p)" ] && echo $$p && break; done)
run_tests = $(TOOL_PYTHON) tools/run_tests.py $(only)
# What the demo and the benches run on: one environment, PY or the first there is, and the package built for it.
define one_python
tools/setup.sh $(if $(PY),all,first) $(1); \
minor=$(PY); if [ -z "$$minor" ]; then minor=$$(cd .venv && ls | head -n 1); fi; \
python="$$PWD/.venv/$$minor/bin/python"; "$$python" tools/run_tests.py --python "$$minor" --brief build; \
export PYTHONPATH="$$PWD/build/py$$minor/stage" PATH="$$PWD/.venv/$$minor/bin:$$PATH"
endef

.PHONY: help demo test setup build test-c asan tsan valgrind bench bench-check acceptance layers format lint docs \
        test-python fuzz suites check-install clean distclean

help: ## list the commands
	@echo "make COMMAND [PY=3.12]"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## ?/  \1\t/' | expand -t 16

demo: ## profile a small Flask shop under load and name its slow line
	@$(call one_python); exec "$$python" tools/demo.py

test: ## everything: layers, C tests plain and under sanitizers, Python tests on each interpreter
	@tools/setup.sh all
	@$(run_tests) all

setup: ## system packages and virtual environments, where missing
	@tools/setup.sh all

build: ## the extension, and the package staged in build/py3.X/stage
	@tools/setup.sh all
	@$(run_tests) --brief build

test-c: ## cmocka tests, plain build
	@tools/setup.sh c
	@$(run_tests) c

asan: ## cmocka tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/setup.sh c
	@$(run_tests) asan

tsan: ## cmocka tests under ThreadSanitizer
	@tools/setup.sh c
	@$(run_tests) tsan

valgrind: ## cmocka tests under valgrind
	@tools/setup.sh c +valgrind
	@$(run_tests) valgrind

test-python: ## pytest on each interpreter
	@tools/setup.sh all
	@$(run_tests) python

fuzz: ## a million random WSGI applications and servers, bare against wrapped, under AddressSanitizer (SEED=, SCRIPTS=)
	@tools/setup.sh all
	@$(run_tests) $(if $(SCRIPTS),--scripts $(SCRIPTS),) $(if $(SEED),--seed $(SEED),) --brief fuzz

suites: ## the test suites of werkzeug, flask, bottle, Django and wsgiref, bare and with every application wrapped
	@tools/setup.sh all
	@$(run_tests) --brief build
	@$(TOOL_PYTHON) tools/suites.py $(only)

bench: ## what the profiler costs and how true it is; tables, and JSON in build/bench
	@$(call one_python); exec "$$python" bench/run.py

bench-check: ## the instruction count of the request path against the figure in bench/README.md
	@$(call one_python,+valgrind); exec "$$python" bench/check.py

acceptance: ## the rows of docs/acceptance.md that no test carries
	@$(TOOL_PYTHON) tools/acceptance.py

layers: ## what each folder may include
	@$(TOOL_PYTHON) tools/check_layers.py

format: ## clang-format over the C sources
	@tools/setup.sh c +clang-format
	@$(TOOL_PYTHON) tools/run_tests.py --list-c-files | xargs -r clang-format -i

lint: ## layers, formatting, and clang's warnings where clang is there
	@$(TOOL_PYTHON) tools/run_tests.py --brief layers lint format

docs: ## check that links between the documents lead somewhere
	@$(TOOL_PYTHON) tools/check_links.py

check-install: ## pip install . in a scratch environment, then run the installed command
	@tools/setup.sh first
	@tools/check_install.sh $$(ls -d .venv/$(if $(PY),$(PY),*)/bin/python | head -n 1)

clean: ## remove what was built, keep the environments
	rm -rf build dist *.egg-info

distclean: clean ## remove the environments too
	rm -rf .venv
