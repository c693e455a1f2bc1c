"""Installing packages in a sandbox: the first thing that people do there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import DaemonFactory, new_key
from tests.e2e import index, outside
from tests.e2e.client import Api, Sandbox
from tests.e2e.hosts import World
from tests.e2e.readers import node_exec
from tests.e2e.world import Inhabitant, world

__all__ = ["world"]  # a fixture


@pytest.fixture(scope="module")
def inhabitant(world: World) -> Iterator[Inhabitant]:
    with Inhabitant(world, new_key()) as one:
        yield one


def _with_a_way_to(found: index.Index, factory: DaemonFactory) -> Api:
    """A client of a daemon whose operator has opened the way to a mirror in the local network, say."""
    networks = ",".join(f"{one}/{128 if ':' in one else 32}" for one in found.addresses)
    api = factory(settings={"network_reachable": networks}).api()
    outside.wait_for_network(api)
    return api


def _box(api: Api, found: index.Index) -> Sandbox:
    box = api.sandbox(network={"mode": "public", "allow": list(found.addresses)})
    found.told(box)
    return box


def test_the_published_example(
    daemon_factory: DaemonFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As it is printed, with the real package, from where this machine's own pip gets it."""
    outside.need_pasta()
    found = index.of_this_machine("pandas", str(tmp_path_factory.mktemp("own")))
    with outside.usable_tun(), _with_a_way_to(found, daemon_factory) as api:
        answer = node_exec(api, _box(api, found).id, 300)
    assert (answer["http"], answer["exitCode"]) == (200, 0), answer
    version = answer["stdout"].strip().splitlines()[-1]
    print(f"\npip install pandas: {version} after {answer['durationMs']} ms")
    assert f"pandas-{version}" in answer["stdout"]


def test_a_small_package(daemon_factory: DaemonFactory, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside.need_pasta()
    found = index.of_this_machine("six", str(tmp_path_factory.mktemp("own")))
    with outside.usable_tun(), _with_a_way_to(found, daemon_factory) as api:
        box = _box(api, found)
        said = box.out(
            "pip install -q six && python3 -c 'import six; print(six.__name__)'", timeoutMs=120_000
        )
    assert "six" in said


def test_the_published_example_from_a_test_host(
    world: World, inhabitant: Inhabitant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For machines without an index: the same lines, and a package that stands in for the real one."""
    folder = str(tmp_path_factory.mktemp("index"))
    index.wheel(folder, "pandas", "2.2.0")
    with index.on_a_test_host(world, folder) as found:
        box = inhabitant.api.sandbox()
        found.told(box)
        answer = node_exec(inhabitant.api, box.id)
    assert (answer["http"], answer["exitCode"]) == (200, 0), answer
    assert answer["stdout"].strip().splitlines()[-1] == "2.2.0"


def test_a_list_that_holds_the_index_alone(
    world: World, inhabitant: Inhabitant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("index"))
    index.wheel(folder, "nsbox_probe", "1.0")
    install = "pip install -q nsbox-probe && python3 -c 'import nsbox_probe as p; print(p.__version__)'"
    with index.on_a_test_host(world, folder) as found:
        box = inhabitant.api.sandbox(network={"allow": ["internet.example"], "ports": [index.PORT]})
        found.told(box)
        assert box.out(install, timeoutMs=90_000).endswith("1.0\n")
        other = inhabitant.api.sandbox(network={"allow": ["www.internet.example"]})
        found.told(other)
        failed = other.run(f"PIP_RETRIES=0 {install}", timeoutMs=90_000)
        assert failed["exitCode"] == 1
        assert "nsbox-probe" in failed["stderr"]
