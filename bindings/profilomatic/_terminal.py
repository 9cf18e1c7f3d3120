"""Text for people on a terminal: what may be printed, how wide it is, colours and bars.

Names, paths and messages in a record come from requests and from other machines, so every piece of them passes `clean`
before it is printed: no escape sequence, no line break and no writing-direction mark reaches the terminal.
Without a terminal the same text comes out, plain and 100 columns wide, so that two runs can be compared.
"""

import os
import shutil
import sys
import unicodedata

PLAIN_COLUMNS = 100
_MIN_COLUMNS, _MAX_COLUMNS = 80, 160  # tables break below, eyes get lost above

_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
    "hot": "1;31",
    "title": "1;36",
}
_EIGHTHS = " ▏▎▍▌▋▊▉"


def abandon():
    """After a BrokenPipeError, as of `report FILE | head`: the reader has seen enough, and the interpreter must not flush into
    the pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def clean(text, limit=2000):
    """The text with everything unprintable made visible or blank; never longer than limit."""
    if not isinstance(text, str):
        text = str(text)
    if len(text) > limit:
        text = text[:limit] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def width(text):
    """Columns that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_char_width(c) for c in text)


def _char_width(char):
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clip(text, columns):
    """The text, cut to so many columns, with an ellipsis when something was cut."""
    if width(text) <= columns:
        return text if len(text) <= 4 * columns + 8 else text[: 4 * columns]  # heaps of combining marks
    kept, used = [], 0
    for char in text:
        used += _char_width(char)
        if used > columns - 1:
            break
        kept.append(char)
    return "".join(kept[: 4 * columns]) + "…"


def clip_left(text, columns):
    """As clip, keeping the end: the telling part of a path."""
    if width(text) <= columns:
        return text
    kept, used = [], 0
    for char in reversed(text):
        used += _char_width(char)
        if used > columns - 1:
            break
        kept.append(char)
    return "…" + "".join(reversed(kept))


def pad(text, columns):
    return text + " " * max(0, columns - width(text))


def seconds(value):
    """A duration in at most 7 columns, three significant digits."""
    if value < 0.0000005:
        return "0"
    if value < 0.000995:
        return f"{value * 1e6:.0f} µs"
    if value < 0.00995:
        return f"{value * 1e3:.2f} ms"
    if value < 0.0995:
        return f"{value * 1e3:.1f} ms"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 99.95:
        return f"{value:.1f} s"
    if value < 6000:
        return f"{value:.0f} s"
    if value < 360000:
        return f"{value / 3600:.1f} h"
    return f"{value / 86400:.0f} d"


def percent(share):
    """A share in at most 6 columns; what is not nothing does not read 0%."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1%"
    return f"{value:.1f}%" if value < 99.95 else "100%"


def count(number, noun=""):
    text = f"{number:,}"
    if not noun:
        return text
    plural = "es" if noun.endswith("ch") else "s"
    return f"{text} {noun}" if number == 1 else f"{text} {noun}{plural}"


class Terminal:
    """Where text goes: colours or not, the width, and the letters that the encoding can carry."""

    def __init__(self, stream, color="auto", columns=None):
        self.stream = stream
        tty = _is_tty(stream)
        self.color = color == "always" or (
            color == "auto" and tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        if columns is None:
            columns = shutil.get_terminal_size((PLAIN_COLUMNS, 24)).columns if tty else PLAIN_COLUMNS
        self.columns = min(_MAX_COLUMNS, max(_MIN_COLUMNS, columns))
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.unicode = _can_carry(self.encoding, "█░│├└─╴◆·…µ⋯")

    def paint(self, text, *styles):
        if not self.color or not text:
            return text
        return f"\x1b[{';'.join(_CODES[s] for s in styles)}m{text}\x1b[0m"

    def bar(self, share, columns, waiting=0.0):
        """A bar of `share` of the columns; its part `waiting` (0 to 1) is drawn light."""
        length = min(1.0, max(0.0, share)) * columns
        light = min(1.0, max(0.0, waiting))
        if not self.unicode or light > 0.5 or light * length >= 0.5:
            # Two shades, in whole columns: blocks of an eighth exist only solid.
            full = max(1, round(length)) if length > 0 else 0
            shade = round(full * light)
            solid, eighth = full - shade, ""
        else:
            eighths = max(1, round(length * 8)) if length > 0 else 0
            solid, rest = divmod(eighths, 8)
            shade, eighth = 0, _EIGHTHS[rest] if rest else ""
        blank = " " * (columns - solid - shade - len(eighth))
        return self.paint("█" * solid + eighth, "red") + self.paint("░" * shade, "yellow") + blank

    def line(self, text=""):
        if not self.unicode:
            text = text.translate(_ASCII)
        text = text.rstrip()
        try:
            self.stream.write(text + "\n")
        except UnicodeEncodeError:
            self.stream.write(text.encode(self.encoding, "replace").decode(self.encoding) + "\n")


_ASCII = str.maketrans(
    {
        "│": "|",
        "├": "|",
        "└": "`",
        "─": "-",
        "╴": "-",
        "◆": "*",
        "·": "-",
        "…": "~",
        "µ": "u",
        "⋯": "~",
        "█": "#",
        "░": ".",
    }
)


def _is_tty(stream):
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _can_carry(encoding, text):
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
