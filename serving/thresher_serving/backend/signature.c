/* Compares a model's configuration with the inputs and outputs of its ONNX file, and completes it
 * from them. */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_MAX_BATCH_SIZE = 4 }; /* what NVIDIA's backend completes to */
#define NO_TYPE "a type that Triton does not have"

static void put_string(FILE *out, const char *string) {
    fputc('"', out);
    for (; *string; string++) {
        unsigned char c = (unsigned char)*string;
        fprintf(out, c == '"' || c == '\\' || c < 0x20 ? "\\u%04x" : "%c", c);
    }
    fputc('"', out);
}

static void put_dims(FILE *out, const int64_t *dims, size_t rank) {
    fputc('[', out);
    for (size_t i = 0; i < rank; i++)
        fprintf(out, "%s%lld", i ? ", " : "", (long long)dims[i]);
    fputc(']', out);
}

const Tensor *tensor_named(const Tensors *tensors, const char *name) {
    for (size_t i = 0; i < tensors->count; i++)
        if (strcmp(tensors->tensors[i].name, name) == 0) return &tensors->tensors[i];
    return NULL;
}

static void name_dims(const int64_t *dims, size_t rank, char *text, size_t size) {
    FILE *out = fmemopen(text, size, "w");
    if (!out) abort();
    setbuf(out, NULL); /* what does not fit is cut */
    put_dims(out, dims, rank);
    fclose(out);
}

static bool fits(const int64_t *dims, size_t rank, const Tensor *tensor) {
    bool is_one = true, is_equal = rank == tensor->rank;
    for (size_t i = 0; i < rank; i++)
        is_one = is_one && dims[i] == 1;
    for (size_t i = 0; i < rank && is_equal; i++)
        is_equal = tensor->dims[i] == -1 || tensor->dims[i] == dims[i];
    return is_equal || (tensor->rank == 0 && is_one);
}

static TRITONSERVER_Error *check_dims(const Model *model, const char *side, const Json *io,
                                      const Tensor *tensor) {
    const Json *reshape = json_get(io, "reshape");
    const Json *listed =
        reshape && reshape->kind == JSON_OBJECT ? json_get(reshape, "shape") : json_get(io, "dims");
    bool batched = model->max_batch_size > 0;
    size_t rank = batched;
    for (const Json *d = listed ? listed->first : NULL; d; d = d->next)
        rank++;
    int64_t *dims = allocate(rank + 1, sizeof *dims);
    dims[0] = -1;
    size_t at = batched;
    for (const Json *d = listed ? listed->first : NULL; d; d = d->next)
        json_integer(d, &dims[at++]);
    TRITONSERVER_Error *error = NULL;
    bool has_axis = !batched || (tensor->rank > 0 && tensor->dims[0] == -1);
    if (!has_axis || !fits(dims, rank, tensor)) {
        char shape[256], configured[256];
        name_dims(tensor->dims, tensor->rank, shape, sizeof shape);
        name_dims(dims, rank, configured, sizeof configured);
        error = has_axis
                    ? INVALID("unable to load model '%s': %s '%s': the model has shape %s, the "
                              "configuration %s",
                              model->name, side, tensor->name, shape, configured)
                    : INVALID("unable to load model '%s': %s '%s' has shape %s in the model; "
                              "max_batch_size > 0 needs a first axis of -1",
                              model->name, side, tensor->name, shape);
    }
    free(dims);
    return error;
}

static TRITONSERVER_Error *check_port(const Model *model, const char *side, const Json *io,
                                      const Port *port, const Tensor *tensor,
                                      const Tensors *known) {
    const Json *ragged = json_get(io, "allow_ragged_batch");
    if (ragged && ragged->kind == JSON_TRUE)
        return INVALID("unable to load model '%s': %s '%s': a ragged batch needs NVIDIA's C++ "
                       "onnxruntime backend",
                       model->name, side, port->name);
    if (!tensor) {
        char names[512];
        size_t at = 0;
        names[0] = '\0';
        for (size_t i = 0; i < known->count && at < sizeof names; i++)
            at += (size_t)snprintf(names + at, sizeof names - at, "%s'%s'", i ? ", " : "",
                                   known->tensors[i].name);
        return INVALID("unable to load model '%s': %s '%s' is not in the model, which has [%s]",
                       model->name, side, port->name, names);
    }
    if (tensor->type != port->type)
        return INVALID("unable to load model '%s': %s '%s': configuration expects datatype %s, "
                       "model provides %s",
                       model->name, side, port->name, port->type->name,
                       tensor->type ? tensor->type->name : NO_TYPE);
    return check_dims(model, side, io, tensor);
}

static TRITONSERVER_Error *refuse_what_is_missing(const Model *model) {
    static const char *const keys[] = {"batch_input", "batch_output"};
    for (size_t i = 0; i < 2; i++) {
        const Json *listed = json_get(model->config, keys[i]);
        if (listed && listed->first)
            return INVALID("unable to load model '%s': %s needs NVIDIA's C++ onnxruntime backend",
                           model->name, keys[i]);
    }
    const Json *state = json_get(json_get(model->config, "sequence_batching"), "state");
    if (state && state->first)
        return INVALID(
            "unable to load model '%s': sequence state needs NVIDIA's C++ onnxruntime backend",
            model->name);
    return NULL;
}

