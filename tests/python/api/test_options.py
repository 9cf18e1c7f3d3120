"""configure(), its ranges, and the environment."""

import os
import warnings

import pytest
from pom_support import run_python

import profilomatic
from profilomatic import _options


def value(name):
    return _options.effective()[name]


@pytest.mark.acceptance("PM3")
def test_unknown_option_warns_with_the_near_miss():
    with pytest.warns(UserWarning, match="'max_overhed'.*did you mean 'max_overhead'") as caught:
        profilomatic.configure(max_overhed=0.1, source_name="kept")
    assert caught[0].filename == __file__
    assert value("source_name") == "kept"


@pytest.mark.acceptance("PM3")
def test_unspecified_options_keep_their_value():
    profilomatic.configure(max_overhead=0.1, source_name="a")
    profilomatic.configure(source_name="b")
    assert value("max_overhead") == 0.1
    assert value("source_name") == "b"


def test_known_options_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        profilomatic.configure(max_overhead="2%", time_granularity="auto", code_granularity="file", store_all_logs=True,
                               max_actions_per_run=0, source_name="x", retention=None, scrub=("sid",))
    assert value("max_overhead") == pytest.approx(0.02)


@pytest.mark.acceptance("PM4", "PM5", "PM6")
@pytest.mark.parametrize("name, bad, word", [
    ("max_overhead", 0, "0.5"), ("max_overhead", 0.51, "0.5"), ("max_overhead", float("nan"), "0.5"),
    ("max_overhead", "many", "0.5"), ("max_overhead", "60%", "0.5"), ("max_overhead", True, "0.5"),
    ("max_overhead", None, "0.5"),
    ("time_granularity", 0, "0.0005"), ("time_granularity", 0.0004, "0.0005"), ("time_granularity", 11, "10"),
    ("time_granularity", "often", "auto"), ("time_granularity", None, "auto"),
    ("code_granularity", "function", "method"), ("code_granularity", 2, "method"),
    ("store_all_logs", "yes", "True"), ("store_all_logs", 2, "True"),
    ("max_actions_per_run", -1, "0"), ("max_actions_per_run", 1.5, "0"), ("max_actions_per_run", True, "0"),
    ("max_actions_per_run", 1000001, "1000000"), ("time_granularity", 10.001, "10"), ("max_overhead", 0.501, "0.5"),
    ("source_name", "", "1 to 255"), ("source_name", 7, "1 to 255"), ("source_name", "x" * 256, "1 to 255"),
    ("source_name", "\ud800", "UTF-8"), ("retention", "slow", "all"),
    ("scrub", "password", "list"), ("scrub", [1], "list"), ("scrub", ["\ud800x"], "list"), ("scrub", 3, "list"),
])
def test_wrong_value_names_option_value_and_range(name, bad, word):
    with pytest.raises(ValueError) as caught:
        profilomatic.configure(**{name: bad})
    text = str(caught.value)
    assert name in text and repr(bad) in text and word in text
    profilomatic.configure()  # nothing of the bad value was kept to fail later


@pytest.mark.parametrize("name, given, kept", [
    ("max_overhead", 0.5, 0.5), ("max_overhead", "50%", 0.5), ("max_overhead", " 0.25 ", 0.25),
    ("time_granularity", 0.0005, 0.0005), ("time_granularity", 10, 10.0),
    ("code_granularity", "method", "method"), ("store_all_logs", 1, True), ("store_all_logs", 0, False),
    ("max_actions_per_run", 0, 0), ("max_actions_per_run", 1000000, 1000000),
    ("partial_every", 0, 0.0), ("partial_every", 0.05, 0.05), ("partial_every", 86400, 86400.0),
    ("source_name", "x", "x"), ("source_name", "x" * 255, "x" * 255), ("retention", "all", None), ("scrub", [], ()),
])
def test_the_ends_of_a_range_belong_to_it(name, given, kept):
    profilomatic.configure(**{name: given})
    assert value(name) == kept and type(value(name)) is type(kept)
    with profilomatic.action("taken by the engine as well"):
        pass


def test_a_call_with_a_wrong_value_applies_nothing():
    with pytest.raises(ValueError):
        profilomatic.configure(source_name="half", max_overhead=9)
    assert value("source_name") is None


@pytest.mark.acceptance("PM8")
def test_both_names_of_the_admission_limit():
    profilomatic.configure(simultaneous_tasks_profiled=3)
    assert value("max_actions_per_run") == 3
    with pytest.raises(ValueError):
        profilomatic.configure(simultaneous_tasks_profiled=3, max_actions_per_run=4)


