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

    def source(self, place, indent, columns, mark=""):
        text = self.sources.line(place.file, place.line) if place is not None else ""
        if text:
            self.out.line(
                " " * indent + mark + self.out.paint(clip(text, columns - indent - len(mark)), "cyan")
            )

    def waits(self, wall, cpu):
        return max(0.0, 1 - cpu / wall) if wall > 0 else 0.0

    def flow(self, parts):
        """Parts joined by dots, broken into lines where the width ends."""
        line = ""
        for part in parts:
            joined = f"{line} · {part}" if line else part
            if line and width(bare(joined)) > self.out.columns:
                self.out.line(line)
                joined = part
            line = joined
        self.out.line(line)


def bare(text):
    """The text without the colours that paint added: for measuring."""
    if "\x1b" not in text:
        return text
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
