"""From a request to the port of a sandbox it is for. Pure."""

from __future__ import annotations

import re

from nsbox.plan.previews import Form, Target
from nsbox.proxy.head import MalformedError, Request

#: A name or an IPv4 address, or an IPv6 address in brackets, and a port. Any port: somebody may forward one.
_HOST = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,250}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)


def target_of(form: Form, request: Request) -> Target | None:
    """Where a request goes, None when it names no preview. Raises ``MalformedError`` for a Host that is
    none."""
    host = request.host.decode("latin-1")
    match = _HOST.fullmatch(host)
    if match is None:
        if not host:
            return None  # HTTP/1.0 may leave it out
        raise MalformedError("Host is not a host")
    return form.target(match[1], request.target)
