"""An nsbox with one sandbox, for servers that break off."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from tests.unit.client.server import Seen, answer

KEY = "nsbox_not-a-secret-at-all"
SANDBOX = {
    "id": "sb_1", "status": "running", "vcpus": 1, "memoryMb": 512, "storageMb": 1024, "timeoutMs": 1000,
    "templateId": "default", "createdAt": "2026-11-23T07:29:34.515Z", "expiresAt": "2026-11-23T07:59:34.515Z",
    "somethingNew": {"of": "a later version"},
}  # fmt: skip
PROCESS = {
    "id": "cmd_1", "status": "running", "command": "x", "cwd": "/", "startedAt": "2026-11-23T07:29:34.515Z",
    "kind": "stream", "pid": 5,
}  # fmt: skip
RESULT = {
    "stdout": base64.b64encode(b"out").decode(), "stderr": "", "exitCode": 0, "durationMs": 1,
    "timedOut": False, "signal": None, "outcome": "exited", "truncated": False,
}  # fmt: skip

Chunk = tuple[str, bytes]


def document(value: Any, status: int = 200, **more: Any) -> bytes:
    return answer(json.dumps(value).encode(), status, **more)


def problem(status: int, code: str, detail: str = "no", **more: Any) -> bytes:
    told = {"status": status, "code": code, "detail": detail, **more.pop("facts", {})}
    return answer(json.dumps(told).encode(), status, "application/problem+json", **more)


def event(kind: str, data: Any, number: int | None = None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def log(chunks: list[Chunk]) -> Callable[[Seen], bytes]:
    """Answers with the events of a command that has written these, from ``Last-Event-ID`` on: in the middle
    of a chunk, too, as nsbox does."""

    def reply(seen: Seen) -> bytes:
        last = int(seen.headers.get("last-event-id", 0))
        told, offset = event("started", PROCESS) + b": still there\n\n", 0
        for stream, data in chunks:
            behind = offset + len(data)
            if behind > last:
                rest = data[max(last - offset, 0) :]
                shown = {"offset": behind - len(rest), "data": base64.b64encode(rest).decode()}
                told += event(stream, shown, behind)
            offset = behind
        ended = {**PROCESS, "status": "exited", "exitCode": 7, "outcome": "exited", "logEnd": offset}
        return answer(told + event("exit", ended), 200, "text/event-stream", chunked=True)

    return reply
