"""Readers of the formats, written from their specifications and sharing nothing with the writers."""

import gzip
import re


# --- pprof ------------------------------------------------------------------------------------------------------------


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """[(field, value)] of one protobuf message; value is int or bytes."""
    at, found = 0, []
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
        elif tag & 7 == 2:
            size, at = _varint(data, at)
            value = data[at:at + size]
            assert len(value) == size
            at += size
        else:
            raise AssertionError("wire type %d" % (tag & 7))
        found.append((tag >> 3, value))
    return found


def _packed(data):
    at, values = 0, []
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def pprof(raw):
    """{"types": [(name, unit)], "samples": [(path of (file, function, line) root first, values, labels)], ...}"""
    message = fields(gzip.decompress(raw))
    texts = [value.decode("utf-8") for field, value in message if field == 6]
    assert texts[0] == ""
    functions, locations = {}, {}
    for field, value in message:
        if field == 5:
            entry = dict(fields(value))
            assert entry[1] not in functions and entry[1] > 0
            functions[entry[1]] = (texts[entry.get(4, 0)], texts[entry[2]])
    for field, value in message:
        if field == 4:
            entry = dict(fields(value))
            line = dict(fields(entry[4]))
            assert entry[1] not in locations and entry[1] > 0
            locations[entry[1]] = functions[line[1]] + (line.get(2, 0),)
    types = [tuple(texts[dict(fields(value)).get(i, 0)] for i in (1, 2)) for field, value in message if field == 1]
    samples = []
    for field, value in message:
        if field == 2:
            parts = fields(value)
            ids = _packed(dict(parts)[1])
            values = _packed(dict(parts)[2])
            assert len(values) == len(types)
            labels = {}
            for part, label in parts:
                if part == 3:
                    label = dict(fields(label))
                    assert texts[label[1]] not in labels
                    labels[texts[label[1]]] = texts[label[2]]
            samples.append((tuple(locations[i] for i in reversed(ids)), values, labels))
    single = {field: value for field, value in message if field in (9, 10, 12, 14)}
    return {"types": types, "samples": samples, "default": texts[single[14]], "time": single.get(9, 0),
            "duration": single.get(10, 0), "period": single.get(12, 0)}


# --- callgrind --------------------------------------------------------------------------------------------------------


class Callgrind:
    """A strict reader of the grammar that the writer uses: any line it does not know is an error."""

    def __init__(self, text):
        assert text.startswith("# callgrind format\nversion: 1\n")
        self.names = {"file": {}, "fn": {}}
        self.own, self.total, self.calls = {}, {}, []
        self.header, self.blocks = {}, []
        file = function = callee_file = callee = None
        calls = None
        for line in text.split("\n")[1:]:
            found = re.fullmatch(r"(version|creator|cmd|positions|event|events|summary|totals): (.*)", line)
            if found:
                self.header.setdefault(found[1], []).append(found[2])
            elif line.startswith("fl="):
                file = callee_file = self._name("file", line[3:])
            elif line.startswith("fn="):
                function = (file, self._name("fn", line[3:]))
                self.blocks.append(function)
                callee_file = file
            elif line.startswith("cfi="):
                callee_file = self._name("file", line[4:])
            elif line.startswith("cfn="):
                callee = (callee_file, self._name("fn", line[4:]))
            elif line.startswith("calls="):
                count, target = line[6:].split(" ")
                assert int(count) > 0 and int(target) >= 0 and callee is not None
                calls = int(count)
            elif line:
                numbers = [int(number) for number in line.split(" ")]
                assert len(numbers) == 4 and min(numbers) >= 0, line
                if calls is None:
                    self._add(self.own, function, numbers[1:])
                else:
                    self.calls.append((function, callee, numbers[0], numbers[1:]))
                calls = None
        # As callgrind_annotate does: a function that is called has what its calls have, another one its own and theirs.
        called = {callee for _, callee, _, _ in self.calls}
        for caller, callee, _, cost in self.calls:
            self._add(self.total, callee, cost)
            if caller not in called:
                self._add(self.total, caller, cost)
        for function, cost in self.own.items():
            if function not in called:
                self._add(self.total, function, cost)

    def _name(self, kind, text):
        number, _, name = re.fullmatch(r"\((\d+)\)( (.*))?", text).groups()
        if name is None:
            return self.names[kind][number]
        assert number not in self.names[kind]
        self.names[kind][number] = text.split(" ", 1)[1]
        return self.names[kind][number]

    @staticmethod
    def _add(table, key, cost):
        entry = table.setdefault(key, [0, 0, 0])
        for index in range(3):
            entry[index] += cost[index]


# --- Chrome's trace events --------------------------------------------------------------------------------------------


def check_nesting(trace):
    """Events "X" of one track nest by their start and the float sum of start and duration; returns actions and calls."""
    tracks, actions, calls = {}, [], []
    for event in trace["traceEvents"]:
        assert event["ph"] in ("X", "i", "M")
        if event["ph"] == "X":
            assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
            assert event["dur"] >= 0 and event["tdur"] >= 0
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
            (actions if event["cat"] == "action" else calls).append(event)
    for events in tracks.values():
        stack = []
        first = min(event["ts"] for event in events)
        for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
            start = event["ts"] - first  # as speedscope does, which is one more chance to round
            while stack and start >= stack[-1]:
                stack.pop()
            assert (event["cat"] == "action") == (not stack), "an action inside another, or a call outside"
            end = start + event["dur"]
            assert not stack or end <= stack[-1], (event, stack)
            stack.append(end)
    return actions, calls


# --- JSON Schema, as much as speedscope's schema uses -----------------------------------------------------------------


def check_schema(value, schema, root=None, where="$"):
    root = root or schema
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return check_schema(value, target, root, where)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            problems = []
            for option in schema[key]:
                try:
                    return check_schema(value, option, root, where)
                except AssertionError as problem:
                    problems.append(str(problem))
            raise AssertionError(f"{where}: none of the options: {problems}")
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool}
    if "type" in schema and not isinstance(schema["type"], list):
        assert isinstance(value, kinds[schema["type"]]), f"{where}: no {schema['type']}"
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r} is none of {schema['enum']}"
    if "const" in schema:
        assert value == schema["const"], where
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            assert name in value, f"{where}: no {name}"
        for name, item in value.items():
            if name in schema.get("properties", {}):
                check_schema(item, schema["properties"][name], root, f"{where}.{name}")
            else:
                assert schema.get("additionalProperties", True) is not False, f"{where}: {name} is not allowed"
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            check_schema(item, schema["items"], root, f"{where}[{index}]")
