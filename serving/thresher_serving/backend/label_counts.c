/* Counts the rows that were answered and how many of them got each label, as metrics of Triton.
 *
 * Triton 2.51.0 (core, src/metric_family.cc) gives the same name and labels one counter and frees
 * it with the last metric of one family object; so there is one such object of each, and a lock,
 * since a counter that is about to be freed must not be handed out again.
 */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNTED_LABELS = 256 }; /* where the configuration does not say */

struct LabelCounts {
    TRITONSERVER_Metric *rows;
    TRITONSERVER_Metric **positives;
    size_t num_labels;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for making and deleting metrics */
static TRITONSERVER_MetricFamily *row_family, *positive_family;

static TRITONSERVER_Error *new_families(void) {
    if (!row_family)
        TRY(TRITONSERVER_MetricFamilyNew(&row_family, TRITONSERVER_METRIC_KIND_COUNTER,
                                         "thresher_label_rows_total",
                                         "Rows whose labels were decided and counted"));
    if (!positive_family)
        TRY(TRITONSERVER_MetricFamilyNew(&positive_family, TRITONSERVER_METRIC_KIND_COUNTER,
                                         "thresher_label_positives_total",
                                         "Rows that got the label"));
    return NULL;
}

/* label: NULL for the counter of rows. */
static TRITONSERVER_Error *new_metric(const char *model, const char *version, const char *label,
                                      TRITONSERVER_Metric **metric) {
    const char *keys[] = {"model", "version", "label"}, *values[] = {model, version, label};
    TRITONSERVER_Parameter *labels[3];
    size_t count = label ? 3 : 2;
    for (size_t i = 0; i < count; i++)
        labels[i] = TRITONSERVER_ParameterNew(keys[i], TRITONSERVER_PARAMETER_STRING, values[i]);
    TRITONSERVER_Error *error =
        TRITONSERVER_MetricNew(metric, label ? positive_family : row_family,
                               (const TRITONSERVER_Parameter **)labels, count);
    for (size_t i = 0; i < count; i++)
        TRITONSERVER_ParameterDelete(labels[i]);
    return error;
}

static void delete_metric(TRITONSERVER_Metric *metric) {
    TRITONSERVER_Error *error = metric ? TRITONSERVER_MetricDelete(metric) : NULL;
    if (error) TRITONSERVER_ErrorDelete(error);
}

/* Returns the label names of a version's decision as JSON that the caller frees. */
static Json *read_decision(const Model *model, const char *version) {
    char key[64], reason[128];
    snprintf(key, sizeof key, "thresher.decision/%s", version);
    const char *text = parameter(model, key);
    return text ? json_parse(text, strlen(text), reason, sizeof reason) : NULL;
}

static TRITONSERVER_Error *new_metrics(const Model *model, const char *version, const Json *names,
                                       LabelCounts *counts) {
    TRY(new_families());
    TRY(new_metric(model->name, version, NULL, &counts->rows));
    const Json *name = names->first;
    for (size_t i = 0; i < counts->num_labels; i++, name = name->next)
        TRY(new_metric(model->name, version, json_text(name, ""), &counts->positives[i]));
    return NULL;
}

static LabelCounts *open_counts(const Model *model, const char *version, const Json *names,
                                size_t num_labels) {
    LabelCounts *counts = allocate(1, sizeof *counts);
    counts->num_labels = num_labels;
    counts->positives = allocate(num_labels, sizeof(TRITONSERVER_Metric *));
    pthread_mutex_lock(&lock);
    TRITONSERVER_Error *error = new_metrics(model, version, names, counts);
    pthread_mutex_unlock(&lock);
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

static void increment(TRITONSERVER_Metric *metric, size_t count) {
    TRITONSERVER_Error *error = TRITONSERVER_MetricIncrement(metric, (double)count);
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
    pthread_mutex_lock(&lock);
    delete_metric(counts->rows);
    for (size_t i = 0; i < counts->num_labels; i++)
        delete_metric(counts->positives[i]);
    pthread_mutex_unlock(&lock);
    free(counts->positives);
    free(counts);
}

void label_counts_finalize(void) {
    if (row_family) TRITONSERVER_MetricFamilyDelete(row_family);
    if (positive_family) TRITONSERVER_MetricFamilyDelete(positive_family);
    row_family = positive_family = NULL;
}
