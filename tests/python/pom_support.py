"""What the Python tests call: collecting profiles, working until sampled, fresh interpreters."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

PATIENCE = 120.0  # seconds; only a failing test ever waits so long


def threads_of_ours():
    names = [thread.name for thread in threading.enumerate()]
    for task in pathlib.Path("/proc/self/task").glob("*/comm"):
        try:
            names.append(task.read_text().strip())
        except OSError:
            pass  # it ended meanwhile
    return sorted(name for name in names if name.lower().startswith(("profilo", "pom-", "pom_")))


class Collector:
    """A destination that keeps what it gets."""

    def __init__(self):
        self.records = []

    def __call__(self, record):
        self.records.append(record)

    def flushed(self, count=None):
        """The records after a flush; `count` is how many there must be."""
        import profilomatic

        assert profilomatic.flush(PATIENCE) is True, profilomatic.stats()
        if count is not None:
            assert len(self.records) == count, [record["action"] for record in self.records]
        return self.records

    def one(self):
        """The only record."""
        return self.flushed(1)[0]


def wait_until(condition, what="the condition"):
    """Polls without holding the test up; fails clearly, never passes by luck."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("waited %d s for %s" % (PATIENCE, what))
        time.sleep(0.002)


def burn(rounds=200):
    """A bounded piece of pure Python work."""
    total = 0
    for number in range(rounds):
        total += number * number
    return total


def samples_taken():
    import profilomatic

    return profilomatic.stats()["samples"]["taken"]


def burn_until_sampled(count=3, work=burn):
    """Works until `count` more samples were taken."""
    until = samples_taken() + count
    deadline = time.monotonic() + PATIENCE
    while samples_taken() < until:
        if time.monotonic() > deadline:
            import profilomatic

            pytest.fail("no %d samples in %d s: %r" % (count, PATIENCE, profilomatic.stats()))
        for _ in range(50):
            work()


class Slow:
    """Work that takes two samples, some periods at least, and notes how long it took: where the machine is busy, what takes no time at
    all may take longer."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        began = time.monotonic()
        burn_until_sampled(2)
        self.seconds += time.monotonic() - began

    def is_all_in(self, phases, phase):
        """All of it is this phase's. Nor is it another's, where phases are parts of a record's time."""
        assert phases[phase] > self.seconds - 1e-5, (phases, self.seconds)


def walk(node):
    """Every node below a record or node, in document order."""
    for child in node.get("children", ()):
        yield child
        yield from walk(child)


def messages(record):
    return [node["message"] for node in walk(record) if "message" in node]


def use_django(**options):
    """Django's settings, which are the process's: configured the first time, changed after. What is asked for by name at each request
    (ROOT_URLCONF) is in force at once, what a handler reads when it is made (MIDDLEWARE) for the next one."""
    import django
    from django.conf import settings

    if settings.configured:
        for name, value in options.items():
            setattr(settings, name, value)
    else:
        settings.configure(SECRET_KEY="for tests", ALLOWED_HOSTS=["*"], DEBUG=False, LOGGING_CONFIG=None, **options)
        django.setup()


def package_environment(**env):
    """Environment variables for a fresh interpreter that is to import the same package."""
    import profilomatic

    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(pathlib.Path(profilomatic.__file__).parent.parent), environment.get("PYTHONPATH", "")])
    environment.update(env)
    return environment


@contextlib.contextmanager
def kept_port():
    """The number of a port that stays ours, whether or not a server listens on it: who connects while none does is refused, and no
    other program is given it, as it might be where a server has closed it and another is to open it again."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, which may listen on it therefore
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def run_python(code, timeout=300, **env):
    """Runs code in a fresh interpreter that imports the same package; returns the finished process."""
    return subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], env=package_environment(**env), timeout=timeout,
                          capture_output=True, text=True)


# For code that run_python() runs, on x86_64: refuse(number, ...) makes the system calls fail with EPERM; false where no filter is allowed.
REFUSE = """
import ctypes, struct
def refuse(*numbers):
    libc, count = ctypes.CDLL(None), len(numbers)
    tests = [(0x15, count - at, 0, number) for at, number in enumerate(numbers)]  # to the last step, if it is this one
    steps = [(0x20, 0, 0, 0), *tests, (0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x50001)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    return libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP
PROCESS_VM_READV, PROCESS_VM_WRITEV = 310, 311
"""
