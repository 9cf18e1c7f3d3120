"""What runs in a pool's thread for a request stands in the request's tree, below the line that waits for it.

Only the native engine looks into such threads. The applications work until enough samples were taken, so no test knows how long that is.
"""

import asyncio
import concurrent.futures
import contextvars
import platform
import sys
import threading
import time
import types

import pytest
from pom_support import PATIENCE, REFUSE, burn, run_python, samples_taken, use_django, walk

import profilomatic

wrap = profilomatic.asgi.wrap
SAMPLES = 20
PLUMBING = {"_bootstrap", "_bootstrap_inner", "_worker", "run_forever", "_run_once"}


@pytest.fixture(autouse=True)
def native_engine(profiles, backend):
    if backend != "c" or profilomatic.stats()["engine"] != "native":
        pytest.skip("only the native engine looks into threads that work for a request")


class until_sampled:
    """Iterates until so many samples more were taken: by then the loop's body is where they are."""

    def __init__(self, count=SAMPLES):
        self.until = samples_taken() + count

    def __iter__(self):
        began = time.monotonic()
        while samples_taken() < self.until and time.monotonic() < began + PATIENCE:
            yield
        until_sampled.seconds = time.monotonic() - began


def sleep_on_this_line():
    for _ in until_sampled():
        time.sleep(0.01)


def work_on_this_line():
    for _ in until_sampled():
        burn(20000)


def name_of(node):
    return node.get("function", "").rpartition(".")[2]


def names(record):
    return {name_of(node) for node in walk(record)}


def share_of(record, function):
    """How much time lies in the function and what it calls, of what the last loop took: a first request imports modules, too."""
    def inside(node):
        if name_of(node) == function:
            return node["time"]
        return sum(inside(child) for child in node.get("children", ()))

    return inside(record) / until_sampled.seconds


def line_of(function, words):
    """The line of a function that holds these words."""
    import inspect

    lines, first = inspect.getsourcelines(function)
    found, = (number for number, text in enumerate(lines, first) if words in text)
    return found


def path_to(node, function, above=()):
    """The names from the root down to the function's first node; None where it is not."""
    for child in node.get("children", ()):
        found = [*above, name_of(child)] if name_of(child) == function else path_to(child, function, [*above, name_of(child)])
        if found:
            return found
    return None


async def send(message):
    pass


def handle(app, path="/"):
    """One request, as a server makes it."""
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        if not messages:
            await asyncio.get_running_loop().create_future()  # the client stays
        return messages.pop()

    return app(scope(path), receive, send)


def scope(path="/"):
    return {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": path,
            "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": [(b"host", b"test")],
            "client": ("192.0.2.7", 4711), "server": ("localhost", 8000)}


def bare_app(function):
    """One that does as little as an application can: the function, and an answer."""
    async def app(scope, receive, send):
        await function()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def ask(app, *paths):
    """Requests of an application, all at the same time."""
    async def main():
        await asyncio.gather(*(handle(app, path) for path in paths or ["/"]))

    asyncio.run(main())


# The pools that there are.

def by_to_thread(function):
    async def in_a_thread():
        await asyncio.to_thread(function)

    return bare_app(in_a_thread)


def by_starlette(function, **options):
    applications = pytest.importorskip("starlette.applications")
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def endpoint(request):
        function()
        return PlainTextResponse("done")

    return applications.Starlette(routes=[Route("/", endpoint)], **options)


def by_starlette_behind_middleware(function):
    """The endpoint's task is not the request's."""
    pytest.importorskip("starlette")
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request, call_next):
        return await call_next(request)

    return by_starlette(function, middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch)])


def by_fastapi(function):
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    @app.get("/")
    def endpoint():
        function()
        return "done"

    return app


def by_django(function):
    pytest.importorskip("django")
    from django.http import HttpResponse
    from django.urls import path

    def endpoint(request):
        function()
        return HttpResponse("done")

    class Urls:
        urlpatterns = [path("", endpoint)]

    use_django(ROOT_URLCONF=Urls, MIDDLEWARE=[])
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()


@pytest.mark.parametrize("function, words", [(sleep_on_this_line, "time.sleep"), (work_on_this_line, "burn(")])
@pytest.mark.parametrize("pool", [by_to_thread, by_starlette, by_starlette_behind_middleware, by_fastapi, by_django])
def test_the_slow_line_in_a_thread_has_most_of_the_requests_time(profiles, pool, function, words):
    app = pool(function)
    ask(wrap(app))
    record = profiles.one()
    assert share_of(record, function.__name__) > 0.5, record
    lines = {node["line"]: node for node in walk(record) if name_of(node) == function.__name__}
    assert max(lines, key=lambda line: lines[line]["time"]) == line_of(function, words)
    assert not names(record) & PLUMBING


