"""What kind of application a callable is, so that the wrong wrapper is refused where it is put, with the right one named.

Only what is certain is told: an object that hides its signature is taken for what its caller says it is.
"""

_COROUTINE = 0x80  # of co_flags; importing inspect costs several milliseconds, and a WSGI application has no use for it


def is_coroutine_function(app):
    """Whether calling it gives a coroutine: so it is with every ASGI application of today, and with none of WSGI."""
    return _gives_coroutine(app) or _gives_coroutine(getattr(type(app), "__call__", None))


def _gives_coroutine(function):
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & _COROUTINE)


def takes(app, count):
    """Whether it can be called with so many positional arguments; None where that cannot be told."""
    import inspect

    try:
        inspect.signature(app).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a callable in C that does not say
        return None
    return True
