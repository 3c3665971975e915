"""host_waits.py on traces as PyTorch's profiler writes them."""

import gzip
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import host_waits

failed = []


def check(name, good):
    """One result, for tests/run.sh."""
    print(f"{'ok' if good else 'not ok'} - {name}")
    if not good:
        failed.append(name)


def span(name, category, begin, length):
    """An event that takes time."""
    return {"ph": "X", "name": name, "cat": category, "ts": begin, "dur": length, "pid": 1, "tid": 1}


EVENTS = [
    {"ph": "M", "name": "process_name", "pid": 1},
    span("before", "user_annotation", 100, 50),
    span("before", "user_annotation", 300, 50),
    span("before", "gpu_user_annotation", 400, 500),  # where the device did it: no time of the host's
    span("cudaStreamSynchronize", "cuda_runtime", 90, 5),
    span("cudaLaunchKernel", "cuda_runtime", 101, 5),
    span("cudaEventSynchronize", "cuda_runtime", 160, 5),
    span("cudaMemcpyAsync", "cuda_runtime", 310, 5),
    span("cudaStreamSynchronize", "kernel", 320, 5),
    span("cudaStreamSynchronize", "cuda_runtime", 350, 5),
    span("cudaStreamSynchronize", "cuda_runtime", 450, 5),
]
check("waits before and behind a range are none of it", host_waits.waits_in(EVENTS, "before") == ([], 2))
for call, category in (
    ("cudaStreamSynchronize", "cuda_runtime"),
    ("cuEventSynchronize", "cuda_driver"),
    ("cudaFree", "cuda_runtime"),
):
    found = host_waits.waits_in([*EVENTS, span(call, category, 349, 50)], "before")
    check(f"{call} inside the second range is found", found == ([call], 3))
check("a range that is not there has no calls", host_waits.waits_in(EVENTS, "other") == ([], 0))
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "trace.json.gz")
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump({"traceEvents": EVENTS}, file)
    check("a packed trace is read", host_waits.read(path) == EVENTS)
sys.exit(len(failed) > 0)
