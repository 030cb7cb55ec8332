# `make` alone builds, and needs Go and nothing else. The tools of `make lint` and
# `make proto` are Go modules too, built on first use at the versions below.
BUF := go run github.com/bufbuild/buf/cmd/buf@v1.75.0

# Installed outside the checkout: building it takes over a minute.
LINT_VERSION := v2.15.0
TOOLS        ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/minerd-tools
LINT         := $(TOOLS)/golangci-lint-$(LINT_VERSION)/golangci-lint

# Where generated code goes; CI names another folder and compares.
PROTO_OUT ?= .

# The nearest tag and commit; a tree without git or commits is "dev".
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: build test cuda test-cuda bench lint proto clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/minerd ./cmd/minerd

test:
	go test ./...

# With the CUDA engine: needs a C compiler, its test a C++ compiler; no SDK, no GPU.
cuda:
	VERSION='$(VERSION)' scripts/cuda.sh

test-cuda:
	scripts/cuda.sh test

# For flags: make bench BENCH='--models vgg --json'.
bench:
	go run ./bench $(BENCH)

lint: $(LINT)
	$(LINT) run

$(LINT):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

proto:
	$(BUF) lint
	$(BUF) generate -o $(PROTO_OUT)

clean:
	rm -rf bin
