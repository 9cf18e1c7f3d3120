"""profilomatic.action(): life, nesting, decorators, contexts."""

import asyncio
import contextlib
import ctypes
import functools
import gc
import inspect
import json
import sys
import threading

import pytest
from pom_support import burn_until_sampled, messages, walk

import profilomatic


def statuses(record):
    return [(message.get("action_type"), message.get("action_status")) for message in messages(record)]


def test_an_action_is_one_record_with_its_type_kind_and_fields(profiles):
    with profilomatic.action("rebuild-index", shard=3, name="a") as a:
        assert isinstance(a.task_uuid, str)
        task_uuid = a.task_uuid
    record = profiles.one()
    assert record["task_uuid"] == task_uuid
    assert record["action"] == {"type": "rebuild-index", "kind": "code", "outcome": "succeeded", "shard": 3, "name": "a"}


@pytest.mark.acceptance("PM11")
def test_current_task_uuid_is_of_the_innermost_action_on_this_thread(profiles):
    elsewhere = []
    assert profilomatic.current_task_uuid() is None
    with profilomatic.action("outer") as outer:
        assert profilomatic.current_task_uuid() == outer.task_uuid
        with profilomatic.action("inner") as inner:
            assert profilomatic.current_task_uuid() == inner.task_uuid == outer.task_uuid
        thread = threading.Thread(target=lambda: elsewhere.append(profilomatic.current_task_uuid()))
        thread.start()
        thread.join()
        assert profilomatic.current_task_uuid() == outer.task_uuid
    assert profilomatic.current_task_uuid() is None
    assert elsewhere == [None]


@pytest.mark.acceptance("PM13", "PM16")
def test_nested_actions_are_start_and_end_messages_in_the_outer_graph(profiles):
    with profilomatic.action("outer"):
        with profilomatic.action("inner", step=1):
            pass
        with pytest.raises(KeyError):
            with profilomatic.action("bad"):
                raise KeyError("gone")
    record = profiles.one()
    assert statuses(record) == [("inner", "started"), ("inner", "succeeded"), ("bad", "started"), ("bad", "failed")]
    first, _, _, last = messages(record)
    assert first["step"] == 1
    assert first["task_uuid"] == record["task_uuid"]
    assert last["exception"] == "KeyError" and last["reason"] == "'gone'"


@pytest.mark.acceptance("PM12")
def test_a_field_never_takes_the_place_of_what_the_record_says_itself(profiles, tmp_path):
    """Each key stands once: readers of JSON take the last of two."""
    mine = dict.fromkeys(("type", "kind", "outcome", "exception", "reason", "part", "whole", "span", "parent_span"), "mine")
    file = profilomatic.file_destination(tmp_path / "lines")
    profilomatic.add_destination(file)
    try:
        for error in (None, ValueError("theirs")):
            with contextlib.suppress(ValueError), profilomatic.action("work", n=[{"type": "kept"}], **mine):
                with contextlib.suppress(ValueError), profilomatic.action(
                        "below", action_type="mine", action_status="mine", task_uuid="mine", task_level=3, **mine):
                    if error is not None:
                        raise error
                if error is not None:
                    raise error
        well, badly = profiles.flushed(2)
    finally:
        profilomatic.remove_destination(file)
    ours = {"type": "work", "kind": "code", "n": [{"type": "kept"}]}
    assert well["action"] == {**ours, "outcome": "succeeded", "exception": "mine", "reason": "mine"}
    assert badly["action"] == {**ours, "outcome": "failed", "exception": "ValueError", "reason": "theirs"}
    for record in (well, badly):
        start = messages(record)[0]
        assert start == {"action_type": "below", "action_status": "started", "task_uuid": record["task_uuid"],
                         "task_level": 3, **mine}

    def once(pairs):
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    for line in (tmp_path / "lines").read_text().splitlines():
        json.loads(line, object_pairs_hook=once)


@pytest.mark.parametrize("error, outcome", [
    (ValueError("no"), "failed"), (SystemExit(1), "failed"), (KeyboardInterrupt(), "failed"), (GeneratorExit(), "aborted"),
])
def test_exceptions_pass_through_and_are_the_outcome(profiles, error, outcome):
    with pytest.raises(type(error)) as caught:
        with profilomatic.action("a"):
            raise error
    assert caught.value is error
    action = profiles.one()["action"]
    assert action["outcome"] == outcome
    if outcome == "failed":
        assert action["exception"] == type(error).__name__
        assert action["reason"] == str(error)


