"""The paths that requests pay for in instructions, against the figures in bench/README.md: `make bench-check` fails when one
is over 5 % above.

Seconds drift, instructions do not: the same build counts within a few in a thousand, whatever the machine is doing. valgrind's
callgrind counts what runs inside our functions on the application's own thread, and nothing of what calls them. The wrapper of ASGI
is Python around our functions, so there all of that thread is counted, in a short run and in a longer one, wrapped and bare: the
start and the application fall out. Figures are per CPython version and compiler.

    python bench/check.py                    all states
    python bench/check.py message refused    some of them
"""

import os
import re
import subprocess
import sys
import tempfile

from common import table

HERE = os.path.dirname(os.path.abspath(__file__))
README = os.path.join(HERE, "README.md")
COUNT = 4000
TOLERANCE = 1.05

# state: (the C functions that are counted, all = the whole thread, what it is)
ALL = ()
STATES = {
    "profiled": (("wrapped_call*",), "a request with a list body"),
    "asgi": (ALL, "a request of ASGI with two messages"),
    "begin_end": (("action_enter*", "action_exit*"), "a begin and end inside a live action"),
    "message": (("action_message*",), "a message with five fields"),
    "outside": (("action_message*",), "the same outside any profiled action"),
    "refused": (("action_enter*", "action_exit*"), "a begin and end inside a refused action"),
}


# What runs inside callgrind: `count` times what the state is about. A period longer than the run: the sampler's thread
# sleeps, and nothing but the counted path is there.

def catch_up(i):
    import profilomatic

    if i % 100 == 99:
        assert profilomatic.flush(60)  # valgrind runs one thread at a time: let the sampler have its turn


def requests(count):
    """Calls of the wrapper; without a destination the engine is stopped, so that it calls the bare application."""
    import profilomatic
    from wrapper import environ, hello, server_start_response

    app = profilomatic.wsgi.wrap(hello)
    env = environ()
    for i in range(count):
        app(env, server_start_response)
        env.pop("HTTP_X_TASK_UUID", None)
        catch_up(i)


def asgi_requests(count, wrap=True):
    """Requests of two messages one after the other, none of which waits; of the bare application to compare with."""
    import profilomatic
    from asgi import hello, receive, scope, send

    app = profilomatic.asgi.wrap(hello) if wrap else hello
    for i in range(count):
        try:
            app(scope(), receive, send).send(None)
        except StopIteration:
            pass
        catch_up(i)


def in_live_actions(count, once):
    """once(outer) inside outer actions, a new one every 1000, which is what a record takes whole."""
    import profilomatic

    for start in range(0, count, 1000):
        with profilomatic.action("outer") as outer:
            for i in range(1000):
                once(outer)
                catch_up(i)


def begin_end(count):
    import profilomatic

    inner = profilomatic.action("inner")

    def once(outer):
        with inner:
            pass

    in_live_actions(count, once)


def message(count):
    in_live_actions(count, lambda outer: outer.message(step=1, name="row", size=2.5, ok=True, at=None))


def outside(count):
    import profilomatic

    with profilomatic.action("ended") as ended:
        pass
    for _ in range(count):
        ended.message(step=1, name="row", size=2.5, ok=True, at=None)


def refused(count):
    """A budget that no sampling can keep, until an outer action is refused. That one is begun by open(), as Eliot's are, so that
    only what comes then is counted."""
    import profilomatic

    profilomatic.configure(time_granularity=0.01, max_overhead=0.00001, max_actions_per_run=1)
    inner = profilomatic.action("inner")
    while True:
        outer = profilomatic.action("outer")
        outer.open("job-17")
        if outer.task_uuid is None:
            break
        outer.close("succeeded")
        sum(range(2000))
    for _ in range(count):
        with inner:
            pass
    outer.close("succeeded")


def run(state, count):
    """In the process that callgrind runs."""
    import profilomatic

    records = []
    profilomatic.configure(time_granularity=10.0, max_actions_per_run=0)
    if state == "stopped":
        requests(count)
        return
    # A callable gets its records under the interpreter's lock, for which the whole thread would be seen to wait.
    profilomatic.add_destination(profilomatic.file_destination(os.devnull) if state.startswith("asgi") else records.append)
    {"profiled": requests, "asgi": asgi_requests, "asgi_bare": lambda count: asgi_requests(count, wrap=False), "begin_end": begin_end,
     "message": message, "outside": outside, "refused": refused}[state](count)
    assert profilomatic.stop(600)
    lost = [record["profiler"]["truncated"] for record in records if record["profiler"]["truncated"]]
    assert not lost, lost
    if state == "profiled":
        assert len(records) == count, len(records)
    if state == "asgi":
        assert profilomatic.stats()["actions"]["finished"] == count


def counted(path):
    with open(path) as file:
        return sum(int(found) for found in re.findall(r"^(?:summary|totals): (\d+)$", file.read(), re.M)[:1])


def instructions(state, count, functions):
    """All instructions inside the functions, or of the application's thread."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "callgrind.out")
        which = ["--toggle-collect=" + name for name in functions] or ["--separate-threads=yes"]
        subprocess.run(["valgrind", "--tool=callgrind", *which, "--callgrind-out-file=" + out, "--quiet",
                        sys.executable, os.path.abspath(__file__), "--run", state, str(count)],
                       check=True, env=dict(os.environ, PYTHONHASHSEED="0"), timeout=900, stdout=subprocess.DEVNULL)
        if functions == ALL:
            return counted(out + "-01")
        return sum(counted(os.path.join(folder, name)) for name in os.listdir(folder))  # one file a thread under some versions


def each(state):
    """Instructions that one more request takes."""
    short = COUNT // 4
    return (instructions(state, COUNT, ALL) - instructions(state, short, ALL)) / (COUNT - short)


def measure(state):
    """Instructions each; of a request, what is added to the bare call."""
    if state == "asgi":
        return each("asgi") - each("asgi_bare")
    functions = STATES[state][0]
    bare = instructions("stopped", COUNT, functions) if state == "profiled" else 0
    return (instructions(state, COUNT, functions) - bare) / COUNT


def figures():
    """{(version, state): instructions} from the table in the README."""
    with open(README) as file:
        return {(version, state): int(count)
                for version, state, count in re.findall(r"^\| (3\.\d+) \| (\w+) \| (\d+) \|", file.read(), re.M)}


def main(states):
    version = "%d.%d" % sys.version_info[:2]
    wanted = figures()
    rows, failed = [], False
    for state in states or STATES:
        count = measure(state)
        limit = wanted.get((version, state))
        verdict = "ok" if limit is None or limit / 2 < count <= limit * TOLERANCE else "OVER" if count > limit else "NOT COUNTED"
        failed = failed or verdict != "ok"
        rows.append([state, "%.0f" % count, limit or "none", verdict, STATES[state][1]])
    table("instructions on the application's thread, CPython " + version, ["state", "found", "in bench/README.md", "", ""], rows)
    if failed:
        raise SystemExit("OVER: a path has grown by more than 5 %, so shorten it, or explain the new figure in bench/README.md; "
                         "NOT COUNTED: less than half of it, so a function has another name now, or its figure is old")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1:])
