"""Where the time of a request goes: the proxy's queue, the application, the body, the client, close().

No test sleeps. Who is slow works until the sampler has taken two samples, two periods at least, and is held against
the other phases, which do next to nothing.
"""

import time

import pytest
from pom_support import PATIENCE, burn_until_sampled
from wsgi_server import Body, Server, environ, generated, listed, ok, returning

import profilomatic

wrap = profilomatic.wsgi.wrap

pytestmark = pytest.mark.acceptance("W14")


def slow_client():
    """The server waits for its client. Nothing of the request is attached meanwhile, so that the samples are another action's."""
    with profilomatic.action("elsewhere"):
        burn_until_sampled(2)


def phases_of(profiles):
    """The phases of the only request, each of which must be part of its time, but for the queue's."""
    [record] = [record for record in profiles.flushed() if record["action"]["kind"] == "wsgi"]
    phases = record["action"]["phases"]
    assert sum(spent for name, spent in phases.items() if name != "queue") <= record["time"]
    return phases


def longest(phases):
    return max(phases, key=phases.get)


class SlowBody(Body):
    """Is slow at one of its steps: before a chunk (by its number), or in close()."""

    def __init__(self, slow_at, chunks=(b"a", b"b")):
        super().__init__(chunks)
        self.slow_at = slow_at

    def _chunks(self):
        for index, chunk in enumerate(self.chunks):
            if index == self.slow_at:
                burn_until_sampled(2)
            yield chunk

    def close(self):
        if self.slow_at == "close":
            burn_until_sampled(2)


@pytest.mark.parametrize("header, waited", [
    ("t=%.3f", 2.0), ("%.3f", 2.0), ("t=%.3f", -2.0), ("t=%.3f", 7200.0), ("nonsense %.3f", 2.0)])
def test_what_a_proxy_wrote_is_the_queues_time(profiles, header, waited):
    env = environ(HTTP_X_REQUEST_START=header % (time.time() - waited))
    Server(wrap(listed), env).run()
    queue = phases_of(profiles).get("queue", 0)
    assert (1.9 < queue < 2 + PATIENCE) == (waited == 2 and "nonsense" not in header)


@pytest.mark.parametrize("start", [None, 17, "", "t=\u20ac", b"t=1"])
def test_a_request_without_a_moment_has_no_queue(profiles, start):
    Server(wrap(listed), environ(HTTP_X_REQUEST_START=start)).run()
    assert "queue" not in phases_of(profiles)


@pytest.mark.parametrize("slow_at, chunks, phase", [
    (0, (b"a", b"b"), "first_byte"), (1, (b"", b"b"), "first_byte"), (1, (b"a", b"b"), "body"), ("close", (b"a",), "close")])
def test_each_step_of_a_body_has_its_phase(profiles, slow_at, chunks, phase):
    Server(wrap(returning(SlowBody(slow_at, chunks)))).run()
    assert longest(phases_of(profiles)) == phase


def test_the_call_itself_is_the_applications(profiles):
    def app(env, start_response):
        burn_until_sampled(2)
        ok(start_response)
        return iter([b"a"])

    Server(wrap(app)).run()
    assert longest(phases_of(profiles)) == "app"


def read_slowly(server):
    for _ in server.body:
        slow_client()
    server.close()


def read_one_slowly_and_go(server):
    next(iter(server.body))
    slow_client()
    server.close()


def begin_slowly(server):
    slow_client()
    list(server.body)
    server.close()


def read_nothing(server):
    slow_client()
    server.close()


def read_one_slowly_and_drop(server):
    next(iter(server.body))
    slow_client()
    server.body = None


@pytest.mark.parametrize("read", [read_slowly, read_one_slowly_and_go, begin_slowly, read_nothing, read_one_slowly_and_drop],
                         ids=lambda read: read.__name__)
def test_a_slow_client_is_never_the_applications_time(profiles, read):
    server = Server(wrap(generated))
    server.call()
    read(server)
    phases = phases_of(profiles)
    assert phases["client"] > 0.5 * sum(phases.values())


def test_a_slow_client_is_no_applications_time_in_a_body_that_fails(profiles):
    server = Server(wrap(returning(Body(fail_at=1))))
    server.call()
    chunks = iter(server.body)
    next(chunks)
    slow_client()
    with pytest.raises(LookupError):
        next(chunks)
    server.close()
    phases = phases_of(profiles)
    assert phases["client"] > 0.5 * sum(phases.values())


@pytest.mark.parametrize("where", ["call", "next"])
def test_a_client_that_is_slow_to_take_what_is_written_is_no_applications_time(profiles, where):
    class SlowServer(Server):
        def write(self, data):
            burn_until_sampled(2)

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
    phases = phases_of(profiles)
    assert phases["client"] > 0.5 * sum(phases.values())


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
