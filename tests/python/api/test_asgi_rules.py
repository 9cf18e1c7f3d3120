"""What ASGI asks of middleware, and what our records say, each on a small application, bare against wrapped."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import os
import sys
import time
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgi_server import APPS, DISCONNECT, NO_BODY, START, Server, body, echo, hello, scope, streamed
from pom_support import PATIENCE, Slow, burn_until_sampled, messages, walk

import profilomatic

wrap = profilomatic.asgi.wrap
UUID = "01234567-89ab-4def-8123-456789abcdef"


# The record.

def test_a_request_is_an_action_with_the_documented_fields(profiles):
    given = scope("/caf\u00e9/7", [("host", "shop.example:8080"), ("accept", "*/*")], method="POST", root_path="/shop",
                  query_string=b"a=1&token=hidden")
    Server(wrap(streamed), given).run()
    record = profiles.one()
    action = record["action"]
    assert (action["type"], action["kind"], action["outcome"]) == ("/caf\u00e9/7", "asgi", "succeeded")
    assert (action["method"], action["host"], action["client"]) == ("POST", "shop.example:8080", "192.0.2.7")
    assert (action["script_name"], action["path_info"]) == ("/shop", "/caf\u00e9/7")
    assert action["query_string"] == "a=1&token=[scrubbed]"
    assert (action["status"], action["bytes"]) == (200, 6)
    assert action["route"] == "/shop/caf\u00e9/<id>"
    assert set(action["phases"]) <= {"app", "first_byte", "body", "client", "close"}
    assert 0 < sum(action["phases"].values()) <= record["time"] + 1e-9  # a sum of floats


def test_the_lines_of_a_request_are_in_its_tree_and_none_of_ours_or_the_servers(profiles):
    async def below():
        burn_until_sampled(3)

    async def app(scope, receive, send):
        await below()
        await send(START)
        await send(body())

    Server(wrap(app)).run()
    record = profiles.one()
    names = [node["function"] for node in walk(record)]
    assert any("below" in name for name in names)
    assert not any("handle" in name or "observed" in name or "__call__" in name for name in names)
    assert all("app" in node["function"] for node in record["children"])
    assert not any("profilomatic/asgi" in node["file"] for node in walk(record))


def test_interleaved_requests_keep_their_own_samples(profiles):
    async def left():
        burn_until_sampled(2)

    async def right():
        burn_until_sampled(2)

    async def app(scope, receive, send):
        for _ in range(3):
            await (left if scope["path"] == "/left" else right)()
            await asyncio.sleep(0)
        await send(START)
        await send(body())

    async def main():
        await asyncio.gather(*(Server(wrap(app), scope(path)).handle() for path in ("/left", "/right")))

    asyncio.run(main())
    for record in profiles.flushed(2):
        own, other = ("left", "right") if record["action"]["type"] == "/left" else ("right", "left")
        names = {node["function"].rsplit(".", 1)[-1] for node in walk(record)}
        assert own in names and other not in names


@pytest.mark.parametrize("given, host", [
    ({"headers": None}, "localhost:8000"),
    ({"headers": None, "server": ("/run/app.sock", None)}, "/run/app.sock"),
    ({"headers": None, "server": None}, ""),
])
def test_the_host_without_a_header_is_the_servers(profiles, given, host):
    Server(wrap(hello), scope(**given)).run()
    assert profiles.one()["action"]["host"] == host


@pytest.mark.parametrize("path", ["/shop/items", "/items"])
def test_the_mount_point_stands_once_whether_the_path_has_it_or_not(profiles, path):
    Server(wrap(hello), scope(path, root_path="/shop")).run()
    action = profiles.one()["action"]
    assert (action["script_name"], action["path_info"], action["route"]) == ("/shop", "/items", "/shop/items")


def test_what_only_looks_like_the_mount_point_is_a_path(profiles):
    Server(wrap(hello), scope("/shopping", root_path="/shop")).run()
    assert profiles.one()["action"]["path_info"] == "/shopping"


class Route:
    def __init__(self, path, path_format=None):
        self.path, self.path_format = path, path_format


class Hostile:
    def __getattribute__(self, name):
        raise RuntimeError(name)


@pytest.mark.parametrize("path, keys, name", [
    ("/users/7", {"route": Route("/users/{id}", "/users/{id}")}, "/m/users/{id}"),
    ("/static/a.css", {"route": Route("/static", "/static/{path}"), "root_path": "/m/static"}, "/m/static/{path}"),
    ("/users/7", {"profilomatic.route": "/users/<n>", "route": Route("/other")}, "/m/users/<n>"),
    ("/users/7", {"route": Hostile()}, "/m/users/<id>"),
    ("/users/7", {"route": None}, "/m/users/<id>"),
    ("/users/7", {"route": Route(17), "profilomatic.route": 17}, "/m/users/<id>"),
])
def test_the_route_is_what_the_framework_left_in_the_scope(profiles, path, keys, name):
    async def app(scope, receive, send):
        scope.update(keys)
        await hello(scope, receive, send)

    Server(wrap(app), scope("/m" + path, root_path="/m")).run()
    assert profiles.one()["action"]["route"] == name


def test_a_path_that_nobody_knows_is_no_route(profiles):
    async def missing(scope, receive, send):
        await send({**START, "status": 404})
        await send(body())

    Server(wrap(missing), scope("/no/such/9")).run()
    assert profiles.one()["action"]["route"] == "<not found>"


@pytest.mark.parametrize("chunk, counted", [(b"four", 4), (bytearray(b"four"), 4), (memoryview(b"four"), 4)])
def test_bytes_counts_what_was_sent(profiles, chunk, counted):
    async def app(scope, receive, send):
        await send(START)
        await send(body(chunk))

    Server(wrap(app)).run()
    Server(wrap(app), scope(method="HEAD")).run()
    assert [record["action"]["bytes"] for record in profiles.flushed(2)] == [counted, 0]


@pytest.mark.parametrize("message, counted", [
    ({"type": "http.response.pathsend", "path": "/etc/hostname"}, 0),
    ({"type": "http.response.zerocopysend", "file": 3, "count": 12}, 12),
])
def test_files_that_the_server_sends_complete_the_response(profiles, message, counted):
    async def app(scope, receive, send):
        await send(START)
        await send(message)

    Server(wrap(app)).run()
    action = profiles.one()["action"]
    assert (action["outcome"], action["bytes"]) == ("succeeded", counted)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes have __buffer__ from 3.12 on")
def test_a_body_may_empty_its_message_when_it_is_looked_at(profiles):
    class Emptying:
        def __init__(self, message):
            self.message = message

        def __buffer__(self, flags):
            self.message.clear()
            return memoryview(b"12345")

    class More:
        """Nobody else has it."""

        def __bool__(self):
            return False

    async def app(scope, receive, send):
        await send(START)
        message = {"type": "http.response.body"}
        message.update(body=Emptying(message), more_body=More())
        await send(message)

    Server(wrap(app)).run()
    action = profiles.one()["action"]
    assert (action["outcome"], action["bytes"]) == ("succeeded", 5)


def test_keys_of_a_scope_are_not_asked_whether_they_are_equal_to_ours(profiles, backend):
    """One that is no str may empty the scope when it is asked, and what was found before is gone."""
    class Emptying:
        def __init__(self, name, scope):
            self.name, self.scope = name, scope

        def __hash__(self):
            return hash(self.name)

        def __eq__(self, other):
            self.scope.clear()
            return False

    async def app(scope, receive, send):
        await hello(scope, receive, send)
        scope["profilomatic.route"] = "/" + "-".join(["only", "here"])
        scope[Emptying("route", scope)] = "mine"
        scope[Emptying("root_path", scope)] = "mine"

    given = scope("/a")
    del given["root_path"]
    Server(wrap(app), given).run()
    assert profiles.one()["action"]["route"] == "/only-here"
    assert "path" in given or backend == "pure"  # whose look-ups are Python's


def test_what_runs_after_the_response_is_part_of_the_action(profiles):
    async def background():
        burn_until_sampled(2)

    async def app(scope, receive, send):
        await hello(scope, receive, send)
        await background()

    Server(wrap(app)).run()
    record = profiles.one()
    assert any("background" in node["function"] for node in walk(record))
    assert record["action"]["phases"]["close"] > 0


def test_waiting_for_the_server_is_the_clients_time(profiles):
    slow = Slow()

    async def slow_send(message):
        slow()

    async def slow_receive():
        slow()
        return NO_BODY

    async def app(scope, receive, send):
        await receive()
        await send(START)
        await send(body(b"x", True))
        await send(body())

    server = Server(wrap(app))
    server.send, server.receive = slow_send, slow_receive
    server.run()
    record = profiles.one()
    phases = record["action"]["phases"]
    slow.is_all_in(phases, "client")
    assert sum(phases.values()) <= record["time"] + 1e-9


@pytest.mark.parametrize("header, waited", [("t=%.3f", 2.0), ("%.3f", 2.0), ("t=%.3f", -2.0), ("t=%.3f", 7200.0), ("nonsense %.3f", 2.0)])
def test_what_a_proxy_wrote_is_the_queues_time(profiles, header, waited):
    Server(wrap(hello), scope(headers=[("x-request-start", header % (time.time() - waited))])).run()
    queue = profiles.one()["action"]["phases"].get("queue", 0)
    assert (1.9 < queue < 2 + PATIENCE) == (waited == 2 and "nonsense" not in header)


# Nothing changes.

@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
def test_messages_and_results_pass_as_they_are(profiles, app):
    receives = [{"type": "http.request", "body": b"payload", "more_body": False}]
    bare = Server(app, receives=receives).run()
    wrapped = Server(wrap(app), receives=receives).run()
    assert wrapped.seen == bare.seen
    profiles.flushed(1)


def test_messages_are_the_very_objects(profiles):
    odd = {"type": "x.unknown", "value": object()}
    taken = []

    async def app(scope, receive, send):
        taken.append(await receive())
        assert await send(odd) == "answer"
        await send(START)
        await send(body())

    given = {"type": "http.request", "body": b""}
    server = Server(wrap(app), receives=[given])

    async def send(message):
        server.sent.append(message)
        return "answer"

    server.send = send
    server.run()
    assert server.error is None and server.sent[0] is odd and taken[0] is given


def test_a_message_that_is_none_is_the_servers_to_refuse(profiles):
    refusal = TypeError("a message is a dict")

    async def app(scope, receive, send):
        for wrong in (None, 7, {}, {"type": 7}, {"type": "http.response.body", "body": 7, "more_body": Hostile()}):
            await send(wrong)
        with pytest.raises(TypeError) as raised:
            await send({"type": "http.response.start", "status": "200"})
        assert raised.value is refusal

    server = Server(wrap(app), refuse=refusal, refuse_at=5).run()
    assert server.error is None and len(server.sent) == 5
    profiles.flushed(1)


@pytest.mark.parametrize("given", [
    {"type": "http"}, {"type": "http", "path": 7, "root_path": None, "method": b"GET", "query_string": "text", "headers": 9,
                       "client": "text", "server": (1, 2)},
    {"type": "http", "path": "/\ud800", "headers": [(b"host",), 7, ("host", "x"), (b"host", "x"), [b"host", b"\xff"]],
     "client": (None, None), "server": ("h", 1 << 80), "profilomatic.task_uuid": object()},
    {"type": "http", "path": "/" + "x" * 100000, "headers": [(b"host", b"y" * 100000)], "server": ("z" * 1000, 1)},
])
def test_a_scope_with_anything_in_it_is_served(profiles, given):
    server = Server(wrap(hello), given).run()
    assert server.error is None and len(server.sent) == 2
    assert profiles.one()["action"]["status"] == 200


def test_the_scope_is_the_same_dict_with_our_keys_only(profiles):
    given = scope(headers=[("host", "x")])
    before, headers = dict(given), given["headers"]
    taken = []

    async def app(scope, receive, send):
        taken.append(scope)
        await hello(scope, receive, send)

    Server(wrap(app), given).run()
    assert taken[0] is given and given["headers"] is headers
    assert {key for key in given if key not in before} == {"profilomatic.task_uuid"}
    assert {key: given[key] for key in before} == before


def test_headers_that_can_be_read_once_are_the_applications(profiles):
    async def app(scope, receive, send):
        assert list(scope["headers"]) == [(b"host", b"x")]
        await hello(scope, receive, send)

    given = scope()
    given["headers"] = iter([(b"host", b"x")])
    assert Server(wrap(app), given).run().error is None


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "something.else"])
def test_other_scopes_pass_with_the_servers_own_objects(profiles, kind):
    taken = []

    async def app(*given):
        taken.extend(given)
        return 7

    server = Server(wrap(app), scope(type=kind))
    server.run()
    assert server.result == 7 and taken[0] is server.scope
    assert taken[1:] == [server.receive, server.send]
    assert "profilomatic.task_uuid" not in server.scope
    profiles.flushed(0)


@pytest.mark.parametrize("raises", [False, True])
def test_the_end_of_the_lifespan_reaches_the_server_when_everything_is_delivered(profiles, raises):
    """It may end by a signal then, and nothing runs at exit."""
    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            return await hello(scope, receive, send)
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        if raises:
            raise ValueError("at the end")
        return 7

    async def serve():
        over = asyncio.Event()

        async def send(message):
            if message["type"] == "lifespan.shutdown.complete":
                over.set()

        lifespan = asyncio.create_task(wrap(app)({"type": "lifespan"}, None, send))
        await over.wait()
        return len(profiles.records), *await asyncio.gather(lifespan, return_exceptions=True)

    Server(wrap(app)).run()
    delivered, answer = asyncio.run(serve())
    assert delivered == 1 and (repr(answer) == "ValueError('at the end')" if raises else answer == 7)
    profilomatic.stop()
    assert asyncio.run(serve())[0] == 1


def test_a_stopped_engine_leaves_the_servers_own_objects():
    taken = []

    async def app(*given):
        taken.extend(given)

    server = Server(wrap(app))
    server.run()
    assert taken[1:] == [server.receive, server.send]
    assert "profilomatic.task_uuid" not in server.scope


def test_a_context_variable_that_the_application_sets_stays_set(profiles):
    variable = contextvars.ContextVar("variable")

    async def app(scope, receive, send):
        variable.set("by the application")
        await hello(scope, receive, send)

    async def main():
        await Server(wrap(app)).handle()
        return variable.get(None)

    assert asyncio.run(main()) == "by the application"


def test_a_context_variable_of_ours_that_the_application_sets_harms_nobody(profiles):
    """Whoever lists a context finds it there, to copy it, to clear it."""
    found = []

    async def app(scope, receive, send):
        context = contextvars.copy_context()
        for variable in context:
            if variable.name.startswith("profilomatic"):
                context.run(variable.set, object())
        with ThreadPoolExecutor(1) as pool:  # no anchor of the request's is there: only the context could tell
            found.append(pool.submit(context.run, profilomatic.current_task_uuid).result())
        await hello(scope, receive, send)

    Server(wrap(app)).run()
    assert found == [None]
    assert profiles.one()["action"]["outcome"] == "succeeded"


def test_a_request_without_a_loop_of_asyncio_is_served(profiles):
    """Any driver of coroutines will do: trio's, a test's."""
    async def nothing(message):
        pass

    coroutine = wrap(hello)(scope(), None, nothing)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert profiles.one()["action"]["outcome"] == "succeeded"


# Outcomes.

@pytest.mark.parametrize("error", [LookupError("mine"), SystemExit(3), KeyboardInterrupt(), BaseExceptionGroup("g", [KeyError(1)])],
                         ids=lambda error: type(error).__name__)
def test_an_exception_passes_unchanged_and_fails_the_action(profiles, error):
    async def app(scope, receive, send):
        raise error

    async def main():
        try:
            await wrap(app)(scope(), None, None)
        except BaseException as caught:
            return caught, caught.__context__

    assert asyncio.run(main()) == (error, None)
    action = profiles.one()["action"]
    assert (action["outcome"], action["status"]) == ("failed", None)
    assert action["exception"].endswith(type(error).__name__)
    assert error.__traceback__.tb_next.tb_next.tb_frame.f_code is app.__code__


def test_a_cancelled_request_is_aborted(profiles):
    async def app(scope, receive, send):
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(wrap(app)(scope(), None, None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert profiles.one()["action"]["outcome"] == "aborted"


@pytest.mark.parametrize("leave", [lambda coroutine: coroutine.close(), lambda coroutine: None], ids=["closed", "dropped"])
def test_a_request_that_is_given_up_ends(profiles, leave):
    class Pause:
        def __await__(self):
            yield

    async def app(scope, receive, send):
        await Pause()

    coroutine = wrap(app)(scope(), None, None)
    coroutine.send(None)
    leave(coroutine)
    del coroutine
    gc.collect()
    assert profiles.one()["action"]["outcome"] in ("aborted", "lost")
    assert profilomatic.current_task_uuid() is None


@pytest.mark.parametrize("sends, receives, outcome", [
    ([START, body()], [], "succeeded"),
    ([START, body(b"a", True)], [], "aborted"),
    ([START], [], "aborted"),
    ([], [], "succeeded"),
    ([], [DISCONNECT], "aborted"),
    ([START, body(b"a", True), None, body()], [DISCONNECT], "aborted"),
    ([START, body(), None], [DISCONNECT], "succeeded"),
    ([None, START, body()], [NO_BODY], "succeeded"),
])
def test_a_client_that_goes_away_before_the_end_aborts_the_action(profiles, sends, receives, outcome):
    """None stands for a receive()."""
    async def app(scope, receive, send):
        if not sends and receives:
            await receive()
        for message in sends:
            await (receive() if message is None else send(message))

    Server(wrap(app), receives=receives).run()
    assert profiles.one()["action"]["outcome"] == outcome


@pytest.mark.parametrize("error, outcome", [(OSError("gone"), "aborted"), (RuntimeError("no"), "failed")])
def test_what_send_raises_reaches_the_application_and_the_server(profiles, error, outcome):
    server = Server(wrap(hello), refuse=error, refuse_at=1).run()
    assert server.error is error
    assert profiles.one()["action"]["outcome"] == outcome


def test_what_send_raised_and_the_application_caught_is_its_own_business(profiles):
    async def app(scope, receive, send):
        with pytest.raises(RuntimeError):
            await send({"type": "http.response.nonsense"})
        await hello(scope, receive, send)

    server = Server(wrap(app), refuse=RuntimeError("no"), refuse_at=0)
    original = server.send

    async def send(message):
        if message["type"].endswith("nonsense"):
            raise RuntimeError("no")
        server.refuse_at = None
        await original(message)

    server.send = send
    assert server.run().error is None
    assert profiles.one()["action"]["outcome"] == "succeeded"


def test_a_send_after_the_end_reaches_the_server(profiles):
    kept = []

    async def app(scope, receive, send):
        kept.extend((receive, send))
        await hello(scope, receive, send)

    async def main():
        server = await Server(wrap(app)).handle()
        await kept[1](body(b"late"))
        await kept[0]()
        return server

    server = asyncio.run(main())
    assert server.sent[-1] == body(b"late")
    assert profiles.one()["action"]["bytes"] == 6


def test_sends_at_once_are_counted_each(profiles):
    async def app(scope, receive, send):
        await send(START)
        await asyncio.gather(*(send(body(b"x", True)) for _ in range(5)))
        await send(body())

    Server(wrap(app)).run()
    record = profiles.one()
    assert record["action"]["bytes"] == 5 and record["action"]["outcome"] == "succeeded"
    assert sum(record["action"]["phases"].values()) <= record["time"] + 1e-9


# What the application gets for receive and send is what the server would have given, to whatever may be done with it.

def test_receive_and_send_are_coroutine_functions_as_the_servers_are(profiles):
    found = []

    async def app(scope, receive, send):
        for function in (receive, send):
            call = function() if function is receive else function(START)
            found.append((inspect.iscoroutinefunction(function), asyncio.iscoroutine(call), inspect.isawaitable(call)))
            call.close()
        await hello(scope, receive, send)

    Server(wrap(app)).run()
    assert found == [(True, True, True)] * 2
    assert profiles.one()["action"]["bytes"] == 6


def test_a_send_may_be_a_task_and_be_cancelled(profiles):
    never = []

    class Slow(Server):
        async def send(self, message):
            if message == NO_BODY:
                try:
                    await asyncio.Event().wait()
                finally:
                    never.append(message)
            await super().send(message)

    async def app(scope, receive, send):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(send(NO_BODY), 0.01)
        task = asyncio.create_task(send(START))
        await task
        await send(body(b"hello"))

    server = Slow(wrap(app)).run()
    assert server.error is None and server.sent == [START, body(b"hello")] and never == [NO_BODY]
    action = profiles.one()["action"]
    assert (action["outcome"], action["bytes"]) == ("succeeded", 5)


def test_a_send_is_awaited_once(profiles):
    async def app(scope, receive, send):
        call = send(START)
        waiting = asyncio.create_task(call)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="awaited already"):
            await call
        await waiting
        with pytest.raises(RuntimeError, match="already awaited"):
            await call
        await send(body(b"x"))

    server = Server(wrap(app)).run()
    assert server.error is None and server.sent == [START, body(b"x")]
    assert profiles.one()["action"]["bytes"] == 1


def test_a_send_that_is_dropped_is_no_message(profiles):
    async def app(scope, receive, send):
        with pytest.warns(RuntimeWarning, match="never awaited"):
            send(body(b"dropped"))
            gc.collect()
        half = send(body(b"half"))
        half.send(None)
        del half  # closed by that
        await hello(scope, receive, send)

    server = Server(wrap(app)).run()
    assert server.error is None
    action = profiles.one()["action"]
    assert (action["outcome"], action["bytes"]) == ("succeeded", 10)


def test_what_send_and_receive_return_goes_into_tasks_and_task_groups(profiles):
    anyio = pytest.importorskip("anyio")
    got = []

    async def keep(receive):
        got.append(await receive())

    async def app(scope, receive, send):
        for call in (send, receive):
            assert inspect.iscoroutinefunction(call) and asyncio.iscoroutinefunction(call)
        waiting = send(START)
        assert inspect.iscoroutine(waiting) and asyncio.iscoroutine(waiting) and inspect.isawaitable(waiting)
        await asyncio.wait_for(waiting, 60)
        got.append(await asyncio.create_task(receive()))
        async with anyio.create_task_group() as group:
            group.start_soon(send, body(b"hello"))  # refused unless it gives a coroutine
            group.start_soon(keep, receive)

    server = Server(wrap(app)).run()
    assert server.error is None, server.error
    assert len(got) == 2
    action = profiles.one()["action"]
    assert (action["outcome"], action["status"], action["bytes"]) == ("succeeded", 200, 5)


@pytest.mark.parametrize("ask", [next, lambda call: call.send(None), lambda call: call.nothing, lambda call: call.throw(LookupError)],
                         ids=["next", "send", "attribute", "throw"])
def test_calls_that_stand_for_each_other_go_only_so_deep(profiles, backend, ask):
    """A server that hands back what it was given before. Enough of them would be more than a stack holds."""
    if backend != "c":
        pytest.skip("the twin's are coroutines")
    last = []

    class Echo(Server):
        def receive(self):
            return last.pop() if last else super().receive()

    async def app(scope, receive, send):
        for _ in range(20000 if sys.version_info < (3, 14) else 200000):  # from 3.14 on not calls are counted, but the stack is measured
            last.append(receive())
        with pytest.raises((RecursionError, LookupError)):
            ask(last[0])
        await hello(scope, receive, send)

    assert Echo(wrap(app)).run().error is None
    assert profiles.one()["action"]["outcome"] == "succeeded"
    with pytest.warns(RuntimeWarning, match="never awaited"):
        last.clear()
        gc.collect()


@pytest.mark.parametrize("result", [None, ("a", "tuple"), StopIteration("an exception")])
def test_what_the_servers_functions_return_is_what_the_application_gets(profiles, result):
    class Answers(Server):
        def receive(self):
            return self.future(result)

        async def send(self, message):
            await super().send(message)
            return result if not isinstance(result, StopIteration) else None

        def future(self, value):
            class Given:
                def __await__(self):
                    yield from asyncio.sleep(0).__await__()
                    return value
            return Given()

    got = []

    async def app(scope, receive, send):
        got.append(await receive())
        got.append(await send(START))
        await send(body())

    server = Answers(wrap(app)).run()
    assert server.error is None
    assert got[0] is result and got[1] is (None if isinstance(result, StopIteration) else result)
    assert profiles.one()["action"]["outcome"] == "succeeded"


def test_a_server_whose_send_cannot_be_awaited_says_so_itself(profiles):
    class Odd(Server):
        def send(self, message):
            return 17

    server = Odd(wrap(hello)).run()
    bare = Odd(hello).run()
    assert (type(server.error), str(server.error)) == (type(bare.error), str(bare.error)) and isinstance(bare.error, TypeError)
    assert profiles.one()["action"]["outcome"] == "failed"


def test_waiting_in_the_servers_send_stands_under_the_line_that_sends(profiles, backend):
    if backend != "c" or profilomatic.stats()["engine"] != "native":
        pytest.skip("only the native engine looks at what waits")

    class Slow(Server):
        async def send(self, message):
            await slow_client()
            await super().send(message)

    async def slow_client():
        before = profilomatic.stats()["samples"]["taken"]
        for _ in range(int(PATIENCE) * 100):
            await asyncio.sleep(0.01)
            if profilomatic.stats()["samples"]["taken"] >= before + 3:
                return

    async def app(scope, receive, send):
        await hello(scope, receive, send)

    assert Slow(wrap(app)).run().error is None
    names = {node["function"].rsplit(".", 1)[-1] for node in walk(profiles.one())}
    assert {"app", "hello", "send", "slow_client"} <= names


# Task ids.

@pytest.mark.parametrize("headers, task", [
    ([("x-task-uuid", UUID)], UUID),
    ([("x-task-uuid", "order/17:x")], "order/17:x"),
    ([("traceparent", "00-0123456789ab4def8123456789abcdef-0123456789abcdef-01")], UUID),
    ([("traceparent", "00-ffffffffffffffffffffffffffffffff-0123456789abcdef-01"), ("x-task-uuid", UUID)], UUID),
    ([("x-task-uuid", "no good\x01")], None),
    ([], None),
])
def test_the_task_id_comes_from_the_headers_and_goes_into_the_scope(profiles, headers, task):
    seen = []

    async def app(scope, receive, send):
        seen.append(profilomatic.current_task_uuid())
        await hello(scope, receive, send)
        seen.append(profilomatic.current_task_uuid())

    server = Server(wrap(app), scope(headers=headers)).run()
    found = profiles.one()["task_uuid"]
    assert found == task if task else (len(found) == 36 and found != UUID)
    assert server.scope["profilomatic.task_uuid"] == found
    assert seen == [found, found]
    assert profilomatic.current_task_uuid() is None


@pytest.mark.acceptance("PM20")
@pytest.mark.parametrize("uuid,kept", [(None, "89abcdef01234567"), ("order-7", None)])
def test_the_parent_span_is_kept_and_the_trace_goes_on(profiles, uuid, kept):
    went_on = []

    async def app(scope, receive, send):
        await hello(scope, receive, send)
        went_on.append(profilomatic.propagation_headers().get("traceparent"))

    trace = UUID.replace("-", "")
    headers = [("traceparent", f"00-{trace}-89abcdef01234567-00")] + ([("x-task-uuid", uuid)] if uuid else [])
    Server(wrap(app), scope(headers=headers)).run()
    action = profiles.one()["action"]
    assert action.get("parent_span") == kept
    assert went_on == [f"00-{trace}-{action['span']}-00" if kept else None]


def test_a_request_within_a_request_is_a_pair_of_messages(profiles):
    async def inner(scope, receive, send):
        scope["profilomatic.route"] = "inner"
        await hello(scope, receive, send)

    async def outer(scope, receive, send):
        await wrap(inner)({**scope, "path": "/below", "query_string": b"a=1&token=hidden"}, receive, send)

    server = Server(wrap(outer), scope("/mounted")).run()
    record = profiles.one()
    start, end = messages(record)
    assert (start["action_type"], start["action_status"], start["method"]) == ("/below", "started", "GET")
    assert start["query_string"] == "a=1&token=[scrubbed]"
    assert (end["action_type"], end["action_status"], end["status"], end["route"]) == ("/below", "succeeded", 200, "inner")
    assert {start["task_uuid"], end["task_uuid"], server.scope["profilomatic.task_uuid"]} == {record["task_uuid"]}


def test_a_failed_request_within_a_request_says_so(profiles):
    async def inner(scope, receive, send):
        raise LookupError("inside")

    async def outer(scope, receive, send):
        with pytest.raises(LookupError):
            await wrap(inner)(dict(scope), receive, send)
        await hello(scope, receive, send)

    Server(wrap(outer)).run()
    record = profiles.one()
    end = messages(record)[-1]
    assert (end["action_status"], end["reason"]) == ("failed", "inside")
    assert record["action"]["outcome"] == "succeeded"


def test_actions_and_messages_inside_a_request_are_in_its_tree(profiles):
    async def app(scope, receive, send):
        with profilomatic.action("step") as action:
            await asyncio.sleep(0)
            action.message(number=1)
        await hello(scope, receive, send)

    Server(wrap(app)).run()
    assert [message.get("number", message.get("action_status")) for message in messages(profiles.one())] \
        == ["started", 1, "succeeded"]


# Tasks and threads that a request starts.

def test_an_asyncio_task_of_a_request_is_part_of_it(profiles):
    async def child():
        await asyncio.sleep(0)
        with profilomatic.action("step") as action:
            assert action.task_uuid == profilomatic.current_task_uuid()
        return profilomatic.current_task_uuid()

    async def app(scope, receive, send):
        assert await asyncio.create_task(child()) == scope["profilomatic.task_uuid"]
        await hello(scope, receive, send)

    assert Server(wrap(app)).run().error is None
    record = profiles.one()
    assert [message["action_status"] for message in messages(record)] == ["started", "succeeded"]
    for node in walk(record):  # none of the event loop's, from which both are resumed
        assert node["function"].rpartition(".")[2] not in ("run_forever", "_run_once", "_run"), node["function"]


def test_a_thread_that_works_for_a_request_knows_its_task_and_is_no_part_of_it(profiles):
    def work():
        with profilomatic.action("in a thread", parent=profilomatic.current_task_uuid()):
            return profilomatic.current_task_uuid()

    async def app(scope, receive, send):
        assert await asyncio.to_thread(profilomatic.current_task_uuid) == scope["profilomatic.task_uuid"]
        assert await asyncio.to_thread(work) == scope["profilomatic.task_uuid"]
        await hello(scope, receive, send)

    assert Server(wrap(app)).run().error is None
    kinds = [(record["action"]["kind"], record["task_uuid"]) for record in profiles.flushed(2)]
    assert [kind for kind, _ in kinds] == ["code", "asgi"] and len({task for _, task in kinds}) == 1


def test_a_task_that_outlives_its_request_is_nobodys(profiles):
    over = asyncio.Event()

    async def child():
        await over.wait()
        with profilomatic.action("afterwards"):
            pass
        return profilomatic.current_task_uuid()

    async def app(scope, receive, send):
        scope["task"] = asyncio.create_task(child())
        await asyncio.sleep(0)
        await hello(scope, receive, send)

    async def main():
        server = await Server(wrap(app)).handle()
        over.set()
        return await server.scope["task"]

    assert asyncio.run(main()) is None
    first, second = profiles.flushed(2)
    assert (first["action"]["kind"], second["action"]["kind"]) == ("asgi", "code")
    assert first["task_uuid"] != second["task_uuid"]


def test_a_request_that_a_server_begins_in_the_context_of_another_is_its_own(profiles):
    """As with pipelined requests: the next one's task is made within the first one's send()."""
    tasks = []

    async def main():
        first = Server(wrap(hello))
        original = first.send

        async def send(message):
            if not tasks:
                tasks.append(asyncio.create_task(Server(wrap(hello)).handle()))
                await tasks[0]
            await original(message)

        first.send = send
        await first.handle()

    asyncio.run(main())
    records = profiles.flushed(2)
    assert len({record["task_uuid"] for record in records}) == 2
    assert not any(messages(record) for record in records)


def test_a_mounted_request_in_a_task_of_its_own_is_a_pair_of_messages(profiles):
    async def outer(scope, receive, send):
        await asyncio.create_task(wrap(hello)({**scope, "path": "/below"}, receive, send))

    server = Server(wrap(outer)).run()
    record = profiles.one()
    assert server.error is None
    assert [message["action_type"] for message in messages(record)] == ["/below", "/below"]


# The wrapper itself.

def test_wrapping_twice_is_wrapping_once():
    app = wrap(hello)
    assert wrap(app) is app and app.__wrapped__ is hello
    assert "hello" in repr(app)
    assert weakref.ref(app)() is app
    for wrong in (None, 7, "text"):
        with pytest.raises(TypeError, match="ASGI"):
            wrap(wrong)


def test_the_wrong_wrapper_is_refused_with_the_right_one_named():
    """Under the wrong one a server's every answer would be an error, or nothing be profiled."""
    class Asgi:
        async def __call__(self, scope, receive, send):
            pass

    class Wsgi:
        def __call__(self, environ, start_response):
            return []

    class Twice(functools.partial):
        pass

    partials = functools.partial(hello), Twice(functools.partial(Asgi())), functools.partial(Asgi().__call__)
    for app in (hello, Asgi(), Asgi().__call__, wrap(hello), *partials):
        with pytest.raises(TypeError, match="is an ASGI application: wrap it with profilomatic.asgi.wrap"):
            profilomatic.wsgi.wrap(app)
    for app in (lambda environ, start_response: [], Wsgi(), profilomatic.wsgi.wrap(Wsgi())):
        with pytest.raises(TypeError, match="is a WSGI application: wrap it with profilomatic.wsgi.wrap"):
            wrap(app)
    class Old:  # of ASGI 2
        def __init__(self, scope):
            pass

        async def __call__(self, receive, send):
            pass

    for old in (lambda scope: None, Old, functools.partial(lambda scope: None)):
        assert wrap(old) is old