@pytest.mark.parametrize("pool, waits", [(by_to_thread, "to_thread"), (by_starlette, "run_in_threadpool")])
def test_what_runs_in_a_thread_stands_below_the_line_that_waits(profiles, pool, waits):
    ask(wrap(pool(sleep_on_this_line)))
    path = path_to(profiles.one(), "sleep_on_this_line")
    assert waits in path[:-1], path
    assert path.index(waits) < len(path) - 1


def cpu_of(record, *functions):
    return sum(node["self_cpu_time"] for node in walk(record) if name_of(node) in functions)


def test_a_thread_that_computes_has_its_time_and_its_cpu_time_in_the_record(profiles):
    used = []

    def work():
        before = time.thread_time()
        for _ in until_sampled(5 * SAMPLES):
            burn(20000)
        used.append(time.thread_time() - before)

    ask(wrap(by_to_thread(work)))
    record = profiles.one()
    assert sum(node["time"] for node in record["children"]) <= record["time"] + 1e-6
    # A look that meets it on a CPU stands for CPU time. On a busy machine few do, and it has little.
    assert cpu_of(record, "work", "burn", "until_sampled.__iter__", "__iter__", "samples_taken") > 0.2 * used[0], record
    assert 0.2 * used[0] < record["cpu_time"] <= record["time"] + 1e-6


def test_a_thread_that_waits_has_no_cpu_time_in_the_record(profiles):
    ask(wrap(by_to_thread(sleep_on_this_line)))
    record = profiles.one()
    slept = sum(node["time"] for node in walk(record) if name_of(node) == "sleep_on_this_line")  # one node a line
    assert cpu_of(record, "sleep_on_this_line") < 0.2 * slept


def test_what_a_thread_computed_for_nobody_is_not_the_next_requests(profiles):
    """The pool has one thread, which is known from a request before, and computes for a second while the next one waits."""
    used = []

    def compute(seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            burn(1000)

    def work():
        before = time.thread_time()
        work_on_this_line()
        used.append(time.thread_time() - before)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        await handle(wrap(by_to_thread(work)))
        nobodys = loop.run_in_executor(None, compute, 1)

        async def wait_and_work():
            while not nobodys.done():
                await asyncio.sleep(0.01)
            await asyncio.to_thread(work)

        await handle(wrap(bare_app(wait_and_work)))

    asyncio.run(main())
    _, second = profiles.flushed(2)
    assert second["cpu_time"] < used[1] + 0.6, (second["cpu_time"], used)


# Whose thread it is.

def test_requests_at_the_same_time_have_a_thread_each(profiles):
    together = threading.Barrier(2)

    def sleep_in_a():
        for _ in until_sampled(2 * SAMPLES):
            time.sleep(0.005)

    def sleep_in_b():
        for _ in until_sampled(2 * SAMPLES):
            time.sleep(0.005)

    async def app(scope, receive, send):
        def work():
            together.wait(PATIENCE)
            (sleep_in_a if scope["path"] == "/a" else sleep_in_b)()
            together.wait(PATIENCE)

        await asyncio.to_thread(work)

    ask(wrap(app), "/a", "/b")
    for record in profiles.flushed(2):
        mine, others = ("sleep_in_a", "sleep_in_b") if record["action"]["path_info"] == "/a" else ("sleep_in_b", "sleep_in_a")
        assert mine in names(record) and others not in names(record)
        assert share_of(record, mine) > 0.3, record


def test_threads_of_one_request_take_turns(profiles):
    together = threading.Barrier(2)

    def first():
        together.wait(PATIENCE)
        sleep_on_this_line()
        together.wait(PATIENCE)

    def second():
        together.wait(PATIENCE)
        sleep_on_this_line()
        together.wait(PATIENCE)

    async def both():
        await asyncio.gather(asyncio.to_thread(first), asyncio.to_thread(second))

    ask(wrap(bare_app(both)))
    record = profiles.one()
    assert {"first", "second"} <= names(record)
    assert sum(node["time"] for node in record["children"]) <= record["time"] + 1e-6


def test_a_thread_with_an_action_of_its_own_is_in_that_ones_record_only(profiles):
    def work():
        with profilomatic.action("of its own", parent=profilomatic.current_task_uuid()):
            sleep_on_this_line()

    ask(wrap(by_to_thread(work)))
    own, request = sorted(profiles.flushed(2), key=lambda record: record["action"]["kind"] == "asgi")
    assert "sleep_on_this_line" in names(own) and "sleep_on_this_line" not in names(request)
    assert "to_thread" in names(request)


def test_a_thread_that_outlives_its_request_is_nobodys(profiles):
    over = threading.Event()

    def left_behind():
        over.wait(PATIENCE)

    async def leave():
        asyncio.get_running_loop().thread = asyncio.ensure_future(asyncio.to_thread(left_behind))
        await asyncio.sleep(0)

    async def wait():
        for _ in until_sampled():
            await asyncio.sleep(0.01)

    async def main():
        await handle(wrap(bare_app(leave)))
        await handle(wrap(bare_app(wait)))
        over.set()
        await asyncio.get_running_loop().thread

    asyncio.run(main())
    _, second = profiles.flushed(2)
    assert "wait" in names(second) and "left_behind" not in names(second)


def test_a_request_that_is_cancelled_leaves_its_thread_alone(profiles):
    begun, over = threading.Event(), threading.Event()

    def go_on():
        for _ in until_sampled():
            time.sleep(0.01)
        begun.set()
        over.wait(PATIENCE)

    async def main():
        request = asyncio.ensure_future(handle(wrap(by_to_thread(go_on))))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        for _ in until_sampled(3):
            await handle(wrap(by_to_thread(lambda: time.sleep(0.01))), "/after")
        over.set()

    asyncio.run(main())
    first, *rest = profiles.flushed()
    assert first["action"]["outcome"] == "aborted" and "go_on" in names(first)
    assert rest and not any("go_on" in names(record) for record in rest)


def test_other_threads_are_nobodys(profiles):
    over = threading.Event()

    def elsewhere():
        over.wait(PATIENCE)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    ask(wrap(by_to_thread(sleep_on_this_line)))
    over.set()
    thread.join()
    assert "elsewhere" not in names(profiles.one())


def test_many_idle_threads_hide_nobody(profiles):
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(100)]
    for thread in threads:
        thread.start()
    try:
        ask(wrap(by_to_thread(sleep_on_this_line)))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    record = profiles.one()
    assert share_of(record, "sleep_on_this_line") > 0.5, record


