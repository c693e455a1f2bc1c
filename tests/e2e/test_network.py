"""The network as a client uses it: policies, names, installing a package, and processes of it that die."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import new_key
from tests.e2e import hosts
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import wait_until
from tests.e2e.hosts import PORT, World
from tests.e2e.world import Inhabitant, world

__all__ = ["world"]  # a fixture

_DIAL = "python3 -c \"import socket; print(socket.create_connection(('{}', {}), 4).recv(5))\""
INTERNET = _DIAL.format(hosts.INTERNET4, PORT)


@pytest.fixture(scope="module")
def inhabitant(world: World) -> Iterator[Inhabitant]:
    # An operator who opens a part of the LAN, and shuts a part of the internet.
    settings = {
        "NSBOX_NETWORK_REACHABLE": f"{hosts.NEIGHBOUR4}/32",
        "NSBOX_NETWORK_DENY": f"{hosts.OTHER4}/32",
    }
    with Inhabitant(world, new_key(), settings) as one:
        yield one


@pytest.fixture
def make(inhabitant: Inhabitant) -> Iterator[Callable[..., Sandbox]]:
    made: list[Sandbox] = []

    def make(**wish: object) -> Sandbox:
        made.append(inhabitant.api.sandbox(**wish))
        return made[-1]

    yield make
    for one in made:
        inhabitant.api.kill(one.id)


def dials(box: Sandbox, address: str, port: int = PORT) -> bool:
    return "hello" in str(box.run(_DIAL.format(address, port), timeoutMs=20_000)["stdout"])


def test_a_sandbox_has_names_and_an_address(make: Callable[..., Sandbox]) -> None:
    box = make()
    name = box.out("cat /etc/hostname").strip()
    address = box.out("hostname -I").split()
    assert box.out("hostname").strip() == name
    assert address[0].startswith("10.209.")
    assert address[1].startswith("fd6e:7362:6f78:")
    assert address[0] in box.out(f"getent ahostsv4 {name}")
    assert box.out("cat /etc/resolv.conf").splitlines()[0] == "nameserver 10.209.0.1"
    assert hosts.INTERNET4 in box.out("getent ahostsv4 internet.example")
    assert box.run("getent ahosts nowhere.example")["exitCode"] != 0


def test_the_policy_is_the_records(make: Callable[..., Sandbox], inhabitant: Inhabitant) -> None:
    box = make(network={"mode": "off"})
    off = {"mode": "off", "allow": [], "deny": [], "ports": [], "enforced": True}
    assert inhabitant.api.get(box.id)["network"] == off
    assert box.request("GET", "/network").json == off
    assert not dials(box, hosts.INTERNET4)
    changed = box.request("PUT", "/network", {})
    assert changed.json == {**off, "mode": "public"}
    assert inhabitant.api.get(box.id)["network"]["mode"] == "public"
    assert dials(box, hosts.INTERNET4)
    assert dials(box, hosts.INTERNET6)


def test_off_is_off_from_the_first_moment(make: Callable[..., Sandbox]) -> None:
    box = make(network={"mode": "off"})
    assert box.run(INTERNET)["exitCode"] != 0
    assert box.run("getent ahosts internet.example")["exitCode"] != 0
    names = [
        one["name"] for one in box.request("GET", "/network/log").json["entries"] if one["reason"] == "name"
    ]
    assert "internet.example" in names


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"mode": "open"}, "mode"),
        ({"allow": ["no name"]}, "allow[0]"),
        ({"mode": "public", "allow": ["10.0.0.0/8"]}, "allow[0]"),
        ({"ports": ["x"]}, "ports[0]"),
        ({"ports": [70000]}, "ports[0]"),
    ],
)
def test_a_wrong_policy_names_the_member(
    make: Callable[..., Sandbox], wish: dict[str, object], field: str
) -> None:
    box = make()
    answer = box.request("PUT", "/network", wish)
    assert (answer.status, answer.code, answer.json["field"]) == (422, "invalid_field", field)
    made = box.api.request("POST", "/sandboxes", {"network": wish})
    assert (made.status, made.json["field"]) == (422, f"network.{field}")


def test_lists_of_networks_and_ports(make: Callable[..., Sandbox]) -> None:
    box = make(network={"deny": [hosts.INTERNET4]})
    assert not dials(box, hosts.INTERNET4)
    assert dials(box, hosts.INTERNET6)
    box.request("PUT", "/network", {"allow": [f"{hosts.INTERNET4}/31"]})
    assert dials(box, hosts.INTERNET4)
    assert not dials(box, hosts.INTERNET6)
    box.request("PUT", "/network", {"ports": [443, "8000-8098"]})
    assert not dials(box, hosts.INTERNET4)
    box.request("PUT", "/network", {"ports": [443, "8000-8100"]})
    assert dials(box, hosts.INTERNET4)


def test_what_the_operator_opened_and_shut(make: Callable[..., Sandbox]) -> None:
    box = make()
    assert not dials(box, hosts.NEIGHBOUR4)  # open to be granted, and not granted
    box.request("PUT", "/network", {"mode": "public", "allow": [hosts.NEIGHBOUR4]})
    assert dials(box, hosts.NEIGHBOUR4)
    assert not dials(box, hosts.METADATA4)
    assert not dials(box, hosts.OTHER4)
    box.request("PUT", "/network", {"allow": [f"{hosts.OTHER4}/32"]})
    assert not dials(box, hosts.OTHER4)


def test_names_that_are_denied(make: Callable[..., Sandbox]) -> None:
    box = make(network={"deny": ["*.internet.example"]})
    assert box.run("getent ahosts www.internet.example")["exitCode"] != 0
    assert box.run("getent ahosts internet.example")["exitCode"] == 0


def test_another_tenant_finds_no_network(make: Callable[..., Sandbox], inhabitant: Inhabitant) -> None:
    box = make()
    stranger = Api(inhabitant.daemon.url, _key_of_somebody_else(inhabitant))
    for method, path in (("GET", "/network"), ("PUT", "/network"), ("GET", "/network/log")):
        answer = stranger.request(method, f"/sandboxes/{box.id}{path}", {} if method == "PUT" else None)
        assert (answer.status, answer.code) == (404, "sandbox_not_found")
    stranger.close()


def _key_of_somebody_else(inhabitant: Inhabitant) -> str:
    made = inhabitant.daemon.nsbox(
        "keys", "create", "other", "--owner", "other", "--state-dir", inhabitant.daemon.state_dir
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_addresses_are_used_again_and_nothing_of_the_last_owner_is_left(
    make: Callable[..., Sandbox], inhabitant: Inhabitant
) -> None:
    links = f"nsenter --net=/proc/{inhabitant.process('nsbox-network')}/ns/net ip -o link show group 7"

    def count() -> int:
        return len(
            subprocess.run(links.split(), capture_output=True, text=True, check=True).stdout.splitlines()
        )

    before = count()
    for _ in range(5):
        box = make(network={"allow": ["internet.example"]})
        box.run("getent ahosts internet.example")
        inhabitant.api.kill(box.id)
    wait_until(lambda: count() <= before, 20, "the links are gone")


def test_pasta_that_dies_is_started_again(make: Callable[..., Sandbox], inhabitant: Inhabitant) -> None:
    box = make()
    assert dials(box, hosts.INTERNET4)
    os.kill(inhabitant.pasta(), 9)
    wait_until(lambda: dials(box, hosts.INTERNET4), 60, "packets get out again")
    wait_until(lambda: inhabitant.api.get(box.id)["network"]["enforced"], 20, "the record says so")


def test_the_networks_process_that_dies_is_started_again(
    make: Callable[..., Sandbox], inhabitant: Inhabitant
) -> None:
    """Links stay, policies hold again, and new sandboxes are made."""
    box, closed = make(), make(network={"mode": "off"})
    os.kill(inhabitant.process("nsbox-network"), 9)
    wait_until(lambda: dials(box, hosts.INTERNET4), 60, "packets get out again")
    assert not dials(closed, hosts.INTERNET4)
    assert dials(make(), hosts.INTERNET4)