def test_the_wrapper_is_what_servers_look_for():
    app = wrap(hello)
    assert inspect.iscoroutinefunction(app.__call__)
    seen = []

    async def spy(scope, receive, send):
        seen.extend((receive, send))

    Server(wrap(spy)).run()
    assert all(inspect.iscoroutinefunction(each) for each in seen)


def test_attributes_are_the_applications():
    class App:
        state = "kept"

        async def __call__(self, scope, receive, send):
            await hello(scope, receive, send)

    assert wrap(App()).state == "kept"
    with pytest.raises(AttributeError):
        wrap(App()).other


def old_function(scope):
    async def instance(receive, send):
        await hello(scope, receive, send)

    return instance


class OldClass:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await hello(self.scope, receive, send)


@pytest.mark.parametrize("app", [old_function, OldClass])
def test_an_application_of_asgi_2_is_left_alone(app):
    assert wrap(app) is app


def plain_function(scope, receive, send):
    return hello(scope, receive, send)


class AwaitedClass:
    def __init__(self, scope, receive, send):
        self.given = scope, receive, send

    def __await__(self):
        return hello(*self.given).__await__()


class Callable:
    async def __call__(self, scope, receive, send):
        await hello(scope, receive, send)

    async def method(self, scope, receive, send):
        await hello(scope, receive, send)


