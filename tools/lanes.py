"""Steps side by side, in as many lanes as a machine has room for, and the commands that they run.

A step is a name and a function that does its work. It begins when a lane is free and the steps that it comes `after` have
passed; of several that may begin, the one that was given first does. What comes after a step that failed is left out: that
failure is the one to read.

Nothing is printed while a step runs. Its commands write to logs; what it has to say, with the end of the log of a command
that failed, is kept in `lines` until it has ended. So the steps' output is never mixed.

A command is a session of its own, stopped whole: when it takes too long, with what it left running when it ends, and at an
interrupt.
"""

import concurrent.futures
import os
import signal
import subprocess
import threading
import time

COMMAND_SECONDS = 1800  # A hang is a failure with a name, not a build that somebody has to kill.
TAIL = 100  # lines of a log that are shown


class Step:
    """`work(step)` returns whether it went well, and may set the counts of tests, with a text for each failing one. `ok` is
    None until it has ended."""

    def __init__(self, name, work, after=()):
        self.name = name
        self.work = work
        self.after = tuple(after)
        self.passed = self.failed = self.skipped = 0
        self.failing = []
        self.ok = None
        self.seconds = 0.0
        self.lines = []

    def say(self, text):
        self.lines.extend(text.splitlines())

    def do(self):
        begun = time.monotonic()
        try:
            self.ok = bool(self.work(self))
        except Exception as error:
            self.say("%s: %s" % (type(error).__name__, error))
            self.ok = False
        self.seconds = time.monotonic() - begun
        if not self.ok:
            self.failed = max(self.failed, 1)  # one without a failing test counts as one
        return self

    def may_begin(self):
        return all(other.ok for other in self.after)


class Commands:
    """Runs commands, each into a log in `folder`; `stop()` ends those that run, and lets no other begin."""

    def __init__(self, root, folder):
        self.root = root
        self.folder = folder
        self.lock = threading.Lock()
        # Under lock.
        self.stopped = False
        self.sessions = set()

    def run(self, step, command, log, env=None, seconds=COMMAND_SECONDS):
        """The command's exit code. When it is not 0 the step tells the end of the log."""
        path = os.path.join(self.folder, log)
        with open(path, "wb") as out:
            with self.lock:
                if self.stopped:
                    return 130
                child = subprocess.Popen(command, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                         stderr=subprocess.STDOUT, start_new_session=True)
                self.sessions.add(child.pid)
            try:
                code = child.wait(seconds)
            except subprocess.TimeoutExpired:
                code = 124
                step.say("no end after %d s, stopped: %s" % (seconds, " ".join(command)))
            with self.lock:
                self.sessions.remove(child.pid)
                kill_session(child.pid)
            child.wait()
        if code != 0:
            with open(path, "rb") as out:
                step.say("\n".join(out.read().decode("utf-8", "replace").splitlines()[-TAIL:]))
            step.say("the whole log: %s" % os.path.relpath(path, self.root))
        return code

    def stop(self):
        with self.lock:
            self.stopped = True
            for session in self.sessions:
                kill_session(session)


def kill_session(leader):
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_steps(steps, lanes, ended, stop):
    """Do the steps, so many at once; `ended(step)` is called for one after the other, on this thread. An exception here, such
    as an interrupt, calls `stop()`, which must make the running ones end, and is raised when they have."""
    waiting, running = list(steps), set()
    with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
        try:
            while True:
                for step in [step for step in waiting if step.may_begin()][:lanes - len(running)]:
                    waiting.remove(step)
                    running.add(pool.submit(step.do))
                if not running:
                    return
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    ended(future.result())
        except BaseException:
            stop()
            raise
