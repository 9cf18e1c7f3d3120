"""Where profiles go: the destinations, their bounded queues, and the thread that serves them.

Each destination has its own queue with a byte budget; what does not fit is dropped and counted, so that
neither the sampler nor a request ever waits. One daemon thread, "Profilomatic Thread", serves them in turn. A
destination that raises loses that profile, is logged once, and does not keep the others from theirs.
"""

import collections
import os
import stat
import time

# Everything is imported here and nothing in a function: a fork while one thread imports would leave the child with a
# module lock that nobody releases.
from . import _pure_native, _pure_rotate, _values
from ._files import dump_line

QUEUE_BYTES = 16 << 20  # of one destination
BUFFER_BYTES = 64 << 10  # of a file that is not flushed each time


class FileDestination:
    """Writes one JSON record a line to a path, appending whole lines so that forked children may share it."""

    def __init__(self, path, flush, append, format="json", rotate_bytes=0, rotate_seconds=0.0, keep=0):
        self.path = path
        self._path = os.path.join(os.getcwd(), path)  # as in the engine in C
        self.name = path
        self._flush = flush
        self._buffer = []
        self._buffered = 0
        self.lost = 0
        self._rotation = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if append else os.O_TRUNC)
        if rotate_bytes or rotate_seconds:
            self._rotation = _pure_rotate.Rotation(path, flags, rotate_bytes, rotate_seconds, keep)
            self._fd = self._rotation.fd
        else:
            self._fd = os.open(path, flags, 0o666)
        self._pid = os.getpid()

    @property
    def problem(self):
        """What is wrong without having cost a record, or None."""
        return self._rotation.problem if self._rotation is not None else None

    def write(self, record):
        """Returns the bytes taken; OSError when the file refuses."""
        line = dump_line(record).encode("ascii")
        if self._pid != os.getpid():  # a fork: what the parent had not written is the parent's
            self._pid = os.getpid()
            self._buffer, self._buffered = [], 0
        self._buffer.append(line)
        self._buffered += len(line)
        if self._flush or self._buffered >= BUFFER_BYTES:
            self.flush()
        return len(line)

    def flush(self):
        """OSError when the file refuses; `lost` then says how many records went with it."""
        data, self.lost = b"".join(self._buffer), len(self._buffer)
        self._buffer, self._buffered = [], 0
        if data and self._rotation is not None:
            self._fd = self._rotation.turn(len(data))
        elif data:
            self._make_anew_if_deleted()
        while data:
            data = data[os.write(self._fd, data):]
        self.lost = 0

    def _make_anew_if_deleted(self):
        there = os.fstat(self._fd)
        if there.st_nlink == 0 and stat.S_ISREG(there.st_mode):
            fd, self._fd = self._fd, os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, there.st_mode & 0o777)
            os.close(fd)

    def __del__(self):
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass

    def __repr__(self):
        return "<profilomatic file destination: %s>" % self.path


def _name_of(destination):
    for attribute in ("__qualname__", "__name__"):
        name = getattr(destination, attribute, None)
        if isinstance(name, str):
            return name
    return type(destination).__qualname__


def _flush_of(callable_):
    """Of a callable of ours that holds back what it is given; None of any other."""
    if hasattr(type(callable_), "_profilomatic_flush"):
        return callable_._profilomatic_flush
    return None


class Entry:
    """A registered destination and its counters. The sampler appends to the queue, the delivery thread takes."""

    def __init__(self, destination):
        self.destination = destination
        self.is_file = isinstance(destination, FileDestination)
        self.flushing = destination.flush if self.is_file else _flush_of(destination)
        self.name = destination.path if self.is_file else _name_of(destination)
        self.forget()
        self.sent = self.bytes = 0
        self.dropped = {}
        self.last_error = None
        self.logged = False

    def forget(self):
        """Empties the queue; in a forked child what waits there is the parent's."""
        self.queue = collections.deque()
        self.put_bytes = 0  # the sampler's counter
        self.taken_bytes = 0  # the delivery thread's
        self.busy = collections.deque()  # the one being delivered; whoever takes it out counts it, and nobody else

    def drop(self, reason, count=1):
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def put(self, profile):
        size = profile.size()
        if size > QUEUE_BYTES:
            self.drop("too_big")
            return
        # The oldest goes: what is slow now is of more use than what was. taken_bytes lags while a delivery is
        # under way, so the sum is a little too high at worst.
        while self.put_bytes - self.taken_bytes + size > QUEUE_BYTES:
            try:
                _, old_size = self.queue.popleft()
            except IndexError:
                break
            self.put_bytes -= old_size
            self.drop("queue_full")
        self.put_bytes += size
        self.queue.append((profile, size))

    def stats(self):
        return {
            "name": self.name, "queued": len(self.queue) + len(self.busy), "sent": self.sent, "retried": 0, "spooled": 0,
            "dropped": dict(self.dropped), "bytes": self.bytes,
            "last_error": self.last_error or (self.destination.problem if self.is_file else None),
        }

    def deliver_one(self):
        """Hands the oldest profile over. False when there is none."""
        try:
            profile, size = self.queue.popleft()
        except IndexError:
            return False
        busy = self.busy
        busy.append(profile)
        try:
            record = profile.record()
            if self.is_file:
                self.bytes += self.destination.write(record)
            else:
                self.destination(record)
            self.sent += self._take(busy)
        except BaseException as error:  # also SystemExit: a destination may not end the thread that serves the others
            self.failed(error, self._take(busy))
        finally:
            self.taken_bytes += size
        return True

    @staticmethod
    def _take(busy):
        """1 when the profile under way was still to be counted, 0 when a stop has given it up."""
        try:
            busy.popleft()
        except IndexError:
            return 0
        return 1

    def give_up(self):
        """A stop waits no longer: what is queued, and what is under way, is dropped."""
        count = self._take(self.busy)
        while True:
            try:
                _, size = self.queue.popleft()
            except IndexError:
                break
            self.put_bytes -= size
            count += 1
        if count:
            self.drop("shutdown", count)

    def flush(self):
        """Hands buffered lines to the operating system."""
        if self.flushing is None:
            return
        try:
            self.flushing()
        except BaseException as error:  # a file object is the user's
            self.failed(error, 0)

    def failed(self, error, uncounted):
        """uncounted: 1 when a profile was under way that nobody has counted yet."""
        lost = uncounted
        if self.flushing is not None:  # the others in its buffer were counted as sent when they went there
            lost, self.destination.lost = self.destination.lost or lost, 0
            self.sent -= lost - uncounted
        if lost:
            self.drop("error", lost)
        self.last_error = "%s: %s" % (type(error).__name__, _values.as_text(error))
        if self.logged:
            return
        self.logged = True
        try:
            import logging

            logging.getLogger("profilomatic").error(
                "destination %s failed: %s (further failures are only counted, see profilomatic.stats())",
                self.name, self.last_error)
        except Exception:
            pass  # a broken logging set-up is not ours to report


