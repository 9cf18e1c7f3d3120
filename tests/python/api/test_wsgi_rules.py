"""The rules of PEP 3333 for our wrapper, each on a small application, bare against wrapped."""

import gc
import inspect
import io
import os
import sys
import threading
import uuid
import weakref
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import FileWrapper

import pytest
from pom_support import PATIENCE, burn_until_sampled, messages, run_python, walk
from wsgi_server import Body, Server, Sized, environ, generated, late, listed, ok, pushed, restarted, returning

import profilomatic

wrap = profilomatic.wsgi.wrap


APPS = [listed, generated, pushed, late, restarted]


@pytest.mark.acceptance("PM19", "PM21", "W16")
def test_a_request_is_an_action_with_the_documented_fields(profiles):
    env = environ("/caf\u00c3\u00a9/7", REQUEST_METHOD="POST", SCRIPT_NAME="/shop", QUERY_STRING="a=1&b=2",
                  HTTP_HOST="shop.example:8080")
    Server(wrap(listed), env).run()
    record = profiles.one()
    action = record["action"]
    assert action["type"] == "/caf\u00e9/7"
    assert action["kind"] == "wsgi" and action["outcome"] == "succeeded"
    assert action["method"] == "POST" and action["status"] == 200
    assert action["host"] == "shop.example:8080"
    assert action["script_name"] == "/shop" and action["path_info"] == "/caf\u00e9/7"
    assert action["query_string"] == "a=1&b=2"
    assert action["bytes"] == 11
    assert action["route"] == "/shop/caf\u00e9/<id>"
    assert all(seconds >= 0 for seconds in action["phases"].values())
    assert sum(action["phases"].values()) <= record["time"] + 1e-3


@pytest.mark.acceptance("PM21")
def test_type_and_host_have_their_fallbacks(profiles):
    Server(wrap(listed), environ("")).run()
    action = profiles.one()["action"]
    assert action["type"] == "wsgi_task"
    assert action["host"] == "localhost:8000"
    Server(wrap(listed), environ(SERVER_NAME=None, SERVER_PORT=None)).run()
    assert profiles.flushed(2)[1]["action"]["host"] == ""


@pytest.mark.acceptance("PM19", "W8")
@pytest.mark.parametrize("app", APPS)
def test_the_response_is_what_it_is_bare(profiles, app):
    bare, wrapped = Server(app).run(), Server(wrap(app)).run()
    assert [call[:2] for call in wrapped.calls] == [call[:2] for call in bare.calls]
    assert (wrapped.written, wrapped.chunks) == (bare.written, bare.chunks)
    action = profiles.one()["action"]
    assert action["outcome"] == "succeeded"
    assert action["bytes"] == len(b"".join(bare.written + bare.chunks))


@pytest.mark.parametrize("app", APPS)
def test_the_response_is_what_it_is_bare_while_stopped(app):
    bare, wrapped = Server(app).run(), Server(wrap(app)).run()
    assert (wrapped.status, wrapped.written, wrapped.chunks) == (bare.status, bare.written, bare.chunks)


@pytest.mark.acceptance("W18")
def test_wrapping_twice_is_wrapping_once(profiles):
    app = wrap(listed)
    assert wrap(app) is app
    Server(wrap(wrap(app))).run()
    assert messages(profiles.one()) == []


@pytest.mark.parametrize("wrapper", ["wsgi", "asgi"])
def test_the_first_wrapped_application_adds_the_destination_that_the_environment_names(python, tmp_path, wrapper):
    """Code says what is profiled, the environment where to. Without an application no engine, no file."""
    path = tmp_path / "records.jsonl"
    printed = python("""if True:
        import os, profilomatic
        path = os.environ["PROFILOMATIC_DESTINATION"]
        assert not profilomatic.stats()["running"] and not os.path.exists(path)
        async def of_asgi(scope, receive, send): pass
        for _ in range(2):
            getattr(profilomatic, %r).wrap(of_asgi if %r == "asgi" else lambda environ, start_response: [])
        assert [each["name"] for each in profilomatic.stats()["destinations"]] == [path]
        """ % (wrapper, wrapper), PROFILOMATIC_DESTINATION=str(path))
    assert printed == "" and path.exists()


def test_a_named_destination_that_cannot_be_had_is_told_and_the_application_stays(tmp_path):
    code = """if True:
        import profilomatic.wsgi
        app = profilomatic.wsgi.wrap(lambda environ, start_response: [b"served"])
        assert app({}, None) == [b"served"]
        """
    done = run_python(code, PROFILOMATIC_DESTINATION=str(tmp_path / "absent" / "records"))
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "PROFILOMATIC_DESTINATION=" in done.stderr and "No such file or directory" in done.stderr


@pytest.mark.acceptance("PM19")
def test_wrap_refuses_what_cannot_be_called_and_keeps_attributes():
    for wrong in (None, 3, "app"):
        with pytest.raises(TypeError):
            wrap(wrong)

    class App:
        name = "mine"

        def __call__(self, env, start_response):
            return listed(env, start_response)

        def helper(self):
            return self

    app = App()
    wrapped = wrap(app)
    assert wrapped.__wrapped__ is app
    assert wrapped.name == "mine" and wrapped.helper() is app
    with pytest.raises(AttributeError):
        wrapped.absent
    for look in (lambda app: inspect.signature(app).parameters, lambda app: inspect.getfullargspec(app).args[-2:]):
        assert len(look(wrapped)) == len(look(app)) == 2
    assert not hasattr(wrap(type), "__signature__")


