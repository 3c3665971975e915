# What libsalf is built on, for the Makefile: which BLAS, and whether it reads checkpoints.
#
#   make BLAS=openblas|blis|netlib|mkl|accelerate|plain   plain: its own products and factors, no BLAS at all
#   make IO=0                                             no checkpoint files
#   make BLAS_LIBS='-L... -lmine'                         any library with CBLAS and LAPACK, 32-bit sizes
#
# Only symbols of CBLAS and LAPACK are needed, no header; OpenBLAS's own two are used where they are there.
BLAS ?= openblas
IO ?= 1
BLAS_KNOWN := openblas blis netlib mkl accelerate plain
$(if $(filter-out $(BLAS_KNOWN),$(BLAS))$(filter-out 1,$(words $(BLAS))),$(error BLAS is '$(BLAS)', none of $(BLAS_KNOWN)))
$(if $(filter-out 0 1,$(IO)),$(error IO is '$(IO)', neither 0 nor 1))

# By pkg-config where it knows the package, else by name; OpenBLAS is asked for by its package, so that a lack is told.
packaged = $(or $(shell $(PKG_CONFIG) --libs $(1) 2>/dev/null),$(2))
BLAS_LIBS_openblas = $(call packaged,openblas)
BLAS_LIBS_blis = $(call packaged,lapack,-llapack) -lblis
BLAS_LIBS_netlib = $(call packaged,lapack-netlib blas-netlib,-llapack -lblas)
BLAS_LIBS_mkl = $(call packaged,mkl-dynamic-lp64-seq,-lmkl_rt)
BLAS_LIBS_accelerate = -framework Accelerate
BLAS_LIBS ?= $(strip $(BLAS_LIBS_$(BLAS)))
PLAIN := $(filter plain,$(BLAS))
FILES := $(filter 1,$(IO))
# The program reads checkpoints and multiplies by CBLAS, so that it is built with both only. Its JSON is Jansson's; the
# library has its own.
BIN := $(if $(PLAIN),,$(if $(FILES),bin))
JSON_LIBS := $(if $(BIN),$(call packaged,jansson))
DEPS_CFLAGS := $(if $(BIN),$(shell $(PKG_CONFIG) --cflags openblas jansson 2>/dev/null))
DEPS_LIBS := $(if $(PLAIN),,$(BLAS_LIBS))
MISSING := $(if $(PLAIN),,$(if $(BLAS_LIBS),,OpenBLAS)) $(if $(BIN),$(if $(JSON_LIBS),,Jansson))
# What a host has to link beside libsalf.a, for pkg-config --static: OpenBLAS's archive needs Fortran's library, whose own
# archive needs quadmath on x86.
FORTRAN := $(filter -lgfortran,$(if $(filter openblas,$(BLAS)),$(shell $(PKG_CONFIG) --static --libs openblas 2>/dev/null)))
STATIC_LIBS = $(strip $(DEPS_LIBS) $(firstword $(FORTRAN)) \
    $(if $(FORTRAN),$(if $(filter x86_64%,$(shell $(CC) -dumpmachine)),-lquadmath)) -lm -lpthread -ldl)
# The files that tell a host's build where all of this is.
CMAKE_FILES := salf-config.cmake salf-config-version.cmake
$(foreach folder,prefix libdir includedir bindir datadir,$(if $(filter-out /%,$(firstword $($(folder)))),\
    $(error $(folder) is '$($(folder))', which is no absolute path)))
# Folders under the prefix are written relative to it, so that the installed tree can be moved.
FILL_IN = sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(libdir)|' -e 's|@version@|$(VERSION)|' \
    -e 's|@includedir@|$(includedir)|' -e 's|^\([a-z]*dir=\)$(prefix)/|\1$${prefix}/|' -e 's|@static_libs@|$(STATIC_LIBS)|' \
    -e 's|@soname@|$(SONAME)|' -e "s|@include_from_lib@|$$(realpath -m --relative-to='$(libdir)' '$(includedir)')|"

PART_FLAGS := $(if $(PLAIN),-DSALF_PLAIN_BLAS)
LIB_SRC := $(shell sh libsalf/sources.sh $(IO))

# The library as salf.c and salf.h, to be copied into a host: everything but checkpoint files and devices.
AMALGAMATED := $(shell sh libsalf/sources.sh 0)
AMALGAMATION := $(BUILD)/amalgamation
.PHONY: amalgamation
amalgamation: $(AMALGAMATION)/salf.c ## salf.c and salf.h in build/amalgamation/, to be copied into a host
$(AMALGAMATION)/salf.c: $(AMALGAMATED) $(wildcard libsalf/*/*.h libsalf/backend/*/*.h) include/salf.h libsalf/amalgamate.awk \
    libsalf/core/constants.awk LICENSE
	@mkdir -p $(@D)
	@cp include/salf.h $(@D)/salf.h
	@awk -f libsalf/core/constants.awk include/salf.h >$(@D)/constants.inc
	@awk -v version='$(VERSION)' -v constants='$(@D)/constants.inc' -f libsalf/amalgamate.awk $(AMALGAMATED) >$@
	@rm $(@D)/constants.inc
	@echo "$@: $$(wc -l <$@) lines, and salf.h"
