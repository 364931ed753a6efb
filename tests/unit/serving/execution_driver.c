/* Hands requests of every kind to the backend, as no client of Triton can, and prints what comes
 * of each: its error, or its outputs. Arguments: library folder, model folder, configuration,
 * scenario. */
#include "fake_triton.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static TRITONBACKEND_Request requests[64];
static uint32_t num_requests;

/* Adds a request for output y with FP32 input x [rows, width]: base, base + 1, ... */
static TRITONBACKEND_Request *ask(int64_t rows, int64_t width, float base) {
    TRITONBACKEND_Request *request = &requests[num_requests++];
    int64_t shape[] = {rows, width}, count = rows * width;
    float *data = malloc((size_t)count * sizeof *data + 1);
    if (!data) abort();
    for (int64_t i = 0; i < count; i++)
        data[i] = base + (float)i;
    *request = (TRITONBACKEND_Request){.num_outputs = 1, .outputs = {"y"}};
    fake_add(request, "x", TRITONSERVER_TYPE_FP32, shape, 2, data, (uint64_t)count * sizeof *data);
    return request;
}

static void put(const TRITONBACKEND_Request *request) {
    if (request->error[0]) printf("error %d: %s", request->code, request->error);
    for (uint32_t i = 0; i < request->num_answers && !request->error[0]; i++) {
        const TRITONBACKEND_Output *y = &request->answers[i];
        printf("%s[", y->name);
        for (uint32_t d = 0; d < y->rank; d++)
            printf("%s%lld", d ? "," : "", (long long)y->shape[d]);
        printf("]");
        for (uint64_t at = 0; at < y->size; at += y->type == TRITONSERVER_TYPE_FP32 ? 4 : 1) {
            float number;
            if (y->type != TRITONSERVER_TYPE_FP32) {
                printf(" %02x", (unsigned char)y->data[at]);
            } else {
                memcpy(&number, y->data + at, sizeof number);
                printf(" %g", (double)number);
            }
        }
    }
    printf("\n");
}

static void split(TRITONBACKEND_Input *x) { /* into three pieces, none of them aligned */
    const char *from = x->buffers[0];
    uint64_t size = x->sizes[0], done = 0;
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t more = i == 2 ? size - done : i + 1;
        char *piece = malloc(more + 1);
        if (!piece) abort();
        memcpy(piece + 1, from + done, more);
        x->buffers[i] = piece + 1;
        x->sizes[i] = more;
        done += more;
    }
    x->num_buffers = 3;
}

static void off_by_one(TRITONBACKEND_Input *x) {
    char *moved = malloc(x->sizes[0] + 1);
    if (!moved) abort();
    memcpy(moved + 1, x->buffers[0], x->sizes[0]);
    x->buffers[0] = moved + 1;
}

static void wrong(void) { /* one good request, and each way to be wrong */
    int64_t huge[] = {INT64_MAX, INT64_MAX}, none[] = {-1, 2}, scalar[] = {1};
    float two[] = {1, 2};
    ask(1, 2, 7);
    ask(1, 2, 0)->inputs[0].sizes[0] = 7;
    memcpy(ask(1, 2, 0)->inputs[0].shape, huge, sizeof huge);
    memcpy(ask(1, 2, 0)->inputs[0].shape, none, sizeof none);
    ask(1, 2, 0)->inputs[0].type = TRITONSERVER_TYPE_INT32;
    ask(1, 2, 0)->inputs[0].rank = 0;
    ask(1, 2, 0)->inputs[0].name = "z";
    ask(1, 2, 0)->outputs[0] = "z";
    ask(1, 2, 0)->num_inputs = 0;
    ask(1, 2, 0)->inputs[0].memory = TRITONSERVER_MEMORY_GPU;
    ask(1, 2, 0)->has_no_room = true;
    fake_add(ask(1, 2, 0), "x", TRITONSERVER_TYPE_FP32, scalar, 1, two, 4);
    ask(2, 2, 0)->inputs[0].sizes[0] = 0;
    ask(1, 2, 9);
}

