# Every target works on all modules of the repository, one after the other: each directory with a go.mod, except tools.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

GO           ?= go
TEST_TIMEOUT ?= 10m
FUZZTIME     ?= 10s
BENCHTIME    ?= 1s
BENCHCOUNT   ?= 1
PKG          ?= ./...
LINT_OS      ?= linux darwin windows
PLATFORMS    ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# A workspace would hide what a go.mod lacks.
export GOWORK := off

MODULES := $(sort $(dir $(shell find . -name go.mod -not -path './tools/*' -not -path '*/testdata/*')))
TOOL    := $(GO) tool -modfile='$(CURDIR)/tools/go.mod'

# $(call each,command): run the command in every module, stop at the first that fails.
each = set -euo pipefail; for m in $(MODULES); do echo "== $$m"; (cd "$$m" && $(1)); done

# $(call listed,Prefix): "package name" for every test function whose name starts so, in the module of the current directory.
listed = $(GO) test -list '^$(1)' $(PKG) | awk '/^$(1)/ { names[++n] = $$1 } /^ok/ { for (i = 1; i <= n; i++) print $$2, names[i]; n = 0 }'

.PHONY: help deps build test test-real test-osctrl soak xp lint lint-code lint-fmt lint-tidy lint-deps bench scale microbench fuzz

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' Makefile

deps: ## download the modules, build the tools
	@$(call each,$(GO) mod download)
	$(TOOL) -n golangci-lint
	$(TOOL) -n benchstat

build: ## compile all packages
	@$(call each,$(GO) build -o /dev/null $(PKG))

test: ## run all tests with the race detector
	@$(call each,$(GO) test -race -timeout=$(TEST_TIMEOUT) $(PKG))

# The tests run in the directories of their packages, so a relative path is made absolute first.
test-real: ## the same tests, also on the osqueryd that OSQUERYD=/path names
	@test -n '$(OSQUERYD)' || { echo 'test-real: name an osqueryd: make test-real OSQUERYD=/path/to/osqueryd' >&2; exit 2; }
	@test -f '$(abspath $(OSQUERYD))' || { echo 'test-real: OSQUERYD: there is no file $(abspath $(OSQUERYD))' >&2; exit 2; }
	@test -x '$(abspath $(OSQUERYD))' || { echo 'test-real: OSQUERYD: $(abspath $(OSQUERYD)) is not executable' >&2; exit 2; }
	@'$(abspath $(OSQUERYD))' --version
	@export OSQUERYD='$(abspath $(OSQUERYD))'; $(call each,$(GO) test -race -count=1 -timeout=$(TEST_TIMEOUT) $(PKG))

# Without OSCTRL the release that tools/osctrl/go.mod pins is built; the rest is installed from Debian's packages.
test-osctrl: ## three instances against a real osctrl, of OSCTRL=/directory or a pinned release
	@OSCTRL='$(OSCTRL)' OSQUERYD='$(if $(OSQUERYD),$(abspath $(OSQUERYD)))' internal/osctrltest/run

# SOAK is the number of lines; 1 stands for 100,000.
SOAK ?= 1
soak: ## three instances, 100,000 lines, a server that fails a third of the time, kill -9 at random
	OSQVISOR_SOAK='$(SOAK)' $(GO) test -race -count=1 -v -timeout=30m -run '^TestPromiseSoak$$' ./internal/soak

xp: ## build and vet everything, tests included, for every platform
	@set -euo pipefail; for p in $(PLATFORMS); do \
		export GOOS="$${p%/*}" GOARCH="$${p#*/}" CGO_ENABLED=0; echo "== $$p"; \
		$(call each,$(GO) build -o /dev/null $(PKG) && $(GO) vet $(PKG)); \
	done

lint: lint-fmt lint-tidy lint-deps lint-code ## all checks of the source

# The linter sees the files of one system at a time; it is built before GOOS is set, for the machine it runs on.
lint-code: ## golangci-lint, for every system
	@lint=$$($(TOOL) -n golangci-lint) || exit 1; for os in $(LINT_OS); do \
		export GOOS="$$os" CGO_ENABLED=0; echo "== $$os"; \
		$(call each,"$$lint" run $(PKG)); \
	done

lint-fmt: ## gofmt
	@out=$$(gofmt -l .) || exit 1; test -z "$$out" || { echo "not formatted (gofmt -w):"; echo "$$out"; exit 1; } >&2

lint-tidy: ## go.mod and go.sum are what go mod tidy would write
	@for m in $(MODULES) ./tools/; do echo "== $$m"; (cd "$$m" && $(GO) mod tidy -diff) || exit 1; done

lint-deps: ## runtime depends on the modules that docs/deps-allow.txt explains, and on no other
	@GO='$(GO)' .ci/deps-allow

bench: ## ours, plain osquery-go and the floor side by side, on the fake or on OSQUERYD; ARGS as in docs/benchmarks.md
	@$(if $(OSQUERYD),OSQUERYD='$(abspath $(OSQUERYD))') $(GO) run ./internal/bench/cmd/bench $(ARGS)

scale: ## 500 instances in one host, 50 added and 50 removed a second; ARGS as in docs/benchmarks.md
	@$(GO) run ./internal/bench/cmd/scale $(ARGS)

microbench: ## run every Go benchmark; compare two outputs with benchstat
	@$(call each,$(call listed,Benchmark) | cut -d ' ' -f 1 | uniq | while read -r pkg; do \
		$(GO) test -run '^$$' -bench . -benchmem -benchtime=$(BENCHTIME) -count=$(BENCHCOUNT) "$$pkg" || exit 1; \
	done)

fuzz: ## run every fuzz target for FUZZTIME
	@$(call each,$(call listed,Fuzz) | while read -r pkg name; do \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$pkg" || exit 1; \
	done)
