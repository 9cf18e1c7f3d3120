"""Fixtures of the command line's tests: commands run in this process, or as a user runs them."""

import io
import os
import subprocess
import sys

import pytest

from profilomatic import report


@pytest.fixture
def show(capsys):
    """Runs `profilomatic report` in this process: (exit status, output, errors)."""

    def run(*arguments):
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
        status = report.main([str(a) for a in arguments], out)
        out.flush()
        return status, out.buffer.getvalue().decode("utf-8"), capsys.readouterr().err

    return run


@pytest.fixture
def command():
    """Runs Python with arguments in a process of its own; the package is the one that this process imported."""

    def run(*arguments, cwd=None, stdin=b"", env=None, timeout=300):
        import profilomatic

        environment = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("PROFILOMATIC_") or k == "PROFILOMATIC_PURE"
        }
        package_parent = os.path.dirname(os.path.dirname(os.path.abspath(profilomatic.__file__)))
        environment["PYTHONPATH"] = package_parent
        environment.update(env or {})
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            input=stdin,
            env=environment,
            capture_output=True,
            timeout=timeout,
        )

    return run
