"""Eliot's actions and messages as events of call graphs."""

import asyncio
import collections
import gc
import re
import threading

import eliot
import pytest
from pom_support import burn, burn_until_sampled, messages, walk

import profilomatic
import profilomatic.eliot


def said(record):
    """(action type or message type, status) of all messages."""
    return [(m.get("action_type", m.get("message_type")), m.get("action_status")) for m in messages(record)]


def nodes_of(record, **fields):
    return [node for node in walk(record) if "message" in node
            and all(node["message"].get(name) == value for name, value in fields.items())]


@pytest.mark.acceptance("PM17", "PM18", "PM12")
def test_an_action_is_a_profile_with_its_start_and_end_in_the_graph(patched, log):
    with eliot.start_action(action_type="app:outer", number=3, nested={"a": [1, 2.5, None, True]}) as action:
        assert profilomatic.current_task_uuid() == action.task_uuid
        with eliot.start_action(action_type="app:inner"):
            burn()
        action.add_success_fields(rows=17)
    record = patched.one()
    assert record["task_uuid"] == action.task_uuid
    assert record["action"] == {"type": "app:outer", "kind": "eliot", "outcome": "succeeded", "number": 3,
                                "nested": {"a": [1, 2.5, None, True]}}
    assert said(record) == [("app:outer", "started"), ("app:inner", "started"), ("app:inner", "succeeded"),
                            ("app:outer", "succeeded")]
    first, *_, last = messages(record)
    assert first["number"] == 3 and first["nested"] == {"a": [1, 2.5, None, True]}
    assert last["rows"] == 17
    # Whole: what Eliot gave its other destinations.
    assert messages(record) == list(log)


@pytest.mark.acceptance("PM7", "PM18")
def test_messages_enter_only_with_store_all_logs_which_may_change_any_time(patched, log):
    with eliot.start_action(action_type="app"):
        eliot.log_message("first", number=1)
        profilomatic.configure(store_all_logs=True)
        eliot.log_message("second", number=2)
        profilomatic.configure(store_all_logs=False)
        eliot.log_message("third", number=3)
    assert said(patched.one()) == [("app", "started"), ("second", None), ("app", "succeeded")]
    assert [m.get("message_type") for m in log] == [None, "first", "second", "third", None]


@pytest.mark.acceptance("PM18")
def test_messages_outside_any_action_are_ignored(patched):
    profilomatic.configure(store_all_logs=True)
    eliot.log_message("alone")
    assert patched.flushed(0) == []
    with profilomatic.action("ours"):
        eliot.log_message("inside ours, but no action of Eliot's")
    assert messages(patched.one()) == []


def logs_here(number):
    eliot.log_message("here", number=number)  # the line that logs


@pytest.mark.acceptance("PM14")
def test_messages_stand_at_the_logging_call_without_frames_of_eliot_or_ours(patched):
    profilomatic.configure(store_all_logs=True)
    with eliot.start_action(action_type="app"):
        logs_here(1)
    record = patched.one()
    node, = nodes_of(record, message_type="here")
    assert node["function"] == "logs_here" and node["file"] == __file__
    assert node["line"] == logs_here.__code__.co_firstlineno + 1
    for node in walk(record):
        if "message" in node:
            assert "/eliot/_" not in node["file"] and "/profilomatic/" not in node["file"], node


def fails():
    raise KeyError("gone")  # the line that raises


@pytest.mark.acceptance("PM14")
def test_while_an_exception_is_handled_a_message_stands_where_it_was_raised(patched):
    profilomatic.configure(store_all_logs=True)
    with pytest.raises(KeyError):
        with eliot.start_action(action_type="app"):
            try:
                fails()
            except KeyError:
                eliot.log_message("handling")
                raise
    record = patched.one()
    raised = fails.__code__.co_firstlineno + 1
    handling, = nodes_of(record, message_type="handling")
    assert (handling["function"], handling["line"]) == ("fails", raised)
    failed, = nodes_of(record, action_status="failed")
    assert (failed["function"], failed["line"]) == ("fails", raised)
    assert failed["message"]["exception"] == "builtins.KeyError"
    action = record["action"]
    assert (action["outcome"], action["exception"], action["reason"]) == ("failed", "KeyError", "'gone'")


