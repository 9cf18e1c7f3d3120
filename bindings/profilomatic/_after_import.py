"""Calls a function when a module has been imported; at once, when it has been already.

The one import hook of the package, installed only for who asks for profiling without code (auto.py). The finder looks a module
up as the others do and lets its loader tell when it is done; for every other name it costs one look into a dict.
"""

import sys


class _Finder:
    def __init__(self):
        self.waiting = {}  # name of a module: the function

    def find_spec(self, name, path=None, target=None):
        if name not in self.waiting:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self and hasattr(finder, "find_spec") else None
            if spec is not None:
                self._listen(name, spec.loader)
                return spec
        return None

    def _listen(self, name, loader):
        plain = getattr(loader, "exec_module", None)
        if plain is None:
            return  # of the old protocol

        def exec_module(module):
            if module.__name__ != name:  # a loader may serve many modules, as an archive's does
                return plain(module)
            try:
                plain(module)
            finally:
                loader.__dict__.pop("exec_module", None)
            function = self.waiting.pop(name, None)
            if function is not None:
                function(module)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            pass  # a loader that takes no attributes: this module stays as it is


_finder = _Finder()


def call(name, function):
    """function(module) after the import of `name`. It must not raise: it would spoil the import."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        function(module)
        return
    _finder.waiting[name] = function
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
