"""The shape and the truth of one record."""

import datetime
import json
import sys
import threading
import time

import pytest
from pom_support import PATIENCE, burn, burn_until_sampled, messages, walk

import profilomatic

ROOT_KEYS = ["task_uuid", "thread", "thread_name", "source", "pid", "start_time", "end_time", "time", "self_time",
             "cpu_time", "self_cpu_time", "hits", "action", "profiler", "children"]
NODE_KEYS = {"instruction", "file", "function", "line", "time", "self_time", "cpu_time", "self_cpu_time", "hits",
             "start_time", "end_time"}


def moment(text):
    parsed = datetime.datetime.fromisoformat(text)
    assert parsed.utcoffset() == datetime.timedelta(0), text
    assert text.partition(".")[2][:6].isdigit(), text
    return parsed.timestamp()


def check_times(node, low, high, children):
    assert all(node[key] >= -1e-9 for key in ("time", "self_time", "cpu_time", "self_cpu_time"))
    assert node["time"] == pytest.approx(node["self_time"] + sum(child["time"] for child in children), abs=2e-6)
    assert node["cpu_time"] == pytest.approx(
        node["self_cpu_time"] + sum(child["cpu_time"] for child in children), abs=2e-6)
    start, end = moment(node["start_time"]), moment(node["end_time"])
    assert low - 1e-3 <= start <= end <= high + 1e-3
    return start, end


def check(record):
    """All that holds of every record."""
    assert set(ROOT_KEYS) <= set(record)
    assert list(record)[:len(ROOT_KEYS)] == ROOT_KEYS
    start, end = check_times(record, 0, 1e12, record["children"])
    assert record["time"] == pytest.approx(end - start, abs=2e-3)
    assert record["cpu_time"] <= record["time"] * 1.05 + 5e-3  # of one thread
    profiler = record["profiler"]
    assert set(profiler) >= {"engine", "period", "samples", "missed", "overhead", "truncated"}
    assert profiler["overhead"]["cpu"] >= 0 and profiler["overhead"]["fraction"] >= 0
    assert all(count > 0 for count in [*profiler["missed"].values(), *profiler["truncated"].values()])
    assert record["hits"] == profiler["samples"]
    assert record["hits"] >= sum(child["hits"] for child in record["children"])
    for node in walk(record):
        extra = {"children"} if "children" in node else {"message"} if "message" in node else set()
        assert set(node) == NODE_KEYS | extra
        check_times(node, start, end, node.get("children", ()))
        assert node["instruction"] == "%s:%s:%d" % (node["file"], node["function"], node["line"])
        if "message" in node:
            assert node["time"] == node["cpu_time"] == node["hits"] == 0
        else:
            assert node["hits"] >= sum(child["hits"] for child in node.get("children", ()))
            assert node["hits"] > 0 or node["time"] == 0
    json.dumps(record)
    return record


@pytest.mark.acceptance("PM12")
def test_record_has_the_documented_keys_and_types(profiles, backend):
    before = time.time()
    with profilomatic.action("shape") as a:
        burn_until_sampled(3)
        a.message(step=1)
        burn_until_sampled(3)
    after = time.time()
    record = check(profiles.one())
    assert record["profiler"]["engine"]
    if backend == "pure":
        assert record["profiler"]["engine"] == "pure"
    assert record["thread_name"] == "MainThread"
    assert isinstance(record["thread"], int) and isinstance(record["pid"], int)
    # The clock of the wall and the other one are read one after the other.
    assert before - 5 <= moment(record["start_time"]) <= moment(record["end_time"]) <= after + 5
    assert record["hits"] >= 1


@pytest.mark.acceptance("PM12", "PM15")
def test_time_of_the_root_is_the_wall_time(profiles):
    began = time.perf_counter()
    with profilomatic.action("timed"):
        time.sleep(0.02)
    spent = time.perf_counter() - began
    record = check(profiles.one())
    assert 0.02 <= record["time"] <= spent