def test_decorated_functions_begin_a_new_action_at_each_call(profiles):
    @profilomatic.action("counted", unit="call")
    def add(a, b=2):
        """Adds."""
        return a + b

    assert add.__name__ == "add" and add.__doc__ == "Adds."
    assert add(1) == 3 and add(1, b=4) == 5
    first, second = profiles.flushed(2)
    assert first["task_uuid"] != second["task_uuid"]
    assert first["action"]["type"] == "counted" and first["action"]["unit"] == "call"


def test_decorated_functions_may_recurse(profiles):
    @profilomatic.action("down")
    def down(n):
        return down(n - 1) + 1 if n else 0

    assert down(3) == 3
    assert statuses(profiles.one()) == [("down", "started")] * 3 + [("down", "succeeded")] * 3


def test_decorated_methods_work(profiles):
    class Shop:
        @profilomatic.action("sell")
        def sell(self, what):
            return self, what

    shop = Shop()
    assert shop.sell("tea") == (shop, "tea")
    profiles.one()


def test_no_frame_of_ours_stands_in_the_graph(profiles):
    @profilomatic.action("decorated")
    def decorated():
        burn_until_sampled()

    decorated()
    with profilomatic.action("block"):
        burn_until_sampled()
    first, second = profiles.flushed(2)
    assert {child["function"].rsplit(".", 1)[-1] for child in first["children"]} == {"decorated"}
    assert {child["function"] for child in second["children"]} == {"test_no_frame_of_ours_stands_in_the_graph"}
    for record in (first, second):
        assert record["children"]
        assert not [node for node in walk(record) if "/profilomatic/" in node["file"]]


def test_decorated_coroutine_functions_last_as_long_as_they_are_awaited(profiles):
    @profilomatic.action("fetch")
    async def fetch(fail=False):
        await asyncio.sleep(0)
        if fail:
            raise OSError("down")
        return profilomatic.current_task_uuid()

    assert inspect.iscoroutinefunction(fetch)
    task_uuid = asyncio.run(fetch())
    with pytest.raises(OSError):
        asyncio.run(fetch(fail=True))
    good, bad = profiles.flushed(2)
    assert good["task_uuid"] == task_uuid
    assert good["action"]["outcome"] == "succeeded" and bad["action"]["outcome"] == "failed"


async def fetched(name):
    await asyncio.sleep(0)
    return name, profilomatic.current_task_uuid()


def produced(count):
    for _ in range(count):
        yield profilomatic.current_task_uuid()


class Fetcher:
    async def __call__(self, name):
        return await fetched(name)


@pytest.mark.parametrize("function", [
    functools.partial(fetched), functools.partial(functools.partial(fetched)), Fetcher(), functools.partial(Fetcher()),
    Fetcher().__call__,
], ids=["partial", "partial of one", "object", "partial of an object", "method"])
def test_whatever_gives_a_coroutine_lasts_as_long_as_it_is_awaited(profiles, function):
    decorated = profilomatic.action("fetch")(function)
    assert inspect.iscoroutinefunction(decorated)
    name, inside = asyncio.run(decorated("x"))
    assert (name, inside) == ("x", profiles.one()["task_uuid"])


def test_a_partial_of_a_generator_function_lasts_to_the_generators_end(profiles):
    inside = set(profilomatic.action("produce")(functools.partial(produced, 2))())
    assert inside == {profiles.one()["task_uuid"]}


def test_asyncio_tasks_have_actions_of_their_own(profiles):
    async def work(name, turns):
        with profilomatic.action(name) as a:
            for turn in range(turns):
                assert profilomatic.current_task_uuid() == a.task_uuid
                await asyncio.sleep(0)
                a.message(turn=turn)

    async def main():
        await asyncio.gather(work("a", 3), work("b", 2), work("c", 1))

    asyncio.run(main())
    records = profiles.flushed(3)
    found = {record["action"]["type"]: [message["turn"] for message in messages(record)] for record in records}
    assert found == {"a": [0, 1, 2], "b": [0, 1], "c": [0]}


def test_asyncio_tasks_begun_inside_an_action_have_their_own(profiles):
    async def work(name):
        with profilomatic.action(name) as a:
            await asyncio.sleep(0)
            a.message(name=name)

    async def main():
        with profilomatic.action("main") as a:
            await asyncio.gather(work("a"), work("b"))
            await work("inside")
            assert profilomatic.current_task_uuid() == a.task_uuid

    asyncio.run(main())
    found = {record["action"]["type"]: messages(record) for record in profiles.flushed(3)}
    assert found["a"] == [{"name": "a"}] and found["b"] == [{"name": "b"}]
    assert [message.get("action_type", message.get("name")) for message in found["main"]] == ["inside"] * 3


