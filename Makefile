# libsalf: build, test, install. `make help` lists the targets. Version numbers stand in include/salf.h only.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules --no-print-directory

# ---- what can be set ------------------------------------------------------------------------------------------------
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif
BUILD ?= build
CFLAGS ?= -O3 -g
SANITIZE ?=
prefix ?= /usr/local
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
bindir ?= $(prefix)/bin
DESTDIR ?=
# Models, data and reference values that some tests and benchmarks read; skipped, aloud, where absent.
export SALF_SHARED ?= ../shared

# ---- facts -----------------------------------------------------------------------------------------------------------
fact = $(shell sed -n 's/^.define SALF_$(1)  *\([0-9]*\).*/\1/p' include/salf.h)
VERSION := $(call fact,VERSION_MAJOR).$(call fact,VERSION_MINOR).$(call fact,VERSION_PATCH)
SOVERSION := $(call fact,SOVERSION)
SONAME := libsalf.so.$(SOVERSION)

PKG_CONFIG ?= pkg-config
DEPS_CFLAGS := $(shell $(PKG_CONFIG) --cflags openblas jansson 2>/dev/null)
DEPS_LIBS := $(shell $(PKG_CONFIG) --libs openblas jansson 2>/dev/null)
CHECK_CFLAGS = $(shell $(PKG_CONFIG) --cflags check 2>/dev/null)
CHECK_LIBS = $(shell $(PKG_CONFIG) --libs check 2>/dev/null)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Werror
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
COMMON_FLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L $(WARNINGS) $(CFLAGS) $(SANITIZE_FLAGS) -MMD -MP
LIB_FLAGS := $(COMMON_FLAGS) -fPIC -fvisibility=hidden -DSALF_API='__attribute__((visibility("default")))' \
    -Iinclude -Ilibsalf $(DEPS_CFLAGS)
HOST_FLAGS := $(COMMON_FLAGS) -Iinclude -Iexamples/salf $(DEPS_CFLAGS)
TEST_FLAGS := $(COMMON_FLAGS) -Iinclude -Ilibsalf -Iexamples/salf -Itests $(DEPS_CFLAGS) $(CHECK_CFLAGS)
LIBS := $(DEPS_LIBS) -lm -lpthread -ldl

# Short lines while building; V=1 shows the commands.
V ?= 0
say = $(if $(filter 0,$(V)),@printf '  %-7s %s\n' $(1) $(or $(2),$@) &&)

# Objects live in a folder named after a hash of compiler and flags, so that changing either rebuilds.
HASH := $(shell printf '%s' '$(CC) $(subst ','\'',$(LIB_FLAGS))' | cksum | cut -d' ' -f1)
OBJ := $(BUILD)/obj/$(HASH)

