# Everything that is done with this repository. "make" or "make help" lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 10s
DATA ?= .touchstone
LISTEN ?= 127.0.0.1:8080

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/touchstone, a static binary
	CGO_ENABLED=0 go build -trimpath -o bin/touchstone ./cmd/touchstone

.PHONY: dev
dev: build ## Run everything in one process, with data in DATA (.touchstone) and the API on LISTEN
	bin/touchstone dev --data $(DATA) --listen $(LISTEN)

.PHONY: test
test: ## Run all tests; needs neither Docker nor a network
	go test -timeout 10m ./...

.PHONY: race
race: ## Run all tests under the race detector
	go test -race -timeout 20m ./...

.PHONY: lint
lint: ## Check format, go vet, staticcheck, the rules of internal/lint and the module files
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted, run gofmt -w:"; echo "$$files"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...
	go test -count=1 ./internal/lint
	go mod verify
	go mod tidy -diff

.PHONY: test-data
test-data: ## Run the pipeline on the real input beside the repository and print the results
	@set -o pipefail; TOUCHSTONE_DATA_RESULTS=1 go test -count=1 -v -timeout 30m -run TestData ./internal/e2e | grep -E '^(real input|---|ok|FAIL|panic)|^ +(---|[a-z_]+_test.go:.*(absent|expected))'

.PHONY: bench
bench: ## Run the benchmarks of all packages
	go test -run '^$$' -bench . -benchmem -timeout 60m ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (10s)
	@set -e; \
	grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		grep -ho '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6- | while read -r target; do \
			echo "$$dir $$target"; \
			go test "$$dir" -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME); \
		done; \
	done

.PHONY: clean
clean: ## Remove what was built; data stays
	rm -rf bin
