# libsalf: build, test, install. `make help` lists the targets. Version numbers stand in include/salf.h only.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules

# ---- what can be set ------------------------------------------------------------------------------------------------
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
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
fact = $(shell sed -n 's/^.define SALF_$(1) \([0-9]*\).*/\1/p' include/salf.h)
VERSION := $(call fact,VERSION_MAJOR).$(call fact,VERSION_MINOR).$(call fact,VERSION_PATCH)
SOVERSION := $(call fact,SOVERSION)
SONAME := libsalf.so.$(SOVERSION)

PKG_CONFIG ?= pkg-config
DEPS_CFLAGS := $(shell $(PKG_CONFIG) --cflags openblas jansson 2>/dev/null)
DEPS_LIBS := $(shell $(PKG_CONFIG) --libs openblas jansson 2>/dev/null)
CHECK_CFLAGS = $(shell $(PKG_CONFIG) --cflags check 2>/dev/null)
CHECK_LIBS = $(shell $(PKG_CONFIG) --libs check 2>/dev/null)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Werror
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
COMMON_FLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L $(WARNINGS) $(CFLAGS) $(SANITIZE_FLAGS) -MMD -MP
LIB_FLAGS := $(COMMON_FLAGS) -fPIC -fvisibility=hidden -DSALF_API='__attribute__((visibility("default")))' \
    -Iinclude -Ilibsalf $(DEPS_CFLAGS)
HOST_FLAGS := $(COMMON_FLAGS) -Iinclude -Iexamples/salf $(DEPS_CFLAGS)
TEST_FLAGS := $(COMMON_FLAGS) -Iinclude -Ilibsalf -Iexamples/salf -Itests $(DEPS_CFLAGS) $(CHECK_CFLAGS)
LIBS := $(DEPS_LIBS) -lm -lpthread -ldl

# Objects live in a folder named after a hash of compiler and flags, so that changing either rebuilds.
HASH := $(shell printf '%s' '$(CC) $(subst ','\'',$(LIB_FLAGS))' | cksum | cut -d' ' -f1)
OBJ := $(BUILD)/obj/$(HASH)

LIB_SRC := $(sort $(wildcard libsalf/*.c libsalf/io/*.c libsalf/backend/*/*.c))
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
lib: $(SHARED_LIB) $(STATIC_LIB)
bin: $(PROGRAM)

$(STAMP):
	@mkdir -p $(@D)
	@rm -f $(BUILD)/.flags-*
	@touch $@

$(OBJ)/libsalf/%.o: libsalf/%.c
	@mkdir -p $(@D)
	$(CC) $(LIB_FLAGS) -c $< -o $@

$(OBJ)/examples/salf/%.o: examples/salf/%.c
	@mkdir -p $(@D)
	$(CC) $(HOST_FLAGS) -c $< -o $@

$(OBJ)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(TEST_FLAGS) -c $< -o $@

$(SHARED_LIB): $(LIB_OBJ) $(STAMP)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) $(if $(SANITIZE),,-Wl,-z,defs) -o $@ $(LIB_OBJ) $(LIBS)
	@ln -sf libsalf.so.$(VERSION) $(BUILD)/lib/$(SONAME)
	@ln -sf $(SONAME) $(BUILD)/lib/libsalf.so

$(STATIC_LIB): $(LIB_OBJ) $(STAMP)
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $(LIB_OBJ)

$(PROGRAM): $(HOST_OBJ) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ $(HOST_OBJ) -L$(BUILD)/lib -lsalf -Wl,-rpath,'$$ORIGIN/../lib' $(LIBS)

# ---- tests -----------------------------------------------------------------------------------------------------------
# Tests link the static library, so that they reach what is not exported. Those of the host program also link its parts.
HOST_TESTS := $(filter $(BUILD)/tests/unit/test_trainer_% $(BUILD)/tests/unit/test_cli_%,$(TEST_BIN))

.SECONDARY: $(TEST_SRC:%.c=$(OBJ)/%.o)
$(HOST_TESTS): $(HOST_PARTS)
$(TEST_BIN): $(BUILD)/tests/%: $(OBJ)/tests/%.o $(TEST_HELP_OBJ) $(STATIC_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(CHECK_LIBS) $(LIBS)

.PHONY: test-unit
test-unit: $(TEST_BIN) ## build and run the unit and parity tests
	@status=0; for t in $(TEST_BIN); do echo "== $$t"; $(RUNNER) $$t || status=1; done; exit $$status

.PHONY: clean help
clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@grep -hE '^[a-z][a-z0-9_-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

-include $(shell find $(BUILD)/obj/$(HASH) -name '*.d' 2>/dev/null)
