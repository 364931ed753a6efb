/* Takes inputs from requests and gives outputs to responses. */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 64,
    MOST_DIMENSIONS = 64,
    KEPT_BYTES = 4 << 20 /* a buffer above this is freed after the execution that needed it */
};

static TRITONSERVER_Error *reserve(Buffer *buffer, size_t size) {
    if (size <= buffer->capacity && buffer->data) return NULL;
    size_t capacity = (size / ALIGNMENT + 1) * ALIGNMENT;
    free(buffer->data);
    buffer->capacity = 0;
    buffer->data = aligned_alloc(ALIGNMENT, capacity);
    if (!buffer->data)
        return error_new(TRITONSERVER_ERROR_UNAVAILABLE, "no memory for an input of %zu bytes",
                         size);
    buffer->capacity = capacity;
    return NULL;
}

void buffer_shrink(Buffer *buffer) {
    if (buffer->capacity <= KEPT_BYTES) return;
    free(buffer->data);
    *buffer = (Buffer){0};
}

static TRITONSERVER_Error *count_elements(const char *name, const int64_t *shape, uint32_t rank,
                                          int64_t *count) {
    *count = 1;
    for (uint32_t i = 0; i < rank; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(*count, shape[i], count))
            return INVALID("input '%s' has a shape of no size", name);
    return NULL;
}

TRITONSERVER_Error *given_read(const Model *model, const Port *port, TRITONBACKEND_Input *handle,
                               Given *given) {
    TRITONSERVER_DataType type;
    int64_t expected;
    given->handle = handle;
    TRY(TRITONBACKEND_InputProperties(handle, NULL, &type, &given->shape, &given->rank,
                                      &given->size, &given->num_buffers));
    if (type != port->type->triton)
        return INVALID("input '%s' has another data type than %s", port->name, port->type->name);
    if (given->rank > MOST_DIMENSIONS)
        return INVALID("input '%s' has %u dimensions", port->name, given->rank);
    if (model->max_batch_size > 0 && given->rank == 0)
        return INVALID("input '%s' has no batch dimension", port->name);
    TRY(count_elements(port->name, given->shape, given->rank, &given->num_elements));
    if (port->is_scalar && given->num_elements != 1)
        return INVALID("input '%s' has %lld values, the model takes one", port->name,
                       (long long)given->num_elements);
    if (port->type->size == 0) return NULL;
    if (__builtin_mul_overflow(given->num_elements, (int64_t)port->type->size, &expected) ||
        (uint64_t)expected != given->size)
        return INVALID("input '%s' has %llu bytes for %lld values of %s", port->name,
                       (unsigned long long)given->size, (long long)given->num_elements,
                       port->type->name);
    return NULL;
}

/* Copies what a request gives to `to`, in host memory; `size` is what there is room for. */
static TRITONSERVER_Error *copy_given(const Given *given, char *to, uint64_t size) {
    uint64_t done = 0;
    for (uint32_t i = 0; i < given->num_buffers; i++) {
        const void *from;
        uint64_t more;
        TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
        int64_t id = 0;
        TRY(TRITONBACKEND_InputBuffer(given->handle, i, &from, &more, &type, &id));
        if (more > size - done) return INVALID("an input has more bytes than it says");
        TRY(copy(to + done, TRITONSERVER_MEMORY_CPU, from, type, more));
        done += more;
    }
    return done == size ? NULL : INVALID("an input has fewer bytes than it says");
}

/* Fills strings `at`, ... of a tensor from Triton's form: four bytes of length, then the string. */
static TRITONSERVER_Error *fill_strings(OrtValue *value, size_t at, int64_t count, const char *data,
                                        uint64_t size) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t length;
        char *string;
        if (size < sizeof length) return INVALID("fewer strings than the shape says");
        memcpy(&length, data, sizeof length);
        data += sizeof length;
        size -= sizeof length;
        if (size < length) return INVALID("a string is longer than the bytes that are left");
        TRY_ORT(ort.GetResizedStringTensorElementBuffer(value, at++, length, &string));
        if (length) memcpy(string, data, length);
        data += length;
        size -= length;
    }
    return size ? INVALID("more strings than the shape says") : NULL;
}

