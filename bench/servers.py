"""What a real server pays: CPU per request and p99 of gunicorn (gthread) and waitress, with every request profiled and with none.

A server process serves the 1 ms Flask application twice, wrapped below /on and bare below /off, and a client process asks for the one
and the other in turns of half a second over four connections that stay open. CPU is the server process's, all threads, by
the kernel's account; p99 is the client's.
"""

import http.client
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import profilomatic
from common import Paired, percentile, quick, save, table

HERE = os.path.dirname(os.path.abspath(__file__))
CONNECTIONS = 4

APPLICATION = """
import os
import profilomatic
import profilomatic.wsgi
from common import anywhere_on_the_stack
from overhead import application as make

bare = make("flask-1ms")
wrapped = profilomatic.wsgi.wrap(bare)
profilomatic.add_destination(profilomatic.file_destination(os.environ["BENCH_RECORDS"]))


def application(environ, start_response):
    app = wrapped if environ["PATH_INFO"].startswith("/on") else bare
    environ["PATH_INFO"] = "/"
    return anywhere_on_the_stack(app, environ, start_response)
"""

COMMANDS = {
    "gunicorn": ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "4", "--log-level", "error",
                 "served:application"],
    "waitress": ["-m", "waitress", "--listen=127.0.0.1:{port}", "--threads=5", "served:application"],
}


def cpu_of(pid):
    """CPU seconds of a process's threads and of those of its children."""
    total = 0
    for task in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/schedstat" % (pid, task)) as file:
                total += int(file.read().split()[0])
            with open("/proc/%d/task/%s/children" % (pid, task)) as file:
                total += sum(cpu_of(int(child)) for child in file.read().split()) * 1e9
        except OSError:
            pass  # it has just ended
    return total / 1e9


def client(port, orders, answers):
    """For each (path, seconds): (requests, latencies)."""
    def ask(path, until, latencies):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while time.perf_counter() < until:
            begin = time.perf_counter()
            connection.request("GET", path)
            connection.getresponse().read()
            latencies.append(time.perf_counter() - begin)
        connection.close()

    while True:
        order = orders.get()
        if order is None:
            return
        path, seconds = order
        found = [[] for _ in range(CONNECTIONS)]
        until = time.perf_counter() + seconds
        threads = [threading.Thread(target=ask, args=(path, until, each)) for each in found]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        answers.put([value for each in found for value in each])


def wait_for(port, process):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None, "the server has ended"
            time.sleep(0.05)
    raise SystemExit("the server does not answer")


def run(server, pairs, seconds):
    """One server process's pairs: of CPU per request, and of p99."""
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "served.py"), "w") as file:
        file.write(APPLICATION)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    package = os.path.dirname(os.path.dirname(os.path.abspath(profilomatic.__file__)))
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([folder, HERE, package]),
               BENCH_RECORDS=os.path.join(folder, "records.jsonl"))
    process = subprocess.Popen([sys.executable] + [part.format(port=port) for part in COMMANDS[server]], cwd=folder, env=env)
    orders, answers = multiprocessing.Queue(), multiprocessing.Queue()
    asker = multiprocessing.Process(target=client, args=(port, orders, answers), daemon=True)
    cpu, p99 = Paired(), Paired()
    try:
        wait_for(port, process)
        asker.start()

        def window(path):
            before = cpu_of(process.pid)
            orders.put((path, seconds))
            latencies = answers.get()
            return (cpu_of(process.pid) - before) / len(latencies), percentile(latencies, 0.99)

        for _ in range(3):
            window("/on"), window("/off")
        for i in range(pairs):
            found = {path: window(path) for path in (("/off", "/on") if i % 2 else ("/on", "/off"))}
            cpu.add(found["/off"][0], found["/on"][0])
            p99.add(found["/off"][1], found["/on"][1])
        orders.put(None)
    finally:
        process.terminate()
        process.wait(20)
        asker.terminate()
        shutil.rmtree(folder, ignore_errors=True)
    return cpu, p99


def measure(server, pairs, seconds, processes):
    cpu, p99 = (Paired(*each) for each in zip(*(run(server, pairs // processes, seconds) for _ in range(processes))))
    row = cpu.ratio()
    row.update({"server": server, "p99": p99.ratio()})
    return row


def main():
    rows = [measure(server, *((4, 0.5, 2) if quick() else (150, 0.5, 5))) for server in COMMANDS]
    table("CPU per request of a real server, profiled over bare (Flask, 1 ms)",
          ["server", "CPU off", "ratio", "95 % interval", "p99 ratio", "95 % interval"],
          [[r["server"], "%.0f us" % (r["off"] * 1e6), "%.4f" % r["median"], "%.4f .. %.4f" % (r["low"], r["high"]),
            "%.3f" % r["p99"]["median"], "%.3f .. %.3f" % (r["p99"]["low"], r["p99"]["high"])] for r in rows])
    save("servers", rows)


if __name__ == "__main__":
    main()
