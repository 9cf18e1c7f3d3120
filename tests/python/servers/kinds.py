"""The servers: what each needs, how it is started, and what it can do. One entry is all that a test knows of a server.

Settings are those that docs/servers.md recommends, with as few processes and threads as the tests can do with.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

HERE = pathlib.Path(__file__).parent
BIN = pathlib.Path(sys.executable).parent


@dataclasses.dataclass(frozen=True)
class Kind:
    """`command(server)` is the argument list; "{fd}" in it stands for the number of the listening socket."""

    name: str
    command: Callable
    modules: tuple = ()  # of Python, that must be installed
    takes_socket: bool = True  # else it opens the port itself
    at_once: bool = True  # answers several requests at the same time
    keeps_alive: bool = True
    reads_chunked: bool = True  # hands the body of a chunked request to the application
    file_wrapper: str | None = None  # what environ["wsgi.file_wrapper"] is: "class", "function", "any", or not there
    sendfile: str | None = None  # how it sends a file on disk: "os.sendfile", "own" in C, or not by sendfile(2)
    drains: bool = True  # SIGTERM lets the process that answers deliver what it has
    greenlets: bool = False  # a request that sleeps leaves its thread to others, and threads have names of their own
    strays: tuple = ()  # of the corpus, what is not answered as PEP 3333 has it, wrapped or bare
    keeps_chunks: bool = True  # one chunk of the application is one chunk on the wire, where the answer is chunked
    may_cut: tuple = ()  # of the corpus, what ends early now and then, wrapped or bare: the end was still unsent
    missing: Callable = lambda: None  # why it cannot run here, when that is more than a module


MAIN = ("gunicorn-gthread", "waitress", "uvicorn")  # one that forks, one that does not, one of ASGI: they meet every interpreter


def each_kind(names):
    """Parameters of a test, one for each of these kinds of servers."""
    return [pytest.param(name, marks=marks(name)) for name in names]


def marks(name):
    return () if name in MAIN else pytest.mark.oldest_and_newest


def why_missing(kind):
    """A sentence, or None when this server can be started here."""
    for module in kind.modules:
        if importlib.util.find_spec(module) is None:
            return f"{kind.name} needs {module}, which is not installed"
    return kind.missing()


def script(name):
    """A command of the environment, by its own interpreter: the first line of the file names the place the environment was
    made in, and that may have moved."""
    return [sys.executable, str(BIN / name)]


def served_by_us(server):
    return [sys.executable, str(HERE / "serve.py"), server.kind.name, "{fd}", server.target]


def gunicorn(worker_class):
    def command(server):
        parts = [sys.executable, "-m", "gunicorn", "--bind", "fd://{fd}", "--config", str(HERE / "gunicorn_conf.py")]
        parts += ["--worker-class", worker_class, "--workers", str(server.workers)]
        parts += ["--worker-tmp-dir", str(server.folder)]
        if worker_class == "gthread":
            parts += ["--threads", "4"]
        if server.preload:
            parts.append("--preload")
        return [*parts, server.target]

    return command


def cheroot(server):
    return [*script("cheroot"), server.target, "--bind", f"127.0.0.1:{server.port}", "--threads", "4"]


def granian(server):
    parts = [*script("granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(server.port)]
    parts += ["--workers", str(server.workers), "--blocking-threads", "4", "--respawn-failed-workers"]
    return [*parts, "--workers-kill-timeout", "60", server.target]


def uwsgi(server):
    parts = [str(BIN / "uwsgi"), "--http-socket", f"127.0.0.1:{server.port}", "--module", server.target]
    parts += ["--master", "--workers", str(server.workers), "--need-app", "--die-on-term", "--worker-reload-mercy", "60"]
    parts += ["--listen", "64", "--buffer-size", "16384"]
    if not server.preload:
        parts.append("--lazy-apps")
    return [*parts, *(server.options or ("--enable-threads", "--threads", "4"))]


APACHE = """
ServerRoot "{folder}"
DefaultRuntimeDir "{folder}"
PidFile "{folder}/pid"
ErrorLog "{folder}/server.log"
Listen 127.0.0.1:{port}
ServerName localhost
LoadModule mpm_event_module "{modules}/mod_mpm_event.so"
LoadModule authz_core_module "{modules}/mod_authz_core.so"
StartServers 1
ServerLimit 2
ThreadsPerChild 16
MaxRequestWorkers 32
{wsgi}
WSGIRestrictEmbedded On
WSGISocketPrefix "{folder}/wsgi"
WSGIDaemonProcess pom home=/ processes={workers} threads=4 python-path="{path}" shutdown-timeout=60 graceful-timeout=60
WSGIProcessGroup pom
WSGIChunkedRequest On
{options}
WSGICallableObject {callable}
WSGIScriptAlias / "{script}"
<Directory "{scripts}">
    Require all granted
