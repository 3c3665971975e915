#!/bin/bash
# Four ranks over Open MPI: the example beside the public header, and ranks of which one is odd. Skipped, aloud, where
# there is no mpicc.
set -u
if ! command -v mpicc >/dev/null || ! command -v mpirun >/dev/null; then
    echo "SKIPPED: ranks over MPI, mpicc or mpirun is not there"
    exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
library=$(realpath "${BUILD:-build}/lib")
status=0
result() { # status, name
    if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; status=1; sed 's/^/# /' "$work/output"; fi
}

# On one machine with fewer processors than ranks, in a container, as root: none of it is Open MPI's default.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_btl=self,vader OMPI_MCA_mpi_yield_when_idle=1
export OPENBLAS_NUM_THREADS=1

run() { # source, ranks, words of the output, argument of the program
    OMPI_CC=${CC:-gcc} mpicc -std=c11 -Wall -Wextra -Werror -Iinclude -o "$work/program" "$1" -L"$library" -lsalf \
        -Wl,-rpath,"$library" >"$work/output" 2>&1
    result $? "$1 compiles"
    mpirun -n "$2" "$work/program" ${4:-} >"$work/output" 2>&1
    result $? "$1 on $2 ranks"
    grep -q "$3" "$work/output"
    result $? "$1 on $2 ranks: $3"
}

run examples/06_mpi.c 4 '4 ranks, 90 data in 3 steps: as planned'
run examples/06_mpi.c 3 '3 ranks, 90 data in 4 steps: as planned'
run examples/06_mpi.c 1 '1 ranks, 90 data in 12 steps: as planned'
# Algorithm 4: whatever the ranks, one line
for matching in online full; do
    for ranks in 1 2 3 4; do
        run tests/mpi/shared_plan.c $ranks 'data trained once' $matching
        sort -u "$work/output" >>"$work/$matching"
    done
    [ "$(sort -u "$work/$matching" | wc -l)" = 1 ]
    result $? "$matching: the same plan on 1, 2, 3 and 4 ranks"
done
grep -q '^9 steps' "$work/full"
result $? "full batches: 100 data in 9 steps of 12"
run tests/mpi/odd_ranks.c 4 'labels: SALF_E_MISMATCH: the ranks differ in how many different labels'
for words in 'reductions: SALF_E_MISMATCH: the ranks differ in reduction' \
    'seeds: SALF_E_MISMATCH: the ranks differ in seed' 'failure: SALF_E_MISMATCH: rank 3 failed with SALF_E_IO'; do
    grep -q "$words" "$work/output"
    result $? "$words"
done
exit $status
