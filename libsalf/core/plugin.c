/*
 * plugin.c - opens the device backend with dlopen: from an explicit path or from beside libsalf, never from a search
 * path.
 *
 * A plugin is code that runs with the host's rights, so where it comes from is the host's decision: neither the working
 * directory nor LD_LIBRARY_PATH may slip in another. What is checked afterwards, version and size of its table, guards
 * against a stale build, not against malice.
 */
#define _GNU_SOURCE /* dladdr */
#include "core/plugin.h"

#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

/* A name without a version: a plugin belongs to the library beside it, and is refused when it was built for another. */
#define PLUGIN_NAME "libsalf-cuda.so"

/* Where the host names no path, the plugin lies beside the library, since both come from one build: beside the shared
 * library, or the program, that this function is part of. A given path without a slash would make dlopen search, also
 * in folders that others can write to. RTLD_LOCAL: the plugin's symbols are no one's; RTLD_NOW: what is missing shows
 * here and not in the middle of a step. */
salf_status slf_plugin_open(const salf_context *context, const char *path, void **handle, const slf_backend **backend) {
    char *beside = NULL;
    void *opened = NULL;
    salf_status status = SALF_OK;
    /* 1. where */
    if (path && !strchr(path, '/'))
        return slf_fail(SALF_E_PLUGIN, "plugin_path '%s' has no folder; a plugin is never searched for", path);
    if (!path) {
        static const char anchor = 0;
        Dl_info where;
        if (dladdr(&anchor, &where) == 0 || !where.dli_fname)
            return slf_fail(SALF_E_PLUGIN, "cannot tell where libsalf lies; give plugin_path");
        const char *slash = strrchr(where.dli_fname, '/');
        if (!slash)
            return slf_fail(SALF_E_PLUGIN, "libsalf was loaded as '%s', without a folder; give plugin_path",
                            where.dli_fname);
        const size_t folder = (size_t)(slash - where.dli_fname) + 1;
        SLF_TRY(SLF_ALLOC(context, beside, folder + sizeof PLUGIN_NAME));
        memcpy(beside, where.dli_fname, folder);
        memcpy(beside + folder, PLUGIN_NAME, sizeof PLUGIN_NAME);
        path = beside;
    }
    /* 2. the table. The version is checked before anything else of it is looked at; equal sizes as well, since a plugin
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
    slf_free(context, beside);
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
