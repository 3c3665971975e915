#!/usr/bin/env python3
"""Prints a C file that defines every function of a salf.h with an empty body, for checks of the ABI comparison."""

import re
import sys

import header

header.HEADER = sys.argv[1]
text = re.sub(r"\{[^{}]*\}", "", header.preprocessed())
print("#include <salf.h>")
for declaration in (" ".join(part.split()) for part in text.split(";")):
    if re.match(r"^(?!typedef\b)[\w\s*]*?\bsalf_\w+\s*\(", declaration):
        returns_nothing = re.match(r"^void [a-z]", declaration)
        print(declaration, "{" + ("" if returns_nothing else " return 0; ") + "}")
