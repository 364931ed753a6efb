/* A backend of Triton that runs ONNX models with ONNX Runtime: what the server calls. */
#include "backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

OrtApi ort;
OrtEnv *ort_env;
OrtMemoryInfo *ort_cpu;
OrtAllocator *ort_allocator;

/* Returns how long the UTF-8 character at `text` is, in bytes; 0 if there is none. */
static size_t character_length(const unsigned char *text) {
    unsigned char c = text[0], low = 0x80, high = 0xbf;
    size_t length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (c == 0xe0) low = 0xa0;  /* less is a longer form of another character */
    if (c == 0xed) high = 0x9f; /* more is half of a UTF-16 pair */
    if (c == 0xf0) low = 0x90;
    if (c == 0xf4) high = 0x8f; /* more is beyond Unicode */
    for (size_t i = 1; i < length; i++, low = 0x80, high = 0xbf)
        if (text[i] < low || text[i] > high) return 0;
    return length;
}

/* Triton sends errors as protobuf strings: one that is not UTF-8 spoils the whole answer. */
static void make_utf8(char *text) {
    for (size_t length; *text; text += length) {
        length = character_length((const unsigned char *)text);
        if (length == 0) *text = '?', length = 1;
    }
}

TRITONSERVER_Error *error_new(TRITONSERVER_Error_Code code, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (size_t end = strlen(text); end && text[end - 1] == '\n';)
        text[--end] = '\0';
    make_utf8(text);
    return TRITONSERVER_ErrorNew(code, text);
}

TRITONSERVER_Error *ort_error(OrtStatus *status, const char *where) {
    if (!status) return NULL;
    int code = ort.GetErrorCode(status);
    TRITONSERVER_Error *error =
        error_new(code == ORT_INVALID_ARGUMENT ? TRITONSERVER_ERROR_INVALID_ARG
                  : code == ORT_NO_SUCHFILE    ? TRITONSERVER_ERROR_UNAVAILABLE
                                               : TRITONSERVER_ERROR_INTERNAL,
                  "%s%s%s", where ? where : "", where ? ": " : "", ort.GetErrorMessage(status));
    ort.ReleaseStatus(status);
    return error;
}

void log_message(TRITONSERVER_LogLevel level, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    TRITONSERVER_Error *error = TRITONSERVER_LogMessage(level, "onnxruntime", 0, text);
    if (error) TRITONSERVER_ErrorDelete(error);
}

void warn(const Model *model, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log_message(TRITONSERVER_LOG_WARN, "model '%s': not honoured: %s", model->name, text);
}

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) abort();
    return memory;
}

static void log_of_onnxruntime(void *param, int severity, const char *category, const char *log_id,
                               const char *location, const char *message) {
    (void)param, (void)category, (void)location;
    log_message(severity >= ORT_LOG_ERROR     ? TRITONSERVER_LOG_ERROR
                : severity == ORT_LOG_WARNING ? TRITONSERVER_LOG_WARN
                                              : TRITONSERVER_LOG_VERBOSE,
                "ONNX Runtime, %s: %s", log_id, message);
}

