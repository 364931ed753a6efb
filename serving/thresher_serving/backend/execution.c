/* Runs the requests that Triton hands over together, and answers each of them.
 *
 * Requests that can be one batch are one run. Those whose inputs or other dimensions differ run one
 * after the other; nothing is padded. If a run of several fails, each is run alone, so that the
 * error belongs to the request that causes it.
 */
#include "backend.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    TRITONBACKEND_Request *handle;
    TRITONBACKEND_Response *response; /* NULL once it is sent */
    uint64_t num_rows;
    Given *given; /* of each input */
    bool *asked;  /* for each output */
} Request;

typedef struct {
    Instance *instance;
    bool is_warmup;
    uint64_t start_ns, compute_start_ns, compute_end_ns;
    const char **names;  /* room for those of all inputs, then of all outputs */
    OrtValue **values;   /* likewise */
    Result *results;     /* one for each output */
    const Given **given; /* room for one of each request */
} Run;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void ignore(TRITONSERVER_Error *error) {
    if (error) TRITONSERVER_ErrorDelete(error);
}

/* Sends a request's response; an error is its alone, and is deleted. */
static void answer(const Run *run, Request *request, TRITONSERVER_Error *error) {
    ignore(
        TRITONBACKEND_ResponseSend(request->response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    request->response = NULL;
    if (!run->is_warmup) {
        uint64_t end_ns = now_ns();
        ignore(TRITONBACKEND_ModelInstanceReportStatistics(
            run->instance->handle, request->handle, !error, run->start_ns,
            run->compute_start_ns ? run->compute_start_ns : run->start_ns,
            run->compute_end_ns ? run->compute_end_ns : end_ns, end_ns));
    }
    ignore(error);
}

static TRITONSERVER_Error *read_inputs(const Model *model, Request *request) {
    uint32_t count;
    TRY(TRITONBACKEND_RequestInputCount(request->handle, &count));
    for (uint32_t i = 0; i < count; i++) {
        TRITONBACKEND_Input *input;
        const char *name;
        size_t at = 0;
        TRY(TRITONBACKEND_RequestInputByIndex(request->handle, i, &input));
        TRY(TRITONBACKEND_InputProperties(input, &name, NULL, NULL, NULL, NULL, NULL));
        while (at < model->inputs.count && strcmp(model->inputs.ports[at].name, name) != 0)
            at++;
        if (at == model->inputs.count) return INVALID("the model has no input '%s'", name);
        TRY(given_read(model, &model->inputs.ports[at], input, &request->given[at]));
        if (model->max_batch_size > 0) {
            uint64_t rows = (uint64_t)request->given[at].shape[0];
            if (i && rows != request->num_rows)
                return INVALID("input '%s' has %llu rows, another input has %llu", name,
                               (unsigned long long)rows, (unsigned long long)request->num_rows);
            request->num_rows = rows;
        }
    }
    for (size_t i = 0; i < model->inputs.count; i++) /* ONNX Runtime would read a null pointer */
        if (model->inputs.ports[i].is_required && !request->given[i].handle)
            return INVALID("input '%s' is missing", model->inputs.ports[i].name);
    return NULL;
}

static TRITONSERVER_Error *read_outputs(const Model *model, Request *request) {
    uint32_t count;
    TRY(TRITONBACKEND_RequestOutputCount(request->handle, &count));
    for (uint32_t i = 0; i < count; i++) {
        const char *name;
        size_t at = 0;
        TRY(TRITONBACKEND_RequestOutputName(request->handle, i, &name));
        while (at < model->outputs.count && strcmp(model->outputs.ports[at].name, name) != 0)
            at++;
        if (at == model->outputs.count) return INVALID("the model has no output '%s'", name);
        request->asked[at] = true;
    }
    return NULL;
}

/* Returns whether two requests can be one batch: the same inputs, alike but for their rows. */
static bool can_join(const Model *model, const Request *one, const Request *other) {
    if (model->max_batch_size == 0) return false;
    for (size_t i = 0; i < model->inputs.count; i++) {
        const Given *a = &one->given[i], *b = &other->given[i];
        if (!a->handle != !b->handle || a->rank != b->rank) return false;
        if (a->rank > 1 &&
            memcmp(a->shape + 1, b->shape + 1, (a->rank - 1) * sizeof *a->shape) != 0)
            return false;
    }
    return true;
}

static size_t list_outputs(const Run *run, Request *const *requests, size_t count,
                           const char **names, size_t *ports) {
    const Model *model = run->instance->model;
    size_t num_outputs = 0;
    for (size_t i = 0; i < model->outputs.count; i++) {
        bool asked = model->label_counts && model->labels_output == i && !run->is_warmup;
        for (size_t j = 0; j < count && !asked; j++)
            asked = requests[j]->asked[i];
        if (!asked) continue;
        ports[num_outputs] = i;
        names[num_outputs++] = model->outputs.ports[i].name;
    }
    return num_outputs;
}

static TRITONSERVER_Error *gather_inputs(const Run *run, Request *const *requests, size_t count,
                                         size_t *num_inputs) {
    const Ports *inputs = &run->instance->model->inputs;
    for (size_t i = 0; i < inputs->count; i++) {
        if (!requests[0]->given[i].handle) continue;
        run->names[*num_inputs] = inputs->ports[i].name;
        for (size_t j = 0; j < count; j++)
            run->given[j] = &requests[j]->given[i];
        OrtValue **value = &run->values[(*num_inputs)++];
        TRY(tensor_gather(run->instance, i, run->given, count, value));
    }
    return NULL;
}

static TRITONSERVER_Error *read_results(const Run *run, Request *const *requests, size_t count,
                                        OrtValue *const *values, const size_t *ports,
                                        size_t num_outputs) {
    const Model *model = run->instance->model;
    uint64_t rows = 0;
    for (size_t i = 0; i < count; i++)
        rows += requests[i]->num_rows;
    for (size_t i = 0; i < num_outputs; i++) {
        const Port *port = &model->outputs.ports[ports[i]];
        Result *result = &run->results[ports[i]];
        TRY(result_read(values[i], port->type, result));
        if (count > 1 && (uint64_t)result->shape[0] != rows)
            return error_new(TRITONSERVER_ERROR_INTERNAL, "output '%s' has %lld rows for %llu",
                             port->name, (long long)result->shape[0], (unsigned long long)rows);
    }
    return NULL;
}

static void answer_all(const Run *run, Request *const *requests, size_t count) {
    const Model *model = run->instance->model;
    uint64_t row = 0;
    for (size_t i = 0; i < count; i++) {
        Request *request = requests[i];
        TRITONSERVER_Error *error = NULL;
        for (size_t j = 0; j < model->outputs.count && !error; j++)
            if (request->asked[j])
                error = result_send(&model->outputs.ports[j], &run->results[j], row,
                                    request->num_rows, count == 1, request->response);
        row += request->num_rows;
        if (!error && *model->decision)
            error = TRITONBACKEND_ResponseSetStringParameter(request->response, "thresher.decision",
                                                             model->decision);
        answer(run, request, error);
    }
    if (run->is_warmup) return;
    ignore(TRITONBACKEND_ModelInstanceReportBatchStatistics(
        run->instance->handle, model->max_batch_size > 0 ? row : 1, run->start_ns,
        run->compute_start_ns, run->compute_end_ns, now_ns()));
    const Result *labels = &run->results[model->labels_output];
    if (model->label_counts && labels->rank == 2)
        label_counts_add(model->label_counts, (const unsigned char *)labels->data,
                         (size_t)labels->shape[0], (size_t)labels->shape[1]);
}

/* Lets ONNX Runtime write the outputs of a single request where its client wants them. */
static TRITONSERVER_Error *place_outputs(const Run *run, const Request *request,
                                         const size_t *ports, size_t count, OrtValue **values) {
    const Model *model = run->instance->model;
    for (size_t i = 0; i < count; i++) {
        const Port *port = &model->outputs.ports[ports[i]];
        bool is_read = model->label_counts && model->labels_output == ports[i];
        if (!port->is_sized || is_read || !request->asked[ports[i]]) continue;
        TRY(result_place(run->instance->session, port, request->handle, request->response,
                         request->num_rows, &values[i]));
        if (values[i]) request->asked[ports[i]] = false;
    }
    return NULL;
}

/* Runs requests as one batch and answers them; where that fails none is answered. */
static TRITONSERVER_Error *run_batch(Run *run, Request *const *requests, size_t count) {
    const Model *model = run->instance->model;
    const Session *session = run->instance->session;
    size_t num_inputs = 0, ports[model->outputs.count + 1];
    const char **names = run->names + model->inputs.count;
    OrtValue **outputs = run->values + model->inputs.count;
    size_t num_outputs = list_outputs(run, requests, count, names, ports);
    TRITONSERVER_Error *error = gather_inputs(run, requests, count, &num_inputs);
    if (!error && count == 1 && session->gpu)
        error = place_outputs(run, requests[0], ports, num_outputs, outputs);
    if (!error && num_outputs) {
        run->compute_start_ns = now_ns();
        error = ort_error(ort.Run(session->session, session->run_options, run->names,
                                  (const OrtValue *const *)run->values, num_inputs, names,
                                  num_outputs, outputs),
                          NULL);
        run->compute_end_ns = now_ns();
    }
    if (!error) error = read_results(run, requests, count, outputs, ports, num_outputs);
    if (!error) answer_all(run, requests, count);
    for (size_t i = 0; i < model->outputs.count; i++) {
        result_free(&run->results[i]);
        run->results[i] = (Result){0};
    }
    for (size_t i = 0; i < model->inputs.count + model->outputs.count; i++) {
        if (run->values[i]) ort.ReleaseValue(run->values[i]);
        run->values[i] = NULL;
    }
    return error;
}

static void run_and_answer(Run *run, Request *const *requests, size_t count) {
    run->start_ns = now_ns();
    run->compute_start_ns = run->compute_end_ns = 0;
    TRITONSERVER_Error *error = run_batch(run, requests, count);
    if (!error) return;
    if (count == 1) {
        answer(run, requests[0], error);
        return;
    }
    TRITONSERVER_ErrorDelete(error);
    for (size_t i = 0; i < count; i++)
        run_and_answer(run, &requests[i], 1);
}

/* Answers a request that its client has given up, before anything is computed for it. */
static bool is_cancelled(const Run *run, Request *request) {
    bool cancelled = false;
    ignore(TRITONBACKEND_RequestIsCancelled(request->handle, &cancelled));
    if (cancelled)
        answer(run, request, error_new(TRITONSERVER_ERROR_CANCELLED, "the request was cancelled"));
    return cancelled;
}

static void run_all(Run *run, Request *requests, size_t count, Request **batch) {
    for (size_t i = 0; i < count; i++) {
        size_t size = 0;
        if (!requests[i].response) continue;
        for (size_t j = i; j < count; j++)
            if (requests[j].response &&
                (j == i || can_join(run->instance->model, &requests[i], &requests[j])) &&
                !is_cancelled(run, &requests[j]))
                batch[size++] = &requests[j];
        if (size) run_and_answer(run, batch, size);
    }
}

void execute(Instance *instance, TRITONBACKEND_Request **handles, uint32_t count) {
    const Model *model = instance->model;
    size_t num_inputs = model->inputs.count, num_outputs = model->outputs.count;
    size_t num_ports = num_inputs + num_outputs;
    Request *requests = allocate(count, sizeof *requests);
    Request **batch = allocate(count, sizeof *batch);
    Given *given = allocate(count * num_inputs, sizeof *given);
    bool *asked = allocate(count * num_outputs, sizeof *asked);
    Run run = {.instance = instance,
               .is_warmup = instance->warmups_left > 0,
               .start_ns = now_ns(),
               .given = allocate(count, sizeof *run.given),
               .names = allocate(num_ports, sizeof *run.names),
               .values = allocate(num_ports, sizeof *run.values),
               .results = allocate(num_outputs, sizeof *run.results)};
    if (run.is_warmup) instance->warmups_left--;
    for (uint32_t i = 0; i < count; i++) {
        Request *request = &requests[i];
        *request = (Request){.handle = handles[i],
                             .num_rows = 1,
                             .given = given + i * num_inputs,
                             .asked = asked + i * num_outputs};
        TRITONSERVER_Error *error = TRITONBACKEND_ResponseNew(&request->response, handles[i]);
        if (error) { /* there is no way to answer */
            log_message(TRITONSERVER_LOG_ERROR, "model '%s': %s", model->name,
                        TRITONSERVER_ErrorMessage(error));
            TRITONSERVER_ErrorDelete(error);
            continue;
        }
        error = read_inputs(model, request);
        if (!error) error = read_outputs(model, request);
        if (error) answer(&run, request, error);
    }
    run_all(&run, requests, count, batch);
    for (uint32_t i = 0; i < count; i++)
        ignore(TRITONBACKEND_RequestRelease(handles[i], TRITONSERVER_REQUEST_RELEASE_ALL));
    for (size_t i = 0; i < num_inputs; i++)
        buffer_shrink(&instance->inputs[i]);
    free(requests);
    free(batch);
    free(given);
    free(asked);
    free(run.given);
    free(run.names);
    free(run.values);
    free(run.results);
}
