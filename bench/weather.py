"""Does anybody wait for a destination? p99 of a request with a dead server against a live one; and how many bytes a profile is.

Two servers on loopback in a child: one answers, one takes connections and says nothing. Requests to the application of
`overhead` are timed in windows, with the destination at the one and at the other in turns; the ratio of two neighbouring p99s is
one observation. Before each window 16 MiB are queued, so that of the dead server is full all the time and every window has the
drops in it; the live one's has been sent by then.

Other programs on the machine lengthen a request, but do not make its thread give up the processor by itself. So beside p99 stands
how often that happened in a thousand requests (voluntary context switches): with one thread, each would be a wait.

Bytes: the demo's shop, called in this process by its own load 50 times a second, to the live server in each form, as it is
really sent.
"""

import contextlib
import pathlib
import resource
import subprocess
import sys
import time

from common import Paired, percentile, quick, save, table
from overhead import Crew, application

ROOT = pathlib.Path(__file__).resolve().parent.parent

SERVERS = """
import socket, threading
live, dead = (socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2))
print(live.getsockname()[1], dead.getsockname()[1], flush=True)

def serve(connection):
    with connection, connection.makefile("rb") as file:
        while True:
            length = None
            for line in iter(file.readline, b"\\r\\n"):
                if not line:
                    return
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            file.read(length)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")

while True:
    threading.Thread(target=serve, args=(live.accept()[0],), daemon=True).start()
"""


def entry(destination):
    import profilomatic

    return next(each for each in profilomatic.stats()["destinations"] if each["name"] == destination.name)


def produced(destination):
    found = entry(destination)
    return found["queued"] + found["sent"] + sum(found["dropped"].values())


def fill(destination):
    """More actions with large messages than the queue of a dead server holds; a live one gets them all before this returns."""
    import profilomatic

    count = produced(destination) + 640
    for _ in range(640):
        with profilomatic.action("fill") as action:
            for _ in range(8):
                action.message(text="x" * 6000)
    while produced(destination) < count or not profilomatic.flush(0.1) and destination.name.endswith("live"):
        time.sleep(0.01)
    time.sleep(0.1)  # the loop has sent the dead one's batch as well


def watched(app, switches):
    """Adds the voluntary context switches of each request to switches[0]."""
    def call(environ, start_response):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        body = app(environ, start_response)
        switches[0] += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        return body

    return call


def waiting(pairs, seconds, threads):
    import profilomatic

    profilomatic.configure(max_actions_per_run=0)
    with servers() as ports:
        crew = Crew(threads)
        live, dead = (profilomatic.RestDestination("127.0.0.1", port, timeout, format="msgpack", path="/" + name)
                      for port, timeout, name in zip(ports, (5, 1), ("live", "dead")))
        wrapped = profilomatic.wsgi.wrap(application("flask-1ms"))
        result = Paired()
        switches, served = {live: [0], dead: [0]}, {live: 0, dead: 0}
        apps = {each: watched(wrapped, switches[each]) for each in (live, dead)}

        def window(destination):
            profilomatic.add_destination(destination)
            fill(destination)
            before = entry(destination)["dropped"]
            latencies = crew.window(apps[destination], seconds)[1]
            served[destination] += len(latencies)
            profilomatic.flush(0)
            after = entry(destination)["dropped"]
            profilomatic.remove_destination(destination)
            assert destination is dead or before == after, after
            assert destination is live or after["queue_full"] > before.get("queue_full", 0), (before, after)
            return percentile(latencies, 0.99)

        for _ in range(3):
            window(live), window(dead)
        for i in range(pairs):
            found = {}
            for each in (live, dead) if i % 2 else (dead, live):
                found[each] = window(each)
            result.add(found[live], found[dead])
        profilomatic.stop(1)
        crew.dismiss()
    return {**result.ratio(), "waits": [1000 * switches[each][0] / served[each] for each in (live, dead)]}


@contextlib.contextmanager
def servers():
    """The ports of a live and of a dead one."""
    child = subprocess.Popen([sys.executable, "-c", SERVERS], stdout=subprocess.PIPE, text=True)
    try:
        yield [int(port) for port in child.stdout.readline().split()]
    finally:
        child.kill()
        child.wait()


RATE = 50  # requests a second

FORMS = {  # options of RestDestination
    "json": {"compress": False},
    "msgpack": {"format": "msgpack", "compress": False},
    "json, gzip": {},
    "msgpack, gzip": {"format": "msgpack"},
    "msgpack, gzip, a batch a second": {"format": "msgpack", "send_every": 0},
}


def sizes(count):
    """The bytes that are sent for one request to the shop in each form."""
    sys.path.insert(0, str(ROOT / "examples" / "shop"))
    import profilomatic
    from load import FORM, requests
    from shop import app

    profilomatic.configure(max_actions_per_run=0)
    app.logger.disabled = True  # one request in thirty is an error on purpose
    client = app.test_client()
    with servers() as (port, _):
        made = {form: profilomatic.RestDestination("127.0.0.1", port, path="/%d" % i, **options)
                for i, (form, options) in enumerate(FORMS.items())}
        for each in made.values():
            profilomatic.add_destination(each)
        due = time.perf_counter()
        for _, _, method, target, body in requests(count, seed=1):
            client.open(target, method=method, data=body, headers=FORM if body else None).close()
            due += 1 / RATE
            time.sleep(max(0, due - time.perf_counter()))
        profilomatic.flush(30)
        found = {form: entry(each) for form, each in made.items()}
        profilomatic.stop(1)
    assert all(each["sent"] == count for each in found.values()), found
    return {form: each["bytes"] / count for form, each in found.items()}


def main():
    pairs, requests = (3, 100) if quick() else (120, 2000)
    rows, result = [], {"p99": {}}
    for threads in (1, 8):
        row = result["p99"][threads] = waiting(pairs, 0.3, threads)
        rows.append([threads, "%.3f" % row["median"], "%.3f to %.3f" % (row["low"], row["high"]),
                     "%.2f ms" % (row["off"] * 1e3), *("%.1f" % each for each in row["waits"])])
    table("p99 of a request of 1 ms, dead server over live one; waits in a thousand requests",
          ["threads", "ratio", "95 % interval", "live", "waits, live", "waits, dead"], rows)
    result["bytes"] = found = sizes(requests)
    table("Bytes of a profile as it is sent, the demo's traffic, %d requests a second" % RATE, ["form", "bytes", "of JSON lines"],
          [[form, "%.0f" % size, "1/%.1f" % (found["json"] / size)] for form, size in found.items()])
    save("weather", result)


if __name__ == "__main__":
    main()
