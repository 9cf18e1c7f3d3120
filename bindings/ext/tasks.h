/*
 * Asyncio's tasks as the sampler sees them.
 *
 * Used by children.c, which finds out whose they are, and by parked.c.
 *
 *     pom_tasks_learn();                        [app] as a request begins
 *     if (pom_tasks_join(code, awaited)) ...    a coroutine waits for other tasks
 *     count = pom_tasks_list(state, list);      some of those of a thread's event loop
 *     if (pom_task_is_there(&list[i])) ...      still
 */
#ifndef POM_EXT_TASKS_H
#define POM_EXT_TASKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POM_TASKS_MAX 256 /* of one list */

typedef struct pom_task_s {
    uintptr_t object, coroutine, context;
} pom_task_t;

/* Finds out, from the asyncio task that runs, where tasks lie. Cheap once that is known. No
 * exception is pending, nor is one afterwards. [app] with the GIL */
void pom_tasks_learn(void);

/* A coroutine that is suspended in this code, or on what lies in this place (0 = nowhere), waits
 * for other tasks: in a lock, a queue, a group of asyncio, or on a task itself. False until
 * something has been learnt. [sampler] */
bool pom_tasks_join(uintptr_t code, uintptr_t awaited);

/* Writes tasks of the thread with this state into a list of POM_TASKS_MAX, others each time, and
 * returns how many. Only where a coroutine joins. [sampler] */
size_t pom_tasks_list(uintptr_t state, pom_task_t *list);

/* The object is a task still, with that coroutine and context. One read of replay.h. [sampler] */
bool pom_task_is_there(const pom_task_t *task);

#endif
