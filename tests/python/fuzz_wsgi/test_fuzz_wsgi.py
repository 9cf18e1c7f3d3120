"""A share of the fuzz test on each backend: one fixed seed, and one that the failure names. `make fuzz` runs the million."""

import pathlib
import random
import subprocess
import sys

import pytest
from pom_support import package_environment

PROGRAM = pathlib.Path(__file__).with_name("fuzz_wsgi.py")
BACKENDS = {"native": ({}, 20000), "gil": ({"PROFILOMATIC_ENGINE": "gil"}, 5000),
            "pure": ({"PROFILOMATIC_PURE": "1"}, 3000)}


@pytest.mark.acceptance("PM19", "PM29", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W11", "W12", "W13", "W16", "W18", "W21",
                        "W22")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", [1, random.SystemRandom().randrange(1 << 32)], ids=["fixed", "fresh"])
def test_random_applications_and_servers_see_no_difference(backend, seed):
    environment, scripts = BACKENDS[backend]
    command = [sys.executable, "-X", "faulthandler", str(PROGRAM), "--seed", str(seed), "--scripts", str(scripts // 2)]
    done = subprocess.run(command, env=package_environment(**environment), timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("engine %s, seed %d," % (backend, seed))
    assert " 0 differences" in done.stdout
