"""Faults of ours and hostile input: the response stays byte for byte what it was, and what happened is counted."""

import io
import os
import platform
import threading

import pytest
from pom_support import REFUSE, messages
from wsgi_server import Body, Server, Sized, environ, generated, listed, ok, returning

import profilomatic

wrap = profilomatic.wsgi.wrap


class Hostile:
    """Fails whatever is done to it."""

    def __getattribute__(self, name):
        raise RuntimeError("hostile " + name)

    def __str__(self):
        raise RuntimeError("hostile str")

    __repr__ = __bool__ = __len__ = __hash__ = __eq__ = __iter__ = __str__


class HostileText(str):
    """A str that fails in its methods."""

    def encode(self, *args):
        raise RuntimeError("hostile encode")

    lower = split = partition = isascii = __len__ = encode


def bare_and_wrapped(app, make_environ):
    bare = Server(app, make_environ()).run()
    wrapped = Server(wrap(app), make_environ()).run()
    assert [call[:2] for call in wrapped.calls] == [call[:2] for call in bare.calls]
    assert (wrapped.written, wrapped.chunks) == (bare.written, bare.chunks)


VALUES = {  # made late: pytest itself could not look at some of them
    "none": lambda: None, "int": lambda: 7, "bytes": lambda: b"bytes", "hostile": Hostile,
    "hostile-str": lambda: HostileText("x"), "snowmen": lambda: "\u2603" * 10, "surrogate": lambda: "\ud800",
    "empty": lambda: "", "long": lambda: "a" * 200000, "list": lambda: ["list"], "control": lambda: "\x00\n\r\x1b",
}
KEYS = ["PATH_INFO", "SCRIPT_NAME", "QUERY_STRING", "REQUEST_METHOD", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT",
        "HTTP_X_TASK_UUID", "HTTP_TRACEPARENT", "wsgi.file_wrapper", "werkzeug.request"]


@pytest.mark.acceptance("W21", "W16")
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", list(VALUES))
def test_hostile_environ_values_change_nothing(profiles, key, kind):
    value = VALUES[kind]()
    for app in (listed, generated):
        def make_environ():
            env = environ()
            env[key] = value
            return env

        bare_and_wrapped(app, make_environ)
    records = profiles.flushed()
    assert len(records) <= 2
    import json

    json.dumps(records, allow_nan=False).encode("ascii")


class LikeAName:
    """A key that a look-up of HTTP_TRACEPARENT compares with, as they have one hash."""

    compared = 0

    def __hash__(self):
        return hash("HTTP_TRACEPARENT")

    def __eq__(self, other):
        LikeAName.compared += 1
        return False


@pytest.mark.acceptance("W21")
def test_keys_that_are_no_text_are_not_compared(profiles, backend):
    if backend == "pure":
        pytest.skip("a look-up in Python compares them")
    given = "0af7651916cd43dd8448eb211c80319c"
    env = {LikeAName(): 1, **environ("/odd"), "HTTP_TRACEPARENT": "00-%s-b7ad6b7169203331-01" % given}
    wrapped = wrap(listed)
    LikeAName.compared = 0
    for _ in range(2):
        wrapped(dict(env), lambda *args: None)
    assert LikeAName.compared == 0
    for record in profiles.flushed():
        assert record["action"]["path_info"] == "/odd"
        assert record["task_uuid"].replace("-", "") == given


@pytest.mark.acceptance("PM20", "W21")
@pytest.mark.parametrize("header", [
    "", " ", "x" * 300, "bad id", "id\r\nSet-Cookie: a=b", "caf\u00e9", "<script>", "\x00", '"quoted"', "a;b",
])
def test_malformed_task_ids_are_ignored(profiles, header):
    env = environ(HTTP_X_TASK_UUID=header)
    server = Server(wrap(listed), env).run()
    assert server.seen == Server(listed).run().seen
    task_uuid = profiles.one()["task_uuid"]
    assert task_uuid != header and len(task_uuid) == 36
    assert env["HTTP_X_TASK_UUID"] == task_uuid