static TRITONSERVER_Error *gather_strings(Buffer *buffer, const Given *const *given,
                                          size_t num_requests, OrtValue *value) {
    size_t at = 0;
    for (size_t i = 0; i < num_requests; i++) {
        const Given *one = given[i];
        TRY(reserve(buffer, one->size));
        TRY(copy_given(one, buffer->data, one->size));
        TRY(fill_strings(value, at, one->num_elements, buffer->data, one->size));
        at += (size_t)one->num_elements;
    }
    return NULL;
}

/* Finds a request's bytes where they can stay: in one piece, aligned, where the session runs. */
static TRITONSERVER_Error *find_in_place(const Instance *instance, const DataType *type,
                                         const Given *given, void **data,
                                         const OrtMemoryInfo **where) {
    const void *found;
    uint64_t size;
    const Session *session = instance->session;
    TRITONSERVER_MemoryType memory =
        session->gpu ? TRITONSERVER_MEMORY_GPU : TRITONSERVER_MEMORY_CPU;
    int64_t id = session->gpu_id;
    if (given->num_buffers != 1 || type->onnx == ONNX_TYPE_BOOL) return NULL;
    TRY(TRITONBACKEND_InputBuffer(given->handle, 0, &found, &size, &memory, &id));
    bool on_gpu = memory == TRITONSERVER_MEMORY_GPU;
    if (size != given->size || (uintptr_t)found % type->size) return NULL;
    if (on_gpu && (!session->gpu || session->gpu_id != id)) return NULL;
    *data = (void *)(uintptr_t)found; /* ONNX Runtime reads its inputs only */
    *where = on_gpu ? session->gpu : ort_cpu;
    return NULL;
}

static TRITONSERVER_Error *gather_elements(const DataType *type, Buffer *buffer,
                                           const Given *const *given, size_t num_requests,
                                           size_t size) {
    size_t done = 0;
    TRY(reserve(buffer, size));
    for (size_t i = 0; i < num_requests; i++) {
        TRY(copy_given(given[i], buffer->data + done, given[i]->size));
        done += given[i]->size;
    }
    if (type->onnx == ONNX_TYPE_BOOL) /* in C++ a bool of another value is undefined behaviour */
        for (size_t i = 0; i < size; i++)
            buffer->data[i] = buffer->data[i] != 0;
    return NULL;
}

TRITONSERVER_Error *tensor_gather(Instance *instance, size_t input, const Given *const *given,
                                  size_t num_requests, OrtValue **value) {
    const Port *port = &instance->model->inputs.ports[input];
    Buffer *buffer = &instance->inputs[input];
    int64_t shape[given[0]->rank + 1];
    size_t rank = port->is_scalar ? 0 : given[0]->rank, size = 0;
    if (rank) memcpy(shape, given[0]->shape, rank * sizeof *shape);
    for (size_t i = 0; i < num_requests; i++) {
        size += given[i]->size;
        if (i) shape[0] += given[i]->shape[0];
    }
    if (port->type->size == 0) {
        TRY_ORT(ort.CreateTensorAsOrtValue(ort_allocator, shape, rank, port->type->onnx, value));
        return gather_strings(buffer, given, num_requests, *value);
    }
    void *data = NULL;
    const OrtMemoryInfo *where = ort_cpu;
    if (num_requests == 1) TRY(find_in_place(instance, port->type, given[0], &data, &where));
    if (!data) {
        TRY(gather_elements(port->type, buffer, given, num_requests, size));
        data = buffer->data;
    }
    return ort_error(
        ort.CreateTensorWithDataAsOrtValue(where, data, size, shape, rank, port->type->onnx, value),
        NULL);
}

