"""Reads server-sent events over a connection of its own, which can be dropped at any byte."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.e2e.client import BASE, PATIENCE, Api


class Event(NamedTuple):
    """One event as it came. ``id`` is the last one seen up to then, -1 before the first."""

    kind: str
    id: int
    data: Any


class Stream:
    """One answer of events. Iterate; it ends with the answer, or with an error when that is broken off."""

    def __init__(
        self,
        api: Api,
        method: str,
        path: str,
        body: Any = None,
        *,
        last: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self._connection = http.client.HTTPConnection(api.host, api.port, timeout=PATIENCE)
        sent = {"Authorization": f"Bearer {api.key}", **(headers or {})}
        if last is not None:
            sent["Last-Event-ID"] = str(last)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        self._connection.request(method, BASE + path, data, sent)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.last = -1 if last is None else last

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, in the middle if need be."""
        sock = self._connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        while line := self._response.readline():
            text = line.decode().rstrip("\n")
            if text:
                if not text.startswith(":"):
                    name, _, value = text.partition(": ")
                    fields[name] = value
                continue
            if "event" in fields:
                self.last = int(fields.get("id", self.last))
                yield Event(fields["event"], self.last, json.loads(fields["data"]))
            fields = {}
