# The suites of tests. Each runs through tests/run.sh, which counts; `make test` runs them all, `make check` those that
# a change usually breaks.

# Models, data and reference values that some tests and benchmarks read; skipped, aloud, where absent.
export SALF_SHARED ?= ../shared
SUITES := test-runner test-unit test-cuda test-gpu-kit test-cli test-abi test-install test-hosts test-mpi test-docs test-fuzz test-torture test-additions test-cpp \
    test-python test-conformance lint-python test-asan test-tsan test-valgrind test-clang
CHECKED := test-unit test-cli test-abi test-docs test-fuzz
RESULTS ?= $(abspath $(BUILD))/results
RUN = RESULTS='$(RESULTS)' TEST_JOBS=$(JOBS) tests/run.sh
PYTHON ?= $(shell for p in python3 /usr/bin/python3; do $$p -c 'import cffi' 2>/dev/null && echo $$p && break; done)
SCRIPT_ENV = CC='$(CC)' CXX='$(CXX)' BUILD='$(BUILD)' PYTHON='$(or $(PYTHON),python3)' VERSION='$(VERSION)' \
    SONAME='$(SONAME)' VERSION_SCRIPT='$(VERSION_SCRIPT)'
have = $(shell command -v $(firstword $(1)))
VALGRIND := $(if $(call have,valgrind),valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite$(comma)indirect)

.PHONY: test check run-suites
test: ## every suite below but fuzz and bench, and a closing line with the totals
	@.ci/deps test
	@$(MAKE) -j$(JOBS) run-suites

check: ## what a change usually breaks: unit tests, program, ABI, documents, fuzz corpus; three minutes on two cores
	@$(MAKE) -j$(JOBS) SUITES='$(CHECKED)' run-suites

run-suites:
	@$(RUN) --start
	@for suite in $(SUITES); do \
	    TIMEFORMAT="$$suite took %0R s, and %0U + %0S s of processors"; \
	    time { $(MAKE) $$suite || $(RUN) --broken $$suite; }; \
	done; echo "all of it took $$SECONDS s"
	@$(RUN) --total

