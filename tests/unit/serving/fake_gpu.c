/* ONNX Runtime with a GPU that is none: the library named by REAL_ONNXRUNTIME, whose CUDA and
 * TensorRT providers only print their options, and whose GPU memory is the host's. What sets
 * options prints them. With CUDA_FAILS, sessions with CUDA do not start; with TOO_OLD,
 * it is a release whose table is too short. */
#include "onnxruntime_abi.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static OrtFunction table[285];
static OrtApi real;
static OrtMemoryInfo *gpu;
static bool has_cuda;

static OrtStatus *put(const char *what, const char *key, const char *value) {
    printf("%s %s %s\n", what, key, value);
    return NULL;
}

static OrtStatus *put_all(const char *what, OrtNames keys, OrtNames values, size_t count) {
    printf("%s", what);
    for (size_t i = 0; i < count; i++)
        printf(" %s=%s", keys[i], values[i]);
    printf("\n");
    return NULL;
}

static OrtStatus *get_providers(char ***names, int *count) {
    static char *all[] = {"TensorrtExecutionProvider", "CUDAExecutionProvider"};
    *names = all;
    *count = 2;
    return NULL;
}
static OrtStatus *release_providers(char **names, int count) {
    (void)names, (void)count;
    return NULL;
}
static OrtStatus *create_cuda(OrtCUDAOptions **options) {
    *options = (OrtCUDAOptions *)&gpu;
    return NULL;
}
static OrtStatus *update_cuda(OrtCUDAOptions *o, OrtNames keys, OrtNames values, size_t count) {
    (void)o;
    return put_all("cuda", keys, values, count);
}
static OrtStatus *append_cuda(OrtSessionOptions *options, const OrtCUDAOptions *o) {
    (void)options, (void)o;
    has_cuda = true;
    return NULL;
}
static void release_cuda(OrtCUDAOptions *o) {
    (void)o;
}
static OrtStatus *create_tensorrt(OrtTensorRTOptions **options) {
    *options = (OrtTensorRTOptions *)&gpu;
    return NULL;
}
static OrtStatus *update_tensorrt(OrtTensorRTOptions *o, OrtNames keys, OrtNames values,
                                  size_t count) {
    (void)o;
    return put_all("tensorrt", keys, values, count);
}
static OrtStatus *append_tensorrt(OrtSessionOptions *options, const OrtTensorRTOptions *o) {
    (void)options, (void)o;
    return NULL;
}
static void release_tensorrt(OrtTensorRTOptions *o) {
    (void)o;
}
static OrtStatus *create_session(const OrtEnv *env, const char *path, const OrtSessionOptions *o,
                                 OrtSession **session) {
    if (has_cuda && getenv("CUDA_FAILS")) {
        has_cuda = false;
        return real.CreateSession(env, "/no/such/device", o, session);
    }
    return real.CreateSession(env, path, o, session);
}
static OrtStatus *create_memory_info(const char *name, int allocator, int id, int type,
                                     OrtMemoryInfo **info) {
    if (strcmp(name, "Cuda") != 0) return real.CreateMemoryInfo(name, allocator, id, type, info);
    printf("memory %s %d\n", name, id);
    OrtStatus *status = real.CreateMemoryInfo("Cpu", allocator, 0, type, info);
    gpu = *info;
    return status;
}
static OrtStatus *create_tensor(const OrtMemoryInfo *info, void *data, size_t size,
                                const int64_t *shape, size_t rank, OnnxType type, OrtValue **out) {
    if (info == gpu) printf("on the GPU: %zu bytes\n", size);
    return real.CreateTensorWithDataAsOrtValue(info, data, size, shape, rank, type, out);
}
static OrtStatus *set_level(OrtSessionOptions *options, int level) {
    printf("level %d\n", level);
    return real.SetSessionGraphOptimizationLevel(options, level);
}
static OrtStatus *set_mode(OrtSessionOptions *options, int mode) {
    printf("mode %d\n", mode);
    return real.SetSessionExecutionMode(options, mode);
}
static OrtStatus *set_intra(OrtSessionOptions *options, int count) {
    printf("intra %d\n", count);
    return real.SetIntraOpNumThreads(options, count);
}
static OrtStatus *set_inter(OrtSessionOptions *options, int count) {
    printf("inter %d\n", count);
    return real.SetInterOpNumThreads(options, count);
}
static OrtStatus *pattern_on(OrtSessionOptions *options) {
    printf("pattern on\n");
    return real.EnableMemPattern(options);
}
static OrtStatus *pattern_off(OrtSessionOptions *options) {
    printf("pattern off\n");
    return real.DisableMemPattern(options);
}
static OrtStatus *arena_on(OrtSessionOptions *options) {
    printf("arena on\n");
    return real.EnableCpuMemArena(options);
}
static OrtStatus *arena_off(OrtSessionOptions *options) {
    printf("arena off\n");
    return real.DisableCpuMemArena(options);
}
static OrtStatus *set_entry(OrtSessionOptions *options, const char *key, const char *value) {
    put("session", key, value);
    return real.AddSessionConfigEntry(options, key, value);
}
static OrtStatus *set_run_entry(OrtRunOptions *options, const char *key, const char *value) {
    put("run", key, value);
    return real.AddRunConfigEntry(options, key, value);
}

