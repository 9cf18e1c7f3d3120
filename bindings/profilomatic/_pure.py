"""The pure Python twin of the extension: same API, same records, for interpreters without `_core`.

How it works: an app thread that begins an action notes the frame that anchors it, and posts what happens (begin, messages, end)
as small events. The sampler thread wakes at the tuned period, reads `sys._current_frames()`, walks each thread
that has an action attached from its leaf to the first frame that anchors one, and adds the stack to that action's tree with the
time since its last look. It alone owns the trees. A finished one goes to the delivery thread.

What it cannot do that the extension can: look without taking the GIL (so a C function that holds it hides its time
until it returns, and the sample then stands where the thread got to), and cost next to nothing. For the moment of a walk the
sampler refers to other threads' frames; a frame that ends meanwhile drops its locals on the sampler thread.

Nothing here relies on reference counts: frames are known by id and code, never held, and an action whose owner is
collected without an end is ended by a finalizer, whenever that runs.
"""

import atexit
import collections
import contextvars
import os
import random
import sys
import time

from . import _pure_delivery, _pure_native, _pure_schedule, _pure_tree, _values

NAME = "pure"

EVENTS_MAX = 20000  # waiting for the sampler; beyond it messages are dropped and new actions refused
LIVE_MAX = 10000  # actions open at once
LATENCY = 0.1  # seconds that an event may wait for the sampler, however long its period is
STACK_MAX = 2048  # frames of one walk
CALLERS_MAX = 4  # remembered above an anchor, in case it returns before its action ends

_GENERATOR_FLAGS = 0x20 | 0x80 | 0x100 | 0x200  # generator, coroutine, iterable coroutine, async generator

_ns = time.monotonic_ns

# The innermost action of a context. It may be over already, or belong to another asyncio task: see _innermost().
_current = contextvars.ContextVar("profilomatic", default=None)

FileDestination = _pure_delivery.FileDestination


class Spot:
    """Where an action is attached: a thread, and the frame at which a walk stops. Immutable, replaced as a whole."""

    __slots__ = ("thread", "tid", "frame_id", "code", "inclusive", "callers", "at_ns", "cpu_ns")

    def __init__(self, frame, inclusive, at_ns):
        self.thread = _pure_native.get_ident()
        self.tid = _pure_native.native_id()
        if frame.f_code.co_flags & _GENERATOR_FLAGS:
            driven_by = _contextlib_caller(frame)
            if driven_by is not frame:
                frame, inclusive = driven_by, True
        self.frame_id = id(frame)
        self.code = frame.f_code
        self.inclusive = inclusive
        self.callers = ()
        if inclusive and not frame.f_code.co_flags & _GENERATOR_FLAGS:
            callers = []
            above = frame.f_back
            while above is not None and len(callers) < CALLERS_MAX:
                callers.append((id(above), above.f_code))
                above = above.f_back
            self.callers = tuple(callers)
        self.at_ns = at_ns
        self.cpu_ns = _pure_native.own_cpu_ns()

    def cut(self, frames):
        """Of frames, leaf first, those that belong to the action; None when neither the anchor nor, where it has
        returned, one of its callers is among them."""
        for index, frame in enumerate(frames):
            if id(frame) == self.frame_id and frame.f_code is self.code:
                return frames[:index + 1] if self.inclusive else frames[:index]
        for frame_id, code in self.callers:
            for index, frame in enumerate(frames):
                if id(frame) == frame_id and frame.f_code is code:
                    return frames[:index + 1]
        return None


def _contextlib_caller(frame):
    """Where the block of a generator-based context manager runs; the frame itself when contextlib does not drive it."""
    above = frame.f_back
    if above is None or not _is_contextlib(above):
        return frame
    while above is not None and _is_contextlib(above):
        above = above.f_back
    return above if above is not None else frame


def _is_contextlib(frame):
    return frame.f_globals.get("__name__") == "contextlib"