@pytest.mark.acceptance("PM13")
def test_messages_seal_what_was_called_before_them(patched):
    with eliot.start_action(action_type="outer"):
        for _ in range(2):
            burn_until_sampled(2)
            with eliot.start_action(action_type="inner"):
                burn_until_sampled(2)
    record = patched.one()
    top = record["children"]
    while len(top) == 1:
        top = top[0]["children"]
    order = "".join("M" if "message" in node else "w" for node in top)
    # start, work, (start, work, end), work, (start, work, end), end: no two stretches of work were merged. A busy
    # machine may take a sample while the outer action starts, between the two ends, and while it ends, too.
    assert re.fullmatch("w*Mw+Mw+Mw+Mw+Mw*Mw*", order), order


def test_patching_twice_is_patching_once(patched, log):
    before = list(eliot.Logger._destinations._destinations)
    profilomatic.eliot.patch()
    assert eliot.Logger._destinations._destinations == before
    with eliot.start_action(action_type="app"):
        pass
    assert len(messages(patched.one())) == 2


@pytest.mark.acceptance("PM17")
def test_unpatching_in_the_middle_ends_what_is_open_as_lost(profiles, log):
    before = dict(eliot.Action.__dict__)
    profilomatic.eliot.patch()
    profilomatic.eliot.patch()
    with eliot.start_action(action_type="app"):
        with eliot.start_action(action_type="inner"):
            assert profilomatic.eliot.stats()["open"] == 2
            profilomatic.eliot.unpatch()
            assert profilomatic.current_task_uuid() is None
            assert dict(eliot.Action.__dict__) == before
            assert eliot.Logger._destinations._destinations == [log]
            profilomatic.eliot.unpatch()
    assert profilomatic.eliot.stats() is None
    assert profiles.one()["action"]["outcome"] == "lost"
    assert len(log) == 4
    profilomatic.eliot.patch()
    with eliot.start_action(action_type="again"):
        pass
    assert profiles.flushed(2)[1]["action"] == {"type": "again", "kind": "eliot", "outcome": "succeeded"}
    profilomatic.eliot.unpatch()


@pytest.mark.acceptance("PM17")
def test_patching_and_unpatching_in_the_middle_leaks_nothing(python):
    python("""
import gc, sys
import eliot, profilomatic, profilomatic.eliot

def one():
    profilomatic.eliot.patch()
    outer = eliot.start_action(action_type="open", value=[1, 2])
    with outer.context():
        inner = eliot.start_action(action_type="inside")
    handed = outer.serialize_task_id()
    profilomatic.eliot.unpatch()
    with eliot.start_action(action_type="unseen"):
        pass
    inner.finish()
    outer.finish()

def rounds(count):
    for _ in range(count):
        one()
    del seen[:]
    gc.collect()
    assert profilomatic.flush(60)
    del seen[:]
    gc.collect()
    return sys.getallocatedblocks(), len(gc.get_objects())

seen = []
eliot.add_destinations(lambda message: None)
profilomatic.configure(max_actions_per_run=0)
profilomatic.add_destination(seen.append)
rounds(100)
blocks, objects = rounds(100)
more_blocks, more_objects = rounds(500)
assert more_objects - objects < 50, more_objects - objects
assert more_blocks - blocks < 250, more_blocks - blocks
assert profilomatic.stats()["actions"]["lost"] == profilomatic.stats()["actions"]["started"] == 700
assert profilomatic.stop(60)
""")


def test_patching_in_the_middle_sees_what_begins_from_then_on(profiles, log):
    with eliot.start_action(action_type="before"):
        profilomatic.eliot.patch()
        with eliot.start_action(action_type="child"):
            pass
    record = profiles.one()
    assert said(record) == [("child", "started"), ("child", "succeeded")]
    profilomatic.eliot.unpatch()


