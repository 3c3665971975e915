/* constants.c - the constants of salf.h by name, and the words of their families.
 *
 * The table is made from the header when the library is built (constants.awk), so that no constant is typed twice. */
#include <inttypes.h>
#include <string.h>

#include "core/core.h"

typedef struct slf_constant {
    const char *name; /* as salf.h has it */
    const char *lower;
    int64_t value;
} slf_constant;

static const slf_constant constants[] = {
#include "constants.inc"
};

enum { N_CONSTANTS = sizeof constants / sizeof *constants };

/* Not tolower(): that follows the locale of the process, which belongs to the host. */
static char lower_case(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Length of family where the constant's name begins with it and a '_', else 0. Case does not count. */
static size_t family_prefix(const slf_constant *constant, const char *family) {
    size_t n = 0;
    while (family[n] && lower_case(family[n]) == constant->lower[n]) n++;
    return !family[n] && constant->lower[n] == '_' ? n : 0;
}

salf_status salf_constant(const char *name, int64_t *value) {
    SLF_REQUIRE(name, value);
    for (size_t i = 0; i < N_CONSTANTS; i++) {
        size_t n = 0;
        while (name[n] && lower_case(name[n]) == constants[i].lower[n]) n++;
        if (name[n] || constants[i].lower[n]) continue;
        *value = constants[i].value;
        return SALF_OK;
    }
    return SLF_FAIL(SALF_E_NOT_FOUND, "no constant is called '%s'", name);
}

const char *salf_constant_word(const char *family, int64_t value) {
    for (size_t i = 0; family && i < N_CONSTANTS; i++) {
        /* numbers first: all names begin alike, and every call that makes a handle looks up some words */
        const size_t n = constants[i].value == value ? family_prefix(&constants[i], family) : 0;
        if (n) return constants[i].lower + n + 1;
    }
    return NULL;
}

/* Words that do not fit the message are left out; the longest family that is checked takes some 150 bytes. */
salf_status slf_check_word(const char *field, const char *family, int64_t value) {
    if (salf_constant_word(family, value)) return SALF_OK;
    char known[256] = "";
    for (size_t i = 0; i < N_CONSTANTS; i++) {
        const size_t n = family_prefix(&constants[i], family);
        if (n) slf_list_word(known, sizeof known, ", ", constants[i].name + n + 1);
    }
    return slf_fail(SALF_E_ARGUMENT, "%s is %" PRId64 ", which is none of %s_... (%s)", field, value, family, known);
}
