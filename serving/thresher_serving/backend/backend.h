/* What the files of this backend share. */
#ifndef THRESHER_BACKEND_H
#define THRESHER_BACKEND_H

#define _GNU_SOURCE 1 /* what C11 alone hides: strdup, realpath, clock_gettime */

#include "json.h"
#include "onnxruntime_abi.h"
#include "triton_abi.h"

#include <pthread.h>

/* Ends the function with the error of a call, if it has one. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        TRITONSERVER_Error *error_of_call = (call);                                                \
        if (error_of_call) return error_of_call;                                                   \
    } while (0)
#define TRY_ORT(call) TRY(ort_error((call), NULL))

typedef struct {
    const char *name; /* as configurations write it */
    TRITONSERVER_DataType triton;
    OnnxType onnx;
    size_t size; /* bytes of an element, 0 for strings */
} DataType;

/* An input or output of an ONNX model. */
typedef struct {
    char *name;
    const DataType *type; /* NULL if Triton has none for it */
    size_t rank;
    int64_t *dims; /* -1 where the size is free */
} Tensor;

typedef struct {
    Tensor *tensors;
    size_t count;
} Tensors;

/* An input or output of a model's configuration. */
typedef struct {
    const char *name;
    const DataType *type;
    bool is_required; /* an input that is no initializer */
    bool is_scalar;   /* the ONNX model takes a single value, of rank 0 */
    bool is_sized;    /* an output whose shape follows from the number of rows */
    int64_t *dims;    /* of an output in the ONNX model */
    size_t rank;
} Port;

typedef struct {
    Port *ports;
    size_t count;
} Ports;

/* An ONNX Runtime session. Instances on the CPU share one, which may run in several threads; on a
 * GPU each instance has its own, and with it its own stream. */
typedef struct {
    OrtSession *session;
    OrtRunOptions *run_options;
    OrtMemoryInfo *gpu; /* where inputs and outputs may be, NULL on the CPU */
    int64_t gpu_id;
    Tensors inputs, optional, outputs; /* optional: initializers that an input may override */
} Session;

typedef struct LabelCounts LabelCounts;

typedef struct {
    TRITONBACKEND_Model *handle;
    const char *name, *folder;
    uint64_t version;
    char *text;   /* of the configuration, as long as it may be completed */
    Json *config; /* the names in `inputs` and `outputs` are its strings */
    int64_t max_batch_size;
    Ports inputs, outputs;
    char decision[17];    /* a checksum of what decides, which answers carry; empty without it */
    uint64_t num_warmups; /* executions that begin each instance and are nobody's requests */
    LabelCounts *label_counts;
    size_t labels_output; /* which of `outputs` is counted */
    pthread_mutex_t lock; /* for what follows */
    Session *on_cpu;
    bool is_checked; /* against the ONNX model */
} Model;

typedef struct {
    char *data;
    size_t capacity;
} Buffer;

typedef struct {
    TRITONBACKEND_ModelInstance *handle;
    Model *model;
    Session *session;
    Buffer *inputs; /* one of the model's each, where requests are gathered */
    uint64_t warmups_left;
} Instance;

/* backend.c */
extern OrtApi ort;
extern OrtEnv *ort_env;
extern OrtMemoryInfo *ort_cpu;
extern OrtAllocator *ort_allocator;
TRITONSERVER_Error *error_new(TRITONSERVER_Error_Code code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define INVALID(...) error_new(TRITONSERVER_ERROR_INVALID_ARG, __VA_ARGS__)
/* Returns an ONNX Runtime status as an error, which begins with `where` unless that is NULL. */
TRITONSERVER_Error *ort_error(OrtStatus *status, const char *where);
void log_message(TRITONSERVER_LogLevel level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Logs that a key of the configuration has no effect. */
void warn(const Model *model, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *allocate(size_t count, size_t size); /* zeros; ends the process where there is no memory */

/* configuration.c */
TRITONSERVER_Error *configuration_read(Model *model);
const char *parameter(const Model *model, const char *key); /* NULL where it is not set */
void warn_of_unknown_keys(const Model *model, bool on_gpu);
const DataType *data_type_named(const char *name);
const DataType *data_type_of(OnnxType onnx);

/* session.c */
TRITONSERVER_Error *session_open(const Model *model, bool on_gpu, int device, bool warns,
                                 Session **session);
void session_close(Session *session);

/* options.c */
TRITONSERVER_Error *session_options(const Model *model, OrtSessionOptions **options);
/* Adds the execution providers to ask for; `on_gpu` is whether one of them is a GPU's. */
TRITONSERVER_Error *add_providers(const Model *model, OrtSessionOptions *options, int device,
                                  bool warns, bool *on_gpu);

/* signature.c */
TRITONSERVER_Error *signature_check(Model *model, const Session *session);
TRITONSERVER_Error *signature_complete(Model *model);
const Tensor *tensor_named(const Tensors *tensors, const char *name);

/* execution.c */
void execute(Instance *instance, TRITONBACKEND_Request **requests, uint32_t num_requests);

/* tensors.c */
/* What a request gives for an input. */
typedef struct {
    TRITONBACKEND_Input *handle; /* NULL if it gives nothing */
    const int64_t *shape;
    uint32_t rank, num_buffers;
    uint64_t size; /* bytes */
    int64_t num_elements;
} Given;
/* Reads what a request gives for `port`, and checks it. */
TRITONSERVER_Error *given_read(const Model *model, const Port *port, TRITONBACKEND_Input *handle,
                               Given *given);
/* Returns several requests' rows of an input as one tensor; that of one request is used in place
 * where it can be. */
TRITONSERVER_Error *tensor_gather(Instance *instance, size_t input, const Given *const *given,
                                  size_t num_requests, OrtValue **value);
/* An output of a run. */
typedef struct {
    OnnxType onnx;
    size_t rank;
    int64_t *shape;
    char *data;      /* a string's characters, or any other type's elements */
    size_t *offsets; /* of the strings, one more than there are */
    uint64_t num_elements;
} Result;
TRITONSERVER_Error *result_read(OrtValue *value, const DataType *type, Result *result);
void result_free(Result *result);
/* Adds the output of a request that runs alone to its response, and has ONNX Runtime write it
 * there, where Triton offers memory of the session's GPU; else `value` stays NULL. */
TRITONSERVER_Error *result_place(const Session *session, const Port *port,
                                 TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                                 uint64_t num_rows, OrtValue **value);
/* Adds rows of an output to a response. */
TRITONSERVER_Error *result_send(const Port *port, const Result *result, uint64_t first_row,
                                uint64_t num_rows, bool whole, TRITONBACKEND_Response *response);
void buffer_shrink(Buffer *buffer);

/* device.c */
/* Copies bytes of which either side may be on a GPU. */
TRITONSERVER_Error *copy(void *to, TRITONSERVER_MemoryType to_type, const void *from,
                         TRITONSERVER_MemoryType from_type, size_t size);

/* label_counts.c */
/* Opens what counts a model's labels; NULL if it has none, or is not to count them. */
TRITONSERVER_Error *label_counts_open(const Model *model, const Session *session,
                                      LabelCounts **opened);
void label_counts_add(LabelCounts *counts, const unsigned char *labels_nl, size_t num_rows,
                      size_t num_labels);
void label_counts_close(LabelCounts *counts);
void label_counts_finalize(void);

#endif
