/*
 * The engine: builds the parts and wires them. Start, stop, fork; no Python.
 *
 * Used by bindings/ext, which brings the walker and the resolver (the parts that know an
 * interpreter) and calls on app threads with the interpreter's lock held. One for the process.
 *
 *     pom_engine_init(&parts);                     once, at module init
 *     pom_engine_start(); ... pom_engine_registry() ... pom_engine_stop(deadline);
 *
 *     app threads --events--> registry --samples-- sampler
 *                                 |profile
 *                                 v
 *                             exporter --> destinations
 *
 * Lives: STOPPED -start-> RUNNING -stop-> STOPPED; a fork makes the child's FORKED, from which
 * ensure starts anew.
 */
#ifndef POM_ENGINE_ENGINE_H
#define POM_ENGINE_ENGINE_H

#include "actions/registry.h"
#include "destinations/exporter.h"
#include "sampler/sampler.h"

typedef enum pom_engine_state_e {
    POM_ENGINE_STOPPED, /* nothing runs */
    POM_ENGINE_RUNNING,
    POM_ENGINE_FORKED /* was running when this process was forked; its threads are the parent's */
} pom_engine_state_t;

typedef struct pom_engine_options_s {
    pom_schedule_options_t schedule;
    pom_granularity_t granularity;
    int64_t max_actions_per_run;
    int64_t part_ns; /* as the registry's */
    char source[256];
} pom_engine_options_t;

/* What only the bindings know. Called on app threads with the interpreter's lock. */
typedef struct pom_engine_parts_s {
    /* Chooses the walker when the engine starts; its name, a constant, goes into every record
     * ("native", "gil"). */
    pom_walker_t *(*walker)(const char **name);
    pom_code_resolver_t *resolver;
    /* The new slots and code table are in force / about to go. */
    pom_status_t (*attach)(pom_slots_t *slots, pom_code_table_t *codes);
    void (*detach)(void);
    /* CPU of the delivery thread so far; any thread. */
    int64_t (*delivery_cpu_ns)(void);
} pom_engine_parts_t;

/* Read on the request path: a plain load. Written under the interpreter's lock and in a forked
 * child. */
extern pom_engine_state_t pom_engine_state;

/* Once; registers the fork handlers. POM_ENOMEM. */
pom_status_t pom_engine_init(const pom_engine_parts_t *parts);

/* Options for now or the next start. */
void pom_engine_configure(const pom_engine_options_t *options);

/* No-op while running. POM_ENOMEM, POM_EIO: nothing runs; POM_ETIMEDOUT: a stop is under way. */
pom_status_t pom_engine_start(void);

/* First half of a stop, with the interpreter's lock: new actions run bare, live ones are sealed as
 * lost. False: was not running. */
bool pom_engine_stop_begin(void);
/* Second half, without the lock: ends the sampler, drains the exporter until the deadline. True:
 * nothing was left. */
bool pom_engine_stop_wait(int64_t deadline_ns);
/* Third, with the lock again: frees what the sampler used. */
void pom_engine_stop_end(void);

/* Everything that ended so far is sealed and handed to the exporter; false when the deadline came
 * first. Without the interpreter's lock, so the caller sees to it that no stop comes to its end
 * meanwhile. */
bool pom_engine_sync(int64_t deadline_ns);

/* The same, and delivered and gone from every queue. Likewise. */
bool pom_engine_flush(int64_t deadline_ns);

/* Valid while the state is RUNNING. */
pom_registry_t *pom_engine_registry(void);
pom_sampler_t *pom_engine_sampler(void);
pom_code_table_t *pom_engine_codes(void);
/* Always valid. */
pom_exporter_t *pom_engine_exporter(void);

/* Grows when the parts are made anew (start, fork): an action begun under another generation is
 * only forgotten. */
uint32_t pom_engine_generation(void);

typedef struct pom_engine_stats_s {
    const char *engine;
    pom_sampler_stats_t sampler;
    pom_registry_stats_t registry;
    int64_t exporter_cpu_ns, delivery_cpu_ns;
    pom_code_table_stats_t codes;
} pom_engine_stats_t;

/* Totals of this process since its start or fork, engines that were stopped included. */
pom_engine_stats_t pom_engine_stats(void);

#endif
