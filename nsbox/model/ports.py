"""Ports of a sandbox that are reachable from outside. Pure data."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Protocol(StrEnum):
    """What is spoken on an exposed port, as far as nsbox needs to know."""

    HTTP = "http"  # through the proxy, under a URL
    TCP = "tcp"  # bytes, on a port of the host


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """An exposed port. ``salt`` goes into its links: one that is exposed anew does not know the old ones.
    ``host_port`` is there for TCP only."""

    port: int
    protocol: Protocol = Protocol.HTTP
    public: bool = True
    salt: str = ""
    host_port: int | None = None


class PortSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated wish for a port. ``wait_ms``: how long to wait until something listens; None asks
    nothing."""

    port: int
    protocol: Protocol = Protocol.HTTP
    public: bool = True
    wait_ms: int | None = None


class Exposed(msgspec.Struct, frozen=True, kw_only=True):
    """An exposed port as its owner sees it. ``listening`` where it was waited for."""

    port: Port
    url: str
    listening: bool | None = None


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A signed address of a port that is not public; ``expires_at`` is wall time."""

    url: str
    expires_at: float
