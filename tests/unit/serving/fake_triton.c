#define _GNU_SOURCE 1
#include "fake_triton.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *);
TRITONSERVER_Error *TRITONBACKEND_Finalize(TRITONBACKEND_Backend *);
TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *);
TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *);
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance *,
                                                       TRITONBACKEND_Request **, uint32_t);

struct TRITONSERVER_Error {
    TRITONSERVER_Error_Code code;
    char text[512];
};
struct TRITONSERVER_Message {
    char *text;
};
struct TRITONBACKEND_Response {
    TRITONBACKEND_Request *request;
};
struct TRITONSERVER_MetricFamily {
    char unused;
};

int num_runs, run_sizes[64];
TRITONSERVER_InstanceGroupKind instance_kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
static const char *library, *model_path, *config_text;
static void *model_state, *instance_state;
static TRITONBACKEND_Model *const the_model = (TRITONBACKEND_Model *)&model_state;
static TRITONBACKEND_ModelInstance *const the_instance =
    (TRITONBACKEND_ModelInstance *)&instance_state;

#define FAKE(name, ...) TRITONSERVER_Error *name(__VA_ARGS__)
#define UNUSED(x) (void)(x)

TRITONSERVER_Error *TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char *msg) {
    TRITONSERVER_Error *error = malloc(sizeof *error);
    if (!error) abort();
    error->code = code;
    snprintf(error->text, sizeof error->text, "%s", msg);
    return error;
}
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error) {
    free(error);
}
TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error *error) {
    return error->code;
}
const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error) {
    return error->text;
}
bool TRITONSERVER_LogIsEnabled(TRITONSERVER_LogLevel level) {
    return level != TRITONSERVER_LOG_VERBOSE;
}
FAKE(TRITONSERVER_LogMessage, TRITONSERVER_LogLevel level, const char *f, int line, const char *m) {
    UNUSED(f), UNUSED(line);
    if (level == TRITONSERVER_LOG_WARN) printf("warning: %s\n", m);
    return NULL;
}
FAKE(TRITONSERVER_MessageNewFromSerializedJson, TRITONSERVER_Message **message, const char *base,
     size_t size) {
    *message = malloc(sizeof **message);
    if (!*message) abort();
    (*message)->text = strndup(base, size);
    return NULL;
}
FAKE(TRITONSERVER_MessageDelete, TRITONSERVER_Message *message) {
    free(message->text);
    free(message);
    return NULL;
}
FAKE(TRITONSERVER_MessageSerializeToJson, TRITONSERVER_Message *message, const char **base,
     size_t *size) {
    *base = message->text;
    *size = strlen(message->text);
    return NULL;
}
FAKE(TRITONSERVER_MetricFamilyNew, TRITONSERVER_MetricFamily **family, TRITONSERVER_MetricKind kind,
     const char *name, const char *description) {
    UNUSED(family), UNUSED(kind), UNUSED(name), UNUSED(description);
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNSUPPORTED, "no metrics");
}
FAKE(TRITONSERVER_MetricFamilyDelete, TRITONSERVER_MetricFamily *family) {
    UNUSED(family);
    return NULL;
}
FAKE(TRITONSERVER_MetricNew, TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family,
     const TRITONSERVER_Parameter **labels, uint64_t count) {
    UNUSED(metric), UNUSED(family), UNUSED(labels), UNUSED(count);
    abort();
}
FAKE(TRITONSERVER_MetricDelete, TRITONSERVER_Metric *metric) {
    UNUSED(metric);
    abort();
}
FAKE(TRITONSERVER_MetricIncrement, TRITONSERVER_Metric *metric, double value) {
    UNUSED(metric), UNUSED(value);
    abort();
}
TRITONSERVER_Parameter *TRITONSERVER_ParameterNew(const char *name, TRITONSERVER_ParameterType type,
                                                  const void *value) {
    UNUSED(name), UNUSED(type), UNUSED(value);
    abort();
}
void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter *parameter) {
    UNUSED(parameter);
    abort();
}
FAKE(TRITONBACKEND_ApiVersion, uint32_t *major, uint32_t *minor) {
    *major = 1;
    *minor = 19;
    return NULL;
}
FAKE(TRITONBACKEND_BackendArtifacts, TRITONBACKEND_Backend *backend,
     TRITONBACKEND_ArtifactType *type, const char **location) {
    UNUSED(backend);
    *type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    *location = library;
    return NULL;
}
FAKE(TRITONBACKEND_ModelName, TRITONBACKEND_Model *model, const char **name) {
    UNUSED(model);
    *name = "net";
    return NULL;
}
FAKE(TRITONBACKEND_ModelVersion, TRITONBACKEND_Model *model, uint64_t *version) {
    UNUSED(model);
    *version = 1;
    return NULL;
}
FAKE(TRITONBACKEND_ModelRepository, TRITONBACKEND_Model *model, TRITONBACKEND_ArtifactType *type,
     const char **location) {
    UNUSED(model);
    *type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    *location = model_path;
    return NULL;
}
FAKE(TRITONBACKEND_ModelConfig, TRITONBACKEND_Model *model, uint32_t version,
     TRITONSERVER_Message **message) {
    UNUSED(model), UNUSED(version);
    return TRITONSERVER_MessageNewFromSerializedJson(message, config_text, strlen(config_text));
}
FAKE(TRITONBACKEND_ModelAutoCompleteConfig, TRITONBACKEND_Model *model, bool *completes) {
    UNUSED(model);
    *completes = false;
    return NULL;
}
FAKE(TRITONBACKEND_ModelSetConfig, TRITONBACKEND_Model *model, uint32_t version,
     TRITONSERVER_Message *message) {
    UNUSED(model), UNUSED(version), UNUSED(message);
    abort();
}
FAKE(TRITONBACKEND_ModelState, TRITONBACKEND_Model *model, void **state) {
    UNUSED(model);
    *state = model_state;
    return NULL;
}
FAKE(TRITONBACKEND_ModelSetState, TRITONBACKEND_Model *model, void *state) {
    UNUSED(model);
    model_state = state;
    return NULL;
}
FAKE(TRITONBACKEND_ModelInstanceKind, TRITONBACKEND_ModelInstance *instance,
     TRITONSERVER_InstanceGroupKind *kind) {
    UNUSED(instance);
    *kind = instance_kind;
    return NULL;
}
FAKE(TRITONBACKEND_ModelInstanceDeviceId, TRITONBACKEND_ModelInstance *instance, int32_t *id) {
    UNUSED(instance);
    *id = 0;
    return NULL;
}
FAKE(TRITONBACKEND_ModelInstanceModel, TRITONBACKEND_ModelInstance *instance,
     TRITONBACKEND_Model **model) {
    UNUSED(instance);
    *model = the_model;
    return NULL;
}
FAKE(TRITONBACKEND_ModelInstanceState, TRITONBACKEND_ModelInstance *instance, void **state) {
    UNUSED(instance);
    *state = instance_state;
    return NULL;
}
FAKE(TRITONBACKEND_ModelInstanceSetState, TRITONBACKEND_ModelInstance *instance, void *state) {
    UNUSED(instance);
    instance_state = state;
    return NULL;
}
FAKE(TRITONBACKEND_ModelInstanceReportStatistics, TRITONBACKEND_ModelInstance *instance,
     TRITONBACKEND_Request *request, bool success, uint64_t t0, uint64_t t1, uint64_t t2,
     uint64_t t3) {
    UNUSED(instance);
    if (t0 > t1 || t1 > t2 || t2 > t3 || success == (request->error[0] != 0)) abort();
    request->num_reports++;
    return NULL;
}
FAKE(TRITONBACKEND_ModelInstanceReportBatchStatistics, TRITONBACKEND_ModelInstance *instance,
     uint64_t size, uint64_t t0, uint64_t t1, uint64_t t2, uint64_t t3) {
    UNUSED(instance);
    if (t0 > t1 || t1 > t2 || t2 > t3) abort();
    run_sizes[num_runs++] = (int)size;
    return NULL;
}
FAKE(TRITONBACKEND_RequestIsCancelled, TRITONBACKEND_Request *request, bool *is_cancelled) {
    *is_cancelled = request->is_cancelled;
    return NULL;
}
FAKE(TRITONBACKEND_RequestInputCount, TRITONBACKEND_Request *request, uint32_t *count) {
    *count = request->num_inputs;
    return NULL;
}
FAKE(TRITONBACKEND_RequestInputByIndex, TRITONBACKEND_Request *request, uint32_t index,
     TRITONBACKEND_Input **input) {
    *input = &request->inputs[index];
    return NULL;
}
FAKE(TRITONBACKEND_RequestOutputCount, TRITONBACKEND_Request *request, uint32_t *count) {
    *count = request->num_outputs;
    return NULL;
}
FAKE(TRITONBACKEND_RequestOutputName, TRITONBACKEND_Request *request, uint32_t index,
     const char **name) {
    *name = request->outputs[index];
    return NULL;
}
FAKE(TRITONBACKEND_RequestOutputBufferProperties, TRITONBACKEND_Request *request, const char *name,
     size_t *size, TRITONSERVER_MemoryType *type, int64_t *id) {
    UNUSED(name), UNUSED(size);
    *type = request->memory;
    *id = 0;
    return NULL;
}
FAKE(TRITONBACKEND_RequestRelease, TRITONBACKEND_Request *request, uint32_t flags) {
    UNUSED(flags);
    request->num_releases++;
    return NULL;
}
FAKE(TRITONBACKEND_InputProperties, TRITONBACKEND_Input *input, const char **name,
     TRITONSERVER_DataType *type, const int64_t **shape, uint32_t *rank, uint64_t *size,
     uint32_t *count) {
    if (name) *name = input->name;
    if (type) *type = input->type;
    if (shape) *shape = input->shape;
    if (rank) *rank = input->rank;
    if (count) *count = input->num_buffers;
    if (size) *size = 0;
    for (uint32_t i = 0; size && i < input->num_buffers; i++)
        *size += input->sizes[i];
    return NULL;
}
FAKE(TRITONBACKEND_InputBuffer, TRITONBACKEND_Input *input, uint32_t index, const void **buffer,
     uint64_t *size, TRITONSERVER_MemoryType *type, int64_t *id) {
    *buffer = input->buffers[index];
    *size = input->sizes[index];
    *type = input->memory;
    *id = 0;
    return NULL;
}
FAKE(TRITONBACKEND_ResponseNew, TRITONBACKEND_Response **response, TRITONBACKEND_Request *request) {
    *response = malloc(sizeof **response);
    if (!*response) abort();
    (*response)->request = request;
    return NULL;
}
FAKE(TRITONBACKEND_ResponseOutput, TRITONBACKEND_Response *response, TRITONBACKEND_Output **output,
     const char *name, TRITONSERVER_DataType type, const int64_t *shape, uint32_t rank) {
    TRITONBACKEND_Request *request = response->request;
    *output = &request->answers[request->num_answers++];
    **output = (TRITONBACKEND_Output){.name = name, .type = type, .rank = rank, .request = request};
    memcpy((*output)->shape, shape, rank * sizeof *shape);
    return NULL;
}
FAKE(TRITONBACKEND_OutputBuffer, TRITONBACKEND_Output *output, void **buffer, uint64_t size,
     TRITONSERVER_MemoryType *type, int64_t *id) {
    if (output->request->has_no_room)
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "no room");
    *type = output->request->memory;
    *id = 0;
    *buffer = output->data = malloc(size ? size : 1);
    output->size = size;
    return NULL;
}
FAKE(TRITONBACKEND_ResponseSetStringParameter, TRITONBACKEND_Response *response, const char *name,
     const char *value) {
    (void)response, (void)name, (void)value;
    return NULL;
}
FAKE(TRITONBACKEND_ResponseSend, TRITONBACKEND_Response *response, uint32_t flags,
     TRITONSERVER_Error *error) {
    TRITONBACKEND_Request *request = response->request;
    if (flags != TRITONSERVER_RESPONSE_COMPLETE_FINAL) abort();
    if (error) {
        request->code = error->code;
        snprintf(request->error, sizeof request->error, "%s", error->text);
    }
    request->num_responses++;
    free(response);
    return NULL;
}