static const OrtFunction *get_api(uint32_t version) {
    return version == ORT_API_VERSION && !getenv("TOO_OLD") ? table : NULL;
}
static const char *get_version(void) {
    return getenv("TOO_OLD") ? "1.19.2" : "1.20";
}

const OrtApiBase *OrtGetApiBase(void);
const OrtApiBase *OrtGetApiBase(void) {
    static const OrtApiBase base = {get_api, get_version};
    const OrtApiBase *(*get_base)(void);
    const char *path = getenv("REAL_ONNXRUNTIME");
    void *library = dlopen(path ? path : "", RTLD_NOW | RTLD_LOCAL);
    if (!library) abort();
    *(void **)&get_base = dlsym(library, "OrtGetApiBase");
    const OrtFunction *entries = get_base()->GetApi(ORT_API_VERSION);
    memcpy(table, entries, sizeof table);
#define TAKE(place, type, name, arguments) real.name = (type(*) arguments)entries[place];
    ORT_FUNCTIONS(TAKE)
    static const struct {
        int place;
        OrtFunction function;
    } ours[] = {{7, (OrtFunction)create_session},      {13, (OrtFunction)set_mode},
                {16, (OrtFunction)pattern_on},         {17, (OrtFunction)pattern_off},
                {18, (OrtFunction)arena_on},           {19, (OrtFunction)arena_off},
                {23, (OrtFunction)set_level},          {24, (OrtFunction)set_intra},
                {25, (OrtFunction)set_inter},          {49, (OrtFunction)create_tensor},
                {68, (OrtFunction)create_memory_info}, {125, (OrtFunction)get_providers},
                {126, (OrtFunction)release_providers}, {130, (OrtFunction)set_entry},
                {165, (OrtFunction)set_run_entry},     {170, (OrtFunction)append_tensorrt},
                {171, (OrtFunction)create_tensorrt},   {172, (OrtFunction)update_tensorrt},
                {174, (OrtFunction)release_tensorrt},  {204, (OrtFunction)append_cuda},
                {205, (OrtFunction)create_cuda},       {206, (OrtFunction)update_cuda},
                {208, (OrtFunction)release_cuda}};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        table[ours[i].place] = ours[i].function;
    return &base;
}

/* the CUDA driver, as libcuda.so.1: a copy is a copy in the host's memory */
int cuInit(unsigned flags);
int cuInit(unsigned flags) {
    return (int)flags;
}
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &gpu;
    return device;
}
int cuCtxSetCurrent(void *context);
int cuCtxSetCurrent(void *context) {
    return context != &gpu;
}
int cuMemcpy(unsigned long long to, unsigned long long from, size_t size);
int cuMemcpy(unsigned long long to, unsigned long long from, size_t size) {
    printf("cuMemcpy %zu\n", size);
    memcpy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, size);
    return 0;
}
