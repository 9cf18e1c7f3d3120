/*
 * The options of an HTTP destination: their defaults, what is refused, and the texts that are made
 * of them once and repeated by each request.
 *
 * Everything that would let a header be smuggled in, or a request go elsewhere, is refused here, so
 * that http.c writes what it finds.
 */
#include "destinations/http_options.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/shown.h"
#include "destinations/spool.h"

/* Room for Content-Type, Idempotency-Key and Content-Length. */
#define CONSTANT_HEAD_MAX (POM__HTTP_REQUEST_HEAD - 256)

#define AUTHORITY_BYTES (POM__HTTP_HOST_MAX + 16)

/* Of an option in the message that refuses it. */
#define SHOWN_BYTES 128

pom_http_options_t pom_http_options_default(void) {
    return (pom_http_options_t){
        .path = "/api/data",
        .tls = pom_tls_options_default(),
        .timeout_ns = 5 * POM_NS_PER_S,
        .compress = true,
        .give_up_ns = 3600 * POM_NS_PER_S,
        .spool_bytes = POM__SPOOL_CAP,
        .gather_ns = 5 * POM_NS_PER_S,
        .report_ns = 60 * POM_NS_PER_S,
    };
}

__attribute__((format(printf, 3, 4))) static pom_status_t refuse(char *error, size_t error_size,
                                                                 const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error, error_size, format, args); /* cut is fine */
    va_end(args);
    return POM_EINVAL;
}

/* A header's name (RFC 9110: token). */
static bool is_token(const char *text) {
    static const char marks[] = "!#$%&'*+-.^_`|~";
    for (const char *c = text; *c != '\0'; c++) {
        bool letter =
            (*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z');
        if (!letter && strchr(marks, *c) == NULL) {
            return false;
        }
    }
    return text[0] != '\0';
}

/* What may stand in a header's value; line ends are how headers are smuggled in. */
static bool is_value(const char *text) {
    for (const char *c = text; *c != '\0'; c++) {
        if ((*c >= 0 && *c < ' ' && *c != '\t') || *c == 127) {
            return false;
        }
    }
    return true;
}

static bool is_visible(const char *text, const char *but) {
    for (const char *c = text; *c != '\0'; c++) {
        if (*c <= ' ' || *c >= 127 || strchr(but, *c) != NULL) {
            return false;
        }
    }
    return true;
}

static bool equal_words(const char *a, const char *b) {
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        char x = *a >= 'A' && *a <= 'Z' ? (char)(*a + 32) : *a;
        if (x != *b) {
            return false;
        }
    }
    return *a == *b;
}

static pom_status_t put_headers(pom_buf_t *buf, const pom_http_options_t *o, char *error,
                                size_t size) {
    static const char *const ours[] = {"host",
                                       "content-length",
                                       "content-type",
                                       "content-encoding",
                                       "transfer-encoding",
                                       "connection",
                                       "te",
                                       "upgrade",
                                       "expect",
                                       "trailer",
                                       "idempotency-key"};
    char shown[SHOWN_BYTES];
    for (uint32_t i = 0; i < o->header_count; i++) {
        const pom_http_header_t *header = &o->headers[i];
        if (!is_token(header->name) || !is_value(header->value)) {
            return refuse(error, size, "header '%s' has a name or a value that HTTP does not allow",
                          pom_shown(header->name, shown, sizeof shown));
        }
        for (size_t k = 0; k < sizeof ours / sizeof ours[0]; k++) {
            if (equal_words(header->name, ours[k])) {
                return refuse(error, size, "header '%s' is set by the destination itself",
                              pom_shown(header->name, shown, sizeof shown));
            }
        }
        if (o->token != NULL && equal_words(header->name, "authorization")) {
            return refuse(error, size, "token and an Authorization header: one of them");
        }
        pom_buf_put_text(buf, header->name);
        pom_buf_put_text(buf, ": ");
        pom_buf_put_text(buf, header->value);
        pom_buf_put_text(buf, "\r\n");
    }
    if (o->token != NULL) {
        if (!is_visible(o->token, "")) {
            return refuse(error, size, "the token has characters that HTTP does not allow");
        }
        pom_buf_put_text(buf, "Authorization: Bearer ");
        pom_buf_put_text(buf, o->token);
        pom_buf_put_text(buf, "\r\n");
    }
    return POM_OK;
}

