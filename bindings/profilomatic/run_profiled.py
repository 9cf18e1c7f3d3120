"""`profilomatic run [options] script|-m module [arguments]`: runs a program with profiling switched on.

The same as `python -m profilomatic.run_profiled`. The program sees what it would see under `python script` or
`python -m module`: its arguments, its sys.path, itself as `__main__`, its exit status, its tracebacks. Profiles come
from the actions that the program has (profilomatic.action, Eliot with -e), from the WSGI applications that it serves,
which are wrapped where its server takes them (auto.py), and with --whole from the run itself, as one action, which
suits scripts and not servers.
"""

import argparse
import atexit
import os
import sys

from . import _hand_on, _named, _target, auto

_DESCRIPTION = """Run a Python program and profile its actions: requests of the WSGI application that it serves,
profilomatic.action() blocks, Eliot actions (-e), or the whole program as one action (--whole). Profiles go to standard
error unless told otherwise, here or by PROFILOMATIC_DESTINATION. What is not given here is as the program's configure() or PROFILOMATIC_* variables say."""


def make_parser():
    parser = argparse.ArgumentParser(
        prog="profilomatic run",
        description=_DESCRIPTION,
        usage="profilomatic run [options] (script | -m module) [arguments]",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "-o", "--output-file", metavar="FILE", help="write profiles there (default, and -: standard error)"
    )
    output.add_argument(
        "-i", "--output-socket", metavar="HOST:PORT", help="send profiles over TCP, one JSON record a line"
    )
    parser.add_argument(
        "--no-flush", action="store_true", help="do not hand every profile to the system at once"
    )
    parser.add_argument(
        "-s", "--source-name", metavar="NAME", help="label in every profile (default: the host name)"
    )
    parser.add_argument(
        "-n",
        "--tasks-profiled",
        metavar="N",
        type=int,
        help="new actions profiled per cycle under load; 0: no limit",
    )
    parser.add_argument(
        "-v", "--max-overhead", metavar="SHARE", type=_share, help='share of CPU time to spend: 0.02 or "2%%"'
    )
    parser.add_argument(
        "-t", "--time-granularity", metavar="SECONDS", type=_period, help="time between samples, or auto"
    )
    parser.add_argument("-c", "--code-granularity", choices=("file", "method", "line"))
    parser.add_argument(
        "-l",
        "--all-logs",
        action="store_true",
        help="put all messages of Eliot into call graphs, not only actions",
    )
    parser.add_argument(
        "-e", "--eliot", action="store_true", help="profile Eliot actions: profilomatic.eliot.patch()"
    )
    parser.add_argument(
        "-x",
        "--monitor",
        action="store_true",
        help="export Prometheus metrics: profilomatic.monitor.enable_prometheus()",
    )
    parser.add_argument(
        "--no-wrap", action="store_true", help="leave the application that a server loads as it is"
    )
    parser.add_argument("--whole", action="store_true", help="profile the program as one action")
    parser.add_argument(
        "--profile-profiler", metavar="FILE", help="profile the profiler's own threads too, into FILE"
    )
    parser.add_argument(
        "-m", dest="module", metavar="MODULE", help="run a module, as python -m does; ends the options"
    )
    parser.add_argument(
        "target", metavar="script", nargs="?", help="a script, or a folder or zip file with a __main__.py"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for the program, untouched")
    return parser


def _share(text):
    """0.02 or "2%", as a number."""
    try:
        return float(text[:-1]) / 100 if text.rstrip().endswith("%") else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is neither a number nor a percentage such as "2%"'
        ) from None


def _period(text):
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None


_WITH_VALUE = {"-o", "-i", "-s", "-n", "-v", "-t", "-c"}
_LONG_WITH_VALUE = {
    "--output-file",
    "--output-socket",
    "--source-name",
    "--tasks-profiled",
    "--max-overhead",
    "--time-granularity",
    "--code-granularity",
    "--profile-profiler",
}
_LONG = _LONG_WITH_VALUE | {"--no-flush", "--no-wrap", "--all-logs", "--eliot", "--monitor", "--whole", "--help"}


def split(argv):
    """(our options, is a module, the target or None, its arguments).

    Done by hand, because everything after the target belongs to the program whatever it looks like, "--" included.
    """
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--":
            return argv[:index], False, *_first(argv[index + 1 :])
        if word == "-" or not word.startswith("-"):
            return argv[:index], False, word, argv[index + 1 :]
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            full = [long for long in _LONG if long == name] or [
                long for long in _LONG if long.startswith(name)
            ]
            index += 1
            if not equals and len(full) == 1 and full[0] in _LONG_WITH_VALUE:
                index += 1
            continue
        # A cluster of short options: -el, -n5, -emmodule.
        takes_next = False
        for at, letter in enumerate(word[1:], 1):
            if letter == "m":
                ours = argv[:index] + (["-" + word[1:at]] if at > 1 else [])
                rest = ([word[at + 1 :]] if word[at + 1 :] else []) + argv[index + 1 :]
                return ours, True, *_first(rest)
            if "-" + letter in _WITH_VALUE:
                takes_next = at == len(word) - 1
                break
        index += 2 if takes_next else 1
    return argv, False, None, []


def _first(words):
    return (words[0], words[1:]) if words else (None, [])


