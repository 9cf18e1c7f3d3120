"""Chrome's trace events (JSON object form), for Perfetto and chrome://tracing.

Each action is an event "X" with its real start and duration on its process and thread, and below it its call graph. A
call graph says how long, not when: children are laid end to end from their parent's start, and such events say
`"synthetic": true` in their arguments. Messages are instant events with their real moment in the arguments. `tts` and `tdur`
are the thread's CPU clock, counted from the action's start.

Times are microseconds since the midnight before last of the first record's day (`otherData` says which): as floats they
keep the nanosecond, which microseconds since 1970 would not. Actions that overlap on one thread (greenlets, asyncio
tasks) stand on tracks of their own, since events of one track must nest. Memory: one action at a time, and the threads.
"""

import datetime
import json

from .._files import dump_line
from ._tree import name_of

BINARY = False
EXTENSION = ".trace.json"

_DAY = 86_400_000_000_000
_MAX_TRACKS = 100_000


def write(trees, out, clock):
    Writer(out).write(trees)


class Writer:
    def __init__(self, out):
        self._out = out
        self._separator = "\n"
        self._base = None
        self._ends = {}    # (pid, thread) -> [(number of a track, end of its last action)]
        self._tracks = 0
        self._processes = set()

    def write(self, trees):
        self._out.write(b'{"displayTimeUnit":"ns","traceEvents":[')
        for tree in trees:
            self._add(tree)
        since = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=(self._base or 0) // 1000)
        other = {"exporter": "profilomatic", "times_since": since.isoformat() + "Z"}
        self._out.write(('\n],"otherData":%s}\n' % json.dumps(other)).encode("ascii"))

    def _add(self, tree):
        start = tree.start or 0
        if self._base is None:
            self._base = max(0, start // _DAY * _DAY - _DAY)
        start -= self._base
        pid, tid = self._track(tree, start)
        starts, cpu_starts = [start], [0]
        # Where the next child of each row begins.
        free, cpu_free = [start], [0]
        for row, frame in enumerate(tree.frames):
            if row:
                parent = tree.parents[row]
                starts.append(free[parent])
                cpu_starts.append(cpu_free[parent])
                free.append(free[parent])
                cpu_free.append(cpu_free[parent])
                free[parent] += tree.total_wall[row]
                cpu_free[parent] += tree.total_cpu[row]
            if row in tree.messages:
                fields, moment = tree.messages[row]
                self._put({"name": _message_name(fields), "ph": "i", "s": "t", "ts": _micro(starts[row]), "pid": pid,
                           "tid": tid, "args": {"message": fields, "moment": moment}})
                continue
            event = {"name": name_of(frame), "cat": "call" if row else "action", "ph": "X", "ts": _micro(starts[row]),
                     "dur": _micro(tree.total_wall[row]), "tts": _micro(cpu_starts[row]),
                     "tdur": _micro(tree.total_cpu[row]), "pid": pid, "tid": tid}
            if row:
                event["args"] = {"file": frame.file, "line": frame.line, "synthetic": True, "samples": tree.hits[row]}
            else:
                event["args"] = {"task": tree.record.get("task_uuid"), **tree.fields()}
            self._put(event)

    def _track(self, tree, start):
        """(pid, number of a track on which nothing is open at this time)."""
        record = tree.record
        pid = record.get("pid")
        pid = pid if type(pid) is int and 0 <= pid < 1 << 31 else 0
        if pid not in self._processes and len(self._processes) < _MAX_TRACKS:
            self._processes.add(pid)
            self._put({"name": "process_name", "ph": "M", "pid": pid, "args": {"name": str(record.get("source") or "")}})
        tracks = self._ends.setdefault((pid, str(record.get("thread"))), [])
        end = start + tree.total_wall[0]
        for index, (number, last_end) in enumerate(tracks):
            if start >= last_end:
                tracks[index] = (number, end)
                return pid, number
        self._tracks += 1
        tracks.append((self._tracks, end))
        name = str(record.get("thread_name") or record.get("thread"))
        self._put({"name": "thread_name", "ph": "M", "pid": pid, "tid": self._tracks, "args": {"name": name}})
        return pid, self._tracks

    def _put(self, event):
        self._out.write((self._separator + dump_line(event)[:-1]).encode("ascii"))
        self._separator = ",\n"


def _micro(nanoseconds):
    return nanoseconds / 1000


def _message_name(fields):
    if isinstance(fields, dict):
        for key in ("message_type", "action_type", "message"):
            if isinstance(fields.get(key), str):
                return fields[key][:256]
    return "message"
