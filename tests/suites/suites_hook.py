"""Loaded by every interpreter of a peer suite's environment, by a .pth file: wraps applications from outside.

`tools/suites.py` runs a suite once with SUITES_WRAP=0 and once with 1. With 1 the places where a framework or a test
client meets a WSGI callable are patched as their modules are imported, and the profiler runs with a destination. Both
times unittest's results can be written to SUITES_RESULTS, for runners that write no JUnit file.

Nothing here imports profilomatic before there is something to wrap.
"""

import atexit
import importlib.util
import json
import os
import sys

_profilomatic = None


def wrap(app):
    global _profilomatic
    if _profilomatic is None:
        import profilomatic

        _profilomatic = profilomatic
        profilomatic.configure(max_actions_per_run=0, max_overhead=0.2)
        profilomatic.add_destination(profilomatic.file_destination(os.devnull))
        atexit.register(tell_stats)
    return _profilomatic.wsgi.wrap(app)


def tell_stats():
    """What was profiled, for the proof that anything was: one line for each process."""
    _profilomatic.flush(10)
    details = _profilomatic._backend.load().engine_info()["details"]
    told = {"actions": _profilomatic.stats()["actions"], "faults": details["faults"]}
    with open(os.environ["SUITES_STATS"], "a") as f:
        f.write(json.dumps(told) + "\n")


def wrap_argument(owner, name, at):
    """The callable `name` of a module or class gets its argument `at` wrapped."""
    function = getattr(owner, name)

    def patched(*args, **names):
        args = list(args)
        if len(args) > at and callable(args[at]):
            args[at] = wrap(args[at])
        return function(*args, **names)

    patched.__name__ = name
    patched.__doc__ = function.__doc__
    setattr(owner, name, patched)


def wrap_method(owner, name):
    """The method is a WSGI application itself."""
    setattr(owner, name, wrap(getattr(owner, name)))


def wsgiref_validate(module):
    """On both sides of the validator: it checks what the wrapper does to either."""
    validator = module.validator
    module.validator = lambda application: wrap(validator(wrap(application)))


def django_test_client(module):
    """The test client calls Django without WSGI: its handler becomes the body of an application."""
    call = module.ClientHandler.__call__

    def __call__(self, environ):
        answers = []

        def app(environ, start_response):
            answers.append(call(self, environ))
            start_response("%d %s" % (answers[0].status_code, answers[0].reason_phrase), list(answers[0].items()))
            return []

        wrap(app)(environ, lambda *args: None)
        return answers[0]

    module.ClientHandler.__call__ = __call__


PATCHES = {
    "werkzeug.test": lambda module: wrap_argument(module, "run_wsgi_app", 0),
    "werkzeug.serving": lambda module: wrap_argument(module.BaseWSGIServer, "__init__", 3),
    "flask.app": lambda module: wrap_method(module.Flask, "wsgi_app"),
    "bottle": lambda module: wrap_method(module.Bottle, "wsgi"),
    "wsgiref.validate": wsgiref_validate,
    "wsgiref.handlers": lambda module: wrap_argument(module.BaseHandler, "run", 1),
    "wsgiref.simple_server": lambda module: wrap_argument(module.WSGIServer, "set_app", 1),
    "django.core.handlers.wsgi": lambda module: wrap_method(module.WSGIHandler, "__call__"),
    "django.contrib.staticfiles.handlers": lambda module: wrap_method(module.StaticFilesHandler, "__call__"),
    "django.test.client": django_test_client,
}


def note_results(module):
    """unittest.result: a line for each test and how it ended. A subtest that fails is its test's failure."""
    def note(name, word):
        added = getattr(module.TestResult, name)

        def patched(self, test, *args):
            if name != "addSubTest" or args[1] is not None:
                subject = args and name == "addSubTest" and args[0] or test
                with open(os.environ["SUITES_RESULTS"], "a") as f:
                    f.write("%s %s\n" % (word, subject.id().replace("\n", " ")))
            return added(self, test, *args)

        setattr(module.TestResult, name, patched)

    for name, word in (("addSuccess", "passed"), ("addFailure", "failed"), ("addError", "failed"), ("addSkip", "skipped"),
                       ("addExpectedFailure", "expected"), ("addUnexpectedSuccess", "unexpected"), ("addSubTest", "failed")):
        note(name, word)


class Finder:
    """Patches a module right after it has run."""

    def __init__(self, patches):
        self.patches = patches

    def find_spec(self, name, path=None, target=None):
        patch = self.patches.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


def install():
    patches = {}
    if os.environ.get("SUITES_RESULTS"):
        patches["unittest.result"] = note_results
    if os.environ.get("SUITES_WRAP") == "1":
        patches.update(PATCHES)
    for name in [name for name in patches if name in sys.modules]:
        patches.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, Finder(patches))


install()
