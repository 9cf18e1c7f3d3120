"""Nanoseconds per request of wsgi.wrap() around a one-line application with a list body: stopped, shed, profiled.

Blocks of ten bare and of ten wrapped calls alternate; the difference of two neighbours is one observation. Between two pairs the bare
application runs for half a millisecond, so that requests come at some 20 000 a second, which is as fast as a process of this
application could serve them: a bare loop of wrapped calls would run a hundred times faster, and measure how the sampler's core
and this one contend for the same memory.
"""

import statistics
import time

from common import bootstrap, profiler, quick, save, table


def environ():
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/hello", "SCRIPT_NAME": "", "QUERY_STRING": "a=1&b=2",
            "SERVER_NAME": "localhost", "SERVER_PORT": "8000", "HTTP_HOST": "localhost:8000",
            "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
            "HTTP_USER_AGENT": "bench", "HTTP_ACCEPT": "*/*", "REMOTE_ADDR": "127.0.0.1"}


BODY = [b"hello\n"]
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "6")]


def hello(environ, start_response):
    start_response("200 OK", HEADERS)
    return BODY


def server_start_response(status, headers, exc_info=None):
    return None


def block(app, env, count):
    clock = time.perf_counter_ns
    begin = clock()
    for _ in range(count):
        app(env, server_start_response)
        env.pop("HTTP_X_TASK_UUID", None)
    return (clock() - begin) / count


def measure(app, pairs, count=10, rest_ns=400_000):
    env = environ()
    for _ in range(500):
        block(app, env, count), block(hello, env, count)
    differences = []
    for i in range(pairs):
        until = time.perf_counter_ns() + rest_ns
        while time.perf_counter_ns() < until:
            block(hello, env, 100)
        if i % 2:
            bare, wrapped = block(hello, env, count), block(app, env, count)
        else:
            wrapped, bare = block(app, env, count), block(hello, env, count)
        differences.append(wrapped - bare)
    low, high = bootstrap(differences, rounds=300)
    return {"added_ns": statistics.median(differences), "mean_ns": statistics.mean(sorted(differences)[:-pairs // 100 or None]),
            "low": low, "high": high}


def main():
    pairs = 200 if quick() else 10000
    import profilomatic

    app = profilomatic.wsgi.wrap(hello)
    results = {"stopped": measure(app, pairs)}
    profilomatic, destination, _ = profiler(max_actions_per_run=0)
    results["profiled"] = measure(app, pairs)
    stats = profilomatic.stats()
    # A budget that no sampling can keep, so that admission sheds all but 10 requests a cycle.
    profilomatic.configure(max_overhead=0.00001, max_actions_per_run=1)
    deadline = time.monotonic() + 20
    env = environ()
    while profilomatic.stats()["actions"]["shed"] < 20000 and time.monotonic() < deadline:
        block(app, env, 1000)
    results["shed"] = measure(app, pairs)
    after = profilomatic.stats()
    results["profiled"]["engine"] = stats["engine"]
    results["shed"]["share_shed"] = after["actions"]["shed"] / after["actions"]["started"]
    profilomatic.stop(5)
    profilomatic.remove_destination(destination)
    limits = {"stopped": 100, "shed": 300, "profiled": 1500}
    table("wrap, nanoseconds added per request (list body, steady state)",
          ["state", "median", "95 % interval", "mean", "limit"],
          [[name, "%.0f" % r["added_ns"], "%.0f .. %.0f" % (r["low"], r["high"]), "%.0f" % r["mean_ns"], limits[name]]
           for name, r in sorted(results.items())])
    save("wrapper", results)


if __name__ == "__main__":
    main()
