"""RestDestination: call graphs posted to a server; options are checked here, for both backends.

A context of the ssl module is used as it is when the extension and Python call the same OpenSSL and the context has no
callback, which would need the GIL (bindings/ext/ssl_context.c asks the rest). Otherwise what can be read out of it is taken
over, and a context with something that cannot be is refused, with a sentence that says what to pass instead.
"""

import gc
import os
import re

from ._files import dump_line

FORMATS = ("json", "msgpack")
_OF_EVERY_CLASS = ("__module__", "__doc__", "__dict__", "__weakref__", "__static_attributes__", "__firstlineno__")


class TlsOptions:
    """What a backend needs to know for TLS; `context` is the user's own, which only Python code can use."""

    def __init__(self):
        self.ca_file = self.ca_path = self.ca_pem = self.cert = self.key = self.context = None
        self.verify = self.check_hostname = True
        self.min_version = 2
        self.verify_flags = 0
        self.as_it_is = False

    def take(self, context, problem):
        """Takes an ssl.SSLContext. `problem` tells why the backend cannot use it as it is, or is None. TypeError, ValueError."""
        import ssl

        self.context = context
        for attribute in ("sni_callback", "keylog_filename"):
            if getattr(context, attribute, None) is not None:
                raise ValueError("ssl_context has a %s, which cannot be used: pass a context without it, or tls=True "
                                 "with ca_file=, cert= and key=" % attribute)
        if context.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise ValueError("ssl_context is one of a server: pass ssl.create_default_context()")
        if _has_callbacks(context):
            raise ValueError("ssl_context has a callback (for messages, say), which cannot be used: pass "
                             "a context without it, or tls=True with ca_file=, cert= and key=")
        self.verify = context.verify_mode != ssl.CERT_NONE
        self.check_hostname = context.check_hostname
        if not self.verify:
            import warnings

            warnings.warn("profilomatic: this ssl_context verifies no certificate: anybody on the way can read the call "
                          "graphs", RuntimeWarning, stacklevel=4)
        self.as_it_is = problem is None
        if not self.as_it_is:
            self._take_over(context, problem)

    def _take_over(self, context, problem):
        """What can be read out of a context."""
        import ssl

        if context.maximum_version not in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3):
            raise ValueError("ssl_context has a maximum_version of %s and cannot be used as it is (%s): leave that at the default"
                             % (context.maximum_version.name, problem))
        if self.check_hostname and not context.hostname_checks_common_name:
            raise ValueError("ssl_context ignores common names (hostname_checks_common_name) and cannot be used as it is (%s): "
                             "leave that at the default" % problem)
        if context.minimum_version == ssl.TLSVersion.TLSv1_3:
            self.min_version = 3
        self.verify_flags = int(context.verify_flags)
        authorities = context.get_ca_certs(binary_form=True)
        if authorities:
            self.ca_pem = "".join(map(ssl.DER_cert_to_PEM_cert, authorities))

    def told(self, error):
        """What is wrong with the files that were given, which it names."""
        given = ["%s=%r" % (name, getattr(self, name)) for name in ("ca_file", "cert", "key") if getattr(self, name) is not None]
        return ValueError("%s: %s" % (", ".join(given), error) if given else str(error))

    def python_context(self):
        """The same as an ssl.SSLContext."""
        import ssl

        context = self.context
        for path in filter(None, (self.ca_file, self.cert, self.key)):
            open(path, "rb").close()  # the ssl module's OSError does not say which file
        try:
            return self._filled(context)
        except ssl.SSLError as error:
            raise self.told("no certificate, or no key for it (PEM is expected): %s" % error) from None

    def _filled(self, context):
        import ssl

        if context is None:
            context = ssl.create_default_context(cafile=self.ca_file)
        elif self.ca_file is not None:
            context.load_verify_locations(cafile=self.ca_file)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


def _has_callbacks(context):
    """The C part of a context refers to its callbacks, whether or not an attribute tells of them. Not to those for pre-shared
    keys: these destinations/tls_context.c leaves out of its connections."""
    return any(callable(each) and not isinstance(each, type) for each in gc.get_referents(context))


