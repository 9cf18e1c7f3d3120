"""Reading a file of profile records: one JSON object a line, oldest first, however large the file.

One line is held at a time. A line that is torn (the process died while writing, or is writing now), too long or not a
record is counted and passed over. A file in which nothing is a record is refused with one sentence that
says what the file looks like and what to do.
"""

import json

MAX_LINE = 64 << 20  # the engine's own caps keep a record under some 10 MiB
_GIVE_UP = 100  # lines without one record: the file is something else

_EXPECTED = "expected one profile record in JSON per line, as written by profilomatic.file_destination(PATH)"


_MAX_CLIENTS = 1000


class ClientReports:
    """What destinations told a server about call graphs that never reached it: the newest report of each counts."""

    def __init__(self):
        self._newest = {}

    def take(self, record):
        """True when the record is such a report, and no action."""
        action = record.get("action")
        if not isinstance(action, dict) or action.get("kind") != "report" or action.get("type") != "profilomatic:report":
            return False
        client, moment = record["task_uuid"], str(record.get("end_time"))
        known = self._newest.get(client)
        if (known is None and len(self._newest) < _MAX_CLIENTS) or (known is not None and known[0] <= moment):
            self._newest[client] = moment, action.get("dropped")
        return True

    def lost(self):
        """Call graphs by reason."""
        sums = {}
        for _, dropped in self._newest.values():
            for reason, number in dropped.items() if isinstance(dropped, dict) else ():
                if isinstance(number, int) and number > 0:
                    sums[reason] = sums.get(reason, 0) + number
        return sums


class NotRecords(Exception):
    """The file is not ours; the text is for the user."""


class Reader:
    """Iterates over the records (dicts) of a binary stream.

    `lines`, `records`, `bad` (with `first_bad`, a line number), `torn` (0 or 1: the last line) and `too_long` count
    what was met; `clients` has the client reports, which are no records. With `needle` (bytes) only lines that contain it are parsed: a quick first look for one task id.
    """

    UNIT = "line"

    def __init__(self, stream, name, needle=None):
        self.stream = stream
        self.name = name
        self.needle = needle
        self.lines = self.records = self.bad = self.torn = self.too_long = self.passed = 0
        self.first_bad = None
        self.clients = ClientReports()
        self._first_problem = None

    def __iter__(self):
        while True:
            raw = self.stream.readline(MAX_LINE)
            if not raw:
                break
            self.lines += 1
            whole = raw.endswith(b"\n")
            if not whole and len(raw) >= MAX_LINE:
                self._skip_line()
                self.too_long += 1
                continue
            if not raw.strip():
                continue
            if self.needle is not None and self.needle not in raw.lower() and self.records:
                self.passed += 1
                continue
            record, problem = _parse(raw)
            if record is not None and self.clients.take(record):
                continue
            if record is not None:
                self.records += 1
                yield record
                continue
            if not whole and self.records:
                self.torn = 1
                continue
            self.bad += 1
            if self.first_bad is None:
                self.first_bad = self.lines
                self._first_problem = _explain(raw, problem)
            if not self.records and self.bad >= _GIVE_UP:
                break
        if not self.records and (self.bad or self.too_long):
            raise NotRecords(self._not_ours())

    def _skip_line(self):
        while True:
            raw = self.stream.readline(MAX_LINE)
            if not raw or raw.endswith(b"\n"):
                return

    def _not_ours(self):
        if self.first_bad is None:
            return f"{self.name}, line 1: longer than {MAX_LINE >> 20} MiB; {_EXPECTED}"
        return f"{self.name}, line {self.first_bad}: {self._first_problem}"


def task_id(text):
    """What `--task` takes, as it is compared. An empty one (a shell variable that is not set) would be every task."""
    text = text.strip().lower()
    if not text:
        import argparse

        raise argparse.ArgumentTypeError("an empty text; give a task id or its first characters")
    return text


def is_record(value):
    return (
        isinstance(value, dict)
        and isinstance(value.get("task_uuid"), str)
        and "time" in value
        and isinstance(value.get("children", ()), (list, tuple))
    )


def _no_number(name):
    """NaN and Infinity are not JSON, but some writers write them."""
    return None


def _parse(raw):
    try:
        value = json.loads(raw, parse_constant=_no_number)
    except RecursionError:
        return None, "nested too deep"
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        return None, getattr(error, "msg", "not UTF-8 text")
    if is_record(value):
        return value, None
    return None, "no profile record"


def _explain(raw, problem):
    """One sentence: what the line looks like, and the remedy."""
    head = raw[:200].lstrip()
    if raw[:2] == b"\x1f\x8b":
        return "this is a gzip file; unpack it first: gunzip -c FILE | profilomatic report - (or convert -)"
    if raw[:4] == b"PK\x03\x04":
        return f"this is a zip archive; {_EXPECTED}"
    if b"# callgrind format" in head or head.startswith(b"version: 1"):
        return f"this is a callgrind file; open it with kcachegrind; {_EXPECTED}"
    if b"\x00" in raw[:200] or problem == "not UTF-8 text":
        return f"binary data; {_EXPECTED}"
    if head.strip() in (b"{", b"["):
        return f"JSON spread over several lines; {_EXPECTED}. Rewrite it with: jq -c . FILE"
    if problem == "no profile record" and head.startswith(b"["):
        return f"a JSON list; {_EXPECTED}. Rewrite it with: jq -c '.[]' FILE"
    if b'"task_level"' in raw:
        return f"this is an Eliot log, not a profile; {_EXPECTED}, which may be a FileDestination of its own"
    if problem == "no profile record":
        return f"JSON, but without the keys of a profile record (task_uuid, time, children); {_EXPECTED}"
    if head.startswith(b"{"):
        return f"cut or malformed JSON ({problem}); {_EXPECTED}"
    return f"not JSON ({problem}); {_EXPECTED}"
