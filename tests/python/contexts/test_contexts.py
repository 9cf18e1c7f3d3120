"""Which action the work belongs to, where a thread does not tell: asyncio tasks, greenlets, generators, threads.

The programs that need many samples run in processes of their own, on both backends.
"""

import asyncio
import contextlib
import contextvars
import datetime
import gc
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from pom_support import PATIENCE, burn_until_sampled, messages, walk

import profilomatic
from profilomatic import _backend

HERE = pathlib.Path(__file__).parent


@pytest.fixture(params=["c", pytest.param("pure", marks=pytest.mark.oldest_and_newest)])
def engine(request):
    return request.param


def run(engine, program, path, **more):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROFILOMATIC_")}
    environment.update(more, PYTHONPATH=str(pathlib.Path(profilomatic.__file__).parent.parent),
                       PROFILOMATIC_PURE="1" if engine == "pure" else "")
    done = subprocess.run([sys.executable, "-X", "faulthandler", str(HERE / "programs.py"), program, str(path)],
                          env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    with open(path) as lines:
        records = [json.loads(line) for line in lines]
    return json.loads(done.stdout.splitlines()[-1]), records


def names(record):
    return {node["function"].rsplit(".", 1)[-1] for node in walk(record) if "function" in node}


def own_time(records, name, key="self_cpu_time"):
    return sum(node[key] for record in records for node in walk(record) if node.get("function") == name)


def time_in(record, *functions):
    """The own time of functions of these names, wherever they are defined."""
    return sum(node["self_time"] for node in walk(record) if node["function"].rpartition(".")[2] in functions)


def seen_at(record, name):
    """When a record's looks met a function, first and last, and the wall time that it has with what it calls; None: never."""
    nodes = [node for node in walk(record) if node.get("function", "").endswith(name)]
    if not nodes:
        return None
    moments = [moment(node[key]) for node in nodes for key in ("start_time", "end_time")]
    return min(moments), max(moments), sum(node["time"] for node in nodes)


def moment(text):
    return datetime.datetime.fromisoformat(text).timestamp()


def looked_at(record, least=0.5):
    """How much of the record's time its looks cover: up to the last one, each stands for what passed since the one before. What follows is the
    record's own, as long as the machine left the sampler without a CPU."""
    covered = max(moment(node["end_time"]) for node in walk(record)) - moment(record["start_time"])
    assert covered > least, (covered, record["time"])
    return covered


def unseen(record):
    """The record's own time up to its last look: after a look at what waits, the next one that meets its task at work stands for no
    more than the time since the thread was last looked at."""
    last = max((moment(node["end_time"]) for node in walk(record)), default=moment(record["start_time"]))
    return max(record["self_time"] - (moment(record["end_time"]) - last), 0)


def waits_are_told_apart(record, long_wait, short_wait):
    """Of two waits in turn, of these lengths. Requests are looked at in turn, so how often is up to the machine; but the time between two
    looks goes to where the later one stands, so a wait lacks no more than passed from the last look at it to the first one at the next,
    and that is all that the next can have beyond its own. And no look meets a wait before it began, or after it was over. What no look
    covers (it met the task first as it fell asleep, then as it woke up) is the record's own time, see unseen()."""
    long, short = seen_at(record, "long_wait"), seen_at(record, "short_wait")
    rounding = 1e-4
    for seen, length in (long, long_wait), (short, short_wait):
        if seen is not None:
            first, last, time = seen
            assert last - first - rounding < min(time + record["self_time"], length), (seen, length)
    if long is not None and short is not None:
        between = short[0] - long[1]
        assert long[2] + unseen(record) > long_wait - between - rounding, (long, short, long_wait)
        assert short[2] < short_wait + between + rounding, (long, short, short_wait)


def planted_shares_hold(records):
    """The `heavy` functions have 3/4 of the CPU time, within 0.2 or, with few samples, what chance allows; no action has
    another's. CPU time, since on a busy machine a whole phase of the tasks may stand still; only samples that met the thread running have
    any, which may be a third of them there. How many samples of equal weight they are worth their weights say: one that came late may stand
    for fifty. Samples that come by chance stand for times that double the variance. All tasks do the same at the same time, so a machine that
    is busy during one of these phases moves the share, by 0.12 in one of ten runs beside six busy processes. How true shares are, a bench
    tells; tasks that had each other's time would have half."""
    nodes = [node for record in records for node in walk(record)
             if node.get("function", "").rsplit(".", 1)[-1].startswith(("heavy_", "light_"))]
    all_cpu = sum(node["self_cpu_time"] for node in nodes)
    heavy = sum(node["self_cpu_time"] for node in nodes if "heavy_" in node["function"]) / all_cpu
    worth = all_cpu ** 2 / sum(node["self_cpu_time"] ** 2 / node["hits"] for node in nodes)
    assert worth > 100, "too few samples to say anything"
    assert abs(heavy - 0.75) < max(0.2, 4 * math.sqrt(2 * 0.75 * 0.25 / worth)), (heavy, worth, len(nodes))
    for record in records:
        other = "b" if record["action"]["type"].endswith("a") else "a"
        assert not names(record) & {"heavy_" + other, "light_" + other}, record


def sums_are_no_more_than_there_was(found, records):
    """CPU time that two actions both claim would show here."""
    claimed = sum(record["cpu_time"] for record in records)
    assert claimed < 1.1 * found["cpu"], (claimed, found["cpu"])
    sampled = sum(node["self_cpu_time"] for record in records for node in walk(record))
    assert sampled < 1.1 * found["cpu"], (sampled, found["cpu"])


def test_a_thousand_asyncio_tasks_keep_their_own_samples(engine, tmp_path):
    found, records = run(engine, "tasks", tmp_path / "profiles.jsonl")
    assert len(records) == 1000
    assert len({record["task_uuid"] for record in records}) == 1000
    planted_shares_hold(records)
    assert found["grown"] < 64 << 10, "KiB"
    if engine == "c":
        sums_are_no_more_than_there_was(found, records)


def test_a_thousand_greenlets_keep_their_own_samples(engine, tmp_path):
    pytest.importorskip("gevent")
    found, records = run(engine, "greenlets", tmp_path / "profiles.jsonl")
    assert len(records) == 1000
    planted_shares_hold(records)
    assert found["grown"] < 64 << 10, "KiB"
    if engine == "c":
        sums_are_no_more_than_there_was(found, records)


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.oldest_and_newest)])
def test_a_thousand_requests_on_one_loop_keep_their_own_samples(engine, loop, tmp_path):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    found, records = run(engine, "requests", tmp_path / "profiles.jsonl", CONTEXT_LOOP=loop)
    assert len(records) == 1000
    assert len({record["task_uuid"] for record in records}) == 1000
    planted_shares_hold(records)
    assert found["grown"] < 64 << 10, "KiB"
    if engine == "c":
        sums_are_no_more_than_there_was(found, records)
        for record in records:
            waits_are_told_apart(record, **found["waited"][record["task_uuid"]])
        assert sum(1 for record in records if "long_wait" in names(record)) > 500


