"""Where profiles go: callables, paths, file objects, and what happens when they misbehave."""

import io
import json
import logging
import pathlib
import re
import tempfile
import threading

import pytest
from pom_support import PATIENCE, Collector, threads_of_ours, wait_until

import profilomatic


@pytest.fixture
def added():
    """add_destination() that is undone at the end."""
    known = []
    profilomatic.configure(max_actions_per_run=0)

    def add(destination):
        known.append(destination)
        profilomatic.add_destination(destination)
        return destination

    yield add
    for destination in known:
        profilomatic.remove_destination(destination)


def act(name="work", **fields):
    with profilomatic.action(name, **fields):
        pass


def counters(name):
    return next(entry for entry in profilomatic.stats()["destinations"] if entry["name"] == name)


@pytest.mark.acceptance("PM1")
def test_first_add_starts_and_callables_run_on_the_named_daemon_thread(added):
    seen = []

    def destination(record):
        thread = threading.current_thread()
        seen.append((thread.name, thread.daemon, type(record)))

    assert profilomatic.stats()["running"] is False
    added(destination)
    assert profilomatic.stats()["running"] is True
    act()
    assert profilomatic.flush(60)
    assert seen == [("Profilomatic Thread", True, dict)]


@pytest.mark.acceptance("PM2")
def test_remove_is_quiet_about_the_absent_and_ends_delivery(added):
    profilomatic.remove_destination(print)
    first, second = added(Collector()), added(Collector())
    act()
    first.flushed(1)
    profilomatic.remove_destination(first)
    profilomatic.remove_destination(first)
    act()
    second.flushed(2)
    assert len(first.records) == 1


def test_added_twice_is_added_once(added):
    records = []
    added(records.append)
    added(records.append)  # another bound method object, but the same one
    assert len(profilomatic.stats()["destinations"]) == 1
    act()
    assert profilomatic.flush(60)
    assert len(records) == 1


@pytest.mark.parametrize("wrong", [None, 7, "path.json", {}])
def test_what_is_no_destination_is_refused(wrong):
    with pytest.raises(TypeError):
        profilomatic.add_destination(wrong)


@pytest.mark.acceptance("PM16", "W21")
def test_a_raising_destination_is_counted_logged_once_and_others_are_served(added, caplog):
    def broken(record):
        raise RuntimeError("disk on fire")

    added(broken)
    good = added(Collector())
    with caplog.at_level(logging.ERROR, "profilomatic"):
        for _ in range(3):
            act()
        good.flushed(3)
    entry = counters(broken.__qualname__)
    assert sum(entry["dropped"].values()) == 3
    assert entry["sent"] == 0
    assert "disk on fire" in entry["last_error"]
    assert len([line for line in caplog.records if "disk on fire" in line.getMessage()]) == 1


def test_a_destination_that_exits_does_not_end_delivery(added):
    def leaving(record):
        raise SystemExit(3)

    added(leaving)
    good = added(Collector())
    act()
    act()
    good.flushed(2)


def test_each_destination_has_its_own_dict(added):
    def greedy(record):
        record["children"].append("mine")
        record["action"].clear()

    added(greedy)
    good = added(Collector())
    act(field=[1])
    record = good.one()
    assert "mine" not in record["children"]
    assert record["action"]["field"] == [1]


def test_flush_from_a_destination_is_false_at_once(added):
    answers = []

    def impatient(record):
        answers.append(profilomatic.flush(60))

    added(impatient)
    act()
    assert profilomatic.flush(60)
    assert answers == [False]


def test_stop_from_a_destination_does_nothing(added):
    answers = []

    def weary(record):
        answers.append(profilomatic.stop(60))

    added(weary)
    good = added(Collector())
    for count in (1, 2):
        act()
        good.flushed(count)
    assert answers == [False, False]
    assert profilomatic.stats()["running"] is True


def test_actions_of_a_destination_are_not_profiled(added):
    seen = []

    def curious(record):
        seen.append(record["action"]["type"])
        with profilomatic.action("inside the destination"):
            pass

    added(curious)
    act("first")
    for _ in range(3):
        assert profilomatic.flush(60)
    assert seen == ["first"]


def test_a_slow_destination_holds_up_neither_actions_nor_flush(added):
    entered, release = threading.Event(), threading.Event()

    def slow(record):
        entered.set()
        release.wait(PATIENCE)

    added(slow)
    try:
        act()
        assert entered.wait(PATIENCE)
        for _ in range(20):
            act()
        assert profilomatic.flush(0.05) is False
    finally:
        release.set()
    assert profilomatic.flush(60) is True
    assert counters(slow.__qualname__)["sent"] == 21


