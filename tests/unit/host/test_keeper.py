from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from nsbox.host import keeper as module
from nsbox.host.endpoint import Closed
from nsbox.host.keeper import KeeperLink
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.wire.messages import (
    PROTOCOL_VERSION,
    Create,
    Created,
    Destroy,
    Destroyed,
    Failed,
    Freeze,
    Frozen,
    Gone,
    Hello,
    Task,
    TaskDone,
    Thaw,
    Thawed,
    Welcome,
)  # fmt: skip
from tests.unit.host.inits import Peer, RunDir

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")
ORDER = Create("sb_1", ("layer",), "host", 1, 2, 3, 4, "{}")


@asynccontextmanager
async def linked(run_dir: RunDir) -> AsyncIterator[tuple[KeeperLink, Peer, list[str]]]:
    run_dir.listen("keeper")
    gone: list[str] = []
    link = KeeperLink(run_dir.descriptor, gone.append)
    peer = run_dir.accept("keeper")
    try:
        await peer.send(Welcome(PROTOCOL_VERSION, ("pids",), ("sb_7",)))
        assert await link.greet() == ("sb_7",)
        assert link.enforced == ("pids",)
        assert await peer.expect(Hello) == Hello(PROTOCOL_VERSION)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listening, link)
                yield link, peer, gone
                nursery.cancel_scope.cancel()
    finally:
        link.close()
        if peer.sock.fileno() >= 0:
            peer.close()


async def listening(link: KeeperLink) -> None:
    with pytest.raises((Closed, trio.Cancelled)) as caught:
        await link.listen()
    if caught.type is trio.Cancelled:
        raise caught.value


async def outcome(work: Any) -> Any:
    try:
        return await work
    except (Problem, Closed) as problem:
        return problem


async def test_a_sandbox_is_made(run_dir: RunDir) -> None:
    async with linked(run_dir) as (link, peer, _):
        await peer.send(Created("another", ()))
        async with trio.open_nursery() as nursery:

            async def keeper() -> None:
                assert await peer.expect(Create) == ORDER
                await peer.send(Created("sb_1", ("pids",)))

            nursery.start_soon(keeper)
            assert await link.create(ORDER) == Created("sb_1", ("pids",))


@pytest.mark.parametrize(
    ("number", "detail", "said"), [(28, "text", "No space left"), (0, "/proc is not procfs", "not procfs")]
)
async def test_a_failure_says_where_and_what_to_do(
    run_dir: RunDir, number: int, detail: str, said: str
) -> None:
    async with linked(run_dir) as (link, peer, _), trio.open_nursery() as nursery:

        async def keeper() -> None:
            await peer.expect(Create)
            await peer.send(Failed("sb_1", "overlay", number, detail))

        nursery.start_soon(keeper)
        problem = await outcome(link.create(ORDER))
        assert problem.code is Code.CREATE_FAILED
        assert said in problem.detail
        assert problem.remedy
        assert problem.facts == {"stage": "overlay"}


async def test_two_who_end_the_same_sandbox_ask_once(run_dir: RunDir) -> None:
    async with linked(run_dir) as (link, peer, _), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(link.destroy, "sb_1")
        assert await peer.expect(Destroy) == Destroy("sb_1")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        await peer.send(Destroyed("sb_1"))


async def test_it_can_be_asked_again(run_dir: RunDir) -> None:
    async with linked(run_dir) as (link, peer, _):
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.destroy, "sb_1")
                await peer.expect(Destroy)
                await peer.send(Destroyed("sb_1"))


async def test_no_answer_in_time_and_then_one(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.02)
    async with linked(run_dir) as (link, peer, _):
        assert (await outcome(link.create(ORDER))).code is Code.CREATE_FAILED
        assert (await outcome(link.destroy("sb_1"))).code is Code.SANDBOX_UNRESPONSIVE
        monkeypatch.setattr(module, "_PATIENCE", 5)
        await peer.expect(Create)
        await peer.expect(Destroy)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.destroy, "sb_1")
            await peer.expect(Destroy)  # asked anew: the answer to the first may never come
            await peer.send(Destroyed("sb_1"))


async def test_a_task_and_its_status(run_dir: RunDir) -> None:
    async with linked(run_dir) as (link, peer, _), trio.open_nursery() as nursery:

        async def keeper() -> None:
            message, descriptors = await peer.receive() or (None, [])
            assert message == Task("k", "embed", "layer")
            assert len(descriptors) == 3
            for descriptor in descriptors:
                module.close_all([descriptor])
            await peer.send(TaskDone("k", 256))

        nursery.start_soon(keeper)
        assert await link.task("k", "embed", "layer", (0, 1, 2)) == 256


