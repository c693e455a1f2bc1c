"""What can go wrong, by whose fault it is.

Every error that a client may see is a :class:`Problem` with a stable code. Which HTTP status a code
becomes is decided in one table, ``nsbox.api.problems``; nothing below ``api`` knows about HTTP.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Stable, documented names of errors. Clients may rely on them; sentences may change."""

    # The request cannot be read.
    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    # The request can be read, and a value in it is wrong.
    INVALID_FIELD = "invalid_field"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    TEMPLATE_NOT_AVAILABLE = "template_not_available"
    IMAGE_NOT_AVAILABLE = "image_not_available"
    IMAGE_NOT_ALLOWED = "image_not_allowed"
    IMAGE_REFUSED = "image_refused"
    NO_SHELL = "no_shell"
    BUILD_FAILED = "build_failed"
    # Who asks.
    MISSING_KEY = "missing_key"
    INVALID_KEY = "invalid_key"
    QUOTA_EXHAUSTED = "quota_exhausted"
    PLAN_LIMIT = "plan_limit"
    FORBIDDEN = "forbidden"
    TOO_MANY_REQUESTS = "too_many_requests"
    TOO_MANY_FAILURES = "too_many_failures"
    # What is asked for.
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    SANDBOX_NOT_FOUND = "sandbox_not_found"
    IMAGE_NOT_FOUND = "image_not_found"
    PROCESS_NOT_FOUND = "process_not_found"
    SNAPSHOT_NOT_FOUND = "snapshot_not_found"
    FILE_NOT_FOUND = "file_not_found"
    PORT_NOT_EXPOSED = "port_not_exposed"
    USER_NOT_FOUND = "user_not_found"
    KEY_NOT_FOUND = "key_not_found"
    # The state of things forbids it.
    WRONG_STATE = "wrong_state"
    SANDBOX_GONE = "sandbox_gone"
    PROCESS_ENDED = "process_ended"
    STDIN_CLOSED = "stdin_closed"
    STDIN_FULL = "stdin_full"
    NO_TERMINAL = "no_terminal"
    SANDBOX_EXHAUSTED = "sandbox_exhausted"
    IS_A_DIRECTORY = "is_a_directory"
    NOT_A_DIRECTORY = "not_a_directory"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    DIRECTORY_NOT_EMPTY = "directory_not_empty"
    TOO_MANY_LINKS = "too_many_links"
    FILE_OPERATION_FAILED = "file_operation_failed"
    PERMISSION_DENIED = "permission_denied"
    READ_ONLY = "read_only"
    NO_SPACE = "no_space"
    FILE_TOO_LARGE = "file_too_large"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    TOO_MANY_SANDBOXES = "too_many_sandboxes"
    TOO_MANY_COMMANDS = "too_many_commands"
    TOO_MANY_PULLS = "too_many_pulls"
    TOO_MANY_PUSHES = "too_many_pushes"
    TOO_MANY_PORTS = "too_many_ports"
    TOO_MANY_SNAPSHOTS = "too_many_snapshots"
    TOO_MANY_LAYERS = "too_many_layers"
    SNAPSHOT_REFUSED = "snapshot_refused"
    NO_HOST_PORT = "no_host_port"
    NAME_TAKEN = "name_taken"
    LAST_ADMIN = "last_admin"
    USER_NOT_EMPTY = "user_not_empty"
    TOO_MANY_KEYS = "too_many_keys"
    # The host or nsbox itself.
    SANDBOX_UNRESPONSIVE = "sandbox_unresponsive"
    REGISTRY_FAILED = "registry_failed"
    PULL_TIMED_OUT = "pull_timed_out"
    PUSH_REFUSED = "push_refused"
    PUSH_TIMED_OUT = "push_timed_out"
    HOST_LACKS = "host_lacks"
    HOST_FULL = "host_full"
    CREATE_FAILED = "create_failed"
    NETWORK_FAILED = "network_failed"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


class Problem(Exception):
    """An error with a stable code, a sentence that helps and, where there is one, the remedy.

    ``field`` names the part of the request that is wrong, as the client wrote it (``vcpus``,
    ``env.PATH``, ``path``). ``facts`` are further members of the problem document.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.remedy = remedy
        self.facts = facts


class HostProblem(Exception):
    """The host lacks something. ``remedy`` is the command that mends it."""

    def __init__(self, detail: str, *, remedy: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.detail}\n  remedy: {self.remedy}" if self.remedy else self.detail
