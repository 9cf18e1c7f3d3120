"""Destinations around an open Python file object; paths are the backend's own business.

Called on the delivery thread, one record at a time. A file object may be text or binary; which one is found out by
asking it, else by trying.
"""

import json
import os
import re

_SMALL = re.compile(r'":-?[0-9.]+e-[0-9]+')  # begins with a literal, which is searched for at ten times the speed


class FileObjectDestination:
    """Writes one JSON record a line to a file object that the caller opened and will close."""

    def __init__(self, file, flush):
        self.file = file
        self._flush = flush
        self._binary = self._is_binary(file)
        self._held = 0  # records since the last flush, of this process
        self._pid = os.getpid()
        self.lost = 0  # of a flush that failed: how many records went with it
        self.__qualname__ = "file object %s" % getattr(file, "name", type(file).__name__)

    @staticmethod
    def _is_binary(file):
        import io

        if isinstance(file, io.TextIOBase):
            return False
        if isinstance(file, (io.RawIOBase, io.BufferedIOBase)):
            return True
        mode = getattr(file, "mode", None)
        return isinstance(mode, str) and "b" in mode

    def __call__(self, record):
        line = dump_line(record)
        if self._binary:
            self.file.write(line.encode("ascii"))
        else:
            self.file.write(line)
        if self._flush:
            self._flush_file()
        else:
            self._notice_fork()
            self._held += 1

    def _flush_file(self):
        flush = getattr(self.file, "flush", None)
        if flush is not None:
            flush()

    def _notice_fork(self):
        if self._pid != os.getpid():  # what the parent had not flushed is the parent's
            self._pid = os.getpid()
            self._held = 0

    def _profilomatic_flush(self):
        """Hands on what the file holds back. Both backends call it on the delivery thread, at flush(), stop() and removal;
        by this name, as a callable of the user's may have a `flush` that means something else."""
        self._notice_fork()
        held, self._held = self._held, 0
        if not held or getattr(self.file, "closed", False) is True:
            return  # closing has flushed
        self.lost = held
        try:
            self._flush_file()
        except ValueError:
            if getattr(self.file, "closed", False) is not True:
                raise  # not just closed, by the caller
        self.lost = 0

    def __repr__(self):
        return "<profilomatic destination: %s>" % self.__qualname__


def written_twice(names):
    """The file that the last of these destinations and another one write to, or None."""
    for name in names[:-1]:
        try:
            if os.path.isfile(name) and os.path.samefile(name, names[-1]):
                return names[-1]
        except (OSError, ValueError):  # no path, or gone
            pass
    return None


def rotation(rotate_bytes, rotate_seconds, keep):
    """The three options in the form that backends take: 0 for not."""
    for name, value, kinds in (("rotate_bytes", rotate_bytes, int), ("rotate_seconds", rotate_seconds, (int, float)),
                               ("keep", keep, int)):
        if value is None and name != "keep":
            continue
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError("%s must be a number, not %r" % (name, value))
        if not 1 <= value <= 1 << 30 and not (name == "rotate_bytes" and value >= 1):
            raise ValueError("%s=%r: must be %s" % (name, value, "at least 1" if name == "rotate_bytes" else "1 to %d" % (1 << 30)))
    return min(rotate_bytes or 0, 1 << 62), float(rotate_seconds or 0), keep


def dump_line(record):
    """One record as a line of strict JSON, ASCII only, with its newline."""
    try:
        line = json.dumps(record, separators=(",", ":"), allow_nan=False)
    except ValueError:
        line = json.dumps(_finite(record), separators=(",", ":"), allow_nan=False)
    return _SMALL.sub(_decimal, line) + "\n"


def _decimal(found):
    """The same number without an exponent, which durations below 100 us would have.

    Only outside of texts: a quote behind a word ends a key, as one inside a text has a backslash before it, and one that begins a
    text a brace, a bracket, a colon or a comma.
    """
    if not found.string[found.start() - 1].isalnum():
        return found[0]
    # Without the module decimal, which a second interpreter of a process may not survive. There is one digit before the point.
    digits, exponent = found[0][2:].split("e-")
    sign = "-" if digits[0] == "-" else ""
    return '":%s0.%s%s' % (sign, "0" * (int(exponent) - 1), digits.lstrip("-").replace(".", ""))


def _finite(value):
    """A copy in which NaN and infinities, which JSON cannot say, are null."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
