/* plugin.c - opens the device backend with dlopen: from an explicit path or from beside libsalf, never from a search
 * path. */
#define _GNU_SOURCE /* dladdr */
#include "backend/plugin.h"

#include <dlfcn.h>
#include <string.h>

/* A name without a version: a plugin belongs to the library beside it, and is refused when it was built for another. */
#define PLUGIN_NAME "libsalf-cuda.so"

/* Path of the plugin beside the shared library (or program) that this function is part of; freed by the caller. */
static salf_status path_beside(const salf_context *context, char **out) {
    static const char anchor = 0;
    Dl_info where;
    if (dladdr(&anchor, &where) == 0 || !where.dli_fname)
        return slf_fail(SALF_E_PLUGIN, "cannot tell where libsalf lies; give plugin_path");
    const char *slash = strrchr(where.dli_fname, '/');
    if (!slash)
        return slf_fail(SALF_E_PLUGIN, "libsalf was loaded as '%s', without a folder; give plugin_path",
                        where.dli_fname);
    const size_t folder = (size_t)(slash - where.dli_fname) + 1;
    char *path = slf_alloc(context, folder + sizeof PLUGIN_NAME, 1);
    if (!path) return SALF_E_NO_MEMORY;
    memcpy(path, where.dli_fname, folder);
    memcpy(path + folder, PLUGIN_NAME, sizeof PLUGIN_NAME);
    *out = path;
    return SALF_OK;
}

/* The version is checked before anything else of the table is looked at. Equal sizes as well: a plugin of the same
 * version number from another branch would have its slots elsewhere. */
static salf_status ask_for_table(void *handle, const char *path, const slf_backend **backend) {
    union { /* ISO C has no cast from void * to a function; POSIX gives dlsym this use */
        void *symbol;
        slf_plugin_entry entry;
    } found = {.symbol = dlsym(handle, SLF_PLUGIN_SYMBOL)};
    if (!found.symbol) return slf_fail(SALF_E_PLUGIN, "%s: no function " SLF_PLUGIN_SYMBOL " in it", path);
    const slf_backend *table = found.entry(SLF_BACKEND_ABI);
    if (!table)
        return slf_fail(SALF_E_PLUGIN, "%s: does not speak version %d of the backend table", path, SLF_BACKEND_ABI);
    if (table->abi_version != SLF_BACKEND_ABI || table->size != sizeof(slf_backend))
        return slf_fail(SALF_E_PLUGIN, "%s: backend table of version %u, %u bytes; version %d, %u bytes needed", path,
                        table->abi_version, table->size, SLF_BACKEND_ABI, (unsigned)sizeof(slf_backend));
    *backend = table;
    return SALF_OK;
}

/* RTLD_LOCAL: the plugin's symbols are no one's; RTLD_NOW: what is missing shows here and not in the middle of a step.
 * A path without a slash would make dlopen search, also in folders that others can write to. */
static salf_status open_at(const char *path, void **handle, const slf_backend **backend) {
    if (!strchr(path, '/'))
        return slf_fail(SALF_E_PLUGIN, "plugin_path '%s' has no folder; a plugin is never searched for", path);
    void *opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!opened) return slf_fail(SALF_E_PLUGIN, "plugin not loaded: %s", dlerror());
    const salf_status status = ask_for_table(opened, path, backend);
    if (status != SALF_OK) {
        dlclose(opened);
        return status;
    }
    *handle = opened;
    return SALF_OK;
}

/* Where the host names no path, the plugin lies beside the library: both come from one build. */
salf_status slf_plugin_open(const salf_context *context, const char *path, void **handle, const slf_backend **backend) {
    if (path) return open_at(path, handle, backend);
    char *beside = NULL;
    SLF_TRY(path_beside(context, &beside));
    const salf_status status = open_at(beside, handle, backend);
    slf_free(context, beside);
    return status;
}

void slf_plugin_close(void *handle) {
    dlclose(handle);
}
