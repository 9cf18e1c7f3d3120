"""A server on loopback that answers each request by a script, plain or TLS, and certificates for it."""

import gzip
import json
import socket
import ssl
import subprocess
import threading

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Server:
    """script: what to answer to each request, the last one for ever. bytes are sent as they are; a callable gets the
    connection. After b"" the connection is closed without an answer."""

    def __init__(self, script=(OK,), context=None, port=0):
        self.script = list(script)
        self.context = context
        self.requests = []  # (head, records or raw body)
        self.connections = 0
        self.resumed = []
        self.versions = []
        self.problems = []
        self._stopping = threading.Event()
        self._open = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=16)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join(10)

    def records(self):
        return [record for _, body in self.requests for record in body]

    def _accept(self):
        threads = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join(10)

    def _serve(self, connection):
        self._open.add(connection)
        raw = connection
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
                self._open.add(connection)
                self.resumed.append(connection.session_reused)
                self.versions.append(connection.version())
            self.connections += 1
            with connection.makefile("rb") as stream:
                while self._one(connection, stream):
                    pass
        except (OSError, ValueError) as error:
            self.problems.append(error)
        finally:
            for one in (connection, raw):
                self._open.discard(one)
                one.close()

    def _one(self, connection, stream):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return False
            head += line
        fields = {name.strip().lower(): value.strip()
                  for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:] if line)}
        body = stream.read(int(fields["content-length"]))
        if fields.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if "json" in fields["content-type"]:
            body = [json.loads(line) for line in body.decode().splitlines()]
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.requests.append((head.decode(), body))
        if callable(answer):
            answer = answer(connection, self._stopping)
        if not answer:
            return False
        connection.sendall(answer)
        return b"connection: close" not in answer.lower() and b"ontent-Length" in answer


class Gate:
    """An answer that waits until it is opened, and then ends the connection. Meanwhile everything piles up in the queue, so that what
    comes next is one batch."""

    def __init__(self, answer=OK):
        self.answer = answer
        self._open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, connection, stopping):
        self.reached.set()
        while not self._open.wait(0.01) and not stopping.is_set():
            pass
        return self.answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    def open(self):
        self._open.set()


def answer(status, headers="", body=""):
    return ("HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)).encode()


def fates(counters):
    """Of a destination's counters: what became of what was produced, but for what is still queued."""
    return counters["sent"] + counters["spooled"] + sum(counters["dropped"].values())


def _openssl(*arguments, **options):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, **options)


class Certificates:
    """An authority and what it signed, as PEM files in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = self._new("ca", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign", days="10")
        self.good = self._signed("good", "DNS:localhost,IP:127.0.0.1")
        self.other = self._signed("other", "DNS:other.example")
        self.common_name = self._signed("localhost", None)  # and no other
        self.expired = self._signed("expired", "DNS:localhost,IP:127.0.0.1", expired=True)
        self.self_signed = self._new("self", "/CN=self", "-addext", "subjectAltName=IP:127.0.0.1", days="10")

    def key(self, name):
        return str(self.folder / (name + ".key"))

    def _new(self, name, subject, *more, days):
        path = str(self.folder / (name + ".pem"))
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", days,
                 "-subj", subject, "-keyout", self.key(name), "-out", path, *more)
        return path

    def _signed(self, name, alternatives, expired=False):
        path, request, extensions = (str(self.folder / (name + end)) for end in (".pem", ".csr", ".ext"))
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name,
                 "-keyout", self.key(name), "-out", request)
        with open(extensions, "w") as file:
            # What VERIFY_X509_STRICT, Python 3.13's default, asks for.
            file.write("basicConstraints=critical,CA:FALSE\nkeyUsage=digitalSignature\n"
                       "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
            if alternatives is not None:
                file.write("subjectAltName=%s\n" % alternatives)
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key("ca"), "-set_serial",
                 str(len(name) + 1000 * expired), "-days", "-1" if expired else "5", "-extfile", extensions, "-out", path)
        return path

    def server(self, name, ask_client=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(self.folder / (name + ".pem")), self.key(name))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context