class Live:
    """An outermost action while it lives. App threads replace `spot`; the rest is the sampler's after the begin event."""

    __slots__ = ("task_uuid", "type", "kind", "fields", "thread", "thread_name", "begin_ns", "begin_wall_ns", "spot",
                 "cpu_ns", "last_ns", "last_cpu_ns", "last_tid", "tree", "samples", "missed", "cost_ns", "dropped",
                 "cut", "ended")

    def __init__(self, action_type, kind, fields, task_uuid):
        self.task_uuid = task_uuid
        self.type = action_type
        self.kind = kind
        self.fields, self.cut = _values.encode_fields(fields)
        self.thread = _pure_native.get_ident()
        self.thread_name = _pure_native.thread_name(self.thread)
        self.begin_ns = _ns()
        self.begin_wall_ns = time.time_ns()
        self.spot = None
        self.cpu_ns = 0  # while attached, by the app threads
        self.last_ns = self.begin_ns
        self.last_cpu_ns = self.last_tid = 0
        self.tree = None
        self.samples = 0
        self.missed = {}
        self.cost_ns = 0
        self.dropped = 0
        self.ended = False

    def attach(self, frame, inclusive):
        self.spot = Spot(frame, inclusive, _ns())

    def detach(self):
        spot, self.spot = self.spot, None
        if spot is not None and spot.tid == _pure_native.native_id():
            self.cpu_ns += max(_pure_native.own_cpu_ns() - spot.cpu_ns, 0)

    def miss(self, reason):
        self.missed[reason] = self.missed.get(reason, 0) + 1


class Work:
    """An action as its beginner sees it: an outermost one, one inside another (events only), or a refused one.

    `live` is the tree's owner: its own, the outer one's, or None where refused.
    """

    __slots__ = ("run", "live", "outermost", "parent", "ended", "task_uuid", "type", "thread", "asyncio_task")

    def __init__(self, run, live, outermost, parent, task_uuid, action_type):
        self.run = run
        self.live = live
        self.outermost = outermost
        self.parent = parent
        self.ended = False
        self.task_uuid = task_uuid
        self.type = action_type
        self.thread = _pure_native.get_ident()
        self.asyncio_task = _asyncio_task()


def _asyncio_task():
    """Which asyncio task runs, as an id, or 0. A new task inherits its creator's context, but is a context of its own."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return 0
    try:
        task = asyncio.current_task()
    except (RuntimeError, AttributeError):
        return 0
    return id(task) if task is not None else 0


def _innermost():
    """The action that the calling code is inside of, or None."""
    work = _current.get()
    run = _engine.run
    while work is not None:
        if not work.ended and work.run is run and work.thread == _pure_native.get_ident() \
                and work.asyncio_task == _asyncio_task() and _runs_inside(work):
            return work
        work = work.parent
    return None


def _runs_inside(work):
    """False for the action of a generator that is suspended: its consumer's work is not its own."""
    spot = work.live.spot if work.live is not None else None
    if spot is None or not spot.code.co_flags & _GENERATOR_FLAGS:
        return True
    frame = sys._getframe(1)
    while frame is not None:
        if id(frame) == spot.frame_id:
            return True
        frame = frame.f_back
    return False


