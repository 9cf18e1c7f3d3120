"""RestDestination against servers on loopback that behave, and that do not.

After each test what was produced must be sent, spooled or dropped (conftest.py).
"""

import gc
import os
import re
import socket
import ssl
import struct
import sys
import time

import pytest
from pom_support import PATIENCE, run_python, wait_until
from rest_server import OK, Gate, Server, answer, fates

import profilomatic

BUSY = answer("503 Busy", "Retry-After: 0\r\n")


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("compress", [True, False])
def test_call_graphs_arrive_on_one_connection(sender, compress):
    with Server() as server:
        one = sender("127.0.0.1", server.port, compress=compress, headers={"X-Shop": "north"}, token="s3cret")
        one.flushed(3)
        counters = one.flushed(2)
        assert counters["sent"] == 5 and counters["dropped"] == {} and counters["last_error"] is None
        assert [record["action"]["number"] for record in server.records()] == [0, 1, 2, 0, 1]
        assert server.connections == 1
        head = server.requests[0][0]
        assert head.startswith("POST /api/data HTTP/1.1\r\n")
        assert "X-Shop: north\r\n" in head and "Authorization: Bearer s3cret\r\n" in head
        assert "s3cret" not in repr(one.destination) + str(profilomatic.stats())


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("how", ["context", "ca_file", "client", "client in context", "context and client"])
def test_call_graphs_arrive_over_tls(sender, certificates, how):
    with Server(context=certificates.server("good", ask_client="client" in how)) as server:
        options = {"ca_file": certificates.ca}
        if "context" in how:
            options = {"ssl_context": ssl.create_default_context(cafile=certificates.ca)}
        if how == "client in context":
            options["ssl_context"].load_cert_chain(certificates.other, certificates.key("other"))
        elif "client" in how:
            options.update(cert=certificates.other, key=certificates.key("other"))
        for host in ("127.0.0.1", "localhost"):
            one = sender(host, server.port, **options)
            assert one.flushed(2)["sent"] == 2
            assert one.destination.name == "https://%s:%d/api/data" % (host, server.port)
            one.leave()
        assert len(server.records()) == 4


