/* libraries.cpp - opens cuBLAS and cuSOLVER by soname, and asks the runtime for the driver's context calls. */
#include "libraries.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

/* dlsym's object pointers as functions, which POSIX allows. */
template <typename Function> static void set(Function *function, void *address) {
    union {
        void *object;
        Function function;
    } same;
    static_assert(sizeof same.object == sizeof same.function, "functions are as wide as objects");
    same.object = address;
    *function = same.function;
}

#ifdef SLF_EMULATED /* everything is linked */

/* The emulated device is one library, with all names in it. */
salf_status slf_libraries_open(slf_libraries *libraries, const slf_services *) {
#define SLF_TAKE(name) libraries->name = &::name;
    SLF_BLAS_CALLS(SLF_TAKE)
    SLF_SOLVER_CALLS(SLF_TAKE)
#undef SLF_TAKE
    return SALF_OK;
}

#else

/* The library stays in memory: its threads and handlers may outlive the context. It is found as any library of the
 * plugin would be, or is taken where the process has it already. */
static salf_status open_library(const char *name, const slf_services *services, void **library) {
    *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    return *library ? SALF_OK : services->fail(SALF_E_PLUGIN, "%s is needed: %s", name, dlerror());
}

salf_status slf_libraries_open(slf_libraries *libraries, const slf_services *services) {
    void *library = nullptr, *address = nullptr;
    salf_status status = open_library(SLF_BLAS_LIBRARY, services, &library);
    if (status != SALF_OK) return status;
/* By name and not by version of the symbol: the soname has fixed the version already, and a function that a newer
 * library dropped is said by name. */
#define SLF_FIND(name)                                                                                        \
    address = dlsym(library, #name);                                                                          \
    if (!address) return services->fail(SALF_E_PLUGIN, "no function " #name " in the library that is there"); \
    set(&libraries->name, address);
    SLF_BLAS_CALLS(SLF_FIND)
    status = open_library(SLF_SOLVER_LIBRARY, services, &library);
    if (status != SALF_OK) return status;
    SLF_SOLVER_CALLS(SLF_FIND)
#undef SLF_FIND
    return SALF_OK;
}

#endif

/* The runtime is linked statically and knows the driver; asking it keeps libcuda out of what the plugin links. */
template <typename Function>
static salf_status driver_call(const slf_services *services, const char *name, Function *function) {
    /* The version is that of the call's signature, not of the driver: 12.0 has all four as they are used here. */
    void *address = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &found);
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess || !address) {
        cudaGetLastError();
        return services->fail(SALF_E_DEVICE, "cudaGetDriverEntryPointByVersion: the CUDA driver has no %s (%s)", name,
                              cudaGetErrorString(error));
    }
    set(function, address);
    return SALF_OK;
}

/* Four calls that keep the host's context as it was: retain and release of the primary one, push and pop. */
salf_status slf_driver_open(slf_libraries *libraries, const slf_services *services) {
    salf_status status = driver_call(services, "cuDevicePrimaryCtxRetain", &libraries->retain_context);
    if (status == SALF_OK) status = driver_call(services, "cuDevicePrimaryCtxRelease", &libraries->release_context);
    if (status == SALF_OK) status = driver_call(services, "cuCtxPushCurrent", &libraries->push_context);
    if (status == SALF_OK) status = driver_call(services, "cuCtxPopCurrent", &libraries->pop_context);
    return status;
}
