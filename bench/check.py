"""The request path in instructions, against the figures in bench/README.md: `make bench-check` fails when one is over 5 % above.

Seconds drift, instructions do not: the same build counts within a few in a thousand, whatever the machine is doing. valgrind's
callgrind counts what runs inside the wrapper's call on the request's own thread; the call of the bare application, counted in the state
"stopped", is taken off. Figures are per CPython version and compiler.
"""

import os
import re
import subprocess
import sys
import tempfile

from common import table

HERE = os.path.dirname(os.path.abspath(__file__))
README = os.path.join(HERE, "README.md")
REQUESTS = 4000
TOLERANCE = 1.05


def requests(mode, count):
    """Runs inside callgrind."""
    import profilomatic
    from wrapper import environ, hello, server_start_response

    # A period longer than the run: the sampler's thread sleeps, and nothing but the request path is counted.
    profilomatic.configure(time_granularity=10.0, max_actions_per_run=0)
    app = profilomatic.wsgi.wrap(hello)
    if mode == "profiled":
        destination = profilomatic.file_destination(os.devnull, append=True)
        profilomatic.add_destination(destination)
    env = environ()
    for i in range(count):
        app(env, server_start_response)
        env.pop("HTTP_X_TASK_UUID", None)
        if mode == "profiled" and i % 200 == 0:
            profilomatic.flush(60)  # valgrind runs one thread at a time: let the sampler catch up
    if mode == "profiled":
        assert profilomatic.flush(600)
        actions = profilomatic.stats()["actions"]
        assert actions["profiled"] == count, actions
        profilomatic.stop(60)
        profilomatic.remove_destination(destination)


def instructions(mode, count):
    """Instructions inside the wrapper, per request."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "callgrind.out")
        subprocess.run(["valgrind", "--tool=callgrind", "--toggle-collect=wrapped_call*", "--callgrind-out-file=" + out, "--quiet",
                        sys.executable, os.path.abspath(__file__), "--requests", mode, str(count)],
                       check=True, env=dict(os.environ, PYTHONHASHSEED="0"), timeout=900)
        total = 0
        for name in os.listdir(folder):  # one file a thread under some versions
            with open(os.path.join(folder, name)) as file:
                total += sum(int(found) for found in re.findall(r"^(?:summary|totals): (\d+)$", file.read(), re.M)[:1])
        return total / count


def figures():
    """{(version, state): instructions} from the table in the README."""
    with open(README) as file:
        return {(version, state): int(count)
                for version, state, count in re.findall(r"^\| (3\.\d+) \| (\w+) \| (\d+) \|", file.read(), re.M)}


def main():
    version = "%d.%d" % sys.version_info[:2]
    stopped = instructions("stopped", REQUESTS)
    found = {"profiled": instructions("profiled", REQUESTS) - stopped}
    wanted = figures()
    rows, failed = [], False
    for state, count in found.items():
        limit = wanted.get((version, state))
        over = limit is not None and count > limit * TOLERANCE
        failed = failed or over
        rows.append([version, state, "%.0f" % count, limit or "none", "OVER" if over else "ok"])
    table("instructions added per request", ["CPython", "state", "found", "in bench/README.md", ""], rows)
    if failed:
        raise SystemExit("the request path has grown by more than 5 %: shorten it, or explain the new figure in bench/README.md")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--requests"]:
        requests(sys.argv[2], int(sys.argv[3]))
    else:
        main()
