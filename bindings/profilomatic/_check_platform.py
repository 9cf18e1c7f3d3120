"""What this machine and interpreter let a profiler do, found by trying; used by `profilomatic check`.

Every probe gives a Finding or None, costs milliseconds and changes nothing.
"""

import os
import platform
import sys
import sysconfig
import time

from . import _hosting


class Finding:
    """`level` is "ok", "note" (works, worth knowing), "degraded" (works less well) or "broken"."""

    def __init__(self, level, topic, text, remedy=None):
        self.level = level
        self.topic = topic
        self.text = text
        self.remedy = remedy

    def data(self):
        return {"level": self.level, "topic": self.topic, "text": self.text, "remedy": self.remedy}


def describe():
    """One line: which interpreter on which system."""
    return (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count() or 1} CPUs"
    )


def findings():
    probes = (extension, free_threading, jit, guarded_reads, thread_clock, gevent)
    return [found for found in (probe() for probe in probes) if found is not None] + hosting()


def extension():
    if sys.implementation.name != "cpython":
        return Finding(
            "degraded",
            "extension",
            f"{sys.implementation.name} has no C extension of ours: the pure Python engine works here",
        )
    try:
        from . import _core
    except ImportError as error:
        return Finding(
            "degraded",
            "extension",
            f"the C extension is not usable: {error}",
            "install a C compiler, CMake and the headers of libuv, msgpack-c, OpenSSL and zlib, then pip install --force-reinstall profilomatic",
        )
    return Finding("ok", "extension", f"the C extension is built for this interpreter: {_core.__file__}")


def free_threading():
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    running = getattr(sys, "_is_gil_enabled", lambda: True)()
    return Finding(
        "degraded",
        "free-threaded build",
        "this interpreter is a free-threaded build"
        + (", its GIL is on" if running else "")
        + "; the native engine does not support such builds",
        "use a standard build of the interpreter",
    )


def jit():
    """Compiled loops do not say which instruction they are at: samples stand at the line of their entry."""
    compiler = getattr(sys, "_jit", None)  # 3.14
    if compiler is None or not compiler.is_enabled():
        return None
    return Finding(
        "degraded",
        "JIT",
        "this interpreter's JIT compiler is on: functions and times are right, but samples in a compiled loop "
        "may stand at another of its lines",
        "run with PYTHON_JIT=0 where lines matter",
    )


def guarded_reads():
    """The system calls of the engine's guarded reads, on our own process: seccomp filters of some containers refuse them."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        calls = [libc.process_vm_readv, libc.process_vm_writev]
    except (ImportError, OSError, AttributeError):
        return Finding("note", "guarded reads", "cannot be tried: ctypes or the C library lacks process_vm_readv")

    class Span(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    refused = []
    here, there = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    local, remote = (ctypes.byref(Span(ctypes.addressof(buffer), 8)) for buffer in (here, there))
    for call in calls:
        call.restype = ctypes.c_ssize_t
        call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
        if call(os.getpid(), local, 1, remote, 1, 0) != 8:
            refused.append(f"{call.__name__} ({os.strerror(ctypes.get_errno())})")
    if not refused:
        return Finding("ok", "guarded reads", "this process may read its own memory safely")
    return Finding(
        "note",
        "guarded reads",
        f"refused: {' and '.join(refused)}; guarded reads are slower, or the engine takes the GIL",
        "in a container allow the system calls in the seccomp profile, or add the capability SYS_PTRACE",
    )


def thread_clock():
    """What reading another thread's CPU clock costs: the engine does it twice a sample."""
    import threading

    from . import _pure_native  # the same clock as the native engine's

    thread = threading.main_thread().native_id
    if _pure_native.cpu_ns_of(thread) is None:
        return Finding(
            "degraded", "thread CPU clock", "not available: CPU time and waiting cannot be told apart"
        )
    best = None
    for _ in range(5):
        begin = time.perf_counter_ns()
        for _ in range(200):
            _pure_native.cpu_ns_of(thread)
        cost = (time.perf_counter_ns() - begin) / 200
        best = cost if best is None else min(best, cost)
    if best > 5000:
        return Finding(
            "note", "thread CPU clock", f"slow here: {best / 1000:.1f} µs a reading, so sampling costs more"
        )
    return Finding("ok", "thread CPU clock", f"{best / 1000:.2f} µs a reading")


def hosting():
    """What the server around us is set to; nothing where no server is."""
    found = [
        Finding("broken" if caveat.refuses else "degraded", caveat.topic, caveat.text, caveat.remedy)
        for caveat in _hosting.caveats()
    ]
    if _hosting.uwsgi_options() is not None and _hosting.uwsgi_has_threads():
        found.append(Finding("ok", "uWSGI", "threads are enabled"))
    return found


def gevent():
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    return Finding("note", "gevent", "threads are patched by gevent; every greenlet gets its own samples")
