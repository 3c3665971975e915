# Which models of transformers salf is right about. CONFORMANCE_PYTHON is one that has PyTorch, transformers and cffi;
# results are kept in build/conformance, so that a run that was broken off goes on (CONFORMANCE_FLAGS='--again
# refused,unbuilt').
CONFORMANCE_PYTHON ?= $(shell for p in python3 /usr/bin/python3; do $$p -c 'import torch, transformers, cffi' 2>/dev/null && echo $$p && break; done)
.PHONY: conformance
conformance: lib ## check salf on every causal language model of the installed transformers; writes docs/conformance.md
	@test -n '$(CONFORMANCE_PYTHON)' || { echo 'no Python with PyTorch, transformers and cffi: set CONFORMANCE_PYTHON' >&2; exit 1; }
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 HF_HUB_OFFLINE=1 SALF_LIBRARY='$(abspath $(BUILD))/lib/libsalf.so' \
	    PYTHONPATH=bindings/python/src $(CONFORMANCE_PYTHON) -W ignore tests/conformance/run.py \
	    --results $(BUILD)/conformance --table docs/conformance.md --jobs $(JOBS) $(CONFORMANCE_FLAGS)
