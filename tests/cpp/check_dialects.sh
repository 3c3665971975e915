#!/bin/bash
# salf.hpp compiles without a warning in every dialect hosts are written in, whole: each class in each style. Files of
# different dialects go together in one program.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
flags=(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Werror -Iinclude -Ibindings/cpp)

report() { # name, status of the compiler
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; fi
}

classes='context tensors model basis basis_builder probe signal loss planner policy'
{
    printf '#include <salf.hpp>\n#include <salf.hpp>\n'
    for class in $classes; do printf 'template class salf::basic_%s<salf::returning>;\n' "$class"; done
    echo '#ifdef __cpp_exceptions'
    for class in $classes; do printf 'template class salf::basic_%s<salf::throwing>;\n' "$class"; done
    printf '#endif\nint main() { return 0; }\n'
} >"$work/whole.cpp"
for compiler in g++ clang++; do
    for dialect in c++17 c++20 c++2b 'c++17 -fno-exceptions -fno-rtti'; do
        command -v $compiler >/dev/null || { echo "skip - $compiler is not there: $dialect"; continue; }
        # shellcheck disable=SC2086
        $compiler -std=$dialect "${flags[@]}" -fsyntax-only "$work/whole.cpp"
        report "$compiler -std=$dialect" $?
    done
done

# The classes of the list are all there are.
found=$(sed -n 's/^class basic_\([a-z_]*\).*/\1/p; s/^template <class Errors> class basic_\([a-z_]*\) : public detail.*/\1/p' \
    bindings/cpp/salf.hpp | sort | tr '\n' ' ')
[ "$found" = "$(tr ' ' '\n' <<<"$classes" | sort | tr '\n' ' ')" ]
report "every handle class is compiled: $found" $?

cxx=${CXX:-g++}
command -v "$cxx" >/dev/null || { echo "skip - $cxx is not there: programs of two dialects"; exit $status; }
for half in first second; do
    printf '#include <salf.hpp>\nint %s();\nint %s() {\n' $half $half
    printf '    const auto made = salf::results::planner::create(*salf::results::context::create(), 2, 4);\n'
    printf '    return made && made->saving().value_or(0) == 0.25 ? 1 : 0;\n}\n'
done | csplit -s -f "$work/half" - '/^#include/' '{*}'
printf 'int first();\nint second();\nint main() { return first() + second() == 2 ? 0 : 1; }\n' >"$work/main.cpp"
"$cxx" -std=c++17 -c -x c++ "${flags[@]}" "$work/half01" -o "$work/first.o" &&
    "$cxx" -std=c++20 -fno-exceptions -fno-rtti -c -x c++ "${flags[@]}" "$work/half02" -o "$work/second.o" &&
    "$cxx" "$work/main.cpp" "$work/first.o" "$work/second.o" -L"${BUILD:-build}/lib" -lsalf -o "$work/both" &&
    LD_LIBRARY_PATH=${BUILD:-build}/lib "$work/both"
report "a program of two dialects" $?

printf '#include <salf.hpp>\nint main() { const auto a = salf::context::create(); auto b = a; return !b; }\n' >"$work/copy.cpp"
! "$cxx" -std=c++17 "${flags[@]}" -fsyntax-only "$work/copy.cpp" 2>/dev/null
report "a handle cannot be copied" $?
printf '#include <salf.hpp>\nint main() { salf::model_options o; o.set_head_rows([](int64_t, int64_t, float *) { return true; }); }\n' \
    >"$work/callback.cpp"
"$cxx" -std=c++17 "${flags[@]}" -fsyntax-only "$work/callback.cpp" 2>&1 | grep -q 'a callback returns void, int32_t'
report "a callback that returns something else is told what it may return" $?
exit $status