def test_an_action_of_the_twin_ends_no_earlier_than_its_last_sample(profiles, backend, monkeypatch):
    if backend != "pure":
        pytest.skip("the extension withdraws the anchor and then looks at the clock")
    from profilomatic._pure_engine import Live

    detach = Live.detach

    def detach_late(live):
        burn_until_sampled(2)
        detach(live)

    monkeypatch.setattr(Live, "detach", detach_late)
    with profilomatic.action("ends"):
        pass
    assert check(profiles.one())["hits"] >= 2


@pytest.mark.acceptance("PM15")
def test_waiting_time_stands_under_the_waiting_line_and_costs_no_cpu(profiles):
    def wait():
        time.sleep(0.01)

    with profilomatic.action("waits"):
        burn_until_sampled(20, work=wait)
    record = check(profiles.one())
    waiting = [node for node in walk(record) if node["function"].endswith(".wait") and "children" not in node]
    line = wait.__code__.co_firstlineno + 1
    slept = sum(node["time"] for node in waiting if node["line"] == line)
    assert slept > 0.8 * sum(node["time"] for node in record["children"])
    assert sum(node["cpu_time"] for node in waiting) < 0.5 * slept


@pytest.mark.acceptance("PM15")
def test_work_stands_under_the_working_function(profiles):
    with profilomatic.action("works"):
        burn_until_sampled(20)
    record = check(profiles.one())
    burning = [node for node in walk(record) if node["function"] == "burn"]
    assert sum(node["self_time"] for node in burning) > 0
    assert {node["file"] for node in burning} == {burn.__code__.co_filename}
    lines = range(burn.__code__.co_firstlineno, burn.__code__.co_firstlineno + 8)
    assert all(node["line"] in lines for node in burning)


def here(offset=0):
    import sys

    return sys._getframe(1).f_lineno + offset


@pytest.mark.acceptance("PM13")
def test_a_message_separates_what_was_before_from_what_came_after(profiles):
    def step(a, number):
        burn_until_sampled(2)
        a.message(number=number)
        burn_until_sampled(2)

    with profilomatic.action("steps") as a:
        for number in range(3):
            step(a, number)
    record = check(profiles.one())
    assert [message["number"] for message in messages(record)] == [0, 1, 2]
    step_node = next(node for node in walk(record) if node["function"].endswith(".step"))
    line = step.__code__.co_firstlineno
    parent = next(node for node in [record, *walk(record)]
                  if any("message" in child for child in node.get("children", ())))
    # One caller's line called step() three times, so all hang below one node, in the order of what happened.
    shape = [("message", child["message"]["number"]) if "message" in child else child["line"] - line
             for child in parent["children"]]
    assert [entry for entry in shape if isinstance(entry, tuple)] == [("message", 0), ("message", 1), ("message", 2)]
    for number in range(3):
        position = shape.index(("message", number))
        assert 1 in shape[:position] and 3 in shape[position:], shape
    assert step_node["file"] == __file__


def way_to_the_message(record):
    """The nodes from a record, itself not among them, down to its only message. On a busy machine it has others, of samples."""
    def ways(node):
        if "message" in node:
            yield [node]
        for child in node.get("children", ()):
            for way in ways(child):
                yield [node, *way]

    (_, *way), = ways(record)
    return way


@pytest.mark.acceptance("PM13", "PM14")
def test_a_message_stands_at_the_line_of_its_call_below_its_caller(profiles):
    def log(a):
        a.message(where="log")
        return here(-1)

    def work(a):
        return log(a), here()

    with profilomatic.action("a") as a:
        log_line, work_line = work(a)
        call_line = here(-1)
    chain = way_to_the_message(check(profiles.one()))
    message = chain[-1]
    assert [node["line"] for node in chain] == [call_line, work_line, log_line]
    assert message["hits"] == 0
    assert message["function"].endswith("<locals>.log")
    assert message["message"] == {"where": "log"}


