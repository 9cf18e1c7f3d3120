"""What the server around this process does that a profiler must know, found without importing anything of the server's.

Said twice: in one line of the log when profiling is first used (`warn`, called by `_backend`), and as findings of
`profilomatic check`. Only what harms is said: a fork after the application was loaded, for example, does not.
"""

import sys

LOGGER = "profilomatic"


class Caveat:
    """`refuses`: nothing can be profiled here at all; otherwise something comes late."""

    def __init__(self, topic, text, remedy, refuses=False):
        self.topic = topic
        self.text = text
        self.remedy = remedy
        self.refuses = refuses

    def __str__(self):
        return f"{self.text}: {self.remedy}"


def caveats():
    return [caveat for caveat in (_sub_interpreter(), _uwsgi_threads()) if caveat is not None]


def warn():
    """One line of the log for each caveat. The caller sees to it that this happens once."""
    for caveat in caveats():
        say(caveat)


def say(text):
    """One line of the log."""
    try:
        import logging

        logging.getLogger(LOGGER).warning("%s", text)
    except Exception:
        pass  # a broken logging set-up is not ours to report


def in_sub_interpreter():
    """Whether this is not the process's first interpreter. Frames, threads and the GIL are the whole process's, so a
    profiler for each of several interpreters would look at the others' as well."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            module = __import__(name)
            return module.get_current() != module.get_main()
        except (ImportError, AttributeError, RuntimeError):
            continue
    return False


def uwsgi_options():
    """The options that uWSGI was started with, by name; None outside uWSGI."""
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if not isinstance(options, dict):
        return None
    return {_text(name): value for name, value in options.items()}


def uwsgi_has_threads():
    """Whether uWSGI lets go of the GIL between requests."""
    options = uwsgi_options()
    return _is_set(options.get("enable-threads")) or _is_set(options.get("threads"))


def _sub_interpreter():
    if not in_sub_interpreter():
        return None
    where, remedy = "", "run the application in the main interpreter"
    if "mod_wsgi" in sys.modules:
        group = getattr(sys.modules["mod_wsgi"], "application_group", None)
        where = f" of mod_wsgi, for the application group {group!r}" if group else " of mod_wsgi"
        remedy = "set WSGIApplicationGroup %{GLOBAL}"
    elif "uwsgi" in sys.modules:
        where, remedy = " of uWSGI", "set single-interpreter = true"
    return Caveat(
        "sub-interpreter",
        f"this is a sub-interpreter{where}, where nothing can be profiled, and the application runs bare",
        remedy,
        refuses=True,
    )


def _uwsgi_threads():
    if uwsgi_options() is None or uwsgi_has_threads():
        return None
    return Caveat(
        "uWSGI",
        "uWSGI holds the GIL between requests, so that Python threads stand still until the next one: destinations that are"
        " callables, and with another engine than the native one all of them, get the last profiles late",
        "set enable-threads = true",
    )


def _is_set(value):
    return _text(value).lower() not in ("none", "", "0", "false", "no", "off")


def _text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
