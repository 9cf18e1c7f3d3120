"""Bad weather: storms, dying code, deep recursion, generators, greenlets. No crash, no wrong name; losses are counted."""

import os
import sys

import pytest
from pom_support import run_python

COLLECT = """
    import sys, threading, time
    import profilomatic
    profilomatic.configure(time_granularity=0.001, max_overhead=0.5, max_actions_per_run=0)
    records = []
    profilomatic.add_destination(records.append)

    def nodes(node):
        for child in node.get("children", ()):
            yield child
            yield from nodes(child)

    def functions():
        return {node["function"] for record in records for node in nodes(record)}

    # The engines that take the GIL get it every 5 ms at best; and they see whole stacks, where the other may see a torn one.
    PART = 1 if profilomatic.stats()["engine"] not in ("gil", "pure") else 4

    def sampled(count, work):
        "Works for so many samples, and for as many periods of CPU time: many may be of one place in which this thread stood still."
        until = profilomatic.stats()["samples"]["taken"] + count // PART
        cpu_until = time.process_time() + 0.001 * count / PART
        deadline = time.monotonic() + 240
        while profilomatic.stats()["samples"]["taken"] < until or time.process_time() < cpu_until:
            assert time.monotonic() < deadline, profilomatic.stats()
            for _ in range(20):
                work()

    def walks(count, function, gap_ns=0):
        "The stacks that so many walks saw while another thread did nothing but call the function."
        over, inside = threading.Event(), threading.Event()

        def thread():
            with profilomatic.action("walked"):
                inside.set()
                while not over.is_set():
                    function()

        other = threading.Thread(target=thread)
        other.start()
        inside.wait()
        from profilomatic import _core
        stacks = _core._probe_walks(count, gap_ns)["stacks"]
        over.set()
        other.join()
        return stacks

    def finish():
        assert profilomatic.flush(60), profilomatic.stats()
        assert profilomatic.stop(60)
"""


