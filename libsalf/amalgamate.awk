# Writes the library as one file. Arguments: names of the sources; -v version=, -v constants= (the table of constants).
#
# Headers come first, each once, in the order in which they are needed; then the sources without their includes. Names
# that a source has for itself, its macros and constants of enum, may stand in another one too: macros are undefined at
# its end, and constants are renamed while it lasts.

function folder(file) { return match(file, /.*\//) ? substr(file, 1, RLENGTH) : "" }
function exists(file,   line, there) { there = (getline line < file) >= 0; close(file); return there }
function normal(file) { while (sub(/[^\/]+\/\.\.\//, "", file)) {} return file }

# The file that a line #include "name" of `from` means; "" for one that is not ours.
function resolved(name, from,   file) {
    if (name == "constants.inc") return constants
    if (name == "salf.h") return ""
    file = normal(folder(from) name)
    if (exists(file)) return file
    return exists("libsalf/" name) ? "libsalf/" name : ""
}

# Everything that a file includes, before the file itself; of a header its text as well.
function headers(file,   line, name, n, lines, i, target) {
    if (file in seen) return
    seen[file] = 1
    n = 0
    while ((getline line < file) > 0) lines[++n] = line
    close(file)
    for (i = 1; i <= n; i++)
        if (match(lines[i], /^#include "[^"]+"/)) {
            name = substr(lines[i], RSTART + 10, RLENGTH - 11)
            target = resolved(name, file)
            if (target != "" && target != constants) headers(target)
        }
    if (file !~ /\.h$/) return
    print "\n/* ======== " file " ======== */"
    for (i = 1; i <= n; i++)
        if (lines[i] !~ /^#include "/) print lines[i]
}

# What a source has for itself.
function own_names(file,   line, rest, name, inside) {
    n_macros = n_constants = 0
    inside = 0
    while ((getline line < file) > 0) {
        if (match(line, /^#define [A-Za-z][A-Za-z_0-9]*/)) macros[++n_macros] = substr(line, 9, RLENGTH - 8)
        if (line ~ /^enum \{/) inside = 1
        if (!inside) continue
        rest = line
        gsub(/\/\*.*/, "", rest)
        sub(/^enum \{/, "", rest)
        while (match(rest, /[A-Z][A-Z_0-9]*( = [^,}]*)?[,} ]*/)) { # a name, and the rest up to the next
            name = substr(rest, RSTART, RLENGTH)
            rest = substr(rest, RSTART + RLENGTH)
            match(name, /^[A-Z][A-Z_0-9]*/)
            constants_of[++n_constants] = substr(name, 1, RLENGTH)
        }
        if (line ~ /\}/) inside = 0
    }
    close(file)
}

function source(file,   line, i, prefix, name, in_include) {
    own_names(file)
    prefix = file
    sub(/^libsalf\//, "", prefix)
    sub(/\.c$/, "", prefix)
    gsub(/[^A-Za-z0-9]/, "_", prefix)
    print "\n/* ======== " file " ======== */"
    for (i = 1; i <= n_constants; i++) print "#define " constants_of[i] " " prefix "_" constants_of[i]
    while ((getline line < file) > 0) {
        if (line ~ /^#include </ || line ~ /^#define _(GNU|DEFAULT)_SOURCE/) { print line ~ /</ ? line : ""; continue }
        if (match(line, /^#include "[^"]+"/)) {
            if (resolved(substr(line, RSTART + 10, RLENGTH - 11), file) != constants) continue
            while ((getline line < constants) > 0) print line
            close(constants)
            continue
        }
        print line
    }
    close(file)
    for (i = 1; i <= n_constants; i++) print "#undef " constants_of[i]
    for (i = 1; i <= n_macros; i++) print "#undef " macros[i]
}

BEGIN {
    print "/*\n * salf.c - libsalf " version " in one file, made by `make amalgamation`; salf.h is beside it. MIT licence, see\n" \
        " * below.\n *\n" \
        " *   cc -O2 -c salf.c        and link with -lm, and with -pthread unless you compile with -DSALF_NO_THREADS\n *\n" \
        " * Everything but checkpoint files and the GPU backend. Linear algebra is its own; -DSALF_CBLAS takes any library\n" \
        " * with CBLAS and LAPACK instead. Not for -ffast-math.\n */"
    print "#ifdef __cplusplus\n#error \"salf.c is C11; compile it as C and include salf.h from C++\"\n#endif"
    print "#ifndef _GNU_SOURCE\n#define _GNU_SOURCE\n#endif\n#define __USE_MINGW_ANSI_STDIO 1"
    print "#ifndef SALF_CBLAS\n#define SALF_PLAIN_BLAS\n#endif\n#define SALF_NO_PLUGIN\n"
    while ((getline line < "LICENSE") > 0) print line == "" ? "//" : "// " line
    print "\n#include \"salf.h\""
    # Functions of a header may serve sources that are left out; clang tells of these where the header is no file of its own.
    print "\n#ifdef __clang__\n#pragma clang diagnostic push\n#pragma clang diagnostic ignored \"-Wunused-function\"\n#endif"
    for (i = 1; i < ARGC; i++) headers(ARGV[i])
    print "\n#ifdef __clang__\n#pragma clang diagnostic pop\n#endif"
    for (i = 1; i < ARGC; i++) source(ARGV[i])
}
