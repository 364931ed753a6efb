/* A stand-in for Triton: what the backend calls, with requests that no client could send. */
#ifndef FAKE_TRITON_H
#define FAKE_TRITON_H

#include "triton_abi.h"

enum { MOST = 8 };

struct TRITONBACKEND_Input {
    const char *name;
    TRITONSERVER_DataType type;
    int64_t shape[MOST];
    uint32_t rank, num_buffers;
    const void *buffers[MOST];
    uint64_t sizes[MOST];
    TRITONSERVER_MemoryType memory;
};

struct TRITONBACKEND_Output {
    const char *name;
    TRITONSERVER_DataType type;
    int64_t shape[MOST];
    uint32_t rank;
    char *data;
    uint64_t size;
    struct TRITONBACKEND_Request *request;
};

struct TRITONBACKEND_Request {
    struct TRITONBACKEND_Input inputs[MOST];
    uint32_t num_inputs, num_outputs;
    const char *outputs[MOST];
    bool is_cancelled;
    bool has_no_room;               /* its client's output buffer is too small */
    TRITONSERVER_MemoryType memory; /* where its client wants the outputs */
    /* what came of it */
    struct TRITONBACKEND_Output answers[MOST];
    uint32_t num_answers;
    int num_responses, num_releases, num_reports;
    TRITONSERVER_Error_Code code;
    char error[512]; /* empty if it was answered */
};

extern int num_runs, run_sizes[64]; /* as reported */
extern TRITONSERVER_InstanceGroupKind instance_kind;

void fake_open(const char *library_folder, const char *model_folder, const char *config);
/* num_reports: how often each request has to be in the statistics. */
void fake_execute(struct TRITONBACKEND_Request *requests, uint32_t count, int num_reports);
void fake_close(void);
void fake_add(struct TRITONBACKEND_Request *request, const char *name, TRITONSERVER_DataType type,
              const int64_t *shape, uint32_t rank, const void *data, uint64_t size);

#endif
