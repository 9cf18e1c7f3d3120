/*
 * Which thread runs, in one instruction where the compiler knows how.
 */
#ifndef POM_BASE_THREAD_POINTER_H
#define POM_BASE_THREAD_POINTER_H

#include <pthread.h>
#include <stdint.h>

#if defined(__has_builtin) && (defined(__x86_64__) || defined(__aarch64__))
#define POM_HAVE_THREAD_POINTER __has_builtin(__builtin_thread_pointer)
#else
#define POM_HAVE_THREAD_POINTER 0
#endif

/* Another number for each thread that lives: its thread pointer where POM_HAVE_THREAD_POINTER.
 * [any] */
static inline uintptr_t pom_this_thread(void) {
#if POM_HAVE_THREAD_POINTER
    return (uintptr_t)__builtin_thread_pointer();
#else
    return (uintptr_t)pthread_self();
#endif
}

#endif
