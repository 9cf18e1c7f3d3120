#!/usr/bin/env python3
"""Print the CPython interpreters that can build and test the extension, one a line.

Each line is `MINOR PATH VERSION`, such as `3.11 /usr/bin/python3.11 3.11.2`; one interpreter for each
minor version that the project supports, pyenv's first, then those on PATH, then what tools/get_python.sh
fetched. An interpreter counts when it is a CPython with the GIL, has its headers and can make a virtual
environment. With `--why` the ones that were passed over are named on stderr, with the reason.

`--optional` prints instead the minor versions that the tests use where they can be had, and `--missing`
those of them that were not found.

Runs on any Python 3.6 or later, because it is what finds the newer ones.
"""

import glob
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MINORS = ("3.11", "3.12", "3.13")
OPTIONAL = ("3.14", "3.15")  # used where they can be had: few systems have them yet

PROBE = """
import os, platform, sys, sysconfig
why = ""
if platform.python_implementation() != "CPython":
    why = "not CPython"
elif sysconfig.get_config_var("Py_GIL_DISABLED"):
    why = "free-threaded build"
elif not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    why = "no Python.h"
else:
    try:
        import ensurepip, venv
    except ImportError:
        why = "no venv or ensurepip"
print("%d.%d" % sys.version_info[:2])
print(platform.python_version())
print(os.path.realpath(sys.executable))
print(why)
"""


def fetched(minor):
    """Where tools/get_python.sh puts it."""
    return os.path.join(ROOT, ".venv", ".pythons", minor, "usr", "bin", "python" + minor)


def candidates(minor, home=None, path=None):
    """Yield the paths to try for one minor version, best first."""
    home = home if home is not None else os.path.expanduser("~")
    root = os.environ.get("PYENV_ROOT") or os.path.join(home, ".pyenv")

    def patch_level(prefix):
        digits = "".join(c for c in prefix.rsplit(".", 1)[1] if c.isdigit())
        return int(digits or 0)

    for prefix in sorted(glob.glob(os.path.join(root, "versions", minor + ".*")), key=patch_level, reverse=True):
        yield os.path.join(prefix, "bin", "python" + minor)
    for folder in (path if path is not None else os.environ.get("PATH", "")).split(os.pathsep):
        yield os.path.join(folder or ".", "python" + minor)
    # A machine whose only python3 is new enough, but has no versioned name.
    generic = shutil.which("python3", path=path)
    if generic:
        yield generic
    yield fetched(minor)


def probe(path):
    """Return (minor, version, real path, reason to pass it over) or None when it does not run."""
    try:
        out = subprocess.run([path, "-I", "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             stdin=subprocess.DEVNULL, timeout=20, universal_newlines=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = out.stdout.splitlines()
    if out.returncode != 0 or len(lines) < 3:
        return None
    return lines[0], lines[1], lines[2], lines[3] if len(lines) > 3 else ""


def find(minors=MINORS + OPTIONAL, home=None, path=None):
    """Return ([(minor, path, version)], [(path, reason)])."""
    found, passed = [], []
    probed = {}
    for minor in minors:
        for candidate in candidates(minor, home, path):
            if not os.access(candidate, os.X_OK):
                continue
            if candidate not in probed:
                probed[candidate] = probe(candidate)
            answer = probed[candidate]
            if answer is None or answer[0] != minor:
                continue
            if answer[3]:
                if (answer[2], answer[3]) not in passed:
                    passed.append((answer[2], answer[3]))
                continue
            found.append((minor, answer[2], answer[1]))
            break
    return found, passed


def main(argv):
    if "--optional" in argv:
        print(" ".join(OPTIONAL))
        return 0
    found, passed = find()
    if "--missing" in argv:
        here = [row[0] for row in found]
        print(" ".join(minor for minor in OPTIONAL if minor not in here))
        return 0
    for row in found:
        print(" ".join(row))
    if "--why" in argv:
        for path, reason in passed:
            print("passed over %s: %s" % (path, reason), file=sys.stderr)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
