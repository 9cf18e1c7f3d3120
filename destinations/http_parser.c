/*
 * The reply reader: a line at a time while in the head, in pieces as they come while in the body.
 *
 *     STATUS -> HEADER* -> body by length            -> END
 *                       -> CHUNK_SIZE, CHUNK, CHUNK_END ... TRAILER* -> END
 *                       -> body until the connection ends
 *                       -> nothing (204, 304, length 0) -> END
 *     a head 1xx leads back to STATUS
 *
 * Strict where leniency is how replies are smuggled (lengths, transfer codings, folded lines,
 * NULs), lenient where it is harmless (a bare newline ends a line, the reason may be missing).
 * All bounds are in the header file; passing one makes the reply BAD, never an allocation.
 *
 * Written here since Debian 12 has no llhttp and its http-parser is abandoned; we need replies
 * only. Not here: HTTP/2, upgrades, content codings, replies to HEAD.
 */
#include "destinations/http_parser.h"

#include <string.h>

enum { STATUS, HEADER, BODY, BODY_TO_EOF, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, END, BROKEN };

/* A chunk's size line may carry extensions; nobody sends long ones. */
#define CHUNK_LINE_MAX 1024

void pom__http_parser_init(pom__http_parser_t *p) {
    memset(p, 0, offsetof(pom__http_parser_t, line));
    pom_buf_init(&p->body, POM__HTTP_BODY_KEPT);
}

void pom__http_parser_start(pom__http_parser_t *p) {
    pom_buf_t body = p->body;
    pom_buf_reset(&body);
    memset(p, 0, offsetof(pom__http_parser_t, line));
    p->body = body;
}

void pom__http_parser_fini(pom__http_parser_t *p) {
    pom_buf_fini(&p->body);
}

static void bad(pom__http_parser_t *p, const char *why) {
    p->error = why;
    p->phase = BROKEN;
}

/* ---- words ---- */

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool same_word(const char *a, size_t size, const char *word) {
    for (size_t i = 0; i < size; i++) {
        if (word[i] == '\0' || lower(a[i]) != word[i]) {
            return false;
        }
    }
    return word[size] == '\0';
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

static void trim(const char **text, size_t *size) {
    while (*size > 0 && is_blank((*text)[0])) {
        (*text)++;
        (*size)--;
    }
    while (*size > 0 && is_blank((*text)[*size - 1])) {
        (*size)--;
    }
}

/* The next element of a comma separated list; false at its end. */
static bool next_word(const char **text, size_t *size, const char **word, size_t *word_size) {
    if (*size == 0) {
        return false;
    }
    const char *comma = memchr(*text, ',', *size);
    size_t length = comma != NULL ? (size_t)(comma - *text) : *size;
    *word = *text;
    *word_size = length;
    trim(word, word_size);
    size_t step = comma != NULL ? length + 1 : length;
    *text += step;
    *size -= step;
    return true;
}

/* Cut, and only what can stand in a line of text. */
static void keep(char *out, size_t room, const char *text, size_t size) {
    size_t n = size < room - 1 ? size : room - 1;
    for (size_t i = 0; i < n; i++) {
        out[i] = text[i] >= ' ' && text[i] < 127 ? text[i] : '?';
    }
    out[n] = '\0';
}

/* ---- the head ---- */

static int digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : -1;
}

static void status_line(pom__http_parser_t *p) {
    const char *l = p->line;
    size_t size = p->line_size;
    /* "HTTP/1.1 200", then nothing or " reason" */
    if (size < 12 || memcmp(l, "HTTP/1.", 7) != 0 || digit(l[7]) < 0 || l[8] != ' ' ||
        digit(l[9]) < 1 || digit(l[10]) < 0 || digit(l[11]) < 0 || (size > 12 && l[12] != ' ')) {
        bad(p, "the answer is not HTTP/1");
        return;
    }
    p->minor_zero = l[7] == '0';
    p->status = digit(l[9]) * 100 + digit(l[10]) * 10 + digit(l[11]);
    if (p->status >= 600) {
        bad(p, "the answer has an impossible status");
        return;
    }
    keep(p->reason, sizeof p->reason, size > 13 ? l + 13 : "", size > 13 ? size - 13 : 0);
    p->phase = HEADER;
}

