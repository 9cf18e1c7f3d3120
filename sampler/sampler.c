/*
 * The sampler's thread: park, tick, look at every active slot, account for itself.
 *
 *     parked --notify: an alarm--> ticking --nothing attached, nothing queued--> parked
 *
 * A tick lets the client apply what app threads queued and then, when a look is due, takes one
 * stack of each thread with something attached. Nearly all of the cost is waking up, so one wake-up
 * serves all threads. A tick that came early (a long queue, a sync, a stop) takes no stack: its
 * moment was chosen by the program, so its samples would not be fair.
 *
 * CPU time of a sampled thread comes from its kernel clock. Whether the thread is on a CPU at this
 * moment is seen from that clock moving between two reads around the walk; only then does CPU time
 * belong to the stack just seen. (Charging a CPU delta to whatever stack the next sample shows
 * makes sleeping lines look busy.) A thread whose CPU this very thread took shows in /proc as
 * runnable there; that costs a file read, so it is only asked when there is CPU time to place.
 *
 * Runs on the sampler thread, but for start, stop, notify, sync and configure. Deliberately absent:
 * signals, locks shared with requests (sync_lock is held by nobody while it waits or works), any
 * allocation per tick.
 */
#define _GNU_SOURCE // pthread_setname_np, sched_getcpu
#include "sampler/sampler.h"

#include <pthread.h>
#include <signal.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/id.h"
#include "base/park.h"
#include "sampler/stages.h"

#define NO_LOOK 1 /* for look_seq: a seq at rest is even */

/* The deepest call is a tree insertion; fixed, as `ulimit -s unlimited` breaks defaults. */
#define THREAD_STACK (256 * 1024)

/* Anchors looked at per slot and tick, newest first. More than this many actions interleave on one
 * thread only under asyncio or greenlets. */
#define VIEW_ROOM POM_ANCHORS_MAX

/* Ticks are no further apart while anything is going on, however rare the looks: ended actions wait
 * to be sealed, at 5 KiB each. Above the longest delay of the usual schedule (1.5 x 50 ms), which
 * it therefore leaves alone. */
#define TICK_MAX_NS (100 * POM_NS_PER_MS)

/* So many times as slow as the walker says a machine may be. */
#define SLOWER_MAX 16

/* So many late walks in one look are taken for the pace of the machine, not for interruptions. */
#define LATE_MAX 3

/* Of the actions of one thread that wait at a time (asyncio tasks, greenlets), so many are looked
 * at in one tick, in turn: each costs 1-3 us, so this is about what a wake-up costs. */
#define PARKED_LOOKS 16

/* One sleep of ours in so many is measured. What takes longer than the other is taken to have taken
 * as long: it was interrupted. */
#define SLEEPS_MEASURED 8
#define WAKE_MOST_NS    (100 * POM_NS_PER_US)

#define X(name, text) text,
static const char *const stage_names[] = {NULL, POM_SAMPLER_STAGE_LIST(X)};
#undef X

pom_stages_t pom_sampler_stages = POM_STAGES("pom-sampler", stage_names);

struct pom_sampler_s {
    /* constant after new */
    pom_slots_t *slots;
    pom_code_table_t *codes;
    pom_walker_t *walker;
    pom_sampler_client_t *client;
    pom_anchor_t *view_storage;
    /* [app] */
    pthread_t thread;
    bool started;
    /* atomic */
    _Atomic(bool) stop;
    _Atomic(bool)
        parked; /* pairs: set by the thread before its last look, read by notify after its fence */
    pom_park_t park;
    _Atomic(int64_t) planned_ns; /* while parked: when the next look would have been due */
    _Atomic(int64_t) noted_ns,
        noted_look_ns; /* the notify that set the alarm: its moment, and the look due for it */
    _Atomic(int64_t) want_granularity_ns, want_budget_ppm;
    _Atomic(uint32_t) configured; /* generation of the two above */
    _Atomic(uint64_t) sync_wanted;
    /* sampler thread only */
    pom_schedule_t schedule;
    uint32_t configured_seen;
    bool locked;           /* the walker's lock is held */
    int64_t frame_most_ns; /* the walker's, until walks say that this machine is slower */
    /* of this thread's own, running means; others are taken to be like it */
    int64_t sleep_ns;  /* CPU time of a sleep, going and waking */
    int64_t late_ns;   /* from the moment that a look is due to the look */
    uint32_t sleeps;   /* how many, for the next to be measured */
    bool parked_begun; /* the walker knows that this tick looks at what waits */
    pom_stack_t stack;
    int64_t window_active_ns, window_cost_ns, window_process_ns, window_sampler_ns, window_taken;
    bool window_used; /* something was attached or applied in it */
    int64_t span_start_ns, span_cpu_ns, span_other_ns, span_process_ns; /* the last snapshots */
    /* under sync_lock */
    pthread_mutex_t sync_lock;
    pthread_cond_t sync_done_cond;
    uint64_t sync_done; /* the sampler thread, its only writer, also reads it without the lock */
    bool running;       /* a thread is there to answer */
    /* written by the sampler thread, read by stats: independent counters, so relaxed */
    _Atomic(int32_t) tid;         /* 0 = no thread */
    _Atomic(int64_t) past_cpu_ns; /* of threads before this one */
    _Atomic(int64_t) period_ns, taken, wakeups, cpu_ns, overhead_ppm, cost_ns, base_cpu_ns;
    _Atomic(int64_t) missed[POM_MISS_COUNT];
    _Atomic(bool) over_budget;
};

