/* Opens the ONNX Runtime session of a model. */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static TRITONSERVER_Error *find_file(const Model *model, char path[], size_t size) {
    const char *name = json_text(json_get(model->config, "default_model_filename"), "");
    struct stat found;
    snprintf(path, size, "%s/%llu/%s", model->folder, (unsigned long long)model->version,
             *name ? name : "model.onnx");
    if (stat(path, &found) == 0 && S_ISDIR(found.st_mode)) {
        size_t length = strlen(path);
        snprintf(path + length, size - length, "/model.onnx");
    }
    if (stat(path, &found) == 0 && S_ISREG(found.st_mode)) return NULL;
    return error_new(TRITONSERVER_ERROR_UNAVAILABLE, "unable to find '%s' for model '%s'", path,
                     model->name);
}

typedef OrtStatus *(*GetCount)(const OrtSession *, size_t *);
typedef OrtStatus *(*GetName)(const OrtSession *, size_t, OrtAllocator *, char **);
typedef OrtStatus *(*GetType)(const OrtSession *, size_t, OrtTypeInfo **);

static TRITONSERVER_Error *read_type(const OrtTypeInfo *info, Tensor *tensor) {
    const OrtShapeInfo *shape;
    OnnxType type;
    TRY_ORT(ort.CastTypeInfoToTensorInfo(info, &shape));
    if (!shape) return NULL; /* a sequence, a map, an optional tensor */
    TRY_ORT(ort.GetTensorElementType(shape, &type));
    TRY_ORT(ort.GetDimensionsCount(shape, &tensor->rank));
    tensor->type = data_type_of(type);
    tensor->dims = allocate(tensor->rank, sizeof(int64_t));
    return ort_error(ort.GetDimensions(shape, tensor->dims, tensor->rank), NULL);
}

static TRITONSERVER_Error *read_tensors(const OrtSession *session, GetCount count, GetName name,
                                        GetType type, Tensors *tensors) {
    TRY_ORT(count(session, &tensors->count));
    tensors->tensors = allocate(tensors->count, sizeof(Tensor));
    for (size_t i = 0; i < tensors->count; i++) {
        char *text;
        OrtTypeInfo *info;
        TRY_ORT(name(session, i, ort_allocator, &text));
        tensors->tensors[i].name = strdup(text);
        TRY_ORT(ort.AllocatorFree(ort_allocator, text));
        TRY_ORT(type(session, i, &info));
        TRITONSERVER_Error *error = read_type(info, &tensors->tensors[i]);
        ort.ReleaseTypeInfo(info);
        TRY(error);
    }
    return NULL;
}

static TRITONSERVER_Error *read_signature(Session *s) {
    TRY(read_tensors(s->session, ort.SessionGetInputCount, ort.SessionGetInputName,
                     ort.SessionGetInputTypeInfo, &s->inputs));
    TRY(read_tensors(s->session, ort.SessionGetOverridableInitializerCount,
                     ort.SessionGetOverridableInitializerName,
                     ort.SessionGetOverridableInitializerTypeInfo, &s->optional));
    return read_tensors(s->session, ort.SessionGetOutputCount, ort.SessionGetOutputName,
                        ort.SessionGetOutputTypeInfo, &s->outputs);
}

static TRITONSERVER_Error *set_run_options(const Model *model, Session *s) {
    const char *key = "memory.enable_memory_arena_shrinkage";
    TRY_ORT(ort.CreateRunOptions(&s->run_options));
    /* What goes wrong in a run is its requests' error, not a line of the log for each. */
    TRY_ORT(ort.RunOptionsSetRunLogSeverityLevel(s->run_options, ORT_LOG_FATAL));
    if (parameter(model, key))
        TRY_ORT(ort.AddRunConfigEntry(s->run_options, key, parameter(model, key)));
    return NULL;
}

static TRITONSERVER_Error *create(const Model *model, const char *path, bool *on_gpu, int device,
                                  bool warns, OrtSession **session) {
    OrtSessionOptions *options;
    char where[4096];
    TRY(session_options(model, &options));
    TRITONSERVER_Error *error = add_providers(model, options, device, warns, on_gpu);
    if (!error) {
        snprintf(where, sizeof where, "unable to load model '%s' from %s", model->name, path);
        error = ort_error(ort.CreateSession(ort_env, path, options, session), where);
    }
    ort.ReleaseSessionOptions(options);
    return error;
}

TRITONSERVER_Error *session_open(const Model *model, bool on_gpu, int device, bool warns,
                                 Session **opened) {
    char path[4096];
    TRY(find_file(model, path, sizeof path));
    Session *s = allocate(1, sizeof *s);
    TRITONSERVER_Error *error = create(model, path, &on_gpu, device, warns, &s->session);
    if (error && on_gpu) { /* a GPU's provider that does not start must not keep the model away */
        TRITONSERVER_Error *first = error;
        on_gpu = false;
        error = create(model, path, &on_gpu, device, false, &s->session);
        if (!error) warn(model, "KIND_GPU, the CPU runs: %s", TRITONSERVER_ErrorMessage(first));
        TRITONSERVER_ErrorDelete(first);
    }
    if (!error) error = set_run_options(model, s);
    if (!error) error = read_signature(s);
    if (!error && on_gpu)
        error = ort_error(ort.CreateMemoryInfo("Cuda", ORT_DEVICE_ALLOCATOR, device,
                                               ORT_MEM_TYPE_DEFAULT, &s->gpu),
                          NULL);
    s->gpu_id = device;
    if (error) {
        session_close(s);
        return error;
    }
    *opened = s;
    return NULL;
}

static void free_tensors(Tensors *tensors) {
    for (size_t i = 0; i < tensors->count; i++) {
        free(tensors->tensors[i].name);
        free(tensors->tensors[i].dims);
    }
    free(tensors->tensors);
}

void session_close(Session *s) {
    if (!s) return;
    if (s->session) ort.ReleaseSession(s->session);
    if (s->run_options) ort.ReleaseRunOptions(s->run_options);
    if (s->gpu) ort.ReleaseMemoryInfo(s->gpu);
    free_tensors(&s->inputs);
    free_tensors(&s->optional);
    free_tensors(&s->outputs);
    free(s);
}
