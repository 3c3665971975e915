# Everything below the library and the programs fails in turn, and runs are killed: tests/torture/commands.py and calls.c.
TORTURE := $(BUILD)/tests/torture
SECONDS ?= 600
$(TORTURE)/faults.so: tests/torture/faults.c tests/torture/faults.h | $(STAMP)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) -fPIC -shared -o $@ $< -ldl
$(TORTURE)/calls: $(OBJ)/tests/torture/calls.o $(OBJ)/tests/torture/faults.o $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -o $@ $^ $(LIBS)
TORTURE_BIN := $(TORTURE)/calls $(TORTURE)/faults.so
COMMANDS = FAULTS=$(TORTURE)/faults.so CALLS=$(OBJ)/tests/torture/calls.o SALF=$(PROGRAM) $(PYTHON) tests/torture/commands.py

.PHONY: torture test-torture
torture: bin $(TORTURE_BIN) ## fail every call of the system, kill runs, damage checkpoints, for SECONDS
	@$(RUN) $@ $(TORTURE)/calls '$(COMMANDS) --seconds $(SECONDS)'
test-torture: bin $(TORTURE_BIN) ## the same in half a minute
	@$(RUN) $@ $(TORTURE)/calls '$(COMMANDS) --seconds 25'
