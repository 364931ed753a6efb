/* Reads a model's configuration, which Triton hands over as JSON with every key in it. */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const DataType data_types[] = {
    {"TYPE_BOOL", TRITONSERVER_TYPE_BOOL, ONNX_TYPE_BOOL, 1},
    {"TYPE_UINT8", TRITONSERVER_TYPE_UINT8, ONNX_TYPE_UINT8, 1},
    {"TYPE_UINT16", TRITONSERVER_TYPE_UINT16, ONNX_TYPE_UINT16, 2},
    {"TYPE_UINT32", TRITONSERVER_TYPE_UINT32, ONNX_TYPE_UINT32, 4},
    {"TYPE_UINT64", TRITONSERVER_TYPE_UINT64, ONNX_TYPE_UINT64, 8},
    {"TYPE_INT8", TRITONSERVER_TYPE_INT8, ONNX_TYPE_INT8, 1},
    {"TYPE_INT16", TRITONSERVER_TYPE_INT16, ONNX_TYPE_INT16, 2},
    {"TYPE_INT32", TRITONSERVER_TYPE_INT32, ONNX_TYPE_INT32, 4},
    {"TYPE_INT64", TRITONSERVER_TYPE_INT64, ONNX_TYPE_INT64, 8},
    {"TYPE_FP16", TRITONSERVER_TYPE_FP16, ONNX_TYPE_FLOAT16, 2},
    {"TYPE_FP32", TRITONSERVER_TYPE_FP32, ONNX_TYPE_FLOAT, 4},
    {"TYPE_FP64", TRITONSERVER_TYPE_FP64, ONNX_TYPE_DOUBLE, 8},
    {"TYPE_STRING", TRITONSERVER_TYPE_BYTES, ONNX_TYPE_STRING, 0},
    {"TYPE_BF16", TRITONSERVER_TYPE_BF16, ONNX_TYPE_BFLOAT16, 2},
};
enum { NUM_DATA_TYPES = sizeof(data_types) / sizeof(data_types[0]) };

const DataType *data_type_named(const char *name) {
    for (size_t i = 0; i < NUM_DATA_TYPES; i++)
        if (strcmp(data_types[i].name, name) == 0) return &data_types[i];
    return NULL;
}

const DataType *data_type_of(OnnxType onnx) {
    for (size_t i = 0; i < NUM_DATA_TYPES; i++)
        if (data_types[i].onnx == onnx) return &data_types[i];
    return NULL;
}

const char *parameter(const Model *model, const char *key) {
    const Json *value = json_get(json_get(model->config, "parameters"), key);
    return json_text(json_get(value, "string_value"), value ? "" : NULL);
}

static TRITONSERVER_Error *read_ports(const Model *model, const char *side, Ports *ports) {
    const Json *listed = json_get(model->config, side);
    for (const Json *io = listed ? listed->first : NULL; io; io = io->next)
        ports->count++;
    ports->ports = allocate(ports->count, sizeof(Port));
    Port *port = ports->ports;
    for (const Json *io = listed ? listed->first : NULL; io; io = io->next, port++) {
        const char *type = json_text(json_get(io, "data_type"), "");
        port->name = json_text(json_get(io, "name"), "");
        port->type = data_type_named(type);
        if (!port->type)
            return INVALID("unable to load model '%s': %s '%s' has data type %s", model->name, side,
                           port->name, type);
    }
    return NULL;
}

static uint64_t count_warmups(const Json *config) {
    const Json *warmups = json_get(config, "model_warmup");
    uint64_t executions = 0;
    for (const Json *warmup = warmups ? warmups->first : NULL; warmup; warmup = warmup->next) {
        int64_t batch_size = 0, count = 0;
        json_integer(json_get(warmup, "batch_size"), &batch_size);
        json_integer(json_get(warmup, "count"), &count);
        if (batch_size > 0) executions += count > 1 ? (uint64_t)count : 1;
    }
    return executions;
}

/* Sums up the parameters that decide this version's answers: clients compare it with that of the
 * configuration whose names and thresholds they hold. FNV-1a, 64 bits. */
