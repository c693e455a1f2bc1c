"""Rootless podman through its REST service: the nearest thing to nsbox that distributions ship."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from bench import proc
from bench.account import Who
from bench.figures import Figure
from bench.probe import now_ms

_START = 30.0
_PATIENCE = 60.0
_API = "/v4.0.0/libpod/containers"


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(self._path)


def measure(who: Who, layer: str, work: str, runs: int) -> Figure:
    """Create, start, wait, delete: `true` in a fresh container, on one keep-alive connection."""
    figure = Figure("podman", f"podman over REST: create, start, wait, delete, as {who.name}")
    if shutil.which("podman") is None:
        figure.missing = "not installed"
        return figure
    try:
        with _service(who, work) as path:
            connection = _Connection(path)
            _life(connection, layer)
            pressure = proc.Pressure()
            times = [_life(connection, layer) for _ in range(runs)]
            figure.add(times, pressure.share(), proc.load())
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        figure.missing = str(error)
    return figure


@contextlib.contextmanager
def _service(who: Who, work: str) -> Iterator[str]:
    path = os.path.join(work, "podman.sock")
    command = ["podman", "--cgroup-manager=cgroupfs", "--root", f"{work}/storage", "--runroot", f"{work}/run"]
    with open(os.path.join(work, "podman.log"), "w+", encoding="utf-8") as log:
        service = subprocess.Popen(
            [*command, "system", "service", "--time=0", f"unix://{path}"],
            env=who.environment(work), cwd=work,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who.identity,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + _START
            while not os.path.exists(path):
                if service.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise OSError(f"its service does not start: {log.read().strip()[-200:]}")
                time.sleep(0.05)
            yield path
        finally:
            service.terminate()
            try:
                service.wait(10)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


def _life(connection: _Connection, layer: str) -> float:
    wish = {"rootfs": layer, "rootfs_overlay": True, "command": ["true"], "netns": {"nsmode": "none"}}
    begun = now_ms()
    made = json.loads(_ask(connection, "POST", "/create", wish))["Id"]
    _ask(connection, "POST", f"/{made}/start")
    status = _ask(connection, "POST", f"/{made}/wait").strip()
    _ask(connection, "DELETE", f"/{made}?force=true")
    ended = now_ms()
    if status != b"0":
        raise ValueError(f"`true` ended with {status!r}")
    return ended - begun


def _ask(connection: _Connection, method: str, below: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body)
    connection.request(method, _API + below, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status >= 400:
        raise ValueError(f"{method} {below}: {response.status} {answer[:200]!r}")
    return answer
