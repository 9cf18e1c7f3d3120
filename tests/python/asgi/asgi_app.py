"""The ASGI application that the server tests serve: `wrapped` is profiled, `bare` is not.

Environment: SERVERS_RECORDS names the file for the records.
"""

import asyncio
import os

import profilomatic
import profilomatic.asgi

STATE = {"lifespan": "not started"}
TEXT = [(b"content-type", b"text/plain")]
CHUNK = b"x" * 65536


async def answer(send, body, status=200, headers=TEXT):
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hello(scope, receive, send):
    await answer(send, b"hello")


async def lifespan_state(scope, receive, send):
    await answer(send, STATE["lifespan"].encode())


async def upload(scope, receive, send):
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, b"%d" % size)


async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    for number in range(20):
        await send({"type": "http.response.body", "body": b"chunk %d;" % number, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def endless(scope, receive, send):
    """Until the client is gone, which receive() tells."""
    gone = asyncio.create_task(receive_until_gone(receive))
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    while not gone.done():
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await asyncio.sleep(0)


async def receive_until_gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def fail(scope, receive, send):
    raise LookupError("of the application")


def samples_taken():
    return profilomatic.stats()["samples"]["taken"]


def burn():
    """Until there are samples enough to compare times. How long that takes is up to the machine."""
    until, total = samples_taken() + 50, 0
    while samples_taken() < until:
        for number in range(10000):
            total += number * number
    return total


async def busy(scope, receive, send):
    burn()
    await answer(send, b"busy")


async def waiting(scope, receive, send):
    until = samples_taken() + 50
    while samples_taken() < until:
        await asyncio.sleep(0.1)
    await answer(send, b"waited")


async def tell_task(scope, receive, send):
    await answer(send, (profilomatic.current_task_uuid() or "none").encode())


class Turns:
    """What each of many requests at once waits for: its turn to be looked at. How long that takes is up to the machine, and to how many
    there are."""

    def __init__(self):
        self.waiting = 0

    async def wait(self):
        self.waiting += 1
        most, begin = self.waiting, samples_taken()
        await asyncio.sleep(1.5)  # for the others to come
        while samples_taken() - begin < 3 * most:
            most = max(most, self.waiting)
            await asyncio.sleep(0.1)
        self.waiting -= 1


TURNS = Turns()


async def wait_in_a():
    await TURNS.wait()


async def wait_in_b():
    await TURNS.wait()


async def slow_a(scope, receive, send):
    await wait_in_a()
    await answer(send, b"a")


async def slow_b(scope, receive, send):
    await wait_in_b()
    await answer(send, b"b")


ROUTES = {"/hello": hello, "/lifespan": lifespan_state, "/upload": upload, "/stream": stream, "/endless": endless,
          "/fail": fail, "/busy": busy, "/waiting": waiting, "/task": tell_task, "/slow/a": slow_a, "/slow/b": slow_b}


async def websocket(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"] + " back"})


async def lifespan(receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            STATE["lifespan"] = "started"
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def bare(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    elif scope["path"] in ROUTES:
        await ROUTES[scope["path"]](scope, receive, send)
    else:
        await answer(send, b"no such path", 404)


wrapped = profilomatic.asgi.wrap(bare)

if "SERVERS_RECORDS" in os.environ:
    profilomatic.configure(max_actions_per_run=0, time_granularity=0.002, max_overhead=0.2)
    profilomatic.add_destination(profilomatic.file_destination(os.environ["SERVERS_RECORDS"], append=True))