def test_starts_and_ends_in_any_order_are_tolerated(patched, log):
    profilomatic.configure(store_all_logs=True)
    ours = [d for d in eliot.Logger._destinations._destinations if d is not log][0]
    ours({"task_uuid": "x", "task_level": [2], "action_status": "succeeded", "action_type": "never begun"})
    ours({"task_uuid": "x", "task_level": [1], "message_type": "in nothing"})
    outer, inner = eliot.start_action(action_type="a"), None
    with outer.context():
        inner = eliot.start_action(action_type="b")
    outer.finish()
    with inner.context():
        eliot.log_message("too late")
    inner.finish()
    inner.finish()
    record = patched.one()
    assert record["action"]["type"] == "a"
    assert record["profiler"]["truncated"] == {"events": 1}  # the end of b
    assert profilomatic.eliot.stats() == {"open": 0, "dropped": 0, "faults": 0}
    assert profilomatic.current_task_uuid() is None


@pytest.mark.parametrize("message", [
    {}, {"action_status": "started"}, {"action_status": "started", "task_uuid": "x"},
    {"action_status": "started", "task_uuid": 3, "task_level": [1], "action_type": "a"},
    {"action_status": "succeeded", "task_uuid": "x", "task_level": None},
    {"task_uuid": "x", "task_level": 7}, {"task_uuid": [], "task_level": [1]},
])
def test_malformed_messages_are_counted_and_never_raise(patched, log, message):
    profilomatic.configure(store_all_logs=True)
    ours = [d for d in eliot.Logger._destinations._destinations if d is not log][0]
    ours(message)
    assert profilomatic.eliot.stats()["faults"] == 1
    with eliot.start_action(action_type="app"):
        pass
    patched.one()


def test_a_fault_of_ours_reaches_neither_the_caller_nor_other_destinations(patched, log, monkeypatch, caplog):
    listener = profilomatic.eliot._listener

    def broken(*args):
        raise RuntimeError("ours")

    monkeypatch.setattr(listener, "_started", broken)
    with eliot.start_action(action_type="app"):
        pass
    with eliot.start_action(action_type="app"):
        pass
    assert [m["action_status"] for m in log] == ["started", "succeeded"] * 2
    assert listener.faults == 2
    assert len([r for r in caplog.records if r.name == "profilomatic"]) == 1, "logged once"
    assert patched.flushed(0) == []


def test_a_destination_that_raises_disturbs_nobody(patched, log):
    def broken(message):
        raise ValueError("theirs")

    profilomatic.configure(store_all_logs=True)
    eliot.Logger._destinations._destinations.insert(0, broken)
    try:
        with eliot.start_action(action_type="app"):
            eliot.log_message("hello")
    finally:
        eliot.remove_destination(broken)
    record = patched.one()
    own = [entry for entry in said(record) if entry[0] != "eliot:destination_failure"]
    assert own == [("app", "started"), ("hello", None), ("app", "succeeded")]
    assert profilomatic.eliot.stats()["faults"] == 0


def test_too_many_open_actions_are_dropped_and_counted(patched, monkeypatch):
    monkeypatch.setattr(profilomatic.eliot, "OPEN_MAX", 3)
    opened = [eliot.start_task(action_type="app") for _ in range(5)]
    assert profilomatic.eliot.stats() == {"open": 3, "dropped": 2, "faults": 0}
    for action in opened:
        action.finish()
    assert profilomatic.eliot.stats()["open"] == 0
    patched.flushed()


def test_an_action_that_nobody_can_end_is_lost_and_its_thread_free_again(patched):
    action = eliot.start_task(action_type="forgotten")
    del action
    gc.collect()
    assert profilomatic.eliot.stats()["open"] == 0
    with profilomatic.action("next"):
        pass
    first, second = patched.flushed(2)
    assert (first["action"]["type"], first["action"]["outcome"]) == ("forgotten", "lost")
    assert second["action"]["type"] == "next"


