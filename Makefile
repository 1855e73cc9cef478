# Everything that is done with this repository. "make" or "make help" lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 10s
DATA ?= .touchstone
LISTEN ?= 127.0.0.1:8080
# The tests that read the real input beside the repository.
DATA_TESTS := TestData|TestPublished|TestPostgresProducts|TestOtherEnvelopes|TestWeatherPolls|TestAvroVerdicts|TestTraceparentVerdicts

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
	@set -o pipefail; go test -count=1 -v -timeout 30m -run '$(DATA_TESTS)' \
		./internal/e2e ./connectors/... ./internal/embedded/schemaregistry ./domain/envelope \
		| grep -vE '^(=== |PASS|testing:)|level=(WARN|INFO)|no test files|no tests to run'

.PHONY: bench
bench: build ## Measure the whole on this machine: throughput, latency, memory, start (docs/performance.md)
	bin/touchstone bench

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
