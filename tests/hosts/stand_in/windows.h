/*
 * windows.h of the stand-ins - what the unit tests use of POSIX and MinGW's C library lacks. Given to the compiler by
 * -include, before all else.
 */
#ifndef SALF_STAND_IN_WINDOWS_H
#define SALF_STAND_IN_WINDOWS_H

#include <direct.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

/* harness.c frees what this gives by _aligned_free. */
static inline int posix_memalign(void **out, size_t align, size_t size) {
    *out = _aligned_malloc(size, align);
    return *out ? 0 : ENOMEM;
}
static inline char *realpath(const char *path, char *out) {
    return _fullpath(out, path, 260);
}
static inline char *mkdtemp(char *path) {
    return _mktemp(path) && _mkdir(path) == 0 ? path : NULL;
}
static inline int setenv(const char *name, const char *value, int over) {
    return over || !getenv(name) ? _putenv_s(name, value) : 0;
}
static inline int unsetenv(const char *name) {
    return _putenv_s(name, "");
}

#endif
