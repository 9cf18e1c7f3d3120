/*
 * Guarded reads, and stack chunks that outlive a walk.
 *
 * A Python frame lives in a 16 KiB chunk that the interpreter takes from and returns to its arena
 * allocator (mmap and munmap). Deep calls cross chunks all the time, so a chunk may be unmapped in
 * the middle of a walk. Copying by the kernel instead would cost more than the whole walk; a
 * SIGSEGV handler is not ours to install. So the allocator's documented hook is chained: a chunk
 * freed while a walk is under way goes to a short list, and is freed by the next call that finds no
 * walk. Nobody waits, but for a list that is full.
 *
 *     app thread                          sampler
 *     unlink chunk from the thread        walking + 1
 *     full fence                          full fence
 *     read walking                        read the thread's chunk list
 *
 * Either the app sees the walk and defers, or the sampler does not see the chunk. Only the
 * interpreter's frees come here (a few a second); everything else in the process is untouched.
 *
 * The hook is the process's, not the interpreter's: a sub-interpreter with a lock of its own comes
 * here beside the main one. So the list has a lock, taken only where there is a walk or a list.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE // process_vm_readv, syscall
#endif
#include <Python.h>

#include "bindings/ext/memory.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/own_fd.h"

/* Frees that fall into one walk of a microsecond or so: 1 in nearly all cases. */
#define DEFERRED_MAX 64

static _Atomic(int) walking;    // walks under way: the sampler's, and a probe's beside it
static _Atomic(pid_t) self_pid; // getpid() is a system call

/* under mem_lock: of /proc/self/mem; a forked child's would still be the parent's */
static pthread_mutex_t mem_lock = PTHREAD_MUTEX_INITIALIZER;
static pom_own_fd_t mem_file = {.fd = -1};

static pthread_mutex_t deferred_lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
    /* under the main interpreter's GIL */
    PyObjectArenaAllocator original;
    bool installed;
    /* under deferred_lock; count is also looked at without */
    _Atomic(int) count;
    struct {
        void *block;
        size_t size;
    } deferred[DEFERRED_MAX];
} guard;

/* Where the system call is refused (seccomp): the same copy through the file system, one call more
 * expensive. */
static pom_status_t read_by_file(uintptr_t address, void *out, size_t size) {
    ssize_t got = -1;
    (void)pthread_mutex_lock(&mem_lock); // cannot fail: plain, never taken twice
    if (pom_own_fd_holds(&mem_file) || pom_own_fd_open(&mem_file, "/proc/self/mem")) {
        got = pread(mem_file.fd, out, size, (off_t)address);
    }
    (void)pthread_mutex_unlock(&mem_lock);
    return got == (ssize_t)size ? POM_OK : POM_EUNREADABLE;
}

static pid_t own_pid(void) {
    pid_t pid = atomic_load_explicit(&self_pid, memory_order_relaxed);
    if (pid == 0) {
        pid = getpid();
        atomic_store_explicit(&self_pid, pid, memory_order_relaxed);
    }
    return pid;
}

static bool is_refused(ssize_t got) {
    return got < 0 && (errno == EPERM || errno == ENOSYS);
}

pom_status_t pom_memory_read(uintptr_t address, void *out, size_t size) {
    struct iovec local = {.iov_base = out, .iov_len = size};
    struct iovec remote = {.iov_base = (void *)address, .iov_len = size};
    ssize_t got = process_vm_readv(own_pid(), &local, 1, &remote, 1, 0);
    if (is_refused(got)) {
        return read_by_file(address, out, size);
    }
    return got == (ssize_t)size ? POM_OK : POM_EUNREADABLE;
}

uintptr_t pom_memory_word(uintptr_t address) {
    uintptr_t value = 0;
    return address != 0 && (address & 7) == 0 &&
                   pom_memory_read(address, &value, sizeof value) == POM_OK
               ? value
               : 0;
}

/* A part that is the remote side costs its page's look-up, 360 ns where a call takes 800; on the
 * local side 5 ns, with the same answer where there is no page. So what is read is local here, and
 * out is the remote one. By its number: sanitizers check what the library's function is given to
 * read. */
