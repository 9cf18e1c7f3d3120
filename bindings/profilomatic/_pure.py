"""The pure Python twin of the extension: same API, same records, for interpreters without `_core`.

How it works: an app thread that begins an action notes the frame that anchors it, and posts what happens
(begin, messages, end) as small events. The sampler thread wakes at the tuned period, reads
`sys._current_frames()`, walks each thread that has an action attached from its leaf to the first frame that
anchors one, and adds the stack to that action's tree with the time since its last look. It alone owns the
trees. A finished one goes to the delivery thread.

What it cannot do that the extension can: look without taking the GIL (so a C function that holds it hides its
time until it returns, and the sample then stands where the thread got to), and cost next to nothing. For the
moment of a walk the sampler refers to other threads' frames; a frame that ends meanwhile drops its locals on
the sampler thread.

Nothing here relies on reference counts: frames are known by id and code, never held, and an action whose
owner is collected without an end is ended by a finalizer, whenever that runs.
"""

import contextvars
import sys
import time

from . import _interrupts, _pure_anchor, _pure_delivery, _pure_native, _values
from ._pure_engine import EVENTS_MAX, LIVE_MAX, Live
from ._pure_engine import engine as _engine

NAME = "pure"

_ns = time.monotonic_ns

# The innermost action of a context. It may be over already, or belong to another asyncio task: see _innermost().
_current = contextvars.ContextVar("profilomatic", default=None)

FileDestination = _pure_delivery.FileDestination


def fault(where, error):
    """Counts a failure of ours. False for what is the program's, raised amid our code: to be raised again."""
    ours = not _interrupts.is_programs(error)
    if ours:
        _engine.fault(where, error)
    return ours


class Work:
    """An action as its beginner sees it: an outermost one, one inside another (events only), or a refused one.

    `live` is the tree's owner: its own, the outer one's, or None where refused.
    """

    __slots__ = ("run", "live", "outermost", "parent", "ended", "task_uuid", "type", "thread", "asyncio_task", "spreads")

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
        self.spreads = False  # to the asyncio tasks that inherit its context: a request of ASGI

class _Open(Work):
    """An outermost one whose begin is counted and whose end is not. Dropped so (a signal handler raised amid our code), it is lost.

    It is a Work before and after: what a handler raises in a finalizer reaches nobody."""

    __slots__ = ()

    def __del__(self):
        try:
            end(self, "lost", None)
        except Exception:
            pass  # the interpreter may be half gone


def _asyncio_task():
    """Which asyncio task runs, as an id, or 0. A new task inherits its creator's context variables, but is
    a context of its own here."""
    task = _pure_anchor.running_task()
    return id(task) if task is not None else 0


def _in_context():
    """The Work that this context was last inside of, or None. Whoever lists a context may have set the variable to anything."""
    work = _current.get()
    return work if isinstance(work, Work) else None


def _innermost():
    """The action that the calling code is inside of, or None."""
    work = _in_context()
    run = _engine.run
    while work is not None:
        if not work.ended and work.run is run and work.thread == _pure_native.get_ident() \
                and (work.spreads or (work.asyncio_task == _asyncio_task() and runs_inside(work))):
            return work
        work = work.parent
    return None


def runs_inside(work):
    """False for the action of a generator that is suspended: its consumer's work is not its own."""
    spot = work.live.spot if work.live is not None else None
    if spot is None or not spot.code.co_flags & _pure_anchor.GENERATOR_FLAGS:
        return True
    frame = sys._getframe(1)
    while frame is not None:
        if id(frame) == spot.frame_id:
            return True
        frame = frame.f_back
    return False


def begin(action_type, kind, fields, task_uuid, caller, anchor=None, inclusive=True, told=True):
    """Begins an action in the current context. Returns its Work, or None when nothing is to be recorded.

    caller: the frame of the user or server that begins it, the place of a nested one's start message. anchor:
    where walks stop, None when the action is attached later; without `inclusive` it is ours and no part of
    the stack. told: a nested one has a start message.
    """
    run = _engine.active_run()
    if run is None or run.delivery.is_current():
        return None
    start_ns, start_cpu = _ns(), _pure_native.own_cpu_ns()
    parent = _innermost()
    if parent is not None:
        work = Work(run, parent.live, False, parent, task_uuid or parent.task_uuid, action_type)
        if work.live is not None:
            work.live.nested += 1
        if work.live is not None and told:
            start = {"action_type": action_type, "action_status": "started", "task_uuid": work.task_uuid}
            _post_message(work, fields, caller, None, start)
        return work
    task_uuid = task_uuid or _values.new_task_uuid()
    if len(run.events) >= EVENTS_MAX:
        return _refused(Work(run, None, True, _in_context(), task_uuid, action_type), True)
    if len(run.live) >= LIVE_MAX or not run.schedule.admit():
        return _refused(Work(run, None, True, _in_context(), task_uuid, action_type), False)
    live = Live(action_type, kind, fields, task_uuid)
    live.begin_ns = live.last_ns = start_ns
    if anchor is not None:
        live.attach(anchor, inclusive)
    work = Work(run, live, True, _in_context(), task_uuid, action_type)
    live.cost_ns = _pure_native.own_cpu_ns() - start_cpu
    work.__class__ = _Open
    run.post(("begin", live))
    return work


