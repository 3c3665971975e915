# The GPU kit: a folder that carries the GPU backend, its tests and its benchmarks to a machine with a device and
# without this project's packages (make gpu-kit; docs/gpu.md says how it is run). Programs are linked anew, without
# symbols and with an RPATH beside themselves: DT_RPATH, not DT_RUNPATH, because only that serves what their libraries
# need in turn.
KIT_DIR := tests/cuda/kit
KIT := $(BUILD)/gpu-kit
# Versions of Python that the kit carries cffi for; wheels come through pip, and stay in KIT_WHEELS.
KIT_PYTHONS ?= 3.10 3.11 3.12 3.13
KIT_WHEELS ?= $(BUILD)/kit-wheels
KIT_UNIT := $(CUDA_UNIT)
kit_rpath = -s -Wl,--disable-new-dtags,-rpath,'$(subst ORIGIN,$$ORIGIN,$(1))'
kit_static_cxx := -static-libstdc++ -static-libgcc

KIT_TESTS := $(PARITY_BIN:$(BUILD)/tests/parity/%=$(KIT)/bin/%) $(KIT_UNIT:%=$(KIT)/bin/test_%)
$(filter $(KIT)/bin/test_backend%,$(KIT_TESTS)): $(KIT)/bin/%: $(OBJ)/tests/parity/%.o
$(KIT_UNIT:%=$(KIT)/bin/test_%): $(KIT)/bin/%: $(OBJ)/tests/unit/%.o
$(KIT_TESTS): $(TEST_HELP_OBJ) $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) $(call kit_rpath,ORIGIN/../lib) -o $@ $(filter %.o,$^) $(STATIC_LIB) $(CHECK_LIBS) $(LIBS)

# ---- for a device ----------------------------------------------------------------------------------------------------
KIT_GPU_TESTS := $(CUDA_TEST_BIN:$(BUILD)/tests/cuda/%=$(KIT)/bin/%)
$(KIT_GPU_TESTS): $(KIT)/bin/%: tests/cuda/%.c tests/cuda/gpu.h $(TEST_HELP_OBJ) $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) -MF $(OBJ)/$(subst /,-,$@).d $(GPU_INCLUDE) $(call kit_rpath,ORIGIN/../lib) -o $@ $< $(filter %.o,$^) $(STATIC_LIB) \
	    $(GPU_LIBS) $(CHECK_LIBS) $(LIBS)

# Measuring programs open the libraries of CUDA as the plugin does, so that they start where none is.
KIT_MEASURES := look bench_gpu
KIT_CXX = $(CXX) -std=c++17 $(CFLAGS) $(CXX_WARNINGS) -Wpedantic -Iinclude -Itests/bench $(kit_static_cxx)
$(KIT)/bin/look $(KIT)/emulated/bin/look: $(KIT_DIR)/look.cpp
$(KIT)/bin/bench_gpu $(KIT)/emulated/bin/bench_gpu: tests/bench/bench_gpu.cpp
$(KIT_MEASURES:%=$(KIT)/bin/%): tests/bench/gpu_measure.h $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(KIT_CXX) $(GPU_INCLUDE) $(call kit_rpath,ORIGIN/../lib) -o $@ $(filter %.cpp,$^) $(STATIC_LIB) $(GPU_LIBS) $(LIBS)

$(KIT)/lib/libsalf-cuda.so: $(PLUGIN)
	@mkdir -p $(@D)
	$(call say,LINK)$(call link_plugin,$(call kit_rpath,ORIGIN))

# ---- for the emulated device -----------------------------------------------------------------------------------------
KIT_EMULATED := $(KIT)/emulated
$(KIT_EMULATED)/lib/libcuda-emulated.so: $(EMULATOR)
	@mkdir -p $(@D)
	$(call say,LINK)$(CXX) $(CFLAGS) $(LDFLAGS) $(kit_static_cxx) $(call kit_rpath,ORIGIN/../../lib) -shared -Wl,-soname,$(@F) -o $@ \
	    $(EMULATOR_OBJ) $(LIBS)
$(KIT_EMULATED)/lib/libsalf-cuda.so: $(EMULATED) $(KIT_EMULATED)/lib/libcuda-emulated.so
	@mkdir -p $(@D)
	$(call say,LINK)$(CXX) $(CFLAGS) $(LDFLAGS) $(kit_static_cxx) $(call kit_rpath,ORIGIN:ORIGIN/../../lib) -shared \
	    -Wl,-z,nodelete -Wl,--version-script=$(CUDA_DIR)/plugin.map -o $@ $(EMULATED_PARTS) -L$(@D) -lcuda-emulated -lpthread
