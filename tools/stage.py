#!/usr/bin/env python3
"""Stage the Python package for the tests: real folders, files as links to the sources.

`stage.py SOURCE TARGET` mirrors SOURCE into TARGET. Links let an edit show at once; the folders are
real, so that the built _core and the byte code stay out of the source tree. Files that are not links
(the extension module) are left alone; links and folders whose source has gone are removed.
"""

import os
import shutil
import sys

SKIPPED = {"__pycache__"}


def stage(source, target):
    """Mirror one folder; return how many links were made or changed."""
    changed = 0
    os.makedirs(target, exist_ok=True)
    wanted = set()
    for entry in os.scandir(source):
        if entry.name in SKIPPED or entry.name.endswith((".pyc", ".so")):
            continue
        wanted.add(entry.name)
        path = os.path.join(target, entry.name)
        if entry.is_dir():
            if os.path.islink(path):
                os.unlink(path)
            changed += stage(entry.path, path)
            continue
        link = os.path.abspath(entry.path)
        if os.path.islink(path) and os.readlink(path) == link:
            continue
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(link, path)
        changed += 1
    for entry in os.scandir(target):
        if entry.name in wanted or entry.name in SKIPPED:
            continue
        if entry.is_symlink():
            os.unlink(entry.path)
            changed += 1
        elif entry.is_dir():
            shutil.rmtree(entry.path)
            changed += 1
    return changed


def main(argv):
    if len(argv) != 3 or not os.path.isdir(argv[1]):
        print("usage: stage.py SOURCE-FOLDER TARGET-FOLDER", file=sys.stderr)
        return 2
    stage(argv[1], argv[2])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