def test_a_hung_destination_makes_stop_say_false():
    entered, release = threading.Event(), threading.Event()

    def hung(record):
        entered.set()
        release.wait(PATIENCE)

    profilomatic.add_destination(hung)
    try:
        act()
        assert entered.wait(PATIENCE)
        assert profilomatic.stop(0.05) is False
    finally:
        release.set()
        profilomatic.remove_destination(hung)
    from pom_support import threads_of_ours

    wait_until(lambda: threads_of_ours() == [], "its thread to end")


@pytest.mark.acceptance("PM30")
def test_a_start_after_a_stop_that_timed_out_never_calls_a_destination_twice_at_once():
    entered, release = threading.Event(), threading.Event()
    inside, calls = [], []

    def hung(record):
        calls.append((record["action"]["type"], threading.get_ident(), len(inside)))
        inside.append(record)
        entered.set()
        release.wait(PATIENCE)
        inside.pop()

    profilomatic.configure(max_actions_per_run=0)
    profilomatic.add_destination(hung)
    try:
        act("hangs")
        assert entered.wait(PATIENCE)
        act("queued")
        assert profilomatic.stop(0.05) is False
        assert counters(hung.__qualname__)["dropped"] == {"shutdown": 2}
        assert counters(hung.__qualname__)["queued"] == 0
        profilomatic.start()
        assert [thread.name for thread in threading.enumerate()].count("Profilomatic Thread") == 1
        act("after")
        release.set()
        assert profilomatic.flush(60) is True
        assert [(name, others) for name, _, others in calls] == [("hangs", 0), ("after", 0)]
        assert len({thread for _, thread, _ in calls}) == 1
        after = counters(hung.__qualname__)
        assert (after["sent"], after["dropped"]) == (1, {"shutdown": 2}), "each is counted once"
        # And again: what has been taken on ends as any other.
        assert profilomatic.stop(60) is True
    finally:
        release.set()
        profilomatic.remove_destination(hung)


@pytest.mark.acceptance("PM2", "PM30")
def test_while_one_thread_flushes_others_add_remove_and_stop():
    entered, release = threading.Event(), threading.Event()

    def hung(record):
        entered.set()
        release.wait(PATIENCE)

    profilomatic.configure(max_actions_per_run=0)
    profilomatic.add_destination(hung)
    flushing = threading.Thread(target=profilomatic.flush, args=(600,))
    other = Collector()
    try:
        act()
        assert entered.wait(PATIENCE)
        flushing.start()
        profilomatic.add_destination(other)
        profilomatic.remove_destination(other)
        assert flushing.is_alive(), "it still waits"
        assert profilomatic.stop(0.05) is False
        release.set()
        flushing.join(PATIENCE)
        assert not flushing.is_alive(), "nothing is queued any more"
    finally:
        release.set()
        profilomatic.remove_destination(hung)


@pytest.mark.acceptance("PM23")
@pytest.mark.parametrize("make", [profilomatic.file_destination, profilomatic.no_flush_destination])
@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_path_gets_one_json_record_a_line_and_is_overwritten(added, tmp_path, make, kind):
    path = tmp_path / "profiles-\u00e9.jsonl"
    path.write_text("old\n")
    added(make(kind(path)))
    assert path.read_text() == "", "overwritten when it is opened, not at the first record"
    act("one", text="\u00fc \u2603\n\u2028")
    act("two")
    assert profilomatic.flush(60)
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    records = [json.loads(line) for line in lines]
    assert [record["action"]["type"] for record in records] == ["one", "two"]
    assert records[0]["action"]["text"] == "\u00fc \u2603\n\u2028"
    entry = counters(str(path))
    assert entry["sent"] == 2 and entry["bytes"] == path.stat().st_size


@pytest.mark.acceptance("PM23")
def test_append_keeps_what_was_there(added, tmp_path):
    path = tmp_path / "profiles.jsonl"
    path.write_text("{}\n")
    added(profilomatic.file_destination(path, append=True))
    act()
    assert profilomatic.flush(60)
    assert path.read_text().startswith("{}\n{\"task_uuid\"")


def test_two_destinations_of_one_file_are_warned_of(added, tmp_path, recwarn):
    path, link = tmp_path / "profiles.jsonl", tmp_path / "link"
    one = added(profilomatic.file_destination(path))
    added(profilomatic.file_destination(tmp_path / "other"))
    added(one)
    assert not recwarn.list
    link.symlink_to(path)
    with pytest.warns(UserWarning, match="two destinations write to '.*link'.*PROFILOMATIC_DESTINATION") as told:
        added(profilomatic.file_destination(link, append=True))
    assert "test_destinations" in told[0].filename


