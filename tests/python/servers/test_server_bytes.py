"""The answer of a wrapped application is byte for byte the answer of the bare one."""

import concurrent.futures

import pytest
from harness import body_of, without_date


def request(target, method="GET", headers=(), body=b"", version="1.1"):
    lines = [f"{method} {target} HTTP/{version}", "Host: test", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


PATHS = (
    "/list /one /tuple /empty /generator /generator-one /lazy /body /sized /empty-chunks /write /twice /headers "
    "/not-modified /no-content /raise /raise-mid /raise-close /file /stream /no-such-path"
).split()
FORM = b"a=1&b=%C3%A9\nsecond line\n"
CORPUS = {
    **{f"GET {path}": request(path) for path in PATHS},
    **{f"HEAD {path}": request(path, "HEAD") for path in PATHS if path not in ("/raise-mid", "/stream")},
    **{f"HTTP/1.0 {path}": request(path, version="1.0") for path in ("/list", "/generator", "/file", "/lazy")},
    "query": request("/echo?q=caf%C3%A9&empty=&password=secret&%zz"),
    "path in UTF-8": request("/caf%C3%A9"),
    "path in raw bytes": request("/caf\xe9"),
    "form": request("/echo", "POST", [f"Content-Length: {len(FORM)}"], FORM),
    "lines": request("/lines", "POST", [f"Content-Length: {len(FORM)}"], FORM),
    "large form": request("/echo", "POST", ["Content-Length: 3000000"], b"z" * 3_000_000),
    "unread form": request("/list", "POST", [f"Content-Length: {len(FORM)}"], FORM),
    "odd method": request("/echo", "PROPFIND"),
    "task id": request("/echo", headers=["X-Task-UUID: 2f1c8a52-3a5b-4d8e-9a5b-0c9a7d3f1e11"]),
    "malformed task id": request("/echo", headers=["X-Task-UUID: not/an id\t\xff"]),
    "oversized task id": request("/echo", headers=["X-Task-UUID: " + "a" * 5000]),
    "traceparent": request("/echo", headers=["traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]),
    "malformed traceparent": request("/echo", headers=["traceparent: 00-xyz-" + "0" * 3000]),
    "header in latin-1": request("/echo", headers=["X-Name: caf\xe9"]),
}
CHUNKED = {
    "chunked": request(
        "/echo", "POST", ["Transfer-Encoding: chunked"], b"5\r\nhello\r\n7;a=b\r\n, world\r\n0\r\n\r\n"
    ),
    "large chunked": request(
        "/echo", "POST", ["Transfer-Encoding: chunked"], b"8000\r\n%b\r\n" % (b"y" * 0x8000) * 40 + b"0\r\n\r\n"
    ),
}


def comparable(server, sent):
    """The answer without what the clock says: the date, and where a server cut the body into chunks by it, the cuts."""
    answer = without_date(server.exchange(sent))
    if server.kind.keeps_chunks or b"chunked" not in answer:
        return answer
    return answer.partition(b"\r\n\r\n")[0], body_of(answer)


def same(server, name, bare, wrapped):
    if name in server.kind.may_cut:
        return bare.startswith(wrapped) or wrapped.startswith(bare)
    return bare == wrapped


@pytest.mark.acceptance("W2", "W4", "W5", "W6", "W7", "W8", "W21")
def test_bytes_of_the_corpus_are_the_same_bare_and_wrapped(kind, server, bare_server):
    corpus = dict(CORPUS)
    if server.kind.reads_chunked:
        corpus |= CHUNKED
    with concurrent.futures.ThreadPoolExecutor(2) as both:
        bare, wrapped = both.map(
            lambda asked: {name: comparable(asked, sent) for name, sent in corpus.items()}, (bare_server, server)
        )
    different = {name: (bare[name], wrapped[name]) for name in corpus if not same(server, name, bare[name], wrapped[name])}
    assert different == {}
    # The corpus reaches the application: its answers are those meant.
    meant = {
        "GET /list": b"one ",
        "GET /lazy": b"X-Late: yes",
        "GET /twice": b"503 ",
        "GET /write": b"pushed ",
        "GET /raise": b"500 ",
        "GET /headers": b"caf\xe9",
        "GET /file": bytes(range(256)),
        "large form": b"3000000",
        "lines": b"2 lines",
    }
    for name, piece in meant.items():
        if name.removeprefix("GET ") not in server.kind.strays:
            assert piece in (wrapped[name] if isinstance(wrapped[name], bytes) else b"".join(wrapped[name])), name


@pytest.mark.acceptance("W2")
def test_content_length_is_never_invented(kind, server, bare_server):
    """Servers may count a sequence of one chunk; a generator of one chunk is not such a sequence."""
    for path in ("/one", "/sized", "/generator-one"):
        counted = [b"content-length:" in s.get(path).lower() for s in (bare_server, server)]
        assert counted[0] == counted[1], path