TRITONSERVER_Error *result_read(OrtValue *value, const DataType *type, Result *result) {
    OrtShapeInfo *info;
    void *data;
    TRY_ORT(ort.GetTensorTypeAndShape(value, &info));
    OrtStatus *status = ort.GetTensorElementType(info, &result->onnx);
    if (!status) status = ort.GetDimensionsCount(info, &result->rank);
    /* a single value is given as a vector of one */
    result->shape = allocate(result->rank + 1, sizeof(int64_t));
    result->shape[0] = 1;
    if (!status) status = ort.GetDimensions(info, result->shape, result->rank);
    ort.ReleaseTensorTypeAndShapeInfo(info);
    TRY_ORT(status);
    if (result->rank == 0) result->rank = 1;
    if (result->onnx != type->onnx)
        return error_new(TRITONSERVER_ERROR_INTERNAL, "the model gives another type than %s",
                         type->name);
    result->num_elements = 1;
    for (size_t i = 0; i < result->rank; i++)
        result->num_elements *= (uint64_t)result->shape[i];
    if (type->size) {
        TRY_ORT(ort.GetTensorMutableData(value, &data));
        result->data = data;
        return NULL;
    }
    size_t length;
    TRY_ORT(ort.GetStringTensorDataLength(value, &length));
    result->offsets = allocate(result->num_elements + 1, sizeof(size_t));
    result->data = allocate(length + 1, 1);
    TRY_ORT(ort.GetStringTensorContent(value, result->data, length, result->offsets,
                                       result->num_elements));
    result->offsets[result->num_elements] = length;
    return NULL;
}

TRITONSERVER_Error *result_place(const Session *session, const Port *port,
                                 TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                                 uint64_t num_rows, OrtValue **value) {
    TRITONBACKEND_Output *output;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_GPU;
    int64_t id = session->gpu_id, shape[port->rank + 1];
    size_t size = port->type->size;
    void *data;
    for (size_t i = 0; i < port->rank; i++) {
        shape[i] = port->dims[i] < 0 ? (int64_t)num_rows : port->dims[i];
        size *= (size_t)shape[i];
    }
    size_t asked = size;
    TRITONSERVER_Error *error =
        TRITONBACKEND_RequestOutputBufferProperties(request, port->name, &asked, &type, &id);
    if (error) { /* the allocator cannot say */
        TRITONSERVER_ErrorDelete(error);
        return NULL;
    }
    if (type != TRITONSERVER_MEMORY_GPU || id != session->gpu_id || size == 0) return NULL;
    TRY(TRITONBACKEND_ResponseOutput(response, &output, port->name, port->type->triton, shape,
                                     (uint32_t)port->rank));
    TRY(TRITONBACKEND_OutputBuffer(output, &data, size, &type, &id));
    if (type != TRITONSERVER_MEMORY_GPU || id != session->gpu_id)
        return error_new(TRITONSERVER_ERROR_INTERNAL,
                         "output '%s': Triton offers memory of a GPU and gives other", port->name);
    return ort_error(ort.CreateTensorWithDataAsOrtValue(session->gpu, data, size, shape, port->rank,
                                                        port->type->onnx, value),
                     NULL);
}

void result_free(Result *result) {
    if (result->offsets) free(result->data);
    free(result->offsets);
    free(result->shape);
}

/* Returns strings first, ... in Triton's form, which the caller frees. */
static char *pack_strings(const Result *result, uint64_t first, uint64_t count, uint64_t *size) {
    const size_t *offsets = result->offsets + first;
    *size = offsets[count] - offsets[0] + count * sizeof(uint32_t);
    char *packed = allocate(*size + 1, 1), *to = packed;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t length = (uint32_t)(offsets[i + 1] - offsets[i]);
        memcpy(to, &length, sizeof length);
        memcpy(to + sizeof length, result->data + offsets[i], length);
        to += sizeof length + length;
    }
    return packed;
}

TRITONSERVER_Error *result_send(const Port *port, const Result *result, uint64_t first_row,
                                uint64_t num_rows, bool whole, TRITONBACKEND_Response *response) {
    TRITONBACKEND_Output *output;
    void *to;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0;
    uint64_t first = 0, count = result->num_elements, size;
    int64_t rows = result->shape[0];
    if (!whole) {
        uint64_t each = rows ? result->num_elements / (uint64_t)rows : 0;
        first = first_row * each;
        count = num_rows * each;
        result->shape[0] = (int64_t)num_rows;
    }
    TRITONSERVER_Error *error = TRITONBACKEND_ResponseOutput(
        response, &output, port->name, port->type->triton, result->shape, (uint32_t)result->rank);
    result->shape[0] = rows;
    TRY(error);
    char *packed = NULL;
    const char *from = result->data + first * port->type->size;
    size = count * port->type->size;
    if (result->offsets) from = packed = pack_strings(result, first, count, &size);
    error = TRITONBACKEND_OutputBuffer(output, &to, size, &type, &id);
    if (!error) error = copy(to, type, from, TRITONSERVER_MEMORY_CPU, size);
    free(packed);
    return error;
}
