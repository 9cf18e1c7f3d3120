"""The pure twin's engine: the event queue, the sampler thread that owns every live tree, and what outlives a run.

App threads post events (begin, message, end) and never wait; the sampler thread applies them in order, looks
at the attached threads once a period, seals finished trees and hands them to the delivery thread. It may take
the GIL, being Python, which is the whole difference from the extension's.
"""

import collections
import os
import random
import sys
import time

from . import _exit, _pure_delivery, _pure_native, _pure_schedule, _pure_tree, _values
from ._pure_anchor import STACK_MAX, Spot, stack_of

EVENTS_MAX = 20000  # waiting for the sampler; beyond it messages are dropped and new actions refused
LIVE_MAX = 10000  # actions open at once
# What a record says by itself: a user's field of that name gives way. So do "exception" and "reason", when an exception came out.
OUR_KEYS = frozenset(("type", "kind", "outcome", "span", "parent_span", "part", "whole"))
LATENCY = 0.1  # seconds that an event may wait for the sampler, however long its period is

_ns = time.monotonic_ns


class Live:
    """An outermost action while it lives. App threads replace `spot`; after the begin event the rest is the
    sampler's."""

    __slots__ = ("task_uuid", "type", "kind", "fields", "thread", "thread_name", "begin_ns", "begin_wall_ns", "spot",
                 "cpu_ns", "last_ns", "last_cpu_ns", "last_tid", "tree", "samples", "wanted_ns", "missed", "cost_ns", "dropped",
                 "cut", "trace", "ended", "nested", "part_ns", "parts", "parts_cpu_ns", "attached_ns", "told_ns", "told_cpu_ns", "shared")

    def __init__(self, action_type, kind, fields, task_uuid):
        self.task_uuid = _values.text(task_uuid)
        self.type = action_type
        self.kind = kind
        fields, self.cut = _values.encode_fields(fields, ours=kind == "wsgi")
        self.fields = {key: value for key, value in fields.items() if key not in OUR_KEYS}
        self.thread = _pure_native.get_ident()
        self.thread_name = _values.text(_pure_native.thread_name(self.thread))
        self.trace = _values.Trace()
        self.begin_ns = _ns()
        self.begin_wall_ns = time.time_ns()
        self.spot = None
        self.cpu_ns = 0  # while attached, by the app threads
        self.last_ns = self.begin_ns
        self.last_cpu_ns = self.last_tid = 0
        self.tree = None
        self.samples = self.wanted_ns = 0  # the second: the periods wanted at each sample, added up
        self.missed = {}
        self.cost_ns = 0
        self.dropped = 0
        self.nested = 0  # open inside it
        self.part_ns = 0  # where the last part was cut; 0: nowhere yet
        self.parts = 0  # sealed while it went on
        self.parts_cpu_ns = 0  # told by them
        self.ended = False
        self.attached_ns = 0  # in the stretches that cpu_ns is of
        self.told_ns = self.told_cpu_ns = 0  # of the time attached, what lies before the last sample
        self.shared = False  # others were seen to run on its thread meanwhile

    def attach(self, frame, inclusive):
        # A request's own generator ends it.
        self.spot = Spot(frame, inclusive, _ns(), self.attached_ns, self.cpu_ns, None if self.kind in ("wsgi", "asgi") else self._gone)

    def _gone(self, spot):
        if self.spot is spot:
            self.detach()

    def detach(self):
        spot, self.spot = self.spot, None
        if spot is not None and spot.tid == _pure_native.native_id():
            self.cpu_ns += max(_pure_native.own_cpu_ns() - spot.cpu_ns, 0)
            self.attached_ns += _ns() - spot.at_ns

    def part_start_ns(self):
        return self.part_ns or self.begin_ns

    def miss(self, reason):
        self.missed[reason] = self.missed.get(reason, 0) + 1


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
        self._shed_told = self._shed_before = engine.all_shed()
        self._shed_ended = 0
        # Since the schedule was last told: what had been spent, the looks and their cost, the active time.
        self._seen = None
        self._looks = 0, 0
        self._active_ns = self._last_ns = 0
        self._hand_over = []
        self.wake = _pure_native.WakeUp()
        self.delivery = engine.delivery_thread()
        self.sampler = _pure_native.NativeThread("profilomatic-sampler", self._sample)

    def configure(self, options):
        self.schedule.configure(options["max_overhead"], options["time_granularity"],
                                options["max_actions_per_run"])

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
        """The sampler's life. It parks when nothing was attached for a whole period, so that a storm of tiny
        actions costs one wake-up a period and not one each, and an idle process none."""
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
        self.engine.looks += 1

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
            self._look_at(stack, attached, now_ns, leaf is not None)
            stack.clear()
        frames.clear()

    def _look_at(self, stack, attached, now_ns, deeper):
        owner = own = None
        cpu_now = _pure_native.cpu_ns_of(attached[0][1].tid)
        for live, spot in attached:
            part = spot.cut(stack)
            # The action whose anchor is nearest to the leaf owns the sample.
            if part is not None and (own is None or len(part) < len(own)):
                owner, own = live, part
        for live, spot in attached:
            if live is not owner:
                live.shared = live.shared or owner is not None
                self._missed(live, "too_deep" if deeper and owner is None else "no_anchor", now_ns)
                if cpu_now is not None:  # what has been used so far is not its own
                    live.last_cpu_ns, live.last_tid = cpu_now, spot.tid
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
        wall_ns, cpu_ns = max(now_ns - max(live.last_ns, spot.at_ns), 0), 0
        cpu_now = _pure_native.cpu_ns_of(spot.tid)
        if cpu_now is not None:
            known = live.last_tid == spot.tid and live.last_ns >= spot.at_ns
            cpu_ns = max(cpu_now - (live.last_cpu_ns if known else spot.cpu_ns), 0)
            live.last_cpu_ns, live.last_tid = cpu_now, spot.tid
        if not live.shared:
            # A body of many chunks is attached for each, most of them for less than the time between two samples: the
            # stretch that is met stands for those before it that were not.
            wall_ns += max(spot.before_ns - live.told_ns, 0)
            cpu_ns += max(spot.before_cpu_ns - live.told_cpu_ns, 0)
        live.told_ns = spot.before_ns + now_ns - spot.at_ns
        live.told_cpu_ns = spot.before_cpu_ns + (cpu_now - spot.cpu_ns if cpu_now is not None else 0)
        live.tree.add(stack_of(frames), wall_ns, cpu_ns, now_ns)
        live.last_ns = now_ns
        live.samples += 1
        live.wanted_ns += self.schedule.period_ns
        self.samples += 1
        self.engine.samples += 1
        self._seal_part_if_due(live, now_ns)

    def _seal_part_if_due(self, live, now_ns):
        """An action that goes on for long is sealed in parts, each cut just after a sample; see actions/registry.c."""
        every_ns = self.engine.options["partial_every"] * 1e9
        if not every_ns or now_ns - live.part_start_ns() < every_ns or live.kind not in ("wsgi", "asgi"):
            return
        profile = self._sealed(live, now_ns, "open", {"part": live.parts + 1}, 0)
        self._hand_over.append(profile)
        live.parts += 1
        live.parts_cpu_ns += profile.total_cpu_ns()
        live.part_ns = now_ns
        live.samples, live.wanted_ns, live.missed = 0, 0, {}
        live.tree = _pure_tree.Tree(self.engine.options["code_granularity"], now_ns)

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
                self._shed_ended += 1
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
        if live.dropped:
            live.tree.cut("events", live.dropped)
        profile = self._sealed(live, at_ns, outcome, fields, live.cost_ns)
        if live.parts:
            profile.fields["part"] = live.parts + 1
            profile.fields["whole"] = {"parts": live.parts + 1, "time": (profile.end_ns - live.begin_ns) / 1e9,
                                       "cpu_time": (profile.total_cpu_ns() + live.parts_cpu_ns) / 1e9}
        self._hand_over.append(profile)

    def _sealed(self, live, at_ns, outcome, fields, cost_ns):
        per_look = self.sampler_cpu_ns / max(self.samples, 1)
        cost_ns += per_look * live.samples
        profile = _pure_tree.Profile()
        profile.task_uuid = live.task_uuid
        profile.thread = live.thread
        profile.thread_name = live.thread_name
        profile.source = self.engine.options["source_name"]
        profile.pid = os.getpid()
        profile.start_ns = live.part_start_ns()
        profile.end_ns = max(at_ns, profile.start_ns)
        profile.start_wall_ns = live.begin_wall_ns + profile.start_ns - live.begin_ns
        # Where others took turns with it on its thread, the stretch's CPU time is not its own: what was sampled is.
        exact = outcome != "open" and not live.missed.get("no_anchor")
        profile.cpu_ns = max(live.cpu_ns - live.parts_cpu_ns, 0) if exact else 0
        profile.type = live.type
        profile.kind = live.kind
        profile.outcome = outcome
        profile.fields = {**live.fields, **(fields or {})}
        profile.tree = live.tree
        profile.period = (live.wanted_ns / live.samples if live.samples else self.schedule.period_ns) / 1e9
        profile.samples = live.samples
        profile.missed = live.missed
        profile.overhead_cpu = cost_ns / 1e9
        profile.overhead_fraction = cost_ns / max(profile.end_ns - profile.start_ns, cost_ns, 1)
        profile.shed = self._take_shed()
        return profile

    def _take_shed(self):
        """Those that no profile of this run has told of yet; see actions/registry.c."""
        shed = self.engine.all_shed()
        untold, self._shed_told = shed - self._shed_told, shed
        return untold

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
            self._end(live, now_ns, "lost", live.trace.fields(), 0)
        self.engine.lost += self.engine.all_shed() - self._shed_before - self._shed_ended

    def close(self, timeout):
        """Stops both threads. True when all was delivered."""
        deadline = time.monotonic() + timeout
        self.stopping = True
        self.wake.set()
        ended = self.sampler.join(deadline - time.monotonic())
        for event in list(self.events):
            if event[0] == "ticket":
                event[1].set()  # of a flush that came too late for the sampler: there is nothing to wait for
        return self.delivery.close(deadline) and ended