def test_the_tasks_that_a_request_starts_are_its_own(tmp_path):
    found, records = run("c", "children", tmp_path / "profiles.jsonl")
    assert len(records) == found["served"] >= 40
    planted_shares_hold(records)
    for kind in "ab":
        work = sum(own_time(records, name + kind) for name in ("heavy_", "light_"))
        assert work > 0.8 * sum(record["cpu_time"] for record in records if record["action"]["type"] == "/" + kind)
    sums_are_no_more_than_there_was(found, records)
    for record in records:
        assert not names(record) & {"run_forever", "_run_once", "_run"}


def test_short_work_below_many_coroutines_is_seen(tmp_path):
    """Of stretches of some 10 us, below twenty coroutines, those have most of the CPU time that work; copied one by one, the coroutines took
    longer than that, and four of five samples were of what stands in between."""
    _, records = run("c", "chains", tmp_path / "profiles.jsonl")
    assert len(records) == 3
    everything = sum(node["self_cpu_time"] for record in records for node in walk(record))
    work = own_time(records, "spin") + own_time(records, "Samples.count")
    assert work > 0.6 * everything, [(node["function"], node["hits"]) for record in records for node in walk(record)]


def test_a_consumers_work_is_not_its_producers(engine, tmp_path):
    found, records = run(engine, "generators", tmp_path / "profiles.jsonl", CONTEXT_STRETCH="2e-3")
    producers = [record for record in records if record["action"]["type"] == "a"]
    consumer, = [record for record in records if record["action"]["type"] == "b"]
    assert len(producers) == 2
    planted_shares_hold(records)
    assert "produce" in names(producers[0])
    assert consumer["action"]["outcome"] == "succeeded"


