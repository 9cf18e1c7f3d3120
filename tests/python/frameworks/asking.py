"""A client without a server."""

import io

import pytest


def ask(app, path, method="GET", **more):
    """One request as a server makes it: (status, headers, body)."""
    path, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query,
        "SERVER_NAME": "localhost", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "localhost:8000",
        "REMOTE_ADDR": "127.0.0.1", "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(), "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False, **more}
    said = []

    def start_response(status, headers, exc_info=None):
        said[:] = [status, [header for header in headers if header[0].lower() not in ("date", "x-request-id")]]
        return lambda data: pytest.fail("nobody writes here")

    body = app(environ, start_response)
    try:
        chunks = list(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return (*said, chunks)
