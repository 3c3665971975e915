# How the library and the program are made hard to misuse, and the same wherever they are built. Not by CFLAGS, which
# distributions set as a whole. HARDENING= leaves it out.

# Checks of buffers (with optimisation; the C library warns without), of the stack, and of where indirect
# jumps end (CET, where the compiler has it). Sanitizers have their own.
compiles_with = $(if $(shell $(CC) $(1) -x c -S /dev/null -o - >/dev/null 2>&1 && echo yes),$(1))
HARDENING ?= $(if $(SANITIZE),,-fstack-protector-strong $(call compiles_with,-fcf-protection) \
    $(if $(filter -O1 -O2 -O3 -Os,$(CFLAGS)),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2))

# All symbols are bound when a program starts, and their table is then read-only.
HARD_LINK := -Wl,-z,relro,-z,now

# Debug information names files from here, not from the folder in which they were built.
PLACELESS := -ffile-prefix-map='$(CURDIR)'=.

# Threads of 64 KiB stack, beside what libraries have of it for thread-local memory (OpenBLAS: 60 KiB), are enough for
# every call (tests/unit/test_bounds.c): no function takes more than a quarter.
FRAMES := -Wframe-larger-than=16384

# The program finds the library of its own tree, wherever that lies. Distributions want RPATH= (packaging/).
RPATH ?= -Wl,-rpath,'$$ORIGIN/../lib'