static TRITONSERVER_Error *open_library(const char *folder) {
    char link[4096], path[PATH_MAX];
    snprintf(link, sizeof link, "%s/libonnxruntime.so", folder);
    if (!realpath(link, path)) /* providers are looked for in the folder of the real file */
        return error_new(TRITONSERVER_ERROR_UNAVAILABLE,
                         "%s is missing or leads nowhere: it has to be a link to the onnxruntime "
                         "wheel's capi/libonnxruntime.so.VERSION",
                         link);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return error_new(TRITONSERVER_ERROR_UNAVAILABLE, "ONNX Runtime cannot be loaded: %s",
                         dlerror());
    const OrtApiBase *(*get_base)(void);
    *(void **)&get_base = dlsym(library, "OrtGetApiBase");
    if (!get_base)
        return error_new(TRITONSERVER_ERROR_UNAVAILABLE, "%s is not ONNX Runtime: no OrtGetApiBase",
                         path);
    const char *version = get_base()->GetVersionString();
    const OrtFunction *table = get_base()->GetApi(ORT_API_VERSION);
    if (!table)
        return error_new(TRITONSERVER_ERROR_UNSUPPORTED,
                         "%s is ONNX Runtime %s; 1.20 or newer is needed", path, version);
#define TAKE(place, type, name, arguments) ort.name = (type(*) arguments)table[place];
    ORT_FUNCTIONS(TAKE)
#undef TAKE
    log_message(TRITONSERVER_LOG_INFO, "onnxruntime: ONNX Runtime %s, %s", version, path);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {
    TRITONBACKEND_ArtifactType type;
    const char *folder;
    uint32_t major, minor;
    TRY(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != TRITON_BACKEND_API_MAJOR || minor < TRITON_BACKEND_API_MINOR)
        return error_new(TRITONSERVER_ERROR_UNSUPPORTED,
                         "Triton's backend interface is %u.%u here, this backend needs %d.%d",
                         major, minor, TRITON_BACKEND_API_MAJOR, TRITON_BACKEND_API_MINOR);
    TRY(TRITONBACKEND_BackendArtifacts(backend, &type, &folder));
    TRY(open_library(folder));
    TRY_ORT(ort.CreateEnvWithCustomLogger(log_of_onnxruntime, NULL, ORT_LOG_WARNING, "onnxruntime",
                                          &ort_env));
    TRY_ORT(ort.GetAllocatorWithDefaultOptions(&ort_allocator));
    return ort_error(
        ort.CreateMemoryInfo("Cpu", ORT_DEVICE_ALLOCATOR, 0, ORT_MEM_TYPE_DEFAULT, &ort_cpu), NULL);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_Finalize(TRITONBACKEND_Backend *backend) {
    (void)backend;
    label_counts_finalize();
    if (ort_cpu) ort.ReleaseMemoryInfo(ort_cpu);
    if (ort_env) ort.ReleaseEnv(ort_env);
    ort_cpu = NULL;
    ort_env = NULL;
    return NULL;
}

static void close_model(Model *model) {
    label_counts_close(model->label_counts);
    session_close(model->on_cpu);
    for (size_t i = 0; i < model->outputs.count; i++)
        free(model->outputs.ports[i].dims);
    free(model->inputs.ports);
    free(model->outputs.ports);
    free(model->config);
    free(model->text);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

static TRITONSERVER_Error *open_model(Model *model) {
    TRITONBACKEND_ArtifactType type;
    bool completes;
    TRY(TRITONBACKEND_ModelName(model->handle, &model->name));
    TRY(TRITONBACKEND_ModelVersion(model->handle, &model->version));
    TRY(TRITONBACKEND_ModelRepository(model->handle, &type, &model->folder));
    TRY(configuration_read(model));
    TRY(TRITONBACKEND_ModelAutoCompleteConfig(model->handle, &completes));
    TRY(completes ? signature_complete(model) : NULL);
    free(model->text);
    model->text = NULL;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *handle) {
    Model *model = allocate(1, sizeof *model);
    model->handle = handle;
    pthread_mutex_init(&model->lock, NULL);
    TRITONSERVER_Error *error = open_model(model);
    if (!error) error = TRITONBACKEND_ModelSetState(handle, model);
    if (error) close_model(model);
    return error;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *handle) {
    void *model;
    TRY(TRITONBACKEND_ModelState(handle, &model));
    if (model) close_model(model);
    return NULL;
}

static TRITONSERVER_Error *check_model(Model *model, const Session *session) {
    TRY(signature_check(model, session));
    for (size_t i = 0; i < model->outputs.count; i++)
        if (strcmp(model->outputs.ports[i].name, "labels") == 0) {
            model->labels_output = i;
            TRY(label_counts_open(model, session, &model->label_counts));
        }
    return NULL;
}

/* Opens an instance's session, or takes the one that the model's instances on the CPU share. */
static TRITONSERVER_Error *open_session(Model *model, bool on_gpu, int device, Session **session) {
    bool is_first = !model->is_checked;
    if (is_first) warn_of_unknown_keys(model, on_gpu);
    if (!on_gpu && model->on_cpu) {
        *session = model->on_cpu;
        return NULL;
    }
    TRY(session_open(model, on_gpu, device, is_first, session));
    TRITONSERVER_Error *error = is_first ? check_model(model, *session) : NULL;
    if (error) { /* the next instance must not share a session that was refused */
        session_close(*session);
        *session = NULL;
        return error;
    }
    if (!on_gpu) model->on_cpu = *session;
    model->is_checked = true;
    return NULL;
}

static void close_instance(Instance *instance) {
    for (size_t i = 0; i < instance->model->inputs.count; i++)
        free(instance->inputs[i].data);
    if (instance->session != instance->model->on_cpu) session_close(instance->session);
    free(instance->inputs);
    free(instance);
}

EXPORT TRITONSERVER_Error *
TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *handle) {
    TRITONBACKEND_Model *of;
    void *model;
    TRITONSERVER_InstanceGroupKind kind;
    int32_t device;
    TRY(TRITONBACKEND_ModelInstanceModel(handle, &of));
    TRY(TRITONBACKEND_ModelState(of, &model));
    TRY(TRITONBACKEND_ModelInstanceKind(handle, &kind));
    TRY(TRITONBACKEND_ModelInstanceDeviceId(handle, &device));
    Instance *instance = allocate(1, sizeof *instance);
    instance->handle = handle;
    instance->model = model;
    instance->warmups_left = instance->model->num_warmups;
    instance->inputs = allocate(instance->model->inputs.count, sizeof(Buffer));
    pthread_mutex_lock(&instance->model->lock);
    TRITONSERVER_Error *error =
        open_session(model, kind == TRITONSERVER_INSTANCEGROUPKIND_GPU, device, &instance->session);
    pthread_mutex_unlock(&instance->model->lock);
    if (!error) error = TRITONBACKEND_ModelInstanceSetState(handle, instance);
    if (error) close_instance(instance);
    return error;
}

EXPORT TRITONSERVER_Error *
TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *handle) {
    void *instance;
    TRY(TRITONBACKEND_ModelInstanceState(handle, &instance));
    if (instance) close_instance(instance);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance *handle,
                                                              TRITONBACKEND_Request **requests,
                                                              uint32_t num_requests) {
    void *instance;
    TRY(TRITONBACKEND_ModelInstanceState(handle, &instance));
    execute(instance, requests, num_requests);
    return NULL;
}
