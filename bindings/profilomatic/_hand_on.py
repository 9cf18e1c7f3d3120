"""The settings of `profilomatic run`, for the interpreters in which a reloader or a manager of workers serves.

Django's and werkzeug's reloaders serve in a new interpreter, uvicorn's and hypercorn's managers in several. They start them in one
place each, a function or method, and while that one runs the environment says what to do there: PROFILOMATIC_RUN has the
settings, and PYTHONPATH our _site folder, whose sitecustomize takes both away again before anything of the program runs.

So no other child of the program, and no child of such a server, sees or pays for anything. An environment that is set for good, as
for PROFILOMATIC_AUTO, would make each of them import us.
"""

import contextlib
import functools
import importlib
import json
import os

from . import _after_import, _named, auto
from ._site import FOLDER

VARIABLE = "PROFILOMATIC_RUN"

_STARTERS = {
    "django.utils.autoreload": ("restart_with_reloader",),
    "werkzeug._reloader": ("ReloaderLoop.restart_with_reloader",),
    "uvicorn.supervisors.basereload": ("BaseReload.run",),
    "uvicorn.supervisors.multiprocess": ("Multiprocess.run",),
    "hypercorn.run": ("_populate", "start_processes"),  # the second in older versions
}

gave = False  # this process has started such an interpreter
received = False  # this process is one


def offer(destination, options, wrap, eliot, monitor):
    """From here on such interpreters are told. destination: as PROFILOMATIC_DESTINATION has it."""
    text = json.dumps({"destination": destination, "options": options, "wrap": wrap, "eliot": eliot, "monitor": monitor})
    for module, paths in _STARTERS.items():
        _after_import.call(module, auto.guarded(functools.partial(_hook, text, paths)))


def _hook(text, paths, module):
    path = next((path for path in paths if hasattr(module, path.partition(".")[0])), paths[0])
    *outer, last = path.split(".")
    owner = functools.reduce(getattr, outer, module)
    plain = getattr(owner, last)

    @functools.wraps(plain)
    def telling(*args, **kwargs):
        global gave
        gave = True
        with _environment(text):
            return plain(*args, **kwargs)

    setattr(owner, last, telling)


@contextlib.contextmanager
def _environment(text):
    before = {name: os.environ.get(name) for name in (VARIABLE, "PYTHONPATH")}
    os.environ[VARIABLE] = text
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (FOLDER, before["PYTHONPATH"])))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def receive(text):
    """In the new interpreter, before its program. The destination waits for an application, as with PROFILOMATIC_AUTO."""
    global received
    received = True
    settings = json.loads(text)
    import profilomatic

    profilomatic.configure(**settings["options"])
    _named.name(settings["destination"])
    if settings["wrap"]:
        auto.install()
    if settings["eliot"]:
        _switch_on("eliot", "profilomatic.eliot", "patch")
    if settings["monitor"]:
        _switch_on("prometheus_client", "profilomatic.monitor", "enable_prometheus")


def _switch_on(library, ours, function):
    """When the program imports the library; it may be our module that does so, and then that one is not whole yet."""
    _after_import.call(ours, auto.guarded(lambda module: getattr(module, function)()))
    _after_import.call(library, auto.guarded(lambda module: importlib.import_module(ours)))