KIT_EMULATED_TESTS := $(CUDA_TEST_BIN:$(BUILD)/tests/cuda/%=$(KIT_EMULATED)/bin/%)
$(KIT_EMULATED_TESTS): $(KIT_EMULATED)/bin/%: tests/cuda/%.c tests/cuda/gpu.h $(TEST_HELP_OBJ) $(STATIC_LIB) $(KIT_EMULATED)/lib/libsalf-cuda.so
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) -MF $(OBJ)/$(subst /,-,$@).d -Wno-strict-prototypes -I$(EMULATOR_DIR)/include -I$(EMULATOR_DIR) -DSLF_EMULATED \
	    $(call kit_rpath,ORIGIN/../lib:ORIGIN/../../lib) -o $@ $< $(filter %.o,$^) $(STATIC_LIB) -L$(KIT_EMULATED)/lib \
	    -lcuda-emulated $(CHECK_LIBS) $(LIBS)
$(KIT_MEASURES:%=$(KIT_EMULATED)/bin/%): tests/bench/gpu_measure.h $(STATIC_LIB) $(KIT_EMULATED)/lib/libsalf-cuda.so
	@mkdir -p $(@D)
	$(call say,LINK)$(KIT_CXX) -isystem $(EMULATOR_DIR)/include -DSLF_EMULATED $(call kit_rpath,ORIGIN/../lib:ORIGIN/../../lib) \
	    -o $@ $(filter %.cpp,$^) $(STATIC_LIB) -L$(KIT_EMULATED)/lib -lcuda-emulated $(LIBS)

# ---- the folder ------------------------------------------------------------------------------------------------------
$(KIT)/lib/libsalf.so.$(SOVERSION): $(LIB_OBJ) $(VERSION_SCRIPT)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) $(call kit_rpath,ORIGIN) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=$(VERSION_SCRIPT) \
	    -Wl,-Bsymbolic-functions -Wl,-z,defs -o $@ $(LIB_OBJ) $(LIBS)

KIT_PROGRAMS := $(KIT_TESTS) $(KIT_EMULATED_TESTS) $(KIT_MEASURES:%=$(KIT_EMULATED)/bin/%) $(KIT)/lib/libsalf.so.$(SOVERSION)
ifeq ($(CUDA),1)
KIT_PROGRAMS += $(KIT_GPU_TESTS) $(KIT_MEASURES:%=$(KIT)/bin/%) $(KIT)/lib/libsalf-cuda.so
endif

.PHONY: gpu-kit kit-folder test-gpu-kit check-gpu-kit
gpu-kit: ## a folder with all that a machine with a GPU needs to test and to time the GPU backend: build/gpu-kit/
ifeq ($(CUDA),1)
	@$(MAKE) kit-folder
	@echo "$(KIT): $$(du -sm $(KIT) | cut -f1) MB; copy it to a machine with a GPU and start run.sh there"
else
	@echo "the GPU kit needs nvcc (CUDA=1): without it there is no plugin to carry" >&2 && exit 1
endif

kit-folder: $(KIT_PROGRAMS)
	@KIT='$(KIT)' KIT_PYTHONS='$(KIT_PYTHONS)' KIT_WHEELS='$(KIT_WHEELS)' $(SCRIPT_ENV) $(KIT_DIR)/collect.sh $(KIT_PROGRAMS)

# Without a device and without the network: the kit stands on its own, says what is missing, and outlives what hangs.
test-gpu-kit: ## the GPU kit starts where nothing of this project is, and says that there is no device
	@$(MAKE) KIT_PYTHONS= kit-folder
	@KIT='$(KIT)' CUDA='$(CUDA)' $(SCRIPT_ENV) $(RUN) $@ $(KIT_DIR)/test_kit.sh '$(or $(PYTHON),python3) $(KIT_DIR)/test_host_waits.py'

check-gpu-kit: ## all of the kit's tests on the emulated device, in the kit's own layout (minutes)
	@$(MAKE) KIT_PYTHONS= kit-folder
	@OUT='$(BUILD)/gpu-kit-results' $(KIT)/run.sh --emulated