def test_a_proxy_without_its_object_is_wrapped_all_the_same():
    """As werkzeug's, outside of a context."""
    class Unbound:
        def __call__(self, env, start_response):
            return []

        def __getattribute__(self, name):
            raise RuntimeError("working outside of a context")

    app = Unbound()
    assert wrap(app)({}, None) == []


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_what_is_set_on_a_wrapped_application_is_set_on_the_application(kind):
    class App:
        def __init__(self):
            self.config = {}

        def __call__(self, env, start_response):
            pass

        @property
        def fixed(self):
            return 1

    class AsgiApp(App):
        async def __call__(self, scope, receive, send):
            pass

    app = App() if kind == "wsgi" else AsgiApp()
    wrapped = wrap(app) if kind == "wsgi" else profilomatic.asgi.wrap(app)
    wrapped.secret_key = "s"
    wrapped.config["debug"] = True
    wrapped.wsgi_app = inner = object()
    wrapped.__name__ = "shop"  # which a class has, and an instance has not
    assert vars(app) == {"config": {"debug": True}, "secret_key": "s", "wsgi_app": inner, "__name__": "shop"}
    assert wrapped.secret_key == "s" and wrapped.wsgi_app is inner and wrapped.__name__ == "shop"
    del wrapped.secret_key
    assert not hasattr(app, "secret_key") and not hasattr(wrapped, "secret_key")
    for refused in (lambda: setattr(wrapped, "fixed", 2), lambda: delattr(wrapped, "absent")):
        with pytest.raises(AttributeError):
            refused()
    assert wrapped.__wrapped__ is app

    def function(env, start_response):
        pass

    async def asgi_function(scope, receive, send):
        pass

    function = function if kind == "wsgi" else asgi_function
    wrapped = wrap(function) if kind == "wsgi" else profilomatic.asgi.wrap(function)
    wrapped.foo = 1
    assert function.foo == 1


@pytest.mark.acceptance("W1")
@pytest.mark.parametrize("body", [[b"a", b"b"], (b"a", b"b"), [], ()])
def test_w1_a_list_or_tuple_comes_back_as_the_same_object(profiles, body):
    assert Server(wrap(returning(body))).call() is body
    action = profiles.one()["action"]  # ended although nobody iterated or closed
    assert action["outcome"] == "succeeded" and action["bytes"] == sum(map(len, body))


@pytest.mark.acceptance("W1")
def test_w1_a_subclass_of_list_may_have_close_and_is_wrapped(profiles):
    class Closing(list):
        closed = 0

        def close(self):
            self.closed += 1

    body = Closing([b"a"])
    server = Server(wrap(returning(body)))
    assert server.call() is not body
    profiles.flushed(0)
    assert list(server.body) == [b"a"] and len(server.body) == 1
    server.close()
    assert body.closed == 1
    profiles.one()


@pytest.mark.acceptance("W2")
def test_w2_len_only_where_the_body_has_it(profiles):
    sized = Server(wrap(returning(Sized())))
    assert len(sized.call()) == 2
    plain = Server(wrap(returning(Body())))
    assert not hasattr(plain.call(), "__len__")
    assert not hasattr(Server(wrap(generated)).call(), "__len__")
    with pytest.raises(TypeError):
        len(plain.body)
    sized.close(), plain.close()


def over_http(app):
    """The raw response of wsgiref's server, which derives Content-Length from a body of length 1."""
    class Quiet(WSGIRequestHandler):
        def log_message(self, *args):
            pass

    import http.client

    server = WSGIServer(("127.0.0.1", 0), Quiet)
    server.set_app(app)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    client.request("GET", "/some/path")
    response = client.getresponse()
    result = response.status, [pair for pair in response.getheaders() if pair[0] != "Date"], response.read()
    client.close()
    thread.join(PATIENCE)
    server.server_close()
    return result


@pytest.mark.acceptance("W2", "PM19")
@pytest.mark.parametrize("app", [listed, generated, pushed, late, returning(Sized([b"one"])), returning(Body()),
                                 returning(Sized([b"one", b"two"]))])
def test_w2_the_bytes_of_a_real_server_are_those_of_the_bare_run(profiles, app):
    bare = over_http(app)
    assert over_http(wrap(app)) == bare
    assert profiles.one()["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W2")
def test_w2_errors_of_len_are_the_bodys_own():
    class Moody(Body):
        def __len__(self):
            raise ArithmeticError("no idea")

    profilomatic.start()
    server = Server(wrap(returning(Moody())))
    server.call()
    with pytest.raises(ArithmeticError):
        len(server.body)
    server.close()


@pytest.mark.acceptance("W3")
def test_w3_close_is_the_iterables_once(profiles):
    body = Body()
    server = Server(wrap(returning(body))).run()
    server.close()
    assert (body.iterated, body.closed) == (1, 1)
    assert server.chunks == [b"a", b"b"]
    profiles.one()


@pytest.mark.acceptance("W3", "W12", "PM22")
def test_w3_close_is_called_after_an_exception_and_the_failure_stays(profiles):
    body = Body(fail_at=1)
    server = Server(wrap(returning(body)))
    with pytest.raises(LookupError, match="chunk 1"):
        server.run()
    assert body.closed == 1
    action = profiles.one()["action"]
    assert action["outcome"] == "failed" and action["exception"] == "LookupError" and action["reason"] == "chunk 1"


