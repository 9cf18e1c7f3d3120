"""One file an action: what it is called, that it is whole, and that nothing is ever replaced."""

import json
import os
import pstats
import threading

import pytest
import random_records as rr

from profilomatic import _formats
from profilomatic._directory import DirectoryDestination, file_name


def record(**fields):
    made = rr.records(1, 1)[0]
    made.update(task_uuid="0f3a-t", start_time="2026-11-20T12:34:56.007890Z", thread_name="waitress-0")
    made["action"].update(route="/cart/<int:id>", **fields)
    return made


@pytest.mark.acceptance("LP10")
def test_the_name_says_when_what_which_and_where():
    assert file_name(record(), "speedscope") == (
        "2026-11-20_12:34:56.007-GET_cart_<int_id>-0f3a-t-waitress-0", ".speedscope.json")
    assert file_name(record(error_id="OOPS:17/a"), "pstats")[0].split("-")[-3] == "OOPS_17_a"
    assert file_name(record(), "callgrind")[0].startswith("callgrind.out.2026-11-20_")
    made = record()
    del made["action"]["route"], made["action"]["type"], made["action"]["method"]
    assert "-Unknown-" in file_name(made, "json")[0]
    hostile = record()
    hostile["action"]["route"] = "../../etc/" + "é" * 500 + "\0\n"
    hostile.update(thread_name="../x" * 300, task_uuid="*" * 300 + "/", start_time=7)
    name = "".join(file_name(hostile, "json"))
    assert len(name.encode()) < 255 and "/" not in name and "\0" not in name and "\n" not in name and not name.startswith(".")


@pytest.mark.acceptance("LP10")
def test_no_file_is_ever_replaced(tmp_path):
    destination = DirectoryDestination(tmp_path / "new" / "folder", format="json")
    threads = [threading.Thread(target=destination, args=(record(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(os.listdir(tmp_path / "new" / "folder"))
    assert len(names) == 8 and len(set(names)) == 8 and all(name.endswith(".json") for name in names)
    assert all(json.loads((tmp_path / "new" / "folder" / name).read_text()) == record() for name in names)


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    destination = DirectoryDestination(tmp_path, format="json")
    destination(record())
    destination(record())
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 2
    assert all(json.loads((tmp_path / name).read_text()) == record() for name in names)


@pytest.mark.parametrize("form", _formats.FORMATS)
def test_each_format_is_what_convert_writes(form, tmp_path, converted):
    DirectoryDestination(tmp_path / "out", format=form)(record())
    (name,) = os.listdir(tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == converted([record()], form)


def test_profiles_of_a_running_program_arrive(tmp_path):
    import profilomatic

    destination = profilomatic.directory_destination(tmp_path, format="pstats", clock="cpu")
    profilomatic.add_destination(destination)
    try:
        for number in range(3):
            with profilomatic.action("work/%d" % number):
                sum(range(1000))
        assert profilomatic.flush(60) is True
        assert profilomatic.stats()["destinations"][0]["sent"] == 3
    finally:
        profilomatic.remove_destination(destination)
    names = sorted(os.listdir(tmp_path))
    assert ["work_%d" % number in name for number, name in enumerate(sorted(names, key=lambda n: n.split("work_")[1]))] == [True] * 3
    assert all(pstats.Stats(str(tmp_path / name)).stats for name in names)


def test_wrong_use_fails_at_once(tmp_path):
    with pytest.raises(ValueError, match="speedscope"):
        DirectoryDestination(tmp_path, format="svg")
    with pytest.raises(ValueError, match="'.' is the current one"):
        DirectoryDestination("")  # of a setting that is empty
    with pytest.raises(ValueError, match="cpu"):
        DirectoryDestination(tmp_path, clock="sun")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        DirectoryDestination(tmp_path / "file")


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    destination = DirectoryDestination(tmp_path)
    monkeypatch.setattr(destination._writer, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        destination(record())
    assert os.listdir(tmp_path) == []
