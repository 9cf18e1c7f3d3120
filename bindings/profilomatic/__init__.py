"""Profil-o-matic: which request is slow, and which line of code, right now, under load.

    import profilomatic
    profilomatic.add_destination(profilomatic.file_destination("profiles.jsonl"))
    app = profilomatic.wsgi.wrap(app)

Importing starts nothing: no thread, no file, no hook. The first `add_destination()` starts the engine.
"""

from . import _backend, _options, _propagation, asgi, wsgi

__all__ = [
    "RestDestination", "action", "add_destination", "asgi", "configure", "current_task_uuid", "directory_destination",
    "file_destination", "flush", "no_flush_destination", "propagation_headers", "remove_destination", "start", "stats", "stop", "wsgi",
]


def configure(**options):
    """Sets options; those not named keep their value. Any time, from any thread; what is running keeps the
    granularity it began with.

    max_overhead         share of the process's CPU time that profiling may cost: above 0 and up to 0.5, or
                         "2%"; default 0.02
    time_granularity     finest time between two samples in seconds: 0.0005 to 10, default 0.01; "auto": as
                         fine as max_overhead affords
    code_granularity     what one node of a call graph is: "file", "method" or "line" (default)
    store_all_logs       False: of Eliot's messages only starts and ends of actions enter the call graph
    max_actions_per_run  new actions profiled per cycle of 200 ms while over max_overhead; default 10,
                         0 = unlimited (its other name is simultaneous_tasks_profiled)
    partial_every        seconds after which what is known of a request that goes on is a record of its own, marked as a
                         part: 0.05 to 86400, default 60, 0 = never
    source_name          label in every profile; default: the host name
    retention            None: every profile is kept
    scrub                True: values of secret-looking keys in query strings, fields and messages are masked; a
                         list adds words (" pin ", with blanks: as a whole word); False: nothing is masked

    Each can also be given as the environment variable PROFILOMATIC_<NAME>; what configure() says wins.

    An unknown name is warned about and ignored. A value outside its range is a ValueError that names the
    option and the range, and then nothing of the call is applied.
    """
    _options.configure(options, stacklevel=2)
    _backend.apply_options()


def add_destination(destination):
    """Registers where finished profiles go, and starts the engine if it does not run.

    destination: what file_destination() and its like return, or any callable that takes one dict per finished
    action. Callables run on the thread named "Profilomatic Thread", one at a time, and get a dict of their own;
    one that raises is counted in stats() and logged once, and the others are still served. Adding one twice
    is adding it once; two that write to one file put each profile into it twice, and a UserWarning says so. TypeError for
    anything else. When the interpreter is ending already and the engine does not run, it may be too late to start it:
    then nothing is recorded, and a RuntimeWarning says so.
    """
    if isinstance(destination, str) or any(destination is maker for maker in _MAKERS):
        raise TypeError("%r is no destination, what profilomatic.file_destination(...) and its like return is" % (destination,))
    _start_in_time(_backend.load().add_destination, destination)
    from ._files import written_twice

    path = written_twice([each["name"] for each in _backend.load().stats()["destinations"]])
    if path is not None:
        import warnings

        warnings.warn("two destinations write to %r: each profile stands there twice (does PROFILOMATIC_DESTINATION or "
                      "`profilomatic run -o` name it, too?)" % (path,), UserWarning, 2)


def remove_destination(destination):
    """Unregisters a destination; no error if it is not registered. What it has not been given yet is dropped."""
    _backend.load().remove_destination(destination)


