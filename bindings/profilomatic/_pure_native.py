"""Threads, locks and clocks of the pure twin, the real ones even where gevent has replaced what `threading` offers.

The sampler must run beside the greenlets, not among them, and one greenlet's wait must not be everybody's.
"""

import sys
import threading
import time


def _original(module, name):
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(__import__(module), name)


def get_ident():
    """The native thread's id, also inside a greenlet."""
    return _ident()


def refresh():
    """Looks again for the originals; called at start, since patching may come after our import."""
    global _ident
    _ident = _original("_thread", "get_ident")


_ident = threading.get_ident
refresh()


def new_lock():
    """A lock between native threads, also where gevent has patched."""
    return _original("_thread", "allocate_lock")()


def _bounded(timeout):
    """What the interpreter can wait for: 292 years at most, where a caller may say infinity."""
    return min(max(timeout, 0.0), threading.TIMEOUT_MAX)


class WakeUp:
    """A binary semaphore: set() any number of times is one wait() passed. set() may be called from a finalizer."""

    __slots__ = ("_lock",)

    def __init__(self):
        self._lock = new_lock()
        self._lock.acquire()

    def set(self):
        try:
            self._lock.release()
        except RuntimeError:  # set already
            pass

    def wait(self, timeout=None):
        """True when it was set, False when the time was over."""
        if timeout is None:
            return self._lock.acquire()
        return self._lock.acquire(True, _bounded(timeout))


class NativeThread:
    """A daemon thread that shows in threading.enumerate() under its name."""

    def __init__(self, name, target):
        self.ident = None
        self._name = name
        self._target = target
        self._done = WakeUp()
        self._over = False
        if sys.modules.get("gevent.monkey") is not None:
            _original("_thread", "start_new_thread")(self._run, ())
            self._thread = None
        else:
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def _run(self):
        self.ident = get_ident()
        if self._thread_missing():
            threading.current_thread().name = self._name
        try:
            self._target()
        finally:
            self._over = True
            self._done.set()

    def _thread_missing(self):
        return sys.modules.get("gevent.monkey") is not None

    def join(self, timeout):
        """True when the thread has ended."""
        deadline = time.monotonic() + timeout
        if not self._over and self._done.wait(timeout):
            self._done.set()  # others may wait for the same end
        if self._over and self._thread is not None:
            self._thread.join(_bounded(max(deadline - time.monotonic(), 0.05)))
            return not self._thread.is_alive()
        return self._over


def thread_name(ident):
    """The name that `threading` knows, without making it invent an entry for a thread it does not know."""
    thread = getattr(threading, "_active", {}).get(ident)
    return thread.name if thread is not None else "thread-%d" % ident


def native_id():
    """The kernel's id of this thread, 0 where there is none."""
    try:
        return threading.get_native_id()
    except (AttributeError, RuntimeError):
        return 0


def own_cpu_ns():
    """CPU time of the calling thread, 0 where there is no such clock."""
    try:
        return time.thread_time_ns()
    except (AttributeError, OSError):
        return 0


if sys.platform.startswith("linux") and hasattr(time, "clock_gettime_ns"):
    def cpu_ns_of(tid):
        """CPU time of another thread of this process, None when it is gone or there is no such clock."""
        if not tid:
            return None
        try:
            # The kernel's clock id of a thread: CPUCLOCK_PERTHREAD (4) | CPUCLOCK_SCHED (2).
            return time.clock_gettime_ns((~tid << 3) | 6)
        except OSError:
            return None
else:
    def cpu_ns_of(tid):
        """There is no clock of another thread here."""
        return None
