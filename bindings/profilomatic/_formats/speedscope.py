"""speedscope's own format: sampled profiles that share frames.

Each action is two profiles, "… wall" and "… cpu", the chosen clock first; weights are own times in nanoseconds, so a
profile's end value is the action's time. The frames are written last, after all profiles: JSON does not mind, and the
actions need not be kept. Memory: one action at a time, and the distinct frames.
"""

import json

from ._tree import name_of

BINARY = False
EXTENSION = ".speedscope.json"
SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def write(trees, out, clock):
    numbers = {}
    frames = []
    put = lambda text: out.write(text.encode("ascii"))
    put('{"$schema":%s,"exporter":"profilomatic","activeProfileIndex":0,"profiles":[' % json.dumps(SCHEMA))
    separator = "\n"
    name = None
    for tree in trees:
        title = _title(tree)
        name = title if name is None else "profilomatic"
        stacks = []
        for row, stack in tree.walk():
            for frame in stack:
                if frame not in numbers:
                    numbers[frame] = len(frames)
                    frames.append(_frame(frame))
            stacks.append((row, [numbers[frame] for frame in stack]))
        for one in ("wall", "cpu") if clock == "wall" else ("cpu", "wall"):
            own = tree.clock(one)
            used = [(row, stack) for row, stack in stacks if own[row]]
            profile = {"type": "sampled", "name": f"{title} {one}", "unit": "nanoseconds", "startValue": 0,
                       "endValue": sum(own), "samples": [stack for _, stack in used],
                       "weights": [own[row] for row, _ in used]}
            put(separator + json.dumps(profile, separators=(",", ":")))
            separator = ",\n"
    put('\n],"name":%s,"shared":{"frames":[' % json.dumps(name or "profilomatic"))
    separator = "\n"
    for frame in frames:
        put(separator + json.dumps(frame, separators=(",", ":")))
        separator = ",\n"
    put("\n]}}\n")


def _title(tree):
    task = tree.record.get("task_uuid")
    return f"{tree.frames[0].function} {task}" if isinstance(task, str) and task else tree.frames[0].function


def _frame(frame):
    """Frames of one function on different lines are different frames: the line is in the name, where it is seen."""
    data = {"name": name_of(frame) if frame.line is None else f"{name_of(frame)}:{frame.line}"}
    if frame.file:
        data["file"] = frame.file
    if frame.line is not None:
        data["line"] = frame.line
    return data