def _capture(frame, spot, traceback, below):
    """The stack of a message as [(code, line), ...], root first; where an exception is being handled, to where it was raised.

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
            raised.append((traceback.tb_frame.f_code, traceback.tb_lineno))
            traceback = traceback.tb_next
    stack = [(each.f_code, each.f_lineno or 0) for each in reversed(own)]
    return stack + raised


class Run:
    """The engine from a start to a stop: the event queue, the sampler thread, the delivery thread."""

    def __init__(self, engine):
        self.engine = engine
        self.events = collections.deque()
        self.live = set()  # the sampler's
        self.schedule = _pure_schedule.Schedule()
        self.configure(engine.options)
        self.stopping = False
        self.parked = False
        self.cost_ns = 0  # inside requests, counted by the sampler
        self.sampler_cpu_ns = 0
        self.samples = 0
        # Since the schedule was last told: what had been spent, the looks and their cost, the active time.
        self._seen = None
        self._looks = 0, 0
        self._active_ns = self._last_ns = 0
        self._hand_over = []
        self.wake = _pure_native.WakeUp()
        self.delivery = _pure_delivery.DeliveryThread(engine.destinations)
        self.sampler = _pure_native.NativeThread("profilomatic-sampler", self._sample)

    def configure(self, options):
        self.schedule.configure(options["max_overhead"], options["time_granularity"], options["max_actions_per_run"])

    # app threads

    def post(self, event):
        self.events.append(event)
        # The sampler sets `parked` and then looks at the queue; we fill the queue and then look at `parked`.
        if self.parked:
            self.wake.set()

    def attached(self):
        if self.parked:
            self.wake.set()

    # sampler thread

    def _sample(self):
        """The sampler's life. It parks when nothing was attached for a whole period, so that a storm of tiny actions
        costs one wake-up a period and not one each, and an idle process none."""
        next_ns = self._last_ns = _ns()
        self._seen = self._cpu()
        idle = False
        while True:
            try:
                tickets = self._apply_events()
                now_ns = _ns()
                attached = self._anyone_attached()
                self._active_ns += now_ns - self._last_ns if attached else 0
                self._last_ns = now_ns
                if self.stopping:
                    self._stop(now_ns)
                self._give(tickets)
                if self.stopping:
                    return
                if now_ns >= next_ns:
                    if attached:
                        self._look()
                    elif idle:
                        self._park()
                    idle = not attached
                    next_ns = _ns() + int(self.schedule.period_ns * random.uniform(0.5, 1.5))
                self._account()
                self.wake.wait(min((next_ns - _ns()) / 1e9, LATENCY))
            except Exception as fault:
                self.engine.fault("sampler", fault)
                self.wake.wait(LATENCY)
                if self.stopping:
                    return

    def _park(self):
        self.parked = True
        if not self.events and not self.stopping and not self._anyone_attached():
            self.wake.wait()
        self.parked = False
        self._last_ns = _ns()

    def _anyone_attached(self):
        for live in self.live:
            if live.spot is not None:
                return True
        return False

    def _cpu(self):
        return _pure_native.own_cpu_ns(), time.process_time_ns(), self.cost_ns + self.delivery.cpu_ns

    def _account(self):
        """Tells the schedule what the time since the last call cost."""
        now = self._cpu()
        sampler, process, other = (max(after - before, 0) for before, after in zip(self._seen, now))
        looks, cost_ns = self._looks
        self.schedule.account(self._active_ns, sampler + other, process, looks, cost_ns)
        self._seen = now
        self._looks = 0, 0
        self._active_ns = 0
        self.sampler_cpu_ns = now[0]

    def _look(self):
        """One sample of every attached action."""
        before = _pure_native.own_cpu_ns()
        self._look_now()
        looks, cost_ns = self._looks
        self._looks = looks + 1, cost_ns + _pure_native.own_cpu_ns() - before

    def _look_now(self):
        by_thread = {}
        for live in self.live:
            spot = live.spot
            if spot is not None:
                by_thread.setdefault(spot.thread, []).append((live, spot))
        frames = sys._current_frames()
        now_ns = _ns()
        for thread, attached in by_thread.items():
            leaf = frames.get(thread)
            if leaf is None:
                for live, _ in attached:
                    self._missed(live, "raced", now_ns)
                continue
            stack = []
            while leaf is not None and len(stack) < STACK_MAX:
                stack.append(leaf)
                leaf = leaf.f_back
            self._look_at(stack, attached, now_ns)
            stack.clear()
        frames.clear()

    def _look_at(self, stack, attached, now_ns):
        owner = own = None
        for live, spot in attached:
            part = spot.cut(stack)
            # The action whose anchor is nearest to the leaf owns the sample.
            if part is not None and (own is None or len(part) < len(own)):
                owner, own = live, part
        for live, spot in attached:
            if live is not owner:
                self._missed(live, "no_anchor", now_ns)
            elif live.spot is not spot or spot.at_ns > now_ns:
                self._missed(live, "raced", now_ns)
            else:
                self._add(live, spot, own, now_ns)

    def _missed(self, live, reason, now_ns):
        # Time in which it was switched out is nobody's; only the root's time holds it.
        live.last_ns = now_ns
        live.last_tid = 0
        live.miss(reason)
        self.engine.missed[reason] = self.engine.missed.get(reason, 0) + 1

    def _add(self, live, spot, frames, now_ns):
        since_ns = max(live.last_ns, spot.at_ns)
        cpu_ns = 0
        cpu_now = _pure_native.cpu_ns_of(spot.tid)
        if cpu_now is not None:
            known = live.last_tid == spot.tid and live.last_ns >= spot.at_ns
            cpu_ns = max(cpu_now - (live.last_cpu_ns if known else spot.cpu_ns), 0)
            live.last_cpu_ns, live.last_tid = cpu_now, spot.tid
        stack = [(frame.f_code, frame.f_lineno or 0) for frame in reversed(frames)]
        live.tree.add(stack, max(now_ns - since_ns, 0), cpu_ns, now_ns)
        live.last_ns = now_ns
        live.samples += 1
        self.samples += 1
        self.engine.samples += 1

    def _apply_events(self):
        """Applies what the app threads posted, in order. Returns the flush tickets met."""
        tickets = []
        events = self.events
        for _ in range(len(events)):
            event = events.popleft()
            kind = event[0]
            if kind == "message":
                self._message(*event[1:])
            elif kind == "begin":
                self._begin(event[1])
            elif kind == "end":
                self._end(*event[1:])
            elif kind == "shed":
                self.engine.shed += 1
            elif kind == "shed_end":
                self.engine.count_end(event[1])
            else:
                tickets.append(event[1])
        return tickets

    def _begin(self, live):
        self.cost_ns += live.cost_ns
        self.engine.profiled += 1
        live.tree = _pure_tree.Tree(self.engine.options["code_granularity"], live.begin_ns)
        if live.cut:
            live.tree.cut("values", live.cut)
        self.live.add(live)

    def _message(self, live, at_ns, stack, fields, cut, cost_ns):
        self.cost_ns += cost_ns
        if live.ended or live.tree is None:
            return
        live.cost_ns += cost_ns
        if cut:
            live.tree.cut("values", cut)
        live.tree.add_message(stack, fields, at_ns)

    def _end(self, live, at_ns, outcome, fields, cost_ns):
        self.cost_ns += cost_ns
        if live.ended or live.tree is None:
            return
        live.ended = True
        live.cost_ns += cost_ns
        self.live.discard(live)
        if live.begin_ns > self._last_ns:  # it lived between two of our wake-ups
            self._active_ns += at_ns - live.begin_ns
        self.engine.count_end(outcome)
        self._hand_over.append(self._sealed(live, at_ns, outcome, fields))

    def _sealed(self, live, at_ns, outcome, fields):
        if live.dropped:
            live.tree.cut("events", live.dropped)
        if fields:
            live.fields.update(fields)
        per_look = self.sampler_cpu_ns / max(self.samples, 1)
        cost_ns = live.cost_ns + per_look * live.samples
        profile = _pure_tree.Profile()
        profile.task_uuid = live.task_uuid
        profile.thread = live.thread
        profile.thread_name = live.thread_name
        profile.source = self.engine.options["source_name"]
        profile.pid = os.getpid()
        profile.start_ns = live.begin_ns
        profile.end_ns = max(at_ns, live.begin_ns)
        profile.start_wall_ns = live.begin_wall_ns
        profile.cpu_ns = live.cpu_ns
        profile.type = live.type
        profile.kind = live.kind
        profile.outcome = outcome
        profile.fields = live.fields
        profile.tree = live.tree
        profile.period = self.schedule.period_ns / 1e9
        profile.samples = live.samples
        profile.missed = live.missed
        profile.overhead_cpu = cost_ns / 1e9
        profile.overhead_fraction = cost_ns / max(profile.end_ns - profile.start_ns, cost_ns, 1)
        return profile

    def _give(self, tickets):
        if self._hand_over:
            for profile in self._hand_over:
                self.engine.destinations.put(profile)
            self._hand_over = []
            self.delivery.wake()
        for ticket in tickets:
            self.delivery.ticket(ticket)

    def _stop(self, now_ns):
        for live in list(self.live):
            self._end(live, now_ns, "lost", None, 0)

    def close(self, timeout):
        """Stops both threads. True when all was delivered."""
        deadline = time.monotonic() + timeout
        self.stopping = True
        self.wake.set()
        ended = self.sampler.join(deadline - time.monotonic())
        return self.delivery.close(deadline) and ended


class Engine:
    """What outlives a run: options, destinations, counters."""

    def __init__(self):
        self.run = None
        self.last_run = None  # for stats() after a stop
        self.options = None
        self.destinations = _pure_delivery.Destinations()
        self.faults = {}
        self.route_names = _values.RouteNames()
        self._lock = _pure_native._original("_thread", "allocate_lock")()
        self._restart_in_child = False
        self._hooked = False
        self._reset_counters()

    def _reset_counters(self):
        # All counted by the sampler thread, so that they always agree; the last one only where the queue was full.
        self.profiled = self.shed = self.finished = self.lost = self.samples = 0
        self.overflow = 0
        self.missed = {}

    def count_end(self, outcome):
        if outcome == "lost":
            self.lost += 1
        else:
            self.finished += 1

    def fault(self, where, error):
        """A failure of ours: counted, logged once for each place, and never anybody else's problem."""
        first = where not in self.faults
        self.faults[where] = self.faults.get(where, 0) + 1
        if first:
            try:
                import logging

                logging.getLogger("profilomatic").error(
                    "profiling failed at %s: %s (the application is not affected)", where, _values.as_text(error))
            except Exception:
                pass

    def active_run(self):
        """The run, begun anew in a forked child whose parent had one; None while stopped."""
        if self._restart_in_child:
            self.start()
        return self.run

    def start(self):
        with self._lock:
            if self.run is not None:
                return
            if not self._hooked:
                self._hooked = True
                atexit.register(self._at_exit)
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=self._after_fork_in_child)
            _pure_native.refresh()
            self.run = self.last_run = Run(self)
            self._restart_in_child = False  # only now: until then a second thread must come here and wait for the run

    def stop(self, timeout):
        with self._lock:
            self._restart_in_child = False
            run, self.run = self.run, None
        return run.close(timeout) if run is not None else True

    def flush(self, timeout):
        run = self.run
        if run is None:
            return not any(entry.queue or entry.busy for entry in self.destinations.entries)
        if run.delivery.is_current():
            return False
        passed = _pure_native.WakeUp()
        run.events.append(("ticket", passed))
        run.wake.set()
        return passed.wait(timeout)

    def _at_exit(self):
        self.stop(2.0)

    def _after_fork_in_child(self):
        """The threads are gone; what they were about to do is the parent's to finish."""
        self._lock = _pure_native._original("_thread", "allocate_lock")()
        self._restart_in_child = self.run is not None or self._restart_in_child
        self.run = self.last_run = None
        self._reset_counters()
        for entry in self.destinations.entries:
            entry.forget()
            entry.sent = entry.bytes = 0
            entry.dropped = {}
            entry.last_error = None


