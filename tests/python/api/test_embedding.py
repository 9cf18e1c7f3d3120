"""In a program that embeds the interpreter and ends it, then makes another: the extension serves the first, the twin those after."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

import profilomatic

HOST = """
#include <Python.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        Py_Initialize();
        if (PyRun_SimpleString(argv[i]) != 0 || Py_FinalizeEx() != 0) {
            return 1;
        }
    }
    return 0;
}
"""
# With threads, code that dies and a fork: what the first interpreter's extension had hooked into is there no more.
LIFE = """if True:
    import os, threading
    import profilomatic, profilomatic.wsgi
    records = []
    profilomatic.configure(max_actions_per_run=0)  # on a busy machine the bill would have some refused
    profilomatic.add_destination(records.append)
    app = profilomatic.wsgi.wrap(lambda environ, start_response: iter([b"body"]))
    def request():
        for number in range(50):
            body = app({"PATH_INFO": "/"}, lambda *args: None)
            assert list(body) == [b"body"]
            body.close()
            exec(f"def made_{number}(): return sum(range(1000))\\nmade_{number}()")
    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    with profilomatic.action("main") as action:
        action.message(step=1)
        request()
    for thread in threads:
        thread.join()
    child = os.fork()
    if not child:
        with profilomatic.action("child"):
            request()
        os._exit(0 if profilomatic.flush(60) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert profilomatic.flush(60)
    assert len(records) == 201, len(records)
    from profilomatic import _backend
    print(_backend.module.NAME, _backend.reason, flush=True)
"""
UNUSED = "import profilomatic._core"


def shared_library():
    """The folder of the interpreter's own library, or None."""
    name = sysconfig.get_config_var("LDLIBRARY") or ""
    prefix = pathlib.Path(sys.base_prefix)
    for folder in (sysconfig.get_config_var("LIBDIR"), prefix / "lib", prefix / "lib" / (sysconfig.get_config_var("MULTIARCH") or "")):
        if folder and ".so" in name and (pathlib.Path(folder) / name).exists():
            return folder
    return None


def brings_its_own_libc(folder):
    """An interpreter that was unpacked beside another system's C library, which the compiler here does not link with."""
    beside = pathlib.Path(folder) / "libc.so.6"
    compilers = subprocess.run(["cc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True).stdout.strip()
    return beside.exists() and not os.path.samefile(beside, compilers)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """Runs code in one interpreter of a process after the other; returns the lines that it printed."""
    folder = shared_library()
    if shutil.which("cc") is None or folder is None:
        pytest.skip("no C compiler, or no shared libpython to embed")
    if brings_its_own_libc(folder):
        pytest.skip("the interpreter was made for another C library than the compiler's")
    place = tmp_path_factory.mktemp("host")
    (place / "host.c").write_text(HOST)
    version = sysconfig.get_config_var("LDVERSION")
    subprocess.run(["cc", "-I", sysconfig.get_path("include"), "host.c", "-o", "host", "-L", str(folder), f"-Wl,-rpath,{folder}",
                    f"-lpython{version}"], cwd=place, check=True)

    def run(*lives):
        environment = dict(os.environ, PYTHONHOME=sys.base_prefix,
                           PYTHONPATH=str(pathlib.Path(profilomatic.__file__).parent.parent))
        done = subprocess.run([place / "host", *lives], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (done.returncode, done.stderr[-4000:])
        return done.stdout.splitlines()

    return run


def test_the_next_interpreter_of_a_process_has_the_twin(host, backend):
    first, *later = host(LIFE, LIFE, LIFE)
    assert first.startswith(backend + " ")
    for line in later:
        assert line.startswith("pure ")
        assert backend == "pure" or line.endswith("it serves the first interpreter of a process, and this is a later one")


def test_the_first_interpreter_is_the_one_that_loaded_the_extension(host, backend):
    assert [line.split()[0] for line in host("", LIFE)] == [backend]
    assert [line.split()[0] for line in host(UNUSED, LIFE)] == ["pure"]