def test_waiting_stands_under_the_line_that_waits(tmp_path):
    found, records = run("c", "waiting", tmp_path / "profiles.jsonl")
    waits, = [record for record in records if record["action"]["type"] == "waits"]
    inner, outer = found["lines"]
    top, = [node for node in waits["children"] if node["line"] == outer]
    below, = [node for node in top["children"] if node["line"] == inner]
    assert top["function"].endswith("waits") and below["function"].endswith("inner_wait")
    assert below["time"] > 0.8 * looked_at(waits)
    assert below["cpu_time"] < 0.01 * below["time"]  # a look may meet it as it wakes up
    # The other task's work in the meantime is not its CPU time.
    works, = [record for record in records if record["action"]["type"] == "works"]
    assert waits["cpu_time"] < 0.5 * works["cpu_time"]


def test_waiting_for_an_asynchronous_generator_stands_where_that_waits(tmp_path):
    _, records = run("c", "waiting_generators", tmp_path / "profiles.jsonl")

    def waited(record, name):
        """How long below each caller of what waits."""
        todo, found = [(record, "")], {}
        while todo:
            node, caller = todo.pop()
            own = node.get("function", "").rpartition(".")[2]
            if own == name:
                found[caller] = found.get(caller, 0) + node["time"]
            else:
                todo += [(child, own) for child in node.get("children", ())]
        return found

    asks, = [record for record in records if record["action"]["type"] == "asks"]
    holds, = [record for record in records if record["action"]["type"] == "holds"]
    assert list(waited(asks, "inner_wait")) == ["produce"] and list(waited(asks, "produce")) == ["manage"]
    assert waited(asks, "inner_wait")["produce"] > 0.8 * looked_at(asks)
    assert list(waited(holds, "inner_wait")) == ["holds"]  # and what its consumer waits for is not below it
    assert 0.3 * holds["time"] < waited(holds, "inner_wait")["holds"] < 0.7 * looked_at(holds, 1)


def test_what_has_ended_is_not_where_an_action_waits(tmp_path):
    found, records = run("c", "entered", tmp_path / "profiles.jsonl")
    assert len(records) == 4
    for record in records:
        # A look may have met it before it ended.
        assert time_in(record, "begin_it", "__aenter__") < 0.2 * record["time"], record
        if record["action"]["type"] == "b":  # its caller stands in for it
            covered = looked_at(record)
            top, = [node for node in record["children"] if node["line"] == found["line"]]
            assert top["function"].endswith("in_a_method")
            assert top["time"] > 0.8 * covered


def test_a_greenlet_waits_below_the_line_that_waits(tmp_path):
    pytest.importorskip("gevent")
    found, records = run("c", "waiting_greenlets", tmp_path / "profiles.jsonl")
    paths = {"action": ["action", "query"], "helped": ["helped", "view"], "/": ["application", "view"]}
    assert len(records) == 6
    for record in records:
        node, covered = record, looked_at(record)
        for name in [*paths[record["action"]["type"]], "rows", "wait", "sleep"]:
            node, = [child for child in node["children"] if child["function"].rpartition(".")[2] == name
                     and child["time"] > 0.7 * covered]
            assert name != "wait" or node["line"] == found["line"]
        assert time_in(record, "deeper") < 0.2 * covered, record


def test_a_thousand_waiting_actions_stay_within_budget_and_memory(tmp_path):
    found, records = run("c", "parked", tmp_path / "profiles.jsonl")
    waited = [record for record in records if record["action"]["type"] == "a"]
    assert len(waited) == 1000
    assert found["grown"] < 64 << 10, "KiB"
    stats = found["stats"]
    cost, coarsest = stats["overhead"]["sampler_cpu"], stats["period"] > 0.0499
    # Where the machine leaves the program a tenth of a CPU, the coarsest period is all that can be done.
    assert cost < 0.05 * found["cpu"] or coarsest and cost < 0.02 * found["seconds"], (found["cpu"], found["seconds"], stats)
    for record in waited:
        assert "light_b" not in names(record)
    # They are looked at in turn, sixteen a tick; how many ticks there are is the machine's business.
    assert sum(1 for record in waited if "work" in names(record)) > 100


def test_actions_that_nobody_ends_are_lost_and_their_memory_comes_back(engine, tmp_path):
    found, records = run(engine, "lost", tmp_path / "profiles.jsonl")
    assert {record["action"]["outcome"] for record in records} == {"lost"}
    assert [record["action"]["number"] for record in records] == list(range(3000))
    assert found["stats"]["actions"]["lost"] == 3000
    assert found["grown"] < 8 << 10, "KiB"


