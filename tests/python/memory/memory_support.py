"""Runs a program of programs.py in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

PROGRAMS = pathlib.Path(__file__).with_name("programs.py")


def run(program, *arguments, timeout=300):
    import profilomatic

    environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(profilomatic.__file__).parent.parent))
    finished = subprocess.run([sys.executable, "-X", "faulthandler", str(PROGRAMS), program, *arguments], timeout=timeout,
                              env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr[-4000:]
    return json.loads(finished.stdout.splitlines()[-1])
