"""Runs a program of programs.py, or of a file beside it, in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent


def run(program, *arguments, timeout=300, file="programs.py", malloc=None):
    """malloc: the interpreter's, where nobody has chosen another one (a sanitizer's own)."""
    import profilomatic

    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(profilomatic.__file__).parent.parent))
    if malloc is not None:
        environment.setdefault("PYTHONMALLOC", malloc)
    finished = subprocess.run([sys.executable, "-X", "faulthandler", str(FOLDER / file), program, *arguments], timeout=timeout,
                              env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr[-4000:]
    return json.loads(finished.stdout.splitlines()[-1])
