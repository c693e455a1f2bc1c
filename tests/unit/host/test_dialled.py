"""A socket from an init is looked at before anything goes through it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
import trio

from nsbox.host import dialled
from nsbox.host.box import Unresponsive
from nsbox.inside import dial
from nsbox.wire.messages import Dial, Dialled, Refused
from tests.unit.host.inits import RunDir
from tests.unit.host.test_box import at_once, connected

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


async def test_a_connection(listener: socket.socket) -> None:
    port = port_of(listener)
    sock = await dialled.connected(dial.begin(4, port).detach(), 4, port)
    theirs, _ = listener.accept()
    with theirs:
        sock.send(b"x", socket.MSG_DONTWAIT)
        assert theirs.recv(1) == b"x"
    dialled.close(sock)
    dialled.close(sock)  # twice is no harm


async def test_a_connection_over_ipv6() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    with listener:
        port = port_of(listener)
        dialled.close(await dialled.connected(dial.begin(6, port).detach(), 6, port))


async def test_nothing_listens(listener: socket.socket) -> None:
    port = port_of(listener)
    listener.close()
    with pytest.raises(dialled.NotListening):
        await dialled.connected(dial.begin(4, port).detach(), 4, port)


async def test_a_full_backlog_keeps_neither_init_nor_us(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialled, "PATIENCE", 0.2)
    listener.listen(0)
    port = port_of(listener)
    begun = trio.current_time()
    waiting = [dial.begin(4, port) for _ in range(8)]  # more than it takes
    assert trio.current_time() - begun < 1
    with pytest.raises(trio.TooSlowError):
        await dialled.connected(waiting.pop().detach(), 4, port)
    for one in waiting:
        one.close()


@pytest.mark.parametrize("family", [0, 5, 10])
def test_other_families_are_not_dialled(family: int) -> None:
    with pytest.raises(OSError, match="no such port"):
        dial.begin(family, 80)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_what_is_no_port_is_not_dialled(port: int) -> None:
    with pytest.raises(OSError, match="no such port"):
        dial.begin(4, port)


def _udp(port: int) -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    return sock.detach()


def _listening(port: int) -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


def _unix(port: int) -> int:
    one, other = socket.socketpair()
    other.close()
    return one.detach()


IMPOSTORS: dict[str, Callable[[int], int]] = {
    "a file": lambda port: os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),
    "a pipe": lambda port: os.dup(0),
    "a datagram socket": _udp,
    "a Unix socket": _unix,
    "a socket that listens": _listening,
    "a socket that does nothing": lambda port: socket.socket().detach(),
}


@pytest.mark.parametrize("name", IMPOSTORS)
async def test_impostors(name: str, listener: socket.socket) -> None:
    port = port_of(listener)
    with trio.fail_after(3), pytest.raises(dialled.Impostor):
        await dialled.connected(IMPOSTORS[name](port), 4, port)


async def test_a_connection_to_another_port_is_an_impostor(listener: socket.socket) -> None:
    port = port_of(listener)
    with pytest.raises(dialled.Impostor):
        await dialled.connected(dial.begin(4, port).detach(), 4, port ^ 1)


async def test_the_other_family_is_an_impostor(listener: socket.socket) -> None:
    port = port_of(listener)
    with pytest.raises(dialled.Impostor):
        await dialled.connected(dial.begin(4, port).detach(), 6, port)


# ---- asking init


async def test_init_is_asked(run_dir: RunDir, listener: socket.socket) -> None:
    port = port_of(listener)
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            assert await peer.expect(Dial) == Dial("k", 4, port)
            sock = dial.begin(4, port)
            await peer.send(Dialled("k"), [sock.fileno()])
            sock.close()

        sock, _ = await at_once(lambda: box.dial("k", 4, port), init)
        assert sock.getpeername()[1] == port
        dialled.close(sock)


@pytest.mark.parametrize("count", [0, 2])
async def test_another_number_of_sockets(run_dir: RunDir, listener: socket.socket, count: int) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Dial)
            await peer.send(Dialled("k"), [listener.fileno()] * count)

        result, _ = await at_once(lambda: box.dial("k", 4, 80), init)
        assert isinstance(result, Unresponsive)


async def test_init_sends_something_else(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Dial)
            await peer.send(Dialled("k"), [0])

        result, _ = await at_once(lambda: box.dial("k", 4, 80), init)
        assert isinstance(result, Unresponsive)


async def test_init_refuses(run_dir: RunDir) -> None:
    async with connected(run_dir) as (box, peer):

        async def init() -> None:
            await peer.expect(Dial)
            await peer.send(Refused("k", "dial", 24, "no descriptors"))

        result, _ = await at_once(lambda: box.dial("k", 4, 80), init)
        assert str(result) == "dial: no descriptors"