def test_more_messages_than_a_record_takes_are_counted(engine, tmp_path):
    found, (record,) = run(engine, "messages", tmp_path / "profiles.jsonl")
    kept, cut = messages(record), record["profiler"]["truncated"]
    assert 0 < len(kept) < 100000
    assert len(kept) + cut.get("messages", 0) + cut.get("events", 0) == 100000
    assert os.path.getsize(tmp_path / "profiles.jsonl") < 8 << 20
    assert [message["number"] for message in kept] == sorted(message["number"] for message in kept)


# Small ones, on the backend of this process.

def test_code_run_in_a_copied_context_is_inside_on_this_thread_only(profiles):
    with profilomatic.action("a") as a:
        context = contextvars.copy_context()
        assert context.run(profilomatic.current_task_uuid) == a.task_uuid
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(context.run, profilomatic.current_task_uuid).result() is None
    profiles.one()


def test_a_block_inside_a_generator_based_context_manager_is_the_actions(profiles):
    @contextlib.contextmanager
    def job():
        with profilomatic.action("job") as a:
            yield a

    def in_the_block():
        burn_until_sampled(3)

    with job() as a:
        assert profilomatic.current_task_uuid() == a.task_uuid
        in_the_block()
    assert profilomatic.current_task_uuid() is None
    assert "in_the_block" in names(profiles.one())


def test_an_exit_stack_holds_actions(profiles):
    def in_the_block():
        burn_until_sampled(3)

    def enter(stack):
        return stack.enter_context(profilomatic.action("held"))

    with contextlib.ExitStack() as stack:
        a = enter(stack)
        assert profilomatic.current_task_uuid() == a.task_uuid
        in_the_block()
    assert profilomatic.current_task_uuid() is None
    assert "in_the_block" in names(profiles.one())


class Entered:
    """A class of the user's that enters an action by itself, as a transaction or a timer does: its __enter__ has returned when the
    block runs."""

    def __init__(self, action):
        self.action = action

    def __enter__(self):
        return self.action.__enter__()

    def __exit__(self, *error):
        return self.action.__exit__(*error)


@contextlib.contextmanager
def by_a_stack(action):
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(action)


@contextlib.contextmanager
def by_a_class(action):
    with Entered(action) as entered:
        yield entered


@contextlib.contextmanager
def by_classes(action):
    with Entered(Entered(Entered(Entered(Entered(action))))) as entered:
        yield entered


HELPERS = [contextlib.ExitStack, Entered, by_a_stack, by_a_class, by_classes]


def held(helper, action):
    """A context manager that enters the action in a frame that has returned when the block runs."""
    if helper is contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(action)
        return stack
    return helper(action)


helpers = pytest.mark.parametrize("helper", HELPERS, ids=lambda helper: helper.__name__)


@helpers
def test_an_action_that_a_helper_enters_in_a_task_is_that_tasks(profiles, helper):
    async def job(number, entered):
        with held(helper, profilomatic.action("job", number=number)) as action:
            own = profilomatic.current_task_uuid()
            assert helper is contextlib.ExitStack or own == action.task_uuid
            entered.append(own)
            for _ in range(3):
                await asyncio.sleep(0)
                assert profilomatic.current_task_uuid() == own
        assert profilomatic.current_task_uuid() is None

    async def bystander():
        for _ in range(3):
            await asyncio.sleep(0)
            assert profilomatic.current_task_uuid() is None

    async def main():
        entered = []
        await asyncio.gather(*(job(number, entered) for number in range(5)), bystander())
        assert len(set(entered)) == 5 and None not in entered

    asyncio.run(main())
    assert sorted(record["action"]["number"] for record in profiles.flushed(5)) == [0, 1, 2, 3, 4]


@helpers
def test_work_of_other_tasks_is_not_a_helpers_actions(profiles, helper):
    def in_the_block():
        burn_until_sampled(2)

    def of_another():
        burn_until_sampled(5)

    async def job(entered, over):
        with held(helper, profilomatic.action("job")):
            in_the_block()
            entered.set()
            await over.wait()

    async def other(entered, over):
        await entered.wait()
        with profilomatic.action("other"):
            of_another()
        over.set()

    async def main():
        entered, over = asyncio.Event(), asyncio.Event()
        await asyncio.gather(job(entered, over), other(entered, over))

    asyncio.run(main())
    records = {record["action"]["type"]: record for record in profiles.flushed(2)}
    assert "of_another" in names(records["other"])
    assert "in_the_block" in names(records["job"]) and "of_another" not in names(records["job"])