def _problem_with(context, backend, others):
    """Why a context cannot be used as it is, or None. TypeError."""
    import ssl

    if not isinstance(context, ssl.SSLContext):
        raise TypeError("ssl_context must be an ssl.SSLContext, not %r" % (context,))
    if others:
        return "ca_file or cert is given as well"
    kinds = type(context).__mro__
    own = kinds[:kinds.index(ssl.SSLContext)]
    if any(name in vars(kind) for kind in own for name in dir(ssl.SSLContext) if name not in _OF_EVERY_CLASS):
        return "its class changes what an ssl.SSLContext does"
    return backend.ssl_context_problem(context) if backend.NAME == "c" else None


def _path(value):
    return None if value is None else os.fsdecode(value)


def _host(host):
    if not isinstance(host, str):
        raise TypeError("host must be text, not %r" % (host,))
    bare = host.strip("[]")
    if ":" in bare:
        import socket

        try:
            socket.inet_pton(socket.AF_INET6, bare.partition("%")[0])
        except (OSError, ValueError):
            raise ValueError("%r is no host name: without scheme, port and path (port= takes the port)" % (host,)) from None
    return host


def _port(port, tls):
    if port is None:
        return 443 if tls else 80
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError("port must be a number, not %r" % (port,))
    if not 1 <= port <= 65535:
        raise ValueError("port=%r: must be 1 to 65535" % (port,))
    return port


def _report_every(seconds):
    if seconds is None:
        return 0.0
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError("report_every must be a number of seconds or None, not %r" % (seconds,))
    if not 0.001 <= seconds <= 86400:
        raise ValueError("report_every=%r: must be 0.001 to 86400 seconds, or None" % (seconds,))
    return float(seconds)


def _send_every(seconds):
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError("send_every must be a number of seconds, not %r" % (seconds,))
    if not 0 <= seconds <= 3600:
        raise ValueError("send_every=%r: must be 0 to 3600 seconds" % (seconds,))
    return float(seconds)


def _timeout(timeout):
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError("timeout must be a number of seconds, not %r" % (timeout,))
    if not 0.001 <= timeout <= 3600:
        raise ValueError("timeout=%r: must be 0.001 to 3600 seconds" % (timeout,))
    return float(timeout)


def _headers(headers):
    try:
        if isinstance(headers, str):
            raise TypeError
        pairs = [] if headers is None else [tuple(pair) for pair in (headers.items() if hasattr(headers, "items") else headers)]
    except TypeError:
        raise TypeError("headers must be a dict or pairs of texts, not %r" % (headers,)) from None
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise TypeError("headers: names and values must be text, not %r" % (pair,))
    return pairs


def destination(host, port, timeout, ssl_context, path, format, headers, token, compress, spool_dir, tls, ca_file, cert,
                key, report_every, send_every):
    """What profilomatic.RestDestination() returns."""
    from . import _backend

    host = _host(host)
    if not isinstance(path, str):
        raise TypeError("path must be text, not %r" % (path,))
    if format not in FORMATS:
        raise ValueError("format=%r: must be 'json' or 'msgpack'" % (format,))
    if token is not None and not isinstance(token, str):
        raise TypeError("token must be text")
    if key is not None and cert is None:
        raise ValueError("key= without cert=")
    backend = _backend.load()
    options = None
    if ssl_context is not None or tls or ca_file is not None or cert is not None:
        options = TlsOptions()
        if ssl_context is not None:
            options.take(ssl_context, _problem_with(ssl_context, backend, ca_file is not None or cert is not None))
        if ca_file is not None:
            options.ca_file, options.ca_pem = _path(ca_file), None
        options.cert, options.key = _path(cert), _path(key)
    make = _native_destination if backend.NAME == "c" else _pure_destination
    return make(backend, host, _port(port, options is not None), _timeout(timeout), path, format, _headers(headers), token,
                bool(compress), _path(spool_dir), options, _report_every(report_every), _send_every(send_every))


def _native_destination(backend, host, port, timeout, path, format, headers, token, compress, spool_dir, tls, report_every,
                        send_every):
    arguments = {}
    if tls is not None:
        arguments = {name: getattr(tls, name) for name in (
            "ca_file", "ca_path", "ca_pem", "cert", "key", "verify", "check_hostname", "min_version", "verify_flags")}
        if tls.as_it_is:
            arguments["ssl_context"] = tls.context
    try:
        return backend.HttpDestination(host, port, path, timeout, headers, token, compress, format == "msgpack", tls is not None,
                                       spool_dir=spool_dir, report_every=report_every, send_every=send_every, **arguments)
    except ValueError as error:
        if "PEM" not in str(error):
            raise
        raise tls.told(error) from None


