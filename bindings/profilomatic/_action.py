"""The class behind `profilomatic.action()`: a backend's Action that can also decorate.

It inherits `__enter__` and `__exit__` unchanged, so that no Python frame of ours stands between the `with` statement
and the backend: the frame with the block is the anchor. A decorated call does have such a frame, the wrapper below: it
anchors the action, and as code of this package it is no part of any stack.
"""

from . import _callables

# Bits of co_flags, as `inspect` names them; importing inspect costs several milliseconds.
_GENERATOR, _COROUTINE, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200


def action_class(backend):
    """A subclass of the backend's Action that decorates when it is called."""

    class action(backend.Action):  # noqa: N801 - its repr shows the public name
        __slots__ = ()
        __module__ = "profilomatic"
        __qualname__ = "action"
        __doc__ = backend.Action.__doc__

        def __call__(self, function):
            return _decorated(backend.Action, (self.type, self.fields, self.parent), function)

    return action


def _decorated(begin, given, function):
    if not callable(function):
        raise TypeError("profilomatic.action(...) decorates a function, not %r" % (function,))
    import functools

    # Where a type says nothing the object may: a function that Cython made has a code object.
    flags = _callables.code_flags(function) or getattr(getattr(function, "__code__", None), "co_flags", 0)
    if flags & _ASYNC_GENERATOR:
        raise TypeError("profilomatic.action(...) cannot decorate the asynchronous generator %r: "
                        "use 'with profilomatic.action(...)' inside it" % (function,))
    if flags & (_COROUTINE | _ITERABLE_COROUTINE):
        async def wrapper(*args, **kwargs):
            with begin(*given):
                return await function(*args, **kwargs)
    elif flags & _GENERATOR:
        def wrapper(*args, **kwargs):
            with begin(*given):
                return (yield from function(*args, **kwargs))
    else:
        def wrapper(*args, **kwargs):
            with begin(*given):
                return function(*args, **kwargs)
    return functools.wraps(function)(wrapper)
