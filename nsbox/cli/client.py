"""A small client of nsbox's own API, for the commands that use it. Standard library, one connection."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from nsbox.model.errors import HostProblem

API_PREFIX = "/api/v1"
#: Base64 of an output limit of 10 MiB on both streams, twice over. A larger answer is not nsbox's.
_MAX_ANSWER = 64 * 1024 * 1024
_MAX_LINE = 8 * 1024 * 1024


class Answer(NamedTuple):
    """What came back. ``body`` is the JSON document, ``None`` where there was none."""

    status: int
    body: Any
    elapsed_ms: float

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def explain(self) -> str:
        """The error in the daemon's words (RFC 9457), or the status alone."""
        document = self.body if isinstance(self.body, dict) else {}
        said = [document.get(member) for member in ("detail", "remedy")]
        sentences = [text for text in said if isinstance(text, str)]
        return "; ".join(sentences) + f" (HTTP {self.status})" if sentences else f"HTTP {self.status}"


class Client:
    """Speaks to one daemon. ``url`` may end in the API's prefix or not."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 60) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HostProblem(
                f"{url!r} is not the address of an nsbox", remedy="NSBOX_URL=http://127.0.0.1:8080"
            )
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = url.rstrip("/")
        if not self.url.endswith(API_PREFIX):
            self.url += API_PREFIX
        self._prefix = urlsplit(self.url).path
        self._key = key
        self._timeout_s = timeout_s
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *unused: object) -> None:
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        patience_s: float = 0,
    ) -> Answer:
        """One request. ``patience_s`` is added to the time limit: the daemon may well take that long.

        Raises ``HostProblem`` where no answer comes; an answer that reports an error is returned.
        """
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        started = time.perf_counter()
        try:
            self._set_timeout(self._timeout_s + patience_s)
            self._connection.request(method, self._prefix + target(path, query), payload, headers)
            response = self._connection.getresponse()
            data = response.read(_MAX_ANSWER + 1)
            if response.length and len(data) <= _MAX_ANSWER:
                # read() with a bound takes a connection that ends too early for the end of the answer.
                raise http.client.IncompleteRead(data, response.length)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise HostProblem(f"no answer from {self.url}: {error or type(error).__name__}") from error
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if len(data) > _MAX_ANSWER:
            self._connection.close()
            raise HostProblem(f"{self.url} answered with more than {_MAX_ANSWER} bytes")
        return Answer(response.status, _document(data), elapsed_ms)

    def upload(
        self,
        path: str,
        body: Iterator[bytes],
        size: int | None,
        *,
        query: dict[str, str] | None = None,
        patience_s: float = 0,
    ) -> Answer:
        """Send bytes as they come. Raises ``HostProblem``."""
        headers = {"Content-Type": "application/octet-stream"}
        headers |= {"Content-Length": str(size)} if size is not None else {"Transfer-Encoding": "chunked"}
        started = time.perf_counter()
        try:
            response = self._begin("POST", path, body, headers, query, patience_s, chunked=size is None)
            data = response.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise HostProblem(f"no answer from {self.url}: {error or type(error).__name__}") from error
        return Answer(response.status, _document(data), (time.perf_counter() - started) * 1e3)

    def download(self, path: str, query: dict[str, str], write: Callable[[bytes], object]) -> None:
        """Take in bytes as they come. Raises ``HostProblem``, also where they end too early."""
        try:
            response = self._begin("GET", path, None, {}, query, 0)
            if response.status != 200:
                answer = Answer(response.status, _document(response.read(_MAX_ANSWER)), 0)
                raise HostProblem(answer.explain())
            while piece := response.read1(1 << 20):
                write(piece)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise HostProblem(f"the download broke off: {error or type(error).__name__}") from error

    def events(self, path: str, body: Any, *, patience_s: float) -> Iterator[tuple[str, Any]]:
        """Server-sent events of a POST, as they come: their names and data. Raises ``HostProblem``."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        try:
            response = self._begin("POST", path, json.dumps(body).encode(), headers, None, patience_s)
            if response.status != 200:
                answer = Answer(response.status, _document(response.read(_MAX_ANSWER)), 0)
                raise HostProblem(answer.explain())
            name = ""
            while line := response.readline(_MAX_LINE):
                field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, _document(value.encode())
        except (OSError, http.client.HTTPException) as error:
            raise HostProblem(f"no answer from {self.url}: {error or type(error).__name__}") from error
        finally:
            self._connection.close()

    def _begin(
        self,
        method: str,
        path: str,
        body: Any,
        headers: dict[str, str],
        query: dict[str, str] | None,
        patience_s: float,
        *,
        chunked: bool = False,
    ) -> http.client.HTTPResponse:
        self._set_timeout(self._timeout_s + patience_s)
        sent = {"Authorization": f"Bearer {self._key}", **headers}
        where = self._prefix + target(path, query)
        try:
            self._connection.request(method, where, body, sent, encode_chunked=chunked)
        except (BrokenPipeError, ConnectionResetError):
            if not isinstance(body, Iterator):
                raise
            # Refused before all of it was taken in: the answer says why, and is there to be read.
        return self._connection.getresponse()

    def _set_timeout(self, seconds: float) -> None:
        self._connection.timeout = seconds
        if self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)


def target(path: str, query: dict[str, str] | None = None) -> str:
    """A request's path with its query; slashes stay readable in both."""
    return quote(path, safe="/:@") + (f"?{urlencode(query, safe='/')}" if query else "")


def _document(data: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(data)
    return None
