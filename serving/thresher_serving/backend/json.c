#include "json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LEVELS = 64 };

typedef struct {
    const unsigned char *text;
    size_t length, at;
    Json *nodes;     /* the next free one */
    char *strings;   /* where the next string goes */
    const char *why; /* what is wrong, NULL as long as nothing is */
} Reader;

static bool refuse(Reader *r, const char *why) {
    r->why = why;
    return false;
}

static int peek(const Reader *r) {
    return r->at < r->length ? r->text[r->at] : -1;
}

static void skip_space(Reader *r) {
    while (r->at < r->length && memchr(" \t\n\r", r->text[r->at], 4))
        r->at++;
}

static bool take_word(Reader *r, const char *word) {
    size_t length = strlen(word);
    if (r->length - r->at < length || memcmp(r->text + r->at, word, length) != 0)
        return refuse(r, "unknown word");
    r->at += length;
    return true;
}

static bool take_hex(Reader *r, unsigned *code) {
    *code = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(r);
        unsigned digit;
        if (c >= '0' && c <= '9')
            digit = (unsigned)c - '0';
        else if (c >= 'a' && c <= 'f')
            digit = (unsigned)c - 'a' + 10;
        else if (c >= 'A' && c <= 'F')
            digit = (unsigned)c - 'A' + 10;
        else
            return refuse(r, "\\u needs four hexadecimal digits");
        *code = *code * 16 + digit;
        r->at++;
    }
    return true;
}

static void put_utf8(Reader *r, unsigned code) {
    char *s = r->strings;
    if (code < 0x80) {
        *s++ = (char)code;
    } else if (code < 0x800) {
        *s++ = (char)(0xC0 | code >> 6);
        *s++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *s++ = (char)(0xE0 | code >> 12);
        *s++ = (char)(0x80 | (code >> 6 & 0x3F));
        *s++ = (char)(0x80 | (code & 0x3F));
    } else {
        *s++ = (char)(0xF0 | code >> 18);
        *s++ = (char)(0x80 | (code >> 12 & 0x3F));
        *s++ = (char)(0x80 | (code >> 6 & 0x3F));
        *s++ = (char)(0x80 | (code & 0x3F));
    }
    r->strings = s;
}

