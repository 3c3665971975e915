/*
 * fake_plugin.c - a backend plugin that computes nothing, for the tests of loading. SALF_FAKE_PLUGIN says how it
 * behaves: "null" (no table), "version", "size" (tables that do not match), "device" (opening fails), anything else:
 * opens.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"

__attribute__((visibility("default"))) const slf_backend *salf_backend_plugin(uint32_t abi_version);

static slf_services services;

static int behaves(const char *how) {
    const char *wish = getenv("SALF_FAKE_PLUGIN");
    return wish && strcmp(wish, how) == 0;
}

static salf_status fake_open(void **self, const slf_services *given, const char **kernels) {
    if (behaves("device")) return given->fail(SALF_E_DEVICE, "device %d is of paper", (int)given->options->device);
    services = *given;
    *self = &services;
    *kernels = "fake";
    return SALF_OK;
}

static void fake_close(void *self) {
    (void)self;
}

const slf_backend *salf_backend_plugin(uint32_t abi_version) {
    static slf_backend table = {.abi_version = SLF_BACKEND_ABI,
                                .size = sizeof table,
                                .id = SALF_BACKEND_CUDA,
                                .name = "cuda",
                                .open = fake_open,
                                .close = fake_close};
    if (behaves("null") || abi_version != SLF_BACKEND_ABI) return NULL;
    table.abi_version = behaves("version") ? SLF_BACKEND_ABI + 1 : SLF_BACKEND_ABI;
    table.size = behaves("size") ? sizeof table - 8 : sizeof table;
    return &table;
}
