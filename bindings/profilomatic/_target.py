"""Running a program as the interpreter itself would: `python script` or `python -m module`.

The program must not find out: its __main__ is a fresh module, sys.argv and sys.path[0] are its own, what it
raises reaches the interpreter, and the traceback that is printed begins with the program's own frames.
"""

import os
import sys
import types


class Fail(Exception):
    """Wrong use; the text is for the user."""


def _new_main():
    """A fresh __main__: the program must not see our names in it."""
    main = types.ModuleType("__main__")
    main.__builtins__ = sys.modules["builtins"]
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    # Our own module stays referenced, or its globals would be cleared while we still run.
    global _our_main
    _our_main = sys.modules.get("__main__")
    sys.modules["__main__"] = main
    return main


_our_main = None


def _first_path(entry):
    """Puts the program's folder where Python put ours; with -P and -I Python puts none."""
    if getattr(sys.flags, "safe_path", False):
        return
    sys.path[0:1] = [entry]


def module(name, arguments):
    import runpy

    _first_path(os.getcwd())
    sys.argv[:] = ["-m", *arguments]
    _new_main()

    def program():
        # What the interpreter itself calls for -m; it fills __main__ and sys.argv[0].
        runpy._run_module_as_main(name)

    return program


def look(path):
    """False: running this script can only say what is wrong with it. One that cannot be read is told here."""
    if path == "-":
        return True
    full = _full(path)
    if _is_importable(full):
        import pkgutil

        return pkgutil.get_importer(full).find_spec("__main__") is not None
    try:
        with open(full, "rb") as file:
            source = file.read() if os.path.isfile(full) else None  # what a pipe has can be read once
    except OSError as error:
        raise Fail(f"can't open file {full!r}: [Errno {error.errno}] {error.strerror}") from None
    return source is None or full.endswith(".pyc") or _compiles(source, full)


def look_for_module(name):
    """False: there is no such module. Imports nothing, so of a dotted name the first part decides."""
    import importlib.machinery
    import importlib.util

    top = name.partition(".")[0]
    try:
        return bool(importlib.machinery.PathFinder.find_spec(top, [os.getcwd()]) or importlib.util.find_spec(top))
    except (ImportError, ValueError, OSError):
        return True  # whatever it is, the interpreter knows better


def _compiles(source, full):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when it is compiled to be run
        try:
            compile(source, full, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, RecursionError):
            return False
    return True


def is_same_file(path, other):
    """Whether both are one existing file."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def script(path, arguments):
    sys.argv[:] = [path, *arguments]
    if path == "-":
        if not getattr(sys.flags, "safe_path", False):
            sys.path[0:1] = [""]
        return _program(_new_main(), sys.stdin.read(), "<stdin>")
    full = _full(path)
    if _is_importable(full):
        import runpy

        # A folder or an archive: Python puts it on sys.path itself and runs the __main__ in it.
        _first_path(full)
        _new_main()
        return lambda: runpy._run_module_as_main("__main__", False)
    with open(full, "rb") as file:
        source = file.read()
    _first_path(os.path.dirname(os.path.realpath(full)))
    return _program(_new_main(), source, full)


def _full(path):
    """As the interpreter makes a script's path absolute: "./x.py" keeps its dot."""
    return os.path.join(os.getcwd(), path)


def _is_importable(path):
    import pkgutil

    importer = pkgutil.get_importer(path)
    return importer is not None and (os.path.isdir(path) or type(importer).__name__ == "zipimporter")


def _program(main, source, full):
    import importlib.machinery

    main.__file__ = full
    if sys.version_info < (3, 15):  # which has no such name any more
        main.__cached__ = None
    if full == "<stdin>":
        main.__loader__ = importlib.machinery.BuiltinImporter
    elif full.endswith(".pyc"):
        main.__loader__ = importlib.machinery.SourcelessFileLoader("__main__", full)
        code = main.__loader__.get_code("__main__")
        return lambda: exec(code, main.__dict__)
    else:
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", full)
    # Compiled when it runs: a syntax error must be reported as one of the program's.
    return lambda: exec(compile(source, full, "exec", dont_inherit=True), main.__dict__)


def run(program):
    """Runs the program; what it raises goes on to the interpreter, which must not see our frames."""
    try:
        program()
    except SystemExit:
        raise
    except BaseException:
        # The interpreter prints the traceback, sets the exit status and, for KeyboardInterrupt, ends by the signal.
        # Only what it prints is changed, by a hook that takes itself out.
        hook = sys.excepthook

        def without_our_frames(kind, error, traceback):
            sys.excepthook = hook
            traceback = _strip(traceback)
            error.__traceback__ = traceback
            sys.last_traceback = traceback
            hook(kind, error, traceback)

        sys.excepthook = without_our_frames
        raise


def _strip(traceback):
    """The traceback from the program's own outermost frame on.

    What began us stands above run(): the `profilomatic` script, runpy, our commands. Ours stand below it too, but the
    program may use runpy as we do, and so only those go there.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    ours = {os.path.join(folder, name) for name in ("_target.py", "run_profiled.py", "_action.py")}
    below = traceback
    while below is not None and below.tb_frame.f_code is not run.__code__:
        below = below.tb_next
    if below is None:
        return traceback  # of something else
    while below is not None and os.path.abspath(below.tb_frame.f_code.co_filename) in ours:
        below = below.tb_next
    return below
