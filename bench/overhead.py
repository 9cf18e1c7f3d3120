"""What profiling every request costs an application: CPU per request and p99, with the profiler on and off in turns.

One process. Worker threads serve requests to an application object (no sockets: the application is what is measured) in windows
of some 50 ms; in every other window the wrapped application is called, in the others the bare one. CPU is the whole
process's, so the profiler's own threads are in it. Bystanders are threads that run no action.
"""

import argparse
import os
import statistics
import threading
import time

from common import Paired, anywhere_on_the_stack, in_fresh_processes, percentile, profiler, quick, save, table

# The budget is a share of the process's CPU, of which half is that of the windows without: half of the default, 0.02, bounds the
# others as the default bounds a process that profiles all its requests.
BUDGET = 0.01

BILL = ("sampler_cpu", "in_request", "delivery_cpu")

ENVIRON = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_NAME": "localhost",
           "SERVER_PORT": "8000", "HTTP_HOST": "localhost", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0),
           "wsgi.url_scheme": "http", "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
           "REMOTE_ADDR": "127.0.0.1"}


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]


def work(n):
    total = 0
    for i in range(n):
        total += step(i)
    return total


def step(i):
    return (i * i) % 7


def flask_app(rounds, sleep):
    import flask

    app = flask.Flask("bench")

    @app.route("/")
    def index():
        total = work(rounds)
        if sleep:
            time.sleep(sleep)
        return {"total": total}

    return app


def rounds_for(seconds):
    """Rounds of work() that take this long here and now."""
    n = 1000
    while True:
        begin = time.process_time()
        work(n)
        took = time.process_time() - begin
        if took > 0.02:
            return max(1, int(n * seconds / took))
        n *= 2


def calibrated(sleep):
    """A Flask application whose request takes 1 ms of CPU here and now, the framework's own part included."""
    rounds = rounds_for(0.0008)
    for _ in range(3):
        app = flask_app(rounds, 0).wsgi_app
        cpu, count = time.thread_time(), serve(app, time.perf_counter() + 0.2, [])
        took = (time.thread_time() - cpu) / count
        rounds = max(1, rounds + rounds_for(0.001 - took) if took < 0.001 else int(rounds * 0.001 / took))
    return flask_app(rounds, sleep).wsgi_app


def application(name):
    if name == "hello":
        return hello
    if name == "flask-1ms":
        return calibrated(0)
    if name == "flask-sleep":
        return calibrated(0.004)
    raise SystemExit("unknown application: " + name)


def serve(app, stop_at, latencies):
    return anywhere_on_the_stack(serve_here, app, stop_at, latencies)


def serve_here(app, stop_at, latencies):
    count = 0
    clock = time.perf_counter
    begin = clock()
    while begin < stop_at:
        environ = dict(ENVIRON)
        body = app(environ, lambda status, headers, exc_info=None: None)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
        end = clock()
        latencies.append(end - begin)
        begin = end
        count += 1
    return count


class Crew:
    """Threads that serve one window at a time."""

    def __init__(self, count):
        self.count = count
        self.begin, self.end = threading.Barrier(count + 1), threading.Barrier(count + 1)
        self.job = None
        self.served = [0] * count
        self.latencies = [[] for _ in range(count)]
        for index in range(count):
            threading.Thread(target=self.run, args=(index,), daemon=True).start()

    def run(self, index):
        while True:
            self.begin.wait()
            if self.job is None:
                return
            app, stop_at = self.job
            self.served[index] = serve(app, stop_at, self.latencies[index])
            self.end.wait()

    def window(self, app, seconds):
        """(CPU seconds per request, latencies) of one window."""
        for each in self.latencies:
            each.clear()
        cpu = time.process_time()
        self.job = (app, time.perf_counter() + seconds)
        self.begin.wait()
        self.end.wait()
        cpu = time.process_time() - cpu
        if sum(self.served) == 0:
            return self.window(app, seconds)  # this process had no core for the whole window
        return cpu / sum(self.served), [value for each in self.latencies for value in each]

    def dismiss(self):
        self.job = None
        self.begin.wait()


def run(name, threads, pairs, seconds, **options):
    """One process's part of a row."""
    app = application(name)
    crew = Crew(threads)
    profilomatic, destination, path = profiler(**options)
    wrapped = profilomatic.wsgi.wrap(app)
    cpu, p99 = Paired(), Paired()
    for _ in range(10):
        crew.window(app, seconds), crew.window(wrapped, seconds)
    before = profilomatic.stats()
    for i in range(pairs):
        found = {each: crew.window(each, seconds) for each in ((app, wrapped) if i % 2 else (wrapped, app))}
        cpu.add(found[app][0], found[wrapped][0])
        p99.add(percentile(found[app][1], 0.99), percentile(found[wrapped][1], 0.99))
    after = profilomatic.stats()
    crew.dismiss()
    profilomatic.stop(10)
    profilomatic.remove_destination(destination)
    os.unlink(path)
    counts = {"taken": after["samples"]["taken"] - before["samples"]["taken"]}
    counts.update((key, after["actions"][key] - before["actions"][key]) for key in ("profiled", "shed"))
    counts.update((key, after["overhead"][key] - before["overhead"][key]) for key in BILL)
    return {"cpu": cpu, "p99": p99, "counts": counts, "reported": after["overhead"]["fraction"], "period": after["period"]}