class Destinations:
    """The registered destinations, in order; it outlives the engine's runs."""

    def __init__(self):
        self.entries = ()  # replaced as a whole: readers need no lock
        self.leaving = collections.deque()  # removed, to be flushed once more
        self.thread = None  # the DeliveryThread that serves them

    @staticmethod
    def _is(entry, destination):
        return entry.destination is destination or \
            (not entry.is_file and entry.destination == destination)

    def add(self, destination):
        if not isinstance(destination, FileDestination) and not callable(destination):
            raise TypeError("a destination is a callable that takes a dict, or one of profilomatic's, not %r"
                            % (destination,))
        if not any(self._is(entry, destination) for entry in self.entries):
            self.entries += (Entry(destination),)

    def remove(self, destination):
        for entry in self.entries:
            if self._is(entry, destination):
                self.entries = tuple(other for other in self.entries if other is not entry)
                self._take_leave(entry)
                return

    def _take_leave(self, entry):
        """The last flush is the delivery thread's, which may be writing to it just now."""
        if entry.flushing is None:
            return
        self.leaving.append(entry)
        if self.thread is None or not self.thread.wake():
            self.flush_leaving()

    def flush_leaving(self):
        while self.leaving:
            try:
                entry = self.leaving.popleft()
            except IndexError:
                return  # another thread's
            entry.flush()

    def put(self, profile):
        for entry in self.entries:
            entry.put(profile)


class DeliveryThread:
    """Serves the queues until it is closed and they are empty.

    A destination that hangs can keep it beyond a stop that timed out. The next start then takes it on again: there is
    never a second one, so that no destination is called twice at a time.
    """

    def __init__(self, destinations):
        self._destinations = destinations
        self._wake = _pure_native.WakeUp()
        self._end_lock = _pure_native.new_lock()
        # under _end_lock
        self._closing = False
        self._abandoned = False  # also read without it: no more deliveries are begun
        self._ended = False
        self._tickets = collections.deque()
        self.cpu_ns = 0
        self._thread = _pure_native.NativeThread("Profilomatic Thread", self._run)
        destinations.thread = self

    def is_current(self):
        return _pure_native.get_ident() == self._thread.ident

    def wake(self):
        """False when it has ended."""
        self._wake.set()
        return not self._ended

    def ticket(self, passed):
        """passed: a WakeUp, set when everything queued before is delivered and flushed."""
        self._tickets.append(passed)
        self._wake.set()
        if self._ended:
            passed.set()

    def _run(self):
        while True:
            closing = self._closing  # before the round: what closes after it has not been flushed
            while not self._abandoned and self._round(closing):
                pass
            self.cpu_ns = _pure_native.own_cpu_ns()
            if self._ends(closing):
                self._destinations.flush_leaving()
                for passed in list(self._tickets):
                    passed.set()  # what they wait for has been given up
                return
            if not self._tickets:
                self._wake.wait()

    def _round(self, closing):
        """One profile of each destination, so that a slow one does not starve the rest. False when all are empty."""
        tickets = [self._tickets.popleft() for _ in range(len(self._tickets))]
        entries = self._destinations.entries
        delivered = [entry.deliver_one() for entry in entries]
        if any(delivered) and not self._abandoned:
            self._tickets.extendleft(reversed(tickets))
            return True
        if tickets or closing:
            for entry in entries:
                entry.flush()
        self._destinations.flush_leaving()
        for passed in tickets:
            passed.set()
        return False

    def _ends(self, closing):
        with self._end_lock:
            self._ended = self._abandoned or (closing and self._closing and not self._tickets)
            return self._ended

    def take_on(self):
        """Takes a close back. False when the thread has ended, or is about to."""
        with self._end_lock:
            if not self._ended:
                self._closing = self._abandoned = False
            return not self._ended

    def close(self, deadline):
        """Delivers what is queued. True when that was done and the thread has ended."""
        with self._end_lock:
            self._closing = True
        self._wake.set()
        if self._thread.join(deadline - time.monotonic()):
            return not any(entry.queue for entry in self._destinations.entries)
        with self._end_lock:
            if not self._closing:
                return False  # a start has taken it on meanwhile
            self._abandoned = True  # it ends when the destination that holds it returns
            for entry in self._destinations.entries:
                entry.give_up()
        return False
