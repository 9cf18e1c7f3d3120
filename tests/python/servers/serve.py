"""Serve an application with waitress or wsgiref on a socket that the caller opened: serve.py SERVER FD MODULE:NAME."""

import importlib
import os
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def waitress(listener, app):
    import waitress

    waitress.serve(app, sockets=[listener], threads=4, _quiet=True)


def wsgiref(listener, app):
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    def leave(*_):
        sys.exit(0)

    # Unlike waitress this server has no stop of its own: leave by an exception, as Ctrl-C would, so that atexit runs.
    signal.signal(signal.SIGTERM, leave)
    server = WSGIServer(listener.getsockname(), WSGIRequestHandler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_name, server.server_port = listener.getsockname()
    server.setup_environ()
    server.set_app(app)
    server.serve_forever(poll_interval=0.05)


def main():
    kind, fd, target = sys.argv[1:]
    module, name = target.split(":")
    app = getattr(importlib.import_module(module), name)
    listener = socket.socket(fileno=int(fd))
    {"waitress": waitress, "wsgiref": wsgiref}[kind](listener, app)


if __name__ == "__main__":
    main()
