"""What shipping costs: CPU and time per profile of 30 nodes, posted over loopback TLS by the loop thread, against the original's way
(json.dumps and one http.client request a profile, over the same TLS) in the same run.

CPU is that of the sending thread alone: the exporter's own clock, and thread_time().
"""

import http.client
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import time

from common import quick, save, table

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python" / "destinations"))

SERVER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with context.wrap_socket(connection, server_side=True) as stream, stream.makefile("rb") as file:
            while True:
                length = None
                for line in iter(file.readline, b"\\r\\n"):
                    if not line:
                        raise OSError
                    if line.lower().startswith(b"content-length:"):
                        length = int(line[15:])
                while length:
                    length -= len(file.read(min(length, 1 << 16)))
                stream.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    except OSError:
        pass
"""


def build():
    folder = str(ROOT / "build" / "bench-c")
    subprocess.run(["cmake", "-S", str(ROOT), "-B", folder, "-G", "Ninja", "-DPOM_BUILD_PYTHON=OFF"], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", folder, "bench_ship"], check=True, stdout=subprocess.DEVNULL)
    return os.path.join(folder, "bench", "bench_ship")


def original(record, port, ca, count):
    """CPU seconds of this thread for each record."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl.create_default_context(cafile=ca))
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    began = time.thread_time()
    for _ in range(count):
        connection.request("POST", "/api/data", json.dumps(record), {"Content-Type": "application/json"})
        connection.getresponse().read()
    spent = time.thread_time() - began
    connection.close()
    return spent / count


def main():
    from rest_server import Certificates

    program = build()
    rounds, requests, repeats = (2, 200, 1) if quick() else (10, 2000, 5)
    record = json.loads(subprocess.run([program, "record"], check=True, capture_output=True).stdout)
    rows, result = [], {}
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(pathlib.Path(folder))
        server = subprocess.Popen([sys.executable, "-c", SERVER, certificates.good, certificates.key("good")],
                                  stdout=subprocess.PIPE, text=True)
        try:
            port = int(server.stdout.readline())
            base = min(original(record, port, certificates.ca, requests) for _ in range(repeats))
            rows.append(["json.dumps, http.client", "%.1f" % (base * 1e6), "1", "", len(json.dumps(record))])
            result["original"] = {"cpu_us": base * 1e6}
            for form in ("json", "msgpack"):
                for compress in ("plain", "gzip"):
                    runs = [json.loads(subprocess.run(
                        [program, str(port), certificates.ca, form, compress, str(rounds)], check=True,
                        capture_output=True).stdout) for _ in range(repeats)]
                    best = min(runs, key=lambda run: run["cpu_ns"])
                    cpu = best["cpu_ns"] / best["profiles"] / 1e9
                    rate = max(run["profiles"] / run["wall_ns"] for run in runs) * 1e9
                    size = best["bytes"] / best["profiles"]
                    rows.append(["%s, %s" % (form, compress), "%.1f" % (cpu * 1e6), "1/%.0f" % (base / cpu),
                                 "%d" % rate, "%.0f" % size])
                    result["%s %s" % (form, compress)] = {"cpu_us": cpu * 1e6, "per_second": rate, "bytes": size}
        finally:
            server.kill()
            server.wait()
    table("Shipping profiles of 30 nodes over loopback TLS",
          ["way", "CPU us each", "of the original", "a second", "bytes each"], rows)
    save("ship", result)


if __name__ == "__main__":
    main()