@pytest.mark.acceptance("W3")
def test_w3_what_close_raises_passes_and_is_a_failure(profiles):
    error = OSError("cannot close")
    with pytest.raises(OSError) as caught:
        Server(wrap(returning(Body(fail_close=error)))).run()
    assert caught.value is error
    assert profiles.one()["action"]["outcome"] == "failed"


@pytest.mark.acceptance("W3")
def test_w3_the_request_ends_after_close(profiles):
    class Slow(Body):
        def close(self):
            super().close()
            burn_until_sampled(2)
            profilomatic.current_task_uuid()
            self.inside = profilomatic.current_task_uuid()

    body = Slow()
    Server(wrap(returning(body))).run()
    record = profiles.one()
    assert body.inside == record["task_uuid"]
    assert [node for node in walk(record) if node["function"].endswith("Slow.close")]


@pytest.mark.acceptance("W4", "PM22")
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_w4_never_iterated_then_closed_succeeded(profiles, method):
    body = Body()
    server = Server(wrap(returning(body)), environ(REQUEST_METHOD=method))
    server.call()
    profiles.flushed(0)
    server.close()
    assert (body.iterated, body.closed) == (0, 1)
    assert profiles.one()["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W4", "W13", "PM22")
def test_w4_closed_in_mid_body_is_aborted(profiles):
    seen = []

    def app(env, start_response):
        ok(start_response)
        try:
            yield b"a"
            yield b"b"
        except GeneratorExit:
            seen.append("exit")
            raise

    server = Server(wrap(app))
    assert next(iter(server.call())) == b"a"
    server.close()
    assert seen == ["exit"]
    assert profiles.one()["action"]["outcome"] == "aborted"


@pytest.mark.acceptance("W4", "W13")
def test_w4_closed_after_its_declared_length_succeeded(profiles):
    server = Server(wrap(returning(Body([b"abc", b"def"]), ("Content-Length", "3"))))
    assert next(iter(server.call())) == b"abc"
    server.close()
    assert profiles.one()["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W4", "W13")
@pytest.mark.parametrize("headers", [(), (("Content-Length", "6"),)], ids=["no length", "length"])
def test_w4_an_answer_to_head_that_is_closed_in_mid_body_succeeded(profiles, headers):
    """Nothing of its body is sent: a server that closes it early has been answered in full."""
    server = Server(wrap(returning(Body([b"abc", b"def"]), *headers)), environ(REQUEST_METHOD="HEAD"))
    assert next(iter(server.call())) == b"abc"
    server.close()
    assert profiles.one()["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W4", "W6")
def test_w4_only_the_last_start_response_declares_a_length(profiles):
    def app(env, start_response):
        ok(start_response, ("Content-Length", "3"))
        try:
            raise ValueError("second thoughts")
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        return iter([b"abc", b"def"])

    server = Server(wrap(app))
    next(iter(server.call()))
    server.close()
    assert profiles.one()["action"]["outcome"] == "aborted"


@pytest.mark.acceptance("W4", "W13")
def test_w4_dropped_without_close_is_lost(profiles):
    server = Server(wrap(returning(Body())))
    next(iter(server.call()))
    server.body = None
    del server
    gc.collect()
    assert profiles.one()["action"]["outcome"] == "lost"


@pytest.mark.acceptance("W5")
def test_w5_a_generator_application_runs_nothing_before_the_first_next(profiles):
    ran = []

    def app(env, start_response):
        ran.append(profilomatic.current_task_uuid())
        ok(start_response)
        yield b"x"

    server = Server(wrap(app))
    server.call()
    assert ran == [] and server.calls == []
    list(server.body)
    server.close()
    record = profiles.one()
    assert ran == [record["task_uuid"]]
    assert record["action"]["status"] == 200


@pytest.mark.acceptance("W6")
@pytest.mark.parametrize("arguments", [
    ("200 OK", []), ("404 Nope", [("A", "b")]), ("200 OK", [], None), ["200 OK", (), "not an exc_info"],
])
def test_w6_start_response_gets_what_the_application_passed(profiles, arguments):
    arguments = tuple(arguments)
    server = Server(wrap(lambda env, start_response: (start_response(*arguments), [b""])[1])).run()
    call, = server.calls
    assert len(call) == len(arguments)
    assert all(mine is theirs for mine, theirs in zip(call, arguments))


@pytest.mark.acceptance("W6")
def test_w6_the_last_start_response_wins(profiles):
    Server(wrap(restarted)).run()
    assert profiles.one()["action"]["status"] == 500


@pytest.mark.acceptance("W6", "W12")
def test_w6_what_the_server_raises_from_start_response_reaches_the_application(profiles):
    error = RuntimeError("headers sent")
    caught = []

    def app(env, start_response):
        try:
            ok(start_response)
        except RuntimeError as got:
            caught.append(got)
            raise
        return []

    def refuse(*args):
        raise error

    with pytest.raises(RuntimeError) as outside:
        wrap(app)(environ(), refuse)
    assert caught == [error] and outside.value is error
    assert profiles.one()["action"]["outcome"] == "failed"