@pytest.mark.parametrize("app", [plain_function, AwaitedClass, Callable(), Callable().method, functools.partial(hello)],
                         ids=["function", "class", "instance", "method", "partial"])
def test_every_form_of_an_application_is_profiled(profiles, app):
    server = Server(wrap(app)).run()
    assert server.error is None and len(server.sent) == 2
    assert profiles.one()["action"]["status"] == 200


# Under stress.

def test_a_refused_request_is_counted_and_served_bare(profiles):
    # A budget that nothing can keep: what is admitted is limited once a window has been over it.
    profilomatic.configure(max_overhead=0.000001, max_actions_per_run=1, time_granularity=0.001)
    shed, before = [], profilomatic.stats()["actions"]["shed"]

    async def app(scope, receive, send):
        shed.append(isinstance(send, types.MethodType) and isinstance(send.__self__, Server))  # the server's own
        burn_until_sampled(0)
        await hello(scope, receive, send)

    async def main():
        deadline = time.monotonic() + PATIENCE
        while True:
            server = await Server(wrap(app)).handle()
            assert server.error is None and len(server.sent) == 2
            if shed[-1]:
                return server
            assert time.monotonic() < deadline, profilomatic.stats()

    assert "profilomatic.task_uuid" not in asyncio.run(main()).scope
    profilomatic.flush(30)
    assert profilomatic.stats()["actions"]["shed"] == before + 1


