# Wheels for an index, in $(BUILD)/wheels/dist: made by wheels/build.sh, which says how, and tested by wheels/check.sh in a
# plain environment and in other distributions. Not part of `make test`: they need what is not installed everywhere.

WHEEL_SUITES ?= bullseye
.PHONY: wheels
wheels: ## a wheel for every Linux with glibc 2.28, with all it needs; tested here and in WHEEL_SUITES= of Debian
	@rm -rf $(BUILD)/wheels/dist
	@$(SCRIPT_ENV) JOBS=$(JOBS) bindings/python/wheels/build.sh $(BUILD)/wheels/dist
	@$(SCRIPT_ENV) $(RUN) $@ $(foreach s,$(WHEEL_SUITES),'bindings/python/wheels/check.sh $(BUILD)/wheels/dist/salf-*.whl $(s)')
	@echo $(BUILD)/wheels/dist/*.whl