@pytest.mark.acceptance("W6")
def test_w6_wrong_arguments_are_the_applications_error(profiles):
    def app(env, start_response):
        start_response()
        return []

    with pytest.raises(TypeError):
        wrap(app)(environ(), lambda status, headers, exc_info=None: None)
    assert profiles.one()["action"]["outcome"] == "failed"


@pytest.mark.acceptance("W7")
def test_w7_write_returns_and_raises_what_the_servers_does(profiles):
    taken = []

    def write(data):
        if data == b"bad":
            raise BrokenPipeError("gone")
        taken.append(data)
        return len(data)

    results = []

    def app(env, start_response):
        write = ok(start_response)
        results.append(write(b"first"))
        results.append(write(b""))
        try:
            write(b"bad")
        except BrokenPipeError:
            results.append("broken")
        yield b"second"

    server = Server(wrap(app))
    server.write = write
    server.start_response = lambda *args: write
    server.run()
    assert results == [5, 0, "broken"]
    assert taken == [b"first", b""] and server.chunks == [b"second"]
    assert profiles.one()["action"]["bytes"] == 11


@pytest.mark.acceptance("W8")
def test_w8_chunks_are_the_same_objects_in_order_without_look_ahead(profiles):
    chunks = [b"one", b"", bytes(bytearray(b"two")), b"x" * 70000]
    produced = []

    def body():
        for chunk in chunks:
            produced.append(chunk)
            yield chunk

    server = Server(wrap(returning(body())))
    iterator = iter(server.call())
    assert produced == []
    for index, chunk in enumerate(chunks):
        assert next(iterator) is chunk
        assert len(produced) == index + 1
    with pytest.raises(StopIteration):
        next(iterator)
    server.close()
    assert profiles.one()["action"]["bytes"] == 70006


@pytest.mark.acceptance("W8")
def test_w8_odd_chunks_are_handed_on(profiles):
    chunks = [bytearray(b"a"), memoryview(b"b"), None, 7, "text"]
    server = Server(wrap(returning(iter(chunks)))).run()
    assert all(mine is theirs for mine, theirs in zip(server.chunks, chunks)) and len(server.chunks) == 5


@pytest.mark.parametrize("result", [None, 7, object()])
def test_a_result_that_is_no_body_is_the_servers_to_refuse(profiles, result):
    assert Server(wrap(returning(result))).call() is result
    profiles.one()


def test_a_body_with_getitem_only_iterates_as_bare(profiles):
    class Old:
        def __getitem__(self, index):
            return [b"a", b"b"][index]

    assert Server(wrap(returning(Old()))).run().chunks == [b"a", b"b"]