def test_the_engine_may_stop_and_start_within_a_request(profiles):
    async def app(scope, receive, send):
        await send(START)
        profilomatic.stop(30)
        await send(body(b"some", True))
        profilomatic.start()
        await send(body(b"more"))

    server = Server(wrap(app)).run()
    assert server.error is None and len(server.sent) == 3
    assert [record["action"]["outcome"] for record in profiles.flushed(1)] == ["lost"]
    Server(wrap(hello)).run()
    profiles.flushed(2)


def test_nothing_of_a_request_is_kept(profiles):
    class Canary:
        pass

    canaries = []

    async def app(scope, receive, send):
        canary = Canary()
        scope["canary"] = canary
        canaries.append(weakref.ref(canary))
        if len(canaries) % 2:
            raise LookupError(canary)
        await hello(scope, receive, send)

    async def nothing(message):
        pass

    async def main():
        for _ in range(2):
            with contextlib.suppress(LookupError):
                await wrap(app)(scope(), None, nothing)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        profiles.flushed(2)
        assert [canary() for canary in canaries] == [None, None]
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_profiles_its_requests(python):
    out = python("""
import asyncio, os, sys
sys.path.insert(0, %r)
import profilomatic
from asgi_server import Server, hello
app = profilomatic.asgi.wrap(hello)
seen = []
profilomatic.add_destination(seen.append)
Server(app).run()
child = os.fork()
if child == 0:
    Server(app).run()
    assert profilomatic.flush(60)
    print(len(seen), seen[-1]["pid"] == os.getpid(), seen[-1]["action"]["outcome"], flush=True)
    profilomatic.stop(30)
    os._exit(0)
os.waitpid(child, 0)
assert profilomatic.stop(60)
""" % os.path.dirname(__file__))
    assert out.split()[1:] == ["True", "succeeded"]


def test_a_fault_of_ours_leaves_the_response_alone(profiles, monkeypatch, backend):
    if backend == "c":
        pytest.skip("the extension has no seam for it; see test_a_scope_with_anything_in_it_is_served")
    from profilomatic import _pure_asgi

    def fail(*_):
        raise RuntimeError("ours")

    for place in ("_route_of", "_below"):
        with monkeypatch.context() as patch:
            patch.setattr(_pure_asgi, place, fail)
            assert Server(wrap(echo)).run().seen == Server(echo).run().seen
    assert sys.exc_info() == (None, None, None)
    profiles.flushed()