@pytest.mark.parametrize("helper", [contextlib.ExitStack, Entered, by_a_class], ids=lambda helper: helper.__name__)
def test_a_consumers_work_is_not_a_helpers_actions(profiles, helper):
    def in_the_producer():
        burn_until_sampled(2)

    def in_the_consumer():
        burn_until_sampled(5)

    def produce():
        with held(helper, profilomatic.action("producer")):
            in_the_producer()
            yield

    producer = produce()
    next(producer)
    assert profilomatic.current_task_uuid() is None
    with profilomatic.action("consumer"):
        in_the_consumer()
    assert next(producer, None) is None
    records = {record["action"]["type"]: record for record in profiles.flushed(2)}
    assert "in_the_consumer" in names(records["consumer"])
    assert "in_the_producer" in names(records["producer"]) and "in_the_consumer" not in names(records["producer"])


def test_a_stack_begins_with_the_block_wherever_the_coroutine_below_it_stands(profiles):
    def plain():
        with profilomatic.action("plain") as action:
            action.message(at="block")
            burn_until_sampled(2)

    def entered(name):
        return Entered(profilomatic.action(name))

    async def awaited():
        with entered("inside") as action:
            action.message(at="awaited")

    def handling():
        with profilomatic.action("handling") as action:
            action.message(at="unhandled")
            try:
                raise KeyError
            except KeyError:
                action.message(at="handled")

    async def job():
        plain()
        try:
            raise ValueError
        except ValueError:
            handling()
        with entered("helped") as action:
            action.message(at="job")
            await awaited()
            with entered("again"):
                burn_until_sampled(2)

    asyncio.run(job())
    records = {record["action"]["type"]: record for record in profiles.flushed(3)}
    # In a function that a coroutine calls: it is the root, as where no coroutine is.
    assert {node["function"].rsplit(".", 1)[-1] for node in records["plain"]["children"]} == {"plain"}
    # Entered by a helper: what the coroutine does, and what it awaits, is below it, the same helper's next call too.
    helped = records["helped"]
    assert {node["function"].rsplit(".", 1)[-1] for node in helped["children"]} == {"job"}
    chains = {}

    def collect(node, above):
        if "message" in node:
            chains.setdefault(node["message"].get("at") or node["message"]["action_type"], []).append(above)
        for child in node.get("children", ()):
            collect(child, above + [child["function"].rsplit(".", 1)[-1]] if "function" in child else above)

    collect(helped, [])
    collect(records["handling"], [])
    assert chains["unhandled"] == chains["handled"] == [["handling"]]
    assert chains["job"] == [["job"]] and chains["awaited"] == [["job", "awaited"]]
    assert chains["inside"][0] == ["job", "awaited", "__enter__"]
    assert chains["again"][0] == ["job", "__enter__"]


def enter(action):
    action.__enter__()
    return action


def enter_and_exit(action):
    with action:
        pass


def down(levels, function, action):
    return function(action) if levels == 0 else down(levels - 1, function, action)


def deep(levels, function, action):
    return function(action) if levels == 0 else deep(levels - 1, function, action)


def started():
    assert profilomatic.flush(PATIENCE)
    return profilomatic.stats()["actions"]["started"]


def refused_by(helper):
    """An action that has been refused, entered by a helper."""
    # A budget that nothing can keep: what is admitted is limited once a window has been over it.
    profilomatic.configure(max_overhead=0.000001, max_actions_per_run=1, time_granularity=0.001)
    deadline = time.monotonic() + PATIENCE
    while True:
        action = helper(profilomatic.action("a"))
        if action.task_uuid is None:
            return action
        burn_until_sampled(0)
        action.__exit__(None, None, None)
        assert time.monotonic() < deadline, profilomatic.stats()


def test_what_begins_inside_a_refused_action_that_a_helper_enters_follows_it(profiles):
    def block():
        action = refused_by(enter)
        before = started()
        enter_and_exit(profilomatic.action("inside"))
        with profilomatic.action("inside"):
            pass
        assert started() == before
        action.__exit__(None, None, None)
        for _ in range(20):
            enter_and_exit(profilomatic.action("after"))
        assert started() == before + 20

    block()


def test_a_refused_action_is_not_at_every_frame_of_its_address(profiles, backend):
    if backend == "pure":
        pytest.skip("goes by the context, which is this one")
    refused_by(enter).__exit__(None, None, None)
    action = down(6, enter, profilomatic.action("a"))
    while action.task_uuid is not None:
        burn_until_sampled(0)
        action.__exit__(None, None, None)
        action = down(6, enter, profilomatic.action("a"))
    before = started()
    for _ in range(20):
        deep(6, enter_and_exit, profilomatic.action("b"))  # its frames are as large as those of the other one
    assert started() == before + 20
    action.__exit__(None, None, None)


