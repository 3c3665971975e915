# `make evidence`: the runs behind docs/evidence.md, some hours of two cores, resumable. SMOLLM2 names a folder of
# SmolLM2-135M in Hugging Face form; without it the small model runs alone. EVIDENCE_FLAGS: see evidence.py.
.PHONY: evidence
evidence: bin ## runs that show whether freezing pays, and their tables (hours; SMOLLM2=FOLDER, EVIDENCE_FLAGS)
	@SALF=$(PROGRAM) RUNS=$(BUILD)/evidence $(or $(PYTHON),python3) tests/evidence/evidence.py run --jobs $(JOBS) $(EVIDENCE_FLAGS)
	@SALF=$(PROGRAM) RUNS=$(BUILD)/evidence $(or $(PYTHON),python3) tests/evidence/evidence.py table
