"""What the proxy costs: against the same server reached directly, and through nginx as a reverse proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from bench import proc
from bench.client import Client, RefusedError
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.probe import Effort, Probe, now_ms, sample
from nsbox.model.errors import HostProblem

_ORIGIN = os.path.join(os.path.dirname(__file__), "origin.py")
_PORT = 8090
_BODY = 256 << 20
_CROWD = 1_000
_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 10000000; keepalive_time 1d;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 10000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://origin; proxy_http_version 1.1; proxy_max_temp_file_size 0;
    proxy_set_header Connection ""; proxy_set_header Host $host;
  }} }}
}}
"""


class Way(NamedTuple):
    """One way to the server."""

    address: tuple[str, int]
    host: str


class _Visitor:
    """One keep-alive connection on one way."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self.socket = socket.create_connection(way.address, 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str = "/") -> int:
        """Get and throw away; how many bytes of body came."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._way.host}\r\n\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._some()
        head, _, body = received.partition(b"\r\n\r\n")
        _, found, tail = head.lower().partition(b"content-length:")
        if not head.startswith(b"HTTP/1.1 200 ") or not found:
            raise RefusedError(f"{head[:200]!r}")
        left = size = int(tail.partition(b"\r\n")[0])
        left -= len(body)
        buffer = bytearray(1 << 20)
        while left > 0:
            came = self.socket.recv_into(buffer)
            if not came:
                raise RefusedError("closed in the middle of a body")
            left -= came
        return size

    def _some(self) -> bytes:
        data = self.socket.recv(65_536)
        if not data:
            raise RefusedError("closed")
        return data

    def close(self) -> None:
        self.socket.close()


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Latency, throughput and a crowd, on each way."""
    client = daemon.client()
    sandbox = client.create()
    try:
        with _host_origin() as direct, _nginx(direct) as nginx:
            inside = _inside(client, sandbox)
            ways = {"direct": direct, "nginx": nginx, "nsbox": inside}
            return [
                *_latency(ways, effort),
                *_fresh(ways, effort),
                *_throughput(ways, effort),
                _crowd(inside),
            ]
    finally:
        client.kill(sandbox)
        client.close()


def _latency(ways: dict[str, Way], effort: Effort) -> list[Figure]:
    """Short requests on a kept connection, each way in turn; added is the difference of neighbours."""
    visitors = {name: _Visitor(way) for name, way in ways.items()}
    figures = [Figure(f"proxy_{name}", f"GET of two bytes, {name}") for name in ways]
    added = Figure("proxy_added", "added by nsbox's proxy", target=Target(0.3))
    beside = Figure("proxy_added_nginx", "added by nginx")

    def once() -> tuple[float, ...]:
        times = []
        for visitor in visitors.values():
            begun = now_ms()
            visitor.get()
            times.append(now_ms() - begun)
        return (*times, times[2] - times[0], times[1] - times[0])

    found = sample([Probe((*figures, added, beside), once, effort.samples * 10)], effort.rounds)
    for visitor in visitors.values():
        visitor.close()
    return found


def _fresh(ways: dict[str, Way], effort: Effort) -> list[Figure]:
    """The same with a connection for each request: the proxy has init dial each time."""

    def visit(way: Way) -> float:
        begun = now_ms()
        visitor = _Visitor(way)
        visitor.get()
        took = now_ms() - begun
        visitor.close()
        return took

    figures = tuple(Figure(f"proxy_fresh_{name}", f"the same on a new connection, {name}") for name in ways)
    probe = Probe(figures, lambda: tuple(visit(way) for way in ways.values()), effort.samples * 2)
    return sample([probe], effort.rounds)


def _throughput(ways: dict[str, Way], effort: Effort) -> list[Figure]:
    visitors = {name: _Visitor(way) for name, way in ways.items()}
    figures = [Figure(f"proxy_body_{name}", f"a body of 256 MiB, {name}", unit="MiB/s") for name in ways]
    share = Figure("proxy_body_share", "nsbox / nginx", unit="%", target=Target(80, least=True))

    def once() -> tuple[float, ...]:
        rates = []
        for visitor in visitors.values():
            begun = time.perf_counter()
            rates.append(visitor.get(f"/{_BODY}") / (1 << 20) / (time.perf_counter() - begun))
        return (*rates, 100 * rates[2] / rates[1])

    found = sample([Probe((*figures, share), once, max(3, effort.samples // 8))], effort.rounds)
    for visitor in visitors.values():
        visitor.close()
    return found


def _crowd(way: Way) -> Figure:
    """Many connections held at once, each with a request before and after all the others came."""
    figure = Figure(
        "proxy_crowd", f"connections held at once, of {_CROWD}", unit="", target=Target(_CROWD, least=True)
    )
    pressure = proc.Pressure()
    visitors = []
    try:
        for _ in range(_CROWD):
            visitors.append(_Visitor(way))
            visitors[-1].get()
        held = sum(_answers(visitor.get) for visitor in visitors)
    finally:
        for visitor in visitors:
            visitor.close()
    figure.add([held], pressure.share(), proc.load())
    return figure


def _answers(get: Callable[[], int]) -> bool:
    try:
        return get() == 2
    except (OSError, RefusedError):
        return False


def _inside(client: Client, sandbox: str) -> Way:
    with open(_ORIGIN, encoding="utf-8") as file:
        client.write(sandbox, "/tmp/origin.py", file.read())
    command = {"command": ["python3", "/tmp/origin.py", str(_PORT)]}
    client.ask("POST", f"/sandboxes/{sandbox}/processes", command)
    exposed = client.ask("POST", f"/sandboxes/{sandbox}/ports", {"port": _PORT, "waitMs": 10_000})
    if not exposed["listening"]:
        raise HostProblem("the server in the sandbox does not listen")
    url = urlsplit(exposed["url"])
    assert url.port is not None
    return Way(("127.0.0.1", url.port), url.netloc)


@contextlib.contextmanager
def _host_origin() -> Iterator[Way]:
    port = _free_port()
    process = subprocess.Popen([sys.executable, _ORIGIN, str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Way(("127.0.0.1", port), "localhost")
    finally:
        _end(process)


@contextlib.contextmanager
def _nginx(origin: Way) -> Iterator[Way]:
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        raise HostProblem("nginx is not here to compare with", remedy="apt-get install nginx-light")
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        path = os.path.join(folder, "nginx.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(_NGINX.format(folder=folder, port=port, origin=origin.address[1]))
        process = subprocess.Popen([program, "-c", path, "-e", f"{folder}/error.log"])
        try:
            _wait(port)
            yield Way(("127.0.0.1", port), "localhost")
        finally:
            _end(process)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise HostProblem("nginx did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    if process.stdout is not None:
        process.stdout.close()