def test_decorated_generators_last_from_the_first_next_to_the_end(profiles):
    @profilomatic.action("produce")
    def produce():
        got = yield 1
        yield got
        return "done"

    generator = produce()
    profiles.flushed(0)
    assert next(generator) == 1
    assert generator.send(5) == 5
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "done"
    assert profiles.one()["action"]["outcome"] == "succeeded"
    generator = produce()
    next(generator)
    generator.close()
    assert profiles.flushed(2)[1]["action"]["outcome"] == "aborted"


def test_asynchronous_generators_are_refused_clearly():
    with pytest.raises(TypeError, match="asynchronous generator"):
        @profilomatic.action("no")
        async def numbers():
            yield 1

    async def numbers():
        yield 1

    class Numbers:
        async def __call__(self):
            yield 1

    for hidden in (functools.partial(numbers), Numbers()):
        with pytest.raises(TypeError, match="asynchronous generator"):
            profilomatic.action("no")(hidden)
    with pytest.raises(TypeError):
        profilomatic.action("no")(3)


def test_the_type_is_text():
    with pytest.raises(TypeError):
        profilomatic.action(7)
    with pytest.raises(TypeError):
        profilomatic.action()


def test_an_action_may_be_used_again_but_not_while_it_is_open(profiles):
    again = profilomatic.action("again")
    with again:
        with pytest.raises(RuntimeError):
            again.__enter__()
    with again:
        pass
    first, second = profiles.flushed(2)
    assert first["task_uuid"] != second["task_uuid"]
    assert [record["action"]["outcome"] for record in (first, second)] == ["succeeded", "succeeded"]


def test_nothing_happens_while_stopped():
    with profilomatic.action("unseen") as a:
        a.message(step=1)
        assert profilomatic.current_task_uuid() is None
    assert profilomatic.stats()["running"] is False


def test_messages_after_the_end_are_ignored(profiles):
    with profilomatic.action("a") as a:
        a.message(step=1)
    a.message(step=2)
    assert [message["step"] for message in messages(profiles.one())] == [1]


@pytest.mark.acceptance("PM7")
def test_own_messages_enter_whatever_store_all_logs_says(profiles):
    profilomatic.configure(store_all_logs=False)
    with profilomatic.action("a") as a:
        a.message(step=1)
    assert len(messages(profiles.one())) == 1


def test_message_fields_may_have_any_name(profiles):
    with profilomatic.action("a", self=1, type_="x", fields=2) as a:
        a.message(self=1, frame=2, task_uuid="mine")
    record = profiles.one()
    assert record["action"]["self"] == 1 and record["action"]["fields"] == 2
    assert messages(record)[0]["self"] == 1 and messages(record)[0]["frame"] == 2


def test_fields_are_copied_when_given(profiles):
    items = [1]
    with profilomatic.action("a", items=items) as a:
        a.message(items=items)
        items.append(2)
    record = profiles.one()
    assert record["action"]["items"] == [1]
    assert messages(record)[0]["items"] == [1]


def test_fields_do_not_pin_what_was_given(profiles):
    import weakref

    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    with profilomatic.action("a", thing=thing) as a:
        a.message(thing=thing)
        del thing
    del a
    profiles.one()
    gc.collect()
    assert gone() is None


