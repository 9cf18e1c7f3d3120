"""The user's code called from inside ours: signal handlers, __str__, finalizers, other threads at the wrong moment; and
whatever else a host does."""

import importlib.util

import pytest
from memory_support import run


def test_a_signal_handler_may_stop_while_stop_waits():
    result = run("signal_in_stop")
    assert result == {"stopped": True, "said": [[True, True]]}


def test_an_interrupt_while_stop_waits_is_not_lost():
    assert run("interrupt_in_stop") == {"interrupted": True, "running": False}


def test_the_process_ends_behind_a_flush_that_hangs():
    assert run("exit_behind_flush") == {"ok": True}


def test_an_action_entered_twice_at_once_is_begun_once():
    result = run("entered_twice")
    assert result["current"] is None and result["stopped"] is True
    assert result["actions"]["lost"] == 0
    assert result["actions"]["finished"] == result["actions"]["started"]


def test_the_engine_may_be_stopped_by_any_code_of_the_users():
    assert run("stop_from_everywhere") == {"current": None, "stopped": True}


def test_an_action_whose_begin_stopped_the_engine_is_of_no_task(monkeypatch):
    monkeypatch.setenv("MALLOC_PERTURB_", "165")  # memory that has been freed is not what it was
    assert run("stop_in_a_begin") == {"ids": [None] * 20, "current": None, "stopped": True}


def test_threads_with_the_smallest_stack():
    assert run("small_stacks")["actions"]["finished"] == 4


def test_an_exception_survives_the_end_of_an_action_dropped_on_its_way():
    result = run("dropped_elsewhere")
    assert result["seen"] == 50
    assert result["actions"]["lost"] == 50


def test_a_forked_child_without_threads_serves_bare():
    result = run("child_without_threads")
    assert result["status"] == 0
    assert result["said"] == [True, {"restart after fork": 1}]


def test_whatever_the_host_has_switched_on():
    result = run("host_weather")
    assert result["raised"] == ["RecursionError", "SystemExit", "KeyboardInterrupt", "RecursionError"]
    assert result["current"] is None and result["stopped"] is True
    assert result["actions"]["finished"] + result["actions"]["lost"] == result["actions"]["started"]


def test_nothing_starts_the_engine_after_its_exit():
    assert run("late_start") == {"running": False}


def test_a_claim_of_a_slot_may_restart_the_engine():
    assert run("restart_in_a_claim") == {"current": None, "stopped": True}


def test_a_body_may_be_closed_while_it_is_collected():
    assert run("closed_while_collected") == {"current": None, "stopped": True}


@pytest.mark.skipif(importlib.util.find_spec("_testcapi") is None, reason="the interpreter's own tests are not installed")
def test_a_fault_for_want_of_memory_says_so():
    result = run("without_memory")
    assert result["faults"] == ["asgi message", "asgi observe", "wsgi body"]
    assert result["told"] == ["MemoryError"] * 3


def test_a_chain_of_messages_is_freed_whatever_its_length():
    assert run("deep_messages") == {"left": 0}


def test_a_chain_of_messages_is_awaited_as_deep_as_the_interpreter_allows():
    assert run("deep_awaits") == {"ends": ["StopIteration", "RecursionError"]}
