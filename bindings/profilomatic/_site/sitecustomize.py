"""Runs at the start of each interpreter that has this folder on PYTHONPATH, and profiles its application if PROFILOMATIC_AUTO=1.

A sitecustomize of the host's own, which this one hides, runs first.
"""

import os
import sys


def _run_the_hidden_one():
    import importlib.machinery
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _install():
    if os.environ.get("PROFILOMATIC_AUTO", "").strip().lower() not in ("1", "true", "yes", "on"):
        return
    try:
        from profilomatic import auto

        auto.install()
    except Exception as error:
        print("profilomatic: not profiled: %s" % (error,), file=sys.stderr)


try:
    _run_the_hidden_one()
finally:
    _install()