static void bump(_Atomic(int64_t) *counter, int64_t by) {
    // One writer: a plain read-modify-write is enough.
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

static int64_t peek(const _Atomic(int64_t) *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

pom_sampler_t *pom_sampler_new(const pom_schedule_options_t *options, pom_slots_t *slots,
                               pom_code_table_t *codes, pom_walker_t *walker,
                               pom_sampler_client_t *client) {
    pom_sampler_t *s = pom_calloc(1, sizeof(*s));
    if (s == NULL) {
        return NULL;
    }
    s->view_storage = pom_calloc(VIEW_ROOM, sizeof(pom_anchor_t));
    if (s->view_storage == NULL) {
        pom_free(s);
        return NULL;
    }
    s->slots = slots;
    s->codes = codes;
    s->walker = walker;
    s->frame_most_ns = walker->frame_most_ns;
    s->client = client;
    pom_park_init(&s->park);
    pom_cond_init(&s->sync_lock, &s->sync_done_cond);
    pom_schedule_init(&s->schedule, options);
    atomic_store_explicit(&s->period_ns, s->schedule.period_ns, memory_order_relaxed);
    return s;
}

void pom_sampler_free(pom_sampler_t *s) {
    if (s == NULL) {
        return;
    }
    (void)pthread_cond_destroy(&s->sync_done_cond);
    (void)pthread_mutex_destroy(&s->sync_lock);
    pom_park_fini(&s->park);
    pom_free(s->view_storage);
    pom_free(s);
}

void pom_sampler_after_fork(pom_sampler_t *s) {
    pom_park_fini(&s->park);
}

/* ---- looking at one slot ------------------------------------------------------------------ */

static pom_miss_t miss_of(pom_status_t status) {
    switch (status) {
    case POM_ENOTFOUND:
        return POM_MISS_NO_ANCHOR;
    case POM_EUNREADABLE:
        return POM_MISS_UNREADABLE;
    case POM_EFULL:
        return POM_MISS_TOO_DEEP;
    default:
        return POM_MISS_TORN;
    }
}

static void count_miss(pom_sampler_t *s, const pom_anchor_t *anchor, pom_miss_t reason) {
    bump(&s->missed[reason], 1);
    s->client->missed(s->client, anchor, reason);
}

static pom_status_t resolve(pom_sampler_t *s, const pom_sample_t *sample) {
    pom_sampler_enter(POM_SAMPLER_RESOLVE);
    pom_status_t resolved = s->client->resolve(s->client, &s->stack, sample->code_epoch);
    pom_sampler_leave();
    return resolved;
}

/* The stack goes to its action when its code could be told. */
static void hand_over(pom_sampler_t *s, const pom_anchor_t *anchor, const pom_sample_t *sample,
                      pom_status_t resolved) {
    if (resolved != POM_OK) {
        count_miss(s, anchor, resolved == POM_ETORN ? POM_MISS_TORN : POM_MISS_DEAD_CODE);
        return;
    }
    pom_sampler_enter(POM_SAMPLER_ADD);
    s->client->sample(s->client, anchor, sample, &s->stack);
    pom_sampler_leave();
    bump(&s->taken, 1);
}

/* For all tries of a look, up to the look-up of its code. */
static bool take_lock(pom_sampler_t *s) {
    if (!s->locked && s->walker->lock != NULL) {
        s->locked = s->walker->lock(s->walker);
        return s->locked;
    }
    return true;
}

/* From here until the store of false the thread's memory stays: pom_slots_release and pom_slot_end
 * wait. The order (flag, fence in seq_cst, then the look at the slot) is their partner. Of a walker
 * with a lock only while it has that: a release has it too, so it cannot come meanwhile, but a
 * thread may end without it. */
static void keep_thread(pom_sampler_t *s, pom_slot_t *slot) {
    bool keeps = s->walker->lock == NULL || s->locked;
    atomic_store_explicit(&slot->walking, keeps, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
}

static void give_lock(pom_sampler_t *s) {
    if (s->locked) {
        s->walker->unlock(s->walker);
        s->locked = false;
    }
}

/* The actions of this thread that are not running: what each of them waits in. False when none
 * could be told. */
static bool look_at_parked(pom_sampler_t *s, const pom_slot_view_t *view, uint32_t running,
                           pom_sample_t sample) {
    if (s->walker->parked == NULL) {
        return false;
    }
    if (!s->parked_begun && s->walker->parked_begin != NULL) {
        s->walker->parked_begin(s->walker, s->slots);
        s->parked_begun = true;
    }
    bool any = false;
    sample.parked = true;
    sample.running = false;
    uint32_t looks = view->count < PARKED_LOOKS ? view->count : PARKED_LOOKS;
    for (uint32_t i = 0; i < looks; i++) {
        uint32_t index = view->slot->parked_next++ % view->count;
        const pom_anchor_t *anchor = &view->anchors[index];
        sample.helped_cpu_ns = 0;
        if (index == running || sample.at_ns < anchor->since_ns ||
            s->walker->parked(s->walker, view, index, &s->stack, &sample.helped_cpu_ns) != POM_OK) {
            continue;
        }
        if (!pom_slot_view_holds(view)) {
            break; // an action may be over, and its end applied with the next sample
        }
        any = true;
        hand_over(s, anchor, &sample, resolve(s, &sample));
    }
    return any;
}

/* What of the thread's CPU time since the last look was used where no look meets it: on the way to
 * sleep and back, as much each time as this thread's own sleeps take; and, where it is woken on the
 * CPU on which a look is about to be, as it runs only after that, for the time that we keep it
 * waiting: each other time, as a wait for the interpreter's lock wakes up twice, to ask for it and
 * to have it. Beside a thread that computes, one whose 70 us of work lie between two such waits had
 * 40 us less of 117 than its clock said. `here`: its CPU is ours. Asked only while one action has
 * the thread to itself, and not of one that computes; counted from the second such look on. */
static void tell_unmet(const pom_sampler_t *s, pom_slot_t *slot, const pom_slot_view_t *view,
                       bool here, pom_sample_t *sample) {
    bool computes = slot->look_running && sample->running; // its sleeps, if any, nobody knows where
    if (computes || view->seq != slot->look_seq || view->tid != slot->look_tid) {
        slot->look_turns = -1;
        return;
    }
    int64_t before = slot->look_turns, turns = pom_thread_turns(&slot->files, view->tid);
    slot->look_turns = turns;
    int64_t used_ns = sample->cpu_ns - slot->look_cpu_ns;
    if (before < 0 || turns <= before || used_ns <= 0) {
        return;
    }
    turns -= before;
    int64_t unmet_ns = turns * s->sleep_ns + (here ? (turns + 1) / 2 * s->late_ns : 0);
    sample->unmet_cpu_ns = unmet_ns < used_ns ? unmet_ns : used_ns;
    sample->unmet_before = !slot->look_running;
}

/* This look showed what the thread does: later ones count from here. */
static void remember_look(pom_slot_t *slot, const pom_slot_view_t *view, const pom_sample_t *sample,
                          bool met) {
    slot->look_running = sample->running;
    slot->look_ns = sample->at_ns;
    slot->look_cpu_ns = sample->cpu_ns;
    slot->look_tid = view->tid;
    slot->look_seq = met && view->count == 1 ? view->seq : NO_LOOK;
}

/* Most threads of a server wait most of the time, for a request, a database, the interpreter's
 * lock. One whose CPU clock stands where it stood at its last look, with the same one anchor, has
 * not run: its stack is what it was, and need not be walked, nor looked up. */
static bool stands_still(const pom_slot_t *slot, const pom_slot_view_t *view, int64_t cpu_ns) {
    return view->seq == slot->look_seq && view->tid == slot->look_tid &&
           cpu_ns == slot->look_cpu_ns && cpu_ns != 0;
}

/* Since it was last seen on a CPU or asked for: see POM_THREAD_ASK_SHARE. */
static bool used_cpu(const pom_slot_t *slot, const pom_sample_t *sample) {
    int64_t wall_ns = sample->since_ns > 0 ? sample->at_ns - sample->since_ns : 0;
    return (sample->cpu_ns - slot->asked_cpu_ns) * POM_THREAD_ASK_SHARE > wall_ns;
}

/* The CPU that the slot's thread ran on last, -1 = unknown. One load, where /proc takes two system
 * calls. It is in the thread's own memory, where the kernel writes it: to be read while `walking`
 * keeps the thread, and the view holds (it may have ended before). */
__attribute__((no_sanitize("thread", "address"))) static int32_t cpu_of(const pom_slot_t *slot) {
    uintptr_t at = slot->who.cpu;
    return at != 0 ? *(const volatile int32_t *)at : -1;
}

/* It would be running were it not for us: it wants a CPU, and that one is ours. One that waits for
 * another CPU is not to have the CPU time: a thread that lets go of the interpreter's lock in order
 * to sleep wakes the next one up, which often takes its place before it sleeps; 2 ms later its
 * sleep had the CPU of what came before, 8 % of all where 1 % was right. `cpu` is cpu_of it, `ours`
 * ours. */
static bool took_its_cpu(pom_slot_t *slot, int32_t tid, int32_t cpu, int ours) {
    return (cpu < 0 || cpu == ours) && pom_thread_wants_cpu(&slot->files, tid, ours);
}

/* How long each frame of the walk just done took. */
static int64_t frame_took(const pom_sampler_t *s, int64_t took_ns) {
    return took_ns / (4 + s->stack.depth);
}

/* The walk just done was interrupted. Without this 10 of 10^6 walks showed a caller that is none,
 * with it 0 and 2. */
static bool is_late(const pom_sampler_t *s, int64_t took_ns) {
    return s->frame_most_ns > 0 && frame_took(s, took_ns) >= s->frame_most_ns;
}

/* LATE_MAX walks of a look were late, and none in time; the fastest took this long a frame. So the
 * machine is slower than it was taken to be: to copy a frame from the heap is a system call, of 0.5
 * us on one machine and 1.6 on another, and to look up a context is six. Not that all eight were
 * late: some are torn, and where tasks are short none of them was ever counted. Up to a limit, that
 * the check keeps its sense. */
static void expect_slower(pom_sampler_t *s, int64_t frame_ns) {
    int64_t limit_ns = SLOWER_MAX * s->walker->frame_most_ns;
    s->frame_most_ns = 2 * frame_ns < limit_ns ? 2 * frame_ns : limit_ns;
}

/* A walk that was far quicker says that the machine is not so slow, or no longer: what takes longer
 * may be an interruption again. Where slow stacks and quick ones take turns, the slow ones teach
 * again, at the price of three tries. */
static void expect_quicker(pom_sampler_t *s, int64_t took_ns) {
    if (4 * frame_took(s, took_ns) < s->frame_most_ns) {
        s->frame_most_ns -= (s->frame_most_ns - s->walker->frame_most_ns) / 8;
    }
}

/* No try would go further. What the thread does is known to be none of what a later look shows: its
 * time is the root's own. */
static void leave_deep(pom_sampler_t *s, const pom_slot_view_t *view, const pom_sample_t *sample) {
    remember_look(view->slot, view, sample, false);
    count_miss(s, &view->anchors[0], miss_of(POM_EFULL));
    if (view->count > 1) {
        (void)look_at_parked(s, view, UINT32_MAX, *sample);
    }
}

/* One stack of one thread, or a counted miss. May end with the walker's lock held. */
static void look(pom_sampler_t *s, pom_slot_t *slot) {
    pom_slot_view_t view;
    pom_miss_t reason = POM_MISS_RACED;
    pom_sample_t sample = {0};
    bool seen = false, elsewhere = true;
    int late_walks = 0;
    int64_t late_frame_ns = INT64_MAX; // of the fastest
    for (int tries = 0; tries < POM_WALK_TRIES; tries++) {
        keep_thread(s, slot);
        if (!pom_slot_view(slot, &view, s->view_storage, VIEW_ROOM)) {
            atomic_store_explicit(&slot->walking, false, memory_order_release);
            if (!pom_slot_is_active(slot)) {
                return; // nothing runs here any more: no sample was due
            }
            continue;
        }
        seen = true;
        pom_sampler_enter(POM_SAMPLER_WALK);
        int64_t cpu_before = 0, cpu_after = 0;
        (void)pom_tid_cpu_ns(view.tid, &cpu_before); // 0 when the thread is gone
        sample = (pom_sample_t){.at_ns = pom_now_ns(), .cpu_ns = cpu_before};
        if (slot->look_tid == view.tid) {
            sample.since_ns = slot->look_ns;
            sample.since_cpu_ns = slot->look_cpu_ns;
        } else {
            slot->asked_cpu_ns = 0; // of the slot's last owner, by another clock
        }
        if (stands_still(slot, &view, cpu_before)) {
            atomic_store_explicit(&slot->walking, false, memory_order_release);
            pom_sampler_leave();
            if (s->client->again(s->client, &view.anchors[0], &sample)) {
                remember_look(slot, &view, &sample, true);
                bump(&s->taken, 1);
                return;
            }
            slot->look_seq = NO_LOOK;
            continue;
        }
        if (!take_lock(s)) {
            pom_sampler_leave();
            return; // nobody will read what is missing now
        }
        if (s->locked) {
            // The thread may have ended, or run on, meanwhile: this is the moment of its stack.
            keep_thread(s, slot);
            sample.at_ns = pom_now_ns();
            (void)pom_tid_cpu_ns(view.tid, &sample.cpu_ns);
        }
        sample.code_epoch = pom_code_table_epoch(s->codes);
        uint32_t index = 0;
        pom_status_t status = s->walker->walk(s->walker, &view, &s->stack, &index);
        bool holds = pom_slot_view_holds(&view);
        int32_t cpu = holds ? cpu_of(slot) : -1;
        atomic_store_explicit(&slot->walking, false, memory_order_release);
        int64_t took_ns = pom_now_ns() - sample.at_ns;
        pom_sampler_leave();
        if (!holds) {
            reason = POM_MISS_RACED;
            elsewhere = false;
            continue;
        }
        if (status == POM_EFULL) {
            leave_deep(s, &view, &sample);
            return;
        }
        if (status == POM_OK && is_late(s, took_ns)) {
            int64_t frame_ns = frame_took(s, took_ns);
            late_frame_ns = frame_ns < late_frame_ns ? frame_ns : late_frame_ns;
            if (++late_walks >= LATE_MAX) {
                expect_slower(s, late_frame_ns);
            }
            // this thread lost its core on the way: what it read belongs to two moments
            status = POM_ETORN;
        }
        if (status != POM_OK) {
            // No anchor is a torn stack as often as another greenlet: a generator that was left
            // while it was read links to nothing. So that is looked at again too.
            reason = miss_of(status);
            elsewhere = elsewhere && status == POM_ENOTFOUND;
            continue;
        }
        expect_quicker(s, took_ns);
        const pom_anchor_t *anchor = &view.anchors[index];
        if (sample.at_ns < anchor->since_ns) {
            reason = POM_MISS_RACED;
            elsewhere = false;
            continue;
        }
        // By the view's id: `walking` is over, and the slot may be another thread's by now.
        pom_sampler_enter(POM_SAMPLER_STATE);
        (void)pom_tid_cpu_ns(view.tid, &cpu_after);
        sample.running = cpu_after > cpu_before;
        int ours = sched_getcpu();
        if (sample.running) {
            slot->asked_cpu_ns = cpu_before;
        } else if (used_cpu(slot, &sample)) {
            sample.running = took_its_cpu(slot, view.tid, cpu, ours);
            slot->asked_cpu_ns = cpu_before;
        }
        tell_unmet(s, slot, &view, cpu == ours, &sample);
        pom_sampler_leave();
        pom_status_t resolved = resolve(s, &sample);
        give_lock(s);
        hand_over(s, anchor, &sample, resolved);
        remember_look(slot, &view, &sample, resolved == POM_OK);
        if (view.count > 1) {
            (void)look_at_parked(s, &view, index, sample);
        }
        return;
    }
    if (seen && reason == POM_MISS_NO_ANCHOR && elsewhere) {
        // All looks agree: the thread does something else, and its time is not that of the next
        // action met.
        remember_look(slot, &view, &sample, false);
        if (look_at_parked(s, &view, UINT32_MAX, sample)) {
            return;
        }
    }
    // The newest anchor takes the blame. Even in a copy that was thrown away it is of an action
    // that was attached during this look, so its end is still in the queue, and its memory is
    // there.
    if (seen) {
        count_miss(s, &view.anchors[0], reason);
    } else {
        bump(&s->missed[POM_MISS_RACED], 1); // never a whole view: nobody to blame
    }
}

static void look_at(pom_sampler_t *s, pom_slot_t *slot) {
    look(s, slot);
    give_lock(s);
}

/* Looks at every slot with something attached; false when there was none. */
static bool look_around(pom_sampler_t *s) {
    bool any = false;
    s->parked_begun = false;
    // Acquire: pairs with the release in pom_slots_claim.
    pom_slot_t *slot = atomic_load_explicit(&s->slots->first, memory_order_acquire);
    for (; slot != NULL; slot = atomic_load_explicit(&slot->next, memory_order_relaxed)) {
        if (pom_slot_is_active(slot)) {
            any = true;
            look_at(s, slot);
        }
    }
    return any;
}

static bool anything_attached(pom_sampler_t *s) {
    pom_slot_t *slot = atomic_load_explicit(&s->slots->first, memory_order_acquire);
    for (; slot != NULL; slot = atomic_load_explicit(&slot->next, memory_order_relaxed)) {
        if (pom_slot_is_active(slot)) {
            return true;
        }
    }
    return false;
}

/* ---- the bill ------------------------------------------------------------------------------- */

static void bill_begin(pom_sampler_t *s) {
    s->span_start_ns = pom_now_ns();
    s->span_cpu_ns = 0; // this thread's clock began with it: making it costs too
    s->span_other_ns = s->client->other_cost_ns(s->client);
    s->span_process_ns = pom_process_cpu_ns();
}

/* Adds what has been used since the last snapshot to the window. */
static void span_end(pom_sampler_t *s) {
    int64_t now = pom_now_ns(), cpu = pom_thread_cpu_ns();
    int64_t other = s->client->other_cost_ns(s->client), process = pom_process_cpu_ns();
    s->window_active_ns += now - s->span_start_ns;
    s->window_sampler_ns += cpu - s->span_cpu_ns;
    s->window_cost_ns += (cpu - s->span_cpu_ns) + (other - s->span_other_ns);
    s->window_process_ns += process - s->span_process_ns;
    bump(&s->cpu_ns, cpu - s->span_cpu_ns);
    s->span_start_ns = now;
    s->span_cpu_ns = cpu;
    s->span_other_ns = other;
    s->span_process_ns = process;
}

/* After the time parked, which is no active time, but from the first attach on. CPU is billed all
 * the same, the snapshots of it stay: the wake-up itself falls there, and most of what delivery
 * uses, a second after the work. */
static void span_resume(pom_sampler_t *s, int64_t from_ns) {
    s->span_start_ns = from_ns;
}

/* Moves the window to the totals and returns what its cost is a share of: the CPU time of the rest
 * of the process, or, where that waits, what the schedule takes for it. */
static int64_t window_settle(pom_sampler_t *s) {
    int64_t base = s->window_process_ns - s->window_cost_ns;
    int64_t floor = s->window_active_ns / POM_SCHEDULE_FLOOR_DIV;
    if (base < floor) {
        base = floor;
    }
    bump(&s->cost_ns, s->window_cost_ns);
    bump(&s->base_cpu_ns, base);
    return base;
}

static void window_end(pom_sampler_t *s) {
    int64_t base = window_settle(s);
    int64_t taken = peek(&s->taken);
    int64_t samples = taken - s->window_taken;
    // A window in which nothing was going on exists only because the client asked for it, to see a
    // limit off: parked it would have cost nothing. With a small budget its ticks alone would be
    // over it, and the limit would never go.
    bool within = !s->window_used;
    if (!within) {
        pom_schedule_update(&s->schedule, s->window_cost_ns, base, s->window_active_ns);
        atomic_store_explicit(&s->period_ns, s->schedule.period_ns, memory_order_relaxed);
        atomic_store_explicit(&s->overhead_ppm, s->schedule.overhead_ppm, memory_order_relaxed);
    }
    bool over_budget = !within && s->schedule.over_budget;
    atomic_store_explicit(&s->over_budget, over_budget, memory_order_relaxed);
    pom_window_t window = {
        .helpless = !within && s->schedule.helpless,
        .period_ns = s->schedule.period_ns,
        .overhead_ppm = s->schedule.overhead_ppm,
        .sample_cost_ns = samples > 0 ? s->window_sampler_ns / samples : 0,
    };
    s->window_taken = taken;
    s->window_active_ns = s->window_cost_ns = s->window_process_ns = s->window_sampler_ns = 0;
    s->window_used = false;
    s->client->window(s->client, &window);
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* True when there was a new one. */
static bool take_configuration(pom_sampler_t *s) {
    // Acquire: pairs with the release in pom_sampler_configure.
    uint32_t generation = atomic_load_explicit(&s->configured, memory_order_acquire);
    if (generation == s->configured_seen) {
        return false;
    }
    s->configured_seen = generation;
    pom_schedule_options_t options = {.granularity_ns = peek(&s->want_granularity_ns),
                                      .budget_ppm = peek(&s->want_budget_ppm)};
    int64_t finest_ns = s->schedule.finest_ns;
    pom_schedule_configure(&s->schedule, &options);
    if (s->schedule.finest_ns != finest_ns) {
        pom_schedule_init(&s->schedule, &options); // a wish for another period is granted at once
    }
    atomic_store_explicit(&s->period_ns, s->schedule.period_ns, memory_order_relaxed);
    return true;
}

static void answer_sync(pom_sampler_t *s, uint64_t wanted) {
    if (wanted == s->sync_done) {
        return;
    }
    (void)pthread_mutex_lock(&s->sync_lock); // held elsewhere only to look at sync_done
    s->sync_done = wanted;
    (void)pthread_cond_broadcast(&s->sync_done_cond);
    (void)pthread_mutex_unlock(&s->sync_lock);
}

static void set_running(pom_sampler_t *s, bool running) {
    (void)pthread_mutex_lock(&s->sync_lock);
    s->running = running;
    (void)pthread_cond_broadcast(&s->sync_done_cond);
    (void)pthread_mutex_unlock(&s->sync_lock);
}

/* Somebody waits for the next tick. */
static bool is_awaited(pom_sampler_t *s) {
    // The stores of both come before a pom_park_wake, so a look after its wait sees them.
    return atomic_load_explicit(&s->stop, memory_order_relaxed) ||
           atomic_load_explicit(&s->sync_wanted, memory_order_acquire) != s->sync_done;
}

static bool something_to_do(pom_sampler_t *s) {
    return is_awaited(s) || anything_attached(s) || !s->client->idle(s->client);
}

static int64_t next_look(const pom_sampler_t *s) {
    return pom_now_ns() + pom_schedule_delay(&s->schedule, pom_random_u64());
}

/* Counted from when the last one was due, not from when it was over: late wake-ups and the looks
 * themselves would make every period a few percent longer. One that is over half a period late
 * starts afresh, so that a starved thread does not catch up in a burst. */
static int64_t look_after(const pom_sampler_t *s, int64_t due_ns, int64_t now_ns) {
    int64_t late_ns = now_ns - due_ns;
    return next_look(s) - (late_ns < s->schedule.period_ns / 2 ? late_ns : 0);
}

static int64_t first_look(const pom_sampler_t *s, int64_t now_ns) {
    return now_ns + pom_schedule_first_delay(s->schedule.period_ns, pom_random_u64());
}

static void learn(int64_t *mean_ns, int64_t took_ns) {
    *mean_ns += ((took_ns < WAKE_MOST_NS ? took_ns : WAKE_MOST_NS) - *mean_ns) / 8;
}

/* Sleeps until the moment, or until woken. Now and then the sleep itself is measured, as tell_unmet
 * has to know what one takes. */
static void sleep_until(pom_sampler_t *s, int64_t until_ns) {
    pom_sampler_enter(POM_SAMPLER_WAIT);
    if (s->sleeps++ % SLEEPS_MEASURED != 0) {
        (void)pom_park_wait(&s->park, until_ns);
    } else {
        int64_t begin_ns = pom_thread_cpu_ns();
        (void)pom_park_wait(&s->park, until_ns);
        int64_t took_ns = pom_thread_cpu_ns() - begin_ns;
        learn(&s->sleep_ns, took_ns);
    }
    pom_sampler_leave();
}

/* Sleeps until there is something to do; look_ns is when the next look would have been due, the
 * answer when it is. What is attached meanwhile wakes nobody: it sets the alarm, for its first
 * look, and most requests are over by then. */
static int64_t park(pom_sampler_t *s, int64_t look_ns) {
    span_end(s);
    pom_sampler_enter(POM_SAMPLER_WAIT);
    atomic_store_explicit(&s->planned_ns, look_ns, memory_order_relaxed);
    bool alarmed = false;
    for (;;) {
        // Full barrier between raising the flag and the last look; pairs with the fence in
        // pom_sampler_notify: either we see the new work, or the notifier sees the flag.
        atomic_store_explicit(&s->parked, true, memory_order_seq_cst);
        atomic_thread_fence(memory_order_seq_cst);
        if (something_to_do(s)) {
            break;
        }
        alarmed = !pom_park_doze(&s->park);
    }
    atomic_store_explicit(&s->parked, false, memory_order_relaxed);
    pom_sampler_leave();
    span_resume(s, alarmed ? peek(&s->noted_ns) : pom_now_ns());
    return alarmed ? peek(&s->noted_look_ns) : first_look(s, s->span_start_ns);
}

/* sched_setattr(2), which glibc has from 2.41 on. */
typedef struct sched_attr_s {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
} sched_attr_t;

#define SLICE_NS                                                                                   \
    (100 * POM_NS_PER_US) /* the least that Linux knows, and longer than a tick takes */

/* From 6.12 on a thread that wakes up may take the CPU of one with a longer slice at once; else it
 * waits for the end of that one's, 3 ms, and what ran when the look was due has often ended. On a
 * machine whose CPUs are all busy looks would avoid what runs. Needs no right; an older kernel
 * takes no notice. */
static void ask_for_short_slices(void) {
    sched_attr_t attr = {.size = sizeof attr};
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0 && attr.policy == SCHED_OTHER) {
        attr.runtime_ns = SLICE_NS;
        (void)syscall(SYS_sched_setattr, 0, &attr, 0); // refused: as on an older kernel
    }
}

/* A timer may come up to 50 us late by default, so that it can go off together with another one of
 * its CPU. That one is often what the program waits for: a look then meets it as it wakes up more
 * often than while it works. */
static void ask_for_prompt_timers(void) {
    (void)prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); // 1 ns; of this thread alone
}

static void *run(void *arg) {
    pom_sampler_t *s = arg;
    (void)pthread_setname_np(pthread_self(), "pom-sampler"); // cosmetic
    ask_for_short_slices();
    ask_for_prompt_timers();
    atomic_store_explicit(&s->past_cpu_ns, peek(&s->cpu_ns), memory_order_relaxed);
    atomic_store_explicit(&s->tid, (int32_t)syscall(SYS_gettid), memory_order_relaxed);
    bill_begin(s);
    pom_stages_begin(&pom_sampler_stages);
    int64_t look_ns = first_look(s, pom_now_ns());
    for (;;) {
        bool stopping = atomic_load_explicit(&s->stop, memory_order_acquire);
        uint64_t wanted = atomic_load_explicit(&s->sync_wanted, memory_order_acquire);
        int64_t now_ns = pom_now_ns();
        if (take_configuration(s)) {
            look_ns = first_look(s, now_ns);
        }
        pom_sampler_enter(POM_SAMPLER_APPLY);
        bool applied = s->client->tick(s->client, now_ns);
        pom_sampler_leave();
        bool attached;
        if (now_ns >= look_ns) {
            pom_sampler_enter(POM_SAMPLER_LOOK);
            learn(&s->late_ns, now_ns - look_ns);
            attached = look_around(s);
            pom_sampler_leave();
            look_ns = look_after(s, look_ns, now_ns);
        } else {
            attached = anything_attached(s);
        }
        bump(&s->wakeups, 1);
        answer_sync(s, wanted);
        if (stopping) {
            break;
        }
        if (s->window_active_ns + (pom_now_ns() - s->span_start_ns) >= POM_SCHEDULE_WINDOW_NS) {
            pom_sampler_enter(POM_SAMPLER_ACCOUNT);
            span_end(s);
            window_end(s);
            pom_sampler_leave();
        }
        s->window_used = s->window_used || attached || applied;
        if (!something_to_do(s)) {
            look_ns = park(s, look_ns); // and a tick at once: what there is may be an ended action
        } else if (!is_awaited(s)) {
            int64_t tick_ns = pom_now_ns() + TICK_MAX_NS;
            sleep_until(s, look_ns < tick_ns ? look_ns : tick_ns);
        }
    }
    span_end(s);
    (void)window_settle(s); // a stump of a window says nothing about the budget
    s->window_active_ns = s->window_cost_ns = s->window_process_ns = s->window_sampler_ns = 0;
    atomic_store_explicit(&s->tid, 0, memory_order_relaxed);
    pom_stages_end(&pom_sampler_stages);
    set_running(s, false);
    return NULL;
}

pom_status_t pom_sampler_start(pom_sampler_t *s) {
    pthread_attr_t attr;
    sigset_t all, before;
    atomic_store_explicit(&s->stop, false, memory_order_relaxed);
    set_running(s, true);
    (void)pthread_attr_init(&attr); // cannot fail on Linux
    (void)pthread_attr_setstacksize(&attr, THREAD_STACK);
    // The host's signals are the host's: none may be delivered here.
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&s->thread, &attr, run, s);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attr);
    s->started = err == 0;
    if (!s->started) {
        set_running(s, false);
    }
    return err == 0 ? POM_OK : POM_EIO;
}

