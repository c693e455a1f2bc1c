"""Signed links: who has one may visit a port that is not public, until it expires.

A link names the port, its moment and nothing else; there is no record of links, so they cost nothing and
cannot be taken back one by one. Taking the port away and exposing it again makes all of its old links
worthless.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets

from nsbox.model.errors import HostProblem
from nsbox.model.ports import Port
from nsbox.service import clock

FILE_NAME = "link-key"
_KEY_BYTES = 32
_TOKEN = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


class Links:
    """Signs and checks with the key of this state folder."""

    def __init__(self, state_dir: str) -> None:
        self._key = _key(os.path.join(state_dir, FILE_NAME))

    def sign(self, sandbox_id: str, port: Port, expires_at: int) -> str:
        """The token of a link; ``expires_at`` in seconds since the epoch."""
        return f"{expires_at}.{self._mac(sandbox_id, port, expires_at)}"

    def expiry(self, token: str, sandbox_id: str, port: Port) -> int | None:
        """When a token ends, if it is one for this port and has not ended."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        expires_at = int(match[1])
        if not hmac.compare_digest(match[2], self._mac(sandbox_id, port, expires_at)):
            return None
        return expires_at if clock.wall() < expires_at else None

    def _mac(self, sandbox_id: str, port: Port, expires_at: int) -> str:
        # No field can hold the separator, so no two different links have the same text.
        text = f"nsbox-link-1\n{sandbox_id}\n{port.port}\n{port.salt}\n{expires_at}".encode()
        digest = hmac.new(self._key, text, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _key(path: str) -> bytes:
    """The key, made at the first start: readable by the daemon's user alone, and whole or not there."""
    try:
        try:
            with open(path, "rb") as file:
                key = file.read(_KEY_BYTES + 1)
        except FileNotFoundError:
            key = _make(path)
    except OSError as error:
        raise HostProblem(f"the key of links {path} cannot be read or made: {error}") from error
    if len(key) != _KEY_BYTES:
        raise HostProblem(
            f"{path} is not a key of links", remedy=f"delete {path}; links that were given out end then"
        )
    return key


def _make(path: str) -> bytes:
    key = secrets.token_bytes(_KEY_BYTES)
    temporary = f"{path}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o600)
    try:
        os.write(descriptor, key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    return key
