"""A client of a few lines over http.client, so that nothing between a test and the wire is clever."""

from __future__ import annotations

import http.client
import json
import threading
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote, quote_from_bytes, urlencode, urlsplit

from tests import conformance

BASE = "/api/v1"
_check = conformance.checker()
#: Longer than anything the daemon may take for one answer.
PATIENCE = 90.0

JSON: TypeAlias = Any


class Answer(NamedTuple):
    """An HTTP response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> JSON:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable name of an error."""
        return str(self.json["code"])

    def __str__(self) -> str:
        return f"{self.status} {self.body[:600]!r}"


class Api:
    """Requests with one key. Each thread keeps a connection of its own, as clients do."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url, self.key = url, key
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port = parts.hostname, parts.port
        self._local = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._local = threading.local()

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = http.client.HTTPConnection(
                self.host, self.port, timeout=PATIENCE
            )
            self._opened.append(found)
        return found

    def request(
        self,
        method: str,
        path: str,
        body: JSON = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        """``path`` begins after ``/api/v1``, unless it is absolute in the server's sense (``//healthz``)."""
        sent: dict[str, str] = {}
        if key or self.key:
            sent["Authorization"] = f"Bearer {key or self.key}"
        data = raw
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        where = path[1:] if path.startswith("//") else BASE + path
        connection = self._connection()
        try:
            try:
                connection.request(method, where, data, sent)
                response = connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # An idle connection may be closed by the server at any time, and is opened anew, once.
                connection.close()
                connection.request(method, where, data, sent)
                response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except BaseException:
            connection.close()
            raise
        told = {name.lower(): value for name, value in answer.headers.items()}
        _check(method, where, answer.status, told, answer.body)
        return answer

    # ---- shorthands

    def create(self, **wish: JSON) -> str:
        """A running sandbox's id."""
        answer = self.request("POST", "/sandboxes", wish)
        assert answer.status == 201, answer
        return str(answer.json["id"])

    def kill(self, sandbox_id: str) -> Answer:
        return self.request("DELETE", f"/sandboxes/{sandbox_id}")

    def get(self, sandbox_id: str) -> JSON:
        answer = self.request("GET", f"/sandboxes/{sandbox_id}")
        assert answer.status == 200, answer
        return answer.json

    def sandbox(self, **wish: JSON) -> Sandbox:
        return Sandbox(self, self.create(**wish))


class Sandbox:
    """One sandbox, as its owner uses it."""

    def __init__(self, api: Api, sandbox_id: str) -> None:
        self.api, self.id = api, sandbox_id

    def request(self, method: str, below: str, body: JSON = None, **more: Any) -> Answer:
        return self.api.request(method, f"/sandboxes/{self.id}{below}", body, **more)

    def exec(self, command: str | list[str], **more: JSON) -> Answer:
        return self.request("POST", "/exec", {"command": command, **more})

    def run(self, command: str | list[str], **more: JSON) -> JSON:
        """The result of a command that could be started."""
        answer = self.exec(command, **more)
        assert answer.status == 200, answer
        return answer.json

    def out(self, command: str | list[str], **more: JSON) -> str:
        """What a command that must succeed wrote to stdout."""
        result = self.run(command, **more)
        assert result["exitCode"] == 0, result
        return str(result["stdout"])

    def files(self, method: str, path: str | bytes, body: JSON = None, **more: Any) -> Answer:
        """A request to /files; keyword arguments that ``request`` does not know are query parameters."""
        known = {name: more.pop(name) for name in ("raw", "headers", "key") if name in more}
        encoded = quote_from_bytes(path, "") if isinstance(path, bytes) else quote(path, "")
        rest = urlencode({name.rstrip("_"): value for name, value in more.items()})
        query = f"path={encoded}" + (f"&{rest}" if rest else "")
        return self.request(method, f"/files?{query}", body, **known)

    def write(self, path: str | bytes, content: str, **more: JSON) -> Answer:
        return self.files("PUT", path, {"content": content, **more})

    def upload(self, path: str | bytes, data: bytes, **more: Any) -> Answer:
        return self.files("PUT", path, raw=data, headers={"Content-Type": "application/octet-stream"}, **more)

    def read(self, path: str | bytes, **more: Any) -> Answer:
        return self.files("GET", path, **more)

    def download(self, path: str | bytes, headers: dict[str, str] | None = None) -> Answer:
        return self.files("GET", path, raw_="true", headers=headers)

    def listing(self, path: str | bytes, **more: Any) -> JSON:
        answer = self.files("GET", path, list="true", **more)
        assert answer.status == 200, answer
        return answer.json

    def remove(self, path: str | bytes, **more: Any) -> Answer:
        return self.files("DELETE", path, **more)
