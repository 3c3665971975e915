#!/usr/bin/env python3
"""Prints layout.c: sizes and offsets of the public structs of salf.h on 64-bit machines, as assertions."""

import sys

import cffi

from header import preprocessed, structs

ffi = cffi.FFI()
ffi.cdef(preprocessed())
if ffi.sizeof("void *") != 8:
    sys.exit("the layout is that of 64-bit machines; write it on one")
print(
    """/*
 * layout.c - sizes and offsets of the public structs on machines with 64-bit pointers. Compiling it is the test.
 *
 * Written by write_layout.py when the ABI is extended or broken (make abi-baseline); a line that changes without a new
 * SALF_SOVERSION breaks programs that are already built. Structs that begin with struct_size may grow at their end.
 */
#include <salf.h>
#include <stddef.h>

#if UINTPTR_MAX == 0xffffffffffffffffu
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")
#define SIZE(type, size)        _Static_assert(sizeof(type) == (size), #type " changed its size")
#define GROWS(type, size)       _Static_assert(sizeof(type) >= (size), #type " shrank")"""
)
for name, kind in structs(ffi):
    growing = kind.fields[0][0] == "struct_size"
    print(f"\n{'GROWS' if growing else 'SIZE'}({name}, {ffi.sizeof(kind)});")
    for field, where in kind.fields:
        print(f"AT({name}, {field}, {where.offset});")
print("#endif\n\nint main(void) {\n    return 0;\n}")