def test_each_thread_has_its_own_actions(profiles):
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        with profilomatic.action("t%d" % number) as a:
            barrier.wait()
            a.message(number=number)
            barrier.wait()

    threads = [threading.Thread(target=work, args=(number,), name="worker-%d" % number) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = sorted(profiles.flushed(4), key=lambda record: record["action"]["type"])
    assert [messages(record) for record in records] == [[{"number": number}] for number in range(4)]
    assert [record["thread_name"] for record in records] == ["worker-%d" % number for number in range(4)]
    assert len({record["thread"] for record in records}) == 4


def test_actions_may_end_out_of_order(profiles):
    outer, inner = profilomatic.action("outer"), profilomatic.action("inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert profilomatic.current_task_uuid() is None
    assert profiles.one()["action"]["type"] == "outer"
    with profilomatic.action("later"):
        pass
    assert profiles.flushed(2)[1]["action"]["type"] == "later"


def test_a_dropped_action_is_lost_and_the_next_is_unharmed(profiles):
    def forget():
        profilomatic.action("forgotten").__enter__()

    forget()
    gc.collect()
    assert profiles.one()["action"]["outcome"] == "lost"
    assert profilomatic.current_task_uuid() is None
    with profilomatic.action("later"):
        pass
    assert profiles.flushed(2)[1]["action"]["outcome"] == "succeeded"
    assert profilomatic.stats()["actions"]["lost"] >= 1


def test_entering_in_a_helper_still_profiles_the_caller(profiles):
    """The anchor has returned: the nearest remembered caller still running owns the samples."""
    stack = contextlib.ExitStack()

    def helper():
        stack.enter_context(profilomatic.action("by helper"))

    with stack:
        helper()
        burn_until_sampled()
    record = profiles.one()
    assert record["hits"] >= 1
    assert "test_entering_in_a_helper_still_profiles_the_caller" in {child["function"] for child in record["children"]}


def test_entering_in_a_helper_profiles_the_caller_under_the_other_engine_too(python, backend):
    """Which asks for frames by functions of CPython's that change with its versions."""
    if backend != "c":
        pytest.skip("the extension's engine")
    python("""if True:
        import time, profilomatic
        records = []
        profilomatic.add_destination(records.append)
        action = profilomatic.action("by helper")

        def helper():
            action.__enter__()

        def block():
            until, deadline = profilomatic.stats()["samples"]["taken"] + 2, time.monotonic() + 60
            while profilomatic.stats()["samples"]["taken"] < until:
                assert time.monotonic() < deadline, profilomatic.stats()

        helper()
        block()
        action.__exit__(None, None, None)
        assert profilomatic.flush(60)
        assert profilomatic.stats()["engine"] == "gil"
        assert {node["function"] for node in records[0]["children"]} == {"<module>"}, records
        """, PROFILOMATIC_ENGINE="gil")


def test_an_action_in_a_context_manager_function_is_its_users(profiles):
    @contextlib.contextmanager
    def managed():
        with profilomatic.action("managed"):
            yield

    with managed():
        burn_until_sampled()
    record = profiles.one()
    assert record["hits"] >= 1
    assert "test_an_action_in_a_context_manager_function_is_its_users" in \
        {child["function"] for child in record["children"]}


def test_a_suspended_generators_action_does_not_own_its_consumer(profiles):
    def produce():
        burn_until_sampled(3)

    def numbers():
        with profilomatic.action("producer"):
            yield 1
            produce()
            yield 2

    def consume():
        burn_until_sampled(3)

    generator = numbers()
    next(generator)
    with profilomatic.action("consumer"):
        consume()
        next(generator)
        consume()
    list(generator)
    records = {record["action"]["type"]: record for record in profiles.flushed(2)}
    producer, consumer = ({node["function"].rsplit(".", 1)[-1] for node in walk(records[name])}
                          for name in ("producer", "consumer"))
    assert "consume" not in producer and "produce" in producer
    assert "consume" in consumer and "produce" not in consumer


def test_an_action_that_the_collector_has_cleared_can_still_be_entered(profiles, backend):
    if backend != "c":
        pytest.skip("the twin has no slots of its own")
    kind = profilomatic._core.Action
    get_slot = ctypes.pythonapi.PyType_GetSlot
    get_slot.restype, get_slot.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_int]
    py_tp_clear = 51  # typeslots.h
    clear = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object)(get_slot(kind, py_tp_clear))
    action = kind("cleared", {"shard": 3}, "a parent")
    assert clear(action) == 0
    assert (action.fields, action.parent) == (None, None)
    with action:
        pass
    assert profiles.one()["action"] == {"type": "cleared", "kind": "code", "outcome": "succeeded"}


def said(record):
    return [(message["action_type"], message["action_status"], message.get("outcome")) for message in messages(record)]


def test_the_end_of_an_action_inside_one_that_is_over_is_counted(profiles):
    outer, inner, second = (profilomatic.action(name) for name in ("outer", "inner", "second"))
    for action in outer, inner, second:
        action.__enter__()
    second.__exit__(None, None, None)
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    record = profiles.one()
    assert said(record) == [("inner", "started", None), ("second", "started", None), ("second", "succeeded", None)]
    assert record["profiler"]["truncated"] == {"events": 1}
    with profilomatic.action("next"):
        pass
    assert profiles.flushed(2)[1]["profiler"]["truncated"] == {}


def test_an_action_inside_another_that_nobody_ends_is_said_to_be_lost(profiles):
    with profilomatic.action("outer"):
        inner = profilomatic.action("inner")
        inner.__enter__()
        del inner
        gc.collect()
        try:
            raise KeyError("under way")
        except KeyError:
            inner = profilomatic.action("inner")
            inner.__enter__()
            del inner
            gc.collect()
            assert isinstance(sys.exc_info()[1], KeyError)
    record = profiles.one()
    assert said(record) == [("inner", "started", None), ("inner", "succeeded", "lost")] * 2
    assert record["profiler"]["truncated"] == {}