_engine = Engine()


def begin(action_type, kind, fields, task_uuid, caller, anchor=None, inclusive=True):
    """Begins an action in the current context. Returns its Work, or None when nothing is to be recorded.

    caller: the frame of the user or server that begins it, the place of a nested one's start message. anchor: where
    walks stop, None when the action is attached later; without `inclusive` it is ours and no part of the stack.
    """
    run = _engine.active_run()
    if run is None or run.delivery.is_current():
        return None
    start_ns, start_cpu = _ns(), _pure_native.own_cpu_ns()
    parent = _innermost()
    if parent is not None:
        work = Work(run, parent.live, False, parent, task_uuid or parent.task_uuid, action_type)
        if work.live is not None:
            start = {"action_type": action_type, "action_status": "started", "task_uuid": work.task_uuid}
            _post_message(work, fields, caller, None, start)
        return work
    task_uuid = task_uuid or _values.new_task_uuid()
    if len(run.events) >= EVENTS_MAX:
        _engine.overflow += 1
        return Work(run, None, True, _current.get(), task_uuid, action_type)
    if len(run.live) >= LIVE_MAX or not run.schedule.admit():
        run.post(("shed",))
        return Work(run, None, True, _current.get(), task_uuid, action_type)
    live = Live(action_type, kind, fields, task_uuid)
    live.begin_ns = live.last_ns = start_ns
    if anchor is not None:
        live.attach(anchor, inclusive)
    live.cost_ns = _pure_native.own_cpu_ns() - start_cpu
    run.post(("begin", live))
    return Work(run, live, True, _current.get(), task_uuid, action_type)


