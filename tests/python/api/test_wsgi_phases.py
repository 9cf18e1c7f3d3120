"""Where the time of a request goes: the proxy's queue, the application, the body, the client, close().

No test sleeps. Who is slow works until the sampler has taken two samples; how long that took is measured, and must be that phase's.
"""

import threading
import time

import pytest
from pom_support import PATIENCE, Slow
from wsgi_server import Body, Server, environ, generated, listed, ok, returning

import profilomatic

wrap = profilomatic.wsgi.wrap

pytestmark = pytest.mark.acceptance("W14")


@pytest.fixture
def slow():
    return Slow()


def slow_client(slow):
    """The server waits for its client. Nothing of the request is attached meanwhile, so that the samples are another action's."""
    with profilomatic.action("elsewhere"):
        slow()


def phases_of(profiles):
    """The phases of the only request, each of which must be part of its time, but for the queue's."""
    [record] = [record for record in profiles.flushed() if record["action"]["kind"] == "wsgi"]
    phases = record["action"]["phases"]
    assert round(sum(spent for name, spent in phases.items() if name != "queue"), 9) <= record["time"]  # both of whole nanoseconds
    return phases


class SlowBody(Body):
    """Is slow at one of its steps: before a chunk (by its number), or in close()."""

    def __init__(self, slow, slow_at, chunks):
        super().__init__(chunks)
        self.slow, self.slow_at = slow, slow_at

    def _chunks(self):
        for index, chunk in enumerate(self.chunks):
            if index == self.slow_at:
                self.slow()
            yield chunk

    def close(self):
        if self.slow_at == "close":
            self.slow()


@pytest.mark.parametrize("header, waited", [
    ("t=%.3f", 2.0), ("%.3f", 2.0), ("t=%.3f", -2.0), ("t=%.3f", 7200.0), ("nonsense %.3f", 2.0)])
def test_what_a_proxy_wrote_is_the_queues_time(profiles, header, waited):
    env = environ(HTTP_X_REQUEST_START=header % (time.time() - waited))
    Server(wrap(listed), env).run()
    queue = phases_of(profiles).get("queue", 0)
    assert (1.9 < queue < 2 + PATIENCE) == (waited == 2 and "nonsense" not in header)


@pytest.mark.parametrize("header", ["t=%d", "%d"])
@pytest.mark.parametrize("unit", [10**3, 10**6, 10**9])
def test_a_proxy_may_write_thousandths_or_smaller_parts(profiles, header, unit):
    env = environ(HTTP_X_REQUEST_START=header % ((time.time() - 2) * unit))
    Server(wrap(listed), env).run()
    assert 1.9 < phases_of(profiles)["queue"] < 2 + PATIENCE


@pytest.mark.parametrize("start", [None, 17, "", "t=\u20ac", b"t=1"])
def test_a_request_without_a_moment_has_no_queue(profiles, start):
    Server(wrap(listed), environ(HTTP_X_REQUEST_START=start)).run()
    assert "queue" not in phases_of(profiles)


@pytest.mark.parametrize("slow_at, chunks, phase", [
    (0, (b"a", b"b"), "first_byte"), (1, (b"", b"b"), "first_byte"), (1, (b"a", b"b"), "body"), ("close", (b"a",), "close")])
def test_each_step_of_a_body_has_its_phase(profiles, slow, slow_at, chunks, phase):
    Server(wrap(returning(SlowBody(slow, slow_at, chunks)))).run()
    slow.is_all_in(phases_of(profiles), phase)


def test_the_call_itself_is_the_applications(profiles, slow):
    def app(env, start_response):
        slow()
        ok(start_response)
        return iter([b"a"])

    Server(wrap(app)).run()
    slow.is_all_in(phases_of(profiles), "app")


@pytest.mark.skipif(profilomatic.stats()["engine"] == "pure", reason="the twin looks at its clock once more at the end")
@pytest.mark.parametrize("app", [listed, generated, returning(SlowBody(lambda: None, 1, (b"a", b"b")))])
def test_the_phases_of_a_request_that_is_closed_add_up_to_its_time(profiles, app):
    Server(wrap(app)).run()
    [record] = profiles.flushed()
    assert round(sum(record["action"]["phases"].values()), 9) == record["time"]


def read_slowly(server, slow):
    for _ in server.body:
        slow_client(slow)
    server.close()


def read_one_slowly_and_go(server, slow):
    next(iter(server.body))
    slow_client(slow)
    server.close()


def begin_slowly(server, slow):
    slow_client(slow)
    list(server.body)
    server.close()


def read_nothing(server, slow):
    slow_client(slow)
    server.close()


def read_one_slowly_and_drop(server, slow):
    next(iter(server.body))
    slow_client(slow)
    server.body = None


@pytest.mark.parametrize("read", [read_slowly, read_one_slowly_and_go, begin_slowly, read_nothing, read_one_slowly_and_drop],
                         ids=lambda read: read.__name__)
def test_a_slow_client_is_never_the_applications_time(profiles, slow, read):
    server = Server(wrap(generated))
    server.call()
    read(server, slow)
    slow.is_all_in(phases_of(profiles), "client")


def test_a_slow_client_is_no_applications_time_in_a_body_that_fails(profiles, slow):
    server = Server(wrap(returning(Body(fail_at=1))))
    server.call()
    chunks = iter(server.body)
    next(chunks)
    slow_client(slow)
    with pytest.raises(LookupError):
        next(chunks)
    server.close()
    slow.is_all_in(phases_of(profiles), "client")


@pytest.mark.parametrize("where", ["call", "next"])
def test_a_client_that_is_slow_to_take_what_is_written_is_no_applications_time(profiles, slow, where):
    class SlowServer(Server):
        def write(self, data):
            slow()

    def pushing(write):
        write(b"pushed")
        yield b"returned"

    def app(env, start_response):
        write = ok(start_response)
        if where == "next":
            return pushing(write)
        write(b"pushed")
        return [b"returned"]

    SlowServer(wrap(app)).run()
    slow.is_all_in(phases_of(profiles), "client")


def test_the_lines_of_a_body_of_many_chunks_have_its_time(profiles):
    """Each chunk takes less than the time between two samples."""
    def chunks(env, start_response):
        start_response("200 OK", [])
        for _ in range(3000):
            for _ in range(5000):
                pass
            yield b"chunk"

    Server(wrap(chunks)).run()
    record = profiles.one()
    below = sum(node["time"] for node in record["children"])
    assert 0.5 * record["action"]["phases"]["body"] < below <= record["time"]


def server_works(seconds):
    """The thread's own CPU time, outside of the request."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_what_the_server_computes_between_chunks_is_not_the_requests(profiles):
    server = Server(wrap(generated), environ())
    for _ in server.call():
        server_works(0.05)
    server_works(0.05)
    server.close()
    assert profiles.one()["cpu_time"] < 0.04


def test_what_the_server_computes_before_close_is_not_the_next_requests(profiles, slow):
    first = Server(wrap(returning(Body([b"all"]))), environ())
    for _ in first.call():
        pass

    def slow_enough():
        while slow.seconds < 0.06:  # what is not its own would be no more than its time
            slow()

    def waiting(env, start_response):
        thread = threading.Thread(target=slow_enough)
        thread.start()
        thread.join()
        return listed(env, start_response)

    second = Server(wrap(waiting), environ("/second"))
    server_works(0.05)
    first.close()
    second.run()
    _, record = profiles.flushed(2)
    assert record["time"] > 0.06 and record["cpu_time"] < 0.04
