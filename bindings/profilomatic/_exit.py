"""Being called when this process ends, whichever way it leaves.

A child of multiprocessing ends by os._exit(), where atexit is silent and only multiprocessing's own finalizers run;
granian's workers are such children.
"""

import atexit
import os
import sys

_AFTER_THE_USERS_OWN = -100  # finalizers run from the highest priority to the lowest

_registered = set()
_child = None  # the process whose finalizer is set: a fork takes the list along, and multiprocessing empties it
_started = None  # the process in which register() was called last
_waits = False  # for the moment at which a process turns out to be a child; a fork takes that along too


def register(function):
    """Calls function when this process ends. To be called once more in a forked child."""
    global _started, _waits
    _started = os.getpid()
    if function not in _registered:
        _registered.add(function)
        atexit.register(function)
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return
    if sys.modules["multiprocessing.process"].parent_process() is not None:
        _finalize(util, function)
    elif not _waits:
        # Perhaps a child that does not know it yet: one of the fork server's imports the program's main module first, and
        # then empties the list of finalizers.
        _waits = True
        util.register_after_fork(_begin_child, _begin_child)


def _begin_child(_):
    """Called by multiprocessing as a child begins, also one that was forked from the process which began to wait."""
    if _started == os.getpid():
        for function in _registered:
            _finalize(sys.modules["multiprocessing.util"], function)


def _finalize(util, function):
    global _child
    if _child != os.getpid():
        _child = os.getpid()
        util.Finalize(None, function, exitpriority=_AFTER_THE_USERS_OWN)
