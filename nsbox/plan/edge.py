"""Settings of the proxy that are more than a number or a word, read. Pure."""

from __future__ import annotations

import ipaddress

from nsbox.model.errors import HostProblem
from nsbox.plan import previews
from nsbox.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def trusted(text: str) -> tuple[Network, ...]:
    """Networks whose X-Forwarded-* headers are believed. Raises ``ValueError``."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def host_ports(text: str) -> range:
    """Ports of the host that may be given to sandboxes; none when the setting is empty. Raises
    ``ValueError``."""
    if not text:
        return range(0)
    low, _, high = text.partition("-")
    found = range(int(low), int(high or low) + 1)
    if not found or found[0] < 1024 or found[-1] > 65_535:
        raise ValueError(f"{text!r} is not a range of ports between 1024 and 65535")
    return found


def form(settings: Settings, proxy_port: int) -> previews.Form:
    """How previews are addressed, the proxy listening on ``proxy_port``. Raises ``ValueError``."""
    return previews.form(settings.preview_url, proxy_port)


def check(settings: Settings) -> None:
    """Raises ``HostProblem`` for a setting that cannot be used, before anything is started."""
    for name, read in (
        ("preview_url", lambda: form(settings, settings.proxy_port or 1)),
        ("trusted_proxies", lambda: trusted(settings.trusted_proxies)),
        ("tcp_ports", lambda: host_ports(settings.tcp_ports)),
    ):
        try:
            read()
        except ValueError as error:
            raise HostProblem(
                f"a setting is wrong: {name}: {error}", remedy="see docs/settings.md for what it may be"
            ) from error
