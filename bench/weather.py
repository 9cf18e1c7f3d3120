"""Does anybody wait for a destination? p99 of a request with a dead server against a live one; and how many bytes a profile is.

Two servers on loopback in a child: one answers, one takes connections and says nothing. Requests to the application of
`overhead` are timed in windows, with the destination at the one and at the other in turns; the ratio of two neighbouring p99s is
one observation. The dead server's queue is full all the time, so every window has the drops in it.

Bytes: the demo's shop, called in this process by its own load, into a file of each form. Compressed as RestDestination does: the
whole of it, and each batch of the wire form on its own, which is what a body of a request is.
"""

import gzip
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

from common import Paired, percentile, quick, save, table
from overhead import Crew, application

LEVELS = {"json": 1, "msgpack": 6}  # destinations/http_body.c
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


def waiting(pairs, seconds, threads):
    import profilomatic

    profilomatic.configure(max_actions_per_run=0)
    child = subprocess.Popen([sys.executable, "-c", SERVERS], stdout=subprocess.PIPE, text=True)
    crew = Crew(threads)
    try:
        live, dead = (profilomatic.RestDestination("127.0.0.1", int(port), timeout=1, format="msgpack")
                      for port in child.stdout.readline().split())
        wrapped = profilomatic.wsgi.wrap(application("flask-1ms"))
        result = Paired()

        def window(destination):
            profilomatic.add_destination(destination)
            latencies = crew.window(wrapped, seconds)[1]
            profilomatic.remove_destination(destination)
            return percentile(latencies, 0.99)

        for _ in range(3):
            window(live), window(dead)
        for i in range(pairs):
            found = {}
            for each in (live, dead) if i % 2 else (dead, live):
                found[each] = window(each)
            result.add(found[live], found[dead])
        profilomatic.stop(1)
        return result.ratio()
    finally:
        crew.dismiss()
        child.kill()
        child.wait()


def sizes(count):
    """Bytes of one profile of the shop in each form."""
    sys.path.insert(0, str(ROOT / "examples" / "shop"))
    import profilomatic
    from load import FORM, requests
    from shop import app

    profilomatic.configure(max_actions_per_run=0)
    app.logger.disabled = True  # one request in thirty is an error on purpose
    client = app.test_client()
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: os.path.join(folder, form) for form in ("json", "msgpack")}
        made = [profilomatic.file_destination(path, format=form) for form, path in paths.items()]
        for each in made:
            profilomatic.add_destination(each)
        for _, _, method, target, body in requests(count, seed=1):
            client.open(target, method=method, data=body, headers=FORM if body else None).close()
        profilomatic.flush(30)
        for each in made:
            profilomatic.remove_destination(each)
        data = {form: pathlib.Path(path).read_bytes() for form, path in paths.items()}
    lines = data["json"].count(b"\n")
    found = {form: len(each) / lines for form, each in data.items()}
    found.update({form + ", gzip": len(gzip.compress(each, LEVELS[form])) / lines for form, each in data.items()})
    bodies = batches(data["msgpack"])
    found["msgpack, gzip, batches of %d" % (lines / len(bodies))] = sum(
        len(gzip.compress(body, LEVELS["msgpack"])) for body in bodies) / lines
    return found


def batches(data):
    """The batches of a file in the wire form (docs/wire-format.md)."""
    found = []
    while data:
        end = 12 + int.from_bytes(data[8:12], "big")
        found.append(data[:end])
        data = data[end:]
    return found


def main():
    pairs, requests = (3, 100) if quick() else (200, 1000)
    rows, result = [], {"p99": {}}
    for threads in (1, 8):
        row = result["p99"][threads] = waiting(pairs, 0.3, threads)
        rows.append([threads, "%.3f" % row["median"], "%.3f to %.3f" % (row["low"], row["high"]),
                     "%.2f ms" % (row["off"] * 1e3)])
    table("p99 of a request of 1 ms, dead server over live one", ["threads", "ratio", "95 % interval", "live"], rows)
    result["bytes"] = found = sizes(requests)
    table("Bytes of a profile, the demo's traffic", ["form", "bytes", "of JSON lines"],
          [[form, "%.0f" % size, "1/%.1f" % (found["json"] / size)] for form, size in found.items()])
    save("weather", result)


if __name__ == "__main__":
    main()
