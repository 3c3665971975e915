#!/bin/bash
# The C++ code in bindings/cpp/README.md compiles and runs without an error: its blocks, in order, become the body of
# one function; what they take for granted of their host stands here.
set -u
document=bindings/cpp/README.md
cxx=${CXX:-g++}
command -v "$cxx" >/dev/null || { echo "SKIPPED: $cxx is not there"; exit 0; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
result() { # status, name
    if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; status=1; sed 's/^/# /' "$work/messages"; fi
}

blocks() { awk '/^```cpp$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$1"; }
before='#include <cstdio>
#include <salf.hpp>
#include <vector>
static int forwards, backwards;
static void layer_forward(int k) { forwards += k + 1; }
static void layer_backward(int, salf::span<const std::int64_t> rows) { backwards += rows.size() == 2; }
static void dequantise(std::int64_t, std::int64_t, float *) {}
static void run() {
    const int m = 3, rows = 2, rank = 0, ranks = 2;
    const std::int64_t width = 4, vocab = 5, step = 0;
    std::vector<float> head(20), states{1, 2, 3, 4, 4, 3, 2, 1};
    for (std::size_t i = 0; i < 20; i++) head[i] = static_cast<float>((i * 7 + 3) % 11) - 4.5f;
    const std::vector<std::int32_t> labels{1, 3}, next_token{3, 1};'
behind='}
int main() {
    run();
    return forwards != 6 || backwards < 1;
}'
build() { # document
    { printf '%s\n' "$before" && blocks "$1" && printf '%s\n' "$behind"; } >"$work/snippet.cpp"
    "$cxx" -std=c++17 -Wall -Wextra -Wno-unused -Wno-unused-parameter -Werror -Iinclude -Ibindings/cpp "$work/snippet.cpp" \
        -L"${BUILD:-build}/lib" -lsalf -o "$work/snippet" >"$work/messages" 2>&1
}

build $document
result $? "the blocks of $document compile"
LD_LIBRARY_PATH=${BUILD:-build}/lib "$work/snippet" >"$work/messages" 2>&1 &&
    grep -q 'SALF_E_NOT_FOUND: .*no/such/folder' "$work/messages"
result $? "the blocks of $document run, and name the folder that is not there"
sed 's/probe.end/probe.gone/' $document >"$work/changed.md"
! build "$work/changed.md"
result $? "a wrong name is found"
exit $status
