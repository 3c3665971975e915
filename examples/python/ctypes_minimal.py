"""libsalf from ctypes alone, without the package: a plan, its counts and its saving, and how an error reads.

python3 examples/python/ctypes_minimal.py build/lib/libsalf.so
"""

import ctypes
import sys

lib = ctypes.CDLL(sys.argv[1] if len(sys.argv) > 1 else "libsalf.so.1")
lib.salf_last_error.restype = ctypes.c_char_p
LAYERS, DATA, GROWTH_ARITHMETIC = 12, 2000, ctypes.c_int64()


class PlannerOptions(ctypes.Structure):
    """The beginning of salf_planner_options: a struct may be shorter than it is, by whole steps of 8 bytes."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("growth", ctypes.c_int32),
        ("infill", ctypes.c_int32),
        ("matching", ctypes.c_int32),
    )


def check(status):
    """Raises what the library says when a call failed."""
    if status != 0:
        raise RuntimeError(lib.salf_last_error().decode())


check(lib.salf_constant(b"SALF_GROWTH_ARITHMETIC", ctypes.byref(GROWTH_ARITHMETIC)))
context, planner = ctypes.c_void_p(), ctypes.c_void_p()
check(lib.salf_context_create(ctypes.byref(context), None))
options = PlannerOptions(ctypes.sizeof(PlannerOptions), GROWTH_ARITHMETIC.value)
check(lib.salf_planner_create(ctypes.byref(planner), context, LAYERS, ctypes.c_int64(DATA), ctypes.byref(options)))
counts, saving = (ctypes.c_int64 * LAYERS)(), ctypes.c_double()
check(lib.salf_planner_counts(planner, counts))
check(lib.salf_planner_saving(planner, ctypes.byref(saving)))
print(f"data per layer {list(counts)}, saving {saving.value:.3f}")
try:
    check(lib.salf_planner_create(ctypes.byref(ctypes.c_void_p()), context, 0, ctypes.c_int64(DATA), None))
except RuntimeError as error:
    print("no layers:", error)
lib.salf_planner_destroy(planner)
lib.salf_context_destroy(context)
