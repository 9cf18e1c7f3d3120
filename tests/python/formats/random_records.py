"""Random profile records, exact to the nanosecond: recursion, homonyms, messages, and names that formats trip over."""

import json
import posixpath
import random

FILES = ["/srv/shop/views.py", "/srv/shop/db.py", "/srv/other/db.py", "C:\\shop\\a b.py", "/srv/café/ünïcode.py", "<string>", "a;b.py"]
FUNCTIONS = ["cart", "f", "f_2", "Query.rows", "<module>", "view.<locals>.<lambda>", "a;b", "two\nlines", "tab\there", "(1) odd",
             "café 東京 🎈", "fn=x", "quote\"back\\slash", "12 34", "\u2028sep", "nul\0", "# comment", "calls=1 2", "*", "+3"]
MOMENT = "2026-11-20T%02d:%02d:%02d.%06dZ"


def seconds(ns):
    """As JSON of ours has it: the exact decimal."""
    return ns / 1e9


def moment(us):
    s, us = divmod(us, 10**6)
    return MOMENT % (s // 3600 % 24, s // 60 % 60, s % 60, us)


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.places = [(self.random.choice(FILES), self.random.choice(FUNCTIONS), self.random.randrange(0, 60))
                       for _ in range(self.random.randrange(1, 12))]

    def record(self, start_us, granularity="line"):
        r = self.random
        children = self._children(0, granularity, start_us)
        own = (r.randrange(10**7), r.randrange(10**6))
        wall, cpu = own[0] + sum(c["_wall"] for c in children), own[1] + sum(c["_cpu"] for c in children)
        hits = sum(c["hits"] for c in children) + r.randrange(2)
        record = {
            "task_uuid": "%08x-0000-4000-8000-%012x" % (r.randrange(1 << 32), start_us), "thread": 140000000000000 + r.randrange(3),
            "thread_name": "worker;%d" % r.randrange(3), "source": "shop", "pid": 100 + r.randrange(2),
            "start_time": moment(start_us), "end_time": moment(start_us + wall // 1000),
            "time": seconds(wall), "self_time": seconds(own[0]), "cpu_time": seconds(cpu), "self_cpu_time": seconds(own[1]),
            "hits": hits,
            "action": {"type": "/raw/7", "kind": "wsgi", "outcome": "succeeded", "method": "GET",
                       "route": r.choice(["/cart/<int:id>", "/a;b", "/ü\n", "/"])},
            "profiler": {"engine": "native", "period": 0.01, "samples": hits, "missed": {},
                         "overhead": {"cpu": 1e-05, "fraction": 0.001}, "truncated": {}},
            "children": children,
        }
        return record

    def _children(self, depth, granularity, at):
        r = self.random
        children = []
        for _ in range(r.randrange(0, 5 if depth < 3 else 2)) if depth < 12 else ():
            if r.random() < 0.15:
                children.append({"time": 0.0, "self_time": 0.0, "cpu_time": 0.0, "self_cpu_time": 0.0, "hits": 0,
                                 "start_time": moment(at), "end_time": moment(at), "_wall": 0, "_cpu": 0,
                                 "message": {"message_type": "shop:é", "rows": r.randrange(9), "nested": {"a": [1, None]}}})
                if r.random() < 0.5:
                    file, function, line = r.choice(self.places)
                    children[-1].update(instruction=f"{file}:{function}:{line}", file=file, function=function, line=line)
                continue
            children.append(self._node(depth, granularity, at))
        return children

    def _node(self, depth, granularity, at):
        r = self.random
        file, function, line = r.choice(self.places)
        node = {"file": file}
        if granularity != "file":
            node["function"] = function
        if granularity == "line":
            node["line"] = line
        node = {"instruction": ":".join(map(str, node.values())), **node}
        below = self._children(depth + 1, granularity, at)
        wall = r.choice([0, 1, r.randrange(10**4), 10**7, r.randrange(10**9)])
        cpu = r.choice([0, wall, wall // 3])
        node["_wall"] = wall + sum(c["_wall"] for c in below)
        node["_cpu"] = cpu + sum(c["_cpu"] for c in below)
        node.update({"time": seconds(node["_wall"]), "self_time": seconds(wall), "cpu_time": seconds(node["_cpu"]),
                     "self_cpu_time": seconds(cpu), "hits": r.randrange(3) + sum(c["hits"] for c in below),
                     "start_time": moment(at), "end_time": moment(at)})
        if below:
            node["children"] = below
        return node


def clean(value):
    """Without the keys that only the makers know."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items() if not key.startswith("_")}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value


def records(seed, count=6):
    maker = Maker(seed)
    made, at = [], 36_000_000_000
    for _ in range(count):
        record = maker.record(at, maker.random.choice(["line", "line", "line", "method", "file"]))
        made.append(clean(record))
        at += maker.random.randrange(2_000_000)
    return made


def write(path, made):
    path.write_text("".join(json.dumps(record) + "\n" for record in made), encoding="utf-8")
    return path


# --- the truth, computed apart from the converters --------------------------------------------------------------------


def ns(value):
    return round(value * 1e9)


def action_label(record):
    return "GET " + record["action"]["route"]


def paths(record):
    """{path of (file, function, line): [hits, wall, cpu]} of the record, the action first; recursive on purpose."""
    sums = {}

    def visit(node, path):
        own_hits = node["hits"] - sum(c["hits"] for c in node.get("children", ()))
        cost = sums.setdefault(path, [0, 0, 0])
        for index, value in enumerate((own_hits, ns(node["self_time"]), ns(node["self_cpu_time"]))):
            cost[index] += value
        for child in node.get("children", ()):
            if "message" not in child:
                visit(child, path + ((child["file"], child.get("function", ""), child.get("line")),))

    visit(record, (("", action_label(record), None),))
    return {path: cost for path, cost in sums.items() if any(cost)}


def function_of(frame):
    file, function, _ = frame
    return file, function or posixpath.basename(file)


def totals(made):
    """({function: [hits, wall, cpu] of its own}, {function: the same with all below, once}) over all records."""
    own, total = {}, {}
    for record in made:
        for path, cost in paths(record).items():
            functions = [function_of(frame) for frame in path]
            for table, keys in ((own, functions[-1:]), (total, set(functions))):
                for key in keys:
                    entry = table.setdefault(key, [0, 0, 0])
                    for index in range(3):
                        entry[index] += cost[index]
    return own, total


def moment_us(text):
    """Microseconds since midnight."""
    return ((int(text[11:13]) * 60 + int(text[14:16])) * 60 + int(text[17:19])) * 10**6 + int(text[20:26])