class Engine:
    """What outlives a run: options, destinations, counters."""

    def __init__(self):
        self.run = None
        self.last_run = None  # for stats() after a stop
        self.options = None
        self.destinations = _pure_delivery.Destinations()
        self._delivery = None  # the newest delivery thread
        self.faults = {}
        self.route_names = _values.RouteNames()
        self._lock = _pure_native.new_lock()
        self.refused = False  # see _pure.refuse()
        self._restart_in_child = False
        self._hooked = False
        self._pid = os.getpid()
        self._reset_counters()

    def _reset_counters(self):
        # All counted by the sampler thread, so that they always agree; the last one only where the queue was full.
        self.profiled = self.shed = self.finished = self.lost = self.samples = self.looks = 0
        self.overflow = 0
        self.missed = {}

    def all_shed(self):
        return self.shed + self.overflow

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
        self.notice_fork()
        if self._restart_in_child:
            self.start()
        return self.run

    def start(self):
        self.notice_fork()
        with self._lock:
            if self.run is not None or self.refused:
                return
            _exit.register(self._at_exit)
            if not self._hooked:
                self._hooked = True
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=self._after_fork_in_child)
            _pure_native.refresh()
            self.run = self.last_run = Run(self)
            self._restart_in_child = False  # only now: until then a second thread must come here and wait for the run

    def delivery_thread(self):
        """One that serves: the one that a stop could not end, else a new one."""
        if self._delivery is None or not self._delivery.take_on():
            self._delivery = _pure_delivery.DeliveryThread(self.destinations)
        return self._delivery

    def stop(self, timeout):
        self.notice_fork()
        if self._delivery is not None and self._delivery.is_current():
            return False  # a destination: its thread would wait for itself
        with self._lock:
            self._restart_in_child = False
            run, self.run = self.run, None
        return run.close(timeout) if run is not None else True

    def flush(self, timeout):
        self.notice_fork()
        run = self.run
        if run is None:
            return not any(entry.queue or entry.busy for entry in self.destinations.entries)
        if run.delivery.is_current():
            return False
        passed = _pure_native.WakeUp()
        run.events.append(("ticket", passed))
        run.wake.set()
        if self.run is not run:
            passed.set()  # a stop may have looked for tickets already
        return passed.wait(timeout)

    def _at_exit(self):
        self.stop(2.0)

    def notice_fork(self):
        """For a fork that the interpreter was not told of, as uWSGI's is: there the hook below is never called."""
        if self._pid != os.getpid():
            self._after_fork_in_child()

    def _after_fork_in_child(self):
        """The threads are gone; what they were about to do is the parent's to finish."""
        self._pid = os.getpid()
        self._lock = _pure_native.new_lock()
        self._restart_in_child = self.run is not None or self._restart_in_child
        self.run = self.last_run = self._delivery = None
        self._reset_counters()
        self.destinations.thread = None
        self.destinations.leaving.clear()
        for entry in self.destinations.entries:
            entry.forget()
            entry.sent = entry.bytes = 0
            entry.dropped = {}
            entry.last_error = None


engine = Engine()
