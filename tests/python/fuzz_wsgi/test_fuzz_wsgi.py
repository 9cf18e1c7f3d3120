"""A share of the fuzz test on each backend, the same scripts each time. `make fuzz` runs a million fresh ones."""

import pathlib
import subprocess
import sys

import pytest
from pom_support import package_environment, run_python

PROGRAM = pathlib.Path(__file__).with_name("fuzz_wsgi.py")
BACKENDS = {"native": ({}, 20000), "gil": ({"PROFILOMATIC_ENGINE": "gil"}, 5000),
            "pure": ({"PROFILOMATIC_PURE": "1"}, 3000)}


@pytest.mark.acceptance("PM19", "PM29", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W11", "W12", "W13", "W16", "W18",
                        "W21", "W22")
@pytest.mark.parametrize("backend", ["native", *(pytest.param(name, marks=pytest.mark.oldest_and_newest) for name in ("gil", "pure"))])
@pytest.mark.parametrize("seed", [1, 470163536])
def test_random_applications_and_servers_see_no_difference(backend, seed):
    environment, scripts = BACKENDS[backend]
    command = [sys.executable, "-X", "faulthandler", str(PROGRAM), "--seed", str(seed), "--scripts", str(scripts // 2)]
    done = subprocess.run(command, env=package_environment(**environment), timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("engine %s, seed %d," % (backend, seed))
    assert " 0 differences" in done.stdout


BROKEN_WRAPPER = """if True:
    import sys
    sys.path.insert(0, %r)
    import fuzz_world, fuzz_wsgi

    def wrap(app):
        def wrapped(environ, start_response):
            body = app(environ, start_response)
            return iter([chunk for chunk in body if chunk]) if type(body) is list else body

        return wrapped

    fuzz_world.wrap = wrap
    print(fuzz_wsgi.main(["--seed", "1", "--scripts", "5000"]))
    """


def test_a_wrapper_that_changes_a_body_is_found_and_its_script_shrunk():
    done = run_python(BROKEN_WRAPPER % str(PROGRAM.parent), timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "1"
    found = next(line for line in lines if line.startswith("different: "))
    assert len(bytes.fromhex(found.split()[1])) <= 4, found  # a plain list is the plainest script there is
