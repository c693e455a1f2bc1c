"""Connections for the registry client: to the host that was named, and to no private place it sends us to.

A registry may redirect a download to where it stores blobs, and name a place for tokens. A hostile one would
name ``http://169.254.169.254/`` or a service on this host's loopback. Addresses are therefore looked at after
name resolution and before the connection, which is then made to that very address: a name that resolves
otherwise the second time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from typing import Any

import httpcore2
import trio

_MOST_ADDRESSES = 8
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddress(Exception):
    """A registry sent us to an address that is not a public one."""


def is_public(address: str) -> bool:
    """Whether an address is on the internet at large, also as it is written within IPv6."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def is_loopback(host: str) -> bool:
    """Whether a host, written with or without a port, is this very machine by its name alone."""
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _why(error: BaseException) -> str:
    """The kernel's own word, which trio keeps in a group, one for each address."""
    at: BaseException | None = error
    while at is not None:
        inner = at.exceptions[0] if isinstance(at, BaseExceptionGroup) else at
        if isinstance(inner, OSError) and inner.errno:
            return os.strerror(inner.errno)
        at = inner.__cause__ or inner.__context__
    return str(error)


class Dialer(httpcore2.AsyncNetworkBackend):
    """A network backend that trusts one host. ``private``: it, or a setting, allows private addresses."""

    def __init__(self, trusted: str, *, private: bool = False) -> None:
        self._trusted = trusted
        self.private = private
        self._plain = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises ``ForbiddenAddress``, or what httpcore maps."""
        patience = timeout if timeout is not None else float("inf")
        try:
            with trio.fail_after(patience):
                rows = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except trio.TooSlowError as error:
            raise httpcore2.ConnectTimeout(f"{host} was not resolved within {timeout} s") from error
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} cannot be resolved: {error.strerror}") from error
        refused: Exception | None = None
        for address in self._allowed(host, rows):
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore2.ConnectTimeout as error:
                refused = error
            except httpcore2.ConnectError as error:
                name = f"[{host}]" if ":" in host else host
                refused = httpcore2.ConnectError(f"{name}:{port} cannot be reached: {_why(error)}")
                refused.__cause__ = error
        raise refused or httpcore2.ConnectError(f"{host} has no address")

    def _allowed(self, host: str, rows: list[Any]) -> list[str]:
        addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
        if host == self._trusted:
            self.private = self.private or not all(map(is_public, addresses))
        elif not self.private:
            addresses = [one for one in addresses if is_public(one)]
            if not addresses:
                raise ForbiddenAddress(f"the registry points to {host[:200]}, which is not a public address")
        return addresses[:_MOST_ADDRESSES]

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError("registries are not asked through Unix sockets")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
