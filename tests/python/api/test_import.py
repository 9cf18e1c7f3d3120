"""Importing costs next to nothing and starts nothing; the backend is chosen as documented."""

import pytest
from pom_support import run_python

import profilomatic


def test_import_starts_and_loads_nothing(python):
    python("""if True:
        import os, signal, sys, threading
        before = set(sys.modules)
        tasks = len(os.listdir("/proc/self/task"))
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        import profilomatic
        profilomatic.configure(max_overhead=0.01)
        profilomatic.wsgi
        assert len(os.listdir("/proc/self/task")) == tasks
        assert threading.active_count() == 1
        assert handlers == [signal.getsignal(number) for number in signal.valid_signals()]
        loaded = {name.removeprefix("profilomatic.") for name in set(sys.modules) - before}
        # What it costs is what it loads: small modules of ours, and none of anybody else's.
        assert loaded == {"profilomatic", "_backend", "_callables", "_hosting", "_named", "_options", "_propagation", "_scrub",
                          "_stand_in", "asgi", "wsgi"}, loaded
        """)


def test_submodules_are_there_without_being_imported(python):
    """As the documents write it: `import profilomatic`, then `profilomatic.check.explain()`."""
    python("""if True:
        import sys
        import profilomatic
        for name in ("eliot", "check", "auto", "monitor"):
            try:
                assert getattr(profilomatic, name).__name__ == "profilomatic." + name
            except ImportError as error:
                assert name != "check" and error.name in ("eliot", "prometheus_client"), error
            assert "profilomatic.flask" not in sys.modules
        try:
            profilomatic.absent
        except AttributeError as error:
            assert "absent" in str(error)
        else:
            raise AssertionError
        """)


@pytest.mark.acceptance("PM29")
def test_profilomatic_pure_forces_the_twin(python):
    printed = python("""if True:
        import profilomatic
        print(profilomatic.stats()["engine"])
        from profilomatic import _backend
        print(_backend.module.NAME, bool(_backend.reason), _backend.module.engine_info()["engine"])
        """, PROFILOMATIC_PURE="1")
    assert printed.split() == ["pure", "pure", "True", "pure"]


@pytest.mark.acceptance("PM29")
def test_without_the_extension_the_twin_works_and_the_reason_is_kept(python):
    printed = python("""if True:
        import logging, sys
        sys.modules["profilomatic._core"] = None
        import profilomatic
        said = []
        logging.getLogger("profilomatic").addFilter(lambda record: said.append(record.getMessage()))
        records = []
        profilomatic.add_destination(records.append)
        with profilomatic.action("a"):
            pass
        assert profilomatic.flush(60) and profilomatic.stop(60)
        from profilomatic import _backend
        print(_backend.module.NAME, len(records), _backend.reason)
        assert len(said) == 1 and "pure Python works instead" in said[0] and "`profilomatic check`" in said[0], said
        """, PROFILOMATIC_PURE="")
    assert printed.startswith("pure 1 the extension is not usable: ")


@pytest.mark.acceptance("PM29")
def test_both_backends_offer_the_same_names(backend):
    from profilomatic import _pure

    module = profilomatic._backend.load()
    for name in ("NAME", "Action", "FileDestination", "apply_options", "start", "stop", "flush", "add_destination",
                 "remove_destination", "wrap", "current_task_uuid", "stats", "engine_info"):
        assert hasattr(module, name) and hasattr(_pure, name), name
    assert module.NAME == backend
    info = module.engine_info()
    assert set(info) == {"engine", "reason", "layout_ok", "details"} and isinstance(info["details"], dict)


def test_everything_public_is_documented_and_present():
    for name in profilomatic.__all__:
        assert getattr(profilomatic, name).__doc__, name
    assert profilomatic.__version__
    with pytest.raises(AttributeError):
        profilomatic.no_such_name


def test_a_bad_environment_never_stops_an_application(python):
    done = run_python("import profilomatic; profilomatic.start(); profilomatic.stop()",
                      PROFILOMATIC_MAX_OVERHEAD="lots", PROFILOMATIC_TIME_GRANULARITY="0", PROFILOMATIC_SCRUB="")
    assert done.returncode == 0, done.stderr
    assert "PROFILOMATIC_MAX_OVERHEAD='lots' is ignored" in done.stderr