@pytest.mark.acceptance("W9", "PM22")
def test_w9_a_body_of_a_file_wrapper_class_is_returned_untouched_and_ended(profiles, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    made = []

    def app(env, start_response):
        ok(start_response)
        made.append(env["wsgi.file_wrapper"](open(tmp_path / "file", "rb")))
        return made[0]

    env = environ(wsgi__file_wrapper=FileWrapper)
    server = Server(wrap(app), env)
    assert server.call() is made[0]
    assert env["wsgi.file_wrapper"] is FileWrapper
    assert profiles.one()["action"]["outcome"] == "succeeded"
    assert b"".join(server.body) == b"content"
    server.close()


@pytest.mark.acceptance("W9", "PM22")
def test_w9_a_body_of_a_file_wrapper_function_too_and_its_key_is_restored(profiles):
    class Sent:
        def __init__(self, file):
            self.file = file

        def __iter__(self):
            return iter([self.file.read()])

    def factory(file, size=8192):
        return Sent(file)

    made = []

    def app(env, start_response):
        ok(start_response)
        made.append(env["wsgi.file_wrapper"](io.BytesIO(b"abc")))
        return made[0]

    env = environ(wsgi__file_wrapper=factory)
    assert Server(wrap(app), env).call() is made[0]
    assert env["wsgi.file_wrapper"] is factory
    profiles.one()

    def failing(env, start_response):
        raise ValueError("no")

    env = environ(wsgi__file_wrapper=factory)
    with pytest.raises(ValueError):
        Server(wrap(failing), env).call()
    assert env["wsgi.file_wrapper"] is factory


@pytest.mark.acceptance("W9")
def test_w9_another_body_beside_a_file_wrapper_is_wrapped(profiles):
    env = environ(wsgi__file_wrapper=FileWrapper)
    server = Server(wrap(generated), env).run()
    assert server.chunks == [b"hello ", b"", b"world"]
    assert profiles.one()["action"]["bytes"] == 11


@pytest.mark.acceptance("W11")
def test_w11_a_body_may_be_iterated_and_closed_on_other_threads(profiles):
    seen = []

    class Watching(Body):
        def _chunks(self):
            for chunk in super()._chunks():
                seen.append((threading.get_ident(), profilomatic.current_task_uuid()))
                yield chunk

        def close(self):
            super().close()
            seen.append((threading.get_ident(), profilomatic.current_task_uuid()))

    server = Server(wrap(returning(Watching([b"a", b"b", b"c"]))))
    iterator = iter(server.call())
    got = []

    def elsewhere(step):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()

    for _ in range(3):
        elsewhere(lambda: got.append(next(iterator)))
    elsewhere(lambda: got.append(next(iterator, None)))
    elsewhere(server.close)
    assert got == [b"a", b"b", b"c", None]
    assert profilomatic.current_task_uuid() is None
    record = profiles.one()
    assert {task_uuid for _, task_uuid in seen} == {record["task_uuid"]}
    assert record["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W11")
def test_w11_two_bodies_interleave_on_one_thread(profiles):
    def app(env, start_response):
        ok(start_response)
        name = env["PATH_INFO"]
        with profilomatic.action("inner of " + name):
            for _ in range(3):
                assert env["seen"](name) is None
                yield name.encode()

    def seen(name):
        mine.setdefault(name, set()).add(profilomatic.current_task_uuid())

    mine = {}
    servers = [Server(wrap(app), environ(path, seen=seen)) for path in ("/a", "/b")]
    iterators = [iter(server.call()) for server in servers]
    for _ in range(3):
        for iterator in iterators:
            next(iterator)
            assert profilomatic.current_task_uuid() is None
    for server, iterator in zip(servers, iterators):
        assert next(iterator, "end") == "end"
        server.close()
    records = {record["action"]["type"]: record for record in profiles.flushed(2)}
    for path, record in records.items():
        assert mine[path] == {record["task_uuid"]}
        assert [message["action_type"] for message in messages(record)] == ["inner of " + path] * 2
        assert [message["action_status"] for message in messages(record)] == ["started", "succeeded"]


@pytest.mark.acceptance("W11")
def test_w11_samples_are_taken_in_the_call_the_body_and_close_wherever_they_run(profiles):
    class Work(Body):
        def _chunks(self):
            for chunk in self.chunks:
                burn_until_sampled(2)
                yield chunk

        def close(self):
            burn_until_sampled(2)

    def app(env, start_response):
        ok(start_response)
        burn_until_sampled(2)
        return Work([b"a"])

    server = Server(wrap(app))
    server.call()
    thread = threading.Thread(target=lambda: list(server.body))
    thread.start()
    thread.join()
    server.close()
    record = profiles.one()
    first = {child["function"].rsplit(".", 1)[-1] for child in record["children"]}
    assert {"app", "_chunks", "close"} <= first
    assert "run" not in first and not [node for node in walk(record) if "/profilomatic/" in node["file"]]
    assert not [node for node in walk(record) if node["file"].endswith("wsgi_server.py") and
                node["function"] in ("Server.call", "Server.close", "Server.run")]


@pytest.mark.acceptance("W12")
def test_w12_exceptions_pass_unchanged_with_their_traceback(profiles):
    error = ZeroDivisionError("k-th")

    def app(env, start_response):
        ok(start_response)
        yield b"a"
        raise error

    server = Server(wrap(app))
    iterator = iter(server.call())
    next(iterator)
    with pytest.raises(ZeroDivisionError) as caught:
        next(iterator)
    assert caught.value is error and error.__cause__ is None and error.__context__ is None
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code is app.__code__
    server.close()
    assert profiles.one()["action"]["outcome"] == "failed"


class Leaving(BaseException):
    """Stands for GreenletExit and gevent.Timeout."""


@pytest.mark.acceptance("W13", "W22", "PM22")
@pytest.mark.parametrize("error, outcome", [
    (ValueError("x"), "failed"), (SystemExit(2), "failed"), (KeyboardInterrupt(), "failed"), (Leaving(), "failed"),
    (GeneratorExit(), "aborted"), (StopIteration(), "aborted"),
])
def test_w22_an_application_that_raises_ends_in_the_call(profiles, error, outcome):
    def app(env, start_response):
        raise error

    with pytest.raises(type(error)) as caught:
        Server(wrap(app)).call()
    assert caught.value is error
    action = profiles.one()["action"]
    assert action["outcome"] == outcome
    assert profilomatic.current_task_uuid() is None


@pytest.mark.acceptance("W13", "PM22")
@pytest.mark.parametrize("error, outcome", [
    (ValueError("x"), "failed"), (SystemExit(2), "failed"), (Leaving(), "failed"), (GeneratorExit(), "aborted"),
])
def test_w13_what_leaves_the_body_is_the_outcome(profiles, error, outcome):
    class Raising:
        def __iter__(self):
            return self

        def __next__(self):
            raise error

        def close(self):
            pass

    with pytest.raises(type(error)):
        Server(wrap(returning(Raising()))).run()
    assert profiles.one()["action"]["outcome"] == outcome


@pytest.mark.acceptance("W13", "PM22")
def test_w13_an_error_status_is_a_success_of_the_action(profiles):
    def app(env, start_response):
        start_response("503 Busy", [])
        return [b"later"]

    Server(wrap(app)).run()
    action = profiles.one()["action"]
    assert action["outcome"] == "succeeded" and action["status"] == 503


@pytest.mark.acceptance("W16")
def test_w16_the_environ_is_the_same_dict_and_gets_only_what_is_documented(profiles):
    seen = []

    def app(env, start_response):
        seen.append(env)
        seen.append(dict(env))
        return listed(env, start_response)

    env = environ("/x")
    before = dict(env)
    Server(wrap(app), env).run()
    assert seen[0] is env
    for during_or_after in (seen[1], env):
        added = {key for key in during_or_after if key not in before}
        assert "HTTP_X_TASK_UUID" in added
        assert all(key.startswith("profilomatic.") for key in added - {"HTTP_X_TASK_UUID"})
        assert {key: during_or_after[key] for key in before} == before


@pytest.mark.acceptance("W16", "W21")
def test_w16_an_environ_without_keys_is_served(profiles):
    Server(wrap(listed), {}).run()
    action = profiles.one()["action"]
    assert action["type"] == "wsgi_task" and action["outcome"] == "succeeded"


@pytest.mark.acceptance("W16", "W23")
def other_text(text):
    """Of the same value, in an object of its own: as servers make the keys of headers."""
    return "".join(list(text))


def crowded(more):
    """An environ whose hash table has other keys where those that are looked for would be, and places of keys that are gone."""
    env = {"key %d" % i: i for i in range(more)}
    for i in range(0, more, 3):
        del env["key %d" % i]
    env.update(environ("/crowded"))
    return env


@pytest.mark.acceptance("W16")
@pytest.mark.parametrize("make", [other_text, str], ids=["another object", "the same object"])
@pytest.mark.parametrize("more", [0, 1, 5, 20, 60, 100, 300, 40000])
def test_w16_what_the_environ_says_is_found_in_any_dict(profiles, make, more):
    for _ in range(2):  # the second time where it stood the first
        env = crowded(more)
        Server(wrap(listed), env).run()
        assert uuid.UUID(env["HTTP_X_TASK_UUID"]).version == 4  # nobody had said one
        said = {make("HTTP_HOST"): "h.example", make("HTTP_X_TASK_UUID"): "said-1", make("profilomatic.route"): "/said"}
        Server(wrap(listed), {**crowded(more), **said}).run()
    records = profiles.flushed(4)
    for record in records[1::2]:
        assert record["task_uuid"] == "said-1"
        assert (record["action"]["host"], record["action"]["route"]) == ("h.example", "/said")
    for record in records[0::2]:
        assert (record["action"]["host"], record["action"]["route"]) == ("localhost:8000", "/crowded")


def test_w16_no_reference_is_kept_past_the_end(profiles):
    class Input(io.BytesIO):
        pass

    class Application:
        def __call__(self, env, start_response):
            ok(start_response)
            with profilomatic.action("inner"):
                yield b"a"
                yield env["wsgi.input"].read()

    kept = []  # the finished body, as a server may
    gc.collect()
    gc.disable()
    try:
        stream = Input(b"x")
        application = Application()
        gone = [weakref.ref(stream), weakref.ref(application)]
        server = Server(wrap(application), environ(wsgi__input=stream)).run()
        kept.append(server.body)
        del server, stream, application
        profiles.one()
        gc.collect()
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.acceptance("W23")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="about reference counts")
@pytest.mark.parametrize("app", [listed, generated, returning(Body()), returning(Sized())])
def test_w23_a_request_leaves_no_cycle(profiles, app):
    wrapped = wrap(app)
    Server(wrapped).run()
    profiles.flushed(1)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(20):
            Server(wrapped).run()
        profiles.flushed(21)
        gc.collect()
        left = [type(thing).__name__ for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


@pytest.mark.acceptance("W23", "W22")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="about reference counts")
def test_w23_an_exceptions_frames_go_with_it(profiles):
    class Local:
        pass

    gone = []

    def app(env, start_response):
        local = Local()
        gone.append(weakref.ref(local))
        raise ValueError("no")

    gc.disable()
    try:
        try:
            Server(wrap(app)).call()
        except ValueError:
            pass
        profiles.one()
        assert gone[0]() is None
    finally:
        gc.enable()


