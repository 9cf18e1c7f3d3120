/*
 * The composition root: which part is given which.
 *
 * The exporter is made once and lives as long as the process; slots, code table, registry and
 * sampler are made at each start and freed at each stop. A forked child makes its own and leaks the
 * parent's copies: they may have been in any state when the fork came, so they are not looked at,
 * let alone freed. Counters of stopped engines are added up here, so stats() never goes backwards.
 *
 * Everything here runs with the interpreter's lock, but for the stop's middle and flush, which
 * wait.
 */
#include "bindings/engine/engine.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/id.h"

typedef struct running_s {
    pom_slots_t slots;
    pom_code_table_t *codes;
    pom_registry_t *registry;
    pom_sampler_t *sampler;
    const char *name;
} running_t;

pom_engine_state_t pom_engine_state = POM_ENGINE_STOPPED;

static pom_engine_parts_t parts;
static pom_engine_options_t options;
static pom_exporter_t *exporter;
static running_t *running; // NULL unless RUNNING, or between the halves of a stop
static uint32_t generation;
static pom_engine_stats_t past; // of engines that were stopped

static void put_profile(pom_profile_sink_t *self, pom_profile_t *profile) {
    (void)self;
    pom_exporter_put(exporter, profile);
}

static pom_profile_sink_t sink = {.put = put_profile};

static int64_t destinations_cost(void *context) {
    (void)context;
    return pom_exporter_cpu_ns(exporter) + parts.delivery_cpu_ns();
}

/* ---- fork ------------------------------------------------------------------------------------ */

static void before_fork(void) {
    pom_exporter_before_fork(exporter);
}

static void after_fork_parent(void) {
    pom_exporter_after_fork_parent(exporter);
}

static void after_fork_child(void) {
    pom_id_after_fork();
    pom_exporter_after_fork_child(exporter);
    memset(&past, 0, sizeof past);
    if (running != NULL) {
        // Threads that end before this process has an engine of its own still release their slots.
        pom_slots_after_fork(&running->slots);
        pom_sampler_after_fork(running->sampler);
    }
    running = NULL; // the parent's, in an unknown state: left as it is
    generation++;
    if (pom_engine_state == POM_ENGINE_RUNNING) {
        pom_engine_state = POM_ENGINE_FORKED;
    }
}

pom_status_t pom_engine_init(const pom_engine_parts_t *given) {
    parts = *given;
    pom_status_t status = pom_exporter_new(NULL, &exporter);
    if (status != POM_OK) {
        return status;
    }
    return pthread_atfork(before_fork, after_fork_parent, after_fork_child) == 0 ? POM_OK
                                                                                 : POM_ENOMEM;
}

/* ---- start and stop -------------------------------------------------------------------------- */

static pom_registry_options_t registry_options(const char *engine) {
    pom_schedule_t schedule;
    pom_schedule_init(&schedule, &options.schedule);
    return (pom_registry_options_t){.granularity = options.granularity,
                                    .max_actions_per_run = options.max_actions_per_run,
                                    .part_ns = options.part_ns,
                                    .period_ns = schedule.period_ns,
                                    .source = options.source,
                                    .engine = engine};
}

void pom_engine_configure(const pom_engine_options_t *given) {
    options = *given;
    if (running != NULL) {
        pom_registry_options_t registry = registry_options(running->name);
        pom_registry_configure(running->registry, &registry);
        pom_sampler_configure(running->sampler, &options.schedule);
    }
}

static void free_running(running_t *r) {
    if (r == NULL) {
        return;
    }
    pom_sampler_free(r->sampler);
    pom_registry_free(r->registry);
    pom_code_table_free(r->codes);
    pom_slots_fini(&r->slots);
    pom_free(r);
}

