/*
 * Status codes: the one way a function below the bindings says that it failed.
 *
 * Used by every folder. A fallible function returns pom_status_t: 0 on success, a negative code on
 * failure; foreign codes (errno, libuv, OpenSSL) are translated at the border and kept as text.
 *
 *     pom_status_t st = pom_exporter_start(exporter);
 *     if (st != POM_OK) {
 *         log(pom_status_name(st), pom_status_text(st));
 *     }
 */
#ifndef POM_BASE_STATUS_H
#define POM_BASE_STATUS_H

/* One definition of the list: code name, value, text for people. Values never change meaning. */
#define POM_STATUS_LIST(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(ENOMEM, -1, "out of memory")                                                                 \
    X(EFULL, -2, "a fixed capacity is used up")                                                    \
    X(EINVAL, -3, "invalid value")                                                                 \
    X(EIO, -4, "input or output failed")                                                           \
    X(ECLOSED, -5, "already stopped or closed")                                                    \
    X(ETIMEDOUT, -6, "deadline passed")                                                            \
    X(EUNREADABLE, -7, "memory could not be read")                                                 \
    X(ETORN, -8, "the data changed while it was read")                                             \
    X(ENOTFOUND, -9, "not found")                                                                  \
    X(EUNSUPPORTED, -10, "not supported here")

typedef enum pom_status_e {
#define X(name, value, text) POM_##name = (value),
    POM_STATUS_LIST(X)
#undef X
} pom_status_t;

#define POM_MUST_USE __attribute__((warn_unused_result))

/* "ENOMEM" and the like; "UNKNOWN" for a value outside the list. [any] */
const char *pom_status_name(pom_status_t status);

/* One clause for people. [any] */
const char *pom_status_text(pom_status_t status);

#endif