def _refused(work, overflow):
    work.__class__ = _Open  # signals are handled after a call of C: this and the count are done both or neither; so in end()
    if overflow:
        _engine.overflow += 1
    else:
        work.run.events.append(("shed",))
        work.run.attached()
    return work


def enter(work):
    """Makes a Work the innermost one of this context."""
    parent = work.parent
    # Skipping what is over keeps the chain as long as what is open.
    while parent is not None and (parent.ended or parent.run is not work.run):
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
    stack = _pure_anchor.capture(frame, live.spot, traceback, below)
    run.post(("message", live, start_ns, stack, encoded, cut, _pure_native.own_cpu_ns() - start_cpu))


def end(work, outcome, caller, fields=None, raised=None, traceback=None, below=False, told=True):
    """Ends an action.

    caller: the frame of the user or server that ends it, None when nobody did. raised: what _values.described() says
    of the exception that left it; traceback, below: where it was raised, as for _pure_anchor.capture(). told: a
    nested one has an end message.
    """
    start_cpu = _pure_native.own_cpu_ns()
    leave(work)
    run, live = work.run, work.live
    if run is not _engine.run:
        work.__class__ = Work
        return
    details = dict(fields) if fields else {}
    if work.outermost and live is not None:
        details.update(live.trace.fields())
    if raised is not None:
        details["exception"], details["reason"] = raised
    if live is None:
        if work.outermost and type(work) is _Open:
            work.__class__ = Work
            run.events.append(("shed_end", outcome))
            run.attached()
        return
    if not work.outermost:
        live.nested -= 1
    if not work.outermost and told:
        head = {"action_type": work.type, "action_status": "failed" if outcome == "failed" else "succeeded"}
        if outcome in ("aborted", "lost"):
            head["outcome"] = outcome
        head["task_uuid"] = work.task_uuid
        _post_message(work, details, caller, traceback, head, below)
    elif work.outermost:
        live.detach()
        live.dropped += live.nested  # their end messages come too late
        end_ns = _ns()  # after it: no sample is later
        encoded, _ = _values.encode_fields(details, ours=True)
        run.post(("end", live, end_ns, outcome, encoded, _pure_native.own_cpu_ns() - start_cpu))
    work.__class__ = Work
    work.live = None  # a context may remember the ended Work for long


def _is_decorator(frame):
    """True for the frame that stands around a decorated function: an anchor, but no part of the stack."""
    return frame.f_globals.get("__name__") == "profilomatic._action"