@pytest.mark.parametrize("begin", [enter, enter_and_exit], ids=["the same helper", "another function"])
def test_a_refused_action_that_a_helper_enters_is_its_tasks(profiles, begin):
    async def refused(held, over):
        action = refused_by(enter)
        before = started()
        enter_and_exit(profilomatic.action("inside"))
        assert started() == before  # what begins inside it follows its decision
        held.set()
        await over.wait()
        action.__exit__(None, None, None)

    async def other(held, over):
        await held.wait()
        before = started()
        for _ in range(20):
            action = profilomatic.action("b")
            begin(action)
            if begin is enter:
                action.__exit__(None, None, None)
        assert started() == before + 20
        over.set()

    async def main():
        held, over = asyncio.Event(), asyncio.Event()
        await asyncio.gather(refused(held, over), other(held, over))

    asyncio.run(main())


def opened(name):
    """As an integration opens it: it may outlive the asyncio task that it is opened in."""
    action = _backend.load().Action(name, {})
    assert action.open("0af76519-16cd-43dd-8448-eb211c80319c")
    return action


def entered(name):
    return enter(profilomatic.action(name))


def of_a_later_one():
    burn_until_sampled(3)


@pytest.mark.parametrize("begin", [opened, entered])
def test_an_action_that_outlives_its_task_is_of_no_later_one(profiles, begin):
    async def handle(kept):
        action = begin("later" if kept else "first")
        if kept:
            of_a_later_one()
            finish(action)
        else:
            kept.append(action)

    def finish(action):
        return action.close("succeeded") if begin is opened else action.__exit__(None, None, None)

    async def main():
        kept = []
        for _ in range(5):
            await asyncio.create_task(handle(kept))
        finish(*kept)

    asyncio.run(main())
    records = profiles.flushed(5)
    assert [record["action"]["type"] for record in records] == ["later"] * 4 + ["first"]
    assert [record["action"]["outcome"] for record in records] == ["succeeded"] * 5
    assert ["of_a_later_one" in names(record) for record in records] == [True] * 4 + [False]


def test_an_action_keeps_no_task_alive(profiles):
    def finalized(coroutine, said):
        gone = []
        weakref.finalize(coroutine, gone.append, True)
        action = coroutine.send(None)
        del coroutine
        gc.collect()
        assert gone == [True] and said == ["closed"]
        return action

    async def waits(said):
        try:
            await parked(enter(profilomatic.action("left")))
        finally:
            said.append("closed")

    @types.coroutine
    def parked(action):
        yield action

    said = []
    action = finalized(waits(said), said)
    assert profilomatic.current_task_uuid() is None
    action.__exit__(None, None, None)
    assert profiles.one()["action"]["outcome"] == "succeeded"


def test_a_managers_manager_holds_actions(profiles):
    @contextlib.contextmanager
    def inner():
        with profilomatic.action("held") as action:
            yield action

    @contextlib.contextmanager
    def outer():
        with inner() as action:
            yield action

    def in_the_block():
        burn_until_sampled(3)

    with outer() as action:
        assert profilomatic.current_task_uuid() == action.task_uuid
        in_the_block()
    assert "in_the_block" in names(profiles.one())


def test_an_asynchronous_context_manager_holds_actions(profiles):
    @contextlib.asynccontextmanager
    async def job():
        with profilomatic.action("job") as a:
            await asyncio.sleep(0)
            yield a

    async def main():
        async with job() as a:
            assert a.task_uuid
            burn_until_sampled(2)
            await asyncio.sleep(0)
        assert profilomatic.current_task_uuid() is None

    asyncio.run(main())
    assert profiles.one()["action"]["outcome"] == "succeeded"


