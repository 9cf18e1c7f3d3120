/*
 * An SSL_CTX is a private struct with function pointers, locks and counters in it. Given to another
 * copy of the library (a wheel's own, one that is linked statically into the interpreter, another
 * version) it would be read with the wrong layout and freed by the wrong allocator. So the address
 * of SSL_new as the owner's library resolves it must be the address as we do, in the same mapped
 * file. dlsym() on the library's handle looks through its own dependencies, in the order in which
 * the dynamic linker does.
 *
 * The probe of the settings is about the pointer itself: whoever got it from a guessed place in
 * somebody's struct is found out by 34 bits that do not agree.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr */
#endif

#include "destinations/tls_borrow.h"

#include <dlfcn.h>
#include <stddef.h>

#include <openssl/ssl.h>

bool pom_tls_same_openssl(const char *library) {
    Dl_info ours;
    Dl_info theirs;
    void *handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
    if (handle == NULL) {
        return false;
    }
    void *mine = (void *)(uintptr_t)&SSL_new; /* POSIX lets functions be told by object pointers */
    void *other = dlsym(handle, "SSL_new");
    bool same = other == mine && dladdr(mine, &ours) != 0 && dladdr(other, &theirs) != 0 &&
                ours.dli_fbase == theirs.dli_fbase;
    (void)dlclose(handle); /* it was loaded before, and stays */
    return same;
}

bool pom_tls_looks_like(const void *ctx, int verify_mode, uint64_t options) {
    const int modes = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    const SSL_CTX *c = ctx;
    return ctx != NULL && (SSL_CTX_get_verify_mode(c) & modes) == verify_mode &&
           (uint32_t)SSL_CTX_get_options(c) == (uint32_t)options;
}
