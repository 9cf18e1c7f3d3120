"""Plain values of the pure twin: field values, exceptions, ids, moments, query strings and route names.

Everything here takes hostile input (a request's headers, a user's objects) and gives bounded, JSON-able, well-formed
output without ever raising an Exception of its own: only what a signal handler of the program's raises meanwhile passes.
"""

import os
import re
import time

from . import _interrupts, _scrub

TEXT_MAX = 4096  # characters of one text
KEY_MAX = 256
DEPTH_MAX = 8  # nesting of fields: a record nests 2 x 120 levels at most, and orjson fails at 254
ITEMS_MAX = 1000  # entries of all containers of one message together
QUERY_MAX = 2048
ROUTES_MAX = 1000

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1


def text(value, limit=TEXT_MAX):
    """A str without lone surrogates, of at most `limit` characters."""
    if len(value) > limit:
        value = value[:limit] + "\u2026"
    if value.isascii():
        return str(value) if type(value) is not str else value
    return value.encode("utf-8", "replace").decode("utf-8")


def display(value):
    """Text of a WSGI environ, which carries bytes as latin-1: decoded for people."""
    if value.isascii():
        return text(value)
    try:
        return text(value.encode("latin-1").decode("utf-8", "replace"))
    except UnicodeEncodeError:
        return text(value)


def as_text(value):
    """str() of anything, whatever its class does."""
    try:
        return text(str(value))
    except Exception as error:
        if _interrupts.is_programs(error):
            raise
        return "<unprintable %s>" % type(value).__name__


def described(error):
    """The name and the text of an exception: what is kept of it, since the object itself keeps its frames."""
    kind = type(error)
    module = kind.__module__
    name = kind.__qualname__ if module == "builtins" else "%s.%s" % (module, kind.__qualname__)
    return as_text(name), as_text(error)


secrets = _scrub.Scrub()  # of the process; the option's


def set_scrub(words):
    global secrets
    secrets = _scrub.Scrub(words)


class _Room:
    __slots__ = ("left", "cut", "secrets")

    def __init__(self, secrets):
        self.left = ITEMS_MAX
        self.cut = 0
        self.secrets = secrets


_OPEN = _scrub.Scrub()


def encode_fields(fields, ours=False):
    """A deep copy of a dict of fields in JSON-able values, and how many values were cut. ours: no field is secret."""
    if not fields:
        return {}, 0
    room = _Room(_OPEN if ours else secrets)
    return _encode(fields, 0, room), room.cut


def _encode(value, depth, room):
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        if len(value) > TEXT_MAX:
            room.cut += 1
        return text(value)
    if kind is int:
        return value if _INT_MIN <= value <= _INT_MAX else hex(value)
    if kind is float:
        return value
    # By type and not by isinstance(), which asks the object for its __class__.
    try:
        if issubclass(kind, (dict, list, tuple, set, frozenset)):
            if depth >= DEPTH_MAX:
                room.cut += 1
                return "..."
            return _encode_container(value, kind, depth, room)
        if issubclass(kind, int):
            return _encode(int(value), depth, room)
        if issubclass(kind, float):
            return float(value)
        if issubclass(kind, (bytes, bytearray)):
            room.cut += len(value) > TEXT_MAX
            return text(bytes(value[:TEXT_MAX]).decode("utf-8", "backslashreplace"))
    except Exception as error:
        if _interrupts.is_programs(error):
            raise
        # Else its class overrides what we called; str() is the last try.
    return as_text(value)


def _encode_container(value, kind, depth, room):
    if issubclass(kind, dict):
        result = {}
        for key, item in list(dict.items(value)):
            if room.left <= 0:
                room.cut += 1
                break
            room.left -= 1
            key = key if type(key) is str else as_text(key)
            room.cut += len(key) > KEY_MAX
            secret = room.secrets.is_secret(key)
            result[text(key, KEY_MAX)] = _scrub.MASK if secret else _encode(item, depth + 1, room)
        return result
    result = []
    for item in list(value):
        if room.left <= 0:
            room.cut += 1
            break
        room.left -= 1
        result.append(_encode(item, depth + 1, room))
    if kind is tuple and len(result) == 2 and _is_secret_name(value[0], room.secrets):
        result[1] = _scrub.MASK
    return result