@pytest.mark.acceptance("PM4", "PM5", "PM7", "PM8")
def test_defaults_are_the_documented_ones():
    assert value("max_overhead") == 0.02
    assert value("time_granularity") == 0.01
    assert value("code_granularity") == "line"
    assert value("store_all_logs") is False
    assert value("max_actions_per_run") == 10
    assert value("scrub") is True


def test_environment_gives_options_and_configure_wins(monkeypatch):
    monkeypatch.setenv("PROFILOMATIC_MAX_OVERHEAD", "5%")
    monkeypatch.setenv("PROFILOMATIC_TIME_GRANULARITY", "auto")
    monkeypatch.setenv("PROFILOMATIC_STORE_ALL_LOGS", "on")
    monkeypatch.setenv("PROFILOMATIC_SIMULTANEOUS_TASKS_PROFILED", "4")
    monkeypatch.setenv("PROFILOMATIC_SCRUB", "sid, Pin")
    monkeypatch.setenv("PROFILOMATIC_SOURCE_NAME", "from-env")
    _options._environment = None
    profilomatic.configure(source_name="from-code")
    assert value("max_overhead") == pytest.approx(0.05)
    assert value("time_granularity") == "auto"
    assert value("store_all_logs") is True
    assert value("max_actions_per_run") == 4
    assert value("scrub") == ("sid", "Pin")
    assert value("source_name") == "from-code"
    assert {"sid", "pin", "password"} <= set(_options.for_backend()["scrub"])


@pytest.mark.parametrize("name, text", [
    ("MAX_OVERHEAD", "lots"), ("TIME_GRANULARITY", "0"), ("CODE_GRANULARITY", "word"), ("STORE_ALL_LOGS", "maybe"),
    ("MAX_ACTIONS_PER_RUN", "ten"), ("RETENTION", "some"),
])
def test_bad_environment_value_warns_and_keeps_the_default(monkeypatch, name, text):
    monkeypatch.setenv("PROFILOMATIC_" + name, text)
    _options._environment = None
    with pytest.warns(UserWarning, match="PROFILOMATIC_%s='%s'" % (name, text)):
        assert value(name.lower()) == _options.TABLE[name.lower()][0]


def test_a_misspelled_variable_is_warned_about_with_the_right_one(monkeypatch):
    monkeypatch.setenv("PROFILOMATIC_MAX_OVERHED", "0.5")
    monkeypatch.setenv("PROFILOMATIC_DESTINATON", "profiles.jsonl")
    monkeypatch.setenv("PROFILOMATIC_TOKEN", "is one of ours")
    _options._environment = None
    with pytest.warns(UserWarning) as warned:
        assert value("max_overhead") == 0.02
    assert [str(each.message) for each in warned] == [
        "profilomatic: the environment variable PROFILOMATIC_%s means nothing; did you mean PROFILOMATIC_%s?" % pair
        for pair in (("DESTINATON", "DESTINATION"), ("MAX_OVERHED", "MAX_OVERHEAD"))]


@pytest.mark.acceptance("PM3")
@pytest.mark.parametrize("variable", ["MAX_OVERHED", "MAX_OVERHEAD"])
def test_a_wrong_variable_stops_no_application_where_warnings_are_errors(variable):
    done = run_python("""if True:
        import warnings
        warnings.simplefilter("error")
        import profilomatic
        app = profilomatic.wsgi.wrap(lambda environ, start_response: [b"served"])
        assert app({}, None) == [b"served"]
        """, **{"PROFILOMATIC_" + variable: "lots"})
    assert done.returncode == 0, done.stderr
    assert "PROFILOMATIC_" + variable in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.acceptance("PM10")
def test_source_name_is_in_the_record_and_defaults_to_the_host(profiles):
    with profilomatic.action("a"):
        pass
    assert profiles.one()["source"] == os.uname().nodename
    profilomatic.configure(source_name="shop-7")
    with profilomatic.action("b"):
        pass
    assert profiles.flushed(2)[1]["source"] == "shop-7"


def test_scrub_masks_secrets_in_query_strings(profiles):
    from wsgi_server import Server, environ, listed

    query = "a=1&password=hunter2&API%5FKEY=k&sid=9&token"
    app = profilomatic.wsgi.wrap(listed)

    def seen():
        count = len(profiles.records)
        Server(app, environ(QUERY_STRING=query)).run()
        return profiles.flushed(count + 1)[-1]["action"]["query_string"]

    assert seen() == "a=1&password=[scrubbed]&API%5FKEY=[scrubbed]&sid=9&token"
    profilomatic.configure(scrub=["SID"])
    assert seen() == "a=1&password=[scrubbed]&API%5FKEY=[scrubbed]&sid=[scrubbed]&token"
    profilomatic.configure(scrub=False)
    assert seen() == query