@pytest.mark.acceptance("W18")
def test_w18_a_wrapped_application_inside_another_is_a_child_action(profiles):
    inner = wrap(listed)

    def outer(env, start_response):
        return inner(env, start_response)

    Server(wrap(outer), environ("/mount")).run()
    record = profiles.one()
    start, end = messages(record)
    assert (start["action_type"], start["action_status"]) == ("/mount", "started")
    assert start["method"] == "GET" and start["task_uuid"] == record["task_uuid"]
    assert (end["action_type"], end["action_status"]) == ("/mount", "succeeded")
    assert end["status"] == 200 and end["bytes"] == 11


@pytest.mark.acceptance("PM21", "W16", "W18")
def test_w18_a_child_tells_what_a_request_of_its_own_would(profiles):
    """Text decoded, secrets masked, the host's fallback: not the environ as it came."""
    env = {"QUERY_STRING": "q=caf%C3%A9&token=hidden", "SCRIPT_NAME": "/shop", "REQUEST_METHOD": "PUT"}
    names = ("method", "host", "script_name", "path_info", "query_string")
    Server(wrap(listed), environ("/caf\u00c3\u00a9", **env)).run()
    with profilomatic.action("test"):
        Server(wrap(listed), environ("/caf\u00c3\u00a9", **env)).run()
        Server(wrap(listed), environ("", SERVER_NAME=None, QUERY_STRING=7)).run()
    alone, test = profiles.flushed(2)
    start, end, bare, _ = messages(test)
    assert {name: start[name] for name in names} == {name: alone["action"][name] for name in names}
    assert start["action_type"] == end["action_type"] == alone["action"]["type"] == "/caf\u00e9"
    assert (start["host"], start["query_string"]) == ("localhost:8000", "q=caf%C3%A9&token=[scrubbed]")
    assert bare["action_type"] == "wsgi_task" and not bare.get("host") and not bare.get("query_string")


