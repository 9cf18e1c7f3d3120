"""The customers of the shop: a fixed number of requests from a few threads, the same ones on every run.

    python load.py http://127.0.0.1:8000 --requests 2000 --customers 8 --seed 1

Each customer keeps one connection alive, pauses a little and asks for the next request of a list that the seed decides.
The run ends after that list, or at the deadline, whichever comes first.
"""

import argparse
import http.client
import itertools
import random
import sys
import threading
import time
import urllib.parse

# Shares of the kinds of request, in percent.
MIX = {
    "home": 25,
    "product": 32,
    "search": 20,
    "search without": 4,
    "checkout": 8,
    "invoice": 6,
    "voucher": 3,
    "export": 2,
}
COLOURS = ("red", "blue", "green", "black", "white", "grey")
KINDS = ("shirt", "coat", "scarf", "boot", "hat", "bag")
MATERIALS = ("cotton", "wool", "linen")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
# A connection belongs to one worker process; a new one now and then spreads the load over all of them.
REQUESTS_A_CONNECTION = 50
PAUSE_SECONDS = 0.035


def requests(count, seed):
    """The list of (pause before it, kind, method, target, body)."""
    dice = random.Random(seed)
    kinds = dice.choices(list(MIX), weights=list(MIX.values()), k=count)
    return [(dice.expovariate(1 / PAUSE_SECONDS), kind, *one_request(dice, kind)) for kind in kinds]


def one_request(dice, kind):
    if kind == "home":
        return "GET", "/", None
    if kind == "product":
        return "GET", f"/product/{dice.randrange(1000, 7000)}", None
    if kind == "search":
        words = f"{dice.choice(COLOURS)} {dice.choice(KINDS)}"
        return "GET", "/search?q=" + urllib.parse.quote_plus(words), None
    if kind == "search without":
        return "GET", "/search?q=" + urllib.parse.quote_plus(f"{dice.choice(MATERIALS)} -sale"), None
    if kind == "checkout":
        return "POST", "/checkout", f"product={dice.randrange(1000, 7000)}&product={dice.randrange(1000, 7000)}"
    if kind == "invoice":
        return "GET", f"/invoice/{dice.randrange(500)}", None
    if kind == "voucher":
        return "GET", f"/voucher/{dice.choice(('SPRING', 'LOYAL', 'STOLEN'))}", None
    return "GET", "/catalogue.csv", None


class Load:
    """One run. `run()` returns when every request is answered, at the deadline, or after `stop()`."""

    def __init__(self, host, port, count, customers=8, seed=1, deadline=60.0):
        self.host, self.port = host, port
        self.list = requests(count, seed)
        self.customers = customers
        self.deadline = deadline
        self.taken = itertools.count()  # next() on it is one step under the GIL
        self.stopping = threading.Event()
        self.guard = threading.Lock()
        # Under guard.
        self.times = {kind: [] for kind in MIX}
        self.statuses = {}  # (kind, status): how many; the status None is no answer
        self.errors = []  # what should not have happened, as texts

    @property
    def answered(self):
        with self.guard:
            return sum(self.statuses.values())

    def run(self, progress=lambda load: None):
        threads = [threading.Thread(target=self._customer, name=f"customer {n}") for n in range(self.customers)]
        end = time.monotonic() + self.deadline
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
                progress(self)
                self.stopping.wait(0.25)
        finally:
            self.stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        progress(self)
        return self

    def stop(self):
        self.stopping.set()

    def _customer(self):
        connection = None
        for turn in itertools.count():
            index = next(self.taken)
            if index >= len(self.list) or self.stopping.is_set():
                break
            if connection is not None and turn % REQUESTS_A_CONNECTION == 0:
                connection.close()
                connection = None
            pause, *request = self.list[index]
            time.sleep(pause)
            connection = self._ask(connection or self._connect(), *request)
        if connection is not None:
            connection.close()

    def _connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=20)

    def _ask(self, connection, kind, method, target, body):
        """Send one request and read its answer; the connection to go on with, or None."""
        begin = time.perf_counter()
        status = None
        error = None
        # A server may close an idle connection just as the next request goes out: that one is asked again, once.
        for again in (True, False):
            try:
                connection.request(method, target, body, FORM if body else {})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
                break
            except (http.client.RemoteDisconnected, ConnectionError) as lost:
                connection.close()
                error = lost
                if not again:
                    break
                connection = self._connect()
            except (http.client.HTTPException, OSError) as broken:
                error = broken
                break
        with self.guard:
            self.statuses[kind, status] = self.statuses.get((kind, status), 0) + 1
            if status is None:
                self.errors.append(f"{method} {target}: {error!r}")
            else:
                self.times[kind].append(time.perf_counter() - begin)
                # Only a voucher may be refused, and only as the shop does it.
                if status != 200 and (kind, status) != ("voucher", 500):
                    self.errors.append(f"{method} {target}: status {status}")
        if status is None:
            connection.close()
            return None
        return connection

    def table(self):
        """What the customers saw, as lines of text."""
        lines = [f"{'what customers saw':<20}{'requests':>9}{'median ms':>11}{'95 % ms':>9}{'max ms':>8}"]
        for kind, times in self.times.items():
            if times:
                ordered = sorted(times)
                median, high, top = (ordered[min(int(len(ordered) * q), len(ordered) - 1)] for q in (0.5, 0.95, 1))
                lines.append(f"{kind:<20}{len(times):>9}{median * 1e3:>11.1f}{high * 1e3:>9.1f}{top * 1e3:>8.1f}")
        return lines


def show_progress(stream, total):
    """A progress callback: one line that moves on a terminal, a line every two seconds elsewhere."""
    begin = time.monotonic()
    last = [0.0]

    def progress(load):
        now = time.monotonic()
        done = load.answered
        text = f"load: {done} of {total} requests, {now - begin:.0f} s"
        if stream.isatty():
            stream.write("\r" + text + ("\n" if done == total else ""))
            stream.flush()
        elif now - last[0] >= 2 or done == total:
            last[0] = now
            print(text, file=stream, flush=True)

    return progress


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--customers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=60.0)
    options = parser.parse_args()
    url = urllib.parse.urlsplit(options.url)
    load = Load(url.hostname, url.port or 80, options.requests, options.customers, options.seed, options.deadline)
    load.run(show_progress(sys.stderr, options.requests))
    print("\n".join(load.table()))
    for error in load.errors[:5]:
        print("error:", error)
    return 1 if load.errors else 0


if __name__ == "__main__":
    sys.exit(main())
