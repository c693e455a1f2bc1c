"""THE table: which HTTP status an error becomes, and how it is told (RFC 9457).

``docs/errors.md`` is generated from it (``python -m nsbox.api.problems``), and a test holds the two
together.
"""

from __future__ import annotations

import errno
import logging
import secrets
from typing import Any, NamedTuple

import msgspec

from nsbox.model.errors import Code, HostProblem, Problem

MEDIA_TYPE = b"application/problem+json"
_logger = logging.getLogger(__name__)

#: Descriptors, memory, space; and a disk that does not work.
_SHORTAGES = frozenset(
    {
        *{errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN},
        *{errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS},
    }
)
_ENCODER = msgspec.json.Encoder()
_DETAIL_LENGTH = 1_000
_CHALLENGE = 'Bearer realm="nsbox"'


class Row(NamedTuple):
    """How one code is told."""

    status: int
    title: str


TABLE: dict[Code, Row] = {
    Code.INVALID_JSON: Row(400, "The body is not valid JSON"),
    Code.INVALID_REQUEST: Row(400, "The request cannot be read"),
    Code.UNSUPPORTED_MEDIA_TYPE: Row(415, "The body has a type that is not taken here"),
    Code.BODY_TOO_LARGE: Row(413, "The request is too large"),
    Code.INVALID_FIELD: Row(422, "A value is wrong"),
    Code.IDEMPOTENCY_MISMATCH: Row(422, "The Idempotency-Key was used for another request"),
    Code.TEMPLATE_NOT_AVAILABLE: Row(422, "There is no such template here"),
    Code.IMAGE_NOT_AVAILABLE: Row(422, "There is no such image here"),
    Code.IMAGE_NOT_ALLOWED: Row(403, "This image is not on the list of those allowed here"),
    Code.IMAGE_REFUSED: Row(422, "The image cannot be used"),
    Code.NO_SHELL: Row(422, "The image has no shell"),
    Code.BUILD_FAILED: Row(422, "The template could not be built"),
    Code.MISSING_KEY: Row(401, "An API key is needed"),
    Code.INVALID_KEY: Row(401, "The API key is not known, is revoked or has expired"),
    Code.QUOTA_EXHAUSTED: Row(402, "The compute seconds of this month are used up"),
    Code.PLAN_LIMIT: Row(403, "The plan does not allow that much"),
    Code.FORBIDDEN: Row(403, "This key may not do that"),
    Code.TOO_MANY_REQUESTS: Row(429, "This key makes too many requests"),
    Code.TOO_MANY_FAILURES: Row(429, "Too many keys that are not known came from this address"),
    Code.ROUTE_NOT_FOUND: Row(404, "There is no such route"),
    Code.METHOD_NOT_ALLOWED: Row(405, "The route has no such method"),
    Code.SANDBOX_NOT_FOUND: Row(404, "There is no such sandbox"),
    Code.IMAGE_NOT_FOUND: Row(404, "There is no such image here"),
    Code.PROCESS_NOT_FOUND: Row(404, "There is no such process"),
    Code.SNAPSHOT_NOT_FOUND: Row(404, "There is no such snapshot"),
    Code.FILE_NOT_FOUND: Row(404, "There is no such file"),
    Code.PORT_NOT_EXPOSED: Row(404, "The port is not exposed"),
    Code.USER_NOT_FOUND: Row(404, "There is no such user"),
    Code.KEY_NOT_FOUND: Row(404, "There is no such key"),
    Code.WRONG_STATE: Row(409, "The sandbox is not in a state for this"),
    Code.SANDBOX_GONE: Row(409, "The sandbox ended meanwhile"),
    Code.PROCESS_ENDED: Row(409, "The process has ended"),
    Code.STDIN_CLOSED: Row(409, "The stdin of the process is closed"),
    Code.STDIN_FULL: Row(409, "The process does not read its stdin"),
    Code.NO_TERMINAL: Row(409, "The process has no terminal"),
    Code.SANDBOX_EXHAUSTED: Row(409, "The sandbox has used up one of its limits"),
    Code.IS_A_DIRECTORY: Row(409, "It is a directory"),
    Code.NOT_A_DIRECTORY: Row(409, "It is not a directory"),
    Code.NOT_A_REGULAR_FILE: Row(409, "It is not a regular file"),
    Code.DIRECTORY_NOT_EMPTY: Row(409, "The directory is not empty"),
    Code.TOO_MANY_LINKS: Row(409, "The path has too many symbolic links"),
    Code.FILE_OPERATION_FAILED: Row(409, "The file operation failed in the sandbox"),
    Code.PERMISSION_DENIED: Row(403, "The sandbox's user may not do this"),
    Code.READ_ONLY: Row(403, "The file system is read-only there"),
    Code.NO_SPACE: Row(409, "The sandbox's storage is full"),
    Code.FILE_TOO_LARGE: Row(413, "The file is too large for this form of answer"),
    Code.RANGE_NOT_SATISFIABLE: Row(416, "The file does not have this range"),
    Code.TOO_MANY_SANDBOXES: Row(429, "Too many sandboxes are running"),
    Code.TOO_MANY_COMMANDS: Row(429, "Too many commands are running in the sandbox"),
    Code.TOO_MANY_PULLS: Row(429, "Too many images are being pulled"),
    Code.TOO_MANY_PUSHES: Row(429, "Too many images are being pushed"),
    Code.REGISTRY_FAILED: Row(502, "The registry did not give or take the image"),
    Code.PULL_TIMED_OUT: Row(504, "The image was not there in time"),
    Code.PUSH_REFUSED: Row(422, "The registry does not take the image"),
    Code.PUSH_TIMED_OUT: Row(504, "The image was not pushed in time"),
    Code.TOO_MANY_PORTS: Row(429, "Too many ports of the sandbox are exposed"),
    Code.TOO_MANY_SNAPSHOTS: Row(429, "Too many snapshots are kept"),
    Code.TOO_MANY_LAYERS: Row(409, "There are too many layers for one more"),
    Code.SNAPSHOT_REFUSED: Row(409, "What the sandbox has written cannot be kept"),
    Code.NO_HOST_PORT: Row(409, "No port of the host can be given"),
    Code.NAME_TAKEN: Row(409, "Another user has this name"),
    Code.LAST_ADMIN: Row(409, "Nobody could make keys any more"),
    Code.USER_NOT_EMPTY: Row(409, "The user still has sandboxes or snapshots"),
    Code.TOO_MANY_KEYS: Row(429, "The user has too many keys"),
    Code.SANDBOX_UNRESPONSIVE: Row(504, "The sandbox does not answer"),
    Code.HOST_LACKS: Row(503, "The host cannot do this at the moment"),
    Code.HOST_FULL: Row(503, "The host's disk is nearly full"),
    Code.CREATE_FAILED: Row(503, "The sandbox could not be made"),
    Code.NETWORK_FAILED: Row(503, "The network policy could not be put in place"),
    Code.SHUTTING_DOWN: Row(503, "The server is shutting down"),
    Code.INTERNAL: Row(500, "A fault of nsbox"),
}


