"""Files from the service down to a real agent, which runs in a thread here."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from nsbox.host import agents as host_agents
from nsbox.host.agents import Agents
from nsbox.host.boxtime import BoxTime
from nsbox.host.endpoint import Endpoint
from nsbox.host.storage import Reserve
from nsbox.inside import channel, files
from nsbox.inside.agent import Agent
from nsbox.kernel import libc
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import FileType
from nsbox.service.files import Files
from nsbox.wire.messages import FROM_AGENT, Done, Entries, Opened, Scan
from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import Peer


class Box:
    """Gives out real agents, each in a thread, or one that the test plays."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.time = BoxTime()
        self.played: Peer | None = None

    async def open_agent(self, key: str, user: str) -> Endpoint:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self.played is None and not self.threads and key == "play":
            self.played = Peer(theirs)
            return Endpoint(ours, FROM_AGENT)
        channel.prepare(theirs)

        def serve() -> None:
            # As ``agent.run`` has it: nobody is left to tell.
            with theirs, suppress(BrokenPipeError):
                Agent(theirs).serve()

        self.threads.append(threading.Thread(target=serve))
        self.threads[-1].start()
        return Endpoint(ours, FROM_AGENT)


class Registry:
    """Has one sandbox."""

    def __init__(self, agents: Agents) -> None:
        self.agents = agents

    async def usable(self, owner: str, sandbox_id: str, action: Any) -> tuple[Any, Any, Agents]:
        await trio.lowlevel.checkpoint()
        return None, None, self.agents

    def find(self, sandbox_id: str) -> None:
        """It has no storage that could be full."""


class Settings:
    max_list_entries = 5


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    plain = frozenset({libc.filesystem_type(descriptor), 0x0102_1994})
    os.close(descriptor)
    monkeypatch.setattr(files, "PLAIN", plain)
    monkeypatch.setattr(host_agents, "_PLAIN", plain)
    with none_leaked():
        made = Box()
        yield made
        for thread in made.threads:
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
async def service(box: Box) -> Any:
    agents = Agents(box)  # type: ignore[arg-type]
    yield Files(Registry(agents), Settings(), Reserve("/", 0))  # type: ignore[arg-type]
    agents.close()


def at(path: Path) -> bytes:
    return os.fsencode(path)


async def read(service: Files, path: bytes) -> bytes:
    """A whole file, as api reads it."""
    data = b""
    async with service.open("ann", "sb", path) as file:
        while piece := await file.read_at(len(data), 100_000):
            data += piece
    return data


async def code_of(work: Any) -> Code:
    with pytest.raises(Problem) as caught:
        await work
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 1_000_000])
async def test_what_is_written_is_read(service: Files, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    assert await service.write("ann", "sb", at(tmp_path / "f"), data, 0o600) == size
    assert await read(service, at(tmp_path / "f")) == data
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]


async def test_a_file_that_grows_while_it_is_read(service: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a" * 10)
    async with service.open("ann", "sb", at(tmp_path / "f")) as file:
        with open(tmp_path / "f", "ab") as more:
            more.write(b"b" * 100)
        assert await file.read_at(0, 1000) == b"a" * 10 + b"b" * 100
        assert await file.read_at(5000, 10) == b""


async def test_an_upload_that_breaks_off_leaves_nothing_and_keeps_the_agent(
    service: Files, box: Box, tmp_path: Path
) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError):
            async with service.upload("ann", "sb", at(tmp_path / "f"), None) as upload:
                await upload.write(b"half")
                raise RuntimeError("the client left")
    assert os.listdir(tmp_path) == []
    assert len(box.threads) == 1


