/* Copies to and from a GPU's memory, with the CUDA driver that is there wherever such memory is.
 *
 * Names and types: CUDA driver interface, docs.nvidia.com/cuda/cuda-driver-api. Addresses are
 * unified: the driver finds the device of each by itself.
 */
#include "backend.h"

#include <dlfcn.h>
#include <string.h>

static struct {
    int (*get_context)(void **context, int device); /* cuDevicePrimaryCtxRetain */
    int (*use_context)(void *context);              /* cuCtxSetCurrent */
    int (*copy)(unsigned long long to, unsigned long long from, size_t size); /* cuMemcpy */
    void *context;
} driver;

static void open_driver(void) {
    int (*start)(unsigned flags);
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    *(void **)&start = dlsym(library, "cuInit");
    *(void **)&driver.get_context = dlsym(library, "cuDevicePrimaryCtxRetain");
    *(void **)&driver.use_context = dlsym(library, "cuCtxSetCurrent");
    *(void **)&driver.copy = dlsym(library, "cuMemcpy");
    if (!start || !driver.get_context || !driver.use_context || start(0) != 0 ||
        driver.get_context(&driver.context, 0) != 0)
        driver.copy = NULL;
}

TRITONSERVER_Error *copy(void *to, TRITONSERVER_MemoryType to_type, const void *from,
                         TRITONSERVER_MemoryType from_type, size_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (size == 0) return NULL;
    if (to_type != TRITONSERVER_MEMORY_GPU && from_type != TRITONSERVER_MEMORY_GPU) {
        memcpy(to, from, size);
        return NULL;
    }
    pthread_once(&once, open_driver);
    if (!driver.copy || driver.use_context(driver.context) != 0)
        return error_new(TRITONSERVER_ERROR_UNAVAILABLE,
                         "a tensor is in a GPU's memory, and the CUDA driver cannot be used");
    int code =
        driver.copy((unsigned long long)(uintptr_t)to, (unsigned long long)(uintptr_t)from, size);
    if (code == 0) return NULL;
    return error_new(TRITONSERVER_ERROR_INTERNAL, "CUDA error %d while %zu bytes are copied", code,
                     size);
}
