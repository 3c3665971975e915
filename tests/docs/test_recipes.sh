#!/bin/bash
# The recipes of packaging/ tell the version of salf.h, and what they name is there.
set -u
: "${VERSION:?}"
python=${PYTHON:-python3}
status=0
report() { if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; fi; }
"$python" - "$VERSION" <<'END_OF_PYTHON'
import json, re, sys

version, failed = sys.argv[1], 0


def check(name, good):
    global failed
    print("ok" if good else "not ok", "-", name)
    failed |= not good


def text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


header = text("include/salf.h")
port = json.loads(text("packaging/vcpkg/libsalf/vcpkg.json"))
check(f"the port of vcpkg has version {port['version']}, salf.h {version}", port["version"] == version)
check("its features are those of its portfile", set(port["features"]) == {"blas", "files"} and all(
    feature in text("packaging/vcpkg/libsalf/portfile.cmake") for feature in port["features"]))
recipe = text("packaging/conda/meta.yaml")
pattern = re.search(r"regex_pattern='([^']*)'", recipe).group(1).replace("\\n", "\n")
found = re.search(pattern, header)
check("the recipe for conda reads the version of salf.h", found and ".".join(found.groups()) == version)
check("and names no other", not re.search(r"version: *[0-9]", recipe))
conan = text("packaging/conan/conanfile.py")
compile(conan, "conanfile.py", "exec")
pattern = re.search(r're.findall\(r"([^"]*)"', conan).group(1)
check("the recipe for Conan reads the version of salf.h", ".".join(re.findall(pattern, header, re.MULTILINE)) == version)
sys.exit(failed)
END_OF_PYTHON
[ $? -eq 0 ] || status=1
! grep -rqF "$VERSION" packaging/debian packaging/conan
report "the packages of Debian and Conan have no version of their own" $?
options=$(sed -n 's/.*-D\(SALF_[A-Z]*\).*/\1/p; s/.*FEATURES files \(SALF_[A-Z]*\).*/\1/p; s/.*cache_variables\["\(SALF_[A-Z]*\)"\].*/\1/p' \
    packaging/vcpkg/libsalf/portfile.cmake packaging/conan/conanfile.py | sort -u)
missing=$(for option in $options; do grep -q "$option" CMakeLists.txt || echo "$option"; done)
[ -n "$options" ] && [ -z "$missing" ]
report "CMakeLists.txt knows the options that recipes set${missing:+, but not $missing}" $?
exit $status