# ---- unit tests ------------------------------------------------------------------------------------------------------
# They link the static library, so that they reach what is not exported; those of the host program also link its parts.
CHECK_CFLAGS := $(shell $(PKG_CONFIG) --cflags check 2>/dev/null)
CHECK_LIBS := $(shell $(PKG_CONFIG) --libs check 2>/dev/null)
TEST_FLAGS := $(COMMON_FLAGS) -Iinclude -Ilibsalf -Iexamples/salf -Iexamples/demo -Itests $(DEPS_CFLAGS) $(CHECK_CFLAGS)
TEST_SRC := $(sort $(wildcard tests/unit/test_*.c tests/parity/test_*.c))
TEST_BIN := $(TEST_SRC:tests/%.c=$(BUILD)/tests/%)
PARITY_BIN := $(filter $(BUILD)/tests/parity/%,$(TEST_BIN))
TEST_HELP_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(sort $(filter-out $(TEST_SRC),$(wildcard tests/unit/*.c tests/parity/*.c))))
DEMO_PARTS := $(filter-out $(OBJ)/examples/demo/main.o,$(DEMO_OBJ))
# Plugins that the test of the loader opens.
TEST_PLUGINS := $(patsubst tests/%.c,$(BUILD)/tests/%.so,$(sort $(wildcard tests/plugin/*.c)))

.SECONDARY: $(TEST_SRC:%.c=$(OBJ)/%.o)
$(OBJ)/tests/%.o: tests/%.c | $(STAMP)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(TEST_FLAGS) -c $< -o $@

$(filter $(BUILD)/tests/unit/test_trainer_% $(BUILD)/tests/unit/test_cli_%,$(TEST_BIN)): $(HOST_PARTS) $(DEMO_PARTS)
# The allocations of all that is linked to these go through functions of the test.
$(BUILD)/tests/unit/test_cli_memory $(BUILD)/tests/unit/test_trainer_decoder_memory: LDFLAGS += $(foreach f,malloc calloc realloc aligned_alloc strdup,-Wl,--wrap=$(f))
$(BUILD)/tests/unit/test_plugin $(BUILD)/tests/unit/test_device: $(TEST_PLUGINS)
$(TEST_BIN): $(BUILD)/tests/%: $(OBJ)/tests/%.o $(TEST_HELP_OBJ) $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(CHECK_LIBS) $(LIBS)

$(TEST_PLUGINS): $(BUILD)/tests/%.so: tests/%.c tests/plugin/recording.h $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -std=c11 $(WARNINGS) -fPIC -fvisibility=hidden -Iinclude -Ilibsalf -shared \
	    -Wl,--exclude-libs,ALL -o $@ $< $(STATIC_LIB) $(LIBS)

.PHONY: test-runner test-unit test-cli test-abi test-hosts test-mpi test-install test-docs abi-baseline measure
test-unit: $(TEST_BIN) ## unit and parity tests
	@$(RUN) $@ $(TEST_BIN)

# ---- scripts ---------------------------------------------------------------------------------------------------------
test-runner: ## the program that runs and counts the tests
	@$(RUN) $@ tests/test_run.sh

test-cli: bin examples ## the programs salf and salf-demo, and the trainer to read beside them
	@SALF=$(PROGRAM) TRAINER=$(BUILD)/examples/trainer $(RUN) $@ $(sort $(wildcard tests/cli/*.sh))

test-abi: lib bin ## symbols, layout, dialects, constants, baseline; two libraries in one process
	@$(SCRIPT_ENV) $(RUN) $@ $(sort $(wildcard tests/abi/check_*))

abi-baseline: $(VERSION_SCRIPT) ## write the committed ABI baseline, layout and lists (for a version that breaks or extends the ABI)
	@$(SCRIPT_ENV) tests/abi/write_baseline.sh

test-install: all ## install, build the examples through pkg-config, uninstall
	@$(SCRIPT_ENV) $(RUN) $@ $(sort $(wildcard tests/install/*.sh))

test-mpi: lib ## ranks over Open MPI: the example, and ranks of which one is odd; skipped without mpicc
	@$(SCRIPT_ENV) $(RUN) $@ tests/mpi/test_mpi.sh

test-hosts: lib ## the library in one file, with every compiler there is; hosts built with CMake and Meson
	@$(SCRIPT_ENV) $(RUN) $@ $(sort $(wildcard tests/hosts/*.sh))

test-docs: lib bin ## documents: API reference, links, snippets, formats; the structure of the sources
	@$(SCRIPT_ENV) $(RUN) $@ $(sort $(wildcard tests/docs/*.sh))

test-additions: ## a slot, a data type, a metric and a policy added to a copy of the tree touch at most four files each
	@$(SCRIPT_ENV) $(RUN) $@ tests/structure/add_dummies.py
.PHONY: test-additions print-abi
print-abi: # what the scripts of tests/abi are given
	@printf '%s\n' $(SCRIPT_ENV)

measure: ## figures of the sources that docs/structure.md shows (MEASURE_FLAGS=--markdown)
	@$(or $(PYTHON),python3) tests/measure.py $(MEASURE_FLAGS)

# ---- fuzz targets ----------------------------------------------------------------------------------------------------
# They define LLVMFuzzerTestOneInput; the replay driver gives them the files of their corpus.
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BIN := $(FUZZ_SRC:tests/%.c=$(BUILD)/tests/%)
FUZZ_RUNS := $(foreach t,$(FUZZ_BIN),'$(t) tests/fuzz/corpus/$(patsubst fuzz_%,%,$(notdir $(t)))')
FUZZERS := $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzzers/%)
FUZZ_SECONDS ?= 60
# Those of the program's readers link its parts, which come before the library in their lists.
FUZZ_HOST := $(foreach t,tokenizer bin dataset log prompts arguments decoder resume,$(BUILD)/tests/fuzz/fuzz_$(t) $(BUILD)/fuzzers/fuzz_$(t))
$(FUZZ_HOST): $(HOST_PARTS)
$(FUZZ_BIN): $(BUILD)/tests/fuzz/%: $(OBJ)/tests/fuzz/%.o $(OBJ)/tests/fuzz/replay.o $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(LIBS)

$(FUZZERS): $(BUILD)/fuzzers/%: $(OBJ)/tests/fuzz/%.o $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) -fsanitize=fuzzer,address,undefined $(LDFLAGS) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(LIBS)

.PHONY: test-fuzz fuzz fuzzers
test-fuzz: $(FUZZ_BIN) ## replay the fuzz corpus
	@$(RUN) $@ $(FUZZ_RUNS)

fuzzers: $(FUZZERS)
fuzz: ## search for new inputs with libFuzzer, FUZZ_SECONDS for each target of FUZZ (all); what it finds stays in build/
	@$(MAKE) BUILD=$(BUILD)/fuzz CC=clang CFLAGS='-O1 -g -fsanitize-coverage-ignorelist=tests/fuzz/unwatched.txt' \
	    SANITIZE=fuzzer-no-link,address,undefined fuzzers
	@set -e; for t in $(FUZZ); do mkdir -p $(BUILD)/fuzz/corpus/fuzz_$$t; echo "== $$t"; \
	    dictionary=tests/fuzz/dictionaries/$$t.dict; [ -e $$dictionary ] || dictionary=tests/fuzz/dictionaries/files.dict; \
	    OPENBLAS_NUM_THREADS=1 $(BUILD)/fuzz/fuzzers/fuzz_$$t -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -timeout=60 \
	        -dict=$$dictionary -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/corpus/fuzz_$$t tests/fuzz/corpus/$$t 2>&1 | \
	        grep -vE '^#[0-9]+\s+(REDUCE|NEW|RELOAD|pulse)'; test $${PIPESTATUS[0]} -eq 0; done
FUZZ ?= $(patsubst fuzz_%,%,$(notdir $(FUZZ_BIN)))
.PHONY: fuzz-nightly
fuzz-nightly: ## an hour for each target, from what earlier nights found
	@$(MAKE) fuzz FUZZ_SECONDS=3600

include tests/cuda/tests.mk
include tests/evidence/evidence.mk
include tests/conformance/tests.mk
include bindings/python/wheels/wheels.mk
include tests/torture/tests.mk

# ---- bindings --------------------------------------------------------------------------------------------------------
# C++: its tests as C++17 (under valgrind where it is there), as C++20 without exceptions, and under the sanitizers.
CPP_HEADERS := include/salf.h $(wildcard bindings/cpp/*.hpp tests/cpp/*.hpp)
CPP_SRC := $(sort $(wildcard tests/cpp/test_*.cpp))
CPP_FLAGS := $(filter-out -Wstrict-prototypes -Wmissing-prototypes,$(WARNINGS)) -g -Iinclude -Ibindings/cpp
CPP_throwing := -std=c++17 -O0
CPP_plain := -std=c++20 -O2 -fno-exceptions -fno-rtti
CPP_sanitized := -std=c++17 -O0 -fsanitize=address,undefined -fno-sanitize-recover=all
CPP_BIN := $(foreach kind,throwing plain sanitized,$(CPP_SRC:tests/cpp/%.cpp=$(BUILD)/tests/cpp/$(kind)/%))
define cpp_program
$(BUILD)/tests/cpp/$(1)/%: tests/cpp/%.cpp $(CPP_HEADERS) $(SHARED_LIB)
	@mkdir -p $$(@D)
	$$(call say,CXX)$$(CXX) $(CPP_FLAGS) $(CPP_$(1)) -o $$@ $$< -L$(BUILD)/lib -lsalf \
	    -Wl,-rpath,'$(abspath $(BUILD))/lib' -pthread
endef
$(foreach kind,throwing plain sanitized,$(eval $(call cpp_program,$(kind))))

.PHONY: test-cpp test-python test-python-current lint-python
ifneq ($(call have,$(CXX)),)
test-cpp: $(CPP_BIN) ## the C++ binding
	@$(FIXED_MAP) OPENBLAS_NUM_THREADS=1 $(SCRIPT_ENV) $(RUN) $@ $(CPP_SRC:tests/cpp/%.cpp='$(VALGRIND) \
	    $(BUILD)/tests/cpp/throwing/%') $(filter-out $(BUILD)/tests/cpp/throwing/%,$(CPP_BIN)) $(sort $(wildcard tests/cpp/*.sh))
else
test-cpp:
	@$(RUN) $@ 'echo "SKIPPED: $(CXX) is not there"'
endif

# Python, in a virtual environment in build/venv: the core, and what works on PyTorch.
PYTHON_HOSTS := bindings/python/tests/torch
test-python: lib $(PROGRAM) $(TEST_PLUGINS) ## the Python package
	@$(SCRIPT_ENV) $(RUN) $@ 'tests/python/run.sh --ignore $(PYTHON_HOSTS) bindings/python/tests' \
	    'tests/python/run.sh $(PYTHON_HOSTS)'

# Not part of `make test`: it fetches some GB, and takes longer than all of that.
test-python-current: lib $(PROGRAM) ## the same with the current releases of PyTorch, transformers, PEFT, TRL, Lightning, ... (CURRENT_PYTHON=)
	@TEST_CPU=7200 TEST_TIMEOUT=14400 $(SCRIPT_ENV) $(RUN) $@ tests/python/current.sh

lint-python: lib ## types and style of the Python package
	@$(SCRIPT_ENV) $(RUN) $@ tests/python/lint.sh

# What other programs write and compute. The Python that has transformers; each script says aloud where none has.
.PHONY: test-conformance
SALF_CONFORMANCE_PYTHON ?= $(shell for p in python3 /usr/bin/python3; do $$p -c 'import transformers' 2>/dev/null && echo $$p && break; done)
RUN_DECODER := $(BUILD)/tests/run_decoder
CONFORMANCE = SALF_LIBRARY="$(abspath $(BUILD))/lib/libsalf.so" SALF_PROGRAM="$(abspath $(PROGRAM))" PYTHONPATH=bindings/python/src \
    SALF_RUN_DECODER="$(abspath $(RUN_DECODER))" OPENBLAS_NUM_THREADS=1 $(or $(SALF_CONFORMANCE_PYTHON),python3)
$(RUN_DECODER): $(OBJ)/tests/conformance/run_decoder.o $(HOST_PARTS) $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(LIBS)
test-conformance: lib bin $(RUN_DECODER) ## checkpoints that transformers writes, against what it computes with them
	@$(RUN) $@ $(patsubst %,'$(CONFORMANCE) %',$(addprefix tests/conformance/,checkpoints.py decoders.py))

# ---- sanitizers, valgrind, clang -------------------------------------------------------------------------------------
# Older sanitizers do not get along with kernels that spread the address space widely, so that is switched off where it
# can be. BLAS threads are left out where the tool does not know their synchronisation, or is slow.
.PHONY: test-asan asan-suite test-tsan tsan-suite test-valgrind test-clang clang-suite
SUBSET_TSAN ?= core basis probe planner policy_ranks checkpoint
SUBSET_VALGRIND ?= core blob tensors tensors_hostile checkpoint json model basis basis_allocations basis_file probe \
    probe_walks loss planner policy cost
FIXED_MAP = WRAP="$$(setarch -R true 2>/dev/null && echo setarch -R)"
subset = $(filter $(foreach t,$(1),%/test_$(t)),$(TEST_BIN))
# A + before a recipe with it: make does not see that it starts another make, which then would not build side by side.
again = RESULTS='$(RESULTS)' $(MAKE) BUILD=$(BUILD)/$(1)

# The sanitizer guesses where the thread-local memory of a plugin begins, and its leak check reads what it guessed.
test-asan: ## unit tests and fuzz corpus under the address and undefined-behaviour sanitizers
	@+$(FIXED_MAP) ASAN_OPTIONS=detect_leaks=1:intercept_tls_get_addr=0 $(call again,asan) CFLAGS='-O1 -g' \
	    SANITIZE=address,undefined asan-suite
asan-suite: $(TEST_BIN) $(FUZZ_BIN) $(if $(CUDA_NEEDS),$(EMULATED))
	@$(RUN) test-asan $(if $(CUDA_NEEDS),'env SALF_TEST_QUICK=1 SALF_TEST_PLUGIN=$(EMULATED) \
	    $(BUILD)/tests/parity/test_backend_stream') $(TEST_BIN) $(FUZZ_RUNS)

test-tsan: ## part of the unit tests under the thread sanitizer
	@+$(FIXED_MAP) OPENBLAS_NUM_THREADS=1 $(call again,tsan) CFLAGS='-O1 -g' SANITIZE=thread tsan-suite
tsan-suite: $(call subset,$(SUBSET_TSAN))
	@$(RUN) test-tsan $^

test-valgrind: $(call subset,$(SUBSET_VALGRIND)) ## part of the unit tests under valgrind
ifneq ($(VALGRIND),)
	@OPENBLAS_NUM_THREADS=1 WRAP='$(VALGRIND)' $(RUN) $@ $^
else
	@$(RUN) $@ 'echo "SKIPPED: valgrind is not there"'
endif

test-clang: ## build everything with clang, and run what it built of the unit tests
ifneq ($(call have,clang),)
	@+$(call again,clang) CC=clang CXX=clang++ CUDA=0 clang-suite
else
	@$(RUN) $@ 'echo "SKIPPED: clang is not there"'
endif
# Programs of tests/bench are the files with a main; the others are linked to each, and the trainer's parts to
# bench_train*.
BENCH_SRC := $(sort $(wildcard tests/bench/*.c))
BENCH_MAIN := $(if $(BENCH_SRC),$(sort $(shell grep -l '^int main' $(BENCH_SRC))))
BENCH_BIN := $(BENCH_MAIN:tests/bench/%.c=$(BUILD)/bench/%)
clang-suite: all examples $(TEST_BIN) $(FUZZ_BIN) $(BENCH_BIN) $(if $(CUDA_NEEDS),$(EMULATED))
	@$(RUN) test-clang $(TEST_BIN)

# ---- benchmarks ------------------------------------------------------------------------------------------------------
.PHONY: bench bench-python bench-rows
$(filter $(BUILD)/bench/bench_train%,$(BENCH_BIN)): $(HOST_PARTS)
$(BENCH_BIN): $(BUILD)/bench/%: $(OBJ)/tests/bench/%.o $(patsubst %.c,$(OBJ)/%.o,$(filter-out $(BENCH_MAIN),$(BENCH_SRC))) \
    $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(LIBS)

# The Python that has PyTorch, for its rows; left out where none has.
SALF_BENCH_PYTHON ?= $(shell for p in python3 /usr/bin/python3; do $$p -c 'import torch' 2>/dev/null && echo $$p && break; done)
bench: $(BENCH_BIN) $(PROGRAM) ## time the library against its peers (BENCH_FLAGS=--quick)
	@set -e; for b in $(BENCH_BIN); do SALF_BENCH_PYTHON='$(SALF_BENCH_PYTHON)' $$b $(BENCH_FLAGS); done

bench-python: lib ## time a Trainer of transformers with and without salf
	@venv="$$(realpath -m '$(BUILD)')"/venv && tests/python/venv.sh "$$venv" && \
		SALF_LIBRARY='$(BUILD)/lib/libsalf.so' PYTHONPATH=bindings/python/src "$$venv"/bin/python tests/bench/bench_python.py

bench-rows: lib ## time and memory of rows at their own cut in PyTorch
	@venv="$$(realpath -m '$(BUILD)')"/venv && tests/python/venv.sh "$$venv" && \
		SALF_LIBRARY='$(BUILD)/lib/libsalf.so' PYTHONPATH=bindings/python/src "$$venv"/bin/python tests/bench/bench_rows.py
