/* Session options and execution providers, as a model's configuration asks for them. */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MOST_OPTIONS = 128 };

static const char ON_GPU[] = "gpu_execution_accelerator", ON_CPU[] = "cpu_execution_accelerator";

/* Options of a provider. */
typedef struct {
    const char *keys[MOST_OPTIONS], *values[MOST_OPTIONS];
    size_t count;
} Options;

static TRITONSERVER_Error *set_option(Options *options, const char *key, const char *value) {
    size_t at = 0;
    while (at < options->count && strcmp(options->keys[at], key) != 0)
        at++;
    if (at == MOST_OPTIONS) return INVALID("more than %d options of one accelerator", MOST_OPTIONS);
    options->keys[at] = key;
    options->values[at] = value;
    if (at == options->count) options->count++;
    return NULL;
}

static const char *get_option(const Options *options, const char *key) {
    for (size_t i = 0; i < options->count; i++)
        if (strcmp(options->keys[i], key) == 0) return options->values[i];
    return "";
}

static TRITONSERVER_Error *read_whole(const char *key, const char *value, int *number) {
    int64_t read;
    if (!text_integer(value, &read) || read > INT32_MAX)
        return INVALID("%s is \"%s\", expected a whole number", key, value);
    *number = read < 0 ? 0 : (int)read;
    return NULL;
}

static TRITONSERVER_Error *read_boolean(const char *key, const char *value, bool *is_on) {
    *is_on = strcmp(value, "1") == 0 || strcasecmp(value, "true") == 0;
    if (*is_on || strcmp(value, "0") == 0 || strcasecmp(value, "false") == 0) return NULL;
    return INVALID("%s is \"%s\", expected \"0\", \"1\", \"true\" or \"false\"", key, value);
}

static TRITONSERVER_Error *apply_parameter(OrtSessionOptions *options, const char *key,
                                           const char *value) {
    int number = 0;
    bool is_on = false;
    if (strcmp(key, "intra_op_thread_count") == 0) {
        TRY(read_whole(key, value, &number));
        TRY_ORT(ort.SetIntraOpNumThreads(options, number));
    } else if (strcmp(key, "inter_op_thread_count") == 0) {
        TRY(read_whole(key, value, &number));
        TRY_ORT(ort.SetInterOpNumThreads(options, number));
    } else if (strcmp(key, "execution_mode") == 0) {
        if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
            return INVALID("%s is \"%s\", expected \"0\" or \"1\"", key, value);
        TRY_ORT(
            ort.SetSessionExecutionMode(options, value[0] == '1' ? ORT_PARALLEL : ORT_SEQUENTIAL));
    } else if (strcmp(key, "enable_mem_arena") == 0) {
        TRY(read_boolean(key, value, &is_on));
        TRY_ORT(is_on ? ort.EnableCpuMemArena(options) : ort.DisableCpuMemArena(options));
    } else if (strcmp(key, "enable_mem_pattern") == 0) {
        TRY(read_boolean(key, value, &is_on));
        TRY_ORT(is_on ? ort.EnableMemPattern(options) : ort.DisableMemPattern(options));
    } else if (strncmp(key, "session.", 8) == 0) {
        TRY_ORT(ort.AddSessionConfigEntry(options, key, value));
    }
    return NULL;
}

static TRITONSERVER_Error *fill_options(const Model *model, OrtSessionOptions *options) {
    const Json *optimization = json_get(model->config, "optimization");
    int64_t level = 0;
    json_integer(json_get(json_get(optimization, "graph"), "level"), &level);
    TRY_ORT(ort.SetSessionGraphOptimizationLevel(options, level == -1  ? ORT_ENABLE_BASIC
                                                          : level == 1 ? ORT_ENABLE_EXTENDED
                                                          : level == 2 ? ORT_DISABLE_ALL
                                                                       : ORT_ENABLE_ALL));
    TRY_ORT(ort.SetSessionLogId(options, model->name));
    const Json *parameters = json_get(model->config, "parameters");
    for (const Json *p = parameters ? parameters->first : NULL; p; p = p->next)
        TRY(apply_parameter(options, p->key, json_text(json_get(p, "string_value"), "")));
    const Json *operations = json_get(model->config, "model_operations");
    const Json *libraries = json_get(operations, "op_library_filename");
    for (const Json *library = libraries ? libraries->first : NULL; library;
         library = library->next)
        TRY(ort_error(ort.RegisterCustomOpsLibrary_V2(options, json_text(library, "")),
                      "model_operations.op_library_filename"));
    return NULL;
}

TRITONSERVER_Error *session_options(const Model *model, OrtSessionOptions **options) {
    TRY_ORT(ort.CreateSessionOptions(options));
    TRITONSERVER_Error *error = fill_options(model, *options);
    if (error) {
        ort.ReleaseSessionOptions(*options);
        *options = NULL;
    }
    return error;
}