@pytest.mark.acceptance("PM20", "W21")
@pytest.mark.parametrize("header", [
    "", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", "x" * 10000,
    "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
    "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
])
def test_malformed_traceparents_are_ignored(profiles, header):
    Server(wrap(listed), environ(HTTP_TRACEPARENT=header)).run()
    assert not profiles.one()["task_uuid"].startswith(("4bf92f35", "4BF92F35", "00000000-0000"))


@pytest.mark.acceptance("W21")
@pytest.mark.parametrize("make_body", [
    lambda: Body([]), lambda: Body([b""]), lambda: Sized([]), lambda: iter([b"a"]), lambda: {b"a": 1}, lambda: b"bytes",
    lambda: bytearray(b"ab"), lambda: "text", lambda: range(2), lambda: io.BytesIO(b"line\nline"), lambda: map(bytes, [b"a"]),
    lambda: [1, None, "text"], lambda: [Hostile()][:0], lambda: frozenset([b"x"]),
])
def test_bodies_of_any_shape_come_through(profiles, make_body):
    def app(env, start_response):
        ok(start_response)
        return make_body()

    bare_and_wrapped(app, environ)
    assert profiles.one()["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W21")
@pytest.mark.parametrize("make", [
    lambda: ("", []), lambda: ("abc", []), lambda: (200, []), lambda: (None, None), lambda: ("200", 7),
    lambda: ("200 OK", [("Content-Length", "x" * 100)]), lambda: ("200 OK", [None, 3, ("a",)]),
    lambda: ("999999 Odd", [("Content-Length", "9" * 9000)]), lambda: (Hostile(), Hostile()),
    lambda: ("200 OK", [(Hostile(), Hostile())]), lambda: (HostileText("200 OK"), [(HostileText("a"), HostileText("b"))]),
    lambda: ("\u0661\u0662\u0663 digits", [("Content-Length", "\u0663")]),
    lambda: ("\u00b2\u00b2\u00b2", [("Content-Length", "\u00b2")]),
])
def test_odd_statuses_and_headers_go_to_the_server_as_they_are(profiles, make):
    status, headers = make()

    def app(env, start_response):
        start_response(status, headers)
        yield b"a"

    server = Server(wrap(app)).run()
    call, = server.calls
    assert call[0] is status and call[1] is headers
    assert server.chunks == [b"a"]
    assert profiles.one()["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W21")
def test_unserialisable_fields_and_messages_harm_nobody(profiles):
    class Text(str):
        pass

    class Whole(int):
        def __int__(self):
            raise RuntimeError("no int")

    class Mapping(dict):
        def items(self):
            raise RuntimeError("no items")

    fields = dict(a=Hostile(), b=Text("text"), c=Whole(3), d=Mapping(x=1), e=threading.Lock(), f=lambda: None, g=object,
                  h=HostileText("x"), i={Hostile: 1}, j=[Hostile()], k=10 ** 5000, l=memoryview(b"abc"), m=1j)
    with profilomatic.action("odd", **fields) as a:
        a.message(**fields)
        a.message(fine=1)
    record = profiles.one()
    import json

    json.dumps(record)
    assert record["action"]["b"] == "text"
    assert messages(record)[-1] == {"fine": 1}


@pytest.mark.acceptance("W21")
def test_an_exception_that_cannot_be_shown_is_recorded_all_the_same(profiles):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

    with pytest.raises(Mute):
        with profilomatic.action("a"):
            raise Mute
    with pytest.raises(Mute):
        def app(env, start_response):
            raise Mute

        Server(wrap(app)).call()
    for record in profiles.flushed(2):
        assert record["action"]["outcome"] == "failed"
        assert record["action"]["exception"].endswith("Mute")


@pytest.mark.acceptance("W21")
def test_an_environ_that_is_no_plain_dict_is_passed_on(profiles):
    class Environ(dict):
        pass

    class Broken(dict):
        def get(self, *args):
            raise RuntimeError("no get")

        def __setitem__(self, key, value):
            raise RuntimeError("no set")

        __getitem__ = get

    for make in (Environ, Broken):
        env = make(environ())
        server = Server(wrap(generated), env).run()
        assert server.chunks == [b"hello ", b"", b"world"] and server.environ is env
    profiles.flushed()


