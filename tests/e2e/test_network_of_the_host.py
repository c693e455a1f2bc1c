"""The network with the host's own around it: what this machine has, and what it lacks."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.conftest import DaemonFactory, new_key
from tests.e2e.daemon import Daemon, wait_until


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


class _Lacking(Daemon):
    """A daemon on a host where one program cannot be executed: in a mount namespace of its own, for the
    others here have it."""

    program: str

    def command(self, *more: str) -> list[str]:
        script = 'mount --bind /dev/null "$0" && exec "$@"'
        hide = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, self.program]
        return [*hide, *super().command(*more)]


def test_without_pasta_itself() -> None:
    """The record names the package, and commands run."""
    found = shutil.which("pasta")
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root to hide pasta, and a pasta to hide")
    one = _Lacking(key=new_key())
    one.program = os.path.realpath(found)
    try:
        with one.start().api() as api:
            box = api.sandbox()
            wait_until(
                lambda: "apt-get install passt" in api.get(box.id)["network"].get("reason", ""), 10, "told"
            )
            assert api.get(box.id)["network"]["enforced"] is False
            assert box.out("echo fine") == "fine\n"
    finally:
        one.close()


def test_the_policy_of_those_who_ask_for_none(daemon_factory: DaemonFactory) -> None:
    """Is the operator's, and a wish of one's own goes before it."""
    settings = {"network_mode": "allowlist", "network_allow": "example.org,192.0.2.0/24"}
    with daemon_factory(settings=settings).api() as api:
        told = api.get(api.sandbox().id)["network"]
        assert (told["mode"], told["allow"]) == ("allowlist", ["example.org", "192.0.2.0/24"])
        assert api.get(api.sandbox(network={"mode": "off"}).id)["network"]["mode"] == "off"


def test_switched_off(daemon_factory: DaemonFactory) -> None:
    one = daemon_factory(settings={"network": "off"})
    with one.api() as api:
        box = api.sandbox()
        assert api.get(box.id)["network"]["enforced"] is False
        assert "eth0" not in box.out("cat /proc/net/dev")
        assert box.request("GET", "/network/log").json == {"entries": []}
        assert box.request("PUT", "/network", {"mode": "off"}).status == 200
