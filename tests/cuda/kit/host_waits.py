"""Where the host waited for the device, by a trace of PyTorch's profiler (Chrome's format)."""

import gzip
import json

#: Calls of the CUDA runtime and the driver that return when the device has come so far. A copy of memory that is
#: not page-locked waits by the call after it.
WAITS = frozenset((
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMemcpy2D",
    "cudaMemset", "cudaFree", "cudaFreeHost", "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize",
    "cuMemcpyDtoH_v2", "cuMemcpyHtoD_v2", "cuMemFree_v2",
))  # fmt: skip
CALLS = frozenset(("cuda_runtime", "cuda_driver"))


def read(path):
    """The trace's events."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        return json.load(file)["traceEvents"]


def ranges(events, name):
    """[(begin, end)] of a record_function of the host, in order."""
    found = [
        e
        for e in events
        if e.get("ph") == "X" and e.get("cat") in ("user_annotation", "cpu_op") and e.get("name") == name
    ]
    return sorted((e["ts"], e["ts"] + e["dur"]) for e in found)


def waits_in(events, name):
    """Names of the waiting calls that began inside the ranges of a record_function, and how many calls there were.

    The number tells whether the profiler saw the host's calls: of none, "no wait" would say nothing."""
    spans = ranges(events, name)
    calls = [e for e in events if e.get("ph") == "X" and e.get("cat") in CALLS]
    inside = [e for e in calls if any(begin <= e["ts"] < end for begin, end in spans)]
    return sorted(e["name"] for e in inside if e["name"] in WAITS), len(inside)
