"""The command `profilomatic`: looks at its first argument and hands the rest on.

Each command is a module with `main(argv)`, imported only when asked for. `run` gets its arguments untouched: what
follows the target belongs to the program.
"""

import sys

_COMMANDS = {
    "run": ("run_profiled", "run a Python program and profile its actions"),
    "report": ("report", "show what a file of profile records says"),
    "convert": ("convert", "write profile records in the format of another tool"),
    "check": ("check", "say which engine works here, and why no data may arrive"),
    "auto": ("_auto_command", "print the folder for PYTHONPATH that makes PROFILOMATIC_AUTO=1 work"),
}


def usage():
    lines = ["usage: profilomatic COMMAND [options]", ""]
    lines += [f"  {name:<9}{text}" for name, (_, text) in _COMMANDS.items()]
    lines += ["", "profilomatic COMMAND --help tells the options of each."]
    return "\n".join(lines)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "run" and not set(argv[1:2]) & {"-h", "--help"}:
        return _dispatch(argv)  # standard output, and being interrupted, are the program's
    try:
        try:
            return _dispatch(argv)
        finally:  # argparse leaves by SystemExit
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is not None:
            raise  # no stream's
        from ._terminal import abandon

        abandon()
        if isinstance(error, BrokenPipeError):
            return 0
        print(f"profilomatic: standard output: {error.strerror or error}", file=sys.stderr)
        return 2


def _dispatch(argv):
    if argv and argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv and argv[0] in ("-V", "--version"):
        print(f"profilomatic {_version()}")
        return 0
    if not argv or argv[0] not in _COMMANDS:
        if argv:
            from ._options import nearest

            near = nearest(argv[0], _COMMANDS)
            print(f"profilomatic: there is no command {argv[0]!r}" + (f"; did you mean {near}?" if near else ""), file=sys.stderr)
        print(usage(), file=sys.stderr)
        return 2
    import importlib

    module = importlib.import_module(f".{_COMMANDS[argv[0]][0]}", __package__)
    return module.main(argv[1:])


def _version():
    import importlib.metadata

    try:
        return importlib.metadata.version("profilomatic")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
