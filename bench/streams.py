"""How fast a command's output gets to a client, and what that costs api's memory.

While the command writes, as events, and afterwards from its log. The reader only counts.
"""

from __future__ import annotations

import json
import socket
import time

from bench import proc
from bench.client import BASE, RefusedError
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.probe import Effort

_LINE = "x" * 99
_LIVE_MIB = 100
#: Less than what is kept of a process's log, so that no byte of it is dropped.
_KEPT_MIB = 12
_LEAST = Target(100, least=True)
_GROWTH = Target(16)


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Each way in turn, in rounds."""
    live = Figure("stream_live", "exec?stream=true, while the command writes", "MB/s", _LEAST)
    raw = Figure("stream_raw", "a log from disk, as bytes", "MB/s", _LEAST)
    events = Figure("stream_events", "a log from disk, as events", "MB/s", _LEAST)
    growth = Figure("stream_growth", "api's RSS, growth meanwhile", "MiB", _GROWTH)
    client = daemon.client()
    sandbox = client.create()
    started = client.ask("POST", f"/sandboxes/{sandbox}/processes", {"command": _output(_KEPT_MIB)})
    process = f"/sandboxes/{sandbox}/processes/{started['id']}"
    client.ask("GET", f"{process}/wait?timeoutMs=60000")
    before = highest = proc.Memory.of(daemon.api).rss
    for _ in range(effort.rounds):
        for figure, size, method, path, body in (
            (
                live,
                _LIVE_MIB,
                "POST",
                f"/sandboxes/{sandbox}/exec?stream=true",
                {"command": _output(_LIVE_MIB)},
            ),
            (raw, _KEPT_MIB, "GET", f"{process}/logs?raw=true", None),
            (events, _KEPT_MIB, "GET", f"{process}/logs?follow=true", None),
        ):
            begun = time.perf_counter()
            came = _read(daemon, method, path, body)
            seconds = time.perf_counter() - begun
            if came < size << 20:
                raise RefusedError(f"{path}: {came} bytes came, of {size << 20}")
            figure.add([(size << 20) / 1e6 / seconds], None, proc.load())
            highest = max(highest, proc.Memory.of(daemon.api).rss)
    growth.add([(highest - before) / 1024], None, proc.load())
    client.kill(sandbox)
    client.close()
    return [live, raw, events, growth]


def _output(mib: int) -> str:
    return f"yes {_LINE} | head -c {mib}M"


def _read(daemon: Daemon, method: str, path: str, body: object) -> int:
    """How many bytes an answer has, with what HTTP puts around them. It is thrown away."""
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {BASE}{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {daemon.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(daemon.address, 60) as sock:
        sock.sendall(head.encode() + data)
        count, room = 0, bytearray(1 << 20)
        while size := sock.recv_into(room):
            if not count and not room.startswith(b"HTTP/1.1 200"):
                raise RefusedError(f"{path}: {bytes(room[:300]).decode(errors='replace')}")
            count += size
    return count
