# Tests of the GPU backend: its logic on a device emulated on the host (test-cuda), and itself on a real one
# (check-gpu).

# ---- the emulated device ---------------------------------------------------------------------------------------------
# #pragma unroll is for nvcc.
EMULATOR_DIR := tests/cuda/emulator
EMULATED_OBJ := $(BUILD)/obj/emulated-$(shell printf '%s' '$(CXX) $(PLUGIN_CXX)' | cksum | cut -d' ' -f1)
EMULATED_FLAGS := $(CXX_WARNINGS) -Wpedantic -Wno-unknown-pragmas -I$(EMULATOR_DIR)/include -MMD -MP
EMULATOR := $(BUILD)/tests/cuda/libcuda-emulated.so
EMULATED := $(BUILD)/tests/cuda/libsalf-cuda-emulated.so
EMULATED_PARTS := $(CUDA_KERNELS:$(CUDA_DIR)/%=$(EMULATED_OBJ)/plugin/%.o) $(CUDA_HOST:$(CUDA_DIR)/%=$(EMULATED_OBJ)/plugin/%.o)

$(EMULATED_OBJ)/plugin/%.o: $(CUDA_DIR)/%
	@mkdir -p $(@D)
	$(call say,CXX,$<)$(CXX) -x c++ $(PLUGIN_CXX) $(EMULATED_FLAGS) -DSLF_EMULATED -c $< -o $@

$(EMULATED_OBJ)/emulator/%.o: $(EMULATOR_DIR)/%.cpp
	@mkdir -p $(@D)
	$(call say,CXX,$<)$(CXX) -std=c++20 $(CFLAGS) $(SANITIZE_FLAGS) -fPIC $(EMULATED_FLAGS) $(patsubst -I%,-isystem%,$(DEPS_CFLAGS)) -c $< -o $@

