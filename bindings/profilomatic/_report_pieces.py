"""What all parts of the text report are made of: titles, places in code, source lines, flowing facts."""

from ._terminal import clean, clip, clip_left, width


class Pieces:
    """Writes to a Terminal. `sources` finds source text, `shortener` shows paths."""

    def __init__(self, terminal, sources, shortener):
        self.out = terminal
        self.sources = sources
        self.shortener = shortener

    def title(self, title, hint=""):
        self.out.line()
        self.out.line(self.out.paint(title, "title") + ("  " + self.out.paint(hint, "dim") if hint else ""))

    def spot(self, place):
        """file:line, as printed; "" for a place without a file."""
        if not place.file:
            return ""
        return self.shortener.show(place.file) + (f":{place.line}" if place.line else "")

    def where(self, place, columns):
        """file:line function in at most so many columns, painted; the function gives way before the line number."""
        if place is None or not place.file:
            return clip(
                clean(place.function) if place is not None and place.function else "(no Python frame)",
                columns,
            )
        where = clip_left(self.spot(place), columns)
        name = clean(place.function).replace(".<locals>", "")
        room = columns - width(where) - 1
        function = " " + clip(name, room) if name and room >= min(4, width(name)) else ""
        return self.out.paint(where, "bold") + function

    def charged(self, place, columns, leaf):
        """where(), for a table of the user's lines: says so when library code stands there, as no line of theirs called for it."""
        if leaf or not place.in_library:
            return self.where(place, columns)
        note = " (library)"
        return self.where(place, columns - len(note)) + self.out.paint(note, "dim")

    def source_of(self, place):
        return self.sources.line(place.file, place.line) if place is not None else ""

    def source(self, place, indent, columns, least=None):
        """The text of a line, on a line of its own. What does not fit begins at `least`, further left, rather than being cut."""
        text = self.source_of(place)
        if text:
            if least is not None and indent + width(text) > columns:
                indent = least
            self.out.line(" " * indent + self.out.paint(clip(text, columns - indent), "cyan"))

    def waits(self, wall, cpu):
        return max(0.0, 1 - cpu / wall) if wall > 0 else 0.0

    def flow(self, parts):
        """Parts joined by dots, broken into lines where the width ends; what is wider alone is cut, but for painted ones, which are short."""
        parts = [part if "\x1b" in part else clip(part, self.out.columns) for part in parts]
        for line in _lines(parts, " · ", self.out.columns, self.out.columns):
            self.out.line(line)

    def sentence(self, start, clauses, indent, style=None):
        """`start` and the clauses behind it, broken between clauses where the width ends; lines after the first are indented."""
        room = self.out.columns - width(bare(start))
        for number, line in enumerate(_lines(clauses, "; ", room, self.out.columns - indent)):
            line = clip(line, self.out.columns - indent) if number else clip(line, room)
            self.out.line((" " * indent if number else start) + (self.out.paint(line, style) if style else line))


def _lines(parts, joint, first, others):
    """The parts joined to as few lines as their widths allow."""
    lines, room = [], first
    for part in parts:
        joined = f"{lines[-1]}{joint}{part}" if lines else part
        if lines and width(bare(joined)) <= room:
            lines[-1] = joined
            continue
        if lines:
            lines[-1] += joint.rstrip() if joint == "; " else ""
            room = others
        lines.append(part)
    return lines


def bare(text):
    """The text without the colours that paint added: for measuring."""
    if "\x1b" not in text:
        return text
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
