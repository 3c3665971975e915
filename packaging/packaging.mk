# Packages: those of Debian are built here, what the others read lies in its folder.
.PHONY: deb test-packages
deb: ## packages for Debian and Ubuntu, in build/deb/ (needs dpkg-dev, debhelper, dh-python and what they name)
	@VERSION=$(VERSION) SOVERSION=$(SOVERSION) BUILD=$(BUILD) packaging/make_deb.sh

# Not part of `make test`: each builds everything once more.
test-packages: ## packages for Debian, asked by lintian and unpacked, and the recipe for Conan; skipped without their tools
	@$(SCRIPT_ENV) SOVERSION=$(SOVERSION) $(RUN) $@ $(sort $(wildcard tests/packages/*.sh))