size_t pom_memory_gather(const pom_memory_part_t *parts, size_t count, void *out) {
    struct iovec local[POM_MEMORY_PARTS_MAX], remote = {.iov_base = out};
    size_t most = count < POM_MEMORY_PARTS_MAX ? count : POM_MEMORY_PARTS_MAX, done = 0;
    for (size_t i = 0; i < most; i++) {
        local[i] = (struct iovec){.iov_base = (void *)parts[i].address, .iov_len = parts[i].size};
        remote.iov_len += parts[i].size;
    }
    long got = syscall(SYS_process_vm_writev, own_pid(), local, most, &remote, 1UL, 0UL);
    if (is_refused(got)) {
        unsigned char *to = out;
        for (; done < most && read_by_file(parts[done].address, to, parts[done].size) == POM_OK;
             done++) {
            to += parts[done].size;
        }
        return done;
    }
    for (; done < most && got >= (long)parts[done].size; done++) {
        got -= (long)parts[done].size;
    }
    return done;
}

bool pom_memory_readable(void) {
    static const char sample = 'x';
    char copy = 0;
    return pom_memory_read((uintptr_t)&sample, &copy, 1) == POM_OK && copy == sample;
}

void pom_memory_walk_begin(void) {
    atomic_fetch_add_explicit(&walking, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); // see the drawing above
}

void pom_memory_walk_end(void) {
    // Release: our reads are over before the count falls; pairs with the acquire in free_block.
    atomic_fetch_sub_explicit(&walking, 1, memory_order_release);
}

static void *alloc_block(void *ctx, size_t size) {
    (void)ctx;
    return guard.original.alloc(guard.original.ctx, size);
}

/* What its caller has unlinked is out of reach of every walk, when this says false. Pairs with the
 * fence in pom_memory_walk_begin. */
static bool is_walking(void) {
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&walking, memory_order_acquire) > 0;
}

/* Relaxed: it orders nothing. */
static int deferred_count(void) {
    return atomic_load_explicit(&guard.count, memory_order_relaxed);
}

static void set_deferred_count(int count) {
    atomic_store_explicit(&guard.count, count, memory_order_relaxed);
}

static void free_deferred_locked(void) {
    while (deferred_count() > 0) {
        int last = deferred_count() - 1;
        set_deferred_count(
            last); // first: a child forked here leaks a block rather than frees it twice
        guard.original.free(guard.original.ctx, guard.deferred[last].block,
                            guard.deferred[last].size);
    }
}

static void free_block(void *ctx, void *block, size_t size) {
    (void)ctx;
    if (!is_walking() && deferred_count() == 0) {
        guard.original.free(guard.original.ctx, block, size); // nearly always
        return;
    }
    (void)pthread_mutex_lock(&deferred_lock); // cannot fail: plain, never taken twice
    // Looked at again: what others have put on the list meanwhile was unlinked before this look,
    // not before the first.
    bool walk = is_walking();
    while (walk && deferred_count() == DEFERRED_MAX) {
        (void)sched_yield(); // 64 chunks freed within one walk: the sampler has lost its core
        walk = is_walking();
    }
    if (walk) {
        guard.deferred[deferred_count()].block = block;
        guard.deferred[deferred_count()].size = size;
        set_deferred_count(deferred_count() + 1);
    } else {
        free_deferred_locked();
        guard.original.free(guard.original.ctx, block, size);
    }
    (void)pthread_mutex_unlock(&deferred_lock);
}

void pom_memory_guard_install(void) {
    if (guard.installed) {
        return;
    }
    PyObject_GetArenaAllocator(&guard.original);
    PyObjectArenaAllocator ours = {.ctx = &guard, .alloc = alloc_block, .free = free_block};
    PyObject_SetArenaAllocator(&ours);
    guard.installed = true;
}

void pom_memory_guard_remove(void) {
    PyObjectArenaAllocator now;
    if (!guard.installed) {
        return;
    }
    (void)pthread_mutex_lock(&deferred_lock);
    free_deferred_locked();
    (void)pthread_mutex_unlock(&deferred_lock);
    PyObject_GetArenaAllocator(&now);
    if (now.ctx != &guard) {
        return; // somebody chained after us: stay in the chain, it calls us
    }
    PyObject_SetArenaAllocator(&guard.original);
    guard.installed = false;
}

void pom_memory_after_fork(void) {
    (void)pthread_mutex_init(&deferred_lock, NULL); // a thread that is not here may have held it
    atomic_store_explicit(&walking, 0, memory_order_relaxed);
    atomic_store_explicit(&self_pid, 0, memory_order_relaxed);
    (void)pthread_mutex_init(&mem_lock, NULL); // likewise
    pom_own_fd_close(&mem_file);
}
