"""What profiling every request costs an ASGI application: CPU per request with the wrapped application and the bare one in turns.

One process, one event loop, as many requests in flight as `--tasks` says, each of them two messages and as many turns of the event
loop as the application takes. Windows of some 50 ms alternate between the two applications. CPU is the whole process's, so the
profiler's own threads are in it: the difference of neighbouring windows is what a request costs more. Stopped, the engine is not
there, and what is left is the wrapper's coroutine.
"""

import argparse
import asyncio
import os
import statistics
import time

from common import bootstrap, profiler, quick, save, table

HEADERS = [(b"host", b"localhost:8000"), (b"user-agent", b"bench"), (b"accept", b"*/*"), (b"accept-encoding", b"gzip, br"),
           (b"connection", b"keep-alive")]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain"), (b"content-length", b"6")]}
BODY = {"type": "http.response.body", "body": b"hello\n"}
LIMIT_US = 5.0


async def hello(scope, receive, send):
    await send(START)
    await send(BODY)


async def waits(scope, receive, send):
    """A request that waits some ten times, as for a database."""
    for _ in range(10):
        await asyncio.sleep(0)
    await hello(scope, receive, send)


def starlette_app():
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def item(request):
        return JSONResponse({"id": request.path_params["id"]})

    return Starlette(routes=[Route("/items/{id:int}", item)])


def application(name):
    if name == "starlette":
        return starlette_app()
    return {"hello": hello, "waits": waits}[name]


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message):
    pass


def scope():
    """What a server makes for each request."""
    return {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": "/items/7", "root_path": "", "query_string": b"a=1&b=2", "headers": HEADERS,
            "client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 8000)}


async def serve(app, stop_at):
    count = 0
    while not count or time.perf_counter() < stop_at:
        await app(scope(), receive, send)
        await asyncio.sleep(0)
        count += 1
    return count


def window(runner, app, tasks, seconds):
    """CPU seconds per request of one window."""
    async def main():
        stop_at = time.perf_counter() + seconds
        return sum(await asyncio.gather(*(serve(app, stop_at) for _ in range(tasks))))

    cpu = time.process_time()
    served = runner.run(main())
    return (time.process_time() - cpu) / served


def pairs_of(runner, app, wrapped, tasks, pairs, seconds):
    """Microseconds added per request, a median with its interval."""
    for _ in range(5):
        window(runner, app, tasks, seconds), window(runner, wrapped, tasks, seconds)
    added, bare = [], []
    for i in range(pairs):
        order = (app, wrapped) if i % 2 else (wrapped, app)
        found = {each: window(runner, each, tasks, seconds) for each in order}
        added.append((found[wrapped] - found[app]) * 1e6)
        bare.append(found[app] * 1e6)
    low, high = bootstrap(added, rounds=300)
    return {"added_us": statistics.median(added), "low": low, "high": high, "bare_us": statistics.median(bare)}


def measure(name, tasks, pairs, seconds, loop_factory):
    import profilomatic

    app = application(name)
    wrapped = profilomatic.asgi.wrap(app)
    rows = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        rows.append({"state": "stopped", **pairs_of(runner, app, wrapped, tasks, pairs, seconds)})
        profilomatic, destination, path = profiler(max_actions_per_run=0)
        rows.append({"state": "profiled", **pairs_of(runner, app, wrapped, tasks, pairs, seconds)})
        stats = profilomatic.stats()
        rows[-1].update(reported=stats["overhead"]["fraction"], missed=stats["samples"]["missed"], engine=stats["engine"])
        profilomatic.stop(10)
        profilomatic.remove_destination(destination)
        os.unlink(path)
    for row in rows:
        row.update(app=name, tasks=tasks)
    return rows


def loop_factory(name):
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--apps", default="hello,waits,starlette")
    parser.add_argument("--tasks", default="1,100,1000")
    parser.add_argument("--pairs", type=int, default=6 if quick() else 300)
    parser.add_argument("--window", type=float, default=0.05)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    args = parser.parse_args()
    rows = []
    for name in args.apps.split(","):
        for tasks in args.tasks.split(","):
            rows += measure(name, int(tasks), args.pairs, args.window, loop_factory(args.loop))
    table("asgi.wrap(), CPU microseconds added per request (%s)" % args.loop,
          ["application", "in flight", "state", "bare", "added", "95 % interval", "limit"],
          [[r["app"], r["tasks"], r["state"], "%.1f" % r["bare_us"], "%.2f" % r["added_us"], "%.2f .. %.2f" % (r["low"], r["high"]),
            "%.0f" % LIMIT_US if r["state"] == "profiled" else ""] for r in rows])
    save("asgi", {"loop": args.loop, "rows": rows})


if __name__ == "__main__":
    main()
