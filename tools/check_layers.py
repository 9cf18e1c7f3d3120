#!/usr/bin/env python3
"""Check that every C file includes only what its floor may use.

The floors are base < profiles < {sampler, destinations} < actions < middleware < bindings. A floor may use
only floors below it, and actions does not use destinations: the engine joins them. Checked here, file by file:

- quoted includes are written from the root and lead to a floor that is allowed and that the folder's
  CMakeLists.txt names in USES, so that a unit test which links is a proof;
- Python.h and its private headers stay in bindings/ext, uv.h and OpenSSL in destinations,
  msgpack in profiles/formats/msgpack.c;
- malloc and its kin are called in base/alloc.c only;
- every C file opens with a comment that says what it decides;
- a file over 400 lines is reported, unless its opening comment says why (a warning, not a failure).

`check_layers.py [ROOT]` prints one line a fault and exits 1 when there is any.
"""

import os
import re
import sys

ABOVE = {
    # floor: (folder, floors it may use)
    "base": ("base", ()),
    "profiles": ("profiles", ("base",)),
    "sampler": ("sampler", ("base", "profiles")),
    "destinations": ("destinations", ("base", "profiles")),
    "actions": ("actions", ("base", "profiles", "sampler")),
    "middleware": ("middleware", ("base", "profiles", "sampler", "actions")),
    "engine": ("bindings/engine", ("base", "profiles", "sampler", "destinations", "actions", "middleware")),
    "ext": ("bindings/ext", ("base", "profiles", "sampler", "destinations", "actions", "middleware", "engine")),
}

# Third-party headers: (pattern of the include, files or folders that may have it, what to call it).
THIRD_PARTY = (
    (re.compile(r"^(Python\.h|structmember\.h|frameobject\.h|internal/|pycore_|cpython/|greenlet)"),
     ("bindings/ext/",), "CPython's headers"),
    (re.compile(r"^(uv\.h|uv/)"), ("destinations/",), "libuv"),
    (re.compile(r"^openssl/"), ("destinations/",), "OpenSSL"),
    (re.compile(r"^zlib\.h$"), ("destinations/", "profiles/"), "zlib"),
    (re.compile(r"^msgpack(\.h|/)"), ("profiles/formats/msgpack.c",), "msgpack"),
)

# What CMake may link each library to; `threads` is not a layer matter.
THIRD_PARTY_LIBS = {
    "uv": ("destinations",),
    "openssl": ("destinations",),
    "zlib": ("destinations", "profiles"),
    "msgpack": ("profiles",),
}

ALLOCATORS = re.compile(
    r"(?<![\w.>])(malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf|vasprintf|aligned_alloc|posix_memalign)\s*\(")
ALLOCATOR_FILES = ("base/alloc.c",)

MAX_LINES = 400
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
CMAKE_CALL = re.compile(r"\b(pom_library|pom_python_module)\s*\(([^)]*)\)")
SIZE_REASON = re.compile(r"\b(lines|length|one file|single file)\b", re.IGNORECASE)