static bool has_provider(const char *name) {
    char **names;
    int count;
    bool found = false;
    OrtStatus *status = ort.GetAvailableProviders(&names, &count);
    if (status) {
        ort.ReleaseStatus(status);
        return false;
    }
    for (int i = 0; i < count; i++)
        found = found || strcmp(names[i], name) == 0;
    status = ort.ReleaseAvailableProviders(names, count);
    if (status) ort.ReleaseStatus(status);
    return found;
}

/* Finds an accelerator by name; key: gpu_execution_accelerator or cpu_execution_accelerator. */
static const Json *accelerator(const Model *model, const char *key, const char *name) {
    const Json *all = json_get(json_get(model->config, "optimization"), "execution_accelerators");
    const Json *listed = json_get(all, key);
    const Json *found = listed ? listed->first : NULL;
    while (found && strcmp(json_text(json_get(found, "name"), ""), name) != 0)
        found = found->next;
    return found;
}

static TRITONSERVER_Error *refuse_unknown(const Model *model, const char *key, const char *one,
                                          const char *other) {
    const Json *all = json_get(json_get(model->config, "optimization"), "execution_accelerators");
    const Json *listed = json_get(all, key);
    for (const Json *a = listed ? listed->first : NULL; a; a = a->next) {
        const char *name = json_text(json_get(a, "name"), "");
        if (strcmp(name, one) != 0 && strcmp(name, other) != 0)
            return INVALID("unknown Execution Accelerator '%s' is requested", name);
    }
    return NULL;
}

static TRITONSERVER_Error *tensorrt_option(Options *options, const char *key, const char *value) {
    static const char *const renamed[][2] = {
        {"max_workspace_size_bytes", "trt_max_workspace_size"},
        {"int8_calibration_table_name", "trt_int8_calibration_table_name"},
        {"int8_use_native_calibration_table", "trt_int8_use_native_calibration_table"}};
    static const char *const precisions[][2] = {
        {"FP16", "trt_fp16_enable"}, {"BF16", "trt_bf16_enable"}, {"INT8", "trt_int8_enable"}};
    if (strcmp(key, "precision_mode") == 0) {
        if (strcmp(value, "FP32") == 0) return NULL;
        for (size_t i = 0; i < 3; i++)
            if (strcmp(value, precisions[i][0]) == 0)
                return set_option(options, precisions[i][1], "1");
        return INVALID("unsupported precision mode '%s' is requested", value);
    }
    for (size_t i = 0; i < 3; i++)
        if (strcmp(key, renamed[i][0]) == 0) return set_option(options, renamed[i][1], value);
    if (strncmp(key, "trt_", 4) == 0) return set_option(options, key, value);
    return INVALID("unknown parameter '%s' is provided for TensorRT Execution Accelerator", key);
}

static TRITONSERVER_Error *tensorrt_options(const Json *given, const char *device, Options *out) {
    const Json *parameters = json_get(given, "parameters");
    TRY(set_option(out, "device_id", device));
    for (const Json *p = parameters ? parameters->first : NULL; p; p = p->next)
        TRY(tensorrt_option(out, p->key, json_text(p, "")));
    /* What TensorRT leaves to CUDA where it may lower the precision: its default, and the head. */
    bool lowers = strcmp(get_option(out, "trt_fp16_enable"), "1") == 0 ||
                  strcmp(get_option(out, "trt_bf16_enable"), "1") == 0 ||
                  strcmp(get_option(out, "trt_int8_enable"), "1") == 0;
    if (lowers && !*get_option(out, "trt_op_types_to_exclude"))
        TRY(set_option(out, "trt_op_types_to_exclude",
                       "NonMaxSuppression,NonZero,RoiAlign,Sigmoid,GreaterOrEqual"));
    return NULL;
}

/* A number in `parameters` that is a name in ONNX Runtime. */
static TRITONSERVER_Error *set_choice(const Model *model, Options *options, const char *key,
                                      const char *const *names, int count) {
    const char *value = parameter(model, key);
    int64_t at;
    if (!value) return NULL;
    if (!text_integer(value, &at))
        return INVALID("%s is \"%s\", expected a whole number", key, value);
    if (at < 0 || at >= count) return INVALID("unsupported %s value '%s' is requested", key, value);
    return set_option(options, key, names[at]);
}

