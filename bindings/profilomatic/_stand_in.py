"""What stands where an application stood: attributes are the application's.

Frameworks and users read, set and delete attributes of `app` after it was wrapped (`app.config`, `app.secret_key = ...`,
`app.wsgi_app = ...`). All of it reaches the application, as if it were bare; bindings/ext/wsgi.c does the same in C.
"""


class StandIn:
    __slots__ = ("__wrapped__", "__weakref__")

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