TRITONSERVER_Error *signature_check(Model *model, const Session *session) {
    TRY(refuse_what_is_missing(model));
    for (size_t i = 0; i < session->inputs.count; i++) {
        const char *name = session->inputs.tensors[i].name;
        size_t at = 0;
        while (at < model->inputs.count && strcmp(model->inputs.ports[at].name, name) != 0)
            at++;
        if (at == model->inputs.count)
            return INVALID("unable to load model '%s': the model's input ['%s'] is not in the "
                           "configuration",
                           model->name, name);
    }
    const Json *listed = json_get(model->config, "input");
    const Json *io = listed ? listed->first : NULL;
    for (size_t i = 0; i < model->inputs.count; i++, io = io->next) {
        Port *port = &model->inputs.ports[i];
        const Tensor *tensor = tensor_named(&session->inputs, port->name);
        port->is_required = tensor != NULL;
        if (!tensor) tensor = tensor_named(&session->optional, port->name);
        TRY(check_port(model, "input", io, port, tensor, &session->inputs));
        port->is_scalar = tensor->rank == 0;
    }
    listed = json_get(model->config, "output");
    io = listed ? listed->first : NULL;
    for (size_t i = 0; i < model->outputs.count; i++, io = io->next) {
        Port *port = &model->outputs.ports[i];
        const Tensor *tensor = tensor_named(&session->outputs, port->name);
        TRY(check_port(model, "output", io, port, tensor, &session->outputs));
        port->rank = tensor->rank;
        free(port->dims); /* of a check for an earlier instance, which refused the model */
        port->dims = allocate(tensor->rank, sizeof(int64_t));
        memcpy(port->dims, tensor->dims, tensor->rank * sizeof(int64_t));
        port->is_sized = port->type->size > 0 && port->rank > 0;
        for (size_t j = model->max_batch_size > 0; j < tensor->rank; j++)
            port->is_sized = port->is_sized && tensor->dims[j] >= 0;
    }
    return NULL;
}

static bool can_batch(const Tensors *tensors) {
    for (size_t i = 0; i < tensors->count; i++)
        if (tensors->tensors[i].rank == 0 || tensors->tensors[i].dims[0] != -1) return false;
    return true;
}

static void put_ports(FILE *out, const char *side, const Tensors *tensors, bool batched) {
    fprintf(out, ",\"%s\":[", side);
    for (size_t i = 0; i < tensors->count; i++) {
        const Tensor *tensor = &tensors->tensors[i];
        size_t skip = batched;
        fprintf(out, "%s{\"name\":", i ? "," : "");
        put_string(out, tensor->name);
        fprintf(out, ",\"data_type\":\"%s\",\"dims\":", tensor->type->name);
        if (tensor->rank > skip)
            put_dims(out, tensor->dims + skip, tensor->rank - skip);
        else
            fprintf(out, "[1]%s", batched ? ",\"reshape\":{\"shape\":[]}" : "");
        fprintf(out, "}");
    }
    fprintf(out, "]");
}

static TRITONSERVER_Error *check_types(const Model *model, const char *side,
                                       const Tensors *tensors) {
    for (size_t i = 0; i < tensors->count; i++)
        if (!tensors->tensors[i].type)
            return INVALID("autofill failed for model '%s': %s '%s' has " NO_TYPE, model->name,
                           side, tensors->tensors[i].name);
    return NULL;
}

static TRITONSERVER_Error *set_config(const Model *model, const Session *session) {
    bool batches = can_batch(&session->inputs) && can_batch(&session->outputs);
    int64_t most = model->max_batch_size;
    if (!batches && most > 0)
        return INVALID("autofill failed for model '%s': model does not support batching while "
                       "non-zero max_batch_size is specified",
                       model->name);
    if (model->inputs.count == 0) TRY(check_types(model, "input", &session->inputs));
    if (model->outputs.count == 0) TRY(check_types(model, "output", &session->outputs));
    if (batches && most == 0) most = DEFAULT_MAX_BATCH_SIZE;
    char *text;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (!out) abort();
    fprintf(out, "{\"max_batch_size\":%lld", (long long)most);
    for (const Json *key = model->config->first; key; key = key->next) {
        bool is_replaced = strcmp(key->key, "max_batch_size") == 0 ||
                           (strcmp(key->key, "input") == 0 && model->inputs.count == 0) ||
                           (strcmp(key->key, "output") == 0 && model->outputs.count == 0);
        if (is_replaced) continue;
        fprintf(out, ",");
        put_string(out, key->key);
        fprintf(out, ":%.*s", (int)(key->end - key->start), model->text + key->start);
    }
    if (model->inputs.count == 0) put_ports(out, "input", &session->inputs, most > 0);
    if (model->outputs.count == 0) put_ports(out, "output", &session->outputs, most > 0);
    if (most > 1 && !json_get(model->config, "sequence_batching") &&
        !json_get(model->config, "dynamic_batching"))
        fprintf(out, ",\"dynamic_batching\":{}");
    fprintf(out, "}");
    fclose(out);
    TRITONSERVER_Message *message;
    TRITONSERVER_Error *error = TRITONSERVER_MessageNewFromSerializedJson(&message, text, length);
    free(text);
    TRY(error);
    error = TRITONBACKEND_ModelSetConfig(model->handle, 1, message);
    TRITONSERVER_MessageDelete(message);
    return error;
}

TRITONSERVER_Error *signature_complete(Model *model) {
    Session *session;
    if (model->inputs.count && model->outputs.count) return NULL;
    TRY(session_open(model, false, 0, false, &session));
    TRITONSERVER_Error *error = set_config(model, session);
    session_close(session);
    return error ? error : configuration_read(model);
}