@pytest.mark.acceptance("W18")
def test_w18_a_new_environ_inside_a_request_is_a_child_too(profiles):
    inner = wrap(generated)

    def outer(env, start_response):
        sub = Server(inner, environ("/sub", HTTP_X_TASK_UUID="sub-request-0001")).run()
        ok(start_response)
        return [b"".join(sub.chunks)]

    server = Server(wrap(outer), environ("/page", HTTP_X_TASK_UUID="page-request-0001")).run()
    assert server.chunks == [b"hello world"]
    record = profiles.one()
    assert record["task_uuid"] == "page-request-0001"
    assert [(message["action_type"], message["action_status"], message["task_uuid"]) for message in messages(record)] == \
        [("/sub", "started", "sub-request-0001"), ("/sub", "succeeded", "sub-request-0001")]


@pytest.mark.acceptance("W18")
def test_w18_a_child_that_fails_says_so_and_the_outer_goes_on(profiles):
    def broken(env, start_response):
        raise KeyError("part")

    inner = wrap(broken)

    def outer(env, start_response):
        try:
            inner(env, start_response)
        except KeyError:
            pass
        return listed(env, start_response)

    Server(wrap(outer)).run()
    record = profiles.one()
    assert record["action"]["outcome"] == "succeeded"
    end = messages(record)[-1]
    assert (end["action_status"], end["exception"], end["reason"]) == ("failed", "KeyError", "'part'")


@pytest.mark.acceptance("W19", "W18")
def test_w19_routes_of_flask_with_the_mount_once(profiles):
    flask = pytest.importorskip("flask")
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = flask.Flask("shop")

    @app.route("/item/<int:number>")
    def item(number):
        return "item %d" % number

    @app.route("/stream/<name>")
    def stream(name):
        return flask.Response(iter([name, "!"]))

    app.wsgi_app = wrap(app.wsgi_app)
    with app.test_client() as client:
        for path in ("/item/7?key=secret", "/stream/tea", "/absent/1", "/item/word"):
            client.get(path, buffered=True).close()
        client.post("/item/7", buffered=True).close()
    actions = [record["action"] for record in profiles.flushed(5)]
    assert [(action["type"], action["route"], action["status"]) for action in actions] == [
        ("/item/7", "/item/<int:number>", 200), ("/stream/tea", "/stream/<name>", 200),
        ("/absent/1", "<not found>", 404), ("/item/word", "<not found>", 404), ("/item/7", "/item/<id>", 405)]
    assert actions[0]["query_string"] == "key=[scrubbed]"

    mounted = wrap(DispatcherMiddleware(listed, {"/shop": app}))
    Server(mounted, environ("/shop/item/9")).run()
    record = profiles.flushed(6)[-1]
    assert record["action"]["route"] == "/shop/item/<int:number>"
    assert messages(record)[-1]["route"] == "/shop/item/<int:number>"


@pytest.mark.acceptance("W19")
@pytest.mark.parametrize("path, route", [
    ("/", "/"), ("/a/b", "/a/b"), ("/item/17", "/item/<id>"), ("/item/17/x/", "/item/<id>/x/"),
    ("/u/123e4567-e89b-12d3-a456-426614174000", "/u/<id>"), ("/c/deadbeef01", "/c/<id>"), ("/c/cafe", "/c/cafe"),
    ("/t/abcdefghijklmnopqrst1", "/t/<id>"), ("/t/abcdefghijklmnopqrstuvwxyz", "/t/abcdefghijklmnopqrstuvwxyz"),
    ("/v2/x1", "/v2/x1"), ("/log/2024-01-15", "/log/<id>"), ("/order-12345.pdf", "/<id>"), ("/covid19", "/covid19"),
    ("/u/ann@example.org/", "/u/<id>/"), ("/v1.2/1.2", "/v1.2/<id>"), ("/-._", "/-._"),
])
def test_w19_without_a_router_identifiers_are_masked(profiles, path, route):
    Server(wrap(listed), environ(path)).run()
    assert profiles.one()["action"]["route"] == route


@pytest.mark.acceptance("W19")
def test_w19_the_number_of_route_names_is_bounded(python):
    printed = python("""if True:
        import profilomatic
        routes = set()
        profilomatic.configure(max_actions_per_run=0)
        profilomatic.add_destination(lambda record: routes.add(record["action"]["route"]))
        app = profilomatic.wsgi.wrap(lambda environ, start_response: (start_response("200 OK", []), [b""])[1])
        word = "abcdefghij"
        for number in range(3000):
            name = "".join("klmnopqrst"[int(digit)] for digit in str(number))
            app({"PATH_INFO": "/" + name}, lambda *args: None)
            if number % 500 == 0:
                assert profilomatic.flush(60)
        assert profilomatic.flush(60)
        counted = profilomatic.stats()["routes"]
        print(len(routes), "<other>" in routes, counted["names"], counted["other"])
        """)
    assert printed.split() == ["1001", "True", "1000", "2000"]


@pytest.mark.acceptance("W19")
def test_w19_what_somebody_says_in_the_environ_is_the_route(profiles):
    def app(env, start_response):
        env["profilomatic.route"] = env["HTTP_SAYS"]
        return listed(env, start_response)

    for says in ("/item/{id}", "/caf\u00e9", "\ud800", 7, "", "/" + "x" * 3000):
        Server(wrap(app), environ("/item/7", SCRIPT_NAME="/shop", HTTP_SAYS=says)).run()
    routes = [record["action"]["route"] for record in profiles.flushed(6)]
    assert routes[:2] == ["/shop/item/{id}", "/shop/caf\u00e9"]
    assert routes[3] == "/shop/item/<id>"
    assert routes[5].startswith("/shop/xxx") and len(routes[5]) <= 1024