pom_status_t pom_engine_start(void) {
    if (pom_engine_state == POM_ENGINE_RUNNING) {
        return POM_OK;
    }
    if (running != NULL) {
        return POM_ETIMEDOUT; // its parts are still in use by the stop
    }
    pom_status_t status = POM_ENOMEM;
    running_t *r = pom_calloc(1, sizeof(*r));
    if (r == NULL) {
        return POM_ENOMEM;
    }
    pom_slots_init(&r->slots);
    pom_walker_t *walker = parts.walker(&r->name);
    pom_registry_options_t registry = registry_options(r->name);
    r->codes = pom_code_table_new(POM_CODE_TABLE_CAPACITY, parts.resolver);
    if (r->codes != NULL) {
        r->registry = pom_registry_new(&registry, r->codes, &sink);
    }
    if (r->registry != NULL) {
        pom_registry_set_cost_source(r->registry, destinations_cost, NULL);
        r->sampler = pom_sampler_new(&options.schedule, &r->slots, r->codes, walker,
                                     pom_registry_client(r->registry));
    }
    if (r->sampler != NULL) {
        status = pom_exporter_start(exporter);
    }
    if (status == POM_OK) {
        status = parts.attach(&r->slots, r->codes);
    }
    if (status == POM_OK) {
        status = pom_sampler_start(r->sampler);
        if (status != POM_OK) {
            parts.detach();
        }
    }
    if (status != POM_OK) {
        free_running(r);
        return status;
    }
    running = r;
    generation++;
    pom_engine_state = POM_ENGINE_RUNNING;
    return POM_OK;
}

bool pom_engine_stop_begin(void) {
    bool was = pom_engine_state == POM_ENGINE_RUNNING;
    pom_engine_state = POM_ENGINE_STOPPED;
    if (!was) {
        return false;
    }
    pom_slots_withdraw(&running->slots);
    (void)pom_registry_abandon(running->registry, pom_now_ns());
    generation++; // holders of abandoned actions only forget them from here on
    return true;
}

bool pom_engine_stop_wait(int64_t deadline_ns) {
    pom_exporter_stats_t after;
    pom_sampler_stop(running->sampler); // its last tick seals everything queued
    pom_status_t status = pom_exporter_stop(exporter, deadline_ns);
    pom_exporter_stats(exporter, &after);
    return status == POM_OK && after.drained;
}

static void add_up(pom_engine_stats_t *sum, const running_t *r) {
    pom_sampler_stats_t s = pom_sampler_stats(r->sampler);
    pom_registry_stats_t g = pom_registry_stats(r->registry);
    pom_code_table_stats_t c = pom_code_table_stats(r->codes);
    sum->sampler.taken += s.taken;
    sum->sampler.wakeups += s.wakeups;
    sum->sampler.cpu_ns += s.cpu_ns;
    sum->sampler.cost_ns += s.cost_ns;
    sum->sampler.base_cpu_ns += s.base_cpu_ns;
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        sum->sampler.missed[i] += s.missed[i];
    }
    sum->registry.started += g.started;
    sum->registry.profiled += g.profiled;
    sum->registry.shed += g.shed;
    sum->registry.finished += g.finished;
    sum->registry.lost += g.lost;
    sum->registry.dropped_events += g.dropped_events;
    sum->registry.in_request_ns += g.in_request_ns;
    sum->registry.no_memory += g.no_memory;
    sum->codes.inserted += c.inserted;
    sum->codes.forgotten += c.forgotten;
    sum->codes.overflowed += c.overflowed;
    sum->codes.unknown += c.unknown;
    // Of the newest engine, not sums.
    sum->sampler.period_ns = s.period_ns;
    sum->sampler.overhead_ppm = s.overhead_ppm;
    sum->sampler.over_budget = s.over_budget;
    sum->registry.in_flight = g.in_flight;
    sum->registry.allowed = g.allowed;
    sum->codes.live = c.live;
    sum->engine = r->name;
}

void pom_engine_stop_end(void) {
    running_t *r = running;
    running = NULL;
    parts.detach();
    add_up(&past, r);
    past.registry.in_flight = 0;
    past.codes.live = 0;
    free_running(r);
}

bool pom_engine_sync(int64_t deadline_ns) {
    return running == NULL || pom_sampler_sync(running->sampler, deadline_ns);
}

bool pom_engine_flush(int64_t deadline_ns) {
    return pom_engine_sync(deadline_ns) && pom_exporter_flush(exporter, deadline_ns);
}

pom_registry_t *pom_engine_registry(void) {
    return running->registry;
}

pom_sampler_t *pom_engine_sampler(void) {
    return running->sampler;
}

pom_code_table_t *pom_engine_codes(void) {
    return running->codes;
}

pom_exporter_t *pom_engine_exporter(void) {
    return exporter;
}

uint32_t pom_engine_generation(void) {
    return generation;
}

pom_engine_stats_t pom_engine_stats(void) {
    pom_engine_stats_t stats = past;
    if (running != NULL) {
        add_up(&stats, running);
    }
    stats.exporter_cpu_ns = pom_exporter_cpu_ns(exporter);
    stats.delivery_cpu_ns = parts.delivery_cpu_ns();
    return stats;
}
