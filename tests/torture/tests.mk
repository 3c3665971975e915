# Everything below the library and the programs fails in turn, and runs are killed: tests/torture/commands.py and calls.c. Random plans against a
# plain reading: plans.c.
TORTURE := $(BUILD)/tests/torture
SECONDS ?= 600
$(TORTURE)/faults.so: tests/torture/faults.c tests/torture/faults.h | $(STAMP)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(TEST_FLAGS) -fPIC -shared -o $@ $< -ldl
$(TORTURE)/calls: $(OBJ)/tests/torture/calls.o $(OBJ)/tests/torture/faults.o $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -o $@ $^ $(LIBS)
$(TORTURE)/plans: $(OBJ)/tests/torture/plans.o $(STATIC_LIB)
	@mkdir -p $(@D)
	$(call say,LINK)$(LINK) -o $@ $^ $(LIBS)
TORTURE_BIN := $(TORTURE)/calls $(TORTURE)/plans $(TORTURE)/faults.so
COMMANDS = FAULTS=$(TORTURE)/faults.so CALLS=$(OBJ)/tests/torture/calls.o SALF=$(PROGRAM) $(PYTHON) tests/torture/commands.py

.PHONY: torture test-torture mutation
torture: bin $(TORTURE_BIN) ## fail every call of the system, kill runs, damage checkpoints, for SECONDS
	@$(RUN) $@ $(TORTURE)/calls '$(TORTURE)/plans $(shell echo $$(($(SECONDS) / 4)))' \
	    '$(COMMANDS) --seconds $(shell echo $$(($(SECONDS) * 3 / 4)))'
test-torture: bin $(TORTURE_BIN) ## what of it fits a minute: all faults below the library, some below each subcommand, random plans, kills, damaged checkpoints
	@$(RUN) $@ $(TORTURE)/calls '$(TORTURE)/plans 5' '$(COMMANDS) --seconds 18 --each 24 faults kills flips calls'

mutation: ## change one line of the sources at a time and see which suites notice (MUTATION_FLAGS='--only WORD')
	@CC='$(CC)' $(PYTHON) tests/mutation/mutate.py --folder '$(abspath $(BUILD))/mutation' $(MUTATION_FLAGS)
