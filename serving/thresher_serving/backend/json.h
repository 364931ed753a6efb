/* A reader of JSON (RFC 8259) for model configurations. */
#ifndef THRESHER_JSON_H
#define THRESHER_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
} JsonKind;

typedef struct Json {
    JsonKind kind;
    const char *key;    /* of a member of an object, else NULL */
    const char *text;   /* a string's content in UTF-8, a number as it is written, else NULL */
    size_t start, end;  /* where the value is in the document */
    struct Json *first; /* of an array's or an object's values */
    struct Json *next;  /* value of the same array or object */
} Json;

/* Returns the document's value, which the caller frees with free(), all in one; NULL, and a message
 * of at most `size` bytes, if the text is not JSON. Refused beyond the RFC: a string with a NUL
 * or half of a surrogate pair, bytes that are not UTF-8, more than 64 levels. */
Json *json_parse(const char *text, size_t length, char *message, size_t size);

/* Returns the value of a key, the last one where it occurs twice; NULL where it does not occur,
 * or where there is no object. */
const Json *json_get(const Json *object, const char *key);

/* Returns a string's content, or `otherwise` where there is no string. */
const char *json_text(const Json *value, const char *otherwise);

/* Returns whether the value is a whole number, or a string that is one, within 64 bits. */
bool json_integer(const Json *value, int64_t *number);

/* Returns whether the whole text is a whole number in decimal digits within 64 bits. */
bool text_integer(const char *text, int64_t *number);

#endif
