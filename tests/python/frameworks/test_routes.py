"""Route names and error links of each framework, and the same bytes as bare."""

import warnings
from wsgiref.validate import validator

import pytest
from applications import MESSAGE, ROUTES
from asking import ask

import profilomatic

PATHS = ("/item/7", "/item/8", "/stream/tea", "/raise/7", "/refuse/7", "/absent/1", "/item/word", "/absent/2?a=1")


@pytest.mark.acceptance("W19", "PM19")
def test_answers_are_those_of_the_bare_application(profiles, applications):
    profiled, bare = applications
    for path in PATHS:
        assert ask(profiled, path) == ask(bare, path)
    assert ask(profiled, "/item/7", "HEAD") == ask(bare, "/item/7", "HEAD")
    assert ask(profiled, "/item/7", "POST") == ask(bare, "/item/7", "POST")
    profiles.flushed(len(PATHS) + 2)


@pytest.mark.acceptance("W19")
def test_requests_are_named_by_their_route_and_404s_are_one(profiles, framework, applications):
    profiled, _ = applications
    for path in PATHS:
        ask(profiled, path)
    actions = [record["action"] for record in profiles.flushed(len(PATHS))]
    item, stream, failing = ROUTES[framework]
    routes = {action["type"]: action["route"] for action in actions}
    assert routes["/item/7"] == routes["/item/8"] == item
    assert routes["/stream/tea"] == stream and routes["/raise/7"] == failing
    assert routes["/absent/1"] == routes["/absent/2"] == "<not found>"
    word = [action for action in actions if action["type"] == "/item/word"][0]
    assert word["status"] in (404, 400) and word["route"] in ("<not found>", "/item/word")


@pytest.mark.acceptance("W19")
def test_the_mount_point_stands_in_front_once(profiles, framework, applications):
    profiled, _ = applications
    assert ask(profiled, "/item/7", SCRIPT_NAME="/shop")[0].startswith("200")
    assert profiles.one()["action"]["route"] == "/shop" + ROUTES[framework][0]


@pytest.mark.acceptance("PM22")
def test_the_exception_behind_an_error_page_stands_in_the_record(profiles, framework, applications):
    profiled, _ = applications
    assert ask(profiled, "/raise/7")[0].startswith("500")
    action = profiles.one()["action"]
    assert (action["outcome"], action["exception"], action["reason"]) == ("succeeded", "LookupError", MESSAGE)


@pytest.mark.acceptance("PM22")
def test_an_answer_that_is_raised_is_no_failure(profiles, applications):
    profiled, _ = applications
    for path in ("/refuse/7", "/absent/1"):
        ask(profiled, path)
    for record in profiles.flushed(2):
        assert "exception" not in record["action"] and record["action"]["outcome"] == "succeeded"


def test_nothing_goes_wrong_while_the_engine_is_stopped(applications):
    profiled, bare = applications
    for path in PATHS:
        assert ask(profiled, path) == ask(bare, path)
    assert profilomatic.stats()["running"] is False


@pytest.mark.acceptance("PM19", "W18")
def test_validators_find_nothing_on_either_side(profiles, framework, applications):
    """wsgiref's validator around and below, werkzeug's and webtest's lint around."""
    pytest.importorskip("werkzeug")
    pytest.importorskip("webtest")
    from webtest.lint import middleware as webtest_lint
    from werkzeug.middleware.lint import LintMiddleware

    profiled, _ = applications
    callable_ = profiled.wsgi_app if framework == "flask" else profiled
    below = profilomatic.wsgi.wrap(validator(callable_.__wrapped__))
    for app in (validator(profiled), webtest_lint(profiled), validator(below), LintMiddleware(profiled)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for path in ("/item/7", "/stream/tea", "/refuse/7", "/absent/1"):
                status, _, chunks = ask(app, path)
                assert status[:3] in ("200", "403", "404") and b"".join(chunks)
    assert len(profiles.flushed(16)) == 16