void pom_sampler_stop(pom_sampler_t *s) {
    if (!s->started) {
        return;
    }
    atomic_store_explicit(&s->stop, true, memory_order_release);
    pom_park_wake(&s->park);
    (void)pthread_join(s->thread, NULL);
    s->started = false;
}

/* Of many notifies the first sets the alarm: later, and for the sooner of its look and the longest
 * wait of an ended action. A look that was planned stays where it was, or gaps between requests
 * would make looks more frequent. */
static void set_alarm(pom_sampler_t *s) {
    int64_t now_ns = pom_now_ns(), look_ns = peek(&s->planned_ns);
    if (look_ns <= now_ns) {
        look_ns = now_ns + pom_schedule_first_delay(peek(&s->period_ns), pom_random_u64());
    }
    atomic_store_explicit(&s->noted_ns, now_ns, memory_order_relaxed);
    atomic_store_explicit(&s->noted_look_ns, look_ns, memory_order_relaxed);
    int64_t tick_ns = now_ns + TICK_MAX_NS;
    pom_park_alarm(&s->park, look_ns < tick_ns ? look_ns : tick_ns);
}

void pom_sampler_notify(pom_sampler_t *s) {
    atomic_thread_fence(memory_order_seq_cst); // pairs with the one in park()
    if (atomic_load_explicit(&s->parked, memory_order_relaxed) &&
        atomic_exchange_explicit(&s->parked, false, memory_order_relaxed)) {
        set_alarm(s);
    }
}

