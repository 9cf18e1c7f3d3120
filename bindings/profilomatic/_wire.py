"""Reading files of the MessagePack form: cut into batches here, decoded by the C extension.

docs/wire-format.md: a batch begins with twelve bytes that tell its length, so one batch is held at a time. A batch that
was cut (a full disk, a process that died) is counted and passed over: the next one is found by its first bytes. So is one
of another version, or one that makes no sense.
"""

from ._report_records import ClientReports, Reader as LineReader

MAGIC = b"\x93\xa4pomw"
_HEAD = 12
_MAX_BODY = 64 << 20
_CHUNK = 1 << 16


class NoReader(Exception):
    """This build cannot read the wire form; the text is for the user."""


def open_reader(stream, name, needle=None):
    """The reader that fits what the file begins with; `needle` is of use to the one for lines. NoReader."""
    peek = getattr(stream, "peek", None)
    head = b"" if peek is None else peek(len(MAGIC))[:len(MAGIC)]
    if head and MAGIC.startswith(head):  # of a pipe there may be a part of it yet; no line begins so
        return Reader(stream, name)
    return LineReader(stream, name, needle=needle)


class Reader:
    """Iterates over the records (dicts) of a binary stream; counts as `_report_records.Reader` does, in batches."""

    UNIT = "batch"

    def __init__(self, stream, name, decode=None):
        self.stream = stream
        self.name = name
        self.first_bad = None
        self.clients = ClientReports()
        self.lines = self.records = self.bad = self.torn = self.too_long = 0
        self._decode = decode or _decoder()
        self._ahead = b""  # read, not used

    def __iter__(self):
        while True:
            head = self._take(_HEAD)
            if not head:
                return
            self.lines += 1
            if not MAGIC.startswith(head[:len(MAGIC)]) or (len(head) == _HEAD and head[7] != 0xC6):
                self._note_bad()
                self._resume(head)
                continue
            size = int.from_bytes(head[8:], "big")
            if len(head) == _HEAD and size > _MAX_BODY:
                self.too_long += 1
                self._resume(head)
                continue
            body = self._take(size) if len(head) == _HEAD else b""
            whole = len(head) == _HEAD and len(body) == size  # of less than a head the length is not known
            try:
                records = self._decode(head + body) if whole else None
            except ValueError:
                records = None
            if records is not None:
                for record in records:
                    if not self.clients.take(record):
                        self.records += 1
                        yield record
            elif self._resume(head + body) or whole:
                self._note_bad()
            else:
                self.torn = 1

    def _note_bad(self):
        self.bad += 1
        if self.first_bad is None:
            self.first_bad = self.lines

    def _take(self, size):
        """That many bytes, fewer at the end."""
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        while len(taken) < size:
            more = self.stream.read(size - len(taken))
            if not more:
                break
            taken += more
        return taken

    def _resume(self, data):
        """Goes on at the next magic behind the beginning of `data`; False when there is none."""
        data = data[1:] + self._ahead
        while True:
            at = data.find(MAGIC)
            if at >= 0:
                self._ahead = data[at:]
                return True
            more = self.stream.read(_CHUNK)
            if not more:
                self._ahead = b""
                return False
            data = data[-len(MAGIC):] + more


def _decoder():
    """`_core.read_wire(batch)`: the records of one whole batch as dicts; ValueError when it is none."""
    try:
        from ._core import read_wire
    except ImportError:
        raise NoReader("this is a file in the MessagePack form, which only the C extension reads, and it is missing "
                       "here; `profilomatic check` tells why") from None
    return read_wire
