"""What a host needs so that sandboxes have a network: pasta, and a /dev/net/tun that may be opened."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.registries import tools


def need_pasta() -> None:
    """Skips where it cannot be had."""
    tools.need("pasta")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this host has no /dev/net/tun")


def need_test_hosts() -> None:
    """Skips where the test hosts, or pasta, cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("test hosts are network namespaces, which root makes")
    tools.need("ip", "nft")
    need_pasta()


@contextlib.contextmanager
def usable_tun() -> Iterator[None]:
    """/dev/net/tun as udev leaves it: everybody may open it; what that gives, the namespace decides."""
    before = os.stat("/dev/net/tun").st_mode & 0o777
    if before & 0o006 == 0o006:
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("/dev/net/tun may not be opened here, and only root can change that")
    os.chmod("/dev/net/tun", 0o666)
    try:
        yield
    finally:
        os.chmod("/dev/net/tun", before)


def wait_for_network(api: Any, patience: float = 30.0) -> None:
    """Until packets get out: a sandbox's record says so."""
    made = api.sandbox()
    try:
        deadline = time.monotonic() + patience
        while not api.get(made.id)["network"]["enforced"]:
            assert time.monotonic() < deadline, api.get(made.id)["network"]
            time.sleep(0.05)
    finally:
        api.kill(made.id)