static bool take_escape(Reader *r) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(r);
    r->at++;
    if (c != 'u') {
        const char *found = c > 0 ? strchr(from, c) : NULL;
        if (!found) return refuse(r, "unknown escape");
        *r->strings++ = to[found - from];
        return true;
    }
    unsigned code, low;
    if (!take_hex(r, &code)) return false;
    if (code == 0) return refuse(r, "NUL in a string");
    if (code >= 0xD800 && code < 0xE000) {
        if (code >= 0xDC00 || !take_word(r, "\\u") || !take_hex(r, &low) || low < 0xDC00 ||
            low >= 0xE000)
            return refuse(r, "half of a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    put_utf8(r, code);
    return true;
}

/* Copies one character beyond ASCII. */
static bool take_utf8(Reader *r) {
    unsigned lead = r->text[r->at], code, least;
    size_t more;
    if (lead >= 0xC2 && lead < 0xE0)
        more = 1, code = lead & 0x1F, least = 0x80;
    else if (lead >= 0xE0 && lead < 0xF0)
        more = 2, code = lead & 0x0F, least = 0x800;
    else if (lead >= 0xF0 && lead < 0xF5)
        more = 3, code = lead & 0x07, least = 0x10000;
    else
        return refuse(r, "not UTF-8");
    if (r->length - r->at <= more) return refuse(r, "not UTF-8");
    for (size_t i = 1; i <= more; i++) {
        unsigned byte = r->text[r->at + i];
        if ((byte & 0xC0) != 0x80) return refuse(r, "not UTF-8");
        code = code << 6 | (byte & 0x3F);
    }
    if (code < least || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return refuse(r, "not UTF-8");
    memcpy(r->strings, r->text + r->at, more + 1);
    r->strings += more + 1;
    r->at += more + 1;
    return true;
}

static bool take_string(Reader *r, const char **content) {
    *content = r->strings;
    if (peek(r) != '"') return refuse(r, "a string was expected");
    r->at++;
    for (;;) {
        int c = peek(r);
        if (c < 0) return refuse(r, "a string does not end");
        if (c < 0x20) return refuse(r, "control character in a string");
        if (c >= 0x80) {
            if (!take_utf8(r)) return false;
            continue;
        }
        r->at++;
        if (c == '"') break;
        if (c != '\\')
            *r->strings++ = (char)c;
        else if (!take_escape(r))
            return false;
    }
    *r->strings++ = '\0';
    return true;
}

static bool take_digits(Reader *r) {
    size_t before = r->at;
    while (peek(r) >= '0' && peek(r) <= '9')
        r->at++;
    return r->at > before || refuse(r, "a digit was expected");
}

static bool take_number(Reader *r, Json *value) {
    size_t start = r->at;
    if (peek(r) == '-') r->at++;
    if (peek(r) == '0')
        r->at++;
    else if (!take_digits(r))
        return false;
    if (peek(r) == '.') {
        r->at++;
        if (!take_digits(r)) return false;
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        if (!take_digits(r)) return false;
    }
    value->text = r->strings;
    memcpy(r->strings, r->text + start, r->at - start);
    r->strings += r->at - start;
    *r->strings++ = '\0';
    return true;
}

static bool take_value(Reader *r, const char *key, int level, Json **out);

static bool take_values(Reader *r, Json *parent, int level) {
    bool is_object = parent->kind == JSON_OBJECT;
    char closing = is_object ? '}' : ']';
    Json **link = &parent->first;
    r->at++;
    skip_space(r);
    if (peek(r) == closing) {
        r->at++;
        return true;
    }
    for (;;) {
        const char *key = NULL;
        skip_space(r);
        if (is_object) {
            if (!take_string(r, &key)) return false;
            skip_space(r);
            if (peek(r) != ':') return refuse(r, "a colon was expected");
            r->at++;
        }
        if (!take_value(r, key, level + 1, link)) return false;
        link = &(*link)->next;
        skip_space(r);
        int c = peek(r);
        r->at++;
        if (c == closing) return true;
        if (c != ',') {
            r->at--;
            return refuse(r, "a comma or the end was expected");
        }
    }
}

static bool take_value(Reader *r, const char *key, int level, Json **out) {
    if (level > MOST_LEVELS) return refuse(r, "too many levels");
    skip_space(r);
    Json *value = r->nodes;
    bool ok;
    int c = peek(r);
    if (c < 0) return refuse(r, "a value was expected");
    r->nodes++;
    *value = (Json){.key = key, .start = r->at};
    switch (c) {
    case '{':
    case '[':
        value->kind = c == '{' ? JSON_OBJECT : JSON_ARRAY;
        ok = take_values(r, value, level);
        break;
    case '"':
        value->kind = JSON_STRING;
        ok = take_string(r, &value->text);
        break;
    case 't':
        value->kind = JSON_TRUE;
        ok = take_word(r, "true");
        break;
    case 'f':
        value->kind = JSON_FALSE;
        ok = take_word(r, "false");
        break;
    case 'n':
        value->kind = JSON_NULL;
        ok = take_word(r, "null");
        break;
    default:
        value->kind = JSON_NUMBER;
        ok = take_number(r, value);
    }
    value->end = r->at;
    *out = value;
    return ok;
}

Json *json_parse(const char *text, size_t length, char *message, size_t size) {
    /* Each value takes a byte, and the one that is refused none. A string is shorter without its
     * quotes and escapes; a number is followed by a NUL here. Pages that are not used cost nothing.
     */
    size_t most = length + 1;
    Json *nodes = length < SIZE_MAX / 128 ? malloc(most * sizeof(Json) + 2 * length + 2) : NULL;
    if (!nodes) {
        snprintf(message, size, "not enough memory for %zu bytes of JSON", length);
        return NULL;
    }
    Reader r = {(const unsigned char *)text, length, 0, nodes, (char *)(nodes + most), NULL};
    Json *root = NULL;
    if (take_value(&r, NULL, 0, &root)) {
        skip_space(&r);
        if (r.at < length) refuse(&r, "more follows after the end");
    }
    if (!r.why) return root;
    snprintf(message, size, "byte %zu: %s", r.at, r.why);
    free(nodes);
    return NULL;
}

const Json *json_get(const Json *object, const char *key) {
    const Json *found = NULL;
    if (!object || object->kind != JSON_OBJECT) return NULL;
    for (const Json *member = object->first; member; member = member->next)
        if (strcmp(member->key, key) == 0) found = member;
    return found;
}

const char *json_text(const Json *value, const char *otherwise) {
    return value && value->kind == JSON_STRING ? value->text : otherwise;
}

bool text_integer(const char *text, int64_t *number) {
    char *end;
    if (text[0] != '-' && (text[0] < '0' || text[0] > '9')) return false;
    errno = 0;
    long long read = strtoll(text, &end, 10);
    if (*end || end[-1] == '-' || errno == ERANGE) return false;
    *number = read;
    return true;
}

bool json_integer(const Json *value, int64_t *number) {
    bool has_digits = value && (value->kind == JSON_NUMBER || value->kind == JSON_STRING);
    return has_digits && text_integer(value->text, number);
}