static void sum_up_decision(Model *model) {
    static const char *const keys[] = {"thresher.decision", "thresher.certificate_sha256"};
    uint64_t sum = 0xcbf29ce484222325u;
    bool is_there = false;
    for (size_t i = 0; i < 2; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s/%llu", keys[i], (unsigned long long)model->version);
        const char *text = parameter(model, key);
        is_there = is_there || (text && *text);
        for (; text && *text; text++)
            sum = (sum ^ (unsigned char)*text) * 0x100000001b3u;
    }
    if (is_there)
        snprintf(model->decision, sizeof model->decision, "%016llx", (unsigned long long)sum);
}

TRITONSERVER_Error *configuration_read(Model *model) {
    TRITONSERVER_Message *message;
    const char *text;
    size_t length;
    char reason[128];
    TRY(TRITONBACKEND_ModelConfig(model->handle, 1, &message));
    TRITONSERVER_Error *error = TRITONSERVER_MessageSerializeToJson(message, &text, &length);
    if (!error) {
        free(model->config);
        free(model->text);
        model->text = strndup(text, length);
        model->config = json_parse(text, length, reason, sizeof reason);
        if (!model->config)
            error = error_new(TRITONSERVER_ERROR_INTERNAL,
                              "unable to load model '%s': configuration, %s", model->name, reason);
    }
    TRITONSERVER_MessageDelete(message);
    TRY(error);
    free(model->inputs.ports);
    free(model->outputs.ports);
    model->inputs = model->outputs = (Ports){0};
    model->max_batch_size = 0;
    json_integer(json_get(model->config, "max_batch_size"), &model->max_batch_size);
    model->num_warmups = count_warmups(model->config);
    sum_up_decision(model);
    TRY(read_ports(model, "input", &model->inputs));
    return read_ports(model, "output", &model->outputs);
}

static bool is_one_of(const char *text, const char *const *known) {
    for (; *known; known++)
        if (strcmp(text, *known) == 0) return true;
    return false;
}

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

/* A key with a dot in it is somebody's note, unless it is of one of ONNX Runtime's namespaces. */
static bool is_note(const char *key) {
    return strchr(key, '.') && !starts_with(key, "memory.") && !starts_with(key, "ep.");
}

void warn_of_unknown_keys(const Model *model, bool on_gpu) {
    static const char *const ours[] = {"label_metrics",
                                       "intra_op_thread_count",
                                       "inter_op_thread_count",
                                       "execution_mode",
                                       "enable_mem_arena",
                                       "enable_mem_pattern",
                                       "memory.enable_memory_arena_shrinkage",
                                       "FORCE_CPU_ONLY_INPUT_TENSORS",
                                       NULL};
    static const char *const of_cuda[] = {"cudnn_conv_algo_search", "arena_extend_strategy",
                                          "gpu_mem_limit", "do_copy_in_default_stream", NULL};
    const Json *parameters = json_get(model->config, "parameters");
    for (const Json *p = parameters ? parameters->first : NULL; p; p = p->next) {
        if (is_one_of(p->key, of_cuda)) {
            if (!on_gpu) warn(model, "parameter %s: this instance is on CPU", p->key);
        } else if (!is_one_of(p->key, ours) && !is_note(p->key)) {
            warn(model, "parameter %s: unknown", p->key);
        }
    }
    const Json *optimization = json_get(model->config, "optimization");
    const Json *cuda = json_get(optimization, "cuda");
    if (cuda && cuda->first && json_get(cuda, "graphs") &&
        json_get(cuda, "graphs")->kind == JSON_TRUE)
        warn(model, "optimization.cuda: CUDA graphs are asked for with accelerator cuda here");
    const Json *files = json_get(model->config, "cc_model_filenames");
    if (files && files->first) warn(model, "cc_model_filenames: one file serves every GPU");
    const Json *policy = json_get(model->config, "model_transaction_policy");
    const Json *decoupled = json_get(policy, "decoupled");
    if (decoupled && decoupled->kind == JSON_TRUE)
        warn(model, "model_transaction_policy.decoupled: each request gets one response");
}