@pytest.mark.acceptance("PM14")
def test_a_message_in_an_except_block_stands_where_it_was_raised(profiles):
    lines = []

    def deeper():
        lines.append(here(1))
        raise ValueError("here")

    def deep():
        lines.append(here(1))
        deeper()

    def work(a):
        try:
            lines.append(here(1))
            deep()
        except ValueError:
            a.message(caught=True)

    with profilomatic.action("a") as a:
        lines.append(here(1))
        work(a)
    chain = way_to_the_message(check(profiles.one()))
    node = chain[-1]
    assert [each["line"] for each in chain] == lines
    assert node["message"] == {"caught": True}
    assert node["function"].endswith(".deeper")


def test_an_exception_handled_outside_the_action_says_nothing_about_its_messages(profiles):
    lines = []

    def work():
        with profilomatic.action("a") as a:
            lines.append(here(1))
            a.message(step=1)

    try:
        raise ValueError("earlier")
    except ValueError:
        work()
    chain = way_to_the_message(check(profiles.one()))
    assert [node["line"] for node in chain] == lines and chain[-1]["message"] == {"step": 1}


def test_a_message_is_captured_when_it_is_logged(profiles):
    """Not a frame kept and read later: the line is that of the call."""
    with profilomatic.action("a") as a:
        a.message(first=True)
        first = here(-1)
        burn()
        a.message(second=True)
        second = here(-1)
    record = check(profiles.one())
    assert [node["line"] for node in walk(record) if "message" in node] == [first, second]


@pytest.mark.acceptance("PM6")
@pytest.mark.parametrize("granularity", ["file", "method", "line"])
def test_code_granularity_decides_what_a_node_is(profiles, granularity):
    profilomatic.configure(code_granularity=granularity)
    with profilomatic.action("a"):
        burn_until_sampled(10)
    record = profiles.one()
    nodes = list(walk(record))
    assert nodes
    for node in nodes:
        parts = [node["file"]]
        if granularity != "file":
            parts.append(node["function"])
        if granularity == "line":
            parts.append(str(node["line"]))
        assert node["instruction"] == ":".join(parts)
        assert ("function" in node) == (granularity != "file")
        assert ("line" in node) == (granularity == "line")
    if granularity == "method":
        siblings = [child["instruction"] for child in nodes[0].get("children", ())]
        assert len(siblings) == len(set(siblings))