LIB_SRC := $(sort $(wildcard libsalf/*/*.c libsalf/backend/*/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(OBJ)/%.o)
HOST_SRC := $(sort $(wildcard examples/salf/*.c))
HOST_OBJ := $(HOST_SRC:%.c=$(OBJ)/%.o)
HOST_PARTS := $(filter-out $(OBJ)/examples/salf/main.o,$(HOST_OBJ))
TEST_SRC := $(sort $(wildcard tests/unit/test_*.c tests/parity/test_*.c))
TEST_BIN := $(TEST_SRC:tests/%.c=$(BUILD)/tests/%)
TEST_HELP_SRC := $(sort $(filter-out $(TEST_SRC),$(wildcard tests/unit/*.c tests/parity/*.c)))
TEST_HELP_OBJ := $(TEST_HELP_SRC:%.c=$(OBJ)/%.o)

SHARED_LIB := $(BUILD)/lib/libsalf.so.$(VERSION)
STATIC_LIB := $(BUILD)/lib/libsalf.a
PROGRAM := $(BUILD)/bin/salf
STAMP := $(BUILD)/.flags-$(HASH)

# ---- build -----------------------------------------------------------------------------------------------------------
.PHONY: all lib bin
all: lib bin ## the library (shared and static) and the program salf, in build/
lib: $(SHARED_LIB) $(STATIC_LIB) ## the library alone
bin: $(PROGRAM) ## the program alone

$(STAMP):
	@test -n '$(DEPS_LIBS)' || { echo "OpenBLAS or Jansson is missing; 'make deps' installs them" >&2; exit 1; }
	@mkdir -p $(@D)
	@rm -f $(BUILD)/.flags-*
	@touch $@

# The table of constants follows from the header.
$(OBJ)/gen/constants.inc: include/salf.h libsalf/core/constants.awk | $(STAMP)
	@mkdir -p $(@D)
	@awk -f libsalf/core/constants.awk include/salf.h >$@
$(OBJ)/libsalf/core/constants.o: LIB_FLAGS += -I$(OBJ)/gen
$(OBJ)/libsalf/core/constants.o: $(OBJ)/gen/constants.inc

$(OBJ)/libsalf/%.o: libsalf/%.c | $(STAMP)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(LIB_FLAGS) -c $< -o $@

$(OBJ)/examples/salf/%.o: examples/salf/%.c | $(STAMP)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(HOST_FLAGS) -c $< -o $@

$(OBJ)/tests/%.o: tests/%.c | $(STAMP)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(TEST_FLAGS) -c $< -o $@

$(SHARED_LIB): $(LIB_OBJ) $(STAMP)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) $(if $(SANITIZE),,-Wl,-z,defs) -o $@ $(LIB_OBJ) $(LIBS)
	@ln -sf libsalf.so.$(VERSION) $(BUILD)/lib/$(SONAME)
	@ln -sf $(SONAME) $(BUILD)/lib/libsalf.so

$(STATIC_LIB): $(LIB_OBJ) $(STAMP)
	@mkdir -p $(@D)
	@rm -f $@
	$(call say,AR)$(AR) rcs $@ $(LIB_OBJ)

$(PROGRAM): $(HOST_OBJ) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ $(HOST_OBJ) -L$(BUILD)/lib -lsalf -Wl,-rpath,'$$ORIGIN/../lib' $(LIBS)

# Numbered examples: only the public header and the shared library, as at a user's.
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/examples/%,$(sort $(wildcard examples/[0-9]*.c)))

.PHONY: examples
examples: $(EXAMPLES) ## the numbered examples, in build/examples/
$(BUILD)/examples/%: examples/%.c include/salf.h $(SHARED_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) -std=c11 $(WARNINGS) $(CFLAGS) $(SANITIZE_FLAGS) -Iinclude -o $@ $< -L$(BUILD)/lib -lsalf \
	    -Wl,-rpath,'$$ORIGIN/../lib' -Wl,-rpath-link,$(BUILD)/lib -lm -pthread

# Those of the C++ binding.
CPP_EXAMPLES := $(patsubst examples/cpp/%.cpp,$(BUILD)/examples/cpp/%,$(sort $(wildcard examples/cpp/*.cpp)))
.PHONY: examples-cpp
examples-cpp: $(CPP_EXAMPLES) ## the C++ examples, in build/examples/cpp/
$(CPP_EXAMPLES): $(BUILD)/examples/cpp/%: examples/cpp/%.cpp include/salf.h $(wildcard bindings/cpp/*.hpp) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(call say,CXX)$(CXX) -std=c++17 -O2 -Iinclude -Ibindings/cpp -o $@ $< -L$(BUILD)/lib -lsalf -Wl,-rpath,'$$ORIGIN/../../lib'

# ---- from nothing to a run -------------------------------------------------------------------------------------------
# What deps installs is seen by a make that starts after it, so these two start one.
MODEL ?= examples/demo/model
TOKENIZER ?= examples/demo/tokenizer.bin
DATA ?= examples/demo/data
METHODS ?= lora[full],lora[half],lift*[half],salf[half],salf[arith][df]
DEMO_FLAGS ?=

.PHONY: deps demo run-demo
deps: ## install the packages that are missing (apt-get, with sudo when not root)
	@.ci/deps build

demo: deps ## install, build, and fine-tune a model with five methods (MODEL= TOKENIZER= DATA= METHODS=)
	@$(MAKE) -j$(JOBS) run-demo

run-demo: $(PROGRAM)
	@mkdir -p $(BUILD)/demo
	@rm -f $(BUILD)/demo/log.jsonl
	@echo "Fine-tuning $(MODEL) on $(DATA)"
	@$(PROGRAM) finetune --model $(MODEL) --tokenizer $(TOKENIZER) --data $(DATA) --method '$(METHODS)' \
	    --eval-every 25 --log $(BUILD)/demo/log.jsonl $(DEMO_FLAGS)
	@$(PROGRAM) report $(BUILD)/demo/log.jsonl -o $(BUILD)/demo/report.html
	@echo "Report with charts: $(BUILD)/demo/report.html"

# ---- tests -----------------------------------------------------------------------------------------------------------
# Every suite runs through tests/run.sh, which counts. Unit tests link the static library, so that they reach what is not
# exported; those of the host program also link its parts.
HOST_TESTS := $(filter $(BUILD)/tests/unit/test_trainer_% $(BUILD)/tests/unit/test_cli_%,$(TEST_BIN))
SUITES := test-runner test-unit test-cuda test-cli test-abi test-install test-docs test-fuzz test-cpp test-python lint-python test-asan test-tsan test-valgrind test-clang
SUITE ?= test-unit
RESULTS ?= $(abspath $(BUILD))/results
RUN = RESULTS=$(RESULTS) tests/run.sh
PYTHON ?= $(shell for p in python3 /usr/bin/python3; do $$p -c 'import cffi' 2>/dev/null && echo $$p && break; done)
SCRIPT_ENV = CC='$(CC)' CXX='$(CXX)' BUILD='$(BUILD)' PYTHON='$(or $(PYTHON),python3)' VERSION='$(VERSION)' SONAME='$(SONAME)'
JOBS ?= $(shell nproc)
ifneq ($(shell command -v valgrind),)
VALGRIND := valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect
endif

.PHONY: test run-tests
test: ## everything below but fuzz and bench, and a closing line with the totals
	@.ci/deps test
	@$(MAKE) -j$(JOBS) run-tests

run-tests:
	@$(RUN) --start
	@for suite in $(SUITES); do \
	    start=$$SECONDS; $(MAKE) $$suite || $(RUN) --broken $$suite; echo "$$suite took $$((SECONDS - start)) s"; \
	done
	@$(RUN) --total

.SECONDARY: $(TEST_SRC:%.c=$(OBJ)/%.o)
$(HOST_TESTS): $(HOST_PARTS)
# The allocations of all that is linked to this one go through functions of the test.
$(BUILD)/tests/unit/test_cli_memory: LDFLAGS += $(foreach f,malloc calloc realloc aligned_alloc strdup,-Wl,--wrap=$(f))
$(TEST_BIN): $(BUILD)/tests/%: $(OBJ)/tests/%.o $(TEST_HELP_OBJ) $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(CHECK_LIBS) $(LIBS)

# Plugins that the test of the loader opens.
TEST_PLUGINS := $(patsubst tests/%.c,$(BUILD)/tests/%.so,$(sort $(wildcard tests/plugin/*.c)))
$(BUILD)/tests/unit/test_plugin $(BUILD)/tests/unit/test_device: $(TEST_PLUGINS)
$(TEST_PLUGINS): $(BUILD)/tests/%.so: tests/%.c tests/plugin/recording.h $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) -std=c11 $(WARNINGS) $(CFLAGS) $(SANITIZE_FLAGS) -fPIC -fvisibility=hidden -Iinclude -Ilibsalf -shared \
	    -Wl,--exclude-libs,ALL -o $@ $< $(STATIC_LIB) $(LIBS)

include libsalf/backend/cuda/build.mk

.PHONY: test-runner test-unit test-cli test-abi test-install test-docs
test-runner: ## the program that runs and counts the tests
	@$(RUN) test-runner tests/test_run.sh

test-unit: $(TEST_BIN) ## unit and parity tests
	@$(RUN) $(SUITE) $(TEST_BIN)

test-cli: $(PROGRAM) ## the program salf
	@SALF=$(PROGRAM) $(RUN) test-cli $(sort $(wildcard tests/cli/*.sh))

test-abi: lib ## symbols, layout, dialects, constants, baseline
	@$(SCRIPT_ENV) $(RUN) test-abi $(sort $(wildcard tests/abi/check_*))

test-install: all ## install, build the examples through pkg-config, uninstall
	@$(SCRIPT_ENV) $(RUN) test-install $(sort $(wildcard tests/install/*.sh))

# The C++ binding: its tests as C++17 (under valgrind where it is there), as C++20 without exceptions, and under the sanitizers.
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
	$$(call say,CXX)$$(CXX) $(CPP_FLAGS) $(CPP_$(1)) -o $$@ $$< -L$(BUILD)/lib -lsalf -Wl,-rpath,$(abspath $(BUILD))/lib -pthread
endef
$(foreach kind,throwing plain sanitized,$(eval $(call cpp_program,$(kind))))

.PHONY: test-cpp
ifneq ($(shell command -v $(CXX)),)
test-cpp: $(CPP_BIN) ## the C++ binding
	@$(FIXED_MAP) OPENBLAS_NUM_THREADS=1 $(SCRIPT_ENV) $(RUN) test-cpp $(CPP_SRC:tests/cpp/%.cpp='$(VALGRIND) \
	    $(BUILD)/tests/cpp/throwing/%') $(filter-out $(BUILD)/tests/cpp/throwing/%,$(CPP_BIN)) $(sort $(wildcard tests/cpp/*.sh))
else
test-cpp:
	@$(RUN) test-cpp 'echo "SKIPPED: $(CXX) is not there"'
endif

# The Python package, in a virtual environment in build/venv: the core, and what works on PyTorch.
PYTHON_HOSTS := bindings/python/tests/torch
.PHONY: test-python lint-python
test-python: lib $(TEST_PLUGINS) ## the Python package
	@$(SCRIPT_ENV) $(RUN) test-python 'tests/python/run.sh --ignore $(PYTHON_HOSTS) bindings/python/tests' \
	    'tests/python/run.sh $(PYTHON_HOSTS)'

lint-python: lib ## types and style of the Python package
	@$(SCRIPT_ENV) $(RUN) lint-python tests/python/lint.sh

# Fuzz targets define LLVMFuzzerTestOneInput; the replay driver gives them the files of their corpus.
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BIN := $(FUZZ_SRC:tests/%.c=$(BUILD)/tests/%)
FUZZERS := $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzzers/%)
FUZZ_SECONDS ?= 60
$(FUZZ_BIN): $(BUILD)/tests/fuzz/%: $(OBJ)/tests/fuzz/%.o $(OBJ)/tests/fuzz/replay.o $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(FUZZERS): $(BUILD)/fuzzers/%: $(OBJ)/tests/fuzz/%.o $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(CFLAGS) -fsanitize=fuzzer,address,undefined $(LDFLAGS) -o $@ $^ $(LIBS)

.PHONY: test-fuzz fuzz fuzzers
test-fuzz: $(FUZZ_BIN) ## replay the fuzz corpus
	@$(RUN) test-fuzz $(foreach t,$(FUZZ_BIN),'$(t) tests/fuzz/corpus/$(patsubst fuzz_%,%,$(notdir $(t)))')

fuzzers: $(FUZZERS)
fuzz: ## search for new inputs with libFuzzer, FUZZ_SECONDS for each target
	@$(MAKE) BUILD=$(BUILD)/fuzz CC=clang CFLAGS='-O1 -g' SANITIZE=fuzzer-no-link,address,undefined fuzzers
	@set -e; for t in $(notdir $(FUZZ_BIN)); do mkdir -p $(BUILD)/fuzz/corpus/$$t; echo "== $$t"; \
	    $(BUILD)/fuzz/fuzzers/$$t -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 \
	        -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/corpus/$$t tests/fuzz/corpus/$${t#fuzz_}; done

# Older sanitizers do not get along with kernels that spread the address space widely, so that is switched off where it can
# be. BLAS threads are left out where the tool does not know their synchronisation, or is slow.
.PHONY: test-asan test-tsan test-valgrind test-clang
SUBSET_TSAN ?= core basis probe planner policy_ranks checkpoint
SUBSET_VALGRIND ?= core state tensors tensors_hostile checkpoint json model basis basis_allocations basis_file probe probe_walks loss planner policy cost
FIXED_MAP = WRAP="$$(setarch -R true 2>/dev/null && echo setarch -R)"
subset = $(filter $(foreach t,$(1),%/test_$(t)),$(TEST_BIN))

# The sanitizer guesses where the thread-local memory of a plugin begins, and its leak check reads what it guessed.
test-asan: ## unit tests and fuzz corpus under the address and undefined-behaviour sanitizers
	@$(FIXED_MAP) ASAN_OPTIONS=detect_leaks=1:intercept_tls_get_addr=0 SALF_TEST_SANITIZED=1 CK_TIMEOUT_MULTIPLIER=5 RESULTS=$(RESULTS) $(MAKE) \
	    BUILD=$(BUILD)/asan CFLAGS='-O1 -g' SANITIZE=address,undefined SUITE=test-asan asan-suite
.PHONY: asan-suite
asan-suite: $(TEST_BIN) $(FUZZ_BIN) $(if $(CUDA_NEEDS),$(EMULATED))
	@$(RUN) test-asan $(TEST_BIN) $(if $(CUDA_NEEDS),'env SALF_TEST_QUICK=1 SALF_TEST_PLUGIN=$(EMULATED) $(BUILD)/tests/parity/test_backend_stream') \
	    $(foreach t,$(FUZZ_BIN),'$(t) tests/fuzz/corpus/$(patsubst fuzz_%,%,$(notdir $(t)))')

test-tsan: ## part of the unit tests under the thread sanitizer
	@$(FIXED_MAP) OPENBLAS_NUM_THREADS=1 CK_TIMEOUT_MULTIPLIER=10 RESULTS=$(RESULTS) $(MAKE) BUILD=$(BUILD)/tsan \
	    CFLAGS='-O1 -g' SANITIZE=thread SUITE=test-tsan tsan-suite
.PHONY: tsan-suite
tsan-suite: $(call subset,$(SUBSET_TSAN))
	@$(RUN) test-tsan $^

test-valgrind: $(call subset,$(SUBSET_VALGRIND)) ## part of the unit tests under valgrind
ifneq ($(VALGRIND),)
	@OPENBLAS_NUM_THREADS=1 CK_TIMEOUT_MULTIPLIER=20 SALF_TEST_VALGRIND=1 WRAP='$(VALGRIND)' $(RUN) test-valgrind $^
else
	@$(RUN) test-valgrind 'echo "SKIPPED: valgrind is not there"'
endif

test-clang: ## build everything with clang, and run what it built of the unit tests
ifneq ($(shell command -v clang),)
	@RESULTS=$(RESULTS) $(MAKE) BUILD=$(BUILD)/clang CC=clang CXX=clang++ CUDA=0 clang-suite
else
	@$(RUN) test-clang 'echo "SKIPPED: clang is not there"'
endif
# Programs of tests/bench are the files with a main; the others are linked to each, and the trainer's parts to bench_train*.
BENCH_SRC := $(sort $(wildcard tests/bench/*.c))
BENCH_MAIN := $(if $(BENCH_SRC),$(sort $(shell grep -l '^int main' $(BENCH_SRC))))
BENCH_BIN := $(BENCH_MAIN:tests/bench/%.c=$(BUILD)/bench/%)
.PHONY: clang-suite
clang-suite: all examples $(TEST_BIN) $(FUZZ_BIN) $(BENCH_BIN) $(if $(CUDA_NEEDS),$(EMULATED))
	@$(RUN) test-clang $(TEST_BIN)

.PHONY: bench bench-python abi-baseline
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
	@venv=$$(realpath -m '$(BUILD)')/venv && tests/python/venv.sh $$venv && \
		SALF_LIBRARY='$(BUILD)/lib/libsalf.so' PYTHONPATH=bindings/python/src $$venv/bin/python tests/bench/bench_python.py

abi-baseline: ## write the committed ABI baseline and layout (for a version that breaks or extends the ABI)
	@$(SCRIPT_ENV) tests/abi/write_baseline.sh

# ---- documentation, format -------------------------------------------------------------------------------------------
.PHONY: docs test-docs format check-format
docs: ## the API reference, in build/docs/
	@mkdir -p $(BUILD)/docs
	@$(or $(PYTHON),python3) docs/generate_reference.py include/salf.h $(BUILD)/docs

test-docs: all ## documents: API reference, links, snippets, formats, structure
	@$(SCRIPT_ENV) $(RUN) test-docs $(sort $(wildcard tests/docs/*.sh))

FORMATTED = $(shell find include libsalf tests examples bindings -name '*.[ch]' -o -name '*.[ch]pp')
format: ## clang-format the sources
	clang-format -i $(FORMATTED)
check-format: ## fail when clang-format would change something
	clang-format --dry-run --Werror $(FORMATTED)

# ---- install ---------------------------------------------------------------------------------------------------------
.PHONY: install install-headers install-shared install-static install-pc install-bin uninstall
install: install-headers install-shared install-static install-pc install-bin ## all of these (prefix=, libdir=, DESTDIR=)

HEADERS := include/salf.h $(wildcard bindings/cpp/*.hpp)
install-headers: ## salf.h, and salf.hpp for C++
	install -d '$(DESTDIR)$(includedir)'
	install -m 644 $(HEADERS) '$(DESTDIR)$(includedir)'

install-shared: $(SHARED_LIB) ## libsalf.so
	install -d '$(DESTDIR)$(libdir)'
	install -m 755 $(SHARED_LIB) '$(DESTDIR)$(libdir)/libsalf.so.$(VERSION)'
	ln -sf libsalf.so.$(VERSION) '$(DESTDIR)$(libdir)/$(SONAME)'
	ln -sf $(SONAME) '$(DESTDIR)$(libdir)/libsalf.so'

install-static: $(STATIC_LIB) ## libsalf.a
	install -d '$(DESTDIR)$(libdir)'
	install -m 644 $(STATIC_LIB) '$(DESTDIR)$(libdir)/libsalf.a'

# Folders under the prefix are written relative to it, so that the installed tree can be moved.
under_prefix = $(patsubst $(prefix)/%,$${prefix}/%,$(1))
install-pc: ## salf.pc
	install -d '$(DESTDIR)$(libdir)/pkgconfig'
	sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(call under_prefix,$(libdir))|' -e 's|@version@|$(VERSION)|' \
	    -e 's|@includedir@|$(call under_prefix,$(includedir))|' pkgconfig/salf.pc.in \
	    >'$(DESTDIR)$(libdir)/pkgconfig/salf.pc'

install-bin: $(PROGRAM) ## the program salf
	install -d '$(DESTDIR)$(bindir)'
	install -m 755 $(PROGRAM) '$(DESTDIR)$(bindir)/salf'

uninstall: ## remove what install put there
	rm -f $(patsubst %,'$(DESTDIR)$(includedir)/%',$(notdir $(HEADERS))) '$(DESTDIR)$(libdir)/libsalf.so.$(VERSION)' '$(DESTDIR)$(libdir)/$(SONAME)' \
	    '$(DESTDIR)$(libdir)/libsalf.so' '$(DESTDIR)$(libdir)/libsalf-cuda.so' '$(DESTDIR)$(libdir)/libsalf.a' '$(DESTDIR)$(libdir)/pkgconfig/salf.pc' \
	    '$(DESTDIR)$(bindir)/salf'

.PHONY: clean help
clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@grep -hE '^[a-z][a-z0-9_-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

-include $(shell find $(BUILD)/obj/$(HASH) -name '*.d' 2>/dev/null)
