"""Builds profile records as the engine would: a script of what ran is sampled at a fixed period.

    action = Script("GET", "/cart").run([SERVER, CART], 0.030, cpu=0.030).message("cart:loaded", items=3)
    line = json.dumps(action.record(period=0.010, phase=0.004))

Everything is exact and repeatable: times are integers of microseconds, the phase of the first sample is given.
"""

import datetime
import json

EPOCH = datetime.datetime(2026, 3, 1, 9, 30, 0, tzinfo=datetime.timezone.utc)


def frame(file, function, line):
    return (file, function, line)


def moment(us):
    return (EPOCH + datetime.timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Script:
    """What one action did, step by step."""

    def __init__(
        self, method="GET", route="/", task="00000000-0000-4000-8000-000000000000", start=0.0, **fields
    ):
        self.task = task
        self.start_us = round(start * 1e6)
        self.fields = {
            "type": route,
            "kind": "wsgi",
            "outcome": "succeeded",
            "method": method,
            "route": route,
            **fields,
        }
        self.steps = []

    def run(self, stack, wall, cpu=None):
        self.steps.append(("run", stack, round(wall * 1e6), round((wall if cpu is None else cpu) * 1e6)))
        return self

    def message(self, kind, stack=(), **fields):
        self.steps.append(("message", stack, kind, fields))
        return self

    def record(self, period=0.010, phase=0.005, engine="native", source="shop", pid=4711, overhead=0.0031, later=None):
        """later: (seconds, the period from then on)."""
        period_us, next_us, wanted_us = round(period * 1e6), round(phase * 1e6), 0
        root = _Node(None, self.start_us)
        now = cpu_now = last = last_cpu = 0
        samples = 0
        for step in self.steps:
            if step[0] == "message":
                _, stack, kind, fields = step
                root.message(
                    stack, self.start_us + now, {"message_type": kind, "task_uuid": self.task, **fields}
                )
                continue
            _, stack, wall, cpu = step
            while next_us <= now + wall:
                cpu_at = cpu_now + (cpu * (next_us - now) // wall if wall else 0)
                root.sample(stack, next_us - last, cpu_at - last_cpu, self.start_us + next_us)
                last, last_cpu = next_us, cpu_at
                if later is not None and next_us >= later[0] * 1e6:
                    period_us = round(later[1] * 1e6)
                wanted_us += period_us
                next_us += period_us
                samples += 1
            now += wall
            cpu_now += cpu
        root.self_us += now - last
        root.self_cpu += max(0, cpu_now - last_cpu)
        data = root.data()
        data["start_time"], data["end_time"] = moment(self.start_us), moment(self.start_us + now)
        return {
            "task_uuid": self.task,
            "thread": 140001,
            "thread_name": "worker-1",
            "source": source,
            "pid": pid,
            **data,
            "action": self.fields,
            "profiler": {
                "engine": engine,
                "period": wanted_us / samples / 1e6 if samples else period,
                "samples": samples,
                "missed": {},
                "overhead": {"cpu": samples * 20e-6, "fraction": overhead},
                "truncated": {},
            },
            "children": data.get("children", []),
        }


class _Node:
    def __init__(self, place, at):
        self.place, self.first, self.last = place, at, at
        self.self_us = self.self_cpu = self.hits = 0
        self.children, self.current, self.fields = [], {}, None

    def sample(self, stack, wall, cpu, at):
        node = self
        node.hits += 1
        for place in stack:
            node = node._child(place, at)
            node.hits += 1
            node.last = at
        node.self_us += wall
        node.self_cpu += cpu

    def message(self, stack, at, fields):
        node = self
        for place in stack[:-1]:
            node = node._child(place, at)
        child = _Node(stack[-1] if stack else None, at)
        child.fields = fields
        node.children.append(child)
        node.current = {}

    def _child(self, place, at):
        child = self.current.get(place)
        if child is None:
            child = self.current[place] = _Node(place, at)
            self.children.append(child)
        return child

    def data(self):
        children = [child.data() for child in self.children]
        data = {}
        if self.place:
            file, function, line = self.place
            data.update(instruction=f"{file}:{function}:{line}", file=file, function=function, line=line)
        data["time"] = self.self_us / 1e6 + sum(c["time"] for c in children)
        data["self_time"] = self.self_us / 1e6
        data["cpu_time"] = self.self_cpu / 1e6 + sum(c["cpu_time"] for c in children)
        data["self_cpu_time"] = self.self_cpu / 1e6
        data["hits"] = self.hits
        data["start_time"], data["end_time"] = moment(self.first), moment(self.last)
        if children:
            data["children"] = children
        if self.fields is not None:
            data["message"] = self.fields
        return data


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


SHOP_SOURCES = {
    "shop/views.py": {
        12: "return render('cart.html', cart=load_cart(user))",
        20: "return render('home.html', teaser=teaser())",
        31: "receipt = json.dumps(order.as_dict())",
    },
    "shop/cart.py": {7: "rows = db.query(CART_SQL, user.id)", 15: "total = sum(price(row) for row in rows)"},
    "shop/pricing.py": {44: "if not re.match(voucher.pattern, code):", 52: "return base * factor"},
}
SERVER = [
    ("/srv/venv/lib/python3.12/site-packages/flask/app.py", "Flask.wsgi_app", 1511),
    ("/srv/venv/lib/python3.12/site-packages/flask/app.py", "Flask.full_dispatch_request", 917),
    ("/srv/venv/lib/python3.12/site-packages/flask/app.py", "Flask.dispatch_request", 902),
]
JSON = [
    ("/usr/lib/python3.12/json/__init__.py", "dumps", 231),
    ("/usr/lib/python3.12/json/encoder.py", "JSONEncoder.encode", 200),
    ("/usr/lib/python3.12/json/encoder.py", "JSONEncoder.iterencode", 258),
]


def own(file, function, line):
    return (f"/srv/app/{file}", function, line)


CART = [own("shop/views.py", "cart", 12)]
HOME = [own("shop/views.py", "home", 20)]
ORDER = [own("shop/views.py", "order", 31)]
QUERY = CART + [own("shop/cart.py", "load_cart", 7)]
TOTAL = CART + [own("shop/cart.py", "load_cart", 15)]
PRICE = TOTAL + [own("shop/pricing.py", "price", 52)]
VOUCHER = TOTAL + [
    own("shop/pricing.py", "check_voucher", 44)
]  # the planted line: two of a hundred carts meet it


def shop_day(carts=200):
    """Records of a shop in which /cart mostly computes a total, /home waits, /order spends its time in json, and in
    one cart of fifty the planted line takes 0.4 s."""
    records = []
    for i in range(carts):
        phase = (i * 3 % 10 + 0.5) / 1000
        task = f"{i:08x}-0000-4000-8000-00000000c0de"
        cart = Script("GET", "/cart", task, start=i * 0.5, status=200)
        cart.run(SERVER, 0.002).run(SERVER + QUERY, 0.012, cpu=0.001).run(SERVER + TOTAL, 0.010).run(
            SERVER + PRICE, 0.020
        )
        if i % 50 == 17:
            cart.message("voucher:used", stack=SERVER + VOUCHER, code="SPRING")
            cart.run(SERVER + VOUCHER, 0.400)
        cart.run(SERVER + CART, 0.003)
        records.append(cart.record(phase=phase))
        home = Script("GET", "/", f"{i:08x}-0000-4000-8000-000000000e0e", start=i * 0.5 + 0.1, status=200)
        records.append(home.run(SERVER + HOME, 0.015, cpu=0.002).record(phase=phase, pid=4712))
        if i % 10 == 3:
            failed = i % 40 == 3
            order = Script(
                "POST",
                "/order",
                f"{i:08x}-0000-4000-8000-0000000000a0",
                start=i * 0.5 + 0.2,
                status=500 if failed else 200,
                outcome="failed" if failed else "succeeded",
            )
            records.append(
                order.run(SERVER + ORDER + JSON, 0.080).run(SERVER + ORDER, 0.004).record(phase=phase)
            )
    return records


def write_sources(folder):
    """The shop's sources below a folder, for --source-root."""
    for name, lines in SHOP_SOURCES.items():
        path = folder / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        last = max(lines)
        path.write_text(
            "".join(f"    {lines[i]}\n" if i in lines else "\n" for i in range(1, last + 1)), encoding="utf-8"
        )
    return folder