def test_fields_pin_nothing_while_the_action_is_open(patched):
    import weakref

    class Thing:
        def __str__(self):
            return "a thing"

    thing = Thing()
    gone = weakref.ref(thing)
    destinations = eliot.Logger._destinations._destinations
    kept, destinations[:] = list(destinations), [d for d in destinations if d is profilomatic.eliot._listener]
    try:
        action = eliot.start_task(action_type="app", thing=thing)
    finally:
        destinations[:] = kept
    del thing
    gc.collect()
    assert gone() is None
    action.finish()
    record = patched.one()
    assert record["action"]["thing"] == "a thing"


def test_an_action_may_end_on_another_thread(patched):
    action = eliot.start_task(action_type="handed over")
    thread = threading.Thread(target=action.finish)
    thread.start()
    thread.join()
    assert profilomatic.current_task_uuid() is None
    with profilomatic.action("next"):
        pass
    first, second = patched.flushed(2)
    assert (first["action"]["type"], first["action"]["outcome"]) == ("handed over", "succeeded")
    assert [entry[1] for entry in said(first)] == ["started", "succeeded"]
    assert second["action"]["type"] == "next"


def test_generators_that_are_closed_are_aborted(patched):
    def produce():
        with eliot.start_action(action_type="produce"):
            yield 1
            yield 2

    generator = produce()
    next(generator)
    generator.close()
    assert patched.one()["action"]["outcome"] == "aborted"


def test_actions_of_asyncio_tasks_are_profiles_of_their_own(patched):
    profilomatic.configure(store_all_logs=True)

    async def work(name, turns):
        with eliot.start_task(action_type=name) as action:
            for turn in range(turns):
                assert profilomatic.current_task_uuid() == action.task_uuid
                await asyncio.sleep(0)
                eliot.log_message("turn", turn=turn)

    async def main():
        await asyncio.gather(work("a", 3), work("b", 2), work("c", 1))

    asyncio.run(main())
    found = {r["action"]["type"]: [m["turn"] for m in messages(r) if "turn" in m] for r in patched.flushed(3)}
    assert found == {"a": [0, 1, 2], "b": [0, 1], "c": [0]}


def test_decorated_functions_are_actions(patched):
    @eliot.log_call(action_type="add")
    def add(a, b):
        return a + b

    assert add(1, b=2) == 3
    record = patched.one()
    assert record["action"]["a"] == 1 and record["action"]["b"] == 2
    assert messages(record)[-1]["result"] == 3


def test_old_names_and_validated_types_work(patched):
    number = eliot.fields(number=int)
    add = eliot.ActionType("add", number, number, "Adds.")
    with add(number=1) as action:
        action.add_success_fields(number=2)
    record = patched.one()
    assert record["action"] == {"type": "add", "kind": "eliot", "outcome": "succeeded", "number": 1}
    assert messages(record)[-1]["number"] == 2


def test_values_of_secret_looking_fields_are_masked_in_graphs_only(patched, log):
    with eliot.start_action(action_type="login", user="ann", password="pw", deep={"api_token": "t", "n": 1},
                            many=[{"token": "t"}, ({"a": [collections.OrderedDict(Secret="s", n=2)]},)]):
        pass
    record = patched.one()
    for fields in (record["action"], messages(record)[0]):
        assert (fields["user"], fields["password"]) == ("ann", "[scrubbed]")
        assert fields["deep"] == {"api_token": "[scrubbed]", "n": 1}
        assert fields["many"] == [{"token": "[scrubbed]"}, [{"a": [{"Secret": "[scrubbed]", "n": 2}]}]]
    assert log[0]["password"] == "pw" and log[0]["many"][0]["token"] == "t" and log[0]["deep"]["api_token"] == "t"
    profilomatic.configure(scrub=False)
    with eliot.start_action(action_type="login", password="pw"):
        pass
    assert patched.flushed(2)[1]["action"]["password"] == "pw"
    profilomatic.configure(scrub=["user"])
    with eliot.start_action(action_type="login", user="ann"):
        pass
    assert patched.flushed(3)[2]["action"]["user"] == "[scrubbed]"


