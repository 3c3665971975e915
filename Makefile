# libsalf: build, test, install. `make help` lists the targets. Version numbers stand in include/salf.h only.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules --no-print-directory

# ---- what can be set ------------------------------------------------------------------------------------------------
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
CXX := $(if $(filter default,$(origin CXX)),g++,$(CXX))
BUILD ?= build
CFLAGS ?= -O3 -g
SANITIZE ?=
JOBS ?= $(shell nproc)
prefix ?= /usr/local
libdir ?= $(prefix)/lib
includedir ?= $(prefix)/include
bindir ?= $(prefix)/bin
DESTDIR ?=

# ---- facts -----------------------------------------------------------------------------------------------------------
fact = $(shell sed -n 's/^.define SALF_$(1)  *\([0-9]*\).*/\1/p' include/salf.h)
VERSION := $(call fact,VERSION_MAJOR).$(call fact,VERSION_MINOR).$(call fact,VERSION_PATCH)
SOVERSION := $(call fact,SOVERSION)
SONAME := libsalf.so.$(SOVERSION)

PKG_CONFIG ?= pkg-config
include libsalf/parts.mk
LIBS := $(DEPS_LIBS) $(JSON_LIBS) -lm -lpthread -ldl

include libsalf/build.mk
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Werror
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
COMMON_FLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L $(WARNINGS) $(CPPFLAGS) $(CFLAGS) $(SANITIZE_FLAGS) $(HARDENING) $(PLACELESS) -MMD -MP
LIB_FLAGS := $(COMMON_FLAGS) -fPIC -fvisibility=hidden -DSALF_API='__attribute__((visibility("default")))' \
    -Iinclude -Ilibsalf $(PART_FLAGS) $(FRAMES)
HOST_FLAGS := $(COMMON_FLAGS) -Iinclude -Iexamples/salf $(DEPS_CFLAGS)
LINK = $(CC) $(CFLAGS) $(SANITIZE_FLAGS) $(HARD_LINK) $(LDFLAGS)

# Short lines while building; V=1 shows the commands.
V ?= 0
say = $(if $(filter 0,$(V)),@printf '  %-7s %s\n' $(1) $(or $(2),$@) &&)

# Objects live in a folder named after a hash of compiler and flags, so that changing either rebuilds.
HASH := $(shell printf '%s' '$(CC) $(subst ','\'',$(subst $(CURDIR),.,$(LIB_FLAGS))) $(DEPS_LIBS)' | cksum | cut -d' ' -f1)
OBJ := $(BUILD)/obj/$(HASH)
STAMP := $(BUILD)/.flags-$(HASH)