static void content_length(pom__http_parser_t *p, const char *value, size_t size) {
    const char *word;
    size_t word_size;
    bool any = false;
    /* A list of equal lengths is what a proxy makes of a header that came twice. */
    while (next_word(&value, &size, &word, &word_size)) {
        uint64_t length = 0;
        for (size_t i = 0; i < word_size; i++) {
            int d = digit(word[i]);
            if (d < 0 || length > (UINT64_MAX - 9) / 10) {
                bad(p, "the answer has a wrong Content-Length");
                return;
            }
            length = length * 10 + (uint64_t)d;
        }
        if (word_size == 0 || (p->has_length && p->length != length)) {
            bad(p, "the answer has a wrong Content-Length");
            return;
        }
        p->has_length = any = true;
        p->length = length;
    }
    if (!any) {
        bad(p, "the answer has a wrong Content-Length");
    }
}

static void transfer_encoding(pom__http_parser_t *p, const char *value, size_t size) {
    trim(&value, &size);
    if (p->chunked || !same_word(value, size, "chunked")) {
        bad(p, "the answer has a transfer coding other than chunked");
        return;
    }
    p->chunked = true;
}

static void connection(pom__http_parser_t *p, const char *value, size_t size) {
    const char *word;
    size_t word_size;
    while (next_word(&value, &size, &word, &word_size)) {
        if (same_word(word, word_size, "close")) {
            p->closes = true;
        } else if (same_word(word, word_size, "keep-alive")) {
            p->keeps = true;
        }
    }
}

static void header_line(pom__http_parser_t *p) {
    const char *l = p->line;
    size_t size = p->line_size;
    const char *colon = memchr(l, ':', size);
    if (is_blank(l[0]) || colon == NULL || colon == l || is_blank(colon[-1])) {
        bad(p, "the answer has a broken header line");
        return;
    }
    size_t name = (size_t)(colon - l);
    const char *value = colon + 1;
    size_t value_size = size - name - 1;
    trim(&value, &value_size);
    if (same_word(l, name, "content-length")) {
        content_length(p, value, value_size);
    } else if (same_word(l, name, "transfer-encoding")) {
        transfer_encoding(p, value, value_size);
    } else if (same_word(l, name, "connection")) {
        connection(p, value, value_size);
    } else if (same_word(l, name, "retry-after")) {
        keep(p->retry_after, sizeof p->retry_after, value, value_size);
    } else if (same_word(l, name, "location")) {
        keep(p->location, sizeof p->location, value, value_size);
    }
}

static void head_ended(pom__http_parser_t *p) {
    p->head = 0;
    if (p->status < 200) {
        if (p->status == 101) {
            bad(p, "the server switched to a protocol nobody asked for");
        } else if (++p->interim > POM__HTTP_INTERIM_MAX) {
            bad(p, "the answer has too many interim replies");
        } else {
            p->phase = STATUS;
            p->has_length = p->chunked = p->closes = p->keeps = false;
            p->length = 0;
            p->retry_after[0] = p->location[0] = '\0';
        }
        return;
    }
    p->keep_alive = !p->closes && (!p->minor_zero || p->keeps);
    if (p->status == 204 || p->status == 304) {
        p->phase = END;
    } else if (p->chunked) {
        /* With a length as well, one of the two was written by somebody else. */
        p->keep_alive = p->keep_alive && !p->has_length && !p->minor_zero;
        p->phase = CHUNK_SIZE;
    } else if (p->has_length) {
        if (p->length > POM__HTTP_BODY_MAX) {
            bad(p, "the answer is longer than 10 MiB");
        } else {
            p->phase = p->length > 0 ? BODY : END;
        }
    } else {
        p->keep_alive = false;
        p->phase = BODY_TO_EOF;
    }
}

/* ---- the body ---- */

static int hex(char c) {
    char l = lower(c);
    return l >= 'a' && l <= 'f' ? l - 'a' + 10 : digit(c);
}