# What the stack of a thread may look like.

def test_a_function_in_c_leaves_the_line_that_waits_for_it(profiles):
    async def wait():
        for _ in until_sampled():
            await asyncio.to_thread(time.sleep, 0.02)

    ask(wrap(bare_app(wait)))
    seen = names(profiles.one())
    assert "to_thread" in seen and not seen & PLUMBING


def test_a_deep_stack_is_whole(profiles):
    def down(levels):
        if levels:
            down(levels - 1)
        else:
            sleep_on_this_line()

    ask(wrap(by_to_thread(lambda: down(200))))
    record = profiles.one()
    path = path_to(record, "sleep_on_this_line")
    assert path.count("down") >= 50 and "to_thread" in path  # a dict loses the middle of a long chain
    assert "depth" not in record["profiler"]["truncated"]


def test_a_stack_beyond_all_bounds_keeps_its_leaf(profiles):
    def down(levels):
        if levels:
            down(levels - 1)
        else:
            sleep_on_this_line()

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    try:
        ask(wrap(by_to_thread(lambda: down(2500))))
    finally:
        sys.setrecursionlimit(limit)
    record = profiles.one()
    assert record["profiler"]["truncated"].get("depth", 0) > 0
    assert "sleep_on_this_line" in names(record) and "to_thread" in names(record)


def test_generators_and_calls_from_c_are_part_of_the_stack(profiles):
    def slow_generator():
        for _ in until_sampled():
            time.sleep(0.01)
            yield 1

    def outer_generator():
        yield from slow_generator()

    def key(number):
        for _ in outer_generator():
            pass
        return number

    def work():
        sorted([1], key=key)

    ask(wrap(by_to_thread(work)))
    path = path_to(profiles.one(), "slow_generator")
    assert path[-4:] == ["work", "key", "outer_generator", "slow_generator"], path


