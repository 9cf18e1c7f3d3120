/*
 * The stages of the loop's thread: "pom-loop" in a profile of the profiler. Outside any it waits,
 * in libuv.
 *
 * Used by the files of this folder that work on it.
 */
#ifndef POM_DESTINATIONS_STAGES_H
#define POM_DESTINATIONS_STAGES_H

#include "base/stage.h"

#define POM_LOOP_STAGE_LIST(X)                                                                     \
    X(PUMP, "pump")           /* one turn over all destinations, their opening and closing */      \
    X(DEAL, "deal")           /* the intake to the backlogs */                                     \
    X(DELIVER, "deliver")     /* a batch to its destination */                                     \
    X(ENCODE, "encode")       /* profiles into bytes */                                            \
    X(COMPRESS, "compress")   /* bytes into fewer */                                               \
    X(WRITE, "write")         /* into a file */                                                    \
    X(SEND, "send")           /* into a socket */                                                  \
    X(RECEIVE, "receive")     /* an answer */                                                      \
    X(HANDSHAKE, "handshake") /* of TLS */                                                         \
    X(ENCRYPT, "encrypt")                                                                          \
    X(DECRYPT, "decrypt")

typedef enum pom_loop_stage_e {
    POM_LOOP_OUTSIDE,
#define X(name, text) POM_LOOP_##name,
    POM_LOOP_STAGE_LIST(X)
#undef X
} pom_loop_stage_t;

extern pom_stages_t pom_loop_stages; /* one a process, as the thread is */

static inline void pom__loop_enter(pom_loop_stage_t stage) {
    pom_stage_enter(&pom_loop_stages, (uint8_t)stage);
}

static inline void pom__loop_leave(void) {
    pom_stage_leave(&pom_loop_stages);
}

#endif