void pom_sampler_hurry(pom_sampler_t *s) {
    pom_park_wake(&s->park);
}

bool pom_sampler_sync(pom_sampler_t *s, int64_t deadline_ns) {
    uint64_t ticket = atomic_fetch_add_explicit(&s->sync_wanted, 1, memory_order_acq_rel) + 1;
    pom_park_wake(&s->park);
    bool in_time = true;
    (void)pthread_mutex_lock(&s->sync_lock);
    while (s->sync_done < ticket && s->running && in_time) {
        in_time = pom_cond_wait(&s->sync_done_cond, &s->sync_lock, deadline_ns);
    }
    bool done = s->sync_done >= ticket;
    (void)pthread_mutex_unlock(&s->sync_lock);
    return done;
}

void pom_sampler_configure(pom_sampler_t *s, const pom_schedule_options_t *options) {
    atomic_store_explicit(&s->want_granularity_ns, options->granularity_ns, memory_order_relaxed);
    atomic_store_explicit(&s->want_budget_ppm, options->budget_ppm, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&s->configured, 1, memory_order_release);
    pom_park_wake(&s->park); // the tick under way may be the last for a second
}

/* Up to this moment while the thread lives, else what it had used when it ended. */
static int64_t cpu_now(const pom_sampler_t *s) {
    int32_t tid = atomic_load_explicit(&s->tid, memory_order_relaxed);
    int64_t cpu_ns;
    return tid != 0 && pom_tid_cpu_ns(tid, &cpu_ns) ? cpu_ns + peek(&s->past_cpu_ns)
                                                    : peek(&s->cpu_ns);
}

pom_sampler_stats_t pom_sampler_stats(const pom_sampler_t *s) {
    pom_sampler_stats_t stats = {
        .period_ns = peek(&s->period_ns),
        .taken = peek(&s->taken),
        .wakeups = peek(&s->wakeups),
        .cpu_ns = cpu_now(s),
        .overhead_ppm = peek(&s->overhead_ppm),
        .cost_ns = peek(&s->cost_ns),
        .base_cpu_ns = peek(&s->base_cpu_ns),
        .over_budget = atomic_load_explicit(&s->over_budget, memory_order_relaxed),
    };
    for (int i = 0; i < POM_MISS_COUNT; i++) {
        stats.missed[i] = peek(&s->missed[i]);
    }
    return stats;
}
