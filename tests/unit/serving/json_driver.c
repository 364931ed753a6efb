/* Reads documents from standard input, each after its length in four bytes, and writes a line for
 * each: the value in a form of its own, or "refused: ...". */
#include "json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(const Json *value) {
    static const char *const words[] = {"null", "false", "true"};
    int64_t whole;
    if (value->kind <= JSON_TRUE) {
        fputs(words[value->kind], stdout);
    } else if (value->kind == JSON_NUMBER) {
        if (json_integer(value, &whole))
            printf("i%" PRId64, whole);
        else
            printf("n%s", value->text);
    } else if (value->kind == JSON_STRING) {
        putchar('"');
        for (const char *c = value->text; *c; c++)
            printf("%02x", (unsigned char)*c);
        putchar('"');
    } else {
        putchar(value->kind == JSON_OBJECT ? '{' : '[');
        for (const Json *member = value->first; member; member = member->next) {
            if (member->key) {
                if (!json_get(value, member->key)) abort();
                for (const char *c = member->key; *c; c++)
                    printf("%02x", (unsigned char)*c);
                putchar(':');
            }
            put(member);
            putchar(',');
        }
        putchar(value->kind == JSON_OBJECT ? '}' : ']');
    }
}

int main(void) {
    uint32_t length;
    char message[128];
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        char *text = malloc(length ? length : 1); /* no byte more, so that a sanitizer sees one */
        if (!text || fread(text, 1, length, stdin) != length) return 1;
        Json *root = json_parse(text, length, message, sizeof message);
        if (root) {
            if (root->start > root->end || root->end > length) abort();
            put(root);
        } else {
            printf("refused: %s", message);
        }
        putchar('\n');
        free(root);
        free(text);
    }
    return 0;
}
