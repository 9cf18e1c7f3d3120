"""Whose an exception is that comes out of code of ours.

A signal handler of the program's runs wherever the main thread is, in code of this package too, and what it raises (a timeout,
mostly) is for the program. Our own failures never reach it, so each guard has to tell them apart.
"""

import os

_OWN = os.path.dirname((lambda: 0).__code__.co_filename) + os.sep


def is_programs(error):
    """Whether an exception that comes out of code of ours is to be raised again: a KeyboardInterrupt and its like, and what a signal
    handler or a tracer raised.

    These two alone are given the very frame that they interrupt. Where else code of others raises below ours (an object's method),
    the failure is ours: the program never asked for that call."""
    if not isinstance(error, Exception):
        return True
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        frame = step.tb_next.tb_frame
        if not frame.f_code.co_filename.startswith(_OWN) and _was_given(frame, step.tb_frame):
            return True
        step = step.tb_next
    return False


def _was_given(frame, interrupted):
    for value in frame.f_locals.values():
        if value is interrupted or type(value) is tuple and any(each is interrupted for each in value):
            return True
    return False
