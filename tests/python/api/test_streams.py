"""Long streams: records in parts while they go on, which add up to the whole, in flat memory. No test sleeps."""

import asyncio
import json

import asgi_server
import pytest
from pom_support import burn_until_sampled
from wsgi_server import Server, environ, generated, ok

import profilomatic
from profilomatic import report

pytestmark = pytest.mark.acceptance("W15")

CHUNKS = 150
EVERY = 0.05


def events(env, start_response):
    ok(start_response)
    for number in range(CHUNKS):
        burn_until_sampled(1)
        yield b"data: %d\n\n" % number


async def asgi_events(scope, receive, send):
    await send(asgi_server.START)
    for number in range(CHUNKS):
        burn_until_sampled(1)
        await send(asgi_server.body(b"data: %d\n\n" % number, True))
        await asyncio.sleep(0)
    await send(asgi_server.body())


def run_wsgi():
    server = Server(profilomatic.wsgi.wrap(events), environ("/events")).run()
    assert len(server.chunks) == CHUNKS


def run_asgi():
    asgi_server.Server(profilomatic.asgi.wrap(asgi_events), asgi_server.scope("/events")).run()


@pytest.fixture
def every(request):
    profilomatic.configure(partial_every=EVERY, time_granularity=0.001, max_overhead=0.5)
    yield
    profilomatic.configure(partial_every=60, time_granularity=0.01, max_overhead=0.02)


@pytest.mark.parametrize("run", [run_wsgi, run_asgi])
def test_a_stream_is_told_in_parts_that_add_up(profiles, every, run):
    before = profilomatic.stats()["actions"]
    run()
    *parts, last = profiles.flushed()
    assert len(parts) >= 2
    assert {part["action"]["outcome"] for part in parts} == {"open"}
    assert last["action"]["outcome"] == "succeeded" and last["action"]["status"] == 200
    whole = last["action"]["whole"]
    every_part = [*parts, last]
    assert [part["action"]["part"] for part in every_part] == list(range(1, whole["parts"] + 1))
    assert {part["task_uuid"] for part in every_part} == {last["task_uuid"]}
    assert {part["action"]["path_info"] for part in every_part} == {"/events"}
    for one, following in zip(every_part, every_part[1:]):
        assert one["end_time"] == following["start_time"]
    assert all(part["time"] >= EVERY for part in parts)
    assert sum(part["time"] for part in every_part) == pytest.approx(whole["time"])
    assert sum(part["cpu_time"] for part in every_part) == pytest.approx(whole["cpu_time"])
    assert sum(part["hits"] for part in every_part) == sum(part["profiler"]["samples"] for part in every_part)
    phases = last["action"]["phases"]
    assert sum(phases.values()) <= whole["time"] + 1e-3 and sum(phases.values()) > last["time"]
    after = profilomatic.stats()["actions"]
    assert {name: after[name] - before[name] for name in ("started", "finished", "lost")} == {
        "started": 1, "finished": 1, "lost": 0}


def test_a_stream_counts_once_in_the_report(profiles, every, tmp_path, capsys):
    run_wsgi()
    path = tmp_path / "stream.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in profiles.flushed()))
    assert report.main([str(path), "--json"]) in (0, None)
    told = json.loads(capsys.readouterr().out)
    [group] = told["groups"]
    assert told["head"]["actions"] == group["count"] == 1
    assert group["time"] == profiles.records[-1]["action"]["whole"]["time"]
    assert told["head"]["samples"] == sum(record["profiler"]["samples"] for record in profiles.records)
    assert len(told["slowest_actions"]) == 1


def test_a_short_request_has_no_parts(profiles):
    Server(profilomatic.wsgi.wrap(generated)).run()
    action = profiles.one()["action"]
    assert "part" not in action and "whole" not in action


@pytest.mark.parametrize("every", [0.01, -1, 86401, "soon", True, None])
def test_the_option_has_its_range(every):
    with pytest.raises(ValueError, match="partial_every"):
        profilomatic.configure(partial_every=every)
