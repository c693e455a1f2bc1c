"""Whose name and password a registry gets: from files, read at each pull, kept nowhere else.

Files are those that ``docker login`` and ``podman login`` write, or one with a password alone that a setting
names. Credential helpers are programs of the user's; nsbox starts none, and says so once.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from collections.abc import Iterable, Mapping

import msgspec

from nsbox.oci.reference import DEFAULT_REGISTRY

_log = logging.getLogger(__name__)
_MAX_FILE = 1 << 20
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})


class Credentials(msgspec.Struct, frozen=True):
    """A name and a password, or an identity token that stands for both. Never shown."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(…)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


class _Entry(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct, frozen=True):
    auths: dict[str, _Entry] = {}
    credsStore: str = ""  # noqa: N815 - the file's own spelling
    credHelpers: dict[str, str] = {}  # noqa: N815


def from_files(paths: Iterable[str], registry: str, repository: str) -> Credentials | None:
    """The first that fits; in each file the longest name that fits wins, as ``podman login`` has it."""
    for path in paths:
        file = _read(path)
        if file is None:
            continue
        found = _match(file.auths, registry, repository)
        if found is not None:
            return found
        if file.credsStore or registry in file.credHelpers:
            _log.warning("%s names a credential helper for %s: nsbox starts none", path, registry)
    return None


def from_setting(username: str, password_file: str) -> Credentials | None:
    """A name from the settings, its password from a file: a setting never holds a secret."""
    if not username:
        return None
    try:
        with open(password_file, encoding="utf-8") as file:
            return Credentials(username, file.read(_MAX_FILE).rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("the password file %s cannot be read: %s", password_file, error)
        return None


def _read(path: str) -> _File | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error.strerror)
        return None
    with open(descriptor, "rb") as file:
        try:
            return msgspec.json.decode(file.read(_MAX_FILE), type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, OSError):
            # Not the decoder's words: they may quote the file.
            _log.warning("%s is not a file of credentials in JSON", path)
            return None


def _match(auths: Mapping[str, _Entry], registry: str, repository: str) -> Credentials | None:
    best: tuple[int, Credentials] | None = None
    for key, entry in auths.items():
        host, path = _split(key)
        if host != registry or (path and f"{repository}/".startswith(f"{path}/") is False):
            continue
        credentials = _decoded(entry)
        if credentials is not None and (best is None or len(path) > best[0]):
            best = len(path), credentials
    return best[1] if best else None


def _split(key: str) -> tuple[str, str]:
    """``https://index.docker.io/v1/`` and ``ghcr.io/ann`` as registry and path."""
    rest = key.partition("://")[2] or key
    host, _, path = rest.partition("/")
    if host.lower() in _HUB_NAMES:
        host = DEFAULT_REGISTRY
    path = path.strip("/")
    return host.lower(), "" if path in ("v1", "v2") else path


def _decoded(entry: _Entry) -> Credentials | None:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            pair = base64.b64decode(entry.auth, validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            return None
        username, _, password = pair.partition(":")
    if entry.identitytoken:
        return Credentials(username, "", entry.identitytoken)
    return Credentials(username, password) if username else None
