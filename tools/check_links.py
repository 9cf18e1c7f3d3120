#!/usr/bin/env python3
"""Check that relative links in the Markdown documents lead to files and headings that exist."""

import os
import re
import sys

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
SKIPPED = {".git", ".venv", "build", "node_modules", "__pycache__"}


def anchors(text):
    """The anchors that a reader's browser makes of a document's headings."""
    found = set()
    for heading in re.findall(r"^#+\s+(.*?)\s*$", FENCE.sub("", text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
        found.add(slug)
    return found


def check(root):
    faults, documents = [], 0
    for here, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED)
        for name in sorted(names):
            if not name.endswith(".md"):
                continue
            documents += 1
            path = os.path.join(here, name)
            with open(path, encoding="utf-8") as f:
                text = f.read()
            for target in LINK.findall(FENCE.sub("", text)):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                place = os.path.normpath(os.path.join(here, file)) if file else path
                if not os.path.exists(place):
                    faults.append("%s: %s leads nowhere" % (os.path.relpath(path, root), target))
                elif anchor and place.endswith(".md"):
                    with open(place, encoding="utf-8") as f:
                        if anchor not in anchors(f.read()):
                            faults.append("%s: %s has no such heading" % (os.path.relpath(path, root), target))
    return faults, documents


def main(argv):
    root = argv[1] if len(argv) > 1 else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    faults, documents = check(root)
    for fault in faults:
        print(fault)
    print("links: %d documents, %d faults" % (documents, len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
