"""Chrome's trace events (JSON object form), for Perfetto and chrome://tracing.

Each action is an event "X" with its real start and duration on its process and thread, and below it its call graph. A
call graph says how long, not when: children are laid end to end from their parent's start, and their events say
`"synthetic": true` in their arguments; calls without wall time are left out. Messages are instant events with their real
moment in the arguments. `tts` and `tdur` are the thread's CPU clock, counted from the action's start.

Times are multiples of 1/4096 us. Readers add start and duration as floats, and such sums are exact, where decimals would
put the end of a call a hair behind its caller's; and a quarter of a nanosecond is near enough to round to the right one.
They count from the midnight before last of the first record's day (`otherData` says which), since floats of microseconds
since 1970 could not hold that. Actions that overlap on one thread (greenlets, asyncio
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
        track = {"pid": pid, "tid": tid}
        # Where the next child of each row begins, by the wall and by the CPU clock.
        free, cpu_free = [start], [0]
        for row, frame in enumerate(tree.frames):
            wall, cpu = tree.total_wall[row], tree.total_cpu[row]
            if row:
                parent = tree.parents[row]
                free.append(free[parent])
                cpu_free.append(cpu_free[parent])
                free[parent] += wall
                cpu_free[parent] += cpu
            begin, cpu_begin = _micro(free[row]), _micro(cpu_free[row])
            moment = {"ts": begin, "tts": cpu_begin}
            if row in tree.messages:
                fields, at = tree.messages[row]
                self._put({"name": _message_name(fields), "ph": "i", "s": "t", **moment, **track,
                           "args": {"message": fields, "moment": at}})
                continue
            moment.update(dur=_micro(free[row] + wall) - begin, tdur=_micro(cpu_free[row] + cpu) - cpu_begin)
            if not row:
                told = {"task": tree.record.get("task_uuid"), **tree.fields()}
                self._put({"name": name_of(frame), "cat": "action", "ph": "X", **moment, **track, "args": told})
            elif wall:
                told = {"file": frame.file, "line": frame.line, "synthetic": True, "samples": tree.hits[row]}
                self._put({"name": name_of(frame), "cat": "call", "ph": "X", **moment, **track, "args": told})

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
    return (nanoseconds * 4096 + 500) // 1000 / 4096


def _message_name(fields):
    if isinstance(fields, dict):
        for key in ("message_type", "action_type", "message"):
            if isinstance(fields.get(key), str):
                return fields[key][:256]
    return "message"