LIB_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(LIB_SRC))
HOST_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(sort $(wildcard examples/salf/*.c)))
DEMO_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(sort $(wildcard examples/demo/*.c)))
HOST_PARTS := $(filter-out $(OBJ)/examples/salf/main.o,$(HOST_OBJ))
SHARED_LIB := $(BUILD)/lib/libsalf.so.$(VERSION)
STATIC_LIB := $(BUILD)/lib/libsalf.a
PROGRAM := $(BUILD)/bin/salf
NUMBERED := $(patsubst examples/%.c,$(BUILD)/examples/%,$(sort $(filter-out %_mpi.c,$(wildcard examples/[0-9]*.c))))
EXAMPLES := $(NUMBERED) $(BUILD)/examples/trainer
CPP_EXAMPLES := $(patsubst examples/cpp/%.cpp,$(BUILD)/examples/cpp/%,$(sort $(wildcard examples/cpp/*.cpp)))

# ---- build -----------------------------------------------------------------------------------------------------------
.PHONY: all lib bin examples examples-cpp
all: lib $(BIN) ## the library (shared and static) and the programs, in build/
lib: $(SHARED_LIB) $(STATIC_LIB) ## the library alone
bin: $(PROGRAM) $(PROGRAM)-demo ## the program salf, and salf-demo, which is not installed

$(STAMP):
	@test -z '$(strip $(MISSING))' || { echo "$(strip $(MISSING)) is missing; 'make deps' installs it" >&2; exit 1; }
	@mkdir -p $(@D) && rm -f $(BUILD)/.flags-* && touch $@

# The table of constants follows from the header.
$(OBJ)/gen/constants.inc: include/salf.h libsalf/core/constants.awk | $(STAMP)
	@mkdir -p $(@D)
	@awk -f libsalf/core/constants.awk include/salf.h >$@
$(OBJ)/libsalf/core/constants.o: LIB_FLAGS += -I$(OBJ)/gen
$(OBJ)/libsalf/core/constants.o: $(OBJ)/gen/constants.inc

$(OBJ)/libsalf/%.o: libsalf/%.c | $(STAMP)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(LIB_FLAGS) -c $< -o $@

$(OBJ)/examples/%.o: examples/%.c | $(STAMP)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(HOST_FLAGS) -c $< -o $@

# Several libsalf of one process (a host's own, and that of a plugin or a Python package) must not call each other:
# symbols bear the soname's number, and the library binds its calls of its own functions when it is linked.
VERSION_SCRIPT := $(OBJ)/gen/salf.map
$(VERSION_SCRIPT): include/salf.h | $(STAMP)
	@mkdir -p $(@D)
	@echo 'SALF_$(SOVERSION) { global: salf_*; local: *; };' >$@

$(SHARED_LIB): $(LIB_OBJ) $(VERSION_SCRIPT) $(STAMP)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=$(VERSION_SCRIPT) -Wl,-Bsymbolic-functions \
	    $(if $(SANITIZE),,-Wl,-z,defs) -o $@ $(LIB_OBJ) -Wl,--as-needed $(LIBS)
	@ln -sf libsalf.so.$(VERSION) $(BUILD)/lib/$(SONAME)
	@ln -sf $(SONAME) $(BUILD)/lib/libsalf.so

# Members are named after the whole path: `ar x` would write files of one name over each other.
$(STATIC_LIB): $(LIB_OBJ) $(STAMP)
	@rm -rf $@ $(OBJ)/members
	@mkdir -p $(@D) $(OBJ)/members
	@cd $(OBJ) && for o in $(LIB_OBJ:$(OBJ)/%=%); do ln $$o members/$${o//\//.}; done
	$(call say,AR)$(AR) rcs $@ $(OBJ)/members/*.o

$(PROGRAM): $(HOST_OBJ)
$(PROGRAM)-demo: $(DEMO_OBJ) $(HOST_PARTS)
$(PROGRAM) $(PROGRAM)-demo: $(SHARED_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -o $@ $(filter %.o,$^) -L$(BUILD)/lib -lsalf $(RPATH) $(LIBS)

# Examples know the public header and the shared library only, as a user does.
examples: $(EXAMPLES) ## the numbered examples and the trainer, in build/examples/
$(NUMBERED): $(BUILD)/examples/%: examples/%.c
$(BUILD)/examples/trainer: $(wildcard examples/trainer/*.[ch])
$(EXAMPLES): include/salf.h $(SHARED_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) -std=c11 $(WARNINGS) $(CFLAGS) $(SANITIZE_FLAGS) -Iinclude -o $@ $(filter %.c,$^) -L$(BUILD)/lib -lsalf \
	    -Wl,-rpath,'$$ORIGIN/../lib' -Wl,-rpath-link,$(BUILD)/lib -lm -pthread
examples-cpp: $(CPP_EXAMPLES) ## the C++ examples, in build/examples/cpp/
$(CPP_EXAMPLES): $(BUILD)/examples/cpp/%: examples/cpp/%.cpp include/salf.h $(wildcard bindings/cpp/*.hpp) $(SHARED_LIB)
	@mkdir -p $(@D)
	$(call say,CXX)$(CXX) -std=c++17 -O2 -Iinclude -Ibindings/cpp -o $@ $< -L$(BUILD)/lib -lsalf \
	    -Wl,-rpath,'$$ORIGIN/../../lib'

include libsalf/backend/cuda/build.mk
-include tests/tests.mk docs/docs.mk packaging/packaging.mk # not in a source distribution of the Python package

# ---- from nothing to a run -------------------------------------------------------------------------------------------
# What deps installs is seen by a make that starts after it, so these two start one.
MODEL ?= examples/demo/model
TOKENIZER ?= examples/demo/tokenizer.bin
DATA ?= examples/demo/data
METHODS ?= lora[full],lora[half],lift*[half],salf[half],salf[half][stream]
DEMO_FLAGS ?= --lr 0.005

.PHONY: deps demo run-demo
deps: ## install the packages that are missing (apt-get, with sudo when not root)
	@.ci/deps build
demo: deps ## install, build, and fine-tune a model with five methods (MODEL= TOKENIZER= DATA= METHODS=)
	@$(MAKE) -j$(JOBS) run-demo
run-demo: $(PROGRAM)
	@mkdir -p $(BUILD)/demo && rm -f $(BUILD)/demo/log.jsonl
	@echo "Fine-tuning $(MODEL) on $(DATA)"
	@$(PROGRAM) finetune --model $(MODEL) --tokenizer $(TOKENIZER) --data $(DATA) --method '$(METHODS)' \
	    --eval-every 25 --log $(BUILD)/demo/log.jsonl $(DEMO_FLAGS)
	@$(PROGRAM) report $(BUILD)/demo/log.jsonl -o $(BUILD)/demo/report.html
	@echo "Report with charts: $(BUILD)/demo/report.html"

# ---- format ----------------------------------------------------------------------------------------------------------
.PHONY: format check-format
FORMATTED = $(shell find include libsalf tests examples bindings -name '*.[ch]' -o -name '*.[ch]pp')
format: ## clang-format the sources
	clang-format -i $(FORMATTED)
check-format: ## fail when clang-format would change something
	clang-format --dry-run --Werror $(FORMATTED)

# ---- install ---------------------------------------------------------------------------------------------------------
.PHONY: install install-headers install-shared install-static install-pc install-bin uninstall clean help
install: install-headers install-shared install-static install-pc $(BIN:%=install-%) ## these (prefix=, libdir=, DESTDIR=)

HEADERS := include/salf.h $(wildcard bindings/cpp/*.hpp)
install-headers: ## salf.h, and salf.hpp for C++
	install -D -m 644 -t '$(DESTDIR)$(includedir)' $(HEADERS)

install-shared: $(SHARED_LIB) ## libsalf.so
	install -D -m 755 $(SHARED_LIB) '$(DESTDIR)$(libdir)/libsalf.so.$(VERSION)'
	ln -sf libsalf.so.$(VERSION) '$(DESTDIR)$(libdir)/$(SONAME)'
	ln -sf $(SONAME) '$(DESTDIR)$(libdir)/libsalf.so'

install-static: $(STATIC_LIB) ## libsalf.a
	install -D -m 644 $(STATIC_LIB) '$(DESTDIR)$(libdir)/libsalf.a'

install-pc: ## salf.pc, and what find_package of CMake reads
	install -d '$(DESTDIR)$(libdir)/pkgconfig' '$(DESTDIR)$(libdir)/cmake/salf'
	@umask 022; $(FILL_IN) pkgconfig/salf.pc.in >'$(DESTDIR)$(libdir)/pkgconfig/salf.pc'
	@umask 022; for f in $(CMAKE_FILES); do $(FILL_IN) pkgconfig/$$f.in >'$(DESTDIR)$(libdir)/cmake/salf/'$$f || exit; done

install-bin: $(PROGRAM) ## the program salf
	install -D -m 755 $(PROGRAM) '$(DESTDIR)$(bindir)/salf'

uninstall: ## remove what install put there
	rm -f $(patsubst %,'$(DESTDIR)$(includedir)/%',$(notdir $(HEADERS))) '$(DESTDIR)$(bindir)/salf' $(patsubst %,\
	    '$(DESTDIR)$(libdir)/%',libsalf.so.$(VERSION) $(SONAME) libsalf.so libsalf-cuda.so libsalf.a pkgconfig/salf.pc)
	rm -rf '$(DESTDIR)$(libdir)/cmake/salf'

clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@grep -hE '^[a-z][a-z0-9_-]*:.*## ' $(filter-out %.d,$(MAKEFILE_LIST)) | sed 's/:.*## /\t/' | expand -t 20

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)
