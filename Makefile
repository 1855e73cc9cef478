# Everything that is done with this repository. "make" or "make help" lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 10s
DURATION ?= 1h
SEED ?= 1
DATA ?= .touchstone
LISTEN ?= 127.0.0.1:8080
# The tests that read the real input beside the repository.
DATA_TESTS := TestData|TestPublished|TestPostgresProducts|TestOtherEnvelopes|TestWeatherPolls|TestAvroVerdicts|TestTraceparentVerdicts

# The tests that need a program with failpoints.
FAILPOINT_TESTS := ^TestKilledAt

# What the tests on a real Kafka leave out: the tests of the embedded mode, of
# local state alone and of the assignor alone, one that is about merging alone
# and starts twelve systems, and those that only measure.
NOT_ON_KAFKA := TestDataFlights|TestDataWeather|TestDataGitHub|TestDataDirectoryInUse|TestTakenPorts|TestStartBeforeBrokerAndRegistry|TestPowerLoss|TestDamagedFolder|TestCopartition|TestIndexConforms|TestPartitionsThatStay|TestWakeThat|TestWakesOf|TestInspectWakes|TestFailedWakes|TestWrongCommands|TestCommandsAreAs|TestCommandIsNotC
# What three brokers may do otherwise than one: acknowledge by several, move
# coordinators and leaders, die one by one.
ON_THREE_BROKERS := TestCluster|TestBroker|TestExactlyOnce|TestEndArrives|TestNetworkFaults|TestRebalanceStorm|TestProcessesKilled|TestTwoInstances|TestRecovery|TestCleanRestart|TestLogStart|TestAppend|TestReadAt|TestDeadLetters|TestRefusedOutput|TestRedrive|TestTransient|TestKillInTheMiddleOfAnIngest|TestReplayFromZero|TestSamplesComeAlive
KAFKA_PACKAGES := ./internal/testkit/kafkatest ./internal/engine ./internal/e2e

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/touchstone, a static binary
	CGO_ENABLED=0 go build -trimpath -o bin/touchstone ./cmd/touchstone

.PHONY: dev
dev: build ## Run everything in one process, with data in DATA (.touchstone) and the API on LISTEN
	bin/touchstone dev --data $(DATA) --listen $(LISTEN)

.PHONY: test
test: ## Run all tests; needs neither Docker nor a network
	go test -timeout 10m ./...
	go test -timeout 5m -tags failpoints ./internal/failpoint
	go test -timeout 5m -tags failpoints -run "$(FAILPOINT_TESTS)" ./internal/engine

.PHONY: race
race: ## Run the tests under the race detector, but for those that kill processes or only measure
	go test -race -timeout 25m -skip '^TestKillInTheMiddle|^TestKilledAt|^TestProcessesKilled|^TestPartitionsThatStay' ./...

.PHONY: test-kafka
test-kafka: ## Run the engine and the pipeline on a real Kafka, on one and on three brokers; needs Java 17 and Maven
	@set -e; \
	if [ -n "$$KAFKA_BROKERS" ]; then \
		echo "== $$KAFKA_BROKERS; brokers that are not ours are not killed"; \
		go test -tags kafka,failpoints -count=1 -p 1 -timeout 10m -skip '$(NOT_ON_KAFKA)|TestBroker|TestStopWithoutBroker|TestExactlyOnceUnderEverything' $(KAFKA_PACKAGES); \
	else \
		echo "== brokers: 1"; \
		KAFKA_TEST_SIZE=1 go test -tags kafka,failpoints -count=1 -p 1 -timeout 15m -skip '$(NOT_ON_KAFKA)' $(KAFKA_PACKAGES); \
		echo "== brokers: 3"; \
		KAFKA_TEST_SIZE=3 go test -tags kafka,failpoints -count=1 -p 1 -timeout 15m -run '$(ON_THREE_BROKERS)' -skip '$(NOT_ON_KAFKA)|TestDeadLettersAre' $(KAFKA_PACKAGES); \
	fi

.PHONY: chaos
chaos: ## Break everything for DURATION (1h) from SEED (1) on a real Kafka, and audit (docs/reliability.md); chaos.md gets the table
	go run ./test/chaos/cmd/chaos --duration $(DURATION) --seed $(SEED) --out chaos.md

.PHONY: soak
soak: ## Steady load for DURATION (soak: 30m) while instances come and go: memory, goroutines and files of one that stays
	go run ./test/chaos/cmd/chaos --soak $(if $(filter file,$(origin DURATION)),30m,$(DURATION)) --seed $(SEED)

.PHONY: lint
lint: ## Check format, go vet, staticcheck, the rules of internal/lint and the module files
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted, run gofmt -w:"; echo "$$files"; exit 1; fi
	go vet ./...
	go vet -tags kafka $(KAFKA_PACKAGES)
	go run $(STATICCHECK) ./...
	go run $(STATICCHECK) -tags kafka $(KAFKA_PACKAGES)
	go vet -tags failpoints ./...
	go run $(STATICCHECK) -tags failpoints ./internal/...
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

# make bench-peers QUICK=1 only shows that all of it works. PEERS replaces the
# whole comparison by one run with flags of "bin/bench-peers run", such as
# PEERS='-subjects touchstone,streams -pairs 5'.
PEERS ?=
KAFKA_STREAMS := bench/peers/kafka-streams
STREAMS_VARIANTS := streams,streams:record=64,streams:gc=parallel,streams:gc=g1,streams:dedupe=store,streams:outcomes=no,streams:version=4.3.1

.PHONY: bench-peers
bench-peers: build bench-peers-build ## Compare with Kafka Streams and plain Goka on a real Kafka; needs Java 17 and Maven
ifdef QUICK
	bin/bench-peers run -quick -results '' $(PEERS)
else ifneq ($(PEERS),)
	bin/bench-peers run $(PEERS)
	bin/bench-peers report
else
	bin/bench-peers run -pairs 5 -subjects touchstone,$(STREAMS_VARIANTS),goka,goka:outcomes=no,floor
	bin/bench-peers run -pairs 3 -modes recovery,latency -subjects touchstone,streams,streams:version=4.3.1,goka,floor
	bin/bench-peers run -pairs 3 -subjects touchstone,streams -keys 10000,1000000 -fields 5,80
	bin/bench-peers report
endif

.PHONY: bench-peers-build
bench-peers-build: $(KAFKA_STREAMS)/target/built $(KAFKA_STREAMS)/target-4.3.1/built
	go build -o bin/bench-peers ./bench/peers/cmd/peers

STREAMS_SOURCES := $(shell find $(KAFKA_STREAMS)/src -type f) $(KAFKA_STREAMS)/pom.xml

$(KAFKA_STREAMS)/target/built: $(STREAMS_SOURCES)
	mvn -B -q -f $(KAFKA_STREAMS)/pom.xml package
	touch $@

$(KAFKA_STREAMS)/target-%/built: $(STREAMS_SOURCES)
	mvn -B -q -f $(KAFKA_STREAMS)/pom.xml -Dkafka.version=$* -Dbuild.dir=target-$* package
	touch $@

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
