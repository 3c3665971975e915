/*
 * plugin.c - opens the device backend with dlopen: from an absolute path that the host gives, or from beside libsalf.
 *
 * A plugin is code that runs with the host's rights, so where it comes from is the host's decision. No part of its path
 * is taken from argv[0], the working directory or the environment: who starts a program, or puts files where it works,
 * would choose its code. So the place beside libsalf is that of the file itself, links followed, and known only where
 * the loader was given a whole path; a process with more rights than its caller looks nowhere. What is checked
 * afterwards, version and size of its table, guards against a stale build, not against malice.
 */
#define _GNU_SOURCE /* dladdr, realpath */
#include "core/core.h"

#include <stdlib.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

/* Not for a process with more rights than its caller; secure_getenv is glibc's alone. */
const char *slf_environment(const char *name) {
#ifdef __linux__
    if (getauxval(AT_SECURE) != 0) return NULL;
#endif
    return getenv(name);
}

#ifdef SALF_NO_PLUGIN
salf_status slf_plugin_open(const char *path, void **handle, const slf_backend **backend) {
    *handle = NULL;
    *backend = NULL;
    if (path && *path != '/') return slf_fail(SALF_E_PLUGIN, "plugin_path '%s' is not absolute", path);
    return slf_fail(SALF_E_PLUGIN, "%s: this libsalf was built without plugins, and has no device backend",
                    path ? path : "cuda");
}

void slf_plugin_close(void *handle) {
    (void)handle;
}

bool slf_plugin_worth_opening(void) {
    return false;
}
#else
#include <dlfcn.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* A name without a version: a plugin belongs to the library beside it, and is refused when it was built for another. */
#define PLUGIN_NAME "libsalf-cuda.so"

/* RTLD_LOCAL: the plugin's symbols are no one's; RTLD_NOW: what is missing shows here and not in the middle of a
 * step. */
salf_status slf_plugin_open(const char *path, void **handle, const slf_backend **backend) {
    static const char anchor = 0;
    char beside[PATH_MAX];
    void *opened = NULL;
    salf_status status = SALF_OK;
    /* 1. where. A relative path would make dlopen search, or begin at the working directory */
    if (path && *path != '/') return slf_fail(SALF_E_PLUGIN, "plugin_path '%s' is not absolute", path);
    /* 2. without one, beside the file that this code is part of, a shared library or a program: it lies in one mapping
     * with the program's headers then. What the loader calls a program is its argv[0], whose file the kernel knows. */
    if (!path) {
        Dl_info own, program = {0};
        const void *headers = (const void *)(uintptr_t)getauxval(AT_PHDR);
        if (getauxval(AT_SECURE) != 0)
            return slf_fail(SALF_E_PLUGIN,
                            "no plugin is looked for in a process with more rights than its caller; give "
                            "plugin_path");
        if (dladdr(&anchor, &own) == 0 || !own.dli_fname)
            return slf_fail(SALF_E_PLUGIN, "cannot tell where libsalf lies; give plugin_path");
        const bool in_program = dladdr(headers, &program) != 0 && program.dli_fbase == own.dli_fbase;
        if (!in_program && *own.dli_fname != '/')
            return slf_fail(SALF_E_PLUGIN, "libsalf was loaded as '%s', which is not absolute; give plugin_path",
                            own.dli_fname);
        if (!realpath(in_program ? "/proc/self/exe" : own.dli_fname, beside))
            return slf_fail(SALF_E_PLUGIN, "the file of libsalf cannot be found; give plugin_path");
        char *name = strrchr(beside, '/') + 1;
        if ((size_t)(name - beside) + sizeof PLUGIN_NAME > PATH_MAX)
            return slf_fail(SALF_E_PLUGIN, "%s: the path is too long; give plugin_path", beside);
        memcpy(name, PLUGIN_NAME, sizeof PLUGIN_NAME);
        path = beside;
    }
    /* 3. the table. The version is checked before anything else of it is looked at; equal sizes as well, since a plugin
     * of the same version number from another branch would have its slots elsewhere. */
    union { /* ISO C has no cast from void * to a function; POSIX gives dlsym this use */
        void *symbol;
        slf_plugin_entry entry;
    } found;
    if (!(opened = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
        SLF_DO(slf_fail(SALF_E_PLUGIN, "plugin not loaded: %s", dlerror()));
    if (!(found.symbol = dlsym(opened, SLF_PLUGIN_SYMBOL)))
        SLF_DO(slf_fail(SALF_E_PLUGIN, "%s: no function " SLF_PLUGIN_SYMBOL " in it", path));
    const slf_backend *table = found.entry(SLF_BACKEND_ABI);
    if (!table)
        SLF_DO(slf_fail(SALF_E_PLUGIN, "%s: does not speak version %d of the backend table", path, SLF_BACKEND_ABI));
    if (table->abi_version != SLF_BACKEND_ABI || table->size != sizeof(slf_backend))
        SLF_DO(slf_fail(SALF_E_PLUGIN, "%s: backend table of version %u, %u bytes; version %d, %u bytes needed", path,
                        table->abi_version, table->size, SLF_BACKEND_ABI, (unsigned)sizeof(slf_backend)));
    *handle = opened;
    *backend = table;
done:
    if (status != SALF_OK && opened) dlclose(opened);
    return status;
}

void slf_plugin_close(void *handle) {
    dlclose(handle);
}

/* Opening the plugin runs the initialisers of the CUDA runtime inside it. They take memory from the C library, do not
 * look whether they got any, and write to address 0x28 when they did not: a process that is out of memory dies there,
 * and nobody who has no device should be exposed to that. Device files: of the Linux driver, of WSL 2 and of Tegra. */
bool slf_plugin_worth_opening(void) {
    static const char *const files[] = {"/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvmap"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (access(files[i], F_OK) == 0) return true;
    void *loaded = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (loaded) dlclose(loaded);
    return loaded != NULL;
}
#endif
