from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from nsbox.host import dialled
from nsbox.host.box import Refusal, Unresponsive
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action
from nsbox.model.ports import PortSpec, Protocol
from nsbox.plan.previews import form
from nsbox.service.links import Links
from nsbox.service.ports import Ports, Reach
from nsbox.wire.messages import Refused
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC, FakeBox

OWNER = "ann"
WEB, TCP = PortSpec(port=8080), PortSpec(port=5432, protocol=Protocol.TCP)


class FakePublisher:
    def __init__(self) -> None:
        self.open_now: dict[tuple[str, int], int] = {}
        self.wanted: list[int | None] = []
        self.full = False

    def open(self, sandbox_id: str, port: int, wanted: int | None) -> int:
        if self.full:
            raise Problem(Code.NO_HOST_PORT, "full")
        self.wanted.append(wanted)
        return self.open_now.setdefault((sandbox_id, port), wanted or 30_000 + len(self.open_now))

    def close(self, sandbox_id: str, port: int) -> None:
        self.open_now.pop((sandbox_id, port), None)

    def address(self, host_port: int) -> str:
        return f"tcp://127.0.0.1:{host_port}"


class Setting:
    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.folder = service, folder
        self.publisher = FakePublisher()
        self.start()

    def start(self) -> None:
        links = Links(str(self.folder))
        self.ports = Ports(self.service.registry, form("", 8081), links, self.publisher, 3)


@pytest.fixture
def setting(service: Service, tmp_path: Path) -> Setting:
    return Setting(service, tmp_path)


async def made(setting: Setting) -> tuple[str, FakeBox]:
    record = await setting.service.sandboxes.create(OWNER, SPEC)
    return record.id, FakeBox.made[record.id]


def dials(box: FakeBox, outcomes: dict[int, Callable[[], socket.socket]]) -> list[int]:
    """Have the fake init dial; the families it was asked for."""
    asked: list[int] = []

    async def dial(key: str, family: int, port: int) -> socket.socket:
        await trio.lowlevel.checkpoint()
        asked.append(family)
        return outcomes[family]()

    box.dial = dial  # type: ignore[attr-defined]
    return asked


def refused() -> socket.socket:
    raise dialled.NotListening


async def test_exposing_is_idempotent_and_outlives_a_restart(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    first, new = await setting.ports.expose(OWNER, sandbox_id, WEB)
    again, also_new = await setting.ports.expose(OWNER, sandbox_id, WEB)
    assert (new, also_new) == (True, False)
    assert first == again
    assert first.url == f"http://{sandbox_id.replace('_', '-')}-8080.localhost:8081/"
    setting.service.start()
    setting.start()
    await setting.service.sandboxes.reconcile((sandbox_id,))
    assert [one.port for one in await setting.ports.list(OWNER, sandbox_id)] == [first.port]
    assert setting.ports.find(sandbox_id, 8080) == (Reach.OPEN, first.port)


async def test_how_it_is_exposed_can_be_changed(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    await setting.ports.expose(OWNER, sandbox_id, WEB)
    changed = setting.ports.changed
    private, _ = await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=8080, public=False))
    assert changed.is_set()
    assert private.port.public is False


async def test_the_number_is_bounded(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    for number in (1, 2, 3):
        await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=number))
    with pytest.raises(Problem) as caught:
        await setting.ports.expose(OWNER, sandbox_id, WEB)
    assert caught.value.code is Code.TOO_MANY_PORTS
    await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=3))


