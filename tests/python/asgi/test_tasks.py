"""A request whose endpoint is an asyncio task of its own waits where that waits.

Only the native engine looks at what waits. The endpoints wait until enough samples were taken, so no test knows how long that is.
"""

import asyncio
import contextvars
import time
import types

import pytest
from pom_support import PATIENCE, burn_until_sampled, samples_taken, use_django, walk

import profilomatic

wrap = profilomatic.asgi.wrap
SAMPLES = 60


@pytest.fixture(autouse=True)
def native_engine(profiles, backend):
    if backend != "c" or profilomatic.stats()["engine"] != "native":
        pytest.skip("only the native engine looks at what waits")


async def query():
    until, began = samples_taken() + SAMPLES, time.monotonic()
    while samples_taken() < until and time.monotonic() < began + PATIENCE:
        await asyncio.sleep(0.01)
    query.seconds = time.monotonic() - began


async def ask(app):
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        if not messages:
            await asyncio.get_running_loop().create_future()  # the client stays
        return messages.pop()

    async def send(message):
        pass

    await app({"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/",
               "raw_path": b"/", "root_path": "", "query_string": b"", "headers": [(b"host", b"test")],
               "client": ("192.0.2.7", 4711), "server": ("localhost", 8000)}, receive, send)


def time_in(record, function):
    """How much of the record's time lies in the function and what it calls."""
    def inside(node):
        if node.get("function", "").rpartition(".")[2] == function:
            return node["time"]
        return sum(inside(child) for child in node.get("children", ()))

    return inside(record)


def share_of(record, function):
    """That, of what query() took: a first request imports modules, too."""
    return time_in(record, function) / query.seconds


def bare(function):
    async def app(scope, receive, send):
        await function()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


# The ways to wait for a task.

def by_awaiting_it():
    async def endpoint():
        await asyncio.create_task(query())

    return bare(endpoint)


def by_wait():
    async def endpoint():
        await asyncio.wait({asyncio.create_task(query())})

    return bare(endpoint)


def by_gather():
    async def endpoint():
        await asyncio.gather(query(), query())

    return bare(endpoint)


def by_queue():
    async def work(queue):
        await query()
        queue.put_nowait(None)

    async def endpoint():
        queue = asyncio.Queue()
        task = asyncio.create_task(work(queue))
        await queue.get()
        await task

    return bare(endpoint)


def by_group():
    async def endpoint():
        async with asyncio.TaskGroup() as group:
            group.create_task(query())

    return bare(endpoint)


def by_a_task_that_waits_for_one():
    async def between():
        await asyncio.wait({asyncio.create_task(query())})

    async def endpoint():
        await asyncio.wait({asyncio.create_task(between())})

    return bare(endpoint)


def by_middleware(levels=1):
    applications = pytest.importorskip("starlette.applications")
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def dispatch(request, call_next):
        return await call_next(request)

    async def endpoint(request):
        await query()
        return PlainTextResponse("done")

    return applications.Starlette(routes=[Route("/", endpoint)],
                                  middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch)] * levels)


def by_two_middlewares():
    return by_middleware(2)


def by_django():
    pytest.importorskip("django")
    from django.http import HttpResponse
    from django.urls import path

    async def endpoint(request):
        await query()
        return HttpResponse("done")

    class Urls:
        urlpatterns = [path("", endpoint)]

    use_django(ROOT_URLCONF=Urls, MIDDLEWARE=[])
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()


@pytest.mark.parametrize("way", [by_awaiting_it, by_wait, by_gather, by_queue, by_group, by_a_task_that_waits_for_one, by_middleware,
                                 by_two_middlewares, by_django])
def test_a_request_waits_where_its_task_does(profiles, way):
    asyncio.run(ask(wrap(way())))
    record = profiles.one()
    assert share_of(record, "query") > 0.6, record


def test_each_of_many_requests_has_its_own_tasks_waits(profiles):
    async def other_query():
        await query()

    def app_of(function):
        async def endpoint():
            await asyncio.wait({asyncio.create_task(function())})

        return wrap(bare(endpoint))

    async def main():
        await asyncio.gather(*(ask(app_of(function)) for function in (query, other_query) * 4))

    with_other = served = 0
    while with_other < 2:  # a look searches for two requests: how many are found is a question of how many looks there were
        asyncio.run(main())
        served += 8
        for record in profiles.flushed(served)[-8:]:
            names = {node.get("function", "").rpartition(".")[2] for node in walk(record)}
            top = {child.get("function", "").rpartition(".")[2] for child in record["children"]}
            with_other += "other_query" in names
            assert "other_query" not in names or "query" not in top, record
        assert served < 800


def test_of_many_requests_most_are_met_in_their_tasks(profiles):
    """A hundred at the same time, each of which is looked at now and then only, and searched for at few of these looks."""
    done = []

    async def rows():
        await done[0]

    async def endpoint():
        await asyncio.create_task(rows())

    async def main():
        done[:] = [asyncio.get_running_loop().create_future()]
        requests = [asyncio.create_task(ask(wrap(bare(endpoint)))) for _ in range(100)]
        until, deadline = samples_taken() + 4000, time.monotonic() + PATIENCE
        while samples_taken() < until and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        done[0].set_result(None)
        await asyncio.gather(*requests)

    asyncio.run(main())
    records = profiles.flushed(100)
    assert len(records) == 100
    assert sum(time_in(record, "rows") > 0 for record in records) > 50


def test_what_a_request_has_left_running_is_not_where_it_waits(profiles):
    async def heartbeat():
        await asyncio.sleep(3600)

    async def endpoint():
        task = asyncio.create_task(heartbeat())
        await query()
        task.cancel()

    asyncio.run(ask(wrap(bare(endpoint))))
    record = profiles.one()
    assert share_of(record, "query") > 0.6 > 0.1 > share_of(record, "heartbeat")


def test_a_task_in_another_context_is_not_the_requests(profiles):
    async def endpoint():
        await asyncio.create_task(query(), context=contextvars.Context())

    asyncio.run(ask(wrap(bare(endpoint))))
    record = profiles.one()
    assert share_of(record, "query") == 0
    assert share_of(record, "endpoint") > 0.6


@types.coroutine
def pause():
    yield


def run_in_a_generator(tasks):
    """An event loop as trio has it: each step of each task in that one's context, below a generator."""
    while tasks:
        for context, coroutine in list(tasks):
            try:
                context.run(coroutine.send, None)
            except StopIteration:
                tasks.remove((context, coroutine))
        yield


def test_a_task_of_a_loop_that_is_a_generator_is_its_requests(profiles):
    async def compute():
        burn_until_sampled(SAMPLES)
        with profilomatic.action("step"):
            pass

    async def endpoint():
        task = contextvars.copy_context(), compute()
        tasks.append(task)
        while task in tasks:
            await pause()

    tasks = [(contextvars.copy_context(), ask(wrap(bare(endpoint))))]
    for _ in run_in_a_generator(tasks):
        pass
    record = profiles.one()
    assert time_in(record, "compute") > 0.6 * record["time"], record
    assert {node["function"].rpartition(".")[2] for node in record["children"]} <= {"app", "compute"}, record
