#!/usr/bin/env python3
"""Print which rows of docs/acceptance.md a test carries, and which none does.

A row is carried by `@pytest.mark.acceptance("PM19", ...)` (or `pytestmark = ...`) in a Python file under tests/,
or by `/* acceptance: PM9, PM10 */` in a C file there. With `--require PM1,PM2` or `--require-file FILE` the exit
code is 1 when one of those rows has no test, or when a test names a row that does not exist.
"""

import argparse
import ast
import os
import re
import sys

ROW = re.compile(r"^\|\s*([A-Z]+[0-9]+)\s*\|\s*(.*?)\s*\|\s*$")
SECTION = re.compile(r"^## (.*?)\s*$")
C_MARK = re.compile(r"/\*+\s*acceptance:\s*([^*]*?)\s*\*/|//\s*acceptance:\s*([^\n]*)")
IDS = re.compile(r"[A-Z]+[0-9]+\b")


def read_rows(text):
    """Return [(section title, [(id, title)])] in the order of the document."""
    sections = []
    for line in text.splitlines():
        heading = SECTION.match(line)
        if heading:
            sections.append((heading.group(1), []))
            continue
        row = ROW.match(line)
        if row and sections:
            sections[-1][1].append(row.groups())
    return sections


def python_marks(source):
    """Yield (line, id) for each string inside a call to `….acceptance(…)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "acceptance":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    for found in IDS.findall(argument.value):
                        yield node.lineno, found


def c_marks(source):
    for match in C_MARK.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        for found in IDS.findall(match.group(1) or match.group(2) or ""):
            yield line, found


def scan(root):
    """Return {id: [places]} over the tests of a tree, and a list of files that do not parse."""
    carried, broken = {}, []
    for here, folders, names in os.walk(os.path.join(root, "tests")):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        # The tests of the tools write made-up marks into made-up trees.
        if os.path.relpath(here, root) == os.path.join("tests", "tools"):
            folders[:] = []
            continue
        for name in sorted(names):
            marks = {".py": python_marks, ".c": c_marks, ".h": c_marks}.get(os.path.splitext(name)[1])
            if marks is None:
                continue
            path = os.path.join(here, name)
            with open(path, encoding="utf-8") as f:
                source = f.read()
            try:
                for line, row in marks(source):
                    carried.setdefault(row, []).append("%s:%d" % (os.path.relpath(path, root), line))
            except SyntaxError as fault:
                broken.append("%s: %s" % (os.path.relpath(path, root), fault))
    return carried, broken


def report(sections, carried, verbose):
    lines = []
    total = done = 0
    for title, rows in sections:
        missing = [row for row in rows if row[0] not in carried]
        total += len(rows)
        done += len(rows) - len(missing)
        lines.append("%s: %d of %d" % (title, len(rows) - len(missing), len(rows)))
        for row, text in rows:
            if row not in carried:
                lines.append("  -     %-5s %s" % (row, text))
            elif verbose:
                lines.append("  test  %-5s %s  (%s)" % (row, text, ", ".join(carried[row][:3])))
    lines.append("acceptance: %d of %d rows carry a test" % (done, total))
    return lines


def main(argv=None):
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=here, help="the tree to read")
    parser.add_argument("--require", default="", metavar="IDS", help="rows that must carry a test, such as PM1,PM2")
    parser.add_argument("--require-file", metavar="FILE", help="the same, from a file")
    parser.add_argument("-q", "--quiet", action="store_true", help="totals and faults only")
    parser.add_argument("-v", "--verbose", action="store_true", help="also name the tests")
    args = parser.parse_args(argv)

    with open(os.path.join(args.root, "docs", "acceptance.md"), encoding="utf-8") as f:
        sections = read_rows(f.read())
    known = {row for _, rows in sections for row, _ in rows}
    required = IDS.findall(args.require)
    if args.require_file:
        with open(args.require_file, encoding="utf-8") as f:
            required += IDS.findall(re.sub(r"#[^\n]*", "", f.read()))

    carried, faults = scan(args.root)
    lines = report(sections, carried, args.verbose)
    print("\n".join([line for line in lines if not line.startswith(" ")] if args.quiet else lines))
    for row in sorted(set(carried) - known):
        faults.append("%s: there is no row %s" % (carried[row][0], row))
    for row in required:
        if row not in known:
            faults.append("required row %s does not exist" % row)
        elif row not in carried:
            faults.append("required row %s carries no test" % row)
    for fault in faults:
        print("acceptance fault: " + fault)
    return 1 if faults and (required or args.require_file) else 0


if __name__ == "__main__":
    sys.exit(main())
