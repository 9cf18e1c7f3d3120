"""Reading files of the MessagePack form: cut into batches here, decoded by the C extension.

docs/wire-format.md: a batch begins with twelve bytes that tell its length, so one batch is held at a time. A batch of
another version, or one that makes no sense, is counted and passed over.
"""

MAGIC = b"\x93\xa4pomw"
_HEAD = 12
_MAX_BODY = 64 << 20


class NoReader(Exception):
    """This build cannot read the wire form; the text is for the user."""


class Reader:
    """Iterates over the records (dicts) of a binary stream; counts as `_report_records.Reader` does, in batches."""

    def __init__(self, stream, name, decode=None):
        self.stream = stream
        self.name = name
        self.lines = self.records = self.bad = self.torn = self.too_long = 0
        self._decode = decode or _decoder()

    def __iter__(self):
        while True:
            head = self.stream.read(_HEAD)
            if not head:
                return
            self.lines += 1
            if len(head) < _HEAD or head[:6] != MAGIC or head[7] != 0xC6:
                # Without a length there is no way to the next batch.
                if MAGIC.startswith(head[:6]) and len(head) < _HEAD:
                    self.torn = 1
                else:
                    self.bad += 1
                return
            size = int.from_bytes(head[8:], "big")
            if size > _MAX_BODY:
                self.too_long += 1
                return
            body = self.stream.read(size)
            if len(body) < size:
                self.torn = 1
                return
            try:
                records = self._decode(head + body)
            except ValueError:
                self.bad += 1
                continue
            self.records += len(records)
            yield from records


def _decoder():
    """`_core.read_wire(batch)`: the records of one whole batch as dicts; ValueError when it is none."""
    try:
        from ._core import read_wire
    except ImportError:
        raise NoReader("this is a file in the MessagePack form, which only the C extension reads, and it is missing "
                       "here; `profilomatic check` tells why") from None
    return read_wire
