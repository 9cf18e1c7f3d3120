"""`profilomatic convert FILE --to FORMAT`: profile records for other tools."""

import argparse
import contextlib
import os
import sys
import tempfile

from . import _formats, _record_file, _wire
from ._formats._tree import Frames, Tree
from ._report_model import is_about
from ._report_records import task_id


def make_parser():
    formats = "\n".join(f"  {name:<12}{text}" for name, (_, text) in _formats.FORMATS.items())
    parser = argparse.ArgumentParser(
        prog="profilomatic convert", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write profile records in the format of another tool.", epilog="formats:\n" + formats)
    parser.add_argument("file", metavar="FILE", help="a file of profile records; - reads standard input")
    parser.add_argument("--to", required=True, choices=tuple(_formats.FORMATS), metavar="FORMAT", help="see below")
    parser.add_argument("-o", "--output", metavar="OUT", type=_file_name, help="write there instead of standard output")
    parser.add_argument("--task", metavar="ID", type=task_id, help="only the actions of one task; the first characters of its id do")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall",
                        help="the time that is shown, or shown first where a format takes both (default wall)")
    return parser


def _file_name(text):
    if not text:
        raise argparse.ArgumentTypeError("an empty text; give a file name")
    return text


def main(argv=None, out=None):
    """The exit status: 0 converted, 1 nothing to convert, 2 unreadable or wrong use."""
    options = make_parser().parse_args(argv)
    return _record_file.read("convert", options.file, lambda stream, name: _convert(stream, name, options, out))


def _is_same(stream, path):
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except OSError:
        return False


class _Selection:
    """The trees that are asked for, made as the writer takes them."""

    def __init__(self, records, task):
        self._records = records
        self._task = task
        self.count = 0

    def __iter__(self):
        frames = Frames()
        for record in self._records:
            if self._task is None or is_about(record, self._task):
                self.count += 1
                yield Tree(record, frames)


def _convert(stream, name, options, out):
    if options.file != "-" and options.output is not None and _is_same(stream, options.output):
        return _record_file.fail("convert", "the output is the input file")
    if options.output is not None and os.path.isdir(options.output):
        return _record_file.fail("convert", f"{options.output} is a folder; name a file in it with -o")
    task = options.task
    reader = _wire.open_reader(stream, name, needle=task.encode("utf-8", "replace") if task is not None else None)
    writer = _formats.writer(options.to)
    selection = _Selection(reader, task)
    # The first record is taken before anything is written: what is no file of records leaves the output alone.
    trees = iter(selection)
    first = next(trees, None)
    if first is None:
        return _nothing(reader, name, task)
    with _output(options, writer, out) as target:
        if target is None:
            return _record_file.fail("convert", f"{options.to} is binary and standard output is a terminal; name a file with -o")
        writer.write(_chain(first, trees), target, options.clock)
    _tell_losses(reader)
    return 0


def _chain(first, rest):
    yield first
    yield from rest


def _nothing(reader, name, task):
    if reader.records and task is not None:
        _record_file.no_such_task("convert", task, name)
    else:
        print(f"profilomatic convert: {name} has no record yet", file=sys.stderr)
    _tell_losses(reader)
    return 1


def _tell_losses(reader):
    """What was passed over, in one line."""
    losses = [f"{count} {what}" for count, what in (
        (reader.bad, "not readable"), (reader.too_long, "too long"), (reader.torn, "cut off at the end")) if count]
    if losses:
        print(f"profilomatic convert: passed over: {', '.join(losses)}", file=sys.stderr)


class _Target:
    """An open stream, whose errors name it."""

    def __init__(self, stream, name):
        self._stream = stream
        self._name = name

    def write(self, data):
        with _record_file.named(self._name):
            return self._stream.write(data)

    def flush(self):
        with _record_file.named(self._name):
            self._stream.flush()

    def close(self):
        with _record_file.named(self._name):
            self._stream.close()


@contextlib.contextmanager
def _output(options, writer, out):
    """A binary stream; None for a binary format on a terminal. A file appears whole or not at all."""
    if out is not None:
        yield out
        return
    path = options.output
    if path is None or path == "-":
        stream = _record_file.standard(sys.stdout, "standard output")
        if writer.BINARY and stream.isatty():
            yield None
            return
        target = _Target(stream.buffer, "standard output")
        yield target
        target.flush()
        return
    if os.path.exists(path) and not os.path.isfile(path):
        with contextlib.closing(_Target(open(path, "wb"), path)) as target:  # a pipe, /dev/null
            yield target
        return
    path = os.path.realpath(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".profilomatic-", dir=os.path.dirname(path))
    except OSError as error:
        error.filename = options.output  # the user has not heard of the other one
        raise
    try:
        with contextlib.closing(_Target(open(descriptor, "wb"), options.output)) as target:
            yield target
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _mode(path):
    """What the file has, or a new one would have: temporary files are private."""
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


if __name__ == "__main__":
    sys.exit(main())