static void chunk_line(pom__http_parser_t *p) {
    uint64_t length = 0;
    size_t i = 0;
    for (; i < p->line_size && hex(p->line[i]) >= 0; i++) {
        if (length > POM__HTTP_BODY_MAX) {
            break;
        }
        length = length * 16 + (uint64_t)hex(p->line[i]);
    }
    if (length > POM__HTTP_BODY_MAX) {
        bad(p, "the answer is longer than 10 MiB");
    } else if (i == 0 || (i < p->line_size && p->line[i] != ';' && !is_blank(p->line[i]))) {
        bad(p, "the answer has a broken chunk");
    } else {
        p->length = length;
        p->phase = length > 0 ? CHUNK : TRAILER;
    }
    p->head = 0;
}

/* How many of the bytes belong to the body; they are kept or counted. */
static size_t take_body(pom__http_parser_t *p, const char *data, size_t size) {
    size_t n = p->phase != BODY_TO_EOF && p->length < size ? (size_t)p->length : size;
    p->received += n;
    if (p->received > POM__HTTP_BODY_MAX) {
        bad(p, "the answer is longer than 10 MiB");
        return n;
    }
    size_t room = POM__HTTP_BODY_KEPT - p->body.len;
    if (!pom_buf_failed(&p->body)) {
        pom_buf_put(&p->body, data, n < room ? n : room);
    }
    if (p->phase != BODY_TO_EOF) {
        p->length -= n;
        if (p->length == 0) {
            p->phase = p->phase == BODY ? END : CHUNK_END;
        }
    }
    return n;
}

/* ---- lines ---- */

static void line_ended(pom__http_parser_t *p) {
    if (p->line_size > 0 && p->line[p->line_size - 1] == '\r') {
        p->line_size--;
    }
    if (memchr(p->line, '\0', p->line_size) != NULL ||
        memchr(p->line, '\r', p->line_size) != NULL) {
        bad(p, "the answer has a broken header line");
        return;
    }
    switch (p->phase) {
    case STATUS:
        status_line(p);
        break;
    case HEADER:
        if (p->line_size == 0) {
            head_ended(p);
        } else {
            header_line(p);
        }
        break;
    case CHUNK_SIZE:
        chunk_line(p);
        break;
    case CHUNK_END:
        if (p->line_size > 0) {
            bad(p, "the answer has a broken chunk");
        } else {
            p->phase = CHUNK_SIZE;
        }
        p->head = 0;
        break;
    default: /* TRAILER: what it says comes too late to matter */
        if (p->line_size == 0) {
            p->phase = END;
        }
        break;
    }
    p->line_size = 0;
}

/* Up to the end of a line, or of the data. */
static size_t take_line(pom__http_parser_t *p, const char *data, size_t size) {
    const char *newline = memchr(data, '\n', size);
    size_t n = newline != NULL ? (size_t)(newline - data) : size;
    size_t used = newline != NULL ? n + 1 : n;
    size_t most =
        p->phase == CHUNK_SIZE || p->phase == CHUNK_END ? CHUNK_LINE_MAX : POM__HTTP_HEAD_MAX;
    p->head += used;
    if (p->head > most) {
        bad(p, most == CHUNK_LINE_MAX ? "the answer has a broken chunk"
                                      : "the answer's headers are longer than 16 KiB");
        return used;
    }
    memcpy(p->line + p->line_size, data, n); /* the lines of a head are no longer than the head */
    p->line_size += n;
    if (newline != NULL) {
        line_ended(p);
    }
    return used;
}

static pom__http_state_t state(const pom__http_parser_t *p) {
    return p->phase == END ? POM__HTTP_DONE : p->phase == BROKEN ? POM__HTTP_BAD : POM__HTTP_MORE;
}

pom__http_state_t pom__http_parser_feed(pom__http_parser_t *p, const char *data, size_t size,
                                        size_t *used) {
    size_t at = 0;
    p->begun = p->begun || size > 0;
    while (at < size && p->phase != END && p->phase != BROKEN) {
        bool in_body = p->phase == BODY || p->phase == BODY_TO_EOF || p->phase == CHUNK;
        at += in_body ? take_body(p, data + at, size - at) : take_line(p, data + at, size - at);
    }
    *used = at;
    return state(p);
}

pom__http_state_t pom__http_parser_eof(pom__http_parser_t *p) {
    if (p->phase == BODY_TO_EOF) {
        p->phase = END;
    } else if (p->phase != END && p->phase != BROKEN) {
        bad(p, p->begun ? "the connection ended inside the answer"
                        : "the connection ended before the answer");
    }
    return state(p);
}