class Told(NamedTuple):
    """A problem as it goes out."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def tell(error: BaseException) -> Told:
    """Any error, as an answer. What is no ``Problem`` is logged with its traceback and told by a number."""
    problem = _as_problem(error)
    row = TABLE[problem.code]
    headers = [(b"content-type", MEDIA_TYPE)]
    headers += [(name, value.encode("latin-1")) for name, value in _headers(problem)]
    return Told(row.status, headers, _ENCODER.encode(_document(problem, row)))


def _document(problem: Problem, row: Row) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": f"urn:nsbox:problem:{problem.code.value}",
        "title": row.title,
        "status": row.status,
        "detail": _clean(problem.detail),
        "code": problem.code.value,
    }
    if problem.field is not None:
        document["field"] = _clean(problem.field)
    if problem.remedy is not None:
        document["remedy"] = _clean(problem.remedy)
    for name, value in problem.facts.items():
        document.setdefault(name, _clean(value) if isinstance(value, str) else value)
    return document


def _clean(text: str) -> str:
    """Sentences quote what a client or a sandbox wrote: bounded, and without lone surrogates, which JSON
    cannot carry."""
    return text[:_DETAIL_LENGTH].encode("utf-8", "replace").decode()


def _headers(problem: Problem) -> list[tuple[bytes, str]]:
    match problem.code:
        case Code.MISSING_KEY:
            return [(b"www-authenticate", _CHALLENGE)]
        case Code.INVALID_KEY:
            return [(b"www-authenticate", f'{_CHALLENGE}, error="invalid_token"')]
        case Code.METHOD_NOT_ALLOWED:
            return [(b"allow", ", ".join(problem.facts.get("allowed", [])))]
        case Code.RANGE_NOT_SATISFIABLE if "size" in problem.facts:
            return [(b"content-range", f"bytes */{problem.facts['size']}")]
        case (
            Code.SHUTTING_DOWN
            | Code.TOO_MANY_SANDBOXES
            | Code.TOO_MANY_COMMANDS
            | Code.TOO_MANY_PULLS
            | Code.TOO_MANY_PUSHES
        ):
            return [(b"retry-after", "1")]
        case Code.TOO_MANY_REQUESTS | Code.TOO_MANY_FAILURES:
            return [(b"retry-after", str(problem.facts.get("retryAfterS", 1)))]
        case Code.HOST_FULL:
            return [(b"retry-after", "10")]  # nothing is wrong with the request; space comes by deleting
        case _:
            return []


def _as_problem(error: BaseException) -> Problem:
    found = _first(error, Problem)
    if isinstance(found, Problem):
        return found
    incident = secrets.token_hex(6)
    lacking = _first(error, HostProblem) or _shortage(error)
    if lacking is not None:
        # Its sentence names paths of the host: for the operator's log, not for a tenant.
        _logger.error("incident %s: %s", incident, lacking, exc_info=error)
        code, detail = Code.HOST_LACKS, "The host lacks something; the operator's log tells what."
    else:
        _logger.error("incident %s", incident, exc_info=error)
        code, detail = Code.INTERNAL, "Something unforeseen happened; the operator's log tells what."
    return Problem(code, detail, remedy=f"tell the operator the incident: {incident}", incident=incident)


def _shortage(error: BaseException) -> BaseException | None:
    """An error of the system, which nobody has said more of, that tells what the host is short of."""
    found = _first(error, OSError)
    if isinstance(found, OSError) and found.errno in _SHORTAGES:
        return found
    return _first(error, MemoryError)


def _first(error: BaseException, kind: type[Exception]) -> BaseException | None:
    """The first error of this kind, also inside the groups that trio's nurseries make."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _first(part, kind))), None)
    return error if isinstance(error, kind) else None


def page() -> str:
    """The generated page ``docs/errors.md``."""
    lines = [
        "# Errors",
        "",
        "Generated from `nsbox/api/problems.py` by `python -m nsbox.api.problems`; do not edit.",
        "",
        "Every error is `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail`, `code`,",
        "and where there is one `field` (the part of the request that is wrong, as the client wrote it) and",
        "`remedy`. Rely on `code`; sentences may change. A 500 or a 503 `host_lacks` has an `incident`: the",
        "operator finds the cause under it in the log.",
        "",
        "| code | status | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{code.value}` | {row.status} | {row.title} |" for code, row in TABLE.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