@pytest.mark.acceptance("W19")
def test_w19_the_route_is_read_again_at_the_end_and_keeps_its_first_mount(profiles):
    def late(env, start_response):
        ok(start_response)
        env["profilomatic.route"] = "/late"
        return [b""]

    def moved(env, start_response):
        env["profilomatic.route"] = "/item"
        env["SCRIPT_NAME"] = "/mounted"
        ok(start_response)
        env["SCRIPT_NAME"] = ""
        return [b""]

    for app in (late, moved):
        Server(wrap(app)).run()
    assert [record["action"]["route"] for record in profiles.flushed(2)] == ["/late", "/mounted/item"]


@pytest.mark.acceptance("W19", "W21")
def test_w19_a_hostile_framework_object_is_no_route(profiles):
    class Hostile:
        def __getattr__(self, name):
            raise RuntimeError("no " + name)

    class Broken:
        rule = url_rule = 7

    for key in ("werkzeug.request", "bottle.route"):
        for framework in (Hostile(), Broken(), None, 7):
            env = environ("/item/7", **{key: framework})
            assert Server(wrap(listed), env).run().chunks == [b"hello ", b"world"]
    assert {record["action"]["route"] for record in profiles.flushed(8)} == {"/item/<id>"}


@pytest.mark.acceptance("PM22", "W6")
def test_the_exception_of_an_error_page_is_linked_and_the_outcome_stays(profiles):
    def page(env, start_response):
        try:
            raise LookupError("gone")
        except LookupError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"sorry"]

    def linked(env, start_response):
        start_response("500 Oops", [])
        profilomatic.wsgi.link_exception(env, ValueError("linked late"))
        return iter([b"sorry"])

    def raising(env, start_response):
        profilomatic.wsgi.link_exception(env, ValueError("handled"))
        raise KeyError("left")

    def odd(env, start_response):
        env["profilomatic.exception"] = env["ODD"]
        return listed(env, start_response)

    def outer(env, start_response):
        Server(wrap(page)).run()
        return listed(env, start_response)

    for app in (page, linked, outer):
        Server(wrap(app)).run()
    with pytest.raises(KeyError):
        Server(wrap(raising)).run()
    for value in (ValueError("itself"), ("one",), ("a", 7), 7, "text"):
        Server(wrap(odd), environ(ODD=value)).run()
    actions = [record["action"] for record in profiles.flushed(9)]
    said = [(action["outcome"], action.get("exception"), action.get("reason")) for action in actions]
    assert said[:4] == [("succeeded", "LookupError", "gone"), ("succeeded", "ValueError", "linked late"),
                        ("succeeded", None, None), ("failed", "KeyError", "'left'")]
    end = messages(profiles.records[2])[-1]
    assert (end["action_status"], end["exception"], end["reason"]) == ("succeeded", "LookupError", "gone")
    assert set(said[4:]) == {("succeeded", None, None)}


@pytest.mark.acceptance("PM20")
@pytest.mark.parametrize("headers, expected", [
    ({"HTTP_X_TASK_UUID": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}, "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
    ({"HTTP_TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
     "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
    ({"HTTP_TRACEPARENT": "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later"},
     "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
    ({"HTTP_X_TASK_UUID": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
      "HTTP_TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
     "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
])
def test_the_task_id_comes_from_the_headers_and_stands_in_the_environ(profiles, headers, expected):
    env = environ(**headers)
    inside = []

    def app(env, start_response):
        inside.append((env["HTTP_X_TASK_UUID"], profilomatic.current_task_uuid()))
        return listed(env, start_response)

    Server(wrap(app), env).run()
    assert inside == [(expected, expected)]
    assert profiles.one()["task_uuid"] == expected
    assert env["HTTP_X_TASK_UUID"] == expected


@pytest.mark.acceptance("PM20")
def test_without_a_header_the_task_id_is_a_new_uuid4(profiles):
    import uuid

    for _ in range(2):
        Server(wrap(listed)).run()
    first, second = (uuid.UUID(record["task_uuid"]) for record in profiles.flushed(2))
    assert first != second and first.version == second.version == 4


@pytest.mark.acceptance("PM19")
@pytest.mark.filterwarnings("error")
def test_webtests_lint_finds_nothing(profiles):
    webtest = pytest.importorskip("webtest")

    for app in (listed, generated):
        assert webtest.TestApp(wrap(app), lint=True).get("/path?a=1").body == b"hello world"
    profiles.flushed(2)


@pytest.mark.acceptance("W17")
def test_w17_the_input_is_the_servers_own(profiles):
    stream = io.BytesIO(b"a\nb\n")
    seen = []

    def app(env, start_response):
        seen.append(env["wsgi.input"])
        return returning([line for line in env["wsgi.input"]])(env, start_response)

    assert Server(wrap(app), environ(wsgi__input=stream)).run().chunks == [b"a\n", b"b\n"]
    assert seen == [stream] and not stream.closed


def test_the_pid_is_the_process(profiles):
    Server(wrap(listed)).run()
    assert profiles.one()["pid"] == os.getpid()