def enter(work):
    """Makes a Work the innermost one of this context."""
    parent = work.parent
    while parent is not None and (parent.ended or parent.run is not work.run):  # keeps the chain as long as what is open
        parent = parent.parent
    work.parent = parent
    _current.set(work)


def leave(work):
    """Makes a Work no longer the innermost one; they need not end in order."""
    work.ended = True
    if _current.get() is work:
        _current.set(work.parent)


def _post_message(work, fields, frame, traceback, head=None, below=False):
    run, live = work.run, work.live
    start_ns, start_cpu = _ns(), _pure_native.own_cpu_ns()
    if live.ended:
        return
    if len(run.events) >= EVENTS_MAX:
        live.dropped += 1
        return
    encoded, cut = _values.encode_fields(fields)
    if head:
        encoded = {**head, **{key: value for key, value in encoded.items() if key not in head}}
    stack = _capture(frame, live.spot, traceback, below)
    run.post(("message", live, start_ns, stack, encoded, cut, _pure_native.own_cpu_ns() - start_cpu))


def end(work, outcome, caller, fields=None, raised=None, traceback=None, below=False):
    """Ends an action.

    caller: the frame of the user or server that ends it, None when nobody did. raised: what described() says of the exception
    that left it; traceback, below: where it was raised, as for _capture().
    """
    start_ns, start_cpu = _ns(), _pure_native.own_cpu_ns()
    leave(work)
    run, live = work.run, work.live
    if run is not _engine.run:
        return
    details = dict(fields) if fields else {}
    if raised is not None:
        details["exception"], details["reason"] = raised
    if live is None:
        if work.outermost:
            run.post(("shed_end", outcome))
        return
    if not work.outermost:
        head = {"action_type": work.type, "action_status": "failed" if outcome == "failed" else "succeeded"}
        if outcome in ("aborted", "lost"):
            head["outcome"] = outcome
        head["task_uuid"] = work.task_uuid
        _post_message(work, details, caller, traceback, head, below)
    else:
        live.detach()
        encoded, _ = _values.encode_fields(details)
        run.post(("end", live, start_ns, outcome, encoded, _pure_native.own_cpu_ns() - start_cpu))
    work.live = None  # a context may remember the ended Work for long