/* "host:port", as in a URL. */
static void put_authority(const pom__http_texts_t *t, const pom_http_options_t *o,
                          char out[AUTHORITY_BYTES]) {
    bool literal = strchr(t->host, ':') != NULL; /* IPv6 */
    char port[8] = "";
    if (t->port != (o->use_tls ? 443 : 80)) {
        (void)snprintf(port, sizeof port, ":%u", (unsigned)t->port);
    }
    (void)snprintf(out, AUTHORITY_BYTES, "%s%s%s%s", literal ? "[" : "", t->host,
                   literal ? "]" : "", port);
}

static void make_name(pom__http_texts_t *t, const pom_http_options_t *o) {
    char authority[AUTHORITY_BYTES];
    put_authority(t, o, authority);
    /* Not the query: stats() are read by more people than a secret in it is meant for. */
    (void)snprintf(t->name, sizeof t->name, "%s://%s%.*s", o->use_tls ? "https" : "http", authority,
                   (int)strcspn(o->path, "?"), o->path);
}

/* One head with its NUL, owned by t. */
static pom_status_t make_head(pom__http_texts_t *t, const pom_http_options_t *o, bool compressed,
                              char *error, size_t error_size) {
    char authority[AUTHORITY_BYTES];
    put_authority(t, o, authority);
    pom_buf_t buf;
    pom_buf_init(&buf, CONSTANT_HEAD_MAX);
    pom_buf_put_text(&buf, "POST ");
    pom_buf_put_text(&buf, o->path);
    pom_buf_put_text(&buf, " HTTP/1.1\r\nHost: ");
    pom_buf_put_text(&buf, authority);
    pom_buf_put_text(&buf, "\r\nUser-Agent: profilomatic/" POM_VERSION "\r\n");
    pom_buf_put_text(&buf, compressed ? "Content-Encoding: gzip\r\n" : "");
    pom_status_t status = put_headers(&buf, o, error, error_size);
    pom_buf_put_char(&buf, '\0');
    if (status == POM_OK && pom_buf_failed(&buf)) {
        status = buf.room == 0 ? POM_ENOMEM : POM_EINVAL;
        (void)refuse(error, error_size, "no memory, or headers over 16 KiB");
    }
    if (status == POM_OK) {
        size_t size;
        t->head[compressed] = pom_buf_take(&buf, &size);
    }
    pom_buf_fini(&buf);
    return status;
}

static pom_status_t check(pom__http_texts_t *t, const pom_http_options_t *o, char *error,
                          size_t error_size) {
    const char *host = o->host != NULL ? o->host : "";
    size_t size = strlen(host);
    char shown[SHOWN_BYTES];
    if (size > 2 && host[0] == '[' && host[size - 1] == ']') {
        host++;
        size -= 2;
    }
    if (size == 0 || size > POM__HTTP_HOST_MAX) {
        return refuse(error, error_size, "a host is 1 to %d characters", POM__HTTP_HOST_MAX);
    }
    memcpy(t->host, host, size);
    t->host[size] = '\0';
    if (!is_visible(t->host, "/?#@[]\\")) {
        return refuse(error, error_size, "'%s' is no host name: without scheme, port and path",
                      pom_shown(t->host, shown, sizeof shown));
    }
    if (o->path == NULL || o->path[0] != '/' || strlen(o->path) >= POM__HTTP_PATH_BYTES ||
        !is_visible(o->path, "#")) {
        return refuse(error, error_size,
                      "path='%s': must begin with / and have no blanks (encode them)",
                      pom_shown(o->path != NULL ? o->path : "", shown, sizeof shown));
    }
    if (o->timeout_ns <= 0 || o->give_up_ns <= 0) {
        return refuse(error, error_size, "a timeout is more than nothing");
    }
    return POM_OK;
}

pom_status_t pom__http_texts_make(pom__http_texts_t *t, const pom_http_options_t *o, char *error,
                                  size_t error_size) {
    memset(t, 0, sizeof *t);
    pom_status_t status = check(t, o, error, error_size);
    if (status != POM_OK) {
        return status;
    }
    t->port = o->port != 0 ? o->port : o->use_tls ? 443 : 80;
    make_name(t, o);
    for (int i = 0; i < 2 && status == POM_OK; i++) {
        status = make_head(t, o, i == 1, error, error_size);
    }
    if (status != POM_OK) {
        pom__http_texts_free(t);
    }
    return status;
}

void pom__http_texts_free(pom__http_texts_t *t) {
    pom_free(t->head[0]);
    pom_free(t->head[1]);
    t->head[0] = t->head[1] = NULL;
}
