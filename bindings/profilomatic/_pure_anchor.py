"""Which frames belong to an action: its anchor, where a walk stops, and the stack of a message.

Frames are known by id and code and never held, so that nothing lives longer for being profiled. A lexical
action is anchored at the frame that entered it, which is part of its stack; a request at our own frame that
called the application, which is not. Where the anchor has returned (an `__enter__` in a helper, an
ExitStack), the nearest remembered caller stands in for it. One that a generator or coroutine has called is
anchored at that instead, since a consumer's work is not the producer's, nor one task's another's; the frames
in between say where the stack begins. Reasons in ext/anchors.c.
"""

import os
import sys
import weakref

from . import _pure_native

# Code of this package is no part of any stack. Taken from a code object, to be spelt as theirs are.
OWN = os.path.dirname((lambda: 0).__code__.co_filename) + os.sep
stripped = None  # a logging library's folder, likewise at the leaf of message stacks
STACK_MAX = 2048  # frames of one walk
CALLERS_MAX = 4  # remembered above an anchor
NEAR_MAX = 64  # frames above it in which a generator is looked for

GENERATOR_FLAGS = 0x20 | 0x80 | 0x100 | 0x200  # generator, coroutine, iterable coroutine, async generator


class Spot:
    """Where an action is attached: a thread, and the frame at which a walk stops. Immutable, replaced as a whole."""

    __slots__ = ("thread", "tid", "frame_id", "code", "inclusive", "callers", "called_at", "at_ns", "cpu_ns", "before_ns",
                 "before_cpu_ns", "watch")

    def __init__(self, frame, inclusive, at_ns, before_ns=0, before_cpu_ns=0, gone=None):
        """gone: called with this when the generator or coroutine that the frame is of is no more, as far as that can be known;
        the next one may have a frame of the same id."""
        self.thread = _pure_native.get_ident()
        self.tid = _pure_native.native_id()
        while _is_generator(frame):
            driver = _past_contextlib(frame)
            if driver is None:
                break
            frame, inclusive = driver, True
        generator, self.callers = _callers(frame) if inclusive else (None, ())
        self.called_at = None  # the instruction at which a generator has called its callers
        if generator is not None:
            frame, self.called_at = generator, generator.f_lasti
        generator = _object_of(frame) if gone is not None else None
        self.watch = weakref.ref(generator, lambda _: gone(self)) if generator is not None else None
        self.frame_id = id(frame)
        self.code = frame.f_code
        self.inclusive = inclusive
        self.at_ns = at_ns
        self.before_ns = before_ns  # time and CPU time of the action's earlier stretches
        self.before_cpu_ns = before_cpu_ns
        self.cpu_ns = _pure_native.own_cpu_ns()

    def cut(self, frames):
        """Of frames, leaf first, those that belong to the action; None when neither the anchor nor, where it
        has returned, one of its callers is among them."""
        for index, frame in enumerate(frames):
            if id(frame) == self.frame_id and frame.f_code is self.code:
                if self.called_at == frame.f_lasti:
                    index = self._first_caller(frames[:index], index)
                return frames[:index + 1] if self.inclusive else frames[:index]
        own = self._first_caller(frames, None) if self.called_at is None else None
        return frames[:own + 1] if own is not None else None

    def _first_caller(self, frames, otherwise):
        """Where the nearest of the remembered ones is that runs."""
        for frame_id, code in self.callers:
            for index, frame in enumerate(frames):
                if id(frame) == frame_id and frame.f_code is code:
                    return index
        return otherwise


def _is_generator(frame):
    return bool(frame.f_code.co_flags & GENERATOR_FLAGS)


def _object_of(frame):
    """The generator or coroutine that a frame is of: what the interpreter says, from 3.14 on, else the asyncio task's."""
    if not _is_generator(frame):
        return None
    generator = getattr(frame, "f_generator", None)
    if generator is None:
        coroutine = getattr(running_task(), "get_coro", lambda: None)()
        generator = coroutine if getattr(coroutine, "cr_frame", None) is frame else None
    return generator


def running_task():
    """The asyncio task that runs, or None."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return asyncio.current_task()
    except (RuntimeError, AttributeError):
        return None


def _callers(frame):
    """The generator or coroutine that has called the frame, and the frames from this one up to it; None and those above
    the frame where there is none near."""
    callers, above = [], frame.f_back
    if _is_generator(frame):
        return None, ()
    for _ in range(NEAR_MAX):
        while above is not None and _is_generator(above):
            driver = _past_contextlib(above)
            if driver is None:
                return above, ((id(frame), frame.f_code), *callers)
            above = driver
        if above is None:
            break
        if len(callers) < CALLERS_MAX:
            callers.append((id(above), above.f_code))
        above = above.f_back
    return None, tuple(callers)


def _past_contextlib(generator):
    """Where the block of a generator-based context manager runs, from its generator, or a coroutine of contextlib's own; None
    when contextlib does not drive it."""
    above, driven = generator.f_back, _is_contextlib(generator)
    while above is not None and _is_contextlib(above):
        above, driven = above.f_back, True
    return above if driven else None


def _is_contextlib(frame):
    return frame.f_globals.get("__name__") == "contextlib"


def context_frame(coroutine):
    """The frame that an action outlives nothing of: that of the asyncio task's coroutine, else the first of the thread
    or greenlet."""
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None:
        frame = sys._getframe(1)
        while frame.f_back is not None:
            frame = frame.f_back
    return frame


def leaf_of(frame):
    """The nearest frame that is neither ours nor the logging library's; None when there is none."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(OWN) and (stripped is None or not file.startswith(stripped)):
            break
        frame = frame.f_back
    return frame


def capture(frame, spot, traceback, below):
    """The stack of a message as [(code, line), ...], root first; where an exception is being handled, to where
    it was raised.

    below: the traceback begins with a frame of ours that `frame` called.
    """
    if frame is None:
        return []
    frames = []
    while frame is not None and len(frames) < STACK_MAX:
        frames.append(frame)
        frame = frame.f_back
    # Detached, or on another thread: the place of the call is all that can be said.
    own = spot.cut(frames) if spot is not None and spot.thread == _pure_native.get_ident() else None
    if own is None:
        own = frames[:1]
    raised = []
    if traceback is not None:
        if below:
            traceback = traceback.tb_next
        else:
            for index, candidate in enumerate(own):
                if candidate is traceback.tb_frame:
                    own = own[index + 1:]
                    break
            else:
                traceback = None  # handled outside the action: says nothing about this message
        while traceback is not None and len(raised) < STACK_MAX:
            if not traceback.tb_frame.f_code.co_filename.startswith(OWN):
                raised.append((traceback.tb_frame.f_code, traceback.tb_lineno))
            traceback = traceback.tb_next
    return stack_of(own) + raised


def stack_of(frames):
    """[(code, line), ...], root first, of frames that are leaf first; without those of this package."""
    return [(frame.f_code, frame.f_lineno or 0) for frame in reversed(frames)
            if not frame.f_code.co_filename.startswith(OWN)]
