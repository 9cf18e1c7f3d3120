"""The options: their names, defaults, ranges and environment variables; shared by both backends.

A value comes from `configure()` if it was given there, else from PROFILOMATIC_<NAME>, else from the table below.
The environment is read at the first use, not at import; a bad value in it warns and keeps the default, because a
variable set for a whole machine must not stop an application from starting. `configure()` is called by a programmer,
so there a bad value is a ValueError, and nothing of that call is applied.
"""

import os

from ._scrub import DEFAULT as SCRUB_DEFAULT
from ._scrub import plain as plain_key

# Accepted names that are not the option's own (the original's code and its README disagree on this one).
ALIASES = {"simultaneous_tasks_profiled": "max_actions_per_run"}

GRANULARITIES = ("file", "method", "line")

# Variables that are no options, without the prefix.
OTHER_VARIABLES = frozenset({"AUTO", "DB_DIR", "DESTINATION", "ENGINE", "PURE", "RUN", "TOKEN"})

_configured = {}
_environment = None


class Bad(Exception):
    """A value outside its range; the table adds the name and the range."""


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Bad
    value = float(value)
    if value != value:
        raise Bad
    return value


def _encodable(text):
    """The text, unless it has lone surrogates: no backend could take it, and what is stored is given to it each time."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Bad from None
    return text


def _max_overhead(value):
    if isinstance(value, str):
        text = value.strip()
        scale = 1.0
        if text.endswith("%"):
            text, scale = text[:-1], 0.01
        try:
            value = float(text) * scale
        except ValueError:
            raise Bad from None
    value = _number(value)
    if not 0.0 < value <= 0.5:
        raise Bad
    return value


def _time_granularity(value):
    if value == "auto":
        return "auto"
    value = _number(value)
    if not 0.0005 <= value <= 10.0:
        raise Bad
    return value


def _code_granularity(value):
    if not isinstance(value, str) or value not in GRANULARITIES:
        raise Bad
    return value


def _boolean(value):
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise Bad


def _max_actions_per_run(value):
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000000:
        raise Bad
    return value


def _partial_every(value):
    value = _number(value)
    if value and not 0.05 <= value <= 86400.0:
        raise Bad
    return value


def _source_name(value):
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise Bad
    return _encodable(value)


def _retention(value):
    if value is None or value == "all":
        return None
    raise Bad


def _scrub(value):
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, bytes, dict)):
        raise Bad
    try:
        patterns = tuple(value)
    except TypeError:
        raise Bad from None
    for pattern in patterns:
        if not isinstance(pattern, str) or not plain_key(_encodable(pattern)).strip():
            raise Bad
    return patterns


def _text_number(text):
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise Bad from None


def _text_granularity(text):
    return "auto" if text.lower() == "auto" else _text_number(text)


def _text_boolean(text):
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise Bad


def _text_scrub(text):
    try:
        return _text_boolean(text)
    except Bad:
        return [part.strip() for part in text.split(",") if part.strip()]


def _same(text):
    return text


def _text_retention(text):
    return None if text.lower() in ("", "all", "none") else text


# name: (default, check of a Python value, conversion of the variable's text, the range in words)
TABLE = {
    "max_overhead": (0.02, _max_overhead, _same,
                     "a fraction above 0 and up to 0.5 (0.02), or a percentage as text ('2%')"),
    "time_granularity": (0.01, _time_granularity, _text_granularity,
                         "seconds from 0.0005 to 10, or 'auto'"),
    "code_granularity": ("line", _code_granularity, _same, "'file', 'method' or 'line'"),
    "store_all_logs": (False, _boolean, _text_boolean, "True or False"),
    "max_actions_per_run": (10, _max_actions_per_run, _text_number,
                            "a whole number from 0 to 1000000 (0: no limit)"),
    "partial_every": (60.0, _partial_every, _text_number, "seconds from 0.05 to 86400, or 0: never"),
    "source_name": (None, _source_name, _same, "a text of 1 to 255 characters (in UTF-8), or None for the host name"),
    "retention": (None, _retention, _text_retention, "None or 'all': every profile is kept"),
    "scrub": (True, _scrub, _text_scrub, "True, False, or a list of further words that mark a key as secret"),
}


def _checked(name, value):
    _, check, _, words = TABLE[name]
    try:
        return check(value)
    except Bad:
        raise ValueError("%s=%r: must be %s" % (name, value, words)) from None


def nearest(name, names):
    """The one of the names that was meant, perhaps; else None."""
    import difflib

    return next(iter(difflib.get_close_matches(name, names, 1)), None)


def _near_miss(name):
    near = nearest(name, [*TABLE, *ALIASES])
    return " (did you mean %r?)" % near if near else ""


def configure(options, stacklevel=2):
    """Checks and stores options; all of them or, on a ValueError, none."""
    accepted = {}
    for given, value in options.items():
        name = ALIASES.get(given, given)
        if name not in TABLE:
            import warnings

            warnings.warn("profilomatic: unknown option %r is ignored%s" % (given, _near_miss(given)),
                          stacklevel=stacklevel + 1)
            continue
        value = _checked(name, value)
        if name in accepted and accepted[name] != value:
            raise ValueError("%s and its other name were given different values" % name)
        accepted[name] = value
    _configured.update(accepted)


def _read_environment():
    found = {}
    for given in list(ALIASES) + list(TABLE):  # an option's own name wins over its alias
        name = ALIASES.get(given, given)
        variable = "PROFILOMATIC_" + given.upper()
        text = os.environ.get(variable)
        if text is None:
            continue
        try:
            found[name] = _checked(name, TABLE[name][2](text.strip()))
        except (Bad, ValueError):
            _warn("%s=%r is ignored: must be %s" % (variable, text, TABLE[name][3]))
    for sentence in unknown_variables():
        _warn(sentence)
    return found


def _warn(sentence):
    """Where warnings are errors (-W error) a line of the log says it: the application starts."""
    import warnings

    try:
        warnings.warn("profilomatic: " + sentence, stacklevel=3)
    except Warning:
        from . import _hosting

        _hosting.say(sentence)


def effective():
    """Every option with the value that holds now, as a user would write it."""
    global _environment
    if _environment is None:
        _environment = _read_environment()
    values = {name: row[0] for name, row in TABLE.items()}
    values.update(_environment)
    values.update(_configured)
    return values


def unknown_variables():
    """A sentence for each variable of the environment that looks like ours and means nothing: a misspelled one, mostly."""
    known = {name.upper() for name in (*TABLE, *ALIASES)} | OTHER_VARIABLES
    for variable in sorted(os.environ):
        name = variable.removeprefix("PROFILOMATIC_")
        if name != variable and name not in known:
            near = nearest(name, known)  # without the prefix, which makes all of them alike
            yield f"the environment variable {variable} means nothing" + (
                f"; did you mean PROFILOMATIC_{near}?" if near else "")


def _host_name():
    try:
        return os.uname().nodename or "localhost"
    except AttributeError:  # not a POSIX system
        return os.environ.get("COMPUTERNAME") or "localhost"


def for_backend():
    """Every option in the form a backend takes."""
    values = effective()
    if values["time_granularity"] == "auto":
        values["time_granularity"] = 0.0
    values["code_granularity"] = GRANULARITIES.index(values["code_granularity"])
    if values["source_name"] is None:
        values["source_name"] = _host_name()
    scrub = values["scrub"]
    if scrub is False:
        values["scrub"] = None
    else:
        extra = () if scrub is True else [plain_key(word) for word in scrub]
        values["scrub"] = list(dict.fromkeys([*SCRUB_DEFAULT, *extra]))
    del values["retention"]  # only "keep all" exists so far, which is what both backends do
    return values