def test_an_action_may_end_on_another_thread(profiles):
    action = profilomatic.action("handed over")
    action.__enter__()
    thread = threading.Thread(target=action.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert profilomatic.current_task_uuid() is None
    with profilomatic.action("next"):
        pass
    first, second = profiles.flushed(2)
    assert (first["action"]["type"], first["action"]["outcome"]) == ("handed over", "succeeded")
    assert second["action"]["type"] == "next"


MOVING_HOST = """
#include <Python.h>
PyThreadState *make(void) { return PyThreadState_New(PyInterpreterState_Main()); }
void run(PyThreadState *state, const char *code) {
    PyEval_RestoreThread(state);
    PyRun_SimpleString(code);
    PyEval_SaveThread();
}
void end(PyThreadState *state) {
    PyEval_RestoreThread(state);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}
"""
MOVING = """
import ctypes, threading, profilomatic
host = ctypes.CDLL("./host.so")  # not PyDLL: it takes the GIL by itself
host.make.restype = ctypes.c_void_p
host.run.argtypes = ctypes.c_void_p, ctypes.c_char_p
host.end.argtypes = ctypes.c_void_p,
code = b'''
import threading, __main__, profilomatic
with profilomatic.action("moving"):
    __main__.threads.append(threading.get_ident())
'''
threads, records = [], []
profilomatic.add_destination(records.append)
state = host.make()
turns = [threading.Event() for _ in range(3)]
def take_turn(turn):
    turns[turn].wait()
    host.run(state, code)
    turns[turn + 1].set()
    turns[2].wait()  # both live to the end: a thread's id may come again
workers = [threading.Thread(target=take_turn, args=(turn,)) for turn in range(2)]
for worker in workers:
    worker.start()
turns[0].set()
for worker in workers:
    worker.join()
host.end(state)
assert profilomatic.flush(60) and profilomatic.stop(60)
assert [record["thread"] for record in records] == threads, (records, threads)
print("each its own")
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build a host of the interpreter with")
def test_a_thread_state_that_its_host_hands_on_is_the_new_threads(python, tmp_path):
    (tmp_path / "host.c").write_text(MOVING_HOST)
    subprocess.run(["cc", "-shared", "-fPIC", "-I", sysconfig.get_path("include"), "host.c", "-o", "host.so"], cwd=tmp_path,
                   check=True)
    assert python(MOVING.replace("./host.so", str(tmp_path / "host.so"))) == "each its own\n"


def test_an_action_is_collected_with_the_generator_that_holds_it(profiles):
    def produce():
        with profilomatic.action("left"):
            yield 1

    async def consume():
        generator = produce()
        next(generator)
        del generator
        gc.collect()
        assert profilomatic.current_task_uuid() is None

    asyncio.run(consume())
    assert profiles.one()["action"]["outcome"] == "aborted"


# Child work.

@pytest.mark.parametrize("given", ["action", "task id"])
def test_work_in_a_thread_pool_is_linked_by_its_parent(profiles, given):
    def work(parent):
        with profilomatic.action("child", parent=parent) as child:
            burn_until_sampled(2)
            with profilomatic.action("inside the child") as inside:
                assert inside.task_uuid == child.task_uuid
            return child.task_uuid

    with profilomatic.action("parent") as parent, ThreadPoolExecutor(2) as pool:
        link = parent if given == "action" else parent.task_uuid
        ids = list(pool.map(work, [link, link]))
    records = profiles.flushed(3)
    assert set(ids) == {record["task_uuid"] for record in records} and len(set(ids)) == 1
    children = [record for record in records if record["action"]["type"] == "child"]
    assert len(children) == 2 and all("work" in names(record) for record in children)
    assert len({record["thread"] for record in records}) > 1
    assert "parent" not in children[0]["action"], "it is no field"


def test_work_in_an_executor_of_asyncio_is_linked_by_its_parent_and_has_its_own_samples(profiles):
    def in_the_executor(parent):
        with profilomatic.action("child", parent=parent):
            burn_until_sampled(3)

    async def main():
        with profilomatic.action("parent") as parent:
            await asyncio.get_running_loop().run_in_executor(None, in_the_executor, parent)

    asyncio.run(main())
    child, parent = profiles.flushed(2)
    assert child["task_uuid"] == parent["task_uuid"] and child["thread"] != parent["thread"]
    assert "in_the_executor" in names(child) and "in_the_executor" not in names(parent)


def test_asyncio_tasks_are_linked_by_their_parent_and_only_by_that(profiles):
    async def work(**link):
        with profilomatic.action("child", **link):
            await asyncio.sleep(0)

    async def main():
        with profilomatic.action("parent") as parent:
            await asyncio.gather(work(parent=parent), work())

    asyncio.run(main())
    linked, alone, parent = profiles.flushed(3)
    assert linked["task_uuid"] == parent["task_uuid"] != alone["task_uuid"]


def test_a_parent_may_be_any_text_and_decorators_take_one(profiles):
    @profilomatic.action("decorated", parent="order/17:x")
    def decorated():
        assert profilomatic.current_task_uuid() == "order/17:x"
        assert profilomatic.propagation_headers() == {"X-Task-UUID": "order/17:x"}

    decorated()
    with profilomatic.action("outer") as outer:
        with profilomatic.action("inner", parent="order/17:x") as inner:
            assert inner.task_uuid == "order/17:x"
        assert profilomatic.current_task_uuid() == outer.task_uuid
    first, second = profiles.flushed(2)
    assert first["task_uuid"] == "order/17:x"
    assert [m["task_uuid"] for m in messages(second)] == ["order/17:x"] * 2


def test_a_parent_that_is_over_or_not_profiled_links_nothing(profiles):
    with profilomatic.action("parent") as parent:
        pass
    with profilomatic.action("child", parent=parent) as child:
        assert child.task_uuid
    first, second = profiles.flushed(2)
    assert first["task_uuid"] != second["task_uuid"]
    for wrong in (7, object(), b"bytes"):
        with pytest.raises(TypeError, match="parent"):
            profilomatic.action("a", parent=wrong)


# Other processes.

@pytest.mark.parametrize("header", ["X-Task-UUID", "traceparent"])
def test_the_headers_of_an_action_make_the_other_sides_request_part_of_its_task(profiles, header):
    import re

    sys.path.insert(0, str(HERE.parent / "api"))
    from wsgi_server import Server, environ, listed

    assert profilomatic.propagation_headers() == {}
    with profilomatic.action("caller") as caller:
        headers, again = profilomatic.propagation_headers(), profilomatic.propagation_headers()
    assert headers["X-Task-UUID"] == caller_id(profiles)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", headers["traceparent"])
    assert headers == again
    given = {"HTTP_" + header.upper().replace("-", "_"): headers[header]}
    Server(profilomatic.wsgi.wrap(listed), environ(**given)).run()
    first, second = profiles.flushed(2)
    assert first["task_uuid"] == second["task_uuid"] and second["action"]["kind"] == "wsgi"
    assert first["action"]["span"] == headers["traceparent"][36:52]
    assert second["action"].get("parent_span") == (first["action"]["span"] if header == "traceparent" else None)
    assert "parent_span" not in first["action"] and "span" not in second["action"], "nobody knows them"


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TASK = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"


@pytest.mark.acceptance("PM20")
@pytest.mark.parametrize("flags,sent", [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03"), ("02", "02")])
def test_a_trace_keeps_its_parent_and_goes_on_under_our_own_span(profiles, flags, sent):
    sys.path.insert(0, str(HERE.parent / "api"))
    from wsgi_server import Server, environ, listed

    went_on = []

    def app(env, start_response):
        went_on.append(profilomatic.propagation_headers())
        with profilomatic.action("inside"):
            went_on.append(profilomatic.propagation_headers())
        with profilomatic.action("of another task", parent="0af76519-16cd-43dd-8448-eb211c80319c"):
            went_on.append(profilomatic.propagation_headers())
        return listed(env, start_response)

    parent = "00-%s-%s-%s" % (TRACE, PARENT, flags)
    Server(profilomatic.wsgi.wrap(app), environ(HTTP_TRACEPARENT=parent)).run()
    record = profiles.one()
    action = record["action"]
    assert (record["task_uuid"], action["parent_span"]) == (TASK, PARENT)
    assert action["span"] not in (PARENT, "0" * 16) and len(action["span"]) == 16
    for headers in went_on[:2]:
        assert headers == {"X-Task-UUID": TASK, "traceparent": "00-%s-%s-%s" % (TRACE, action["span"], sent)}
    other = "00-0af7651916cd43dd8448eb211c80319c-%s-01" % action["span"]
    assert went_on[2]["traceparent"] == other, "the flags were not of its trace"


@pytest.mark.acceptance("PM20")
@pytest.mark.parametrize("uuid,kept", [(TASK, PARENT), ("0af76519-16cd-43dd-8448-eb211c80319c", None), ("order-7", None)])
def test_the_parent_span_is_kept_only_where_its_trace_is_the_task(profiles, uuid, kept):
    sys.path.insert(0, str(HERE.parent / "api"))
    from wsgi_server import Server, environ, listed

    given = {"HTTP_X_TASK_UUID": uuid, "HTTP_TRACEPARENT": "00-%s-%s-00" % (TRACE, PARENT)}
    Server(profilomatic.wsgi.wrap(listed), environ(**given)).run()
    record = profiles.one()
    assert (record["task_uuid"], record["action"].get("parent_span")) == (uuid, kept)


def caller_id(profiles):
    return profiles.flushed(1)[0]["task_uuid"]
