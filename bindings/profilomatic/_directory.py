"""directory_destination(): one file an action, in the format of another tool.

Called on the delivery thread with one record at a time. A file is written under a hidden name and then linked to its own,
so that nobody ever reads half of one, and an existing file is never replaced: a number is added instead.
"""

import errno
import itertools
import os
import re

from . import _formats
from ._files import dump_line

_UNSAFE = re.compile(r"[^\w.@+=<>,-]+")  # what is left is harmless in names on every file system and in a shell glob
_MAX_PART = 80                           # characters; three parts and the time stay below the usual 255 bytes
_MAX_TRIES = 10_000
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class DirectoryDestination:
    """A callable destination; `format` is a name of `_formats.FORMATS` or "json"."""

    def __init__(self, directory, format="speedscope", clock="wall"):
        if format != "json" and format not in _formats.FORMATS:
            names = ", ".join(repr(name) for name in ("json", *_formats.FORMATS))
            raise ValueError("format=%r: must be one of %s" % (format, names))
        if clock not in ("wall", "cpu"):
            raise ValueError("clock=%r: must be 'wall' or 'cpu'" % (clock,))
        if not os.fsdecode(directory):
            raise ValueError("directory=%r: must name a folder; '.' is the current one" % (directory,))
        # Absolute, so that a later chdir changes nothing; made now, so that a wrong place fails here and not at delivery.
        self.directory = os.path.abspath(os.fsdecode(directory))
        self.format = format
        self.clock = clock
        self._writer = None if format == "json" else _formats.writer(format)
        os.makedirs(self.directory, exist_ok=True)
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.directory)
        self.__qualname__ = "directory %s" % self.directory
        self._count = itertools.count()

    def __call__(self, record):
        name, extension = file_name(record, self.format)
        hidden = os.path.join(self.directory, ".%d-%d.part" % (os.getpid(), next(self._count)))
        try:
            with open(hidden, "wb") as out:
                self._write(record, out)
            self._publish(hidden, name, extension)
        finally:
            try:
                os.unlink(hidden)
            except OSError:
                pass

    def _write(self, record, out):
        if self._writer is None:
            out.write(dump_line(record).encode("ascii"))
            return
        from ._formats._tree import Frames, Tree

        self._writer.write(iter([Tree(record, Frames())]), out, self.clock)

    def _publish(self, hidden, name, extension):
        for number in range(1, _MAX_TRIES):
            target = os.path.join(self.directory, name + ("" if number == 1 else "-%d" % number) + extension)
            try:
                self._link(hidden, target)
                return
            except FileExistsError:
                continue
        raise FileExistsError(errno.EEXIST, "too many files of one name", os.path.join(self.directory, name + extension))

    @staticmethod
    def _link(hidden, target):
        """FileExistsError when there is such a file."""
        try:
            os.link(hidden, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without links: the name is taken first, empty for a moment.
            with open(target, "xb"):
                os.replace(hidden, target)

    def __repr__(self):
        return "<profilomatic destination: %s>" % self.__qualname__


def file_name(record, format):
    """(name, extension): when it began, its route, its error's id or its task's, its thread.

        2026-11-20_12:34:56.123-GET_cart_<int_id>-0f3a7c1e-…-waitress-0.speedscope.json
    """
    fields = record.get("action")
    fields = fields if isinstance(fields, dict) else {}
    route = fields.get("route") or fields.get("type") or "Unknown"
    method = fields.get("method")
    page = "%s %s" % (method, route) if isinstance(method, str) and method else route
    parts = [_moment(record.get("start_time")), _part(page), _part(fields.get("error_id") or record.get("task_uuid")),
             _part(record.get("thread_name") or record.get("thread"))]
    name = "-".join(part for part in parts if part)
    if format == "json":
        return name, ".json"
    if format == "callgrind":
        return "callgrind.out." + name, ""  # how its viewers find files
    return name, _formats.writer(format).EXTENSION


def _moment(text):
    """"2026-11-20T12:34:56.123456Z" with milliseconds; moments of records have six decimals."""
    found = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d{0,6}))?", text) if isinstance(text, str) else None
    if found is None:
        return "unknown-time"
    return "%s_%s.%s" % (found[1], found[2], (found[3] or "").ljust(3, "0")[:3])


def _part(value):
    text = _UNSAFE.sub("_", str(value if value is not None else "")).strip("_.")
    while len(text.encode("utf-8", "replace")) > _MAX_PART:
        text = text[:-1]
    return text
