# The cuda backend: the plugin, with nvcc (CUDA=1, the default where nvcc is found). tests/cuda/tests.mk compiles the
# same sources for an emulated device, which needs no CUDA at all.

NVCC ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA ?= $(if $(NVCC),1,0)
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
# Where the plugin looks for cuBLAS and cuSOLVER before the system's own folders; empty: nowhere.
CUDA_RPATH ?= $(CUDA_HOME)/lib64
# Machine code of each, and PTX of the last for what comes after it.
CUDA_ARCHS ?= 75 80 86 89 90

CUDA_DIR := libsalf/backend/cuda
CUDA_KERNELS := $(sort $(wildcard $(CUDA_DIR)/*.cu))
CUDA_HOST := $(sort $(wildcard $(CUDA_DIR)/*.cpp))
CXX_WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Werror
PLUGIN_CXX := -std=c++17 $(CFLAGS) $(SANITIZE_FLAGS) $(HARDENING) $(PLACELESS) -fPIC -fvisibility=hidden -fno-exceptions \
    -fno-rtti -Iinclude

comma := ,
empty :=
space := $(empty) $(empty)
CUDA_CODE := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
    -gencode arch=compute_$(lastword $(CUDA_ARCHS))$(comma)code=compute_$(lastword $(CUDA_ARCHS))
NVCC_FLAGS := -std=c++17 -O3 -Werror all-warnings -Iinclude $(CUDA_CODE) \
    -Xcompiler $(subst $(space),$(comma),$(strip $(CXX_WARNINGS) -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti))
CUDA_OBJ := $(BUILD)/obj/cuda-$(shell printf '%s' '$(NVCC) $(NVCC_FLAGS) $(CXX) $(PLUGIN_CXX)' | cksum | cut -d' ' -f1)
PLUGIN := $(BUILD)/lib/libsalf-cuda.so

.PHONY: cuda
cuda: $(PLUGIN) ## the GPU backend libsalf-cuda.so, in build/lib/ (CUDA_ARCHS=, CUDA_HOME=, CUDA_RPATH=)
ifeq ($(CUDA),1)
all: cuda
endif

$(CUDA_OBJ)/%.o: $(CUDA_DIR)/%.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$<)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

$(CUDA_OBJ)/%.o: $(CUDA_DIR)/%.cpp
	@mkdir -p $(@D)
	$(call say,CXX,$<)$(CXX) $(PLUGIN_CXX) $(CXX_WARNINGS) -Wpedantic -isystem $(CUDA_HOME)/include -MMD -MP -c $< -o $@

# The runtime is linked in, with its symbols hidden: a process may hold another version of it. $(1): flags of the linker
# that say where the plugin looks for CUDA's libraries; the GPU kit links it a second time, for its own folder.
PLUGIN_PARTS := $(CUDA_KERNELS:$(CUDA_DIR)/%.cu=$(CUDA_OBJ)/%.o) $(CUDA_HOST:$(CUDA_DIR)/%.cpp=$(CUDA_OBJ)/%.o)
link_plugin = $(CXX) $(CFLAGS) $(HARD_LINK) $(LDFLAGS) -shared -Wl,-soname,libsalf-cuda.so -Wl,-z,defs -Wl,-z,nodelete \
    -Wl,--version-script=$(CUDA_DIR)/plugin.map -Wl,--exclude-libs,ALL -Wl,--as-needed $(1) -o $@ $(PLUGIN_PARTS) \
    -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lpthread -lm
$(PLUGIN): $(PLUGIN_PARTS) $(CUDA_DIR)/plugin.map
	@mkdir -p $(@D)
	$(call say,LINK)$(call link_plugin,$(if $(CUDA_RPATH),-Wl$(comma)-rpath$(comma)$(CUDA_RPATH)))

.PHONY: install-cuda
install-cuda: $(PLUGIN) ## libsalf-cuda.so, where it was built
	install -d '$(DESTDIR)$(libdir)'
	install -m 755 $(PLUGIN) '$(DESTDIR)$(libdir)/libsalf-cuda.so'
ifeq ($(CUDA),1)
install: install-cuda
endif

-include $(wildcard $(CUDA_OBJ)/*.d)
