"""``/ports``: what listens in a sandbox, reachable from outside."""

from __future__ import annotations

from nsbox.client.call import Call, body, milliseconds, reader
from nsbox.client.types.sandbox import ClosedPort, Link, Port


def expose(
    here: str,
    port: int,
    *,
    protocol: str | None = None,
    public: bool | None = None,
    wait: float | None = None,
) -> Call[Port]:
    """Give it an address. ``wait``: so many seconds, until something listens; ``listening`` says whether."""
    wish = body(port=port, protocol=protocol, public=public, wait_ms=milliseconds(wait))
    return Call("POST", f"{here}/ports", reader(Port), body=wish, safe=True, patience=wait or 0)


def get_all(here: str) -> Call[list[Port]]:
    """The exposed ports, by number."""
    return Call("GET", f"{here}/ports", reader(list[Port]), safe=True)


def close(here: str, port: int) -> Call[ClosedPort]:
    """Take the address away, with its connections and links."""
    path, gone = f"{here}/ports/{int(port)}", ClosedPort(port=port)
    return Call("DELETE", path, reader(ClosedPort), safe=True, again=lambda: gone)


def link(here: str, port: int, *, expires_in: int | None = None) -> Call[Link]:
    """An address for a port that is not public, for so many seconds. Another one does no harm."""
    wish = body(expires_in_s=expires_in)
    return Call("POST", f"{here}/ports/{int(port)}/links", reader(Link), body=wish, safe=True)