EMULATOR_OBJ := $(patsubst $(EMULATOR_DIR)/%.cpp,$(EMULATED_OBJ)/emulator/%.o,$(sort $(wildcard $(EMULATOR_DIR)/*.cpp)))
$(EMULATOR): $(EMULATOR_OBJ)
	@mkdir -p $(@D)
	$(call say,LINK)$(CXX) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -shared -Wl,-soname,$(@F) -o $@ $^ $(LIBS)

$(EMULATED): $(EMULATED_PARTS) $(EMULATOR)
	@mkdir -p $(@D)
	$(call say,LINK)$(CXX) $(CFLAGS) $(SANITIZE_FLAGS) $(LDFLAGS) -shared -Wl,-z,nodelete -Wl,--version-script=$(CUDA_DIR)/plugin.map \
	    -o $@ $(EMULATED_PARTS) -L$(@D) -lcuda-emulated -Wl,-rpath,'$$ORIGIN' -lpthread

# ---- tests -----------------------------------------------------------------------------------------------------------
# The parity suite and the tests of handles over the emulated plugin; tests of tests/cuda are linked to the emulator.
CUDA_TEST_BIN := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/cuda/test_*.c)))
CUDA_UNIT ?= basis basis_accuracy basis_ranks basis_file probe scores loss reference_values
CUDA_RUNS = $(foreach t,$(filter $(BUILD)/tests/parity/%,$(TEST_BIN)),'env SALF_TEST_QUICK=1 SALF_TEST_PLUGIN=$(EMULATED) $(t)') \
    $(foreach t,$(CUDA_UNIT),'env SALF_TEST_PLUGIN=$(EMULATED) SALF_TEST_CPU_IS_PLUGIN=1 $(BUILD)/tests/unit/test_$(t)') \
    $(foreach t,$(CUDA_TEST_BIN),'env SALF_TEST_PLUGIN=$(EMULATED) $(t)')
CUDA_NEEDS := $(EMULATED) $(filter $(BUILD)/tests/parity/%,$(TEST_BIN)) $(CUDA_UNIT:%=$(BUILD)/tests/unit/test_%) $(CUDA_TEST_BIN)

$(CUDA_TEST_BIN): $(BUILD)/tests/cuda/%: tests/cuda/%.c $(TEST_HELP_OBJ) $(STATIC_LIB) $(EMULATED)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) -Wno-strict-prototypes -I$(EMULATOR_DIR)/include -I$(EMULATOR_DIR) -DSLF_EMULATED -o $@ $< \
	    $(filter %.o,$^) $(STATIC_LIB) -L$(BUILD)/tests/cuda -lcuda-emulated -Wl,-rpath,'$$ORIGIN' $(CHECK_LIBS) $(LIBS)

OPEN_WITHOUT_DRIVER := $(BUILD)/tests/cuda/open_without_driver
$(OPEN_WITHOUT_DRIVER): tests/cuda/open_without_driver.c $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) -o $@ $< $(STATIC_LIB) $(LIBS)

.PHONY: test-cuda
ifneq ($(shell command -v $(CXX)),)
test-cuda: $(CUDA_NEEDS) $(OPEN_WITHOUT_DRIVER) $(if $(filter 1,$(CUDA)),$(PLUGIN) lib) ## the GPU backend's logic, on a device emulated on the host
	@PLUGIN='$(if $(filter 1,$(CUDA)),$(PLUGIN))' CUDA_HOME='$(CUDA_HOME)' $(SCRIPT_ENV) $(RUN) test-cuda $(CUDA_RUNS) $(sort $(wildcard tests/cuda/check_*.sh))
else
CUDA_NEEDS :=
CUDA_RUNS = 'echo "SKIPPED: $(CXX) is not there, which the emulated device needs"'
test-cuda:
	@$(RUN) test-cuda $(CUDA_RUNS)
endif

# The same tests, and benchmarks, for a real device: built in every run where nvcc is, run by hand where a device is.
GPU_DIR := $(BUILD)/tests/gpu
GPU_TEST_BIN := $(CUDA_TEST_BIN:$(BUILD)/tests/cuda/%=$(GPU_DIR)/%)
GPU_INCLUDE := -isystem $(CUDA_HOME)/include
GPU_LIBS := -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lpthread

$(GPU_TEST_BIN): $(GPU_DIR)/%: tests/cuda/%.c tests/cuda/gpu.h $(TEST_HELP_OBJ) $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) $(GPU_INCLUDE) -o $@ $< $(filter %.o,$^) $(STATIC_LIB) $(GPU_LIBS) $(CHECK_LIBS) $(LIBS)

$(GPU_DIR)/device_count: tests/cuda/device_count.c
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) $(GPU_INCLUDE) -o $@ $< $(GPU_LIBS)

$(BUILD)/bench/bench_gpu: tests/bench/bench_gpu.cpp tests/bench/gpu_measure.h $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(CXX) -std=c++17 $(CFLAGS) $(CXX_WARNINGS) $(GPU_INCLUDE) -Iinclude -o $@ $< $(STATIC_LIB) \
	    $(GPU_LIBS) $(if $(CUDA_RPATH),-Wl$(comma)-rpath$(comma)$(CUDA_RPATH)) $(LIBS)

GPU_NEEDS := $(GPU_TEST_BIN) $(GPU_DIR)/device_count $(BUILD)/bench/bench_gpu
on_device = $(foreach t,$(filter $(BUILD)/tests/parity/%,$(TEST_BIN)),'$(1) tests/cuda/on_device.sh $(PLUGIN) $(GPU_DIR) $(t) $(t:$(BUILD)/%=%).c') \
    $(foreach t,$(GPU_TEST_BIN),'$(1) tests/cuda/on_device.sh $(PLUGIN) $(GPU_DIR) $(t) $(t:$(GPU_DIR)/%=tests/cuda/%).c')

.PHONY: check-gpu check-gpu-sanitized bench-gpu
check-gpu: $(PLUGIN) $(GPU_NEEDS) $(filter $(BUILD)/tests/parity/%,$(TEST_BIN)) ## the GPU backend on a real device
	@$(RUN) check-gpu $(call on_device)

check-gpu-sanitized: $(PLUGIN) $(GPU_NEEDS) $(filter $(BUILD)/tests/parity/%,$(TEST_BIN)) ## the same under compute-sanitizer
	@for tool in memcheck racecheck initcheck; do TEST_TIMEOUT=3600 \
	    $(RUN) check-gpu-$$tool $(call on_device,env "SANITIZER=compute-sanitizer --error-exitcode=9 --tool=$$tool"); done

bench-gpu: lib $(PLUGIN) $(BUILD)/bench/bench_gpu ## time the GPU backend on a real device
	@$(BUILD)/bench/bench_gpu $(PLUGIN)
	@SALF_LIBRARY='$(BUILD)/lib/libsalf.so' PYTHONPATH=bindings/python/src $(or $(PYTHON),python3) tests/bench/peer_torch_gpu.py || true

ifeq ($(CUDA),1)
test-cuda: $(GPU_NEEDS)
endif

include tests/cuda/kit/kit.mk

-include $(wildcard $(EMULATED_OBJ)/*/*.d)
