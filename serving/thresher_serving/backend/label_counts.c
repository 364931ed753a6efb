/* Counts the rows that were answered and how many of them got each label, as metrics of Triton.
 *
 * Triton 2.51.0 (core, src/metric_family.cc) gives two owners of the same name and labels one
 * counter; this file keeps the only owner, and counts who uses it.
 */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNTED_LABELS = 256 }; /* where the configuration does not say */

typedef struct Counter {
    TRITONSERVER_Metric *metric;
    char *model, *version, *label; /* label: NULL for the rows */
    size_t num_users;
    struct Counter *next;
} Counter;

struct LabelCounts {
    Counter *rows;
    Counter **positives;
    size_t num_labels;
};

static struct {
    pthread_mutex_t lock; /* for the rest */
    TRITONSERVER_MetricFamily *rows, *positives;
    Counter *counters;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

static TRITONSERVER_Error *new_families(void) {
    if (!registry.rows)
        TRY(TRITONSERVER_MetricFamilyNew(&registry.rows, TRITONSERVER_METRIC_KIND_COUNTER,
                                         "thresher_label_rows_total",
                                         "Rows whose labels were decided and counted"));
    if (!registry.positives)
        TRY(TRITONSERVER_MetricFamilyNew(&registry.positives, TRITONSERVER_METRIC_KIND_COUNTER,
                                         "thresher_label_positives_total",
                                         "Rows that got the label"));
    return NULL;
}

static TRITONSERVER_Error *new_counter(const char *model, const char *version, const char *label,
                                       Counter **out) {
    const char *keys[] = {"model", "version", "label"}, *values[] = {model, version, label};
    TRITONSERVER_Parameter *labels[3];
    size_t count = label ? 3 : 2;
    Counter *counter = allocate(1, sizeof *counter);
    for (size_t i = 0; i < count; i++)
        labels[i] = TRITONSERVER_ParameterNew(keys[i], TRITONSERVER_PARAMETER_STRING, values[i]);
    TRITONSERVER_Error *error =
        TRITONSERVER_MetricNew(&counter->metric, label ? registry.positives : registry.rows,
                               (const TRITONSERVER_Parameter **)labels, count);
    for (size_t i = 0; i < count; i++)
        TRITONSERVER_ParameterDelete(labels[i]);
    if (error) {
        free(counter);
        return error;
    }
    counter->model = strdup(model);
    counter->version = strdup(version);
    counter->label = label ? strdup(label) : NULL;
    counter->next = registry.counters;
    registry.counters = *out = counter;
    return NULL;
}

static TRITONSERVER_Error *use_counter(const char *model, const char *version, const char *label,
                                       Counter **out) {
    Counter *c = registry.counters;
    for (; c; c = c->next)
        if (strcmp(c->model, model) == 0 && strcmp(c->version, version) == 0 &&
            !c->label == !label && (!label || strcmp(c->label, label) == 0))
            break;
    if (c)
        *out = c;
    else
        TRY(new_counter(model, version, label, out));
    (*out)->num_users++;
    return NULL;
}

static void leave_counter(Counter *counter) {
    if (!counter || --counter->num_users) return;
    Counter **link = &registry.counters;
    while (*link != counter)
        link = &(*link)->next;
    *link = counter->next;
    TRITONSERVER_Error *error = TRITONSERVER_MetricDelete(counter->metric);
    if (error) TRITONSERVER_ErrorDelete(error);
    free(counter->model);
    free(counter->version);
    free(counter->label);
    free(counter);
}

/* Returns the label names of a version's decision as JSON that the caller frees. */
static Json *read_decision(const Model *model, const char *version) {
    char key[64], reason[128];
    snprintf(key, sizeof key, "thresher.decision/%s", version);
    const char *text = parameter(model, key);
    return text ? json_parse(text, strlen(text), reason, sizeof reason) : NULL;
}

static TRITONSERVER_Error *use_counters(const Model *model, const char *version, const Json *names,
                                        LabelCounts *counts) {
    TRY(new_families());
    TRY(use_counter(model->name, version, NULL, &counts->rows));
    const Json *name = names->first;
    for (size_t i = 0; i < counts->num_labels; i++, name = name->next)
        TRY(use_counter(model->name, version, json_text(name, ""), &counts->positives[i]));
    return NULL;
}

static LabelCounts *open_counts(const Model *model, const char *version, const Json *names,
                                size_t num_labels) {
    LabelCounts *counts = allocate(1, sizeof *counts);
    counts->num_labels = num_labels;
    counts->positives = allocate(num_labels, sizeof(Counter *));
    pthread_mutex_lock(&registry.lock);
    TRITONSERVER_Error *error = use_counters(model, version, names, counts);
    pthread_mutex_unlock(&registry.lock);
    if (!error) return counts;
    warn(model, "label_metrics: %s", TRITONSERVER_ErrorMessage(error));
    TRITONSERVER_ErrorDelete(error);
    label_counts_close(counts);
    return NULL;
}

TRITONSERVER_Error *label_counts_open(const Model *model, const Session *session,
                                      LabelCounts **opened) {
    const char *asked = parameter(model, "label_metrics");
    int64_t most = COUNTED_LABELS;
    char version[24];
    if (asked && !text_integer(asked, &most))
        return INVALID("label_metrics is \"%s\", expected a whole number", asked);
    if (most <= 0) return NULL;
    snprintf(version, sizeof version, "%llu", (unsigned long long)model->version);
    const Tensor *labels = tensor_named(&session->outputs, "labels");
    Json *decision = read_decision(model, version);
    const Json *names = json_get(decision, "labels");
    size_t num_labels = 0;
    for (const Json *n = names ? names->first : NULL; n; n = n->next)
        num_labels++;
    if (labels && labels->type && labels->type->onnx == ONNX_TYPE_BOOL && labels->rank == 2 &&
        num_labels) {
        if (asked && num_labels > (size_t)most)
            warn(model, "label_metrics: of %zu labels the first %lld are counted", num_labels,
                 (long long)most);
        *opened = open_counts(model, version, names,
                              num_labels < (size_t)most ? num_labels : (size_t)most);
    } else if (asked) {
        warn(model, "label_metrics: version %s has no decision or no labels", version);
    }
    free(decision);
    return NULL;
}

static void increment(Counter *counter, size_t count) {
    TRITONSERVER_Error *error = TRITONSERVER_MetricIncrement(counter->metric, (double)count);
    if (error) TRITONSERVER_ErrorDelete(error);
}

void label_counts_add(LabelCounts *counts, const unsigned char *labels_nl, size_t num_rows,
                      size_t num_labels) {
    size_t counted = counts->num_labels < num_labels ? counts->num_labels : num_labels;
    if (num_rows) increment(counts->rows, num_rows);
    for (size_t label = 0; label < counted; label++) {
        size_t positives = 0;
        for (size_t row = 0; row < num_rows; row++)
            positives += labels_nl[row * num_labels + label];
        if (positives) increment(counts->positives[label], positives);
    }
}

void label_counts_close(LabelCounts *counts) {
    if (!counts) return;
    pthread_mutex_lock(&registry.lock);
    leave_counter(counts->rows);
    for (size_t i = 0; i < counts->num_labels; i++)
        leave_counter(counts->positives[i]);
    pthread_mutex_unlock(&registry.lock);
    free(counts->positives);
    free(counts);
}

void label_counts_finalize(void) {
    if (registry.rows) TRITONSERVER_MetricFamilyDelete(registry.rows);
    if (registry.positives) TRITONSERVER_MetricFamilyDelete(registry.positives);
    registry.rows = registry.positives = NULL;
}