@pytest.mark.acceptance("W21")
def test_calls_with_wrong_arguments_fail_as_bare(profiles):
    for arguments in ((), (environ(),), (environ(), None, 3)):
        with pytest.raises(TypeError):
            wrap(listed)(*arguments)
    with pytest.raises(TypeError):
        wrap(listed)(environ(), None)
    profiles.flushed()
    assert profilomatic.current_task_uuid() is None


@pytest.mark.acceptance("W21")
@pytest.mark.parametrize("broken", [
    "Request._fields", "Request.read_route", "Request._swap_file_wrapper", "Request.attach", "Request.detach",
    "Request.body", "Request.finish", "Request.begin", "_pure.begin", "_pure.end", "_values.display",
    "_values.task_uuid_of", "_values.scrubbed_query", "_values.encode_fields", "_values.masked_path",
    "_values.described", "_pure_native.own_cpu_ns", "_server_frame",
])
def test_a_fault_injected_anywhere_leaves_the_response_alone(profiles, backend, monkeypatch, broken):
    if backend != "pure":
        pytest.skip("injected in the twin's Python; the C hooks have their own tests")
    from profilomatic import _pure_wsgi

    def fail(*args, **kwargs):
        raise RuntimeError("injected")

    def failing(env, start_response):
        ok(start_response)
        yield b"a"
        raise LookupError("the application's own")

    holder = _pure_wsgi
    for name in broken.split(".")[:-1]:
        holder = getattr(holder, name, None) or getattr(_pure_wsgi._pure, name)
    apps = [listed, generated, returning(Body()), returning(Sized())]
    expected = [Server(app).run() for app in apps]
    with monkeypatch.context() as patch:
        if broken == "Request.attach" or broken == "Request.detach":
            patch.setattr(_pure_wsgi._pure._current, "set", fail) if False else \
                patch.setattr(_pure_wsgi._pure, "_asyncio_task", fail)
        elif broken in ("Request.body", "Request.finish"):
            patch.setattr(_pure_wsgi._pure._engine.route_names, "bounded", fail)
        else:
            patch.setattr(holder, broken.rsplit(".", 1)[-1], fail)
        for app, bare in zip(apps, expected):
            server = Server(wrap(app)).run()
            assert (server.chunks, server.written) == (bare.chunks, bare.written)
            assert [call[:2] for call in server.calls] == [call[:2] for call in bare.calls]
        server = Server(wrap(failing))
        with pytest.raises(LookupError, match="the application's own"):
            server.run()
        assert server.chunks == [b"a"]
        with profilomatic.action("own") as a:
            a.message(step=1)
    faults = _pure_wsgi._pure.engine_info()["details"]["faults"]
    assert sum(faults.values()) >= 1
    # And afterwards all is well again.
    count = len(profiles.flushed())
    _pure_wsgi._pure._current.set(None)
    assert Server(wrap(generated)).run().chunks == [b"hello ", b"", b"world"]
    assert len(profiles.flushed()) == count + 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter names a system call by its number there")
def test_a_file_of_the_programs_on_our_number_outlives_a_fork(python, backend):
    """Where process_vm_readv is refused /proc/self/mem stays open, until a program closes what it does not know."""
    if backend != "c" or os.environ.get("PROFILOMATIC_ENGINE") == "gil":
        pytest.skip("only the native engine reads memory")
    assert python(REFUSE + """if True:
        import os
        if not refuse(PROCESS_VM_READV):
            print("0")  # not allowed here
            raise SystemExit
        import profilomatic
        profilomatic.add_destination([].append)
        with profilomatic.action("a"):
            pass
        paths = {int(fd): os.path.realpath("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")}
        number, = [fd for fd, path in paths.items() if path == "/proc/%d/mem" % os.getpid()]
        os.dup2(os.pipe()[0], number)
        ours = os.fstat(number).st_ino
        child = os.fork()
        if child == 0:
            os._exit(0 if os.fstat(number).st_ino == ours else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """).split() == ["0"]