def weather(body, before="pass"):
    done = run_python("if True:\n    " + before + COLLECT + body, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_code_that_is_compiled_and_dies_in_mid_request_keeps_its_names():
    weather("""
    allowed = {"<module>", "sampled", "work", "spin"}
    number = 0

    def work():
        global number
        number += 1
        name = "born_%d" % number
        allowed.add(name)
        space = {}
        exec(compile("def %s():\\n    total = 0\\n    for n in range(300):\\n        total += n\\n" % name,
                     "<%s>" % name, "exec"), space)
        space[name]()

    with profilomatic.action("exec"):
        sampled(300, work)
    finish()
    seen = functions()
    assert seen <= allowed, seen - allowed
    assert any(name.startswith("born_") for name in seen)
    for record in records:
        for node in nodes(record):
            if node["function"].startswith("born_"):
                assert node["file"] == "<%s>" % node["function"], node
    """)


def test_recursion_to_the_limit():
    weather("""
    def down(depth):
        if depth == 0:
            return bottom()
        return down(depth - 1)

    def bottom():
        return sum(range(200))

    def forever(depth):
        return forever(depth + 1)

    sys.setrecursionlimit(1000)
    with profilomatic.action("deep") as a:
        sampled(50, lambda: down(900))
        for _ in range(20):
            try:
                forever(0)
            except RecursionError:
                a.message(caught=True)
    finish()
    record, = records
    assert functions() <= {"<module>", "sampled", "<lambda>", "down", "bottom", "forever"}, functions()
    assert "down" in functions()
    assert sum(record["profiler"]["truncated"].values()) > 0
    """)


@pytest.fixture
def free_walks(backend):
    if backend != "c" or os.environ.get("PROFILOMATIC_ENGINE") == "gil":
        pytest.skip("nothing runs while the other engines look")


def test_a_frame_that_is_being_made_is_no_frame_yet(free_walks):
    weather("""
    class Thing:
        def __init__(self):
            self.x = 1

    def making():
        for _ in range(200):
            Thing()

    stacks = walks(1000000, making)
    finish()
    assert not {function for stack in stacks for function, line in stack} & {"<unknown>"}, stacks
    assert any("Thing.__init__" in dict(stack) for stack in stacks)
    """)


def test_a_call_is_not_taken_for_that_of_the_last_frame_in_its_place(free_walks):
    weather("""
    def inner():
        for i in (1,):
            yield i

    def outer():
        for i in inner():  # inner's frame is made where outer's was, which the loop has called
            yield i

    def looping():  # soon over: what is called then takes its place
        for _ in range(5):
            for _ in outer():
                pass

    stacks = walks(300000, looping, gap_ns=1000)
    finish()
    calls = {(caller[0], callee[0]) for stack in stacks for caller, callee in zip(stack, stack[1:])}
    assert {call for call in calls if call[1] in ("inner", "outer")} == {("outer", "inner"), ("looping", "outer")}, calls
    """)


def test_generators_and_callbacks_never_swap_their_callers():
    weather("""
    def ping(n):
        for i in range(n):
            yield i

    def pong(n):
        for i in ping(n):
            yield i

    def key(value):
        return -value

    def generators():
        for _ in pong(50):
            pass

    def sorting():
        sorted(range(50), key=key)

    class Thing:
        def __init__(self):
            self.x = 1

    def making():
        for _ in range(30):
            Thing()

    callers = {"ping": {"pong"}, "pong": {"generators"}, "key": {"sorting"}, "Thing.__init__": {"making"},
               "generators": {"work"}, "sorting": {"work"}, "making": {"work"}, "work": {"sampled"},
               "sampled": {"<module>"}}

    def work():
        generators()
        sorting()
        making()

    with profilomatic.action("adversary"):
        sampled(400, work)
    finish()

    def check(node):
        for child in node.get("children", ()):
            if "function" in node:
                assert node["function"] in callers[child["function"]], (node["instruction"], child["instruction"])
            else:
                assert child["function"] == "<module>", child["instruction"]
            check(child)

    check(records[0])
    assert {"ping", "key", "Thing.__init__"} & functions()
    """)


def test_a_begin_and_end_storm_of_eight_threads():
    weather("""
    stop = threading.Event()
    errors = []

    def storm(number):
        def mine():
            return sum(range(100))
        try:
            while not stop.is_set():
                with profilomatic.action("storm-%d" % number) as a:
                    mine()
                    a.message(number=number)
                    with profilomatic.action("inner"):
                        mine()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    finish()
    assert errors == []
    for record in records:
        number = record["action"]["type"].partition("-")[2]
        for node in nodes(record):
            assert node["function"] in ("storm", "storm.<locals>.mine"), node
            message = node.get("message", {})
            assert str(message.get("number", number)) == number
            assert message.get("action_type", "inner") == "inner"
    actions = profilomatic.stats()["actions"]
    assert actions["started"] == actions["profiled"] + actions["shed"] == actions["finished"] + actions["lost"]
    assert actions["lost"] == 0
    """)


def test_threads_that_come_and_go_inside_requests():
    weather("""
    def worker():
        with profilomatic.action("in thread"):
            sum(range(2000))

    def app(environ, start_response):
        start_response("200 OK", [])
        threads = [threading.Thread(target=worker) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield b"x"

    app = profilomatic.wsgi.wrap(app)
    for _ in range(30):
        body = app({"PATH_INFO": "/x"}, lambda *args: None)
        assert list(body) == [b"x"]
        body.close()
    finish()
    kinds = [record["action"]["type"] for record in records]
    assert kinds.count("/x") == 30 and kinds.count("in thread") == 120
    """)


def test_greenlets_that_switch_inside_actions_have_their_own_samples():
    pytest.importorskip("greenlet")
    weather("""
    import greenlet

    def work_of_a():
        return sum(range(300))

    def work_of_b():
        return sum(range(300))

    def taken():
        return profilomatic.stats()["samples"]["taken"]

    until, cpu_until = taken() + 400 // PART, time.process_time() + 0.4 / PART  # see sampled()

    def run(name, work):
        with profilomatic.action(name) as a:
            while taken() < until or time.process_time() < cpu_until:
                for _ in range(5):
                    work()
                main.switch()
                assert profilomatic.current_task_uuid() == a.task_uuid

    main = greenlet.getcurrent()
    running = [greenlet.greenlet(run), greenlet.greenlet(run)]
    running[0].switch("a", work_of_a)
    assert profilomatic.current_task_uuid() is None
    running[1].switch("b", work_of_b)
    while running:
        for each in running:
            each.switch()
        running = [each for each in running if not each.dead]
    finish()
    found = {record["action"]["type"]: {node["function"] for node in nodes(record)} for record in records}
    assert set(found) == {"a", "b"}, found
    assert "work_of_b" not in found["a"] and "work_of_a" not in found["b"], found
    assert "work_of_a" in found["a"] and "work_of_b" in found["b"], found
    """)


@pytest.mark.acceptance("PM1")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="gevent is for CPython")
@pytest.mark.parametrize("order", ["patched first", "patched last"])
def test_gevent_with_everything_patched(order):
    pytest.importorskip("gevent")
    imports = ["from gevent import monkey; monkey.patch_all()", "import profilomatic; profilomatic.stats()"]
    if order == "patched last":
        imports.reverse()
    weather("""
    import gevent

    def work_a():
        return sum(range(2000))

    def work_b():
        return sum(range(2000))

    work = {"/a": work_a, "/b": work_b}

    def handle(environ, start_response):
        start_response("200 OK", [])
        mine = profilomatic.current_task_uuid()
        assert mine is not None
        for _ in range(50 // PART):
            sampled(PART, work[environ["PATH_INFO"]])
            gevent.sleep(0)
            assert profilomatic.current_task_uuid() == mine
        yield environ["PATH_INFO"].encode()

    app = profilomatic.wsgi.wrap(handle)

    def serve(path):
        body = app({"PATH_INFO": path}, lambda *args: None)
        assert list(body) == [path.encode()]
        body.close()
        assert profilomatic.current_task_uuid() is None

    gevent.joinall([gevent.spawn(serve, path) for path in ("/a", "/b") * 3], raise_error=True)
    finish()
    assert sorted(record["action"]["type"] for record in records) == ["/a"] * 3 + ["/b"] * 3
    for record in records:
        own, other = ("work_a", "work_b") if record["action"]["type"] == "/a" else ("work_b", "work_a")
        seen = {node["function"] for node in nodes(record)}
        assert own in seen and other not in seen, seen
    """, before="\n    ".join(imports))