static void strings(void) {
    static const struct {
        int64_t count;
        const char *bytes;
        uint64_t size;
    } cases[] = {{2, "\1\0\0\0a\3\0\0\0\0b\xff", 12},
                 {0, "", 0},
                 {1, "\5\0\0\0a", 5},
                 {2, "\1\0\0\0a", 5},
                 {1, "\1\0\0\0a\0\0\0\0", 9},
                 {1, "\0\0", 2},
                 {1, "\xff\xff\xff\xff", 4},
                 {1, "\0\0\0\0", 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        TRITONBACKEND_Request *request = &requests[num_requests++];
        char *exact = malloc(cases[i].size + (cases[i].size == 0));
        if (!exact) abort();
        memcpy(exact, cases[i].bytes, cases[i].size);
        int64_t shape[] = {1, cases[i].count};
        *request = (TRITONBACKEND_Request){.num_outputs = 1, .outputs = {"y"}};
        fake_add(request, "x", TRITONSERVER_TYPE_BYTES, shape, 2, exact, cases[i].size);
    }
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    const char *scenario = arguments[4];
    bool on_gpu = strncmp(scenario, "gpu", 3) == 0;
    if (on_gpu) instance_kind = TRITONSERVER_INSTANCEGROUPKIND_GPU;
    fake_open(arguments[1], arguments[2], arguments[3]);
    if (strcmp(scenario, "widths") == 0) {
        const int64_t widths[] = {1, 3, 3, 2, 1, 3};
        for (size_t i = 0; i < 6; i++)
            ask(i == 4 ? 2 : 1, widths[i], (float)(10 * i));
    } else if (strcmp(scenario, "cancelled") == 0) {
        for (int i = 0; i < 5; i++)
            ask(1, 2, (float)i)->is_cancelled = i % 2 == 0;
    } else if (strcmp(scenario, "pieces") == 0) {
        split(&ask(2, 2, 1)->inputs[0]);
        ask(1, 2, 5);
        split(&ask(1, 3, 5)->inputs[0]);
        off_by_one(&ask(1, 4, 1)->inputs[0]);
    } else if (strcmp(scenario, "empty") == 0) {
        ask(0, 2, 0);
        ask(1, 2, 3);
        ask(0, 3, 0);
        ask(2, 0, 0);
    } else if (strcmp(scenario, "wrong") == 0) {
        wrong();
    } else if (strcmp(scenario, "strings") == 0) {
        strings();
    } else if (strcmp(scenario, "bools") == 0) {
        int64_t shape[] = {1, 4};
        requests[num_requests] = (TRITONBACKEND_Request){.num_outputs = 1, .outputs = {"y"}};
        fake_add(&requests[num_requests++], "x", TRITONSERVER_TYPE_BOOL, shape, 2, "\0\1\2\xff", 4);
    } else if (strcmp(scenario, "warmup") == 0) { /* two executions, then a user's */
        for (int i = 0; i < 3; i++)
            fake_execute(ask(1, 2, (float)i), 1, i == 2);
        num_requests = 0;
    } else if (on_gpu && strcmp(scenario, "gpu none") != 0) { /* x and y are on the GPU */
        ask(1, 2, 1)->inputs[0].memory = TRITONSERVER_MEMORY_GPU;
        if (strcmp(scenario, "gpu two") == 0) ask(1, 2, 5);
        requests[0].memory = TRITONSERVER_MEMORY_GPU;
    }
    fake_execute(requests, num_requests, 1);
    for (uint32_t i = 0; i < num_requests; i++)
        put(&requests[i]);
    printf("runs");
    for (int i = 0; i < num_runs; i++)
        printf(" %d", run_sizes[i]);
    printf("\n");
    fake_close();
    return 0;
}