static void must(TRITONSERVER_Error *error) {
    if (!error) return;
    fprintf(stderr, "%s\n", error->text);
    exit(3);
}

void fake_open(const char *library_folder, const char *model_folder, const char *config) {
    library = library_folder;
    model_path = model_folder;
    config_text = config;
    must(TRITONBACKEND_Initialize(NULL));
    must(TRITONBACKEND_ModelInitialize(the_model));
    must(TRITONBACKEND_ModelInstanceInitialize(the_instance));
}

void fake_execute(TRITONBACKEND_Request *requests, uint32_t count, int num_reports) {
    TRITONBACKEND_Request *handles[64];
    for (uint32_t i = 0; i < count; i++)
        handles[i] = &requests[i];
    must(TRITONBACKEND_ModelInstanceExecute(the_instance, handles, count));
    for (uint32_t i = 0; i < count; i++) /* each is answered, reported and released once */
        if (requests[i].num_responses != 1 || requests[i].num_releases != 1 ||
            requests[i].num_reports != num_reports) {
            fprintf(stderr, "request %u: %d responses, %d releases, %d reports\n", i,
                    requests[i].num_responses, requests[i].num_releases, requests[i].num_reports);
            exit(4);
        }
}

void fake_close(void) {
    must(TRITONBACKEND_ModelInstanceFinalize(the_instance));
    must(TRITONBACKEND_ModelFinalize(the_model));
    must(TRITONBACKEND_Finalize(NULL));
}

void fake_add(TRITONBACKEND_Request *request, const char *name, TRITONSERVER_DataType type,
              const int64_t *shape, uint32_t rank, const void *data, uint64_t size) {
    TRITONBACKEND_Input *input = &request->inputs[request->num_inputs++];
    *input = (TRITONBACKEND_Input){.name = name, .type = type, .rank = rank, .num_buffers = 1};
    memcpy(input->shape, shape, rank * sizeof *shape);
    input->buffers[0] = data;
    input->sizes[0] = size;
}
