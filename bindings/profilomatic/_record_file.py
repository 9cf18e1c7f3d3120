"""FILE of the commands that read profile records: where it comes from, and what is said when it cannot be read, or what is made of
it not be written."""

import contextlib
import errno
import os
import sys

from . import _terminal, _wire
from ._report_records import NotRecords


def read(command, path, work):
    """The exit status of work(stream, name), or of what kept it from its end."""
    try:
        if path == "-":
            return work(standard(sys.stdin, "standard input").buffer, "standard input")
        with open(path, "rb") as stream:
            return work(stream, path)
    except (NotRecords, _wire.NoReader) as error:
        return fail(command, str(error))
    except BrokenPipeError:
        _terminal.abandon()
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if isinstance(error, IsADirectoryError) and error.filename == path:
            return fail(command, f"{path} is a folder; name a file written by profilomatic.file_destination(PATH)")
        return fail(command, f"{error.filename or path}: {error.strerror or error}")


def standard(stream, name):
    """A stream of the interpreter, which is None where the process was started with that descriptor closed."""
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), name)
    return stream


@contextlib.contextmanager
def named(name):
    """What fails in here is the output: an error of an open file names none, and the input is open too."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = name
        raise


def fail(command, text):
    """Unreadable or wrong use."""
    print(f"profilomatic {command}: {text}", file=sys.stderr)
    return 2


def no_such_task(command, task, name):
    print(f"profilomatic {command}: no action with a task id that starts with {task!r} in {name}", file=sys.stderr)
    return 1