async def test_sandboxes_that_end_by_themselves(run_dir: RunDir) -> None:
    async with linked(run_dir) as (_, peer, gone):
        await peer.send(Gone("sb_7", 9))
        await trio.testing.wait_all_tasks_blocked()
        assert gone == ["sb_7"]


async def test_the_end_of_keeper_reaches_everybody(run_dir: RunDir) -> None:
    async with linked(run_dir) as (link, peer, _):
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:
            for work in (link.create(ORDER), link.destroy("sb_2"), link.task("k", "embed", "x", ())):

                async def one(work: Any = work) -> None:
                    answers.append(await outcome(work))

                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            peer.close()
        assert len(answers) == 3
        assert {type(one) for one in answers} == {Problem, Closed}
        assert (await outcome(link.destroy("sb_3"))).code is Code.SANDBOX_UNRESPONSIVE


async def test_what_is_told_before_the_greeting_was_for_somebody_else(run_dir: RunDir) -> None:
    """A task of an earlier api ends just when this one has connected."""
    run_dir.listen("keeper")
    gone: list[str] = []
    link = KeeperLink(run_dir.descriptor, gone.append)
    peer = run_dir.accept("keeper")
    for message in (
        TaskDone("k", 0),
        Gone("sb_1", 9),
        Destroyed("sb_2"),
        Frozen("sb_2", 0, ""),
        Thawed("sb_2", 0),
        Welcome(PROTOCOL_VERSION, (), ("sb_3",)),
    ):
        await peer.send(message)
    with trio.fail_after(5):
        assert await link.greet() == ("sb_3",)
    assert gone == []
    link.close()
    peer.close()


async def test_another_version(run_dir: RunDir) -> None:
    run_dir.listen("keeper")
    link = KeeperLink(run_dir.descriptor, print)
    peer = run_dir.accept("keeper")
    await peer.send(Welcome(PROTOCOL_VERSION + 1, (), ()))
    with pytest.raises(HostProblem, match="version"):
        await link.greet()
    link.close()
    peer.close()


async def test_no_keeper(run_dir: RunDir) -> None:
    with pytest.raises(HostProblem, match="does not answer"):
        KeeperLink(run_dir.descriptor, print)


# ---- freeze and thaw


async def test_freeze_and_thaw(run_dir: RunDir) -> None:
    async with linked(run_dir) as (link, peer, _), trio.open_nursery() as nursery:

        async def keeper() -> None:
            assert await peer.expect(Freeze) == Freeze("sb_1")
            await peer.send(Frozen("sb_1", 0, "/sys/fs/cgroup/box-1"))
            assert await peer.expect(Thaw) == Thaw("sb_1")
            await peer.send(Thawed("sb_1", 0))

        nursery.start_soon(keeper)
        assert await link.freeze("sb_1") == "/sys/fs/cgroup/box-1"
        await link.thaw("sb_1")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.EOPNOTSUPP, Code.HOST_LACKS, "no cgroup"),
        (errno.EBUSY, Code.SANDBOX_UNRESPONSIVE, "runs on"),
        (errno.ESRCH, Code.SANDBOX_GONE, "ended"),
        (errno.ECANCELED, Code.SANDBOX_GONE, "ended"),
        (errno.EACCES, Code.HOST_LACKS, "Permission denied"),
    ],
)
async def test_what_cannot_be_frozen(run_dir: RunDir, number: int, code: Code, said: str) -> None:
    async with linked(run_dir) as (link, peer, _), trio.open_nursery() as nursery:

        async def keeper() -> None:
            await peer.expect(Freeze)
            await peer.send(Frozen("sb_1", number, ""))
            await peer.expect(Thaw)
            await peer.send(Thawed("sb_1", number))

        nursery.start_soon(keeper)
        for work in (link.freeze, link.thaw):
            problem = await outcome(work("sb_1"))
            assert problem.code is code
            assert said in problem.detail
            assert problem.remedy


async def test_a_freeze_without_an_answer(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    async with linked(run_dir) as (link, peer, _):
        monkeypatch.setattr(module, "_PATIENCE", 0.02)
        assert (await outcome(link.freeze("sb_1"))).code is Code.SANDBOX_UNRESPONSIVE
        monkeypatch.setattr(module, "_PATIENCE", 5)
        await peer.expect(Freeze)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.freeze, "sb_1")
            await peer.expect(Freeze)
            await peer.send(Frozen("sb_1", 0, ""))
