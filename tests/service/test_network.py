"""Sandboxes of nsbox.service get out through pasta, as its unit lets it, and only out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import wait_until
from tests.service.machine import PATIENCE, sh

#: A host of the internet behind this machine's network: nobody's address, and not one that is inside.
FAR, LINK = "11.22.33.44", ("192.168.211.1", "192.168.211.2")
_DIAL = "python3 -c \"import socket; print(socket.create_connection(('{}', 8099), 60).recv(5).decode())\""
_LISTEN = (
    "import socket; s = socket.create_server(('', 8099)); [s.accept()[0].send(b'hello') for _ in range(100)]"
)


@pytest.fixture
def far() -> Iterator[None]:
    sh(
        "ip netns add far; ip -n far link set lo up; ip link add far0 type veth peer name far1 netns far; "
        f"ip addr add {LINK[0]}/30 dev far0; ip link set far0 up; ip -n far addr add {LINK[1]}/30 dev far1; "
        f"ip -n far link set far1 up; ip -n far addr add {FAR}/32 dev lo; ip -n far route add default via "
        f"{LINK[0]}; ip route add {FAR}/32 via {LINK[1]}; "
        f'systemd-run --quiet --unit=far ip netns exec far python3 -c "{_LISTEN}"'
    )
    yield
    sh("systemctl stop far; ip netns del far; ip link del far0", check=False)


def test_packets_get_out_and_not_in(far: None, api: Api) -> None:
    box = Sandbox(api, api.create())
    wait_until(lambda: api.get(box.id)["network"]["enforced"], PATIENCE, "the network is up")
    assert box.out(_DIAL.format(FAR), timeoutMs=120_000) == "hello\n"
    for inside in (LINK[0], LINK[1], "127.0.0.1", "169.254.169.254"):
        assert box.run(_DIAL.format(inside), timeoutMs=120_000)["exitCode"] == 1, inside
    reasons = [(one["address"], one["reason"]) for one in box.request("GET", "/network/log").json["entries"]]
    assert (LINK[1], "inside") in reasons
    assert api.kill(box.id).status == 200


def _pastas() -> list[str]:
    """Owner and pid of each. On some processors it goes on as another program than was started."""
    lines = sh("ps -o user=,pid= -C pasta,pasta.avx2,passt,passt.avx2", check=False).splitlines()
    return [line.strip() for line in lines]


def test_pasta_is_the_accounts_and_ends_with_the_service(api: Api) -> None:
    box = api.sandbox()
    wait_until(lambda: api.get(box.id)["network"]["enforced"], PATIENCE, "the network is up")
    (before,) = _pastas()
    assert before.split()[0] == "nsbox"
    sh("systemctl restart nsbox")
    wait_until(_pastas, PATIENCE, "another pasta")
    (after,) = _pastas()
    assert after != before