def _is_secret_name(name, secrets):
    """Of a header: WSGI and ASGI have pairs of name and value."""
    if type(name) is bytes:
        name = name.decode("latin-1")
    return type(name) is str and secrets.is_secret(name)


# ids

_TASK_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/@-]{0,63}\Z")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.DOTALL)


def _dashed(digits):
    return "%s-%s-%s-%s-%s" % (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])


def new_task_uuid():
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return _dashed(raw.hex())


def task_uuid_of(environ):
    """The task id that a request's headers ask for, or None. X-Task-UUID wins over traceparent."""
    given = environ.get("HTTP_X_TASK_UUID")
    if type(given) is str and _TASK_ID.match(given):
        return given
    trace = _trace_of(environ)
    return trace[0] if trace is not None else None


def _trace_of(environ):
    """(task id, parent span, flags) of a valid traceparent, or None."""
    given = environ.get("HTTP_TRACEPARENT")
    match = _TRACEPARENT.match(given) if type(given) is str and len(given) <= 512 else None
    if match is None:
        return None
    version, trace, parent, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None) or trace == "0" * 32 or parent == "0" * 16:
        return None
    return _dashed(trace), parent, int(flags, 16)


class Trace:
    """W3C trace context of an action; the pure twin of middleware/trace.c."""

    __slots__ = ("parent_span", "span", "flags")

    def __init__(self, environ=None, task_uuid=None):
        """Of a request: what came in, where the trace is its task."""
        found = _trace_of(environ) if environ is not None else None
        if found is None or found[0] != task_uuid:
            found = None, None, 1
        _, self.parent_span, self.flags = found
        self.span = None

    def own_span(self):
        """Made when it is about to leave the process: from then on another's record may name it."""
        while self.span is None or not self.span.strip("0"):
            self.span = os.urandom(8).hex()
        return int(self.span, 16)

    def fields(self):
        named = ("parent_span", self.parent_span), ("span", self.span)
        return {name: span for name, span in named if span is not None}


# moments

def moment(wall_ns):
    """ISO 8601 in UTC with microseconds."""
    seconds, rest = divmod(wall_ns, 1000000000)
    return "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ" % (*time.gmtime(seconds)[:6], rest // 1000)


# requests

def scrubbed_query(query):
    """A query string in which the values of secret-looking keys are masked."""
    return secrets.query(text(query, QUERY_MAX))


_MOMENT = re.compile(r"(?:t=)?([0-9]{10}|[0-9]{13}|[0-9]{16}|[0-9]{19})(?:\.([0-9]*))?\Z")


def queue_ns(header, now_wall_ns):
    """From the moment in an X-Request-Start header to now; 0 where there is none to believe. See middleware/queue_time.c."""
    match = _MOMENT.match(header) if header else None
    if match is None:
        return 0
    digits, fraction = match.groups()
    moment_ns = int((digits + (fraction or "")).ljust(19, "0")[:19])
    waited_ns = now_wall_ns - moment_ns
    return waited_ns if 0 < waited_ns <= 3600 * 10**9 else 0


_ID_SEGMENT = re.compile(
    r"(?:(?=[^0-9]*[0-9])[-._:,0-9]+"
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|[0-9a-fA-F]{8,}"
    r"|.*[0-9]{5}.*|.*@.*"
    r"|(?=[^0-9]*[0-9]).{20,})\Z", re.DOTALL)


def masked_path(path):
    """A path in which segments that look like identifiers are `<id>`; what a route is called when nobody says."""
    return "/".join("<id>" if _ID_SEGMENT.match(part) else part for part in path[:512].split("/"))


class RouteNames:
    """Keeps the number of distinct route names bounded for the process."""

    def __init__(self, limit=ROUTES_MAX):
        self._known = set()
        self._limit = limit
        self.others = 0  # how often a name was none of them

    def __len__(self):
        return len(self._known)

    def bounded(self, name):
        if name in self._known:
            return name
        if len(self._known) >= self._limit:
            self.others += 1
            return "<other>"
        self._known.add(name)
        return name
