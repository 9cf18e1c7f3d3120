"""Asyncio tasks begun below an action: each is a context of its own, whatever stands around the event loop or has made it."""

import asyncio
import sys

import pytest

import profilomatic


def ids(records):
    return sorted((record["action"]["type"], record["task_uuid"]) for record in records)


async def job(name, seen):
    with profilomatic.action("job", parent=name):
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append((name, profilomatic.current_task_uuid(), profilomatic.propagation_headers()["X-Task-UUID"]))


async def three_jobs(seen):
    await asyncio.gather(*(job("task-%d" % number, seen) for number in range(3)))


@pytest.mark.acceptance("PM15")
def test_tasks_below_an_action_around_the_loop_have_their_own_ids_and_records(profiles):
    seen = []
    with profilomatic.action("around", parent="loop"):
        asyncio.run(three_jobs(seen))
    assert len(seen) == 9 and all(name == current == header for name, current, header in seen)
    assert ids(profiles.flushed(4)) == [("around", "loop")] + [("job", "task-%d" % number) for number in range(3)]


def test_a_task_without_an_action_is_in_none_but_its_callees_are(profiles):
    async def main():
        assert profilomatic.current_task_uuid() is None
        with profilomatic.action("own", parent="own"):
            await deeper()

    async def deeper():
        assert profilomatic.current_task_uuid() == "own"
        with profilomatic.action("nested"):
            assert profilomatic.current_task_uuid() == "own"

    with profilomatic.action("around", parent="loop"):
        assert profilomatic.current_task_uuid() == "loop"
        asyncio.run(main())
        assert profilomatic.current_task_uuid() == "loop"
    assert ids(profiles.flushed(2)) == [("around", "loop"), ("own", "own")]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_is_no_part_of_the_action_that_made_it(profiles):
    """Its first step runs on its maker's stack."""
    seen = []

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        with profilomatic.action("maker", parent="maker"):
            task = asyncio.create_task(job("eager", seen))
            assert profilomatic.current_task_uuid() == "maker"
        await task

    asyncio.run(main())
    assert len(seen) == 3 and all(name == current == header for name, current, header in seen)
    records = profiles.flushed(2)
    assert ids(records) == [("job", "eager"), ("maker", "maker")]
    assert not any(record["profiler"]["truncated"] for record in records)


def test_a_loop_that_stops_the_engine_when_it_is_asked_for_its_task_is_survived(profiles):
    """To find out which task runs, code of the event loop's is called."""

    class Task(asyncio.Task):
        def get_coro(self):
            if stops:
                stops.pop()
                profilomatic.stop(60)
            return super().get_coro()

    stops = []

    async def main():
        stops.append(True)
        with profilomatic.action("inner"):
            pass

    async def factory():
        asyncio.get_running_loop().set_task_factory(lambda loop, coro, **options: Task(coro, loop=loop, **options))
        await asyncio.create_task(main())

    with profilomatic.action("around"):
        asyncio.run(factory())
    profilomatic.start()
    with profilomatic.action("later"):
        pass
    assert "later" in [record["action"]["type"] for record in profiles.flushed()]
