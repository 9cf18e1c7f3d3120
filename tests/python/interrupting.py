"""A signal whose handler raises, at each place of the package's Python code where the interpreter may handle it."""

import gc
import os
import signal
import sys

import profilomatic

_OWN = os.path.dirname(profilomatic.__file__) + os.sep


class TooLong(Exception):
    """As a program's timeout raises it: no BaseException."""


def _handler(signum, frame):
    raise TooLong


class _Profile:
    """Sends the signal at the nth entry of a function of ours or end of a call of C in one: CPython handles signals there."""

    def __init__(self, nth, but):
        self.left = nth
        self.but = but

    def __call__(self, frame, event, arg):
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(_OWN):
            return
        if frame.f_code.co_name in self.but and event == "call" or frame.f_code.co_name == "__del__":
            return  # what a finalizer raises reaches nobody, whoever wrote it
        self.left -= 1
        if self.left == 0:
            sys.setprofile(None)
            del frame, arg  # else this frame would show that it interrupts, and not only the handler's
            signal.raise_signal(signal.SIGUSR1)


def interrupted(work, but=()):
    """Whether the handler's exception left work(), for each place in turn; without the entries of the functions named."""
    before = signal.signal(signal.SIGUSR1, _handler)
    outcomes = []
    try:
        while True:
            profile = _Profile(len(outcomes) + 1, but)
            sys.setprofile(profile)
            try:
                work()
                outcome = "lost"
            except TooLong:
                outcome = "raised"
            finally:
                sys.setprofile(None)
            if profile.left > 0:
                return outcomes
            outcomes.append(outcome)
            if profilomatic.current_task_uuid() is not None:
                gc.collect()  # its owner may be part of a cycle with the exception
            assert profilomatic.current_task_uuid() is None, len(outcomes)
    finally:
        signal.signal(signal.SIGUSR1, before)
