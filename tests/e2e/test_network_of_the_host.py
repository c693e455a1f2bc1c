"""The network with the host's own around it: what this machine has, and what it lacks."""

from __future__ import annotations

import os

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.daemon import wait_until


def test_without_pasta_the_record_says_so(daemon_factory: DaemonFactory) -> None:
    """Nor without what it needs: no sandbox fails for it."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs root to take /dev/net/tun away, and one to take")
    mode = os.stat("/dev/net/tun").st_mode & 0o777
    os.chmod("/dev/net/tun", 0o600)
    try:
        one = daemon_factory()
        with one.api() as api:
            box = api.sandbox()
            wait_until(lambda: "tun" in api.get(box.id)["network"].get("reason", ""), 10)
            assert api.get(box.id)["network"]["enforced"] is False
            assert box.out("echo fine") == "fine\n"
            assert box.request("PUT", "/network", {"mode": "off"}).json["enforced"] is True
    finally:
        os.chmod("/dev/net/tun", mode)


def test_switched_off(daemon_factory: DaemonFactory) -> None:
    one = daemon_factory(settings={"network": "off"})
    with one.api() as api:
        box = api.sandbox()
        assert api.get(box.id)["network"]["enforced"] is False
        assert "eth0" not in box.out("cat /proc/net/dev")
        assert box.request("GET", "/network/log").json == {"entries": []}
        assert box.request("PUT", "/network", {"mode": "off"}).status == 200
