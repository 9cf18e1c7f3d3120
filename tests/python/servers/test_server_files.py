"""wsgi.file_wrapper under servers that recognise their own file bodies."""

import pytest
from harness import PATIENCE, Server, body_of, need, read_to_end, wait_until, wait_until_full
from kinds import KINDS, each_kind

SERVERS = [name for name, kind in KINDS.items() if kind.file_wrapper and name != "wsgiref"]


@pytest.fixture(scope="module", params=each_kind(SERVERS))
def watched(request, tmp_path_factory):
    need(request.param)
    folder = tmp_path_factory.mktemp("watched")
    with Server(request.param, "app:watched", folder, env={"SERVERS_COUNT_SENDFILE": "1"}) as running:
        yield running


@pytest.mark.acceptance("W9")
def test_server_gets_the_very_file_body(watched, task):
    body = body_of(watched.get("/file", headers=[f"X-Task-UUID: {task}"]))
    assert body == watched.file_path.read_bytes()
    seen = [entry for entry in watched.get_json("/seen") if entry["path"] == "/file" and "same_result" in entry]
    assert seen
    for entry in seen:
        known = entry.pop("known_by_wrapper")
        assert entry == {"path": "/file", "same_result": True, "same_wrapper": True}
        assert watched.kind.file_wrapper in ("class" if known else "function", "any")
    assert watched.record_of(task)["action"]["outcome"] == "succeeded"


@pytest.mark.acceptance("W9")
def test_gunicorn_sends_the_file_with_sendfile(watched):
    if watched.kind.sendfile != "os.sendfile":
        pytest.skip(f"{watched.kind.name} does not use os.sendfile")
    before = sum(entry.get("bytes", 0) for entry in watched.get_json("/seen"))
    body = body_of(watched.get("/file"))
    after = sum(entry.get("bytes", 0) for entry in watched.get_json("/seen"))
    assert after - before == len(body) == watched.file_path.stat().st_size


@pytest.mark.acceptance("W9", "W25")
def test_uwsgi_sends_the_file_by_itself(watched):
    """It knows the file by the address of the object that it is given back."""
    if watched.kind.sendfile != "own":
        pytest.skip(f"{watched.kind.name} says nothing of how it sends a file")
    before = watched.log_path.read_bytes().count(b"via sendfile()")
    assert body_of(watched.get("/file")) == watched.file_path.read_bytes()
    wait_until(lambda: watched.log_path.read_bytes().count(b"via sendfile()") > before, PATIENCE, "the line of the log")


@pytest.mark.acceptance("W1")
@pytest.mark.parametrize("path", ["/list", "/tuple", "/empty"])
def test_server_gets_the_very_list(watched, path):
    watched.get(path)
    seen = [entry for entry in watched.get_json("/seen") if entry["path"] == path]
    assert seen
    assert all(entry["same_result"] for entry in seen)


@pytest.mark.acceptance("W10")
def test_waitress_closes_the_file_on_its_own_thread(watched, task):
    """A slow reader: the thread that answered has left when the server's main thread closes the file."""
    if watched.kind.name != "waitress":
        pytest.skip(f"{watched.kind.name} closes a file body where it answered")
    earlier = sum("closed_on" in entry for entry in watched.get_json("/seen"))
    with watched.connect() as connection:
        connection.sendall(
            f"GET /file HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX-Task-UUID: {task}\r\n\r\n".encode()
        )
        wait_until_full(connection)
        assert watched.record_of(task)["action"]["outcome"] == "succeeded"
        assert body_of(read_to_end(connection)) == watched.file_path.read_bytes()
    closed = wait_until(
        lambda: [entry for entry in watched.get_json("/seen") if "closed_on" in entry][earlier:], PATIENCE, "the close"
    )
    assert {entry["closed_on"] for entry in closed} == {"MainThread"}
    assert watched.record_of(task)["action"]["outcome"] == "succeeded"  # still one record, and the same
    for _ in range(8):
        assert body_of(watched.get("/list")) == b"one two\n"
