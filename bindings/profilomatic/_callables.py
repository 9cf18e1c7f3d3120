"""What kind of application a callable is, so that the wrong wrapper is refused where it is put, with the right one named.

Only what is certain is told: an object that hides its signature is taken for what its caller says it is.
"""

import sys

_COROUTINE = 0x80  # of co_flags; importing inspect costs several milliseconds, and a WSGI application has no use for it


class _Example:
    def method(self):
        pass


_FUNCTION, _METHOD = type(_Example.method), type(_Example().method)


def code_flags(app):
    """co_flags of the function that runs when it is called; 0 where that is none of Python's.

    An object is asked nothing, only its type: attributes of a proxy may raise. A functools.partial is what it calls."""
    functools = sys.modules.get("functools")  # who has a partial has imported it
    while functools is not None and issubclass(type(app), functools.partial):
        app = app.func
    function = app if type(app) in (_FUNCTION, _METHOD) else getattr(type(app), "__call__", None)
    return getattr(getattr(function, "__code__", None), "co_flags", 0)


def is_coroutine_function(app):
    """Whether calling it gives a coroutine: so it is with every ASGI application of today, and with none of WSGI."""
    return bool(code_flags(app) & _COROUTINE)


def takes_all_three(app):
    """Whether it is an application of ASGI 3. One of ASGI 2 is called with the scope, and what it returns with the rest."""
    return is_coroutine_function(app) or takes(app, 3) is not False


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
