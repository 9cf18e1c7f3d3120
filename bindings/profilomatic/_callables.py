"""What kind of application a callable is, so that the wrong wrapper is refused where it is put, with the right one named.

Only what is certain is told: an object that hides its signature is taken for what its caller says it is.
"""

_COROUTINE = 0x80  # of co_flags; importing inspect costs several milliseconds, and a WSGI application has no use for it


class _Example:
    def method(self):
        pass


_FUNCTION, _METHOD = type(_Example.method), type(_Example().method)


def is_coroutine_function(app):
    """Whether calling it gives a coroutine: so it is with every ASGI application of today, and with none of WSGI.

    An object is asked nothing, only its type: attributes of a proxy may raise."""
    function = app if type(app) in (_FUNCTION, _METHOD) else getattr(type(app), "__call__", None)
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
