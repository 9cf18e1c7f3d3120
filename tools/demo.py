#!/usr/bin/env python3
"""The demo: a shop under load, then the report that names its slow line, and the bill.

Run by `make demo` with an interpreter that has Flask and gunicorn, and with the package on PYTHONPATH:
    python tools/demo.py [--requests N] [--folder FOLDER]

Starts gunicorn with 2 processes of 4 threads on a free port of 127.0.0.1, sends a fixed list of requests, stops the
server, prints the report, and checks that the report's first cause is the line marked "planted" in
examples/shop/catalogue.py. Exit status 1 when it is not. Whatever happens, Ctrl-C included, no process stays behind.
"""

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHOP = ROOT / "examples" / "shop"
START_SECONDS = STOP_SECONDS = 60  # to give up


class DemoError(Exception):
    """Something failed; the text says what and what to do."""


def say(text):
    print(f"demo: {text}", flush=True)


def check_needs():
    for module in ("flask", "gunicorn", "profilomatic"):
        if importlib.util.find_spec(module) is None:
            raise DemoError(f"the module {module} is not there for {sys.executable}: run this by `make demo`")


def package_folder():
    """The folder to put on the server's path, so that it runs the same package as this process."""
    return str(pathlib.Path(importlib.util.find_spec("profilomatic").origin).parent.parent)


def planted_line():
    """(file name, line number, its text): the line below the mark in the shop's source."""
    lines = (SHOP / "catalogue.py").read_text(encoding="utf-8").splitlines()
    (mark,) = [number for number, line in enumerate(lines) if line.strip().startswith("# planted:")]
    return "catalogue.py", mark + 2, lines[mark + 1].strip()


@contextlib.contextmanager
def running_shop(profiles, log_path):
    """gunicorn with the shop, as (host, port). The socket is opened here and handed down: no port is guessed."""
    env = {**os.environ, "SHOP_PROFILES": str(profiles), "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [package_folder(), env.get("PYTHONPATH")]))
    with socket.socket() as listener, open(log_path, "wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        address = listener.getsockname()
        env["SHOP_BIND"] = f"fd://{listener.fileno()}"
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", str(SHOP / "gunicorn.conf.py")],
            cwd=SHOP,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops the server in order
        )
    try:
        wait_for_answer(server, address, log_path)
        yield address
        stop(server, log_path)
    finally:
        end(server)


def wait_for_answer(server, address, log_path):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise DemoError(f"the server ended at its start; its log:\n{log_path.read_text()[-2000:]}")
        connection = http.client.HTTPConnection(*address, timeout=5)
        try:
            connection.request("GET", "/product/1000")
            if connection.getresponse().status == 200:
                return
            raise DemoError(f"the shop answers with errors; see {log_path}")
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        finally:
            connection.close()
    raise DemoError(f"the server did not answer within {START_SECONDS} s; see {log_path}")


def stop(server, log_path):
    """An orderly stop: the workers finish and write what they still hold."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise DemoError(f"the server did not stop within {STOP_SECONDS} s; see {log_path}") from None


def end(server):
    """The last resort: nothing of the server's own process group is left after this."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def run_load(address, count, deadline):
    sys.path.insert(0, str(SHOP))
    import load

    customers = load.Load(*address, count, deadline=deadline)
    customers.run(load.show_progress(sys.stdout, count))
    if customers.answered < count:
        say(f"the deadline of {deadline:.0f} s cut the load at {customers.answered} requests")
    if customers.errors:
        raise DemoError(f"{len(customers.errors)} requests went wrong, the first: {customers.errors[0]}")
    print()
    print("\n".join(customers.table()))
    print(flush=True)
    return customers


def report(profiles, *options, capture=False):
    """Run the report on the file; its output when captured."""
    command = [sys.executable, "-m", "profilomatic", "report", str(profiles), *options]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package_folder(), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE if capture else None, text=True, timeout=60)
    if done.returncode != 0:
        raise DemoError(f"`profilomatic report` ended with {done.returncode}")
    return done.stdout


def names(cause, planted):
    file, number, _ = planted
    return os.path.basename(cause["file"] or "") == file and cause["line"] == number


def closing_lines(data, planted, answered):
    """The verdict; DemoError when the report's first cause is not the planted line."""
    file, number, text = planted
    causes = data["slow_causes"]
    if not causes or not names(causes[0], planted):
        found = ", ".join(f"{cause['file']}:{cause['line']}" for cause in causes[:3]) or "none"
        raise DemoError(f"the report does not name the planted line {file}:{number} first. Its causes: {found}")
    cause, head = causes[0], data["head"]
    fraction, cpu, actions = head["overhead"]["fraction"], head["overhead"]["cpu"], head["actions"]
    if fraction is None:
        raise DemoError("the records carry no bill (profiler.overhead)")
    return [
        f"guilty: {file}:{number} in {cause['function']}: {text}",
        f"it is {cause['explained']:.0%} of why {cause['slow']} of {cause['actions']} {cause['group']} take "
        f"{cause['slow_time'] * 1e3:.0f} ms and the others {cause['rest_time'] * 1e3:.0f} ms",
        f"the bill: {fraction:.2%} of the server's CPU time by its own account, {cpu * 1e3:.0f} ms for {actions} profiles "
        f"({answered} requests of customers)",
    ]


def demo(options):
    check_needs()
    planted = planted_line()
    options.folder.mkdir(parents=True, exist_ok=True)
    profiles = options.folder / "profiles.jsonl"
    profiles.unlink(missing_ok=True)
    log_path = options.folder / "server.log"
    say("starting the shop: gunicorn, 2 processes of 4 threads, wrapped by one line of shop.py")
    with running_shop(profiles, log_path) as address:
        say(f"it answers on {address[0]}:{address[1]}; sending {options.requests} requests from 8 customers")
        customers = run_load(address, options.requests, options.deadline)
        say("stopping the shop")
    if not profiles.exists():
        raise DemoError(f"the shop wrote no profiles; see {log_path}")
    shown = os.path.relpath(profiles)
    say(f"the report: python -m profilomatic report {shown}\n")
    report(profiles)
    data = json.loads(report(profiles, "--json", capture=True))
    print()
    for line in closing_lines(data, planted, customers.answered):
        say(line)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--deadline", type=float, default=35.0, help="seconds after which the load stops anyway")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "demo")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped on this, too
    try:
        return demo(options)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the server is stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