static TRITONSERVER_Error *cuda_options(const Model *model, const char *device, Options *out) {
    static const char *const searches[] = {"EXHAUSTIVE", "HEURISTIC", "DEFAULT"};
    static const char *const strategies[] = {"kNextPowerOfTwo", "kSameAsRequested"};
    static const char *const plain[] = {"gpu_mem_limit", "do_copy_in_default_stream"};
    const Json *parameters = json_get(accelerator(model, ON_GPU, "cuda"), "parameters");
    TRY(set_option(out, "use_tf32", "0")); /* it would move decisions near a threshold */
    for (const Json *p = parameters ? parameters->first : NULL; p; p = p->next)
        TRY(set_option(out, p->key, json_text(p, "")));
    TRY(set_choice(model, out, "cudnn_conv_algo_search", searches, 3));
    TRY(set_choice(model, out, "arena_extend_strategy", strategies, 2));
    for (size_t i = 0; i < 2; i++)
        if (parameter(model, plain[i])) TRY(set_option(out, plain[i], parameter(model, plain[i])));
    return set_option(out, "device_id", device);
}

static TRITONSERVER_Error *add_tensorrt(OrtSessionOptions *options, const Options *given) {
    OrtTensorRTOptions *tensorrt;
    TRY_ORT(ort.CreateTensorRTProviderOptions(&tensorrt));
    OrtStatus *status =
        ort.UpdateTensorRTProviderOptions(tensorrt, given->keys, given->values, given->count);
    if (!status) status = ort.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, tensorrt);
    ort.ReleaseTensorRTProviderOptions(tensorrt);
    return ort_error(status, NULL);
}

static TRITONSERVER_Error *add_cuda(OrtSessionOptions *options, const Options *given) {
    OrtCUDAOptions *cuda;
    TRY_ORT(ort.CreateCUDAProviderOptions(&cuda));
    OrtStatus *status =
        ort.UpdateCUDAProviderOptions(cuda, given->keys, given->values, given->count);
    if (!status) status = ort.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda);
    ort.ReleaseCUDAProviderOptions(cuda);
    return ort_error(status, NULL);
}

/* Warns that a provider cannot be had, with the reason, which it deletes. */
static void go_without(const Model *model, bool warns, const char *what, TRITONSERVER_Error *why) {
    if (!why) return;
    if (warns) warn(model, "%s: %s", what, TRITONSERVER_ErrorMessage(why));
    TRITONSERVER_ErrorDelete(why);
}

static TRITONSERVER_Error *missing(const char *what) {
    return error_new(TRITONSERVER_ERROR_UNAVAILABLE, "%s", what);
}

static TRITONSERVER_Error *add_gpu(const Model *model, OrtSessionOptions *options, int device,
                                   bool warns, bool *is_added) {
    Options for_tensorrt = {.count = 0}, for_cuda = {.count = 0};
    char number[16];
    TRITONSERVER_Error *error;
    snprintf(number, sizeof number, "%d", device);
    const Json *tensorrt = accelerator(model, ON_GPU, "tensorrt");
    if (tensorrt) {
        TRY(tensorrt_options(tensorrt, number, &for_tensorrt));
        error = has_provider("TensorrtExecutionProvider")
                    ? add_tensorrt(options, &for_tensorrt)
                    : missing("this ONNX Runtime has no TensorRT");
        *is_added = !error;
        go_without(model, warns, "accelerator tensorrt", error);
    }
    TRY(cuda_options(model, number, &for_cuda));
    error = has_provider("CUDAExecutionProvider") ? add_cuda(options, &for_cuda)
                                                  : missing("this ONNX Runtime has no CUDA");
    *is_added = *is_added || !error;
    go_without(model, warns, "instance_group KIND_GPU, the CPU runs", error);
    return NULL;
}

TRITONSERVER_Error *add_providers(const Model *model, OrtSessionOptions *options, int device,
                                  bool warns, bool *on_gpu) {
    bool is_asked = *on_gpu;
    *on_gpu = false;
    TRY(refuse_unknown(model, ON_GPU, "tensorrt", "cuda"));
    TRY(refuse_unknown(model, ON_CPU, "openvino", "openvino"));
    if (is_asked) {
        TRY(add_gpu(model, options, device, warns, on_gpu));
    } else if (warns) {
        if (accelerator(model, ON_GPU, "tensorrt"))
            warn(model, "accelerator tensorrt: this instance is on CPU");
        if (accelerator(model, ON_GPU, "cuda"))
            warn(model, "accelerator cuda: this instance is on CPU");
    }
    if (accelerator(model, ON_CPU, "openvino")) {
        const char *key = "device_type", *value = "CPU";
        TRITONSERVER_Error *error = has_provider("OpenVINOExecutionProvider")
                                        ? ort_error(ort.SessionOptionsAppendExecutionProvider(
                                                        options, "OpenVINO", &key, &value, 1),
                                                    NULL)
                                        : missing("this ONNX Runtime has no OpenVINO");
        go_without(model, warns, "accelerator openvino", error);
    }
    return NULL;
}
