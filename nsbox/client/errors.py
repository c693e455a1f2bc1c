"""What can go wrong, by whose fault it is.

``ApiError``: nsbox answered, and says what is wrong. ``ConnectionFailed``: no whole answer came.
``CommandFailed``: a command of the caller's did not end well. No message has the key in it, even where a
server sends it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_LONGEST = 2_000


class NsboxError(Exception):
    """Whatever this client raises."""


class ConnectionFailed(NsboxError):
    """No whole answer. ``sent``: whether nsbox may have seen the request."""

    sent = True


class Unreachable(ConnectionFailed):
    """No connection could be made, so nothing was asked."""

    sent = False


class ConnectionLost(ConnectionFailed):
    """The connection broke off before the answer was complete."""


class TimedOut(ConnectionFailed):
    """No answer within the time limit. What was asked for may go on."""


class Untrusted(NsboxError):
    """The server's certificate is not one that is trusted here."""


class UnexpectedAnswer(NsboxError):
    """An answer that nsbox does not give: another server, or another version."""


class CommandFailed(NsboxError):
    """``check()`` of a result that is not a success. ``result`` is that result."""

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


class ApiError(NsboxError):
    """nsbox's own words (RFC 9457). Rely on ``code``; ``field`` is the part of the request that is wrong,
    ``remedy`` what mends it, ``document`` the whole, ``retry_after`` in seconds."""

    def __init__(self, status: int, document: Mapping[str, Any], retry_after: float | None = None) -> None:
        super().__init__(status, document, retry_after)
        self.status, self.document, self.retry_after = status, document, retry_after
        self.code = _text(document, "code")
        self.detail = _text(document, "detail") or _text(document, "title") or f"HTTP {status}"
        self.field, self.remedy = _text(document, "field"), _text(document, "remedy")

    def __str__(self) -> str:
        told = "; ".join(part for part in (self.detail, self.remedy) if part)
        return f"{told} ({self.code or 'no code'}, HTTP {self.status})"

    def without(self, secret: str) -> ApiError:
        """The same, told without this: whoever answers may send back what it was sent."""
        told = {
            name: value.replace(secret, "…") if isinstance(value, str) else value
            for name, value in self.document.items()
        }
        return type(self)(self.status, told, self.retry_after)


class InvalidRequest(ApiError):
    """The request is wrong: 400, 405, 413, 415, 416, 422."""


class NotAuthenticated(ApiError):
    """The key is missing, unknown, expired or revoked: 401."""


class QuotaExhausted(ApiError):
    """The compute seconds are used up: 402. ``document["renewsAt"]`` says when there are new ones."""


class Forbidden(ApiError):
    """The key may not do that, or the plan does not include it: 403."""


class NotFound(ApiError):
    """It is not there, or is somebody else's: 404."""


class SandboxNotFound(NotFound):
    """There is no such sandbox."""


class ProcessNotFound(NotFound):
    """There is no such process."""


class SandboxFileNotFound(NotFound):
    """There is no such file in the sandbox."""


class ImageNotFound(NotFound):
    """There is no such image on the host."""


class SnapshotNotFound(NotFound):
    """There is no such snapshot."""


class Conflict(ApiError):
    """The state of things forbids it: 409."""


class WrongState(Conflict):
    """The sandbox is paused, or ending."""


class SandboxGone(Conflict):
    """The sandbox ended meanwhile."""


class StdinFull(Conflict):
    """The process does not read. ``document["written"]`` bytes were taken."""


class TooMany(ApiError):
    """Too many requests, or too many of something at once: 429."""


class ServerFailed(ApiError):
    """The fault is nsbox's, its host's or a registry's: 5xx."""


_BY_CODE: dict[str, type[ApiError]] = {
    "sandbox_not_found": SandboxNotFound,
    "process_not_found": ProcessNotFound,
    "file_not_found": SandboxFileNotFound,
    "image_not_found": ImageNotFound,
    "snapshot_not_found": SnapshotNotFound,
    "wrong_state": WrongState,
    "sandbox_gone": SandboxGone,
    "stdin_full": StdinFull,
}
_BY_STATUS: dict[int, type[ApiError]] = {
    401: NotAuthenticated,
    402: QuotaExhausted,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: TooMany,
}


def from_answer(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The error that an answer tells."""
    return from_document(status, _document(body), _seconds(retry_after))


def from_document(status: int, document: Mapping[str, Any], retry_after: float | None = None) -> ApiError:
    """The same, of a document at hand: an event ``problem`` is one."""
    kind = _BY_CODE.get(_text(document, "code") or "") or _BY_STATUS.get(status)
    if kind is None:
        kind = ServerFailed if status >= 500 else InvalidRequest
    return kind(status, document, retry_after)


def _document(body: bytes) -> Mapping[str, Any]:
    """A proxy's page of HTML is no document."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(document: Mapping[str, Any], member: str) -> str | None:
    value = document.get(member)
    return value[:_LONGEST] if isinstance(value, str) else None


def _seconds(retry_after: str | None) -> float | None:
    """nsbox sends seconds; a date, which HTTP allows too, is not worth a parser."""
    value = (retry_after or "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else None