def described(error):
    """The name and the text of an exception: what is kept of it, since the object itself keeps its frames."""
    kind = type(error)
    module = kind.__module__
    name = kind.__qualname__ if module == "builtins" else "%s.%s" % (module, kind.__qualname__)
    return _values.as_text(name), _values.as_text(error)


def _is_decorator(frame):
    """True for the frame that stands around a decorated function: an anchor, but no part of the stack."""
    return frame.f_globals.get("__name__") == "profilomatic._action"


class Action:
    """One bounded piece of work to profile; see profilomatic.action()."""

    __slots__ = ("type", "fields", "_work", "__weakref__")

    def __init__(self, action_type, fields):
        if not isinstance(action_type, str):
            raise TypeError("the type of an action is text, not %r" % (action_type,))
        self.type = action_type
        self.fields = fields
        self._work = None

    @property
    def task_uuid(self):
        """Its task id while it is open, else None."""
        work = self._work
        return work.task_uuid if work is not None else None

    def __enter__(self):
        if self._work is not None:
            raise RuntimeError("this action is open already: %s" % _values.as_text(self.type))
        try:
            frame = sys._getframe(1)
            ours = _is_decorator(frame)
            caller = frame.f_back if ours else frame
            work = begin(_values.text(self.type), "code", self.fields, None, caller, frame, not ours)
            if work is not None:
                enter(work)
                self._work = work
        except Exception as fault:
            _engine.fault("action", fault)
        return self

    def __exit__(self, kind, error, traceback):
        work, self._work = self._work, None
        if work is not None:
            try:
                frame = sys._getframe(1)
                ours = _is_decorator(frame)
                caller = frame.f_back if ours else frame
                if kind is None:
                    end(work, "succeeded", caller)
                elif issubclass(kind, GeneratorExit):
                    end(work, "aborted", caller)
                else:
                    end(work, "failed", caller, None, described(error), traceback, ours)
            except Exception as fault:
                _engine.fault("action", fault)
        return False

    def message(self, /, **fields):
        """Puts a message with these fields and the stack of this call into the call graph. Nothing while not profiled."""
        work = self._work
        if work is not None and work.live is not None and work.run is _engine.run:
            try:
                _post_message(work, fields, sys._getframe(1), sys.exc_info()[2])
            except Exception as fault:
                _engine.fault("message", fault)

    def __del__(self):
        work = getattr(self, "_work", None)
        if work is not None:
            try:
                end(work, "lost", None)
            except Exception:
                pass  # the interpreter may be half gone


