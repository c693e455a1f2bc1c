"""A crowd of slow clients, and the others, who want to go on working meanwhile."""

from __future__ import annotations

import http.client
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

Address = tuple[str, int]
#: For the crowd and what the test itself has open.
_SPARE = 200
_AT_A_TIME = 50


@contextmanager
def descriptors_for(count: int) -> Iterator[int]:
    """How many connections this process may hold, up to ``count``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _SPARE if hard == resource.RLIM_INFINITY else min(hard, count + _SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield min(count, wanted - _SPARE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Slow(NamedTuple):
    """What each of a crowd does: ``first`` at once, ``drip`` now and then. ``window``: the bytes that it
    takes without reading; it never reads."""

    first: bytes
    drip: bytes = b""
    window: int = 0


class Crowd:
    """So many connections. Those that the server closes are counted, and not opened again."""

    def __init__(self, address: Address, slow: Slow, count: int) -> None:
        self.cut = 0
        self._slow = slow
        self._socks: list[socket.socket] = []
        for _ in range(count):
            sock = socket.socket()
            if slow.window:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, slow.window)
            sock.settimeout(30)
            sock.connect(address)
            sock.sendall(slow.first)
            sock.setblocking(False)
            self._socks.append(sock)

    def __len__(self) -> int:
        return len(self._socks)

    def drip(self) -> None:
        """A little more from each twentieth: a crowd that is slow, and not one that floods."""
        part, self._socks = self._socks[:_AT_A_TIME], self._socks[_AT_A_TIME:]
        self._socks += part
        for sock in part:
            try:
                if self._slow.drip:
                    sock.send(self._slow.drip)
            except BlockingIOError:
                pass
            except OSError:
                self._socks.remove(sock)
                sock.close()
                self.cut += 1

    def close(self) -> None:
        while self._socks:
            self._socks.pop().close()


class Others:
    """Two well-behaved clients with a key of their own: one that keeps its connection, one that makes a new
    one for each request."""

    def __init__(self, address: Address, key: str, path: str) -> None:
        self._address, self._key, self._path = address, key, path
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.errors: list[str] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._work, args=[keep]) for keep in (True, False)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in threads:
                thread.join()

    def _work(self, keep: bool) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        while not self._end.wait(0.02):
            begun = time.monotonic()
            try:
                connection.request("GET", self._path, headers={"Authorization": f"Bearer {self._key}"})
                answer = connection.getresponse()
                answer.read()
                wrong = "" if answer.status == 200 else f"status {answer.status}"
            except (OSError, http.client.HTTPException) as error:
                wrong = repr(error)
                connection.close()
            with self._lock:
                self.seconds.append(time.monotonic() - begun)
                if wrong:
                    self.errors.append(wrong)
            if not keep:
                connection.close()
        connection.close()

    @property
    def p99(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]

    def line(self) -> str:
        count, wrong = len(self.seconds), len(self.errors)
        return f"others: {count} requests, errors = {wrong}, p99 = {self.p99 * 1000:.0f} ms"
