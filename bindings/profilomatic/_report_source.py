"""Files named in a record: whose code it is, how to show the path, and the text of a line.

The record may come from another machine, interpreter or year: everything here goes by the look of the path, reads
only regular files of a sane size, and finds nothing rather than failing.
"""

import io
import os
import re
import stat
import tokenize

from ._terminal import clean

_LIBRARY = re.compile(r".*/(?:site|dist)-packages/")
_STDLIB = re.compile(
    r".*/(?:lib(?:32|64)?/(?:python|pypy)\d[\d.]*t?|lib-python/\d[\d.]*|python\d+\.zip)/"
    r"|[a-z]:/(?:.*/)?python\d*/lib/",  # of Windows only: elsewhere it is the folder lib of somebody's Python code
    re.IGNORECASE,
)
_ARCHIVE = re.compile(r"(.+\.(?:zip|egg|pyz|whl))/(.+)")
_OURS = re.compile(r"(?:^|.*/)(profilomatic/(?:_\w+|asgi|check|eliot|logging|report|run_profiled|wsgi)\.py)$")
_LINE_END = re.compile(r"\r\n|\r|\n")
_MAX_FILE = 8 << 20
_MAX_FILES = 512


def name_of_library_file(file):
    """The path as importable name ("json/encoder.py") when the file is library code, else None."""
    if file.startswith("<"):
        return file
    path = file.replace("\\", "/")
    match = _LIBRARY.match(path) or _STDLIB.match(path)
    if match:
        return path[match.end() :]
    match = _OURS.match(path)
    return match.group(1) if match else None


def _common_start(lists):
    first, last = min(lists), max(lists)  # the others lie between
    same = 0
    while same < len(first) and first[same] == last[same]:
        same += 1
    return first[:same]


class Shortener:
    """Shows paths short: library code by its importable name, other files below their common folder (`root`)."""

    def __init__(self, files, own=()):
        self.own = own
        folders = []
        for file in files:
            if self._library(file) is None:
                path = file.replace("\\", "/")
                if "/" in path:
                    folders.append(path.rsplit("/", 1)[0].split("/"))
        # The last common folder stays visible: "shop/cart.py" tells more than "cart.py".
        self.root = "/".join(_common_start(folders)[:-1]) if folders else ""

    def _library(self, file):
        return None if any(text in file for text in self.own) else name_of_library_file(file)

    def show(self, file):
        name = self._library(file)
        if name is None:
            name = file.replace("\\", "/")
            if self.root and name.startswith(self.root + "/"):
                name = name[len(self.root) + 1 :]
        return clean(name)


class Sources:
    """Texts of source lines. `root` is a folder that holds a copy of the sources; None reads them where they were."""

    def __init__(self, root=None, enabled=True):
        self.root = root
        self.enabled = enabled
        self._files = {}
        self._modified = {}  # when, for what was read where the record says; a copy below `root` has a time of its own

    def line(self, file, number):
        """The text of a line, cleaned and without indentation; "" when there is none to be had."""
        if not self.enabled or not number or number < 1 or not file:
            return ""
        lines = self._lines(file)
        return clean(lines[number - 1].strip()) if number <= len(lines) else ""

    def changed_since(self, moment):
        """The files whose text was shown and which were written after that moment: their lines may have moved. None: not known."""
        return [] if moment is None else sorted(file for file, modified in self._modified.items() if modified > moment)

    def _lines(self, file):
        if file not in self._files:
            if len(self._files) >= _MAX_FILES:
                return ()
            self._files[file] = self._read(file)
        return self._files[file]

    def _read(self, file):
        if "\x00" in file:
            return ()
        for path in self._copies(file):
            lines = _read_file(path)
            if lines:
                return lines
        path = _place_of(file)
        lines = _read_file(path) if path is not None else ()
        if not lines:
            match = _ARCHIVE.match(file.replace("\\", "/"))
            path = match.group(1) if match else None
            lines = _read_archive(*match.groups()) if match else ()
        if lines and not file.startswith("<"):
            self._modified[file] = _modified(path)
        return lines

    def _copies(self, file):
        """/srv/app/shop/cart.py is looked for as ROOT/srv/app/shop/cart.py, ROOT/app/shop/cart.py, and so on."""
        if self.root:
            parts = [p for p in file.replace("\\", "/").split("/") if p not in ("", ".", "..")]
            for start in range(len(parts)):
                yield os.path.join(self.root, *parts[start:])


def _place_of(file):
    """Where a file of a record lies on this machine; None for code that has no file."""
    if file.startswith("<frozen ") and file.endswith(">"):
        name = file[len("<frozen ") : -1]
        if re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return os.path.join(os.path.dirname(os.__file__), *name.split(".")) + ".py"
    return None if file.startswith("<") else file


def _modified(path):
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _read_file(path):
    try:
        # Only regular files: a record could name a pipe or a device.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
            return ()
        with open(path, "rb") as file:
            return _split(file.read(_MAX_FILE))
    except (OSError, ValueError):
        return ()


def _read_archive(archive, member):
    import zipfile

    try:
        if not stat.S_ISREG(os.stat(archive).st_mode):
            return ()
        with zipfile.ZipFile(archive) as file:
            known = file.getinfo(member)
            return _split(file.read(known)) if known.file_size <= _MAX_FILE else ()
    except Exception:  # any file may have such a name, and each way of packing fails in its own way
        return ()


def _split(data):
    if b"\x00" in data:
        return ()
    try:
        text = data.decode(tokenize.detect_encoding(io.BytesIO(data).readline)[0], "replace")
    except (LookupError, SyntaxError, UnicodeDecodeError):
        text = data.decode("utf-8", "replace")
    return _LINE_END.split(
        text
    )  # splitlines() would also split at form feeds and other letters that Python does not count
