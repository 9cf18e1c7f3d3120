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


def register(function):
    """Calls function when this process ends. To be called once more in a forked child."""
    global _child
    if function not in _registered:
        _registered.add(function)
        atexit.register(function)
    util = sys.modules.get("multiprocessing.util")
    if util is None or _child == os.getpid() or sys.modules["multiprocessing.process"].parent_process() is None:
        return
    _child = os.getpid()
    util.Finalize(None, function, exitpriority=_AFTER_THE_USERS_OWN)
