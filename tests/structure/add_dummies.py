#!/usr/bin/env python3
"""Adds a slot, a data type, a metric and a policy, in a copy of the tree, and counts the files each of them touches.

    add_dummies.py [--keep FOLDER] [slot | dtype | metric | policy ...]

Each addition is a recipe below: edits of files, as a contributor would make them. At most MOST files of the library and
its header may be touched; what tests must learn of it is counted apart. The copy then builds, with warnings as errors,
and the suites concerned pass: unit and parity tests, the emulated device, and the ABI checks that an addition may not
break. One line a result, in the form tests/run.sh counts. A recipe that no longer fits the sources fails: mend it, and
docs/structure.md, which says the same in words.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

MOST = 4
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")

# Edits (file, pattern that occurs in it, what takes its place); \g<0> is what was found.
SLOT = [
    # its job and its line in the list: table, prototypes and the rows of all tables follow
    ("libsalf/backend/backend.h", r"/\* ---- the slots ---- \*/",
     "/* twice = 2 number. */\n"
     "typedef struct slf_dummy_job {\n    int64_t number;\n    int64_t *twice; /* host */\n} slf_dummy_job;\n\n"
     r"\g<0>"),
    ("libsalf/backend/backend.h", r"(    X\(prefix, score\) +\\\n)", r"\1    X(prefix, dummy) \\" "\n"),
    # the reference, which the cpu backend takes over, and cuda
    ("libsalf/backend/reference/reference.c", r"const slf_backend slf_backend_reference = ",
     "salf_status slf_reference_dummy(void *self, const slf_dummy_job *job) {\n    (void)self;\n"
     "    *job->twice = 2 * job->number;\n    return SALF_OK;\n}\n\n" r"\g<0>"),
    ("libsalf/backend/cuda/memory.cpp", r"salf_status slf_cuda_sync\(",
     "salf_status slf_cuda_dummy(void *, const slf_dummy_job *job) {\n    *job->twice = 2 * job->number;\n"
     "    return SALF_OK;\n}\n\n" r"\g<0>"),
    # its caller
    ("libsalf/model/model.c", r"salf_status salf_model_get_info\([^{]*\{\n(    SLF_REQUIRE\([\w, ]+\);\n)*",
     r"\g<0>" "    int64_t twice = 0;\n    const slf_dummy_job dummy = {.number = 21, .twice = &twice};\n"
     "    SLF_TRY(model->context->backend->dummy(model->context->impl, &dummy));\n"
     '    if (twice != 42) return slf_fail(SALF_E_INTERNAL, "twice 21 is %d", (int)twice);\n'),
    ("tests/parity/staged.c", r"/\* Each call with the next of the four ways",
     "static salf_status staged_dummy(void *self, const slf_dummy_job *job) {\n    return inner->dummy(self, job);\n}\n\n"
     r"\g<0>"),
    ("tests/plugin/recording_plugin.c", r"static void expect_target\(",
     "static void expect_dummy(const slf_dummy_job *job) {\n    (void)job;\n}\n\n" r"\g<0>"),
]  # fmt: skip

# bfloat16 with its bytes exchanged. The parity suite makes and widens its own; files name their types.
DTYPE = [
    ("include/salf.h", r"SALF_I64 = 8\b", r"\g<0>, SALF_DUMMY16 = 9"),
    ("libsalf/core/dtypes.h", r"    X\(SALF_BF16, [^\\]*\\\n", r"\g<0>" '    X(SALF_DUMMY16, "dummy16", 2, slf_dummy16_element) \\\\\n'),
    ("libsalf/core/dtypes.h", r"SLF_WIDENING float slf_f16_element\(",
     "SLF_WIDENING float slf_dummy16_element(const void *row, int64_t i) {\n"
     "    const uint16_t half = ((const uint16_t *)row)[i];\n"
     "    return slf_bf16_to_f32((uint16_t)(half << 8 | half >> 8));\n}\n\n" r"\g<0>"),
    ("libsalf/io/safetensors.c", r'\{"BF16", SALF_BF16, 2\}, ', r'\g<0>{"DUMMY16", SALF_DUMMY16, 2}, '),
    ("tests/parity/parity.c", r"dtypes\[\] = \{SALF_F32, SALF_BF16, SALF_F16\};\n    for \(size_t t = 0; t < 3; t",
     r"dtypes[] = {SALF_F32, SALF_BF16, SALF_F16, SALF_DUMMY16};" "\n    for (size_t t = 0; t < 4; t"),
    ("tests/parity/parity.c", r"    \*half = dtype == SALF_BF16",
     "    if (dtype == SALF_DUMMY16) {\n        const uint16_t plain = harness_to_bf16((float)value);\n"
     "        *half = (uint16_t)(plain << 8 | plain >> 8);\n        return from_bf16(plain);\n    }\n" r"\g<0>"),
]  # fmt: skip

# A cut that goes round the layers.
POLICY = [
    ("include/salf.h", r"SALF_POLICY_RAMP = 16", r"\g<0>,\n    SALF_POLICY_DUMMY = 17"),
    ("libsalf/policy/policy.c", r"static const struct \{[^}]*\} kinds\[\] = \{\n(?= *\[SALF_POLICY_FULL\])",
     "static salf_status decide_dummy(salf_policy *p, const salf_observation *seen) {\n"
     "    slf_policy_suffix(p, (int32_t)(seen->step % p->m));\n    return SALF_OK;\n}\n\n"
     r"\g<0>    [SALF_POLICY_DUMMY] = {decide_dummy, 0}," "\n"),
]  # fmt: skip

# The logarithm of the rank; tests/unit/oracle.c has a brute-force reading of each metric, and the tests run over all.
METRIC = [
    ("include/salf.h", r"SALF_METRIC_RANK = 2", r"\g<0>, SALF_METRIC_DUMMY = 3"),
    ("libsalf/probe/observe.c", r"static const slf_metric metrics\[\] = \{\n",
     "static double dummy_deviation(const salf_probe *probe, int64_t at) {\n"
     "    return log1p((double)probe->results.count[at]);\n}\n\n"
     r"\g<0>    [SALF_METRIC_DUMMY] = {.vocabulary = 1, .sums = SLF_SUM_COUNT, .deviation = dummy_deviation}," "\n"),
    ("tests/unit/oracle.c", r"    case SALF_METRIC_RANK:\n        return rank;\n",
     r"\g<0>" "    case SALF_METRIC_DUMMY:\n        return log1p(rank);\n"),
]  # fmt: skip

RECIPES = {"slot": SLOT, "dtype": DTYPE, "metric": METRIC, "policy": POLICY}
# What is built and run once all are in.
PROGRAMS = ["parity/test_backend", "parity/test_backend_probe", "unit/test_core", "unit/test_device", "unit/test_plugin",
            "unit/test_probe", "unit/test_probe_walks", "unit/test_model", "unit/test_policy", "unit/test_policy_errors",
            "unit/test_policy_golden", "unit/test_policy_ranks", "unit/test_cost", "unit/test_method", "unit/test_tensors",
            "fuzz/fuzz_state"]  # fmt: skip
ABI = ["check_symbols.sh", "check_cffi.py", "check_dialects.sh", "check_lists.py"]


def copy_tree(target):
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        source = os.path.join(ROOT, name)
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(os.path.join(target, name)) or target, exist_ok=True)
            shutil.copy2(source, os.path.join(target, name))
    return listed.returncode == 0


def add(tree, recipe):
    """The files that a recipe touched, and the edits that found no place."""
    touched, lost = [], []
    for name, pattern, replacement in recipe:
        path = os.path.join(tree, name)
        text = ""
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                text = file.read()
        changed, times = re.subn(pattern, replacement, text, count=1)
        if times != 1:
            lost.append(f"{name}: {pattern}")
            continue
        with open(path, "w", encoding="utf-8") as file:
            file.write(changed)
        if name not in touched:
            touched.append(name)
    return touched, lost


class Results:
    def __init__(self):
        self.failed = 0

    def __call__(self, good, name, detail=""):
        self.failed += not good
        print(("ok - " if good else "not ok - ") + name, flush=True)
        if not good and detail:
            print("\n".join("    " + line for line in detail.splitlines()[-60:] if line[:2] != "  "), flush=True)


def ran(command, tree, **more):
    environment = {**os.environ, "MAKEFLAGS": "", **more}
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode == 0, done.stdout


def build_and_run(tree, check):
    jobs = int(os.environ.get("TEST_JOBS") or os.cpu_count())
    make = ["make", "--no-print-directory", f"-j{jobs}", "CUDA=0", "CFLAGS=-O1 -g"]
    make += [f"{name}={os.environ[name]}" for name in ("CC", "CXX") if name in os.environ]
    emulated = "build/tests/cuda/libsalf-cuda-emulated.so"
    programs = [f"build/tests/{name}" for name in PROGRAMS]
    good, said = ran([*make, "lib", *programs, emulated], tree)
    check(good, "the library and its tests build with the additions", said)
    if not good:
        return
    settings = dict(line.split("=", 1) for line in ran([*make, "-s", "print-abi"], tree)[1].splitlines() if "=" in line)
    quick = {"SALF_TEST_QUICK": "1", "CK_DEFAULT_TIMEOUT": "0"}
    runs = [(f"{programs[0]} on the emulated device", [programs[0]], {**quick, "SALF_TEST_PLUGIN": emulated})]
    for program in programs:
        runs.append((program, [program, *(["tests/fuzz/corpus/state"] if "fuzz" in program else [])], quick))
    runs += [(f"tests/abi/{name}", [f"tests/abi/{name}"], settings) for name in ABI]
    with ThreadPoolExecutor(jobs) as pool:
        done = [(name, pool.submit(ran, command, tree, **more)) for name, command, more in runs]
        for name, result in done:
            check(result.result()[0], f"with the additions: {name}", result.result()[1])


def main():
    arguments = sys.argv[1:]
    folder = None
    if arguments[:1] == ["--keep"]:
        folder, arguments = os.path.abspath(arguments[1]), arguments[2:]
    wanted = arguments or list(RECIPES)
    check = Results()
    with tempfile.TemporaryDirectory() as work:
        tree = folder or work
        if not copy_tree(tree):
            print("SKIPPED: additions to a copy of the tree: this is no git checkout")
            return 0
        for name in wanted:
            touched, lost = add(tree, RECIPES[name])
            of_tests = [path for path in touched if path.startswith("tests/")]
            own = [path for path in touched if path not in of_tests]
            check(not lost, f"the recipe of a {name} fits the sources", "\n".join(lost))
            check(len(own) <= MOST, f"a {name} touches {len(own)} files ({', '.join(own)}), and {len(of_tests)} of tests")
        build_and_run(tree, check)
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
