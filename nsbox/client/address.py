"""Where an nsbox is, and the key for it, seen to be usable before anything is sent."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import urlsplit

PREFIX = "/api/v1"
URL_VARIABLE, KEY_VARIABLE = "NSBOX_URL", "NSBOX_API_KEY"


class Address(NamedTuple):
    """``prefix`` is the path of the API, ``root`` what the daemon is below, if anything."""

    tls: bool
    host: str
    port: int
    root: str

    @property
    def prefix(self) -> str:
        """The path that all routes begin with."""
        return self.root + PREFIX

    @property
    def authority(self) -> str:
        """Host and port, as the header Host has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.tls else 80)
        return host if usual else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """As people write it."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.root}"

    def path(self, target: str) -> str:
        """A call's target as the server takes it. Two slashes: not below the API."""
        return self.root + target[1:] if target.startswith("//") else self.prefix + target


def address(url: str) -> Address:
    """Raises ``ValueError``. The prefix of the API may be there or not. A name or password in it would be
    shown in every message, and is refused."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError("the URL of an nsbox looks like http://127.0.0.1:8080") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the URL of an nsbox looks like http://127.0.0.1:8080")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL of an nsbox has no user name and no password in it: the key is apart")
    tls = parts.scheme == "https"
    root = parts.path.rstrip("/").removesuffix(PREFIX)
    if not root.isascii() or any(one.isspace() for one in root):
        raise ValueError("the path of an nsbox's URL is percent-encoded")
    return Address(tls, parts.hostname, port or (443 if tls else 80), root)


def checked_key(key: str) -> str:
    """Raises ``ValueError``, which does not tell the key."""
    if not key or not key.isascii() or not all(33 <= ord(one) <= 126 for one in key):
        raise ValueError("an API key has visible ASCII characters only, and at least one")
    return key


def from_environment(url: str | None, key: str | None) -> tuple[Address, str]:
    """What is not given is in ``NSBOX_URL`` and ``NSBOX_API_KEY``. Raises ``ValueError``."""
    url, key = url or os.environ.get(URL_VARIABLE), key or os.environ.get(KEY_VARIABLE)
    if not url:
        raise ValueError(f"no URL is given, and {URL_VARIABLE} is not set")
    if not key:
        raise ValueError(f"no key is given, and {KEY_VARIABLE} is not set")
    return address(url), checked_key(key)
