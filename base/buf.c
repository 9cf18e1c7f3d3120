/*
 * The byte buffer: doubles up to its cap, fails once and for good.
 *
 * A failed append frees the content at once instead of keeping half a record: half a JSON line is
 * of no use to anybody, and the memory is wanted back exactly when memory is short. The writer goes
 * on calling without a check and asks once at its end. One owner at a time.
 */
#include "base/buf.h"

#include "base/alloc.h"

#include <string.h>

/* Most values of a message fit; a JSON record of a small request takes four doublings from here. */
#define ROOM_FIRST ((size_t)256)

static void fail(pom_buf_t *buf) {
    pom_free(buf->data);
    buf->data = NULL;
    buf->len = 0;
    buf->room = 0;
    buf->failed = true;
}

/* True when size more bytes fit, which may have moved the content. */
static bool ensure(pom_buf_t *buf, size_t size) {
    if (buf->failed) {
        return false;
    }
    if (buf->data != NULL && size <= buf->room - buf->len) {
        return true;
    }
    if (buf->cap == 0 || size > buf->cap - buf->len) {
        fail(buf);
        return false;
    }
    size_t needed = buf->len + size;
    size_t room = buf->room > buf->cap / 2 ? buf->cap : buf->room * 2;
    if (room < ROOM_FIRST) {
        room = ROOM_FIRST;
    }
    if (room < needed) {
        room = needed;
    }
    if (room > buf->cap) {
        room = buf->cap; /* needed <= cap was checked above. */
    }
    char *data = pom_realloc(buf->data, room);
    if (data == NULL) {
        fail(buf);
        return false;
    }
    buf->data = data;
    buf->room = room;
    return true;
}

void pom_buf_init(pom_buf_t *buf, size_t cap) {
    buf->data = NULL;
    buf->len = 0;
    buf->room = 0;
    buf->cap = cap;
    buf->failed = false;
}

void pom_buf_put(pom_buf_t *buf, const void *bytes, size_t size) {
    if (size == 0 || !ensure(buf, size)) {
        return;
    }
    memcpy(buf->data + buf->len, bytes, size);
    buf->len += size;
}

void pom_buf_put_char(pom_buf_t *buf, char c) {
    if (ensure(buf, 1)) {
        buf->data[buf->len++] = c;
    }
}

void pom_buf_put_text(pom_buf_t *buf, const char *text) {
    pom_buf_put(buf, text, strlen(text));
}

char *pom_buf_reserve(pom_buf_t *buf, size_t size) {
    return ensure(buf, size) ? buf->data + buf->len : NULL;
}

bool pom_buf_failed(const pom_buf_t *buf) {
    return buf->failed;
}

void pom_buf_reset(pom_buf_t *buf) {
    buf->len = 0;
    buf->failed = false;
}

char *pom_buf_take(pom_buf_t *buf, size_t *size) {
    *size = buf->len;
    if (buf->len == 0) {
        return NULL; /* Empty or failed: memory kept from before a reset stays with the buffer. */
    }
    char *data = buf->data;
    pom_buf_init(buf, buf->cap);
    return data;
}

void pom_buf_fini(pom_buf_t *buf) {
    pom_free(buf->data);
    pom_buf_init(buf, buf->cap);
}
