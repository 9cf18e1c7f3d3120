"""Runs at the start of each interpreter that has this folder on PYTHONPATH, and profiles its application if PROFILOMATIC_AUTO=1, or
if it serves for a program under `profilomatic run` (_hand_on.py).

A sitecustomize of the host's own, which this one hides, runs first.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _run_the_hidden_one():
    import importlib.machinery
    import importlib.util

    path = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _take_settings():
    """What `profilomatic run` hands on, or None; the program and its children see nothing of it."""
    text = os.environ.pop("PROFILOMATIC_RUN", None)
    if text is not None:
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if _HERE in path:
            path.remove(_HERE)  # once: it may be the user's as well
        if path:
            os.environ["PYTHONPATH"] = os.pathsep.join(path)
        else:
            os.environ.pop("PYTHONPATH", None)
        if _HERE in sys.path and _HERE not in path:
            sys.path.remove(_HERE)
    return text


def _install(settings):
    if settings is not None:
        # Where the one who hands on has it from may be no place that a new interpreter looks at, such as its folder.
        package = os.path.dirname(os.path.dirname(_HERE))
        sys.path.append(package)
        try:
            from profilomatic import _hand_on
        finally:
            sys.path.remove(package)
        _hand_on.receive(settings)
    if os.environ.get("PROFILOMATIC_AUTO", "").strip().lower() in ("1", "true", "yes", "on"):
        from profilomatic import auto

        auto.install()


_settings = _take_settings()
try:
    _run_the_hidden_one()
finally:
    try:
        _install(_settings)
    except Exception as error:
        print("profilomatic: not profiled: %s" % (error,), file=sys.stderr)