def wrap(app):
    """See profilomatic.wsgi.wrap()."""
    from . import _pure_wsgi

    return _pure_wsgi.wrap(app)


def apply_options(options):
    """Takes a complete, validated dict of options."""
    _engine.options = dict(options)
    run = _engine.run
    if run is not None:
        run.configure(options)


def start():
    _engine.start()


def stop(timeout):
    return _engine.stop(timeout)


def flush(timeout):
    return _engine.flush(timeout)


def add_destination(destination):
    _engine.destinations.add(destination)
    _engine.start()


def remove_destination(destination):
    _engine.destinations.remove(destination)


def current_task_uuid():
    work = _innermost()
    return work.task_uuid if work is not None else None


def stats():
    engine, run = _engine, _engine.last_run
    profiled, shed = engine.profiled, engine.shed + engine.overflow
    return {
        "engine": NAME,
        "running": engine.run is not None,
        "period": run.schedule.period_ns / 1e9 if run is not None else 0.0,
        "overhead": {
            "fraction": run.schedule.fraction if run is not None else 0.0,
            "sampler_cpu": run.sampler_cpu_ns / 1e9 if run is not None else 0.0,
            "in_request": run.cost_ns / 1e9 if run is not None else 0.0,
            "delivery_cpu": run.delivery.cpu_ns / 1e9 if run is not None else 0.0,
        },
        "actions": {"started": profiled + shed, "profiled": profiled, "shed": shed, "finished": engine.finished,
                    "lost": engine.lost},
        "samples": {"taken": engine.samples, "missed": dict(engine.missed)},
        "destinations": [entry.stats() for entry in engine.destinations.entries],
    }


def engine_info():
    """Which engine this is, for `profilomatic check`."""
    from . import _backend

    return {
        "engine": NAME,
        "reason": _backend.reason,
        "layout_ok": None,
        "details": {
            "implementation": sys.implementation.name,
            "thread_cpu_clock": _pure_native.cpu_ns_of(_pure_native.native_id()) is not None,
            "faults": dict(_engine.faults),
        },
    }
