"""Malformed HTTP, JSON and paths at a real daemon, over raw sockets: a 4xx or the end of the connection, and
the daemon lives."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.acceptance.plugin import Say
from tests.e2e.client import BASE
from tests.e2e.daemon import Daemon

#: A change is judged by what it changes, and not by luck.
_ALIKE = "NSBOX_MALFORMED" not in os.environ
EXAMPLES = int(os.environ.get("NSBOX_MALFORMED") or 300)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
#: h11 tells so of transfer codings that nobody has (RFC 9112, 6.1).
_ALSO = 501
_TOKEN = st.text("abcXYZ-019!#", min_size=1, max_size=12).map(str.encode)
_JUNK = st.binary(max_size=60)
_KNOWN = st.sampled_from(
    [
        *(b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 5, 6", b"Content-Length: 0x5"),
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding : chunked"),
        *(
            b"Host: y",
            b"Host:",
            b" folded",
            b"Expect: 100-continue",
            b"Connection: close",
            b"Connection: upgrade",
        ),
        *(b"Upgrade: h2c", b"Upgrade: websocket", b"Content-Encoding: gzip", b"Authorization: Bearer x"),
        *(b"Content-Type: text/plain", b"Range: bytes=9-1", b"Idempotency-Key: \xff", b"Nsbox-User: us_x"),
    ]
)
_CLEAN = st.builds(lambda name, value: name + b": " + value, _TOKEN, _TOKEN)
_FIELDS = st.one_of(
    st.lists(_KNOWN, max_size=3),
    st.lists(_CLEAN, max_size=3),
    st.lists(st.one_of(_KNOWN, _CLEAN, st.builds(lambda value: b"a: " + value, _JUNK), _JUNK), max_size=6),
)
_PART = st.sampled_from(
    [
        "%2e%2e",
        "%00",
        "%c0%ae",
        "..",
        ".",
        "",
        "%",
        "%zz",
        "sb_" + "a" * 32,
        "exec",
        "files",
        "\\",
        "*",
        "//",
        "a" * 300,
    ]
)
_PATH = st.lists(st.one_of(_PART, st.text("abc%./?&=+;~", max_size=8)), max_size=5).map("/".join)
_TARGET = st.one_of(
    _PATH.map(lambda path: f"{BASE}/sandboxes/{path}".encode()),
    _PATH.map(lambda path: f"{BASE}/sandboxes?{path}".encode()),
    st.sampled_from([b"*", b"http://x" + BASE.encode() + b"/sandboxes", b"x:80", b"/", b"//", b"\xff", b""]),
    _JUNK,
)
_METHOD = st.one_of(
    st.sampled_from([b"POST", b"PUT", b"DELETE", b"TRACE", b"CONNECT", b"PATCH", b"post"]), _TOKEN
)
_VERSION = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.9", b"http/1.1", b""])
_JSON = st.sampled_from(
    [
        b'{"vcpus": NaN}', b'{"vcpus": 1e999}', b'{"vcpus": ' + b"9" * 5_000 + b"}",
        b'{"vcpus": 1, "vcpus": 1}', b"[" * 50_000, b'{"envVars":' * 5_000, b'{"name": "\\ud800"}',
        b'{"name": "\xc0\xae"}', b"{}{}", b"\xff\xfe{\0}\0",
        b'{"name": "\\u0000"}', b'{"timeoutMs": -0.0}', b"null", b'"', b'{"vcpus": true}',
    ]
)  # fmt: skip
_CHUNKS = st.lists(
    st.sampled_from(
        [
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"-1\r\n",
            b"ffffffffffffffffffff\r\n",
            b"5;a=b\r\nhello\r\n",
            b"5\nhello\n",
            b"zz\r\n",
        ]
    ),
    max_size=4,
).map(b"".join)


def answers(daemon: Daemon, data: bytes) -> list[int]:
    """The statuses of all that is answered until the end of the connection, which comes at once: we send no
    more, and say so."""
    host, port = daemon.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                received += piece
        except ConnectionError:
            pass  # cut
    return [int(found) for found in _STATUS.findall(received)]


def test_malformed_requests_harm_nobody(own_daemon: Daemon, figure: Say) -> None:
    """Nothing here is a good request: who would be let in sends what is none, and who sends what may be one
    is not let in."""
    seen: Counter[int] = Counter()
    inputs = 0

    def attempt(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        found = answers(own_daemon, data)
        seen.update(found)
        assert all(400 <= status < 500 or status in (100, _ALSO) for status in found), (data, found)

    @settings(
        derandomize=_ALIKE,
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_METHOD, _TARGET, _VERSION, _FIELDS, st.one_of(_CHUNKS, _JUNK, _JSON))
    def heads(method: bytes, target: bytes, version: bytes, fields: list[bytes], body: bytes) -> None:
        told = b"".join(field + b"\r\n" for field in fields)
        attempt(method + b" " + target + b" " + version + b"\r\nHost: x\r\n" + told + b"\r\n" + body)

    @settings(
        derandomize=_ALIKE,
        max_examples=EXAMPLES // 3,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_JSON, st.booleans())
    def bodies(body: bytes, chunked: bool) -> None:
        framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        assert own_daemon.key is not None
        key = b"Authorization: Bearer " + own_daemon.key.encode()
        told = b"\r\n".join([b"Host: x", key, length, b"Content-Type: application/json"])
        attempt(b"POST /api/v1/sandboxes HTTP/1.1\r\n" + told + b"\r\n\r\n" + framed)

    @settings(
        derandomize=_ALIKE,
        max_examples=EXAMPLES // 3,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]), _PATH, _JSON)
    def paths(method: bytes, path: str, body: bytes) -> None:
        assert own_daemon.key is not None
        told = b"Host: x\r\nAuthorization: Bearer %s\r\n" % own_daemon.key.encode()
        target = f"{BASE}/sandboxes/{path}".encode()
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        attempt(method + b" " + target + b" HTTP/1.1\r\n" + told + length + body)

    pid, before, start = own_daemon.api_pid, own_daemon.residue().api_fds, own_daemon.rss_kib()
    heads()
    bodies()
    paths()
    grown = own_daemon.rss_kib() - start
    print(f"\nmalformed: {inputs} inputs, answers {dict(sorted(seen.items()))}, api {grown / 1024:+.1f} MiB")
    figure(18, tried=inputs)
    assert own_daemon.api_pid == pid
    with own_daemon.api() as api:
        assert api.request("GET", "/sandboxes").json == []
    assert own_daemon.residue().api_fds <= before + 5
    assert grown < 64 * 1024
    assert "Traceback" not in own_daemon.log()
