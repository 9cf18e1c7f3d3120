"""The example shop, a real Flask application under gunicorn: the same bytes, and records that name its routes."""

import importlib.util
import os
import pathlib
import urllib.parse

import pytest
from harness import PACKAGE, Server, need, without_date

SHOP = pathlib.Path(__file__).resolve().parents[3] / "examples" / "shop"
COUNT = 80


@pytest.fixture(scope="module")
def customers():
    """The requests of the shop's customers, as raw bytes."""
    spec = importlib.util.spec_from_file_location("shop_load", SHOP / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    raw = []
    for _, _, method, target, body in load.requests(COUNT, seed=2):
        lines = [f"{method} {target} HTTP/1.1", "Host: shop", "Connection: close"]
        if body is not None:
            lines += [f"{name}: {value}" for name, value in load.FORM.items()] + [f"Content-Length: {len(body)}"]
        raw.append(("\r\n".join([*lines, "", ""]) + (body or "")).encode("latin-1"))
    return raw


def shop(target, folder):
    need("gunicorn-gthread")
    if importlib.util.find_spec("flask") is None:
        pytest.skip("the shop needs flask, which is not installed")
    env = {
        "PYTHONPATH": os.pathsep.join([PACKAGE, str(SHOP)]),
        "PROFILOMATIC_MAX_ACTIONS_PER_RUN": "0",
        "SHOP_PROFILES": str(folder / "records.jsonl"),
    }
    return Server("gunicorn-gthread", target, folder, env=env)


@pytest.mark.oldest_and_newest
@pytest.mark.acceptance("PM19", "PM22", "W19", "W21")
def test_shop_answers_the_same_and_its_records_name_routes(customers, tmp_path):
    with shop("shop:create_app()", tmp_path / "bare") as server:
        bare = [without_date(server.exchange(request)) for request in customers]
    with shop("shop:app", tmp_path / "wrapped") as server:
        wrapped = [without_date(server.exchange(request)) for request in customers]
        server.stop()
        records = [r for r in server.records() if r["action"]["host"] == "shop"]
    assert wrapped == bare
    assert len(records) == COUNT
    routes = {}
    for record in records:
        action = record["action"]
        assert action["type"] == action["path_info"]
        routes.setdefault(action["route"], set()).add((action["method"], action["status"], action["outcome"]))
    assert routes == {
        "/": {("GET", 200, "succeeded")},
        "/product/<int:number>": {("GET", 200, "succeeded")},
        "/search": {("GET", 200, "succeeded")},
        "/checkout": {("POST", 200, "succeeded")},
        "/invoice/<int:number>": {("GET", 200, "succeeded")},
        # Flask turns the error into an answer: the application succeeded in saying 500.
        "/voucher/<code>": {("GET", 200, "succeeded"), ("GET", 500, "succeeded")},
        "/catalogue.csv": {("GET", 200, "succeeded")},
    }
    streamed = [r["action"]["bytes"] for r in records if r["action"]["route"] == "/catalogue.csv"]
    assert min(streamed) > 200_000
    queries = [r["action"]["query_string"] for r in records if r["action"]["route"] == "/search"]
    assert any("-sale" in urllib.parse.unquote(str(query)) for query in queries)
