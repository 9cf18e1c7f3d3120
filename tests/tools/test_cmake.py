"""What the build refuses, and how it says so."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("ninja")), reason="no cmake or ninja here")


@pytest.fixture
def configure(tmp_path):
    def run(source, *definitions, env=None):
        done = subprocess.run(
            ["cmake", "-S", str(source), "-B", str(tmp_path / "out"), "-G", "Ninja", "-DPOM_BUILD_PYTHON=OFF", *definitions],
            capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def small(tree):
    """A tree with the project's CMake modules and one empty folder for each floor."""

    def make(changes):
        files = {"VERSION": "1.2.3\n", "CMakeLists.txt": (ROOT / "CMakeLists.txt").read_text(), "tests/unit/CMakeLists.txt": ""}
        for floor in ("base", "profiles", "sampler", "destinations", "actions", "middleware"):
            files[floor + "/CMakeLists.txt"] = f"pom_library({floor} SOURCES)"
        files["bindings/engine/CMakeLists.txt"] = "pom_library(engine SOURCES USES base profiles)"
        for module in (ROOT / "cmake").iterdir():
            files["cmake/" + module.name] = module.read_text()
        return tree({**files, **changes})

    return make


@pytest.mark.parametrize("by_pip", [False, True])
def test_missing_headers_are_named_in_one_line(configure, by_pip):
    code, out = configure(
        ROOT,
        *(["-DSKBUILD=2", "-DPOM_BUILD_TESTS=ON"] if by_pip else []),
        "-DCMAKE_C_COMPILER=" + shutil.which("cc"),
        "-DCMAKE_MAKE_PROGRAM=" + shutil.which("ninja"),
        "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF",
        "-DCMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH=OFF",
        "-DCMAKE_FIND_USE_INSTALL_PREFIX=OFF",
        env={**os.environ, "PKG_CONFIG_LIBDIR": "/nonexistent"},
    )
    assert code != 0
    [line] = [line for line in out.splitlines() if "apt-get install" in line]
    for package in ("libuv1-dev", "zlib1g-dev", "libssl-dev", "libcmocka-dev"):
        assert package in line
    assert ("PROFILOMATIC_PURE=1 pip install ." in out) == by_pip


def test_folders_without_sources_still_configure(configure, small):
    code, out = configure(small({}))
    assert code == 0, out


def test_a_library_that_a_floor_may_not_see_is_refused(configure, small):
    changes = {"sampler/CMakeLists.txt": "pom_library(sampler SOURCES s.c LIBS uv)", "sampler/s.c": "/* s */\n"}
    code, out = configure(small(changes))
    assert code != 0
    assert "pom_library(sampler): may not link uv" in out


def test_a_unit_test_that_reaches_up_does_not_link(configure, small, tmp_path):
    main = '#include "profiles/p.h"\nint main(void) { return pom_p(); }\n'
    files = {
        "base/CMakeLists.txt": "pom_library(base SOURCES b.c)",
        "base/b.c": "/* b */\nint pom_b(void);\nint pom_b(void) { return 0; }\n",
        "profiles/CMakeLists.txt": "pom_library(profiles SOURCES p.c USES base)",
        "profiles/p.h": "int pom_p(void);\n",
        "profiles/p.c": '/* p */\n#include "profiles/p.h"\nint pom_p(void) { return 0; }\n',
        "tests/unit/CMakeLists.txt": "add_subdirectory(base)\nadd_subdirectory(profiles)",
        "tests/unit/base/CMakeLists.txt": "pom_unit_test(base up)",
        "tests/unit/base/test_up.c": main,
        "tests/unit/profiles/CMakeLists.txt": "pom_unit_test(profiles down)",
        "tests/unit/profiles/test_down.c": main,
    }
    code, out = configure(small(files))
    assert code == 0, out

    def build(target):
        return subprocess.run(["ninja", "-C", str(tmp_path / "out"), target], capture_output=True, text=True, timeout=120,
                              env={**os.environ, "LC_ALL": "C"})

    assert build("test_profiles_down").returncode == 0
    refused = build("test_base_up")
    assert refused.returncode != 0
    assert "undefined reference to `pom_p'" in refused.stdout


@pytest.mark.parametrize("value, flag", [("address", "-fsanitize=address,undefined"), ("thread", "-fsanitize=thread")])
def test_sanitizers_reach_every_target(configure, small, tmp_path, value, flag):
    files = {"base/CMakeLists.txt": "pom_library(base SOURCES b.c)", "base/b.c": "/* b */\n"}
    code, out = configure(small(files), "-DPOM_SANITIZE=" + value)
    assert code == 0, out
    assert flag in (tmp_path / "out" / "compile_commands.json").read_text()


def test_an_unknown_sanitizer_is_refused(configure, small):
    code, out = configure(small({}), "-DPOM_SANITIZE=memory")
    assert code != 0
    assert "POM_SANITIZE" in out


def test_a_listed_file_that_is_missing_stops_a_package_only(configure, small):
    root = small({"base/CMakeLists.txt": "pom_library(base SOURCES gone.c)"})
    code, out = configure(root)
    assert code == 0 and "lists gone.c" in out
    code, out = configure(root, "-DSKBUILD=2")
    assert code != 0 and "lists gone.c" in out
