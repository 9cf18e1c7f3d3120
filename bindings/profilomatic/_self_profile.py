"""The profiler's own threads as profiles: `profilomatic run --profile-profiler FILE`.

    observer = Observer(backend, file)
    observer.start()
    ...
    observer.finish()        after the engine has stopped; one record a thread into the file

Every 10 ms an observer, a thread of its own, looks at what our threads do. A Python thread (the delivery thread, all of the
twin's) shows its stack. A native one tells the stages it is in, and measures them itself while it is observed: a thread that
works for a few microseconds at a time is hardly ever met by looks, so looks only give its hits, and its times are exact.

The records are ordinary ones, of kind "self". To observe costs something too: that is their `profiler.overhead`.
"""

import os
import sys
import threading
import time

from . import _pure_anchor, _pure_native, _pure_tree, _values
from ._files import dump_line

PERIOD = 0.01
PYTHON_THREADS = ("Profilomatic Thread", "profilomatic-sampler")

_ns = time.monotonic_ns
_BY_LINE = 2


class Observer:
    def __init__(self, backend, file):
        """file: a text file, written and closed by finish()."""
        self._backend = backend
        self._file = file
        self._pid = os.getpid()
        self._native = hasattr(backend, "stages_now")
        self._hits = {}  # (thread, path of stages): looks
        self._seen = {}  # name of a Python thread: _Seen
        self._stop = _pure_native.WakeUp()
        self._looks = 0
        self._cpu_ns = 0
        self._thread = None

    def start(self):
        """Before the engine starts, so that its threads are measured from their first moment."""
        self._start_ns, self._start_wall_ns = _ns(), time.time_ns()
        self._start_cpu_ns = time.process_time_ns()
        if self._native:
            self._backend.account_stages(True)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._after_fork_in_child)
        self._thread = _pure_native.NativeThread("profilomatic-observer", self._run)

    def _after_fork_in_child(self):
        self._backend.account_stages(False)  # nobody observes there

    def _run(self):
        while not self._stop.wait(PERIOD):
            self._look()
            self._cpu_ns = _pure_native.own_cpu_ns()

    def _look(self):
        self._looks += 1
        if self._native:
            for seen in self._backend.stages_now().items():
                self._hits[seen] = self._hits.get(seen, 0) + 1
        frames = sys._current_frames()
        for thread in threading.enumerate():
            if thread.name in PYTHON_THREADS and thread.ident in frames:
                seen = self._seen.get(thread.name)
                if seen is None:
                    seen = self._seen[thread.name] = _Seen()
                seen.look(thread, frames[thread.ident])

    def finish(self):
        """Writes the records. Nothing in a forked child, whose parent does it."""
        if self._pid != os.getpid() or self._thread is None:
            return
        self._stop.set()
        self._thread.join(10)
        task_uuid = _values.new_task_uuid()
        profiles = [self._native_profile(name, *entry) for name, entry in self._backend.stage_costs().items()] \
            if self._native else []
        profiles += [self._profile(name, seen.ident, seen.tree, seen.wall_ns, seen.cpu_ns, seen.tree.root.hits)
                     for name, seen in self._seen.items()]
        with self._file as file:
            for profile in profiles:
                if profile is not None:
                    profile.task_uuid = task_uuid
                    record = profile.record()
                    record["profiler"]["engine"] = "observer"
                    file.write(dump_line(record))

    def _native_profile(self, name, tid, costs):
        if not tid:
            return None  # there was no such thread
        tree = _pure_tree.Tree(_BY_LINE, self._start_ns)
        hits = {path: count for (thread, path), count in self._hits.items() if thread == name}
        for path in sorted(set(costs) | set(hits)):
            node = tree.root
            node.hits += hits.get(path, 0)
            for stage in path:
                node = tree.child(node, (name, stage, None), self._start_ns)
                node.hits += hits.get(path, 0)
                node.last_ns = _ns()
            node.wall_ns, node.cpu_ns = costs.get(path, (0, 0))
        wall_ns, cpu_ns = (sum(cost[clock] for cost in costs.values()) for clock in (0, 1))
        return self._profile(name, tid, tree, wall_ns, cpu_ns, tree.root.hits)

    def _profile(self, name, thread, tree, wall_ns, cpu_ns, samples):
        profile = _pure_tree.Profile()
        profile.thread = thread
        profile.thread_name = profile.type = name
        profile.source = self._backend_source()
        profile.pid = self._pid
        profile.start_ns, profile.end_ns = self._start_ns, self._start_ns + wall_ns
        profile.start_wall_ns = self._start_wall_ns
        profile.cpu_ns = cpu_ns
        profile.kind = "self"
        profile.outcome = "succeeded"
        profile.fields = {"looks": self._looks}
        profile.tree = tree
        profile.period = PERIOD
        profile.samples = samples
        profile.missed = {}
        profile.overhead_cpu = self._cpu_ns / 1e9
        spent_ns = time.process_time_ns() - self._start_cpu_ns
        profile.overhead_fraction = self._cpu_ns / max(spent_ns - self._cpu_ns, 1)
        profile.shed = 0
        return profile

    @staticmethod
    def _backend_source():
        from . import _options

        return _options.for_backend()["source_name"]


class _Seen:
    """What was seen of a Python thread."""

    def __init__(self):
        self.tree = None
        self.ident = self.native_id = None
        self.wall_ns = self.cpu_ns = 0
        self._at_ns = self._at_cpu_ns = 0

    def look(self, thread, frame):
        now_ns, cpu_ns = _ns(), _pure_native.cpu_ns_of(thread.native_id) or 0
        if self.tree is None:
            self.tree = _pure_tree.Tree(_BY_LINE, now_ns)
        if thread.ident != self.ident or thread.native_id != self.native_id:  # the first look, or a new thread
            self.ident, self.native_id = thread.ident, thread.native_id
            self._at_ns, self._at_cpu_ns = now_ns, 0
        stack = []
        while frame is not None and len(stack) < _pure_anchor.STACK_MAX:
            stack.append((frame.f_code, frame.f_lineno or 0))
            frame = frame.f_back
        wall_ns, used_ns = now_ns - self._at_ns, max(cpu_ns - self._at_cpu_ns, 0)
        self.tree.add(stack[::-1], wall_ns, used_ns, now_ns)
        self.wall_ns += wall_ns
        self.cpu_ns += used_ns
        self._at_ns, self._at_cpu_ns = now_ns, cpu_ns
