"""What stands where an application stood: attributes are the application's, and it is bound as the application would be.

Frameworks and users read, set and delete attributes of `app` after it was wrapped (`app.config`, `app.secret_key = ...`,
`app.wsgi_app = ...`). All of it reaches the application, as if it were bare; bindings/ext/wsgi.c does the same in C.
"""

import importlib
import sys
import types


class StandIn:
    __slots__ = ("__wrapped__", "__weakref__")

    def __get__(self, instance, owner=None):
        """As a class attribute it is what the application would be: a function becomes a method, an object stays as it is."""
        app = self.__wrapped__
        bind = getattr(type(app), "__get__", None)
        bound = bind(app, instance, owner) if bind is not None else app
        if bound is app:
            return self
        return type(self)(bound) if callable(bound) and not issubclass(type(bound), StandIn) else bound

    def __reduce__(self):
        return reduced(self, self._kind)

    def _bound_to(self, first):
        """For a call with one argument too many: a classmethod of Python 3.13 and later asks nobody how to bind."""
        return type(self)(types.MethodType(self.__wrapped__, first))

    @property
    def __signature__(self):
        """The application's: inspect takes what can be bound for a descriptor in C."""
        import inspect

        try:
            return inspect.signature(self.__wrapped__)
        except (TypeError, ValueError):
            raise AttributeError("__signature__") from None

    def __getattr__(self, name):
        if name == "__wrapped__":  # not set yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name, value):
        if _has_itself(self, name):
            object.__setattr__(self, name, value)
        else:
            setattr(self.__wrapped__, name, value)

    def __delattr__(self, name):
        if _has_itself(self, name):
            object.__delattr__(self, name)
        else:
            delattr(self.__wrapped__, name)


def _has_itself(stand_in, name):
    """Without what a class has from its metaclass: `__name__` is the application's."""
    return any(name in vars(each) for each in type(stand_in).__mro__)


def reduced(wrapper, kind):
    """For pickle and copy, of a wrapper of profilomatic.<kind>.wrap(): what was decorated goes by the function's name, which leads
    to the wrapper, so that the bare function would be refused; all else is wrapped again."""
    app = wrapper.__wrapped__
    module, name = getattr(app, "__module__", None), getattr(app, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and module in sys.modules:
        try:
            if _named(module, name) is wrapper:
                return _named, (module, name)
        except AttributeError:
            pass
    return importlib.import_module("profilomatic." + kind).wrap, (app,)


def _named(module, name):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
