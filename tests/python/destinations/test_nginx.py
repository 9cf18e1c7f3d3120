"""RestDestination through Debian's nginx, which ends TLS and keeps connections in its own way, before a Python server.

One nginx for all tests, with a configuration and a folder of its own, on loopback; it is a child, stopped by its number.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import ssl
import subprocess

import pytest
from pom_support import PATIENCE, kept_port, wait_until
from rest_server import OK, Certificates, Server, answer

import profilomatic

UNPACKED = pathlib.Path(__file__).resolve().parents[3] / ".venv" / "nginx" / "usr" / "sbin" / "nginx"  # tools/setup.sh
NGINX = next((path for path in (shutil.which("nginx"), "/usr/sbin/nginx", str(UNPACKED)) if path and os.access(path, os.X_OK)), None)
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx here: tools/setup.sh unpacks one where apt has it")

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 64; }}
http {{
  log_format keepalive "$connection $connection_requests $ssl_protocol $ssl_session_reused $status";
  access_log {folder}/access.log keepalive;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 1m;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  ssl_session_cache shared:s:1m;
  upstream python {{ server 127.0.0.1:{backend}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    keepalive_requests 3;
    location / {{ proxy_pass http://python; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    location /small {{ client_max_body_size 1k; proxy_pass http://python; }}
    location /moved {{ return 301 https://elsewhere.example/; }}
  }}
  server {{
    listen 127.0.0.1:{mutual} ssl;
    ssl_client_certificate {authority}; ssl_verify_client on;
    location / {{ proxy_pass http://python; }}
  }}
}}
"""


class Front:
    """nginx before `server`."""

    def __init__(self, folder, certificates, server):
        self.folder, self.certificates, self.server = folder, certificates, server
        self._kept = contextlib.ExitStack()
        self.port, self.mutual = (self._kept.enter_context(kept_port()) for _ in range(2))
        path = folder / "nginx.conf"
        path.write_text(CONFIGURATION.format(
            folder=folder, certificate=certificates.good, key=certificates.key("good"), authority=certificates.ca,
            backend=server.port, port=self.port, mutual=self.mutual))
        self._child = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(path), "-e", str(folder / "error.log")],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._listens, "nginx")

    def _listens(self):
        assert self._child.poll() is None, (self.folder / "error.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.mutual), 1).close()
        except OSError:
            return False
        return True

    def log(self):
        return [line.split() for line in (self.folder / "access.log").read_text().splitlines()]

    def stop(self):
        self._child.terminate()
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._kept.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    with Server([OK]) as server:
        front = Front(folder, certificates, server)
        try:
            yield front
        finally:
            front.stop()


@pytest.fixture
def post(front, backend):
    """Posts so many call graphs, each flushed on its own; the destination's counters, of which the sum is checked."""
    if backend != "c":
        pytest.skip("the extension's behaviour")
    profilomatic.configure(max_actions_per_run=0)
    added = []

    def post(count, port=None, fields=None, **options):
        options.setdefault("ca_file", None if "ssl_context" in options else front.certificates.ca)
        destination = profilomatic.RestDestination("localhost", port or front.port, **options)
        profilomatic.add_destination(destination)
        added.append(destination)
        for number in range(count):
            with profilomatic.action("work", number=number, **(fields or {})):
                pass
            profilomatic.flush(PATIENCE)
        entry = next(each for each in profilomatic.stats()["destinations"] if each["name"] == destination.name)
        assert entry["sent"] + entry["spooled"] + entry["queued"] + sum(entry["dropped"].values()) == count
        profilomatic.remove_destination(destination)
        return entry

    del front.server.requests[:]
    front.server.script[:] = [OK]
    return post


@pytest.mark.acceptance("PM25")
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_connections_are_kept_as_long_as_nginx_keeps_them(front, post, format):
    """It closes each after three requests: nothing is lost or sent twice, and TLS sessions are resumed."""
    before = len(front.log())
    entry = post(8, format=format)
    assert entry["sent"] == 8 and entry["last_error"] is None and entry["dropped"] == {}
    wait_until(lambda: len(front.log()) >= before + len(front.server.requests), "nginx's log")
    lines = front.log()[before:]
    assert len(lines) == len(front.server.requests) and {line[4] for line in lines} == {"200"}
    assert max(int(line[1]) for line in lines) == 3  # requests on one connection
    assert len({line[0] for line in lines}) == -(-len(lines) // 3)
    assert {line[2] for line in lines} <= {"TLSv1.2", "TLSv1.3"}
    assert [line[3] for line in lines if line[1] == "1"].count("r") == -(-len(lines) // 3) - 1
    if format == "json":
        assert [record["action"]["number"] for record in front.server.records()] == list(range(8))


@pytest.mark.acceptance("PM25")
def test_a_client_certificate_in_a_context_is_shown(front, post):
    context = ssl.create_default_context(cafile=front.certificates.ca)
    context.load_cert_chain(front.certificates.other, front.certificates.key("other"))
    assert post(2, port=front.mutual, ssl_context=context)["sent"] == 2
    entry = post(1, port=front.mutual)
    assert entry["dropped"] == {"rejected": 1} and "answered 400" in entry["last_error"]


@pytest.mark.acceptance("PM25")
def test_what_nginx_says_itself_is_understood(front, post):
    """Answers in its own HTML: too large, and moved."""
    noise = os.urandom(4096).hex()
    entry = post(1, path="/small", fields={"text": noise[:4000]}, compress=False)
    assert entry["dropped"] == {"too_big": 1} and "answered 413" in entry["last_error"]
    entry = post(1, path="/moved")
    assert entry["dropped"] == {"rejected": 1} and "redirects are not followed" in entry["last_error"]
    assert front.server.requests == []


@pytest.mark.acceptance("PM25")
def test_a_bad_gateway_is_tried_again(front, post):
    """The server behind nginx hangs up once, which nginx says as 502."""
    front.server.script[:] = [b"", answer("503 Busy", "Retry-After: 0\r\n"), OK]
    entry = post(1)
    assert entry["sent"] == 1 and entry["retried"] == 2 and entry["dropped"] == {}
    assert len(front.server.requests) == 3