def file_destination(path_or_file, format="json", flush=True, append=False, rotate_bytes=None, rotate_seconds=None,
                     keep=5):
    """A destination that writes profiles to a file: one JSON record a line, or batches of the wire form.

    path_or_file: a path (text or os.PathLike), opened now and overwritten unless append=True; OSError names the
    path, ValueError an empty one. Or an open file object, text or binary, which stays the caller's to close; `append` says nothing about it.
    flush: hand every record to the operating system at once; else when a buffer is full, at flush(), at stop() and
    when it is removed.
    format: "json", or "msgpack" (docs/wire-format.md; a path only, and only with the extension); ValueError for another.
    rotate_bytes, rotate_seconds: before a write that would make the file larger, or finds it older, it is renamed to
    PATH.1, what was PATH.1 to PATH.2, and so on; `keep` of them stay. A path of a regular file only, which any number of
    processes may share (with append=True, or forked from the one that opened it). ValueError for less than 1.
    Errors while writing are counted in stats(), and profiling goes on.
    """
    import errno
    import os

    from ._files import rotation

    if isinstance(path_or_file, (str, os.PathLike)):
        path, backend = os.fsdecode(path_or_file), _backend.load()
        if not path:
            raise ValueError("path_or_file=%r: must name a file" % (path_or_file,))
        if format == "json" or (format == "msgpack" and backend.NAME == "c"):
            rotated = rotation(rotate_bytes, rotate_seconds, keep)
            try:
                return backend.FileDestination(path, bool(flush), bool(append), format, *rotated)
            except OSError as error:
                if any(rotated[:2]) and error.errno == errno.EINVAL:
                    raise OSError(error.errno, "only a regular file can be rotated", path) from None
                raise
    if format != "json":
        raise ValueError("format=%r: must be 'json', or 'msgpack' for a path with the C extension" % (format,))
    if callable(getattr(path_or_file, "write", None)):
        from ._files import FileObjectDestination

        if rotate_bytes is not None or rotate_seconds is not None:
            raise ValueError("only a path can be rotated, not a file object")
        return FileObjectDestination(path_or_file, bool(flush))
    raise TypeError("file_destination() takes a path or a file object, not %r" % (path_or_file,))


def no_flush_destination(path_or_file, format="json", append=False, rotate_bytes=None, rotate_seconds=None, keep=5):
    """As file_destination(), with flush=False."""
    return file_destination(path_or_file, format, False, append, rotate_bytes, rotate_seconds, keep)


def directory_destination(directory, format="speedscope", clock="wall"):
    """A destination that writes one file for each action, in the format of another tool.

    directory: made if it is not there; OSError names what is wrong with it. Files are named by the action's start, its
    route, its error's or task's id and its thread, and none is ever replaced.
    format: what `profilomatic convert` knows ("speedscope", "callgrind", "pstats", "pprof", "collapsed", "chrome"), or
    "json". clock: "wall" or "cpu", the time that is shown, or shown first. Written by the delivery thread, in Python.
    """
    from ._directory import DirectoryDestination

    return DirectoryDestination(directory, format, clock)


def RestDestination(host, port=None, timeout=5, ssl_context=None, path="/api/data", format="json", headers=None,
                    token=None, compress=True, spool_dir=None, tls=False, ca_file=None, cert=None, key=None, report_every=60,
                    send_every=5):
    """A destination that posts call graphs to a server over HTTP/1.1.

    port: 443 with TLS, else 80. TLS is used when one of ssl_context, tls=True, ca_file, cert is given.
    timeout: seconds for each of connecting, the TLS handshake and the answer.
    format: "json", one call graph a line; "msgpack", batches in the form of docs/wire-format.md.
    headers: a dict or pairs; token: sent as "Authorization: Bearer"; compress: gzip.
    spool_dir: a folder where call graphs wait while the server is away, across restarts; at most 256 MiB for each
    process, at most a day. Without it they wait in memory.
    ca_file: PEM of the authorities to trust instead of the system's; cert, key: PEM files of a client certificate,
    the key without a passphrase (None: it is in cert).
    ssl_context: used as it is, client certificate and all, and never changed; change it no more either. Where Python's
    OpenSSL is not ours, or with ca_file or cert, what can be read out of it is taken over instead (docs/destinations.md).
    ValueError for one with callbacks or a keylog_filename.

    report_every: seconds between client reports at least: what was lost or sent again is told to the server, as a record
    of kind "report" (docs/destinations.md); None: never.

    send_every: seconds between two batches, unless a megabyte comes together before; 0: a batch a second. Longer is less
    to send, as call graphs of one batch share much.

    Nothing is connected by this call. A server that cannot be reached costs no request anything: the call graphs wait
    in the queue of 16 MiB, what does not fit is counted in stats(). ValueError, TypeError and OSError tell what is
    wrong with the options or files.
    """
    from . import _rest

    return _rest.destination(host, port, timeout, ssl_context, path, format, headers, token, compress, spool_dir, tls,
                             ca_file, cert, key, report_every, send_every)


_MAKERS = (file_destination, no_flush_destination, directory_destination, RestDestination)


