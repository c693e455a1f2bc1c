"""The addresses of previews: from a sandbox and a port to a URL, and from a request back to them. Pure.

Two forms, told apart by the asterisk in the setting ``preview_url``. ``http://*.localhost:8081`` gives each
port a host name of its own, and with it an origin of its own in browsers. ``https://example.org/p`` puts them
all below one path, for those who can have no wildcard name: every preview then shares one origin.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: A setting that is empty stands for this, with the port that the proxy listens on.
DEFAULT = "http://*.localhost"
_HOST = r"[a-z0-9](?:[a-z0-9.-]{0,180}[a-z0-9])?"
#: What the setting may be.
PATTERN = rf"^(?:https?://(?:\*\.)?{_HOST}(?::[1-9][0-9]{{0,4}})?(?:/[A-Za-z0-9._~/-]{{0,100}})?)?$"
_PARTS = re.compile(r"(https?)://(\*\.)?([a-z0-9.-]+)(?::([0-9]+))?(/.*)?")
_LABEL = re.compile(r"sb-([a-z2-7]{32})-([1-9][0-9]{0,4})")
_BELOW = re.compile(rb"/(sb_[a-z2-7]{32})/([1-9][0-9]{0,4})(?=[/?]|$)")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HIGHEST = 65_535


class Target(NamedTuple):
    """A port of a sandbox. ``prefix`` is what stands before the path that the sandbox sees."""

    sandbox_id: str
    port: int
    prefix: bytes = b""


class Form(NamedTuple):
    """How previews are addressed. With ``wildcard`` by host names below ``domain``, else by paths below
    ``path``."""

    scheme: str
    wildcard: bool
    domain: str
    port: int
    path: str

    def url(self, sandbox_id: str, port: int) -> str:
        """The address of a port, with a slash at its end."""
        shown = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        if self.wildcard:
            return f"{self.scheme}://{label(sandbox_id, port)}.{self.domain}{shown}/"
        return f"{self.scheme}://{self.domain}{shown}{self.path}/{sandbox_id}/{port}/"

    def target(self, host: str, path: bytes) -> Target | None:
        """Where a request goes. ``host`` is the Host header without its port; ``path`` may have a query."""
        host = host.lower()
        if self.wildcard:
            name, _, domain = host.partition(".")
            match = _LABEL.fullmatch(name)
            if domain != self.domain or match is None or int(match[2]) > _HIGHEST:
                return None
            return Target(f"sb_{match[1]}", int(match[2]))
        base = self.path.encode()
        if host != self.domain or not path.startswith(base):
            return None
        below = _BELOW.match(path, len(base))
        if below is None or int(below[2]) > _HIGHEST:
            return None
        return Target(below[1].decode(), int(below[2]), base + below[0])

    def __str__(self) -> str:
        star = "*." if self.wildcard else ""
        shown = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{star}{self.domain}{shown}{self.path}"


def label(sandbox_id: str, port: int) -> str:
    """The first part of a preview's host name: 41 characters at most, and a DNS label may have 63."""
    return f"{sandbox_id.replace('_', '-')}-{port}"


def form(setting: str, proxy_port: int) -> Form:
    """The form that the setting ``preview_url`` asks for. Raises ``ValueError``."""
    match = _PARTS.fullmatch(setting or f"{DEFAULT}:{proxy_port}")
    if match is None or re.fullmatch(PATTERN, setting) is None:
        raise ValueError(f"{setting!r} is no address of previews")
    scheme, star, domain, port, path = match.groups()
    number = int(port) if port else _DEFAULT_PORTS[scheme]
    if number > _HIGHEST:
        raise ValueError(f"there is no port {number}")
    path = (path or "").rstrip("/")
    if star and path:
        raise ValueError("a preview has a host name of its own or a path, not both")
    return Form(scheme, bool(star), domain, number, path)