def main(argv=None):
    parser = make_parser()
    ours, is_module, target, arguments = split(sys.argv[1:] if argv is None else list(argv))
    options = parser.parse_args(ours)
    if target is None:
        parser.error(
            "-m needs the name of a module" if is_module else "name a script to run, or -m and a module"
        )
    try:
        # What has no code to run says so by itself, and leaves an output file alone.
        if _target.look_for_module(target) if is_module else _target.look(target):
            if not is_module:
                _keep_from_overwriting(target, options)
            _start(options)
    except (_target.Fail, ValueError, ImportError) as error:
        print(f"profilomatic run: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = (
            error.filename
            or options.output_file
            or options.output_socket
            or os.environ.get("PROFILOMATIC_DESTINATION")
        )
        print(f"profilomatic run: {where}: {error.strerror or error}", file=sys.stderr)
        return 2
    program = _target.module(target, arguments) if is_module else _target.script(target, arguments)
    _target.run(_whole(program, target) if options.whole else program)
    return 0


def _keep_from_overwriting(script, options):
    for option, path in (("--output-file", options.output_file), ("--profile-profiler", options.profile_profiler)):
        if path is not None and _target.is_same_file(script, path):
            raise _target.Fail(f"{option} {path!r} is the program itself")


def _start(options):
    import profilomatic

    given = {
        "source_name": options.source_name,
        "max_actions_per_run": options.tasks_profiled,
        "max_overhead": options.max_overhead,
        "time_granularity": options.time_granularity,
        "code_granularity": options.code_granularity,
        "store_all_logs": options.all_logs or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        profilomatic.configure(**given)
    observer = _observer(options.profile_profiler) if options.profile_profiler is not None else None
    destination, name = _destination(options)
    _named.settle()
    if not options.no_wrap:
        auto.install(from_environment=False)
    _hand_on.offer(name, given, not options.no_wrap, options.eliot, options.monitor)
    if options.eliot:
        _need("profilomatic.eliot", "eliot", "-e").patch()
    if options.monitor:
        _need("profilomatic.monitor", "prometheus-client", "-x").enable_prometheus()
    if observer is not None:
        observer.start()
    profilomatic.add_destination(destination)
    # At exit, and not when the program's main code ends: threads of a server live on after it. First registered is last
    # called, so what the program does at exit is still profiled.
    atexit.register(_finish, observer)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_parent=_note_fork)


def _destination(options):
    """Where to, and the name by which another process finds the same place."""
    from profilomatic import file_destination

    flush = not options.no_flush
    named = _named.in_environment()
    if options.output_socket is not None:
        host, port = _address(options.output_socket)
        return _named.over_tcp(host, port, flush), _named.tcp_name(host, port)
    if options.output_file is None and named:
        return _named.destination(named), _named.lasting(named)
    if options.output_file == "":
        raise _target.Fail("--output-file '': must name a file")
    if options.output_file in (None, "-"):
        return file_destination(sys.stderr, flush=flush), "-"
    # A reloader may repeat this command in the interpreter that it starts: the file is the one of the command above.
    destination = file_destination(options.output_file, flush=flush, append=_hand_on.received)
    return destination, os.path.abspath(options.output_file)


_forked = False


def _note_fork():
    global _forked
    _forked = True


def _observer(path):
    """Who watches the profiler's own threads; the file is opened now, so that a wrong name is told at once."""
    import os

    from . import _backend, _self_profile

    def append(name, flags):
        return os.open(name, flags | os.O_APPEND, 0o666)  # it may be the file of the profiles, too

    mode = "a" if _hand_on.received else "w"  # as for the profiles
    return _self_profile.Observer(_backend.load(), open(path, mode, encoding="ascii", opener=append))


def _finish(observer):
    import profilomatic

    profilomatic.stop()  # first: the engine in pure Python counts an action when it comes to it
    # A process with workers says nothing: a server's master begins no action, they do. Nor does one that a reloader started.
    with_workers = _forked or _hand_on.gave or _hand_on.received
    if sys.stderr is not None and sys.stderr.isatty() and not with_workers and not profilomatic.stats()["actions"]["started"]:
        print(
            "profilomatic run: the program began no action, so there is no profile; --whole profiles it as one"
            + (", and PROFILOMATIC_AUTO=1 servers that it starts in interpreters of their own" if _had_children() else ""),
            file=sys.stderr,
        )
    _tell_losses(profilomatic.stats()["destinations"])
    if observer is not None:
        observer.finish()


def _tell_losses(destinations):
    """Whether the program's profiles arrived is asked of the command that was to write them."""
    for each in destinations:
        lost, why = sum(each["dropped"].values()), ", ".join(each["dropped"])
        if lost and sys.stderr is not None:
            last = f"; {each['last_error']}" if each["last_error"] else ""
            print(f"profilomatic run: {lost} of {lost + each['sent']} profiles lost ({why}): {each['name']}{last}", file=sys.stderr)


def _had_children():
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt > 0
    except (ImportError, OSError):  # not on this system
        return False


def _whole(program, target):
    """The program as one action. To exit with status 0 is a success, although it is an exception."""
    import profilomatic

    def run_whole():
        leave = None

        @profilomatic.action(f"run:{target}")
        def whole():
            nonlocal leave
            try:
                program()
            except SystemExit as exit:
                if exit.code not in (None, 0):
                    raise
                leave = exit

        whole()
        if leave is not None:
            raise leave

    return run_whole


def _need(module, library, option):
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _target.Fail(
            f"{option}: {error} (it needs the library {library}: pip install {library})"
        ) from None


def _address(text):
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _target.Fail(f"--output-socket {text!r} is not HOST:PORT, with a port from 1 to 65535")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    # What runs here is a second copy, under the name __main__ that the program will take: work in the first.
    from profilomatic.run_profiled import main as _main

    sys.exit(_main())