def test_a_thread_whose_target_is_a_contexts_run_shows_all_that_it_runs(profiles):
    def key(number):
        sleep_on_this_line()
        return number

    def work():
        sorted([1], key=key)

    async def endpoint():
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def work_and_say_so():
            work()
            loop.call_soon_threadsafe(done.set)

        threading.Thread(target=contextvars.copy_context().run, args=(work_and_say_so,)).start()
        await done.wait()

    ask(wrap(bare_app(endpoint)))
    path = path_to(profiles.one(), "sleep_on_this_line")
    assert path[-5:] == ["wait", "work_and_say_so", "work", "key", "sleep_on_this_line"], path


def test_a_stack_that_never_holds_still_is_hardly_ever_torn(profiles):
    """Callers in the tree are ones that call. Of stacks that change each 50 ns 1 of 50 000 is put together from two moments."""
    calls = {"work": {"left", "right"}, "left": {"leaf", "pair"}, "right": {"leaf", "each"}, "each": {"leaf"}, "pair": {"leaf"}, "leaf": set()}

    def leaf():
        return 1

    def pair():
        return leaf() + leaf()

    def each():
        for _ in range(3):
            yield leaf()

    def left():
        return leaf() + pair()

    def right():
        return leaf() + sum(each())

    def work():
        for _ in until_sampled(200):
            for _ in range(300):
                left()
                right()

    ask(wrap(by_to_thread(work)))
    record = profiles.one()
    wrong = sum(child["hits"] for node in walk(record) for child in node.get("children", ())
                if name_of(node) in calls and name_of(child) in calls and name_of(child) not in calls[name_of(node)])
    assert wrong <= 2, record
    assert {"left", "right"} <= names(record)


def test_the_check_finds_threads_where_they_should_be(profiles, monkeypatch):
    from profilomatic import _backend, check

    engine = _backend.load()
    info = engine.engine_info()
    assert info["details"]["request_threads_reason"] is None
    assert [finding.topic for finding in check._engine()[1]] == ["engine"]
    info["details"]["request_threads_reason"] = "of this test"
    monkeypatch.setattr(_backend, "load", lambda: types.SimpleNamespace(engine_info=lambda: info))
    found = check._engine()[1]
    assert [(finding.topic, finding.level) for finding in found] == [("engine", "ok"), ("threads", "degraded")]
    assert "of this test" in found[1].text


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter names system calls by their numbers there")
@pytest.mark.parametrize("refused", ["PROCESS_VM_READV, PROCESS_VM_WRITEV", "PROCESS_VM_WRITEV"])
def test_threads_are_looked_into_where_the_system_calls_are_refused(profiles, refused):
    done = run_python(REFUSE + f"\nrefuse({refused})  # or is not allowed to: then it is the test of every day\n" + ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert "sleeps" in done.stdout.split(), done.stdout


@pytest.mark.skipif(sys.version_info < (3, 14), reason="threads inherit contexts from 3.14 on, when asked to")
def test_threads_that_inherit_a_context_do_not_all_work_for_it(profiles, tmp_path):
    program = tmp_path / "inherit.py"
    program.write_text(INHERIT)
    done = run_python("import runpy, sys; runpy.run_path(%r)" % str(program), PYTHON_THREAD_INHERIT_CONTEXT="1")
    assert done.returncode == 0, done.stderr
    seen = set(done.stdout.split())
    assert "sleeps" in seen and not seen & {"starts_threads", "_worker", "_bootstrap_inner", "idle"}, seen


BEGIN = """
import asyncio, sys, threading, time, profilomatic
profilomatic.configure(max_actions_per_run=0)
records = []
profilomatic.add_destination(records.append)

def sleeps():
    until = profilomatic.stats()["samples"]["taken"] + 20
    while profilomatic.stats()["samples"]["taken"] < until:
        time.sleep(0.01)
"""

END = """
async def nothing(*_):
    pass

scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "root_path": ""}
asyncio.run(profilomatic.asgi.wrap(app)(scope, nothing, nothing))
assert profilomatic.flush(60)
todo = records[:1]
while todo:
    node = todo.pop()
    print(node.get("function", "").rpartition(".")[2])
    todo += node.get("children", ())
profilomatic.stop(60)
"""

ONE_THREAD = BEGIN + """
async def app(scope, receive, send):
    await asyncio.to_thread(sleeps)
""" + END

INHERIT = BEGIN + """
assert sys.flags.thread_inherit_context == 1

def idle(over):
    over.wait()

async def app(scope, receive, send):
    over = threading.Event()
    threading.Thread(target=idle, args=(over,)).start()
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(3)))  # the pool's threads stay, in this context
    await asyncio.to_thread(sleeps)
    over.set()
""" + END
