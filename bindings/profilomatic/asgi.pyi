from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["wrap"]

_App = TypeVar("_App", bound=Callable[..., Any])

def wrap(app: _App) -> _App: ...  # a stand-in, which hands the application's attributes on