def blank(text, strings=True):
    """Replace comments (and strings) by spaces, keeping the line structure."""

    def spaces(match):
        found = match.group(0)
        if not strings and found[0] in "\"'":
            return found
        return re.sub(r"[^\n]", " ", found)

    return COMMENT_OR_STRING.sub(spaces, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def floor_of(path):
    """The floor that owns a path written from the root, or None."""
    for floor, (folder, _) in ABOVE.items():
        if path.startswith(folder + "/"):
            return floor
    return None


def read_cmake_lists(text):
    """Parse a folder's pom_library or pom_python_module call: {keyword: [words]} with key "" for the name."""
    text = re.sub(r"#[^\n]*", "", text)
    match = CMAKE_CALL.search(text)
    if match is None:
        return None
    lists, key = {"": [], "SOURCES": [], "USES": [], "LIBS": []}, ""
    for word in match.group(2).split():
        if word in ("SOURCES", "USES", "LIBS"):
            key = word
        else:
            lists[key].append(word.strip('"'))
    return lists


class Checker:
    def __init__(self, root):
        self.root = root
        self.faults = []
        self.warnings = []
        self.files = 0

    def fault(self, path, line, text):
        self.faults.append("%s:%d: %s" % (path, line, text))

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as f:
            return f.read()

    def run(self):
        for floor, (folder, below) in ABOVE.items():
            if os.path.isdir(os.path.join(self.root, folder)):
                uses = self.check_cmake(floor, folder, below)
                for path in self.c_files(folder):
                    self.check_file(path, floor, below, uses)
        return self

    def c_files(self, folder):
        for here, folders, names in os.walk(os.path.join(self.root, folder)):
            folders.sort()
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(here, name), self.root).replace(os.sep, "/")

    def check_cmake(self, floor, folder, below):
        """Check a folder's CMakeLists.txt; return the floors that it says it uses."""
        path = folder + "/CMakeLists.txt"
        if not os.path.exists(os.path.join(self.root, path)):
            self.fault(path, 1, "is missing")
            return set(below)
        lists = read_cmake_lists(self.read(path))
        if lists is None:
            self.fault(path, 1, "has no pom_library or pom_python_module call")
            return set(below)
        if floor != "ext" and lists[""] != [floor]:
            self.fault(path, 1, "defines %s, not %s" % (" ".join(lists[""]) or "nothing", floor))
        for used in lists["USES"]:
            if used not in below:
                self.fault(path, 1, "%s may not use %s" % (floor, used))
        for lib in lists["LIBS"]:
            if lib in THIRD_PARTY_LIBS and floor not in THIRD_PARTY_LIBS[lib]:
                self.fault(path, 1, "%s may not link %s" % (floor, lib))
        listed = {folder + "/" + source for source in lists["SOURCES"]}
        present = {p for p in self.c_files(folder) if p.endswith(".c")}
        for source in sorted(present - listed):
            self.fault(path, 1, "does not list %s" % source)
        for source in sorted(listed - present):
            self.fault(path, 1, "lists %s, which does not exist" % source)
        return set(lists["USES"])

    def check_file(self, path, floor, below, uses):
        self.files += 1
        text = self.read(path)
        self.check_includes(path, floor, below, uses, blank(text, strings=False))
        if path not in ALLOCATOR_FILES:
            code = blank(text)
            for match in ALLOCATORS.finditer(code):
                self.fault(path, line_of(code, match.start()), "calls %s; only base/alloc.c may" % match.group(1))
        if path.endswith(".c") and not text.lstrip("\ufeff \t\r\n").startswith(("/*", "//")):
            self.fault(path, 1, "does not open with a comment that says what it decides")
        lines = text.count("\n")
        if lines > MAX_LINES and not self.head_gives_reason(text):
            self.warnings.append("%s: %d lines, and its head does not say why" % (path, lines))

    @staticmethod
    def head_gives_reason(text):
        match = re.match(r"\s*(/\*.*?\*/|(?://[^\n]*\n\s*)+)", text, re.DOTALL)
        return bool(match and SIZE_REASON.search(match.group(1)))

    def check_includes(self, path, floor, below, uses, text):
        for match in INCLUDE.finditer(text):
            quote, name = match.groups()
            line = line_of(text, match.start())
            for pattern, places, called in THIRD_PARTY:
                if pattern.match(name) and not path.startswith(places):
                    self.fault(path, line, "includes %s; %s belongs in %s" % (name, called, " or ".join(places)))
            if quote == "<":
                if floor_of(name):
                    self.fault(path, line, "includes <%s>; ours are written in quotes" % name)
                continue
            target = floor_of(name)
            if target is None:
                if not (floor == "ext" and THIRD_PARTY[0][0].match(name)):
                    self.fault(path, line, 'includes "%s", which is not written from the root' % name)
            elif target == floor:
                if not os.path.exists(os.path.join(self.root, name)):
                    self.fault(path, line, 'includes "%s", which does not exist' % name)
            elif target not in below:
                self.fault(path, line, 'includes "%s": %s may not use %s' % (name, floor, target))
            elif target not in uses:
                self.fault(path, line, 'includes "%s", but CMakeLists.txt does not say USES %s' % (name, target))
            elif not os.path.exists(os.path.join(self.root, name)):
                self.fault(path, line, 'includes "%s", which does not exist' % name)


def main(argv):
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    root = argv[1] if len(argv) > 1 else here
    if not os.path.isdir(root):
        print("usage: check_layers.py [ROOT]", file=sys.stderr)
        return 2
    checker = Checker(root).run()
    for warning in checker.warnings:
        print("warning: " + warning)
    for fault in checker.faults:
        print(fault)
    if checker.faults:
        print("layers: %d faults in %d files" % (len(checker.faults), checker.files))
        return 1
    print("layers: %d files, no faults" % checker.files)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
