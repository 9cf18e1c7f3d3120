"""Which engine does the work: the C extension `_core`, or its pure Python twin `_pure`.

Chosen at the first use and not at import, so that `import profilomatic` costs next to nothing. PROFILOMATIC_PURE=1
forces the twin; an extension that cannot be imported leads to it too, and `reason` keeps why for `profilomatic check`.
In a sub-interpreter it is the twin with its engine locked: everything can be called, and nothing ever starts.
"""

import _thread
import os

from . import _hosting, _options

module = None  # the backend, once something needed it
reason = None  # why it is not the C extension; None when it is
action_class = None
watchers = []  # called without arguments when options have changed

_lock = _thread.allocate_lock()


def _choose():
    if _hosting.in_sub_interpreter():
        from . import _pure

        _pure.refuse()
        return _pure, "this is a sub-interpreter"
    if os.environ.get("PROFILOMATIC_PURE", "").strip().lower() in ("1", "true", "yes", "on"):
        from . import _pure

        return _pure, "PROFILOMATIC_PURE is set"
    try:
        from . import _core
    except ImportError as error:
        from . import _pure

        _hosting.say("the C extension is not usable (%s): the engine in pure Python works instead, which costs more and sees "
                     "less; `profilomatic check` says what is missing, PROFILOMATIC_PURE=1 that this is wanted" % error)
        return _pure, "the extension is not usable: %s" % error
    return _core, None


def load():
    """The backend module, with the options applied."""
    global module, reason, action_class
    if module is not None:
        return module
    with _lock:
        if module is None:
            from . import _action

            chosen, reason = _choose()
            chosen.apply_options(_options.for_backend())
            action_class = _action.action_class(chosen)
            module = chosen
            _hosting.warn()
    return module


def apply_options():
    """Tells a backend that runs already about changed options."""
    if module is not None:
        module.apply_options(_options.for_backend())
    for watcher in list(watchers):
        watcher()


def _after_fork_in_child():
    global _lock
    _lock = _thread.allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