class PureRestDestination:
    """The twin's: one request per call graph with http.client, on the delivery thread. A failure raises, which counts."""

    def __init__(self, host, port, timeout, path, headers, token, compress, tls):
        # Imported here and nothing later: a fork while one thread imports leaves the child with a lock nobody releases.
        import gzip
        import http.client

        self._gzip, self._client = gzip, http.client
        self._address = (host.strip("[]"), port)
        self._timeout = timeout
        self._path = path
        self._context = tls.python_context() if tls is not None else None
        self._compress = compress
        self._connection = None
        self._pid = None
        self._headers = {"Content-Type": "application/x-ndjson", **{name: value.encode() for name, value in headers}}
        if token is not None:
            self._headers["Authorization"] = "Bearer " + token
        if compress:
            self._headers["Content-Encoding"] = "gzip"
        scheme, default = ("http", 80) if tls is None else ("https", 443)
        name = "[%s]" % self._address[0] if ":" in self._address[0] else self._address[0]
        shown = "" if port == default else ":%d" % port
        self.__qualname__ = self.name = "%s://%s%s%s" % (scheme, name, shown, path.partition("?")[0])

    def _connect(self):
        if self._context is None:
            self._connection = self._client.HTTPConnection(*self._address, timeout=self._timeout)
        else:
            self._connection = self._client.HTTPSConnection(*self._address, timeout=self._timeout,
                                                           context=self._context)
        self._pid = os.getpid()

    def _disconnect(self):
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, body):
        self._connection.request("POST", self._path, body, self._headers)
        response = self._connection.getresponse()
        response.read(10 << 20)
        if not response.isclosed():
            raise OSError("the answer is longer than 10 MiB")
        return response

    def __call__(self, record):
        body = dump_line(record).encode("ascii")
        if self._compress:
            body = self._gzip.compress(body, 1)
        kept = self._connection is not None and self._pid == os.getpid()
        if not kept:
            self._connection = None  # a forked child leaves the parent's alone
            self._connect()
        try:
            try:
                response = self._post(body)
            except (self._client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if not kept:
                    raise
                self._disconnect()  # closed while it was idle
                self._connect()
                response = self._post(body)
        except BaseException:
            self._disconnect()
            raise
        if not 200 <= response.status < 300:
            raise OSError("the server answered %d %s" % (response.status, response.reason))

    def __del__(self):
        if getattr(self, "_pid", None) == os.getpid():  # a forked child leaves the parent's connection alone
            self._disconnect()

    def __repr__(self):
        return "<profilomatic destination: %s>" % self.name


# What destinations/http_options.c refuses, for the twin.
_OURS = ("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "te", "upgrade", "expect",
         "trailer", "idempotency-key")


def _check_headers(headers, token):
    for name, value in headers:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not all(c == "\t" or " " <= c != "\x7f" for c in value):
            raise ValueError("header %r has a name or a value that HTTP does not allow" % (name,))
        if name.lower() in _OURS:
            raise ValueError("header %r is set by the destination itself" % (name,))
        if token is not None and name.lower() == "authorization":
            raise ValueError("token and an Authorization header: one of them")
    if token is not None and not all("!" <= c <= "~" for c in token):
        raise ValueError("the token has characters that HTTP does not allow")


def _pure_destination(backend, host, port, timeout, path, format, headers, token, compress, spool_dir, tls, report_every,
                      send_every):
    if format != "json":
        raise ValueError("format=%r needs the C extension; pass format='json'" % (format,))
    if spool_dir is not None:
        raise ValueError("spool_dir needs the C extension")
    if not host or any(c in host for c in "/?#@ \r\n"):
        raise ValueError("%r is no host name: without scheme, port and path" % (host,))
    if not path.startswith("/") or not all("!" <= c <= "~" for c in path):
        raise ValueError("path=%r: must begin with / and have no blanks (encode them)" % (path,))
    _check_headers(headers, token)
    return PureRestDestination(host, port, timeout, path, headers, token, compress, tls)
