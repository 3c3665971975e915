# Documents: the API reference, the site, what is installed beside the program, and the checks before a release.
.PHONY: docs site install-doc uninstall-doc release
docs: ## the API reference, in build/docs/
	@mkdir -p $(BUILD)/docs
	@$(or $(PYTHON),python3) docs/generate_reference.py include/salf.h $(BUILD)/docs

MKDOCS ?= mkdocs
site: docs ## the documents as a site, in build/site/ (MkDocs; REPOSITORY=URL for links to files)
	@command -v $(firstword $(MKDOCS)) >/dev/null || { echo "mkdocs is missing: apt install mkdocs, or pip install mkdocs" >&2; exit 1; }
	@$(or $(PYTHON),python3) docs/make_site.py $(BUILD)/docs/reference.md $(BUILD)/site-source
	@$(MKDOCS) build --quiet --strict --config-file $(BUILD)/site-source/mkdocs.yml --site-dir '$(abspath $(BUILD))/site'
	@echo "$(BUILD)/site/index.html"

install: install-doc
uninstall: uninstall-doc
datadir ?= $(prefix)/share
DEMO_FILES := $(wildcard examples/demo/tokenizer.bin examples/demo/model/* examples/demo/data/*)
install-doc: $(PROGRAM) ## manual page, completions, licence, and the demonstration that `salf finetune` runs by default
	install -d '$(DESTDIR)$(datadir)/man/man1' '$(DESTDIR)$(datadir)/bash-completion/completions' \
	    '$(DESTDIR)$(datadir)/fish/vendor_completions.d'
	umask 022; $(PROGRAM) man >'$(DESTDIR)$(datadir)/man/man1/salf.1'
	umask 022; $(PROGRAM) completion bash >'$(DESTDIR)$(datadir)/bash-completion/completions/salf'
	umask 022; $(PROGRAM) completion fish >'$(DESTDIR)$(datadir)/fish/vendor_completions.d/salf.fish'
	install -D -m 644 -t '$(DESTDIR)$(datadir)/doc/salf' LICENSE README.md CHANGELOG.md
	for file in $(DEMO_FILES:examples/demo/%=%); do \
	    install -D -m 644 examples/demo/$$file '$(DESTDIR)$(datadir)/salf/demo/'$$file || exit 1; done
uninstall-doc: # with uninstall
	rm -rf '$(DESTDIR)$(datadir)/salf' '$(DESTDIR)$(datadir)/doc/salf'
	rm -f $(patsubst %,'$(DESTDIR)$(datadir)/%',man/man1/salf.1 bash-completion/completions/salf fish/vendor_completions.d/salf.fish)

release: ## what has to be true before a version is tagged; names what is not
	@VERSION=$(VERSION) SOVERSION=$(SOVERSION) BUILD=$(BUILD) docs/check_release.sh
