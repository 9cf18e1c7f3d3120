/*
 * The walker: what captures a stack. An interface, because only the bindings know an interpreter.
 *
 * Used by the sampler thread; implemented in bindings/ext (native and GIL engines) and by the
 * tests' fake.
 */
#ifndef POM_SAMPLER_WALKER_H
#define POM_SAMPLER_WALKER_H

#include "profiles/profile.h"
#include "profiles/stack.h"
#include "sampler/slot.h"

/* Right after a sleep the walk's own code and the frames are in no cache, so that a leaf that lives
 * 50 ns is often gone by the time its caller has been read. The second and third try are fast; with
 * 4 tries 3 to 6 % of the samples of a loop over tiny functions were missed, with 8 none in 10
 * 000. */
#define POM_WALK_TRIES 8

/* No other thread works for an action that waits. */
#define POM_WALK_UNHELPED (-1)

typedef struct pom_walker_s pom_walker_t;

struct pom_walker_s {
    /* Captures the stack of the view's thread from its current frame down to the first frame that
     * anchors one of the view's actions; *anchor is that anchor's index. POM_OK, POM_ENOTFOUND (no
     * anchor met), POM_ETORN, POM_EUNREADABLE, POM_EFULL (there are more frames than it goes
     * through, and the next walk would meet as many). [sampler]; must not block or allocate, nor
     * call the interpreter without its lock. */
    pom_status_t (*walk)(pom_walker_t *self, const pom_slot_view_t *view, pom_stack_t *stack,
                         uint32_t *anchor);
    /* The looks of one tick at actions that do not run begin: what was learnt for those of the tick
     * before is out of date. `slots` are all, borrowed until the next one. [sampler]; NULL: this
     * walker keeps nothing. */
    void (*parked_begin)(pom_walker_t *self, const pom_slots_t *slots);
    /* The stack of an action of the view that does not run, because its coroutine or greenlet
     * waits. POM_ENOTFOUND when it runs after all, or cannot be found. *helped_ns (0 before): the
     * stack is also that of a thread that works for it and has a CPU, and this is what that one
     * used since it was last met so; POM_WALK_UNHELPED: there is no such thread. Likewise
     * [sampler]; NULL: this walker cannot. */
    pom_status_t (*parked)(pom_walker_t *self, const pom_slot_view_t *view, uint32_t anchor,
                           pom_stack_t *stack, int64_t *helped_ns);
    /* Both NULL: the walk needs no lock. Else the walk comes between them, and the look-up of the
     * code it found, which cannot die meanwhile; `lock` waits, and is false when the interpreter
     * ends. A thread that ends holds the interpreter's lock while it waits for walks of its slot,
     * so the slot is kept from when the walker has that lock only. In return the walk touches the
     * thread only when pom_slot_view_holds() says, once it has the lock, that the view is still
     * true. */
    bool (*lock)(pom_walker_t *self);
    void (*unlock)(pom_walker_t *self);
    /* A frame takes this long at most, also in the heap and in no cache, on a machine of today; the
     * sampler learns when this one is slower. A walk of n frames that took over (4 + n) of them was
     * interrupted, and the stack may have changed in between by more than the walk itself can see.
     * 0 = it cannot change (the walk has the interpreter's lock). */
    int64_t frame_most_ns;
};

#endif
