"""Nothing that a request, an action or a destination is made of is kept: counted in processes of their own."""

import pytest
from memory_support import run


@pytest.fixture(scope="module")
def references():
    return run("references")["left"]


def test_a_thousand_requests_leave_nothing_behind(references):
    """A leak of one object a request would be 1 000 blocks; caches of the interpreter's own move by a few."""
    grown = {name: left for name, left in references.items() if left["blocks"] > 150 or left["references"]}
    assert not grown


@pytest.mark.acceptance("W16")
def test_environ_is_not_kept_past_the_end():
    left = run("environs")["left"]
    assert {name: grown for name, grown in left.items() if any(grown)} == {}


@pytest.mark.acceptance("W23")
def test_no_cycles_of_ours_and_no_frames_are_left():
    left = run("cycles")["left"]
    assert {name: types for name, types in left.items() if types} == {}


def test_cycles_of_the_applications_through_ours_are_freed():
    result = run("broken_cycles")
    assert result["gone"] == result["made"]
    assert result["actions"]["finished"] + result["actions"]["lost"] == result["actions"]["started"]


def test_a_million_tiny_requests_need_no_more_than_a_fifth_of_them():
    """The slow one: some 5 s."""
    result = run("flat", "1000000", timeout=600)
    (first_live, first_resident), (live, resident) = result["readings"]
    assert result["actions"]["started"] == 1000000
    # The pool of actions grows to 4.7 MiB where the sampler is late; eight bytes a request would be 6.4 MB.
    assert abs(live - first_live) < 6 << 20, result
    assert resident - first_resident < 8 << 20, result


def test_delivery_keeps_nothing():
    """2 000 profiles of over 2 KiB each between two readings; pools of actions and events move by some 300 KiB."""
    readings = run("delivered", "2000")["readings"]
    (_, _), (live, blocks), (last_live, last_blocks) = readings
    assert last_live - live < 1 << 20, readings
    assert last_blocks - blocks < 150, readings


def test_a_stopped_engine_leaves_nothing():
    (live, files, tasks), last = run("restarts", "60")["readings"]
    assert last[0] - live < 16 << 10, (live, last)
    assert last[1:] == [files, tasks]


def test_removed_destinations_are_freed():
    """Some 700 bytes each; pools of actions and profiles move by 70 KiB."""
    readings = run("destinations", "300")["readings"]
    assert [alive for _, alive in readings] == [0, 0, 0]
    assert readings[2][0] - readings[1][0] < 128 << 10, readings