class Hostile:
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def cyclic():
    value = {}
    value["self"] = [value]
    return value


@pytest.mark.parametrize("value, shown", [
    (b"\xff\xfe", "\\xff\\xfe"), ("\ud800", "?"), (2 ** 70, hex(2 ** 70)), ({1: 2}, {"1": 2}), ((1, 2), [1, 2]),
    (object, str(object)), (Hostile(), "<unprintable Hostile>"),
])
def test_odd_values_are_shown_as_well_as_can_be(patched, value, shown):
    with eliot.start_action(action_type="app", value=value):
        pass
    assert messages(patched.one())[0]["value"] == shown
    assert profilomatic.eliot.stats()["faults"] == 0


def multiplying():
    """A dict of nine entries that has 9 ** n of them n levels down."""
    value = {}
    for number in range(9):
        value["k%d" % number] = [value]
    return value


@pytest.mark.parametrize("name, shown", [
    ("\ud800", "?"), ("", ""), ("x" * 100, "x" * 100), ("caf\u00e9", "caf\u00e9"), ("a b\n", "a b\n"),
])
def test_odd_names_of_fields_are_shown_as_well_as_can_be(patched, name, shown):
    profilomatic.configure(store_all_logs=True)
    with eliot.start_action(action_type="app", **{name: 1}):
        eliot.log_message("message", **{name: 2})
    record = patched.one()
    assert record["action"][shown] == 1
    assert [m[shown] for m in messages(record) if shown in m] == [1, 2]
    assert profilomatic.eliot.stats()["faults"] == 0


def test_a_name_too_long_to_be_read_keeps_its_value_to_itself(patched):
    with eliot.start_action(action_type="app", **{"x" * 10000: 1}):
        pass
    assert patched.one()["action"]["x" * 256 + "\u2026"] == "[scrubbed]"


@pytest.mark.parametrize("value", [
    cyclic(), multiplying(), "x" * 1000000, list(range(100000)), {str(n): n for n in range(100000)}, [[[[[[[[[[[[1]]]]]]]]]]]],
])
def test_values_without_end_are_cut(patched, value):
    import json

    profilomatic.configure(store_all_logs=True)
    with eliot.start_action(action_type="app", value=value):
        eliot.log_message("again", value=value)
    record = patched.one()
    assert len(json.dumps(record)) < 100000
    kept = messages(record)
    assert len(kept) == 3
    assert {message["task_uuid"] for message in kept} == {record["task_uuid"]}, "what is huge pushes nothing else out"
    assert [message.get("action_status") for message in kept] == ["started", None, "succeeded"]


def test_nothing_is_recorded_while_stopped(log):
    profilomatic.eliot.patch()
    try:
        with eliot.start_action(action_type="app"):
            assert profilomatic.eliot.stats()["open"] == 0
    finally:
        profilomatic.eliot.unpatch()
    assert len(log) == 2


def test_actions_open_at_a_stop_are_lost_and_later_ones_work(patched):
    with eliot.start_action(action_type="open"):
        assert profilomatic.stop(60)
        profilomatic.start()
    with eliot.start_action(action_type="later"):
        pass
    first, second = patched.flushed(2)
    assert first["action"]["outcome"] == "lost"
    assert (second["action"]["type"], second["action"]["outcome"]) == ("later", "succeeded")


def test_a_profile_destination_that_logs_with_eliot_is_not_profiled(patched, log):
    def tells(record):
        with eliot.start_action(action_type="telling"):
            pass

    profilomatic.add_destination(tells)
    with eliot.start_action(action_type="app"):
        pass
    assert profilomatic.flush(60)
    profilomatic.remove_destination(tells)
    assert [record["action"]["type"] for record in patched.flushed(1)] == ["app"]
