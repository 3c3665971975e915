# Prints an initialiser for every public constant of salf.h, in its order: {"NAME", "name in lower case", NAME}.
# Names that end in _ are private.

function constant(name) {
    if (name !~ /_$/) printf "{\"%s\", \"%s\", %s},\n", name, tolower(name), name
}

/^#define SALF_[A-Z0-9_]+ +-?[0-9]+/ { constant($2) }

/^    X\(SALF_/ { # a line of SALF_STATUS_LIST
    sub(/^    X\(/, "")
    sub(/,.*/, "")
    constant($0)
}

/^enum \{/ && !/SALF_STATUS_LIST/ { inside = 1 }
inside {
    text = $0
    gsub(/\/\*.*/, "", text) # a comment takes the rest of the line
    while (match(text, /SALF_[A-Z0-9_]+ = /)) {
        constant(substr(text, RSTART, RLENGTH - 3))
        text = substr(text, RSTART + RLENGTH)
    }
    if (/\}/) inside = 0
}
