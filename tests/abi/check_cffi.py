#!/usr/bin/env python3
"""salf.h as a program that is not a C compiler sees it: cffi parses it, calls the library, and every public constant
is known to salf_constant by name."""

import os
import sys

from header import Checks, constants, functions, preprocessed

try:
    import cffi
except ImportError:
    print("skip - cffi is not there")
    sys.exit(0)

check = Checks()
text = preprocessed()
ffi = cffi.FFI()
ffi.cdef(text)
check(True, "cffi parses the header")
library = ffi.dlopen(os.path.join(os.environ.get("BUILD", "build"), "lib", os.environ["SONAME"]))
lacking = [name for name in functions(text) if not hasattr(library, name)]
check(not lacking, "every function is found in the library", lacking)

number = library.salf_version_number()
version = ffi.string(library.salf_version_string()).decode()
major, minor, patch = (int(part) for part in version.split("."))
check(number == major * 10000 + minor * 100 + patch, "version number and text agree", (number, version))
check(version == os.environ["VERSION"], "the library's version is the header's", (version, os.environ["VERSION"]))

known = constants(text)
check(len(known) > 100, "constants were read from the header", len(known))
wrong = []
for name, value in known.items():
    out = ffi.new("int64_t *", 1 << 40)
    if library.salf_constant(name.encode(), out) != 0 or out[0] != value:
        wrong.append(name)
check(not wrong, "salf_constant knows every constant and its value", wrong)
out = ffi.new("int64_t *", 77)
unknown = library.salf_constant(b"SALF_NO_SUCH_THING", out)
check(unknown == known["SALF_E_NOT_FOUND"] and out[0] == 77, "salf_constant refuses an unknown name", unknown)
message = ffi.string(library.salf_last_error()).decode()
check("SALF_NO_SUCH_THING" in message, "and its message names it", message)

statuses = {name: value for name, value in known.items() if name == "SALF_OK" or name.startswith("SALF_E_")}
check(len(set(statuses.values())) == len(statuses), "no two statuses share a value")
names = {name: ffi.string(library.salf_status_name(value)).decode() for name, value in statuses.items()}
wrong = [name for name in statuses if names[name] != name]
check(not wrong, "every status has its name", wrong)
texts = [ffi.string(library.salf_status_text(value)).decode() for value in statuses.values()]
check(all(texts) and len(set(texts)) == len(texts), "every status has a text of its own")
check(ffi.string(library.salf_status_name(-12345)) == b"SALF_E_UNKNOWN", "a number that is no status is named unknown")
sys.exit(check.status())
