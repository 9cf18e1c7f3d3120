"""pprof's profile.proto, compressed with gzip: call paths with lines, exact.

One sample a call path and action, leaf first, with samples, wall and CPU nanoseconds of its own; labels tell the action:
`route`, `method`, `task`, `outcome`, `thread`, `source`. So `go tool pprof -tagfocus route=/cart` looks at one route.

The fields of a protobuf message may come in any order, so samples, locations, functions and texts are written as they
come and nothing is kept but the numbers of what is known. Memory: the distinct frames and labels, without those of a
kind that has too many (task ids), which are written anew each time.
"""

import zlib

from .._report_costs import number
from . import _protobuf as pb
from ._tree import name_of, plain

BINARY = True
EXTENSION = ".pb.gz"

# Fields of Profile.
_SAMPLE_TYPE, _SAMPLE, _MAPPING, _LOCATION, _FUNCTION, _TEXT = 1, 2, 3, 4, 5, 6
_TIME, _DURATION, _PERIOD_TYPE, _PERIOD, _DEFAULT_SAMPLE_TYPE = 9, 10, 11, 12, 14

_MAX_KEPT = 100_000
_MAX_LABEL = 1024


def write(trees, out, clock):
    stream = _Gzip(out)
    Writer(stream, clock).write(trees)
    stream.close()


class _Gzip:
    """A gzip stream without a time: the same records give the same bytes. gzip.GzipFile writes once more as it is collected, also
    after the output has failed."""

    def __init__(self, out):
        self._out = out
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # level 6 costs little beside making the samples; 31: as gzip

    def write(self, data):
        packed = self._packer.compress(data)
        if packed:
            self._out.write(packed)

    def close(self):
        self._out.write(self._packer.flush())


class Writer:
    def __init__(self, stream, clock):
        self._put = stream.write
        self._clock = clock
        self._wall_at = 1 if clock == "cpu" else 2  # among a sample's values
        self._texts = {}
        self._text_count = 0
        self._functions = {}
        self._locations = {}
        self._start = self._end = None
        self._period = 0

    def write(self, trees):
        self._text("")
        # The chosen clock comes last and is the default: readers that know no default (speedscope) take the last.
        self._put(pb.data(_SAMPLE_TYPE, self._value_type("samples", "count")))
        for name in ("wall", "cpu") if self._clock == "cpu" else ("cpu", "wall"):
            self._put(pb.data(_SAMPLE_TYPE, self._value_type(name, "nanoseconds")))
        # One mapping, so that readers do not look for a binary: 1 start, 2 limit, 5 file, 7 has_functions ...
        self._put(pb.data(_MAPPING, pb.integer(1, 1) + pb.integer(3, 1) + pb.integer(5, self._text("python"))
                          + b"".join(pb.integer(field, 1) for field in (7, 8, 9))))
        for tree in trees:
            self._add(tree)
        self._put(pb.integer(_TIME, self._start or 0))
        self._put(pb.integer(_DURATION, self._end - self._start if self._start is not None else 0))
        self._put(pb.data(_PERIOD_TYPE, self._value_type("wall", "nanoseconds")))
        self._put(pb.integer(_PERIOD, self._period))
        self._put(pb.integer(_DEFAULT_SAMPLE_TYPE, self._text(self._clock)))

    def _add(self, tree):
        start = tree.start
        if start is not None:
            end = start + tree.total_wall[0]
            self._start = start if self._start is None else min(self._start, start)
            self._end = end if self._end is None else max(self._end, end)
        profiler = tree.record.get("profiler")
        period = number(profiler.get("period")) if isinstance(profiler, dict) else 0
        if 0 < period < 1e6:
            self._period = round(period * 1e9)
        labels = self._labels(tree)
        sums = {}
        for row, stack in tree.walk():
            path = tuple(stack)
            cost = sums.setdefault(path, [0, 0, 0])
            cost[0] += tree.hits[row]
            cost[self._wall_at] += tree.wall[row]
            cost[3 - self._wall_at] += tree.cpu[row]
        for path, cost in sums.items():
            ids = [self._location(frame) for frame in reversed(path)]
            self._put(pb.data(_SAMPLE, pb.packed(1, ids) + pb.packed(2, cost) + labels))

    def _labels(self, tree):
        fields = tree.fields()
        labels = b""
        for key, value, keep in (("route", fields.get("route"), True), ("method", fields.get("method"), True),
                                 ("outcome", fields.get("outcome"), True), ("task", tree.record.get("task_uuid"), False),
                                 ("thread", tree.record.get("thread_name"), True),
                                 ("source", tree.record.get("source"), True)):
            if isinstance(value, str) and value:
                # Label: 1 key, 2 str.
                labels += pb.data(3, pb.integer(1, self._text(key)) + pb.integer(2, self._text(value[:_MAX_LABEL], keep)))
        return labels

    def _value_type(self, name, unit):
        return pb.integer(1, self._text(name)) + pb.integer(2, self._text(unit))

    def _text(self, text, keep=True):
        number = self._texts.get(text)
        if number is None:
            number = self._text_count
            self._text_count += 1
            self._put(pb.data(_TEXT, text.encode("utf-8", "replace")))
            if keep and len(self._texts) < _MAX_KEPT:
                self._texts[text] = number
        return number

    def _location(self, frame):
        number = self._locations.get(frame)
        if number is None:
            function = self._function(frame)
            number = self._locations[frame] = len(self._locations) + 1
            # Location: 1 id, 2 mapping, 3 address, 4 line; Line: 1 function, 2 line. Addresses only have to differ.
            line = pb.integer(1, function) + pb.integer(2, frame.line or 0)
            self._put(pb.data(_LOCATION, pb.integer(1, number) + pb.integer(2, 1) + pb.integer(3, number)
                              + pb.data(4, line)))
        return number

    def _function(self, frame):
        key = (frame.file, name_of(frame))
        number = self._functions.get(key)
        if number is None:
            number = self._functions[key] = len(self._functions) + 1
            # Function: 1 id, 2 name, 4 file. No 3, system name: equal to the name it would make `go tool pprof` take the
            # name for one of C++ and strip `<int:id>` from a route.
            self._put(pb.data(_FUNCTION, pb.integer(1, number) + pb.integer(2, self._text(plain(key[1])))
                              + pb.integer(4, self._text(plain(frame.file)))))
        return number
