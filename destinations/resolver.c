/*
 * getaddrinfo() on a thread that lives as long as the answer takes.
 *
 * Not uv_getaddrinfo(): that starts libuv's pool, four threads that stay in somebody else's
 * process for ever, and a lookup that hangs there cannot be given up, so the loop could not end
 * before the resolver's own timeouts (30 s). A connection is rare; so are these threads.
 *
 * Shared between the loop and the thread under the lookup's lock; whoever leaves last frees it.
 * Signals are blocked, as in the loop thread, which made it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np */
#endif

#include "destinations/resolver.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "destinations/loop_guard.h"

#define HANGING_MAX 8 /* with back-off between them, minutes of silence */
#define HOST_MAX    256
/* getaddrinfo() loads modules and parses files on the stack; touched pages only cost memory. */
#define STACK_BYTES ((size_t)512 << 10)

struct pom__lookup_s {
    /* constant after new */
    char host[HOST_MAX];
    uint16_t port;
    /* under lookup_lock */
    pthread_mutex_t lookup_lock;
    uv_async_t *async; /* NULL: nobody waits */
    int users;         /* the loop, the thread */
    bool done;
    pom__addresses_t addresses;
};

static _Atomic(int) hanging;

static void resolve(const char *host, uint16_t port, int flags, pom__addresses_t *out) {
    char service[8];
    struct addrinfo hints;
    struct addrinfo *list = NULL;
    memset(&hints, 0, sizeof hints);
    memset(out, 0, sizeof *out);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags | AI_NUMERICSERV;
    (void)snprintf(service, sizeof service, "%u", (unsigned)port); /* five digits */
    int error = getaddrinfo(host, service, &hints, &list);
    if (error != 0) {
        char text[96] = "";
        if (error == EAI_SYSTEM) {
            (void)uv_strerror_r(uv_translate_sys_error(errno), text, sizeof text);
        } else {
            (void)snprintf(text, sizeof text, "%s", gai_strerror(error));
        }
        (void)snprintf(out->error, sizeof out->error, "%s", text);
        return;
    }
    for (struct addrinfo *a = list; a != NULL && out->count < POM__ADDRESSES_MAX; a = a->ai_next) {
        if (a->ai_addrlen <= sizeof out->all[0]) {
            memcpy(&out->all[out->count++], a->ai_addr, a->ai_addrlen);
        }
    }
    freeaddrinfo(list);
}

/* By the address and not by its place: resolvers rotate their answers as well. */
void pom__addresses_begin_behind(pom__addresses_t *a, const struct sockaddr_storage *failed) {
    uint32_t at = 0;
    while (at < a->count && memcmp(&a->all[at], failed, sizeof *failed) != 0) {
        at++; /* what lies behind an address is zero in both */
    }
    if (at < a->count) {
        pom__addresses_t old = *a;
        for (uint32_t i = 0; i < a->count; i++) {
            a->all[i] = old.all[(at + 1 + i) % a->count];
        }
    }
}

bool pom__resolve_numeric(const char *host, uint16_t port, pom__addresses_t *out) {
    resolve(host, port, AI_NUMERICHOST, out);
    return out->count > 0;
}

/* With the lock held, which it releases. */
static void leave(pom__lookup_t *l) {
    bool last = --l->users == 0;
    (void)pthread_mutex_unlock(&l->lookup_lock);
    if (last) {
        (void)pthread_mutex_destroy(&l->lookup_lock);
        pom_free(l);
    }
}

static void *lookup_main(void *arg) {
    pom__lookup_t *l = arg;
    pom__addresses_t addresses;
    (void)pthread_setname_np(pthread_self(), "pom-resolve"); /* fails only for longer names */
    resolve(l->host, l->port, AI_ADDRCONFIG, &addresses);
    if (addresses.count == 0) {
        /* A machine without any outside address still has its own. */
        resolve(l->host, l->port, 0, &addresses);
    }
    (void)atomic_fetch_sub(&hanging, 1);
    (void)pthread_mutex_lock(&l->lookup_lock);
    l->addresses = addresses;
    l->done = true;
    if (l->async != NULL) {
        (void)pom__loop_wake(l->async); /* not closing: free comes first, under the lock */
    }
    leave(l);
    return NULL;
}

pom__lookup_t *pom__lookup_new(uv_async_t *async, const char *host, uint16_t port) {
    pthread_t thread;
    pthread_attr_t attr;
    pom__lookup_t *l = NULL;
    if (atomic_fetch_add(&hanging, 1) >= HANGING_MAX || strlen(host) >= HOST_MAX ||
        (l = pom_calloc(1, sizeof *l)) == NULL) {
        goto fail;
    }
    memcpy(l->host, host, strlen(host) + 1);
    l->port = port;
    l->async = async;
    l->users = 2;
    (void)pthread_mutex_init(&l->lookup_lock, NULL);
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES); /* refused: the default will do */
    int error = pthread_create(&thread, &attr, lookup_main, l);
    (void)pthread_attr_destroy(&attr);
    if (error == 0) {
        return l;
    }
    (void)pthread_mutex_destroy(&l->lookup_lock);
    pom_free(l);
fail:
    (void)atomic_fetch_sub(&hanging, 1);
    return NULL;
}

bool pom__lookup_done(pom__lookup_t *l, pom__addresses_t *out) {
    (void)pthread_mutex_lock(&l->lookup_lock);
    bool done = l->done;
    if (done) {
        *out = l->addresses;
    }
    (void)pthread_mutex_unlock(&l->lookup_lock);
    return done;
}

void pom__lookup_free(pom__lookup_t *l) {
    if (l != NULL) {
        (void)pthread_mutex_lock(&l->lookup_lock);
        l->async = NULL;
        leave(l);
    }
}

void pom__resolver_after_fork(void) {
    atomic_store(&hanging, 0);
}