</Directory>
"""


def mod_wsgi(server):
    module, _, name = server.target.partition(":")
    settings = server.folder / "httpd.conf"
    settings.write_text(
        APACHE.format(
            folder=server.folder,
            port=server.port,
            modules=apache_modules(),
            wsgi=mod_wsgi_settings(),
            workers=server.workers,
            path=server.env["PYTHONPATH"],
            options="\n".join(server.options if server.options is not None else ["WSGIApplicationGroup %{GLOBAL}"]),
            callable=name,
            script=HERE / f"{module}.py",
            scripts=HERE,
        )
    )
    return [*unprivileged(), apache(), "-f", str(settings), "-D", "FOREGROUND"]


def unprivileged():
    """Apache's own way from root to another user fails where that user may not read the interpreter's folder, as with
    one in a home directory. So it starts as that user, with the one capability to read on."""
    if os.geteuid() != 0:
        return []
    rights = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return [shutil.which("setpriv"), "--reuid=www-data", "--regid=www-data", "--clear-groups", *rights]


def apache():
    return shutil.which("apache2", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")


def apache_modules():
    return "/usr/lib/apache2/modules"


@functools.cache
def mod_wsgi_settings():
    """The lines that load mod_wsgi for this very interpreter: PyPI's, or Debian's for Debian's own minor version."""
    if importlib.util.find_spec("mod_wsgi") is not None:
        command = [*script("mod_wsgi-express"), "module-config"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    debian = pathlib.Path(apache_modules(), "mod_wsgi.so")
    system = "/usr/bin/python%d.%d" % sys.version_info[:2]
    if debian.exists() and os.path.realpath("/usr/bin/python3") == system:
        return f'LoadModule wsgi_module "{debian}"'
    return None


@functools.cache
def apache_missing():
    if apache() is None:
        return "mod_wsgi needs apache2, which is not installed"
    if mod_wsgi_settings() is None:
        return "there is no mod_wsgi for this interpreter"
    if unprivileged() and None in unprivileged():
        return "mod_wsgi as root needs setpriv"
    if subprocess.run([*unprivileged(), "true"], capture_output=True, timeout=60).returncode != 0:
        return "mod_wsgi as root needs the user www-data and the capability dac_override"
    # Since 6.0 it asks with access(2), which knows no capabilities, and its daemon crashes after a no.
    seen = "import os, sys; sys.exit(not os.access(sys.prefix, os.R_OK | os.X_OK))"
    if subprocess.run([*unprivileged(), sys.executable, "-c", seen], capture_output=True, timeout=60).returncode != 0:
        return "mod_wsgi needs an environment that www-data may read, not " + sys.prefix
    return None


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "gunicorn-sync",
            gunicorn("sync"),
            ("gunicorn",),
            at_once=False,
            keeps_alive=False,
            file_wrapper="class",
            sendfile="os.sendfile",
        ),
        Kind("gunicorn-gthread", gunicorn("gthread"), ("gunicorn",), file_wrapper="class", sendfile="os.sendfile"),
        Kind(
            "gunicorn-gevent",
            gunicorn("gevent"),
            ("gunicorn", "gevent", "packaging"),
            file_wrapper="class",
            drains=False,  # in some workers only
            greenlets=True,
        ),
        Kind("waitress", served_by_us, ("waitress",), file_wrapper="class", drains=False),
        Kind(
            "wsgiref",
            served_by_us,
            at_once=False,
            keeps_alive=False,
            reads_chunked=False,
            file_wrapper="class",
        ),
        Kind("cheroot", cheroot, ("cheroot",), takes_socket=False, drains=False),
        Kind(
            "granian",
            granian,
            ("granian",),
            takes_socket=False,
            strays=("/headers", "/lazy", "/write", "lines"),
            may_cut=("GET /raise-mid",),  # bare, 1 of 3 lacks the chunk, 1 of 9 the header too (2.8.9, 2000 requests)
        ),
        Kind(
            "uwsgi",
            uwsgi,
            ("uwsgidecorators",),
            takes_socket=False,
            keeps_alive=False,  # with --http-socket; its router, --http, can
            reads_chunked=False,
            file_wrapper="function",
            sendfile="own",
            drains=False,  # a worker that is still closing its last request runs no atexit
            strays=("/raise",),  # the connection just ends
        ),
        Kind(
            "mod_wsgi",
            mod_wsgi,
            takes_socket=False,
            file_wrapper="any",  # a class in newer versions
            keeps_chunks=False,  # what has come through the socket of the daemon process when Apache looks
            missing=apache_missing,
        ),
    )
}