def action(action_type, /, *, parent=None, **fields):
    """One bounded piece of work to profile: a context manager, and a decorator.

        with profilomatic.action("rebuild-index", shard=3) as a:
            a.message(step=1)

        @profilomatic.action("rebuild-index")
        def rebuild(): ...

    Inside another action it becomes part of that action's call graph, as a pair of messages; otherwise it gets
    a call graph of its own. `a.message(**fields)` puts a message with the stack of the call into the call graph;
    `a.task_uuid` is its task id while it is profiled, else None. A decorated function, coroutine function or
    generator function is a new action at each call. Exceptions pass through and make the outcome "failed".

    The fields are copied when the action begins: numbers, text, None, lists and dicts as they are, anything else
    as text. An action may be entered again when it has ended; entered while it is open it is a RuntimeError.
    While the engine is stopped it does nothing.

    parent: whose task this work belongs to where the context does not tell, as on another thread or in another asyncio
    task: a task id as text, or an action that is asked for its own when this one begins, and has none when it is over.
    Then both call graphs are found under one id.

    TypeError when action_type is not text, or parent neither an action nor text.
    """
    if _backend.action_class is None:
        _backend.load()
    if parent is not None and not isinstance(parent, str) and not hasattr(type(parent), "task_uuid"):
        raise TypeError("parent is an action or a task id, not %r" % (parent,))
    return _backend.action_class(action_type, fields, parent)


def current_task_uuid():
    """The task id of the innermost action of this thread, greenlet or asyncio task; None outside any."""
    return _backend.load().current_task_uuid()


def propagation_headers():
    """HTTP headers that carry the current task to another process: {"X-Task-UUID": ..., "traceparent": ...}.

    For a request that is made inside an action; the other side's wsgi.wrap() takes the task id from them, so that
    both call graphs are found under one id. `traceparent` is W3C trace context, version 00: the task id without its
    dashes, the span id of this action, which its record then has as `span` and the other side's as `parent_span`, and
    the flags that came in with the trace, else "sampled". It is left out when the task id came from elsewhere and is no
    UUID. {} outside any action that is profiled.
    """
    return _propagation.headers(_backend.load())


def stats():
    """What the engine does and what it costs, as a dict; times in seconds, counts since the process began profiling.

    {"engine", "running", "period", "overhead": {"fraction", "sampler_cpu", "in_request", "delivery_cpu"},
     "actions": {"started", "profiled", "shed", "finished", "lost"}, "samples": {"taken", "missed": {reason: n}}, "routes": {"names", "other"},
     "destinations": [{"name", "queued", "sent", "retried", "spooled", "dropped": {reason: n}, "bytes", "last_error"}]}
    """
    return _backend.load().stats()


def start():
    """Starts the engine. Nothing happens if it runs. The first add_destination() does it by itself."""
    _start_in_time(_backend.load().start)


def _is_ending():
    import sys

    threading = sys.modules.get("threading")
    return threading is not None and not threading.main_thread().is_alive()  # it has been waited for, as all threads have


def _start_in_time(start, *arguments):
    """Calls what starts the engine. In a handler of atexit an interpreter may have no new threads any more, or ours has run already."""
    if not _is_ending():
        start(*arguments)
        return
    try:
        start(*arguments)
        too_late = not _backend.load().stats()["running"]
    except RuntimeError:
        too_late = True
    if too_late:
        import warnings

        warnings.warn("the interpreter is ending: it is too late to start profiling, and nothing is recorded", RuntimeWarning, 3)


def stop(timeout=2.0):
    """Stops the engine: open actions are sealed as "lost", finished profiles are delivered, its threads end.

    Waits up to `timeout` seconds. True when everything was delivered and every thread has ended, also when it
    did not run; False when the time was over first. Called from a destination it does nothing and is False. start()
    begins anew.
    TypeError when `timeout` is no number; a negative one is 0, and infinity waits for as long as it takes.
    """
    return _backend.load().stop(_seconds(timeout))


def flush(timeout=2.0):
    """Waits up to `timeout` seconds until every action finished so far is delivered. True when it is.

    False at once when called from a destination, which would wait for itself. TypeError when `timeout` is no number; a
    negative one is 0.
    """
    return _backend.load().flush(_seconds(timeout))


def _seconds(timeout):
    """What is left of a deadline may be negative: then nothing is waited for."""
    try:
        seconds = None if isinstance(timeout, str) else float(timeout)
    except OverflowError:  # an integer beyond all floats
        seconds = float("inf") if timeout > 0 else 0.0
    except (TypeError, ValueError):
        seconds = None
    if seconds is None or seconds != seconds:
        raise TypeError("timeout is a number of seconds, not %r" % (timeout,))
    return max(0.0, seconds)


def __getattr__(name):
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("profilomatic")
        except metadata.PackageNotFoundError:
            return "0"
    if name in ("auto", "check", "django", "eliot", "falcon", "flask", "monitor", "pyramid"):  # loaded when first named
        from importlib import import_module

        return import_module("." + name, __name__)
    raise AttributeError("module 'profilomatic' has no attribute %r" % name)
