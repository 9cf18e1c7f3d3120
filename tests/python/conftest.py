"""What every Python test shares: which backend is active, a place to collect profiles, and the proof that a test left
nothing behind. `make test` runs api again with PROFILOMATIC_PURE=1."""

import sys
import time

import pytest
from pom_support import PATIENCE, Collector, run_python, threads_of_ours


@pytest.fixture
def backend():
    """Name of the active backend: "c" or "pure"."""
    from profilomatic import _backend

    return _backend.load().NAME


@pytest.fixture(autouse=True)
def house_in_order():
    """After each test: no action open, no destination left, stop() said True, no thread of ours alive, default options."""
    yield
    package = sys.modules.get("profilomatic")
    if package is None:
        return
    from profilomatic import _options

    try:
        if package._backend.module is None:
            return
        assert package.current_task_uuid() is None, "an action is open"
        assert package.stats()["destinations"] == [], "a destination is left"
        assert package.stop(PATIENCE) is True, "stop() did not finish"
        assert package.stats()["running"] is False
        deadline = time.monotonic() + PATIENCE  # a thread that has been joined may still be on its last instructions
        while threads_of_ours() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert threads_of_ours() == []
    finally:
        _options._configured.clear()
        _options._environment = None
        package._backend.apply_options()


@pytest.fixture
def profiles():
    """A registered destination, so the engine runs; nothing is shed, however busy the machine is."""
    import profilomatic

    profilomatic.configure(max_actions_per_run=0)
    collector = Collector()
    profilomatic.add_destination(collector)
    yield collector
    profilomatic.remove_destination(collector)


@pytest.fixture
def python():
    """run_python() that also insists on a clean end; returns what it printed."""
    def run(code, **options):
        done = run_python(code, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