class Action:
    """One bounded piece of work to profile; see profilomatic.action()."""

    __slots__ = ("type", "fields", "parent", "_work", "__weakref__")

    def __init__(self, action_type, fields, parent=None):
        if not isinstance(action_type, str):
            raise TypeError("the type of an action is text, not %r" % (action_type,))
        self.type = action_type
        self.fields = fields
        self.parent = parent
        self._work = None

    @property
    def task_uuid(self):
        """Its task id while it is open and profiled, else None."""
        work = self._work
        return work.task_uuid if work is not None and work.live is not None else None

    def __enter__(self):
        if self._work is not None:
            raise RuntimeError("this action is open already: %s" % _values.as_text(self.type))
        try:
            frame = sys._getframe(1)
            ours = _is_decorator(frame)
            caller = frame.f_back if ours else frame
            parent = self.parent
            task_uuid = parent if isinstance(parent, str) else getattr(parent, "task_uuid", None)
            if not isinstance(task_uuid, str):
                task_uuid = None  # not open, or not recorded
            work = begin(_values.text(self.type), "code", self.fields, task_uuid, caller, frame, not ours)
            if work is not None:
                self._work = work
                enter(work)
        except BaseException as failure:
            self._give_up()
            if not fault("action", failure):
                raise
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
                    end(work, "failed", caller, None, _values.described(error), traceback, ours)
            except BaseException as failure:
                leave(work)
                if not fault("action", failure):
                    raise
        return False

    def message(self, /, **fields):
        """Puts a message with these fields and the stack of this call into the call graph. Nothing while not
        profiled."""
        work = self._work
        if work is not None and work.live is not None and work.run is _engine.run:
            try:
                _post_message(work, fields, sys._getframe(1), sys.exc_info()[2])
            except Exception as failure:
                if not fault("message", failure):
                    raise

    def open(self, task_uuid):
        """For integrations: begins an action that may outlive this frame, under the id of a task from elsewhere, and
        posts nothing. False when it is not recorded."""
        if not isinstance(task_uuid, str):
            raise TypeError("a task id is text, not %r" % (task_uuid,))
        if self._work is not None:
            raise RuntimeError("this action is open already: %s" % _values.as_text(self.type))
        try:
            task = _pure_anchor.running_task()
            frame = _pure_anchor.context_frame(task.get_coro() if task is not None else None)
            work = begin(_values.text(self.type), "eliot", self.fields, _values.text(task_uuid), None, frame, True, False)
            if work is not None:
                self._work = work
                enter(work)
        except BaseException as failure:
            self._give_up()
            if not fault("action", failure):
                raise
        return self._work is not None

    def post(self, fields):
        """For integrations: a message, its fields as a dict."""
        if not isinstance(fields, dict):
            raise TypeError("the fields of a message are a dict, not %r" % (fields,))
        work = self._work
        if work is not None and work.live is not None and work.run is _engine.run:
            try:
                _post_message(work, fields, _pure_anchor.leaf_of(sys._getframe(1)), sys.exc_info()[2])
            except Exception as failure:
                if not fault("message", failure):
                    raise

    def close(self, outcome, exception=None):
        """For integrations: ends what open() began; the outcome is one of the record's words."""
        if outcome not in ("succeeded", "failed", "aborted", "lost"):
            raise ValueError("outcome %s: must be succeeded, failed, aborted or lost" % (outcome,))
        work, self._work = self._work, None
        if work is not None:
            try:
                raised = _values.described(exception) if exception is not None else None
                end(work, outcome, None, None, raised, told=False)
            except BaseException as failure:
                leave(work)
                if not fault("action", failure):
                    raise

    def _give_up(self):
        """After a beginning that failed."""
        work, self._work = self._work, None
        if work is not None:
            end(work, "lost", None)

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


def __getattr__(name):
    """asgi_begin() for profilomatic.asgi, loaded when that is used."""
    if name == "asgi_begin":
        from . import _pure_asgi

        return _pure_asgi.begin
    raise AttributeError("module %r has no attribute %r" % (__name__, name))


def apply_options(options):
    """Takes a complete, validated dict of options."""
    _engine.options = dict(options)
    _values.set_scrub(options["scrub"])
    run = _engine.run
    if run is not None:
        run.configure(options)


def refuse():
    """The engine never starts in this process: what is wrapped runs bare."""
    _engine.refused = True


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


def strip_leaf(prefix):
    """Code in files below this path is no part of the leaf of a message's stack."""
    if not isinstance(prefix, str):
        raise TypeError("a path prefix is text, not %r" % (prefix,))
    _pure_anchor.stripped = prefix


def current_task_uuid():
    work = _innermost()
    if work is None:
        work = _in_context()  # on a thread that works for a request, in a copy of its context
        if work is None or not work.spreads or work.ended or work.run is not _engine.run:
            return None
    return work.task_uuid if work.live is not None else None


def trace_span():
    work = _innermost()
    if work is None or work.live is None:
        return None
    trace = work.live.trace
    return trace.own_span(), trace.flags & 3 if work.task_uuid == work.live.task_uuid else 1


def stats():
    _engine.notice_fork()
    engine, run = _engine, _engine.last_run
    profiled, shed = engine.profiled, engine.all_shed()
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
        "routes": {"names": len(engine.route_names), "other": engine.route_names.others},
        "destinations": [entry.stats() for entry in engine.destinations.entries],
    }


def counters():
    """What stats() does not promise, for the metrics: open actions, new ones allowed a cycle (-1: no limit), looks."""
    run = _engine.run
    if run is None:
        return {"in_flight": 0, "allowed": -1, "wakeups": _engine.looks}
    allowance = run.schedule.allowance
    return {"in_flight": len(run.live), "allowed": -1 if allowance is None else allowance, "wakeups": _engine.looks}


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
