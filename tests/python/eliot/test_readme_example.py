"""The example of the original's README, both variants: its text is run as it is, but for Python 3's names.

Around it stand a site on the loopback interface instead of python.org, and any free port instead of 8000.
"""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.request

import pytest
from pom_support import PATIENCE, walk, wait_until

import profilomatic

HERE = pathlib.Path(__file__).parent

RUNNER = """
import sys, time, urllib.request, wsgiref.simple_server
import profilomatic
make_server, urlopen = wsgiref.simple_server.make_server, urllib.request.urlopen
def on_any_port(host, port, app):
    assert (host, port) == ('', 8000)
    server = make_server('127.0.0.1', 0, app)
    print(server.server_port, flush=True)
    return server
def from_loopback(url):
    assert url == 'http://www.python.org'
    until = profilomatic.stats()['samples']['taken'] + 2  # the first may have been under way; the real one takes as long
    while profilomatic.stats()['samples']['taken'] < until:
        time.sleep(0.01)
    return urlopen(sys.argv[2])
wsgiref.simple_server.make_server, urllib.request.urlopen = on_any_port, from_loopback
exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'), {'__name__': '__main__'})
"""


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Python 3 is here")

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield "http://127.0.0.1:%d/" % server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(site, tmp_path):
    """Runs a file, gets its page, and gives back (page, records) once `records` are there."""
    started = []

    def run(name):
        environment = dict(os.environ, PYTHONPATH=str(pathlib.Path(profilomatic.__file__).parent.parent))
        with open(tmp_path / "stderr", "w") as errors:
            child = subprocess.Popen([sys.executable, "-c", RUNNER, str(HERE / name), site], cwd=tmp_path, env=environment,
                                     stdout=subprocess.PIPE, stderr=errors, text=True)
        started.append(child)
        port = child.stdout.readline()
        assert port, (tmp_path / "stderr").read_text()
        with urllib.request.urlopen("http://127.0.0.1:%s/hello" % port.strip(), timeout=PATIENCE) as page:
            text = page.read()
        path = tmp_path / "app_prof.log"
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "a profile in app_prof.log")
        return text, [json.loads(line) for line in path.read_text().splitlines()]

    yield run
    for child in started:
        child.terminate()
        child.wait(PATIENCE)
        child.stdout.close()


def functions(record):
    return {node["function"] for node in walk(record) if "function" in node}


@pytest.mark.acceptance("PM17", "PM24", "PM3", "PM6")
def test_the_eliot_variant(run, tmp_path):
    page, (record,) = run("readme_eliot.py")
    assert page == b"Python 3000 is here"
    action = record["action"]
    assert (action["kind"], action["outcome"], action["event"]) == ("eliot", "succeeded", "app:hello-world")
    assert "app" in functions(record)
    assert not [node for node in walk(record) if "line" in node], "method granularity"
    log = [json.loads(line) for line in (tmp_path / "app_log.log").read_text().splitlines()]
    assert [m["action_status"] for m in log] == ["started", "succeeded"]
    assert {m["task_uuid"] for m in log} == {record["task_uuid"]}


@pytest.mark.acceptance("PM19", "PM23")
def test_the_wsgi_variant(run):
    page, (record,) = run("readme_wsgi.py")
    assert page == b"Python 3000 is here"
    assert (record["action"]["type"], record["action"]["kind"]) == ("/hello", "wsgi")
    assert record["action"]["outcome"] == "succeeded"
    assert "app" in functions(record)


@pytest.mark.acceptance("PM24")
def test_destinations_of_eliot_take_profiles_as_they_are(profiles, tmp_path):
    import eliot

    path = tmp_path / "profiles.log"
    with open(path, "wb") as binary, open(tmp_path / "text.log", "w") as text:
        both = [eliot.FileDestination(binary), eliot.FileDestination(text)]
        for destination in both:
            profilomatic.add_destination(destination)

        def deep(levels):
            if levels:
                return deep(levels - 1)
            a.message(text="\u00e9", number=1.5)  # at the end of a stack deeper than orjson reads

        with profilomatic.action("app", value=[1, {"a": None}]) as a:
            deep(400)
        record = profiles.one()
        for destination in both:
            profilomatic.remove_destination(destination)
    assert json.loads(path.read_text()) == json.loads((tmp_path / "text.log").read_text()) == record
