/*
 * Which asyncio tasks are a request's.
 *
 * They have its context, as what runs for it in threads has (helpers.c). A tick that looks at a
 * request which waits for tasks, and knows of none, lists some of them (once), and asks the
 * contexts of a few, those first that it has not asked before. Whomever they name, it is kept for
 * the turn of that one: of 200 requests that wait at the same time each is looked at now and then
 * only.
 *
 * Only a request that waits where only another task can wake it is asked for: in a lock, an event,
 * a queue or a group of asyncio's, or for a task. One that waits for its database is there itself,
 * whatever it has left running.
 *
 * Runs on the sampler thread.
 */
#include "bindings/ext/layout.h"

#include "bindings/ext/children.h"

#include "base/hash.h"
#include "bindings/ext/context.h"
#include "bindings/ext/memory.h"
#include "bindings/ext/replay.h"
#include "bindings/ext/tasks.h"

#define LOOKUPS_MAX 16 // contexts asked in one tick: six copies each
#define FAMILY_BITS 10
#define FAMILY_MAX  4
#define ASKED_BITS  10
#define ASKED_TICKS 100 // so long it is asked after those that were not
#define FOUND_USES  16  // of what was found, until its context is asked again

/* A task that was found to be a request's: with the same coroutine, context and variables it is the
 * same. */
typedef struct found_s {
    pom_task_t task;
    uintptr_t variables;
    unsigned uses;
} found_t;

/* Those of one request, its own task among them. A newer request takes their place, and a newer
 * task the oldest's. */
typedef struct family_s {
    uintptr_t owner; /* whom their contexts name */
    unsigned newest;
    found_t found[FAMILY_MAX];
} family_t;

typedef struct asked_s {
    pom_task_t task;
    uint32_t tick;
} asked_t;

static family_t families[1 << FAMILY_BITS];
static asked_t asked_before[1 << ASKED_BITS];
static uint32_t tick;
static uintptr_t listed; // for which thread, in this tick; 0 = not yet
static pom_task_t list[POM_TASKS_MAX];
static int lookups;

void pom_children_begin(void) {
    tick++;
    listed = 0;
    lookups = 0;
}

static family_t *family_of(uintptr_t owner) {
    return &families[pom_hash_place(owner, FAMILY_BITS)];
}

/* Among those of its owner, as the newest. */
static void keep(const pom_task_t *task, uintptr_t owner) {
    family_t *family = family_of(owner);
    if (family->owner != owner) {
        *family = (family_t){.owner = owner};
    }
    unsigned at = 0;
    while (at < FAMILY_MAX && family->found[at].task.object != task->object) {
        at++;
    }
    family->newest = at < FAMILY_MAX ? at : (family->newest + 1) % FAMILY_MAX;
    family->found[family->newest] = (found_t){
        .task = *task, .variables = pom_memory_word(task->context + pom_context_variables)};
}

static asked_t *asked_place(const pom_task_t *task) {
    return &asked_before[pom_hash_place(task->object, ASKED_BITS)];
}

static bool was_asked(const pom_task_t *task) {
    const asked_t *asked = asked_place(task);
    return asked->task.object == task->object && asked->task.coroutine == task->coroutine &&
           asked->task.context == task->context && tick - asked->tick < ASKED_TICKS;
}

static void ask(const pom_task_t *task) {
    uintptr_t owner = pom_context_owner(task->context);
    *asked_place(task) = (asked_t){.task = *task, .tick = tick};
    lookups++;
    if (owner != 0) {
        keep(task, owner);
    }
}

void pom_children_search(const pom_slot_view_t *view) {
    uintptr_t state = view->slot->who.state;
    bool told[POM_TASKS_MAX];
    if (listed == state) {
        return;
    }
    listed = state;
    size_t count = pom_tasks_list(state, list);
    for (size_t i = 0; i < count; i++) {
        told[i] = was_asked(&list[i]);
        if (!told[i] && lookups < LOOKUPS_MAX) {
            ask(&list[i]);
        }
    }
    // Then the others, of which each may be another one at the same place by now.
    for (size_t i = 0; i < count && lookups < LOOKUPS_MAX; i++) {
        size_t at = (tick + i) % count;
        if (told[at]) {
            ask(&list[at]);
        }
    }
}

/* It is there as it was kept. */
static bool is_same(found_t *found, uintptr_t owner) {
    uintptr_t context = found->task.context, variables;
    if (!pom_task_is_there(&found->task) ||
        pom_replay_read(context + pom_context_variables, &variables, sizeof variables) != POM_OK ||
        variables != found->variables) {
        return false;
    }
    return ++found->uses % FOUND_USES != 0 || pom_context_owner(context) == owner;
}

uintptr_t pom_children_next(const pom_action_t *action, uintptr_t own, size_t *next) {
    family_t *family = family_of(pom_context_owner_of(action));
    while (pom_context_owns(family->owner, action) && *next < FAMILY_MAX) {
        // The newest first.
        found_t *found = &family->found[(family->newest + (*next)++) % FAMILY_MAX];
        uintptr_t frame = found->task.coroutine + POM_FRAME_INSIDE;
        if (found->task.object != 0 && frame != own && is_same(found, family->owner)) {
            return frame;
        }
    }
    return 0;
}