def test_tls_sessions_are_resumed(sender, certificates, only_c):
    with Server([OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")],
                context=certificates.server("good")) as server:
        one = sender("127.0.0.1", server.port, ca_file=certificates.ca)
        for _ in range(3):
            one.flushed()
        assert server.resumed == [False, True, True]


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("name, words", [
    ("expired", "expired"), ("other", "is for another host"), ("self_signed", "self-signed")])
def test_wrong_certificates_are_refused_in_words(sender, certificates, only_c, name, words):
    with Server(context=certificates.server("self" if name == "self_signed" else name)) as server:
        one = sender("127.0.0.1", server.port, ca_file=certificates.ca)
        counters = one.failed()
        assert words in counters["last_error"] and counters["queued"] == 1 and counters["sent"] == 0
        assert server.requests == []


@pytest.mark.parametrize("name", ["expired", "other", "self"])
def test_wrong_certificates_get_nothing(sender, certificates, name):
    with Server(context=certificates.server(name)) as server:
        one = sender("127.0.0.1", server.port, ca_file=certificates.ca)
        one.failed()
        assert server.requests == []


def test_an_authority_that_the_system_does_not_know_is_refused(sender, certificates):
    with Server(context=certificates.server("good")) as server:
        one = sender("127.0.0.1", server.port, tls=True)
        one.failed()
        assert server.requests == []


def test_plain_and_tls_mixed_up(sender, certificates, only_c):
    with Server() as server:
        assert "TLS" in sender("127.0.0.1", server.port, ca_file=certificates.ca).failed()["last_error"]
    # and the other way round the server hangs up


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("reply, fate, words", [
    (answer("400 Bad Request", body="no such shop"), "rejected", "answered 400 Bad Request: no such shop"),
    (answer("500 Oops"), "rejected", "answered 500"),
    (answer("302 Found", "Location: http://elsewhere.example/\r\n"), "rejected", "redirects are not followed"),
    (answer("413 Large"), "too_big", "answered 413"),
])
def test_refusals_are_final(sender, only_c, reply, fate, words):
    with Server([reply]) as server:
        one = sender("127.0.0.1", server.port)
        counters = one.flushed()
        assert counters["dropped"] == {fate: 1} and counters["queued"] == 0
        assert words in counters["last_error"]
        assert len(server.requests) == 1


def reset(connection, _):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return b""


def cut_body(connection, _):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
    return reset(connection, _)


def endless_headers(connection, stopping):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    try:
        while not stopping.is_set():
            connection.sendall(b"X-More: and more\r\n" * 100)
    except OSError:
        pass
    return b""


def big_reply(connection, stopping):
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(11):
            connection.sendall(b"x" * (1 << 20))
    except OSError:
        pass
    return b""


def silent(connection, stopping):
    stopping.wait(PATIENCE)
    return b""


def trickle(connection, stopping):
    try:
        for byte in OK:
            connection.sendall(bytes([byte]))
            if stopping.wait(0.5):
                break
    except OSError:
        pass
    return b""


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("misdeed, words", [
    (b"", "ended before the answer"), (reset, "connection broke|ended before the answer"), (cut_body, "connection broke|ended inside the answer"),
    (endless_headers, "headers are longer"), (big_reply, "longer than 10 MiB"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nConnection: close\r\n\r\nshort", "ended inside the answer"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 9x\r\n\r\n", "wrong Content-Length"),
    (silent, "no answer within 5.000 s"), (trickle, "no answer within 5.000 s"), (BUSY, "answered 503"),
    (answer("429 Slow down", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n"), "answered 429"),
], ids=lambda value: getattr(value, "__name__", str(value)[:20]))
def test_what_time_may_cure_is_sent_again(sender, only_c, misdeed, words):
    gate = Gate()
    with Server([gate, misdeed, OK]) as server:
        one = sender("127.0.0.1", server.port, timeout=5 if misdeed in (silent, trickle) else PATIENCE)  # the gate must open by then
        one.queued_behind(gate, 2)
        counters = one.flushed(0)
        assert counters["sent"] == 3 and counters["dropped"] == {} and counters["retried"] == 2
        assert re.search(words, counters["last_error"])
        assert [len(body) for _, body in server.requests] == [1, 2, 2]
        assert server.requests[1][1] == server.requests[2][1]


@pytest.mark.acceptance("PM25")
def test_retry_after_is_obeyed(sender, only_c):
    with Server([answer("503 Busy", "Retry-After: 2\r\n"), OK]) as server:
        one = sender("127.0.0.1", server.port)
        began = time.monotonic()
        one.flushed()
        assert time.monotonic() - began >= 2.0
        assert len(server.requests) == 2


@pytest.mark.parametrize("secure", [False, True])
def test_a_second_reply_is_nobodys_answer(sender, certificates, only_c, secure):
    """Behind the one that was asked for, in the same TLS record, it would be taken for the next request's."""
    body = "x" * (4096 - len(answer("200 OK", body="x" * 4000)) + 4000)  # the reader takes 4096 bytes at a time
    first = answer("200 OK", body=body)
    assert len(first) == 4096
    with Server([first + OK, answer("400 Bad")], context=certificates.server("good") if secure else None) as server:
        one = sender("127.0.0.1", server.port, **({"ca_file": certificates.ca} if secure else {}))
        assert one.flushed()["sent"] == 1
        counters = one.flushed()
        assert counters["sent"] == 1 and counters["dropped"] == {"rejected": 1}
        assert server.connections == 2


def test_interim_replies_and_chunks_are_understood(sender):
    chunked = (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"5\r\nhello\r\n0\r\n\r\n")
    with Server([chunked]) as server:
        one = sender("127.0.0.1", server.port)
        assert one.flushed(2)["sent"] == 2
        assert len(server.records()) == 2


@pytest.mark.acceptance("PM25")
def test_a_batch_that_is_too_large_is_halved_once(sender, only_c):
    gate = Gate()
    with Server([gate, answer("413 Large"), answer("413 Large"), OK]) as server:
        one = sender("127.0.0.1", server.port)
        one.queued_behind(gate, 7)
        counters = one.flushed(0)
        assert [len(body) for _, body in server.requests] == [1, 7, 3, 4]
        assert counters["sent"] == 5 and counters["dropped"] == {"too_big": 3} and counters["retried"] == 7


@pytest.mark.acceptance("PM25")
def test_a_server_that_comes_back_gets_everything(sender, only_c, port):
    with Server(port=port):
        one = sender("127.0.0.1", port)
        one.flushed(2)
    one.act(3)

    def tried():
        assert profilomatic.flush(0.1) is False
        return "cannot connect" in (one.counters()["last_error"] or "")

    wait_until(tried, "an attempt")
    one.settled()
    with Server(port=port) as server:
        counters = one.flushed(1)
        assert counters["sent"] == 6 and counters["dropped"] == {}
        assert len(server.records()) == 4


@pytest.mark.acceptance("PM25")
def test_refused_and_unknown_hosts(sender, only_c, port):
    counters = sender("127.0.0.1", port).failed()
    assert "cannot connect: connection refused" in counters["last_error"]


@pytest.mark.acceptance("PM25")
def test_unknown_names(sender, only_c):
    assert "cannot resolve the name" in sender("no-such-host.invalid").failed()["last_error"]


def test_a_dead_server_does_not_hold_requests_up(sender):
    gate = Gate()
    with Server([gate]) as server:
        one = sender("127.0.0.1", server.port, timeout=PATIENCE)
        one.act()
        profilomatic.flush(0)
        assert gate.reached.wait(PATIENCE)
        one.act(200)
        assert one.settled()["sent"] == 0  # all of them are over, and the first one's answer is not there
        assert profilomatic.stop(0.2) is False
        assert one.settled()["sent"] == 0


def test_twenty_destinations_keep_their_own_counts(only_c, tmp_path, port):
    profilomatic.configure(max_actions_per_run=0)
    with Server() as good, Server([answer("400 No")]) as strict, Server([silent]) as mute:
        made = []
        for number in range(20):
            to, options = [(good.port, {}), (strict.port, {}), (mute.port, {"timeout": 1}),
                           (port, {"spool_dir": tmp_path})][number % 4]
            made.append(profilomatic.RestDestination("127.0.0.1", to, path="/%d" % number, **options))
            profilomatic.add_destination(made[-1])
        for _ in range(5):
            with profilomatic.action("work"):
                pass
        profilomatic.flush(1)
        wait_until(lambda: all(
            entry["queued"] == (5 if number % 4 == 2 else 0) and
            fates(entry) + entry["queued"] == 5
            for number, entry in enumerate(profilomatic.stats()["destinations"])), "twenty fates")
        entries = profilomatic.stats()["destinations"]
        assert [entry["sent"] for entry in entries] == [5, 0, 0, 0] * 5
        assert [entry["spooled"] for entry in entries] == [0, 0, 0, 5] * 5
        assert [entry["dropped"].get("rejected", 0) for entry in entries] == [0, 5, 0, 0] * 5
        profilomatic.stop(0)
        assert [fates(entry) for entry in profilomatic.stats()["destinations"]] == [5] * 20
        for destination in made:
            profilomatic.remove_destination(destination)
        assert profilomatic.stats()["destinations"] == []


def send_from_a_child():
    """One call graph, of a forked process that has the destination from its parent."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with profilomatic.action("child"):
                pass
            code = 0 if profilomatic.flush(PATIENCE) and profilomatic.stats()["destinations"][0]["sent"] == 1 else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.acceptance("PM25")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_sends_its_own(sender):
    with Server() as server:
        one = sender("127.0.0.1", server.port)
        one.flushed(2)
        send_from_a_child()
        assert one.flushed(1)["sent"] == 3
        assert len(server.records()) == 4


@pytest.mark.acceptance("PM25")
def test_a_full_queue_is_drained_at_exit(python):
    with Server() as server:
        python("""
import profilomatic
profilomatic.configure(max_actions_per_run=0)
profilomatic.add_destination(profilomatic.RestDestination("127.0.0.1", %d))
for number in range(50):
    with profilomatic.action("work"):
        pass
""" % server.port)
        assert len(server.records()) == 50


def test_exit_does_not_wait_for_a_dead_server(python):
    with Server([silent]) as server:
        python("""
import profilomatic
profilomatic.configure(max_actions_per_run=0)
profilomatic.add_destination(profilomatic.RestDestination("127.0.0.1", %d, timeout=3600))
for number in range(50):
    with profilomatic.action("work"):
        pass
""" % server.port, timeout=PATIENCE)


KILLED = """
import os, signal, profilomatic
profilomatic.configure(max_actions_per_run=0)
profilomatic.add_destination(profilomatic.RestDestination("127.0.0.1", %d, spool_dir=%r))
for number in range(50):
    with profilomatic.action("work"):
        pass
assert profilomatic.flush(60), profilomatic.stats()
assert profilomatic.stats()["destinations"][0]["spooled"] == 50
%s
"""


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", ""])
def test_the_spool_survives_its_process_and_is_replayed(sender, only_c, tmp_path, port, end):
    run_python(KILLED % (port, str(tmp_path), end))  # nobody listens
    with Server(port=port) as server:
        one = sender("127.0.0.1", port, spool_dir=tmp_path)
        one.produced = 50  # adopted
        wait_until(lambda: one.counters()["sent"] == 50, "the replay")
        assert one.settled()["spooled"] == 0
        assert len(server.records()) == 50
        assert one.flushed(1)["sent"] == 51
        assert list(tmp_path.rglob("*.seg")) == []


def test_no_secret_is_in_the_spool(sender, only_c, tmp_path, port):
    one = sender("127.0.0.1", port, spool_dir=tmp_path, token="s3cret", compress=False)
    assert one.flushed(3)["spooled"] == 3
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.seg"))
    assert b"s3cret" not in written and b"Authorization" not in written and b"work" in written


def test_a_spool_that_cannot_be_used_is_an_error(only_c, tmp_path):
    with pytest.raises(OSError, match="spool"):
        profilomatic.RestDestination("h.example", spool_dir=tmp_path / "no" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot use '.*file': Not a directory"):
        profilomatic.RestDestination("h.example", spool_dir=tmp_path / "file")


def test_msgpack_batches_arrive(sender, only_c):
    with Server() as server:
        one = sender("127.0.0.1", server.port, format="msgpack")
        assert one.flushed(3)["sent"] == 3
        assert "Content-Type: application/vnd.profilomatic" in server.requests[0][0]
        assert all(isinstance(body, bytes) and len(body) > 12 for _, body in server.requests)


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_the_server_is_told_what_it_did_not_get(sender, only_c, format):
    with Server([answer("400 No"), OK]) as server:
        one = sender("127.0.0.1", server.port, format=format, report_every=0.05)
        one.flushed()
        wait_until(lambda: len(server.requests) >= 2, "a client report")
        body = server.requests[1][1]
        report, = body if format == "json" else profilomatic._core.read_wire(body)
        # What the original's server asks of each line.
        assert report["start_time"] and report["task_uuid"] and report["source"] and report["thread"]
        assert report["action"]["kind"] == "report"
        lost = report["action"]["dropped"]["rejected"]
        assert lost >= 1 and report["action"]["produced"] == lost + report["action"]["sent"] + report["action"]["queued"]
        assert one.counters()["sent"] + lost == one.produced


def context_with(protocol=ssl.PROTOCOL_TLS_CLIENT, **attributes):
    context = ssl.SSLContext(protocol)
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


@pytest.mark.parametrize("options, error, words", [
    ({"host": ""}, ValueError, "host"),
    ({"host": "http://h.example"}, ValueError, "host"),
    ({"host": "h.example:80"}, ValueError, "port= takes the port"),
    ({"host": 5}, TypeError, "host"),
    ({"port": 0}, ValueError, "port=0"),
    ({"port": 65536}, ValueError, "port=65536"),
    ({"port": "80"}, TypeError, "port"),
    ({"timeout": 0}, ValueError, "timeout=0"),
    ({"timeout": None}, TypeError, "timeout"),
    ({"report_every": 0}, ValueError, "report_every=0"),
    ({"report_every": "1"}, TypeError, "report_every"),
    ({"send_every": -1}, ValueError, "send_every=-1"),
    ({"send_every": None}, TypeError, "send_every"),
    ({"path": "no-slash"}, ValueError, "path='no-slash'"),
    ({"path": "/a b"}, ValueError, "path|URL"),
    ({"format": "xml"}, ValueError, "format='xml'"),
    ({"headers": {"X": "a\r\nY: b"}}, ValueError, "[Hh]eader"),
    ({"headers": {"X": 1}}, TypeError, "headers"),
    ({"headers": "X: 1"}, TypeError, "a dict or pairs of texts, not 'X: 1'"),
    ({"headers": {"X\n": "1"}}, ValueError, r"^header 'X\\(n|x0a)' has .* does not allow$"),
    ({"headers": {"Content-Length": "1"}}, ValueError, "'Content-Length' is set by the destination itself"),
    ({"headers": {"Authorization": "Basic x"}, "token": "t"}, ValueError, "one of them"),
    ({"token": "two words"}, ValueError, "characters that HTTP does not allow"),
    ({"key": "k.pem"}, ValueError, "key="),
    ({"ca_file": "/no/such/file.pem"}, OSError, "o such file.*: '/no/such/file.pem'|'/no/such/file.pem': No such file"),
    ({"ca_file": __file__}, ValueError, "^ca_file='.*test_rest.py': no certificate.*PEM"),
    ({"cert": __file__}, ValueError, "^cert='.*test_rest.py': no certificate.*PEM"),
    ({"ssl_context": True}, TypeError, "ssl.SSLContext"),
])
def test_wrong_options_are_refused_here_and_now(options, error, words):
    with pytest.raises(error, match=words):
        profilomatic.RestDestination(**{"host": "h.example", **options})


@pytest.mark.parametrize("option, least, most, beyond", [
    ("port", 1, 65535, 65536), ("timeout", 0.001, 3600, 3600.5), ("report_every", 0.001, 86400, 86400.5), ("send_every", 0, 3600, 3600.5)])
def test_the_ends_of_a_range_belong_to_it(option, least, most, beyond):
    for value in (least, most):
        assert profilomatic.RestDestination("h.example", **{option: value})
    with pytest.raises(ValueError, match=f"{option}={beyond}"):
        profilomatic.RestDestination("h.example", **{option: beyond})


@pytest.mark.parametrize("host", ["::1", "[::1]", "fe80::1%lo"])
def test_an_address_of_version_6_is_a_host(host):
    assert profilomatic.RestDestination(host)


@pytest.mark.acceptance("PM25")
def test_a_context_is_used_as_it_is(sender, certificates, only_c):
    """Its highest version, which could not be taken over, holds; it is the same after as before."""
    context = ssl.create_default_context(cafile=certificates.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    before = context.options, context.verify_flags, context.minimum_version, context.get_ca_certs(), sys.getrefcount(context)
    assert profilomatic._core.ssl_context_problem(context) is None
    serving = certificates.server("good")
    with Server(context=serving) as server:
        one = sender("127.0.0.1", server.port, ssl_context=context)
        assert one.flushed()["sent"] == 1
        assert serving.session_stats()["accept_good"] == 1 and server.versions == ["TLSv1.2"]
    assert (context.options, context.verify_flags, context.minimum_version, context.get_ca_certs()) == before[:4]
    assert sys.getrefcount(context) == before[4] + 1  # the destination's


def test_a_context_outlives_its_python_object(sender, certificates, only_c):
    with Server(context=certificates.server("good")) as server:
        one = sender("127.0.0.1", server.port, ssl_context=ssl.create_default_context(cafile=certificates.ca))
        gc.collect()
        assert one.flushed()["sent"] == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_uses_the_context_too(sender, certificates, only_c):
    context = ssl.create_default_context(cafile=certificates.ca)
    context.load_cert_chain(certificates.other, certificates.key("other"))
    with Server(context=certificates.server("good", ask_client=True)) as server:
        one = sender("127.0.0.1", server.port, ssl_context=context)
        one.flushed()
        send_from_a_child()
        assert one.flushed(1)["sent"] == 2
        assert len(server.records()) == 3


@pytest.mark.parametrize("name, words", [("expired", "expired"), ("other", "another host"), ("self", "self-signed")])
def test_a_context_used_as_it_is_verifies(sender, certificates, only_c, name, words):
    with Server(context=certificates.server(name)) as server:
        one = sender("127.0.0.1", server.port, ssl_context=ssl.create_default_context(cafile=certificates.ca))
        assert words in one.failed()["last_error"]
        assert server.requests == []


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("asked", [True, False])
def test_a_common_name_counts_only_if_the_context_lets_it(sender, certificates, asked):
    """Of a certificate that has no other name; as Python's own connections have it."""
    context = ssl.create_default_context(cafile=certificates.ca)
    context.hostname_checks_common_name = asked
    with Server(context=certificates.server("localhost")) as server:
        one = sender("localhost", server.port, ssl_context=context)
        if asked:
            assert one.flushed()["sent"] == 1
        else:
            assert one.failed()["last_error"]
        assert bool(server.requests) is asked


class Changed(ssl.SSLContext):
    def get_ca_certs(self, binary_form=False):
        return super().get_ca_certs(binary_form)


class Unchanged(ssl.SSLContext):
    extra = 1


@pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="contexts of CPython 3.13 have pre-shared keys")
def test_a_pre_shared_key_is_not_asked_for(sender, certificates, only_c):
    """Its callback would take the GIL on the loop thread. It cannot be seen from outside before 3.14; from there on the context is refused."""
    asked = []
    context = ssl.create_default_context(cafile=certificates.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("PSK:ECDHE")
    context.set_psk_client_callback(lambda hint: asked.append(hint) or (None, b"key"))
    serving = certificates.server("good")
    serving.set_ciphers("PSK:ECDHE")
    serving.set_psk_server_callback(lambda identity: b"key", "hint")
    with Server(context=serving) as server:
        if sys.version_info >= (3, 14):
            with pytest.raises(ValueError, match="callback"):
                profilomatic.RestDestination("127.0.0.1", server.port, ssl_context=context)
            return
        one = sender("127.0.0.1", server.port, ssl_context=context)
        assert one.flushed()["sent"] == 1 and asked == []


def test_which_contexts_are_used_as_they_are(certificates, only_c, monkeypatch):
    """Of a class that changes something, or of another OpenSSL, what can be read is taken over."""
    given = []

    def make(*arguments, **options):
        given.append(options)
        return real(*arguments, **options)

    core = profilomatic._core
    real = core.HttpDestination
    monkeypatch.setattr(core, "HttpDestination", make)
    for kind, direct in ((ssl.SSLContext, True), (Unchanged, True), (Changed, False)):
        context = kind(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificates.ca)
        profilomatic.RestDestination("h.example", ssl_context=context)
        options = given.pop()
        assert ("ssl_context" in options) is direct and (options["ca_pem"] is None) is direct
    monkeypatch.setattr("_ssl.__file__", "/no/such/library.so")
    context = context_with()
    assert "OpenSSL is not the one" in core.ssl_context_problem(context)
    profilomatic.RestDestination("h.example", ssl_context=context)
    assert "ssl_context" not in given.pop()
    with pytest.raises(ValueError, match="maximum_version of TLSv1_2 and cannot be used as it is"):
        profilomatic.RestDestination("h.example", ssl_context=context_with(maximum_version=ssl.TLSVersion.TLSv1_2))
    with pytest.raises(ValueError, match="ignores common names .* and cannot be used as it is"):
        profilomatic.RestDestination("h.example", ssl_context=context_with(hostname_checks_common_name=False))
    for thing in (object(), 1, "text"):
        assert "not a context" in core.ssl_context_problem(thing)


def test_contexts_with_hidden_callbacks_are_refused():
    context = context_with()
    context._msg_callback = lambda *_: None
    with pytest.raises(ValueError, match="has a callback"):
        profilomatic.RestDestination("h.example", ssl_context=context)


def test_contexts_that_cannot_be_used_are_refused(tmp_path):
    for context, words in [
        (context_with(keylog_filename=str(tmp_path / "keys")), "keylog_filename"),
        (context_with(ssl.PROTOCOL_TLS_SERVER, sni_callback=lambda *_: None), "sni_callback"),
        (context_with(ssl.PROTOCOL_TLS_SERVER), "of a server"),
    ]:
        with pytest.raises(ValueError, match=words):
            profilomatic.RestDestination("h.example", ssl_context=context)
    with pytest.warns(RuntimeWarning, match="verifies no certificate"):
        profilomatic.RestDestination("h.example", ssl_context=context_with(check_hostname=False,
                                                                          verify_mode=ssl.CERT_NONE))