def nesting(value):
    if isinstance(value, dict):
        return 1 + max(map(nesting, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(nesting, value), default=0)
    return 0


def deepest(node, depth=0):
    return max([deepest(child, depth + 1) for child in node.get("children", ())], default=depth)


def test_deep_stacks_lose_their_middle_and_say_so(profiles):
    def dive(depth, a):
        if depth:
            return dive(depth - 1, a)
        bottom(a)

    def bottom(a):
        a.message(at="bottom")
        burn_until_sampled(20)

    with profilomatic.action("deep") as a:
        dive(600, a)
    record = check(profiles.one())
    assert deepest(record) <= 120
    assert nesting(record) < 254
    assert 400 < record["profiler"]["truncated"]["elided"] < 3000, "places, however often they were seen"
    functions = [node["function"] for node in walk(record)]
    assert any(name.endswith(".bottom") for name in functions)
    assert functions[0] == "test_deep_stacks_lose_their_middle_and_say_so"
    assert [message["at"] for message in messages(record)] == ["bottom"]


@pytest.fixture
def unlimited():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(60000)
    yield
    sys.setrecursionlimit(limit)


def dive(levels, bottom):
    return dive(levels - 1, bottom) if levels else bottom()


def test_stacks_of_thousands_of_frames_are_seen(profiles, unlimited):
    if profilomatic.stats()["engine"] != "native":
        pytest.skip("does not look as deep, since everybody waits meanwhile")

    def bottom():
        burn_until_sampled(3)

    with profilomatic.action("diver"):
        dive(9000, bottom)
    record = profiles.one()
    assert any(node["function"].endswith(".bottom") for node in walk(record) if "function" in node)
    assert record["profiler"]["truncated"]["depth"] >= 1, "places further up are not kept"
    assert record["profiler"]["missed"].get("too_deep", 0) == 0


def test_time_deeper_than_a_look_goes_is_the_roots_own(profiles, unlimited):
    def too_deep():
        return profilomatic.stats()["samples"]["missed"].get("too_deep", 0)

    def bottom():
        began, wanted = time.monotonic(), too_deep() + 8
        while too_deep() < wanted and time.monotonic() < began + PATIENCE:
            burn()
        return time.monotonic() - began

    def shallow():
        burn_until_sampled(3)

    with profilomatic.action("diver"):
        shallow()
        deep = dive({"native": 40000, "gil": 5000, "pure": 2500}[profilomatic.stats()["engine"]], bottom)
        shallow()
    record = profiles.one()
    missed = record["profiler"]["missed"]
    assert missed["too_deep"] >= 8, missed
    assert all(not node["function"].endswith("bottom") for node in walk(record) if "function" in node)
    # All but what lies before its first look and behind its last one.
    assert record["self_time"] > 0.6 * deep, (record["self_time"], deep)


def test_code_of_exec_and_names_of_any_script_keep_their_names(profiles):
    source = "def gr\u00fc\u00dfe_\u4e16\u754c(work):\n    work()\n"
    namespace = {}
    exec(compile(source, "/tmp/\u00e4 b:c/\u2603.py", "exec"), namespace)
    work = namespace.pop("gr\u00fc\u00dfe_\u4e16\u754c")
    with profilomatic.action("exec"):
        work(burn_until_sampled)
        del work
    record = check(profiles.one())
    nodes = [node for node in walk(record) if node["function"] == "gr\u00fc\u00dfe_\u4e16\u754c"]
    assert nodes and nodes[0]["file"] == "/tmp/\u00e4 b:c/\u2603.py" and nodes[0]["line"] == 2


def test_code_that_has_an_odd_kind_of_name_is_counted_all_the_same(profiles):
    class Text(str):
        pass

    def odd():
        burn_until_sampled()

    odd.__code__ = odd.__code__.replace(co_filename=Text("odd.py"))
    with profilomatic.action("odd"):
        odd()
    record = check(profiles.one())
    assert not record["profiler"]["missed"].keys() & {"torn", "dead_code"}, record["profiler"]
    functions = {node["function"].rpartition(".")[2] for node in walk(record)}
    assert "burn" in functions and functions & {"<unknown>", "odd"}, functions  # the C reader takes plain strings only


def test_function_is_the_qualified_name(profiles):
    class Shop:
        def sell(self):
            burn_until_sampled()

    with profilomatic.action("a"):
        Shop().sell()
    record = check(profiles.one())
    expected = "test_function_is_the_qualified_name.<locals>.Shop.sell"
    assert expected in {node["function"] for node in walk(record)}


def test_oversized_and_odd_field_values_are_bounded(profiles):
    class Odd:
        def __repr__(self):
            raise RuntimeError("no repr")

        __str__ = __repr__

    loop = []
    loop.append(loop)
    fields = dict(long="x" * 100000, big=1 << 100, raw=b"\xff\x00abc", odd=Odd(), loop=loop, wide=list(range(100000)),
                  surrogate="\ud800", when=datetime.date(2020, 1, 2), kinds={1: "a", None: "b", (1, 2): "c"},
                  items=(1, 2.5, True, None))
    with profilomatic.action("odd", **fields) as a:
        a.message(**fields)
    record = check(profiles.one())
    json.dumps(record).encode("ascii")
    for shown in (record["action"], messages(record)[0]):
        assert 0 < len(shown.get("long", "x")) <= 5000
    assert len(json.dumps(record)) < 200000


def test_all_text_of_a_record_can_be_encoded(profiles):
    class Parent:
        task_uuid = "job \udcff"

    def work():
        with profilomatic.action("\udcff", parent=Parent(), text="\ud800", **{"key\udcff": 1}) as a:
            a.message(text="\ud800")
            raise ValueError("\udcff")

    def run():
        with pytest.raises(ValueError):
            work()

    thread = threading.Thread(target=run, name="n\udcff")
    thread.start()
    thread.join()
    json.dumps(check(profiles.one()), ensure_ascii=False).encode("utf-8")


def test_small_odd_values_are_shown(profiles):
    class Odd:
        def __repr__(self):
            raise RuntimeError("no repr")

        __str__ = __repr__

    with profilomatic.action("odd", when=datetime.date(2020, 1, 2), odd=Odd(), items=(1, 2.5, True, None, "s"),
                             raw=b"abc", surrogate="a\ud800b", kinds={1: "a"}) as a:
        assert a is not None
    action = profiles.one()["action"]
    assert action["when"] == "2020-01-02"
    assert "Odd" in action["odd"]
    assert action["items"] == [1, 2.5, True, None, "s"]
    assert "abc" in action["raw"]
    assert action["surrogate"].startswith("a") and action["surrogate"].endswith("b")
    assert action["kinds"] == {"1": "a"}


def test_nothing_is_truncated_in_an_ordinary_record(profiles):
    with profilomatic.action("plain", a=1) as a:
        a.message(b=2)
        burn_until_sampled()
    assert check(profiles.one())["profiler"]["truncated"] == {}


def test_what_is_cut_of_fields_and_messages_is_counted(profiles):
    cases = [dict(text="x" * 9000), dict(raw=b"x" * 5000), dict(many=list(range(2000))), {"k" * 300: 1},
             dict(deep=[[[[[[[[[1]]]]]]]]])]
    for number, fields in enumerate(cases):
        with profilomatic.action("action", **fields):
            pass
        with profilomatic.action("message") as a:
            a.message(**fields)
        for record in profiles.flushed(2 * number + 2)[-2:]:
            truncated = check(record)["profiler"]["truncated"]
            assert list(truncated) == ["values"] and truncated["values"] >= 1, (fields.keys(), truncated)


def test_a_field_that_evicts_others_is_told(profiles, backend):
    if backend != "c":
        pytest.skip("the twin has room for all")
    with profilomatic.action("a", big=["x" * 50] * 40, order=17) as a:
        a.message(big=["x" * 400] * 21, user="bob", step=2)
    record = check(profiles.one())
    assert "order" not in record["action"] and "user" not in messages(record)[0]
    # Of 40 texts of 52 bytes 39 fit, of 21 of 403 bytes 20; one of each is cut; then there is no room for what comes behind.
    assert record["profiler"]["truncated"]["values"] == 2 + 3


def test_many_messages_are_capped_and_counted(profiles):
    with profilomatic.action("chatty") as a:
        for number in range(15000):
            a.message(number=number)
    record = profiles.one()
    kept, truncated = [message["number"] for message in messages(record)], record["profiler"]["truncated"]
    queued = 15000 - truncated.get("events", 0)  # a sampler that gets no CPU leaves no room for the others
    assert len(kept) == min(10000, queued) and kept == sorted(set(kept))
    assert queued == len(kept) + truncated.get("messages", 0)


@pytest.mark.acceptance("PM4")
def test_the_period_of_a_record_is_the_mean_of_those_wanted(profiles):
    """Each sample stands for the period that was wanted then, so all of them for `samples` times it."""
    profilomatic.configure(time_granularity=0.005, max_overhead=0.5)
    with profilomatic.action("slower"):
        burn_until_sampled(40)
        profilomatic.configure(time_granularity=0.02, max_overhead=0.5)
        burn_until_sampled(30)
    with profilomatic.action("slow"):
        burn_until_sampled(2)
    slower, slow = profiles.flushed(2)
    assert 0.0052 < slower["profiler"]["period"] < 0.0199
    assert slow["profiler"]["period"] == pytest.approx(0.02)
