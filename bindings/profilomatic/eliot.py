"""Eliot's actions and messages in call graphs.

    import profilomatic.eliot
    profilomatic.eliot.patch()

An Eliot action becomes an action of ours: with a call graph of its own, or, inside another action of the same thread,
greenlet or asyncio task (a WSGI request, say), part of that one's graph. Its start and end stand in the graph as
messages, with the stack of the logging call; with `store_all_logs` every message that was logged inside it does. Task
ids that go to other processes, and the tasks that continue here, are noted in the graph too, so that the graphs of
both processes are found under one id.

How: patch() adds one destination to Eliot. It knows an action by the task id and level that each of its messages
carries. Two methods of eliot.Action that leave no message, the one that tells us which object an action is (one that is
collected before it ended is "lost"), and the one of eliot.Logger that sends messages are wrapped until unpatch().

Nothing here raises into a logging call: what fails is counted, see stats(). What a signal handler of the program's raises meanwhile
is not ours, and Eliot takes whatever leaves a destination for the destination's failure: it is raised when the message is sent.
"""

import os
import threading
import weakref

try:
    import eliot
except ImportError as error:
    raise ImportError("profilomatic.eliot needs the library eliot: pip install eliot", name="eliot") from error

from . import _backend, _interrupts, _options

__all__ = ["patch", "stats", "unpatch"]

OPEN_MAX = 10000  # actions open at once; further ones are dropped. 10 000 take some 60 MiB in the engine.
EARLY_MAX = 1000  # what Eliot itself keeps for the first destination

# What Eliot says of each action by itself; the rest are the user's fields.
_BOOKKEEPING = ("task_uuid", "task_level", "timestamp", "action_type", "action_status")


_listener = None  # the destination while patched
_lock = threading.Lock()  # of patch() and unpatch(); no logging call takes it
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)


def patch():
    """Starts to take in what Eliot logs. Idempotent; in any order with destinations, configure() and running actions:
    an action that began before is not seen, its children are."""
    global _listener
    with _lock:
        if _listener is None:
            listener = _Listener(_backend.load())
            listener.install()
            _listener = listener


def unpatch():
    """Restores everything that patch() changed. Actions that are open end as "lost". Nothing happens without patch()."""
    global _listener
    with _lock:
        listener, _listener = _listener, None
        if listener is not None:
            listener.remove()


def stats():
    """{"open": actions of Eliot that are open, "dropped": ones not recorded since too many were open, "faults": messages
    that we failed at}; None while not patched."""
    listener = _listener
    if listener is None:
        return None
    return {"open": len(listener.open), "dropped": listener.dropped, "faults": listener.faults}


class _Tie(weakref.ref):
    """To the object that is the action for Eliot: when it is gone, nobody can end the action any more."""

    __slots__ = ("key",)


