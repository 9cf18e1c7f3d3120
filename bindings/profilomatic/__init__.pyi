# The public API as a type checker sees it; what each thing does stands in __init__.py.
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Literal, TypedDict, TypeVar, Unpack, type_check_only

from . import asgi as asgi
from . import auto as auto
from . import check as check
from . import django as django
from . import eliot as eliot
from . import falcon as falcon
from . import flask as flask
from . import monitor as monitor
from . import pyramid as pyramid
from . import wsgi as wsgi

__all__ = [
    "RestDestination", "action", "add_destination", "asgi", "configure", "current_task_uuid", "directory_destination",
    "file_destination", "flush", "no_flush_destination", "propagation_headers", "remove_destination", "start", "stats", "stop", "wsgi",
]
__version__: str

_Kind = type[BaseException]
_Path = str | os.PathLike[str]
_Function = TypeVar("_Function", bound=Callable[..., Any])

@type_check_only
class _Options(TypedDict, total=False):
    max_overhead: float | str
    time_granularity: float | Literal["auto"]
    code_granularity: Literal["file", "method", "line"]
    store_all_logs: bool
    max_actions_per_run: int
    simultaneous_tasks_profiled: int
    partial_every: float
    source_name: str | None
    retention: Literal["all"] | None
    scrub: bool | Iterable[str]

@type_check_only
class _Destination: ...  # one of ours, for add_destination()

@type_check_only
class _Action:
    @property
    def type(self) -> str: ...
    @property
    def task_uuid(self) -> str | None: ...
    def message(self, **fields: Any) -> None: ...
    def __enter__(self) -> _Action: ...
    def __exit__(
        self, kind: _Kind | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def __call__(self, function: _Function, /) -> _Function: ...

def configure(**options: Unpack[_Options]) -> None: ...
def add_destination(destination: _Destination | Callable[[dict[str, Any]], object]) -> None: ...
def remove_destination(destination: _Destination | Callable[[dict[str, Any]], object]) -> None: ...
def file_destination(
    path_or_file: _Path | IO[str] | IO[bytes],
    format: Literal["json", "msgpack"] = "json",
    flush: bool = True,
    append: bool = False,
    rotate_bytes: int | None = None,
    rotate_seconds: float | None = None,
    keep: int = 5,
) -> _Destination: ...
def no_flush_destination(
    path_or_file: _Path | IO[str] | IO[bytes],
    format: Literal["json", "msgpack"] = "json",
    append: bool = False,
    rotate_bytes: int | None = None,
    rotate_seconds: float | None = None,
    keep: int = 5,
) -> _Destination: ...
def directory_destination(
    directory: _Path,
    format: Literal["speedscope", "callgrind", "pstats", "pprof", "collapsed", "chrome", "json"] = "speedscope",
    clock: Literal["wall", "cpu"] = "wall",
) -> _Destination: ...
def RestDestination(
    host: str,
    port: int | None = None,
    timeout: float = 5,
    ssl_context: ssl.SSLContext | None = None,
    path: str = "/api/data",
    format: Literal["json", "msgpack"] = "json",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    token: str | None = None,
    compress: bool = True,
    spool_dir: _Path | None = None,
    tls: bool = False,
    ca_file: _Path | None = None,
    cert: _Path | None = None,
    key: _Path | None = None,
    report_every: float | None = 60,
    send_every: float = 5,
) -> _Destination: ...
def action(action_type: str, /, *, parent: str | _Action | None = None, **fields: Any) -> _Action: ...
def current_task_uuid() -> str | None: ...
def propagation_headers() -> dict[str, str]: ...
def stats() -> dict[str, Any]: ...
def start() -> None: ...
def stop(timeout: float = 2.0) -> bool: ...
def flush(timeout: float = 2.0) -> bool: ...