def measure(name, threads, pairs, seconds, processes, **options):
    runs = in_fresh_processes(processes, run, name, threads, max(1, pairs // processes), seconds, **options)
    total = {key: sum(each["counts"][key] for each in runs) for key in runs[0]["counts"]}
    cpu, profiled = Paired(*(each["cpu"] for each in runs)), max(1, total["profiled"])
    row = cpu.ratio()
    row.update({"added": cpu.difference(), "bill": {key: total[key] / profiled for key in BILL}, "app": name, "threads": threads,
                "options": options, "processes": [each["cpu"].ratio()["median"] for each in runs],
                "billed": sum(total[key] for key in BILL) / profiled,
                "p99_ratio": Paired(*(each["p99"] for each in runs)).ratio()["median"],
                "samples_per_second": total["taken"] / row["pairs"] / seconds, "profiled": total["profiled"], "shed": total["shed"],
                "reported": statistics.fmean(each["reported"] for each in runs), "period": [each["period"] for each in runs]})
    return row


def bystanders(pairs, seconds, **options):
    """Two threads that compute without an action, while the engine is on (with one sleeping action) or off."""
    profilomatic, destination, path = profiler(**options)
    idle = threading.Event()

    def act():
        with profilomatic.action("idle"):
            idle.wait()

    actor = threading.Thread(target=act, daemon=True)
    actor.start()
    result = Paired()
    chunk = rounds_for(0.0005)

    def window():
        done, stop_at, cpu = 0, time.perf_counter() + seconds, time.thread_time()
        while time.perf_counter() < stop_at:
            work(chunk)
            done += 1
        return (time.thread_time() - cpu) / done

    for i in range(pairs):
        if i % 2:
            off_first = True
        else:
            off_first = False
        found = {}
        for on in ((False, True) if off_first else (True, False)):
            profilomatic.start() if on else profilomatic.stop(5)
            found[on] = window()
        result.add(found[False], found[True])
    idle.set()
    actor.join()
    profilomatic.stop(5)
    profilomatic.remove_destination(destination)
    os.unlink(path)
    return result.ratio()


def say(row):
    """One line as soon as it is known: a whole run takes a quarter of an hour."""
    print("  %s x%d: CPU ratio %.4f [%.4f, %.4f]; %.1f us a request added, %.1f billed" %
          (row["app"], row["threads"], row["median"], row["low"], row["high"], row["added"]["median"] * 1e6, row["billed"] * 1e6),
          flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--apps", default="hello,flask-1ms,flask-sleep")
    parser.add_argument("--threads", default="1,8")
    parser.add_argument("--pairs", type=int, default=30 if quick() else 1000)
    parser.add_argument("--processes", type=int, default=2 if quick() else 5)
    parser.add_argument("--window", type=float, default=0.05)
    args = parser.parse_args()
    rows = []
    cases = [(name, int(threads), {}) for name in args.apps.split(",") for threads in args.threads.split(",")]
    for name, threads, options in cases + [("flask-1ms", 1, {"time_granularity": "auto"})]:
        rows.append(measure(name, threads, args.pairs, args.window, args.processes, max_overhead=BUDGET, **options))
        say(rows[-1])
    table("CPU per request, profiler on against off (all requests, line level)",
          ["application", "threads", "period", "CPU off", "ratio", "95 % interval", "p99 ratio", "samples/s", "reported"],
          [[r["app"], r["threads"], "auto" if r["options"].get("time_granularity") == "auto" else "10 ms", "%.0f us" % (r["off"] * 1e6),
            "%.4f" % r["median"], "%.4f .. %.4f" % (r["low"], r["high"]), "%.3f" % r["p99_ratio"],
            "%.0f" % r["samples_per_second"], "%.4f" % r["reported"]] for r in rows])
    by = bystanders(20 if quick() else 400, args.window, time_granularity=0.01, max_overhead=0.02)
    table("Bystander thread without an action, CPU per unit of work", ["", "ratio", "95 % interval"],
          [["engine on", "%.4f" % by["median"], "%.4f .. %.4f" % (by["low"], by["high"])]])
    save("overhead", {"rows": rows, "bystander": by})


if __name__ == "__main__":
    main()