def test_a_deleted_file_is_made_anew(added, tmp_path):
    path = tmp_path / "profiles.jsonl"
    path.touch(mode=0o600)
    added(profilomatic.file_destination(path))
    act()
    assert profilomatic.flush(60)
    path.unlink()
    act()
    assert profilomatic.flush(60)
    assert len(path.read_text().splitlines()) == 1 and path.stat().st_mode & 0o777 == 0o600
    assert counters(str(path))["sent"] == 2


def test_a_file_that_cannot_be_made_anew_is_counted(added, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    path = folder / "profiles.jsonl"
    added(profilomatic.file_destination(path))
    path.unlink()
    folder.rmdir()
    act()
    profilomatic.flush(60)
    entry = counters(str(path))
    assert (entry["sent"], entry["dropped"]) == (0, {"error": 1})
    assert "o such file" in entry["last_error"]


def test_json_and_dict_forms_say_the_same(added, tmp_path):
    path = tmp_path / "profiles.jsonl"
    added(profilomatic.file_destination(path))
    collector = added(Collector())
    with profilomatic.action("both", n=1, f=0.5, s="t", none=None, yes=True, nested={"a": [1, {"b": []}]}) as a:
        a.message(step=1)
    record = collector.one()
    assert json.loads(path.read_text()) == json.loads(json.dumps(record))


def test_unwritable_path_is_an_error_at_once_that_names_it(tmp_path):
    path = tmp_path / "absent" / "profiles.jsonl"
    with pytest.raises(OSError) as caught:
        profilomatic.file_destination(path)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("make", [profilomatic.file_destination, profilomatic.no_flush_destination])
def test_a_path_without_a_name_is_a_value_error_that_says_so(make):
    with pytest.raises(ValueError, match="path_or_file='': must name a file"):
        make("")


def test_write_errors_are_counted_and_profiling_goes_on(added):
    added(profilomatic.file_destination("/dev/full"))
    good = added(Collector())
    act()
    act()
    good.flushed(2)
    entry = counters("/dev/full")
    assert sum(entry["dropped"].values()) == 2 and entry["sent"] == 0
    assert "space" in entry["last_error"].lower()


@pytest.mark.acceptance("PM23")
@pytest.mark.parametrize("append", [False, True])
def test_a_file_is_rotated_by_size_in_whole_lines(added, tmp_path, append):
    path = tmp_path / "profiles.jsonl"
    path.write_text("{}\n")
    added(profilomatic.file_destination(path, append=append, rotate_bytes=3000, keep=100))
    for number in range(20):
        act(number=number)
        assert profilomatic.flush(60)
    count = len(list(tmp_path.iterdir()))
    assert count > 3
    files = [tmp_path / ("profiles.jsonl.%d" % number) for number in range(count - 1, 0, -1)] + [path]
    assert all(0 < each.stat().st_size <= 3000 for each in files)
    records = [json.loads(line) for each in files for line in each.read_text().splitlines()]
    assert [record["action"]["number"] for record in records[append:]] == list(range(20))
    assert counters(str(path))["sent"] == 20


def test_what_is_no_regular_file_cannot_be_rotated():
    with pytest.raises(OSError, match="only a regular file can be rotated: '/dev/null'"):
        profilomatic.file_destination("/dev/null", rotate_bytes=100)


def test_so_many_rotated_files_are_kept(added, tmp_path):
    path = tmp_path / "profiles.jsonl"
    added(profilomatic.file_destination(path, rotate_seconds=3600, rotate_bytes=1, keep=2))
    for number in range(5):
        act(number=number)
        assert profilomatic.flush(60)
    numbers = {each.name[len("profiles.jsonl"):]: json.loads(each.read_text())["action"]["number"] for each in tmp_path.iterdir()}
    assert numbers == {"": 4, ".1": 3, ".2": 2}


@pytest.mark.acceptance("PM23")
def test_a_file_that_cannot_be_rotated_is_written_on(added, tmp_path):
    path = tmp_path / "profiles.jsonl"
    (tmp_path / "profiles.jsonl.1").mkdir()  # in the way
    added(profilomatic.file_destination(path, rotate_bytes=1, keep=1))
    for number in range(5):
        act(number=number)
        assert profilomatic.flush(60)
    assert len(path.read_text().splitlines()) == 5
    entry = counters(str(path))
    assert entry["sent"] == 5 and "cannot rotate" in entry["last_error"] and "(1 times so far)" in entry["last_error"]


def test_wrong_rotations_are_refused(tmp_path):
    for options, error, words in [
        ({"rotate_bytes": 0}, ValueError, "rotate_bytes=0"), ({"rotate_seconds": 0.5}, ValueError, "rotate_seconds=0.5"),
        ({"rotate_seconds": 2**31}, ValueError, "rotate_seconds=2147483648: must be 1 to 1073741824"),
        ({"rotate_bytes": 1, "keep": 0}, ValueError, "keep=0"), ({"rotate_bytes": 1.5}, TypeError, "rotate_bytes"),
        ({"rotate_seconds": "1"}, TypeError, "rotate_seconds"), ({"keep": None}, TypeError, "keep"),
    ]:
        with pytest.raises(error, match=words):
            profilomatic.file_destination(tmp_path / "x", **options)
    with pytest.raises(ValueError, match="file object"):
        profilomatic.file_destination(io.StringIO(), rotate_bytes=1000)
    with pytest.raises(OSError):
        profilomatic.no_flush_destination("/dev/null", rotate_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_and_wrong_kinds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="json"):
        profilomatic.file_destination(tmp_path / "x", format="xml")
    with pytest.raises(TypeError):
        profilomatic.file_destination(3)


class CountingFile(io.StringIO):
    flushes = 0

    def flush(self):
        self.flushes += 1


@pytest.mark.acceptance("PM23")
@pytest.mark.parametrize("make, flushes", [(profilomatic.file_destination, 2), (profilomatic.no_flush_destination, 1)])
def test_file_object_is_written_a_line_a_record_and_flushed_or_not(added, make, flushes):
    file = CountingFile()
    added(make(file))
    act("one")
    act("two")
    assert profilomatic.flush(60)
    assert [json.loads(line)["action"]["type"] for line in file.getvalue().splitlines()] == ["one", "two"]
    assert file.flushes == flushes


@pytest.mark.acceptance("PM23")
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_what_a_file_object_holds_back_is_written_at_flush_stop_and_removal(added, tmp_path, mode):
    path = tmp_path / "profiles"
    written = lambda: len(path.read_bytes().splitlines())
    with open(path, mode) as file:
        destination = added(profilomatic.no_flush_destination(file))
        act()
        assert profilomatic.flush(PATIENCE)
        assert written() == 1
        act()
        assert profilomatic.stop(PATIENCE)
        assert written() == 2
        profilomatic.start()
        other = added(Collector())
        act()
        wait_until(lambda: other.records and counters(destination.__qualname__)["sent"] == 3, "its delivery")
        assert written() == 2, "held back"
        profilomatic.remove_destination(destination)
        wait_until(lambda: written() == 3, "what was left at its removal")


class FailingFlush(io.StringIO):
    def flush(self):
        raise OSError(28, "No space left on device")


def test_a_flush_that_fails_is_counted_as_a_write_is(added, caplog):
    destination = added(profilomatic.no_flush_destination(FailingFlush()))
    for _ in range(2):
        act()
        act()
        assert profilomatic.flush(PATIENCE)
    entry = counters(destination.__qualname__)
    assert entry["dropped"] == {"error": 4} and entry["sent"] == 0 and entry["queued"] == 0
    assert "No space left" in entry["last_error"]
    assert len([line for line in caplog.records if "No space left" in line.getMessage()]) == 1


def test_a_callables_own_flush_is_its_own_business(added):
    class Mine(Collector):
        def flush(self):
            raise AssertionError("not asked for")

    mine = added(Mine())
    act()
    mine.flushed(1)
    assert profilomatic.stats()["destinations"][0]["last_error"] is None


@pytest.mark.acceptance("PM23")
def test_a_file_object_that_was_closed_has_been_flushed(added, tmp_path):
    with open(tmp_path / "profiles", "w") as file:
        destination = added(profilomatic.no_flush_destination(file))
        act()
        wait_until(lambda: counters(destination.__qualname__)["sent"] == 1, "its delivery")
    assert profilomatic.flush(PATIENCE)
    assert len((tmp_path / "profiles").read_text().splitlines()) == 1
    entry = counters(destination.__qualname__)
    assert entry["dropped"] == {} and entry["last_error"] is None


def test_binary_file_objects_work_too(added, tmp_path):
    memory = io.BytesIO()
    added(profilomatic.file_destination(memory))
    with open(tmp_path / "profiles", "wb") as file, tempfile.NamedTemporaryFile(dir=tmp_path) as wrapped:
        added(profilomatic.file_destination(file))
        added(profilomatic.file_destination(wrapped))
        act()
        assert profilomatic.flush(60)
        assert (tmp_path / "profiles").read_bytes() == pathlib.Path(wrapped.name).read_bytes() == memory.getvalue()
    assert json.loads(memory.getvalue())["action"]["type"] == "work"


def test_a_closed_file_object_is_counted(added):
    file = io.StringIO()
    destination = added(profilomatic.file_destination(file))
    file.close()
    act()
    assert profilomatic.flush(60)
    entry, = profilomatic.stats()["destinations"]
    assert sum(entry["dropped"].values()) == 1
    assert "closed" in entry["last_error"]
    assert destination is not None


def test_numbers_that_json_cannot_say_are_null(added, tmp_path):
    path = tmp_path / "profiles.jsonl"
    file = io.StringIO()
    added(profilomatic.file_destination(path))
    added(profilomatic.file_destination(file))
    act(bad=float("nan"), worse=[float("inf"), -float("inf")])
    assert profilomatic.flush(60)

    def refuse(name):
        raise AssertionError(name)

    for text in (path.read_text(), file.getvalue()):
        action = json.loads(text, parse_constant=refuse)["action"]
        assert action["bad"] is None and action["worse"] == [None, None]


def test_durations_have_no_exponent(added, tmp_path):
    path, file = tmp_path / "profiles", io.StringIO()
    added(profilomatic.file_destination(path))
    added(profilomatic.file_destination(file))
    added(profilomatic.directory_destination(tmp_path / "folder", format="json"))
    for _ in range(5):
        act()  # some of whose cost less than 100 us
    assert profilomatic.flush(PATIENCE)
    texts = [path.read_text(), file.getvalue(), *(one.read_text() for one in (tmp_path / "folder").iterdir())]
    assert len(texts) == 7
    for text in texts:
        assert re.findall(r"[0-9]e[-+][0-9]+[,}]", text) == []


@pytest.mark.parametrize("value", [1.7563e-05, -1e-09, 1e-300, 0.0125, 0.0, 5e-324])
def test_a_line_says_the_same_number_without_an_exponent(value):
    from profilomatic._files import dump_line

    odd = ["1e-05", '":1e-05', 'a":1e-05,', '\\":1e-05', '":-1e+20}']
    record = {"time": value, "texts": odd, **{text: text for text in odd}, "cpu": {"self_time": value, "a": "b"}}
    line = dump_line(record)
    assert json.loads(line) == record
    assert "e" not in re.search(r'"time":([^,]*),', line)[1] and "e" not in re.search(r'"self_time":([^,]*),', line)[1]


@pytest.mark.acceptance("PM24")
def test_eliots_file_destination_is_one_of_ours(added):
    eliot = pytest.importorskip("eliot")
    file = io.BytesIO()
    added(eliot.FileDestination(file=file))

    def dive(depth, a):
        if depth:
            return dive(depth - 1, a)
        a.message(deep={"a": {"b": {"c": {"d": ["e"]}}}})

    with profilomatic.action("deep") as a:
        dive(300, a)
    assert profilomatic.flush(60)
    record = json.loads(file.getvalue())
    assert record["action"]["type"] == "deep"


def test_a_file_destination_serves_again_after_a_restart(added, tmp_path):
    path = tmp_path / "profiles.jsonl"
    added(profilomatic.no_flush_destination(path))
    act("one")
    assert profilomatic.stop(60)
    profilomatic.start()
    act("two")
    assert profilomatic.stop(60)
    assert [json.loads(line)["action"]["type"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_a_path_and_a_maker_that_was_not_called_are_refused():
    for wrong in ("profiles.jsonl", profilomatic.file_destination, profilomatic.RestDestination):
        with pytest.raises(TypeError, match=r"is no destination, what profilomatic.file_destination\(...\) and its like return is"):
            profilomatic.add_destination(wrong)


def test_an_interrupted_start_leaves_a_thread_that_serves(backend, monkeypatch):
    """A signal handler raises while add_destination() waits for the new thread: the next one finds a thread all the same."""
    if backend != "c":
        pytest.skip("the extension's thread")
    profilomatic.stop()  # so that there is none
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        wait_until(lambda: "pom-delivery" in threads_of_ours(), "the thread to be at work")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            profilomatic.add_destination(Collector())
    second = Collector()
    profilomatic.add_destination(second)
    try:
        for _ in range(3):
            act()
            second.flushed()
        assert len(second.records) == 3
        assert profilomatic.stop(PATIENCE) is True
        wait_until(lambda: "pom-delivery" not in threads_of_ours(), "a thread that nobody can join to be gone")
    finally:
        profilomatic.remove_destination(second)