async def test_a_cancelled_upload_leaves_nothing(service: Files, tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with service.upload("ann", "sb", at(tmp_path / "f"), None) as upload:
            await upload.write(b"half")
            scope.cancel()
            await trio.sleep_forever()
    assert os.listdir(tmp_path) == []


async def test_a_listing(service: Files, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/l").symlink_to("x")
    os.close(os.open(at(tmp_path) + b"/\xff", os.O_CREAT))
    found = await service.list("ann", "sb", at(tmp_path), True)
    assert [(one.name, one.type) for one in found.entries] == [
        ("d", FileType.DIRECTORY), (os.fsdecode(b"\xff"), FileType.FILE), ("d/l", FileType.SYMLINK),
    ]  # fmt: skip
    assert found.entries[2].path == f"{tmp_path}/d/l"
    assert found.entries[2].target == "x"
    assert not found.truncated
    for number in range(5):
        (tmp_path / f"more{number}").write_bytes(b"")
    found = await service.list("ann", "sb", at(tmp_path) + b"/", True)
    assert (len(found.entries), found.truncated) == (5, True)
    assert found.entries[0].path == f"{tmp_path}/d"


async def test_a_listing_has_so_many_bytes(
    service: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few entries that are, where names and paths are long."""
    monkeypatch.setattr("nsbox.service.files._LONGEST_LISTING", 150_000)
    monkeypatch.setattr(Settings, "max_list_entries", 100_000)
    for number in range(2_000):
        (tmp_path / f"{number:0200}").write_bytes(b"")
    for _ in range(2):
        found = await service.list("ann", "sb", at(tmp_path), False)
        assert found.truncated
        assert 100 < len(found.entries) < 1_900
    (tmp_path / "f").write_bytes(b"the agent is another one, and well")
    assert await read(service, at(tmp_path / "f")) == b"the agent is another one, and well"


async def test_errors_in_the_words_of_the_api(service: Files, tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    folder = at(tmp_path / "d")
    assert await code_of(read(service, at(tmp_path / "x"))) is Code.FILE_NOT_FOUND
    assert await code_of(read(service, folder)) is Code.IS_A_DIRECTORY
    assert await code_of(service.remove("ann", "sb", folder, False)) is Code.DIRECTORY_NOT_EMPTY
    assert await code_of(service.list("ann", "sb", b"/dev/null", False)) is Code.NOT_A_DIRECTORY
    assert await code_of(service.write("ann", "sb", folder, b"", None)) is Code.IS_A_DIRECTORY
    await service.remove("ann", "sb", folder, True)
    assert os.listdir(tmp_path) == []


# ---- an agent that was taken over


@pytest.fixture
def hostile(box: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(host_agents, "new_command_id", lambda: "play")
    monkeypatch.setattr(host_agents, "PATIENCE", 0.05)
    return box


async def against(box: Box, work: Any, *answers: tuple[Any, list[int]]) -> Code:
    """The error that a request ends with when the agent says this."""

    async def play() -> None:
        while box.played is None:
            await trio.sleep(0)
        for message, descriptors in answers:
            try:
                await box.played.send(message, descriptors)
            except BrokenPipeError:
                break

    code = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play)
            with trio.fail_after(5):
                code = await code_of(work)
            nursery.cancel_scope.cancel()
    finally:
        assert box.played is not None
        box.played.close()
    return code


def entry(**changes: Any) -> str:
    row = {
        "name": "f",
        "kind": 0o100644,
        "size": 1,
        "mode": 1,
        "uid": 1,
        "gid": 1,
        "mtime": 1,
        "target": None,
    }
    return json.dumps(list((row | changes).values()))


@pytest.mark.parametrize(
    "row",
    ["", "{}", "[]", "null", "[" * 100_000, "[1,2,3,4,5,6,7]", entry(size=1 << 80), entry(uid=-(1 << 70)),
     entry(mtime=10**400), entry(size="x"), entry(kind=[1]), entry(size=None), entry(size=float("inf")),
     entry(mode=float("nan"))],
    ids=lambda row: row[:40],
)  # fmt: skip
async def test_rows_that_no_agent_of_ours_writes(service: Files, hostile: Box, row: str) -> None:
    work = service.list("ann", "sb", b"/", False)
    assert await against(hostile, work, (Entries((row,), 0, 0), [])) is Code.SANDBOX_UNRESPONSIVE


async def test_a_listing_without_end(service: Files, hostile: Box) -> None:
    part: tuple[Any, list[int]] = (Entries((entry(),) * 3, 1, 0), [])
    assert (
        await against(hostile, service.list("ann", "sb", b"/", False), *[part] * 20)
        is Code.SANDBOX_UNRESPONSIVE
    )


async def test_another_answer(service: Files, hostile: Box) -> None:
    work = read(service, b"/")
    assert await against(hostile, work, (Done(1), [])) is Code.SANDBOX_UNRESPONSIVE


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_something_that_is_no_file(service: Files, hostile: Box, count: int) -> None:
    work = read(service, b"/")
    assert await against(hostile, work, (Opened(1, 1, 0), [0] * count)) is Code.SANDBOX_UNRESPONSIVE


async def test_a_file_that_cannot_be_read(service: Files, hostile: Box, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    descriptor = os.open(tmp_path / "f", os.O_WRONLY)
    work = read(service, b"/f")
    try:
        assert await against(hostile, work, (Opened(4, 1, 0), [descriptor])) is Code.SANDBOX_UNRESPONSIVE
    finally:
        os.close(descriptor)


async def test_silence(service: Files, hostile: Box) -> None:
    assert await against(hostile, read(service, b"/")) is Code.SANDBOX_UNRESPONSIVE


def test_scan_is_sent_as_numbers() -> None:
    """A bool for an int once made the agent hang up."""
    from nsbox.wire.framing import encode

    with pytest.raises(TypeError):
        encode(Scan("/", True, 5))
