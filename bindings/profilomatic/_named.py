"""The destination that PROFILOMATIC_DESTINATION names: code says what is profiled, the environment where to.

Added with the first application that is wrapped, so that a process without one starts no engine and opens no file. What is
wrong with it is one line on standard error, and the application is served: a variable must not stop it.
"""

import os
import sys

failed = False  # it was named, and could not be had
_settled = False
_said = None  # by `profilomatic run`, to an interpreter that serves for its program: it goes before the environment


def name(text):
    """Names the destination in the environment's place."""
    global _said
    _said = text


def add():
    """Adds the named destination, if there is one; twice is once."""
    global _settled, failed
    if _settled:
        return
    _settled = True
    text = _said if _said is not None else in_environment()
    if not text:
        return
    import profilomatic

    try:
        profilomatic.add_destination(destination(text))
    except Exception as error:
        failed = True
        complain(("%r: %s" if _said is not None else "PROFILOMATIC_DESTINATION=%r: %s") % (text, error))


def in_environment():
    return os.environ.get("PROFILOMATIC_DESTINATION", "").strip()


def waiting():
    """The destination that the environment names, as long as there is no application; else empty."""
    return "" if _settled else in_environment()


def settle():
    """Somebody else says where to: the environment is not asked."""
    global _settled
    _settled = True


def is_file(text):
    return text != "-" and "://" not in text


def destination(text):
    """The destination that a text names: http://host[:port][/path] or https://, tcp://host:port, "-" for standard error, else
    a file.

    A file is appended to, as several processes share it. A server gets PROFILOMATIC_TOKEN as its token. ValueError and
    OSError say what is wrong.
    """
    import profilomatic

    if is_file(text):
        return profilomatic.file_destination(text, append=True)
    return look(text)()


def look(text):
    """A function that makes the destination, if the text is one of what is no file: nothing is connected to here. ValueError."""
    import profilomatic

    if text == "-":
        return lambda: profilomatic.file_destination(sys.stderr)
    from urllib.parse import urlsplit

    url = urlsplit(text)
    if url.scheme == "tcp" and url.hostname and url.port and url.netloc == text[len("tcp://"):] and url.username is None:
        return lambda: over_tcp(url.hostname, url.port)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username is not None:
        raise ValueError("a destination is a file, -, tcp://host:port or http[s]://host[:port][/path], not %r" % (text,))
    path = url.path if url.path not in ("", "/") else "/api/data"
    token = os.environ.get("PROFILOMATIC_TOKEN") or None
    made = profilomatic.RestDestination(url.hostname, url.port, path=path, tls=url.scheme == "https", token=token)
    return lambda: made


def lasting(text):
    """The same destination for a process in another folder."""
    return os.path.abspath(text) if is_file(text) else text


def tcp_name(host, port):
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def over_tcp(host, port, flush=True):
    """A destination that writes lines to a TCP connection, which is made now. OSError."""
    import socket

    import profilomatic

    connection = socket.create_connection((host, port), timeout=5)
    connection.settimeout(30)  # a receiver that stops reading holds up the delivery thread only, and not for ever
    destination = profilomatic.file_destination(connection.makefile("w", encoding="utf-8", newline="\n"), flush=flush)
    connection.close()  # the file keeps it open, and is the last to close it
    destination.__qualname__ = tcp_name(host, port)
    return destination


def complain(error):
    try:
        print("profilomatic: not profiled: %s" % (error,), file=sys.stderr)
    except Exception:
        pass  # no standard error