async def test_taking_away(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    await setting.ports.expose(OWNER, sandbox_id, WEB)
    link = await setting.ports.link(OWNER, sandbox_id, 8080, 60)
    token = link.url.partition("nsbox_link=")[2]
    _, port = setting.ports.find(sandbox_id, 8080)
    assert port is not None
    assert setting.ports.admits(token, sandbox_id, port)
    changed = setting.ports.changed
    await setting.ports.remove(OWNER, sandbox_id, 8080)
    assert changed.is_set()
    assert setting.ports.find(sandbox_id, 8080).reach is Reach.NOT_EXPOSED
    for ask in (
        setting.ports.remove(OWNER, sandbox_id, 8080),
        setting.ports.link(OWNER, sandbox_id, 8080, 1),
    ):
        with pytest.raises(Problem) as caught:
            await ask  # type: ignore[misc]
        assert caught.value.code is Code.PORT_NOT_EXPOSED
    await setting.ports.expose(OWNER, sandbox_id, WEB)
    _, port = setting.ports.find(sandbox_id, 8080)
    assert port is not None
    assert not setting.ports.admits(token, sandbox_id, port)  # exposed anew: old links are worthless


async def test_somebody_elses_and_ended_sandboxes(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    with pytest.raises(Problem) as caught:
        await setting.ports.expose("bob", sandbox_id, WEB)
    assert caught.value.code is Code.SANDBOX_NOT_FOUND
    await setting.ports.expose(OWNER, sandbox_id, WEB)
    await setting.service.sandboxes.kill(OWNER, sandbox_id)
    with pytest.raises(Problem) as caught:
        await setting.ports.list(OWNER, sandbox_id)
    assert caught.value.code is Code.WRONG_STATE
    assert setting.ports.find(sandbox_id, 8080).reach is Reach.NO_SANDBOX


async def test_a_paused_sandbox(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    await setting.ports.expose(OWNER, sandbox_id, WEB)
    live = setting.service.registry.find(sandbox_id)
    assert live is not None
    await setting.service.registry.move(live, Action.PAUSE)
    assert setting.ports.find(sandbox_id, 8080).reach is Reach.PAUSED
    assert len(await setting.ports.list(OWNER, sandbox_id)) == 1


async def test_tcp(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    exposed, _ = await setting.ports.expose(OWNER, sandbox_id, TCP)
    assert exposed.url == "tcp://127.0.0.1:30000"
    with pytest.raises(Problem):
        await setting.ports.link(OWNER, sandbox_id, 5432, 60)
    setting.publisher.open_now.clear()  # another api process
    setting.ports.republish()
    assert setting.publisher.open_now == {(sandbox_id, 5432): 30_000}
    await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=5432))  # HTTP from now on
    assert setting.publisher.open_now == {}
    await setting.ports.expose(OWNER, sandbox_id, TCP)
    await setting.ports.remove(OWNER, sandbox_id, 5432)
    assert setting.publisher.open_now == {}


async def test_a_host_port_that_somebody_else_has_now_does_not_end_the_start(setting: Setting) -> None:
    sandbox_id, _ = await made(setting)
    await setting.ports.expose(OWNER, sandbox_id, TCP)
    setting.publisher.full = True
    setting.ports.republish()
    with pytest.raises(Problem) as caught:
        await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=1, protocol=Protocol.TCP))
    assert caught.value.code is Code.NO_HOST_PORT
    assert len(await setting.ports.list(OWNER, sandbox_id)) == 1


async def test_the_family_that_answered_is_asked_first_next_time(setting: Setting) -> None:
    sandbox_id, box = await made(setting)
    await setting.ports.expose(OWNER, sandbox_id, WEB)
    asked = dials(box, {4: refused, 6: socket.socket})
    for _ in range(2):
        (await setting.ports.dial(sandbox_id, 8080)).close()
    assert asked == [4, 6, 6]


async def test_only_exposed_ports_are_dialled(setting: Setting) -> None:
    sandbox_id, box = await made(setting)
    asked = dials(box, {})
    with pytest.raises(Unresponsive):
        await setting.ports.dial(sandbox_id, 8080)
    with pytest.raises(Unresponsive):
        await setting.ports.dial("sb_none", 8080)
    assert asked == []


@pytest.mark.parametrize(("number", "error"), [(97, dialled.NotListening), (24, Unresponsive)])
async def test_what_init_refuses(setting: Setting, number: int, error: type[Exception]) -> None:
    sandbox_id, box = await made(setting)
    await setting.ports.expose(OWNER, sandbox_id, WEB)

    def refuse() -> socket.socket:
        raise Refusal(Refused("k", "dial", number, "no"))

    dials(box, {4: refuse, 6: refuse})
    with pytest.raises(error):
        await setting.ports.dial(sandbox_id, 8080)


async def test_waiting_until_something_listens(
    setting: Setting, autojump_clock: trio.testing.MockClock
) -> None:
    sandbox_id, box = await made(setting)
    attempts = 0

    def later() -> socket.socket:
        nonlocal attempts
        attempts += 1
        if attempts < 5:
            raise dialled.NotListening
        return socket.socket()

    dials(box, {4: later, 6: refused})
    exposed, _ = await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=80, wait_ms=10_000))
    assert exposed.listening is True
    dials(box, {4: refused, 6: refused})
    exposed, _ = await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=80, wait_ms=500))
    assert exposed.listening is False
    exposed, _ = await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=80, wait_ms=0))
    assert exposed.listening is False


async def test_a_sandbox_that_ends_while_it_is_waited_for(
    setting: Setting, autojump_clock: trio.testing.MockClock
) -> None:
    sandbox_id, box = await made(setting)
    dials(box, {4: refused, 6: refused})
    problems = []

    async def wait() -> None:
        with pytest.raises(Problem) as caught:
            await setting.ports.expose(OWNER, sandbox_id, PortSpec(port=80, wait_ms=60_000))
        problems.append(caught.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        await setting.service.sandboxes.kill(OWNER, sandbox_id)
    assert problems == [Code.WRONG_STATE]
