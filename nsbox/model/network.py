"""What a sandbox may reach, as a client says it. Pure data, and the words it is made of."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

Network = IPv4Network | IPv6Network


class NetworkMode(StrEnum):
    """``off``: nothing. ``public``: the internet, less ``deny``. ``allowlist``: what is in ``allow``."""

    OFF = "off"
    PUBLIC = "public"
    ALLOWLIST = "allowlist"


class NetworkPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """``allow`` and ``deny``: addresses, networks and names, a name with ``*.`` for all below it.
    ``ports``: those that may be dialled, numbers or ``from-to``; none means all."""

    mode: NetworkMode = NetworkMode.PUBLIC
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ports: tuple[int | str, ...] = ()


class NetworkState(msgspec.Struct, frozen=True):
    """Whether packets of sandboxes get out at present; if not, why."""

    up: bool
    reason: str = ""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Something that was refused. ``at``: seconds since the epoch. ``name``: what was asked for, or the
    name that the sandbox had last resolved to the address."""

    at: float
    reason: str
    protocol: str
    address: str
    port: int
    name: str


def parse_network(text: str) -> Network | None:
    """A network or an address; None for anything else, such as a name."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def network_problem(text: str, version: int, longest: int) -> str | None:
    """What is wrong with a network that sandboxes shall have their addresses from."""
    found = parse_network(text)
    if found is None or found.version != version:
        return f"{text!r} is no IPv{version} network"
    if found.prefixlen > longest:
        return f"{text} is too small: at most /{longest}"
    if not found.is_private:
        return f"{text} is not private"
    return None
