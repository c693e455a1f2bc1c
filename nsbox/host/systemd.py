"""What nsbox tells systemd, by the protocol of sd_notify(3). Nothing where there is no systemd to be told."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

_log = logging.getLogger(__name__)


def notify(message: str, environment: Mapping[str, str] = os.environ) -> None:
    """``READY=1``: the unit is up. ``WATCHDOG=1``: it still does its work."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), address)
        except OSError as error:
            _log.warning("systemd cannot be told: %s", error)