class _Listener:
    """The destination, and all that patch() changes."""

    def __init__(self, backend):
        self._backend = backend
        self._make = _action_class(backend.Action)
        self.open = {}  # (task id, task level): action
        self.dropped = 0
        self.faults = 0
        self._all_logs = False
        self._early = None  # messages for destinations to come, see _keep_for_others()
        self._wrapped = []  # (class of Eliot's, name, what it had, what it has)
        self._passing = {}  # thread: what a signal handler raised amid a message

    # life

    def install(self):
        self.read_options()
        _backend.watchers.append(self.read_options)
        folder = os.path.dirname(eliot.start_action.__code__.co_filename)
        self._backend.strip_leaf(folder + os.sep)
        self._wrap_methods()
        if not getattr(eliot.Logger._destinations, "_any_added", True):
            self._early = []
        eliot.add_destinations(self)

    def remove(self):
        try:
            eliot.remove_destination(self)
        except ValueError:
            pass  # somebody else did
        self._give_back_early()
        for holder, name, before, ours in self._wrapped:
            if holder.__dict__.get(name) is ours:  # else somebody wrapped it after us: it hands on
                setattr(holder, name, before)
        if self.read_options in _backend.watchers:
            _backend.watchers.remove(self.read_options)
        while self.open:
            try:
                _, action = self.open.popitem()
            except KeyError:
                break  # another thread ended the last one
            action.tie = None
            action.close("lost")

    def read_options(self):
        self._all_logs = _options.effective()["store_all_logs"]

    def fault(self, error):
        """Counts a failure of ours. False for what is the program's, raised amid our code: to be raised again."""
        if _interrupts.is_programs(error):
            return False
        self.faults += 1
        if self.faults == 1:
            try:
                import logging

                logging.getLogger("profilomatic").error(
                    "profiling failed at a message of Eliot: %r (the application is not affected)", error)
            except Exception:
                pass
        return True

    # messages

    def __call__(self, message):
        try:
            if self._early is not None and self._keep_for_others(message):
                return
            status = message.get("action_status")
            if status is None:
                if self._all_logs:
                    action = self.open.get(_key(message))
                    if action is not None:
                        action.post(_ordered(message))
            elif status == "started":
                self._started(message)
            else:
                self._ended(message, status)
        except Exception as error:
            self._early = None
            if not self.fault(error):
                self._passing[threading.get_ident()] = error  # raised here, it would be a destination's failure to Eliot

    def pass_on(self):
        """After a message: what a signal handler raised in it is for the program."""
        error = self._passing.pop(threading.get_ident(), None) if self._passing else None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame

    def _started(self, message):
        if len(self.open) >= OPEN_MAX:
            self.dropped += 1
            return
        key = _key(message)
        before = self.open.pop(key, None)
        if before is not None:  # one id continued twice
            before.tie = None
            before.close("lost")
        fields = {name: value for name, value in message.items() if name not in _BOOKKEEPING}
        action_type = message.get("action_type", "")
        action = self._make(action_type if isinstance(action_type, str) else repr(action_type), fields)
        recorded = action.open(message["task_uuid"])
        fields.clear()  # they are copied; the action is no reason to keep the user's objects
        if not recorded:
            return
        action.tie = None
        self.open[key] = action
        action.post(_ordered(message))

    def _ended(self, message, status):
        action = self.open.pop(_key(message), None)
        if action is None:
            return  # began before patch(), was dropped, or has ended already
        action.tie = None
        action.post(_ordered(message))
        if status == "succeeded":
            action.close("succeeded")
        elif message.get("exception") == "builtins.GeneratorExit":
            action.close("aborted")
        else:
            action.close("failed", _handled(message))

    # what leaves no message

    def _wrap_methods(self):
        listener = self

        def wrap(names, make, holder=eliot.Action):
            own = holder.__dict__
            before = own.get(names[0])
            if before is not None:
                ours = make(before)
                for name in names:
                    if own.get(name) is before or name == names[0]:
                        self._wrapped.append((holder, name, own[name], ours))
                        setattr(holder, name, ours)

        def serialize(before):
            def serialize_task_id(self):
                task_id = before(self)
                listener.handed_out(task_id)
                return task_id
            return _like(before, serialize_task_id)

        def start(before):
            def _start(self, fields):
                try:
                    before(self, fields)
                    listener.began(self)
                except BaseException:  # of a signal handler; else nobody would learn that the action is gone
                    listener.began(self)
                    raise
            return _like(before, _start)

        def resume(before):
            def continue_task(cls, *args, **kwargs):
                action = before.__func__(cls, *args, **kwargs)
                listener.continued(action)
                return action
            return classmethod(_like(before.__func__, continue_task))

        def send(before):
            def write(self, *args, **kwargs):
                before(self, *args, **kwargs)
                listener.pass_on()
            return _like(before, write)

        wrap(("serialize_task_id", "serializeTaskId"), serialize)
        wrap(("_start",), start)
        wrap(("continue_task", "continueTask"), resume)
        wrap(("write",), send, eliot.Logger)

    def handed_out(self, task_id):
        """A remote process is about to get this id, of one place in an action."""
        try:
            task_uuid, _, level = task_id.decode("ascii").partition("@")
            level = [int(part) for part in level.split("/") if part]
            action = self.open.get((task_uuid, tuple(level[:-1])))
            if action is not None:
                action.post({"message_type": "profilomatic:linked_remote_task", "task_uuid": task_uuid,
                             "task_level": level})
        except Exception as error:
            if not self.fault(error):
                raise

    def continued(self, eliot_action):
        """An action continues the task of another process, or thread."""
        try:
            level = eliot_action._task_level.as_list()
            action = self.open.get((eliot_action.task_uuid, tuple(level)))
            if action is not None:
                action.post({"message_type": "profilomatic:continued_remote_task",
                             "task_uuid": eliot_action.task_uuid, "task_level": level})
        except Exception as error:
            if not self.fault(error):
                raise

    def began(self, eliot_action):
        """The start message of this action has just passed."""
        try:
            key = (eliot_action.task_uuid, tuple(eliot_action._task_level.as_list()))
            action = self.open.get(key)
            if action is not None:
                action.tie = _Tie(eliot_action, self._gone)
                action.tie.key = key
        except Exception as error:
            if not self.fault(error):
                raise

    def _gone(self, tie):
        try:
            action = self.open.get(tie.key)
            if action is not None and action.tie is tie:
                del self.open[tie.key]
                action.tie = None
                action.close("lost")
        except Exception as error:
            if not self.fault(error):
                raise

    # being the first destination

    def _keep_for_others(self, message):
        """Eliot keeps what is logged before the first destination, and gives it to that one. Where that is ours, which
        has no use for it, the next one gets it, with what came meanwhile. True for messages from before patch()."""
        others = [other for other in eliot.Logger._destinations._destinations if other is not self]
        early = self._early
        if others:
            self._early = None
            for kept in early or ():
                for other in others:
                    try:
                        other(kept)
                    except Exception:
                        pass  # what it does with the next message is what its user sees
        elif early is not None:
            early.append(message)
            if len(early) > EARLY_MAX:
                del early[0]
        return not self._installed()

    def _installed(self):
        return _listener is self

    def _give_back_early(self):
        early, self._early = self._early, None
        destinations = eliot.Logger._destinations
        if early is not None and not destinations._destinations:
            # As if no destination had ever been added.
            fresh = type(destinations)()
            fresh._destinations[0].messages.extend(early)
            destinations._destinations = fresh._destinations
            destinations._any_added = False


def _action_class(base):
    class _EliotAction(base):
        __slots__ = ("tie",)

    return _EliotAction


def _ordered(message):
    """What Eliot says by itself comes first: room is bounded, and what is huge in the rest must not push it out."""
    ordered = {name: message[name] for name in _BOOKKEEPING if name in message}
    ordered.update(message)
    return ordered


def _key(message):
    level = message["task_level"]
    return message["task_uuid"], tuple(level[:-1])


def _handled(message):
    """The exception that is being handled, if it is the one that the message tells of; its text is there all the same."""
    import sys

    error = sys.exc_info()[1]
    kind = type(error)
    if error is not None and message.get("exception") == "%s.%s" % (kind.__module__, kind.__name__):
        return error
    return None


def _like(function, wrapper):
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(wrapper, name, getattr(function, name, None))
    wrapper.__wrapped__ = function
    return wrapper
