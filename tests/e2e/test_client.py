# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""The Python client against a real daemon: many threads, tasks of trio and asyncio, and an api that is killed.
Each method of ``Client`` is in test_client_docs; here is each of ``AsyncClient``."""

from __future__ import annotations

import asyncio
import hashlib
import io
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from nsbox.client import (
    AsyncClient,
    Client,
    Conflict,
    Exited,
    Forbidden,
    NotAuthenticated,
    NotFound,
    Output,
    Reattached,
    Retries,
    Sandbox,
    SandboxFileNotFound,
    SandboxNotFound,
    Started,
    StdinFull,
    TimedOut,
)
from tests.e2e.daemon import SLOWNESS, Daemon
from tests.registries import tools
from tests.registries.fake import FakeRegistry, serving
from tests.registries.images import image, layer

#: An api is replaced within a second or two; on an emulated machine that may be a minute.
PATIENT = Retries(patience=60.0 * SLOWNESS)
COUNT = "i=0; while [ $i -lt {n} ]; do echo o$i; [ $((i % 10)) = 0 ] && echo e$i >&2; i=$((i+1)); {rest}; done; exit 7"


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.url, daemon.key, retries=PATIENT) as one:
        yield one


@pytest.fixture
def box(client: Client) -> Iterator[Sandbox]:
    with client.create() as one:
        yield one


@pytest.fixture
async def tasks(daemon: Daemon) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(daemon.url, daemon.key, retries=PATIENT) as one:
        yield one


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with serving() as one:
        yield one


# ---- threads


def test_many_threads_share_one_client(client: Client, box: Sandbox) -> None:
    def one(number: int) -> str:
        path = f"/tmp/{number}"
        box.files.write(path, f"{number}")
        told = box.exec(["cat", path]).check().stdout
        text = "".join(event.text for event in box.stream(f"echo s{number}") if isinstance(event, Output))
        return f"{told} {text.strip()} {box.files.read_text(path)}"

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(one, range(60)))
    assert found == [f"{number} s{number} {number}" for number in range(60)]


def test_a_client_that_is_closed_wakes_whoever_waits(daemon: Daemon, client: Client, box: Sandbox) -> None:
    other = Client(daemon.url, daemon.key, retries=PATIENT)
    stream = other.sandbox(box.id).stream("echo go; sleep 600")
    assert isinstance(next(stream), Started)
    assert isinstance(next(stream), Output)
    failed: list[Exception] = []

    def wait() -> None:
        try:
            next(stream)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    other.close()
    thread.join(60 * SLOWNESS)
    assert "closed" in str(failed[0])
    assert box.processes.list()[0].info.running, "and the command goes on"


def test_a_large_file_there_and_back(box: Sandbox, tmp_path: Path) -> None:
    size, digest = 64 << 20, hashlib.sha256()
    with open(tmp_path / "large", "wb") as file:
        for number in range(size >> 20):
            piece = hashlib.sha256(b"%d" % number).digest() * (1 << 15)
            digest.update(piece)
            file.write(piece)
    told: list[int] = []
    assert (
        box.files.upload(tmp_path / "large", "/large", progress=lambda done, _: told.append(done)).size
        == size
    )
    assert told == sorted(told)
    assert told[-1] == size
    assert box.exec("sha256sum /large", timeout=300).check().stdout.split()[0] == digest.hexdigest()
    back = hashlib.sha256()
    for piece in box.files.stream("/large"):
        assert len(piece) <= 1 << 20
        back.update(piece)
    assert back.digest() == digest.digest()


def test_output_of_a_command_that_writes_much(box: Sandbox) -> None:
    digest = hashlib.sha256()
    with box.stream("head -c 30000000 /dev/zero | tr '\\0' x", timeout=300) as stream:
        for event in stream:
            if isinstance(event, Output):
                digest.update(event.data)
        assert stream.result().ok
    assert digest.digest() == hashlib.sha256(b"x" * 30_000_000).digest()


def test_the_same_key_is_the_same_command(box: Sandbox, client: Client) -> None:
    for _ in range(3):
        assert box.exec("echo x >> /n; wc -l < /n", idempotency_key="one").stdout == "1\n"
    made = [client.create(idempotency_key=f"box-{box.id}").id for _ in range(2)]
    assert made[0] == made[1]
    assert client.sandbox(made[0]).kill().status == "stopped"
    started = [box.processes.start("sleep 60", idempotency_key="p").id for _ in range(2)]
    assert started[0] == started[1]


def test_what_goes_wrong_is_told(daemon: Daemon, client: Client, box: Sandbox) -> None:
    with (
        Client(daemon.url, "nsbox_nobodys-key-at-all", retries=PATIENT) as other,
        pytest.raises(NotAuthenticated),
    ):
        other.list()
    with pytest.raises(SandboxNotFound):
        client.get("sb_nosuch")
    process = box.processes.start("sleep 600", stdin_open=True)
    with pytest.raises(TimedOut, match="still runs"):
        process.wait(timeout=0.2)
    with pytest.raises(StdinFull) as told:
        process.write(b"x" * 2_000_000, timeout=0.5)
    assert 0 < told.value.document["written"] < 2_000_000
    process.kill()
    with pytest.raises(Conflict):
        box.processes.start("true", stdin_open=True).wait().id, box.processes.list(all=True)[-1].write(b"x")


def test_a_block_that_fails_kills_its_sandbox_and_tells_why(client: Client) -> None:
    with pytest.raises(KeyError), client.create() as one:
        raise KeyError
    assert one.refresh().status == "stopped"


# ---- an api that is killed


def test_output_is_whole_though_api_is_killed(own_daemon: Daemon) -> None:
    """Nothing is lost, nothing comes twice, and the command runs once. It waits twice for a file, which comes
    when an api was killed and another is there: so there is always more to come."""
    rest = "case $i in 1000|2000) while [ ! -e /go$i ]; do sleep 0.05; done;; esac"
    with Client(own_daemon.url, own_daemon.key, retries=PATIENT) as client, client.create() as box:
        out, err, offset, gates = bytearray(), bytearray(), 0, [1000, 2000]
        for event in box.stream(f"echo run >> /runs; {COUNT.format(n=3000, rest=rest)}", timeout=600):
            if isinstance(event, Output):
                assert event.offset == offset
                offset += len(event.data)
                (out if event.stream == "stdout" else err).extend(event.data)
                if gates and out.endswith(b"o%d\n" % (gates[0] - 1)):
                    own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
                    own_daemon.wait_ready()
                    box.files.write(f"/go{gates.pop(0)}", "")
            elif isinstance(event, Exited):
                assert event.process.exit_code == 7
        assert gates == []
        assert out.decode().split() == [f"o{number}" for number in range(3000)]
        assert err.decode().split() == [f"e{number}" for number in range(0, 3000, 10)]
        assert box.files.read_text("/runs") == "run\n"


def test_output_is_whole_though_api_is_killed_anywhere(own_daemon: Daemon) -> None:
    """In the middle of the flow, wherever that is, or behind its end."""
    with Client(own_daemon.url, own_daemon.key, retries=PATIENT) as client, client.create() as box:
        out, after = bytearray(), 500
        for event in box.stream(COUNT.format(n=20_000, rest=":"), timeout=600):
            if isinstance(event, Output) and event.stream == "stdout":
                out += event.data
                if len(out) > after:
                    after = 1 << 30
                    own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
                    own_daemon.wait_ready()
        assert out.decode().split() == [f"o{number}" for number in range(20_000)]


def test_waiting_calls_survive_an_api_that_is_killed(own_daemon: Daemon) -> None:
    with Client(own_daemon.url, own_daemon.key, retries=PATIENT) as client, client.create() as box:
        with ThreadPoolExecutor(2) as pool:
            # It tells when it runs, waits to be let go, and must not run twice.
            script = "echo run >> /once; while [ ! -e /go ]; do sleep 0.05; done; echo over"
            ran = pool.submit(box.exec, script, timeout=600)
            process = box.processes.start("while [ ! -e /go ]; do sleep 0.05; done; exit 4")
            waited = pool.submit(process.wait)
            while not box.exec("test -e /once").ok:
                pass
            own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
            own_daemon.wait_ready()
            box.files.write("/go", "")
            assert ran.result(300 * SLOWNESS).stdout == "over\n"
            assert waited.result(300 * SLOWNESS).exit_code == 4
        assert box.files.read_text("/once") == "run\n"


async def test_the_same_for_tasks(own_daemon: Daemon) -> None:
    async with (
        AsyncClient(own_daemon.url, own_daemon.key, retries=PATIENT) as tasks,
        await tasks.create() as box,
    ):
        out, killed = bytearray(), False
        async with box.stream(COUNT.format(n=2000, rest=":"), timeout=600) as stream:
            async for event in stream:
                if isinstance(event, Output) and event.stream == "stdout":
                    out += event.data
                    if not killed and len(out) > 300:
                        killed = True
                        own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
                        await trio.to_thread.run_sync(own_daemon.wait_ready)
            assert (await stream.result()).exit_code == 7
        assert out.decode().split() == [f"o{number}" for number in range(2000)]


# ---- tasks


async def test_sandboxes_and_commands_of_tasks(tasks: AsyncClient) -> None:
    assert (await tasks.health()).ok
    async with await tasks.create(env={"A": "b"}, timeout=600) as box:
        assert box.id in [one.id for one in await tasks.list()]
        assert (await (await tasks.get(box.id)).info()).status == "running"
        assert (await tasks.sandbox(box.id).refresh()).memory_mb == (await box.info()).memory_mb
        assert (await box.exec("echo $A; exit 3")).exit_code == 3
        async with box.stream("echo one; echo two >&2; exit 4") as stream:
            events = [event async for event in stream]
            assert stream.offset == 8
            assert stream.process is not None
        assert isinstance(events[0], Started)
        assert {event.text for event in events if isinstance(event, Output)} == {"one\n", "two\n"}
        async with box.stream("sleep 600") as stream:
            assert isinstance(await anext(stream), Started)
            await stream.signal("KILL")
            assert (await stream.result()).signal == "KILL"
        assert (await box.set_timeout(900)).timeout_ms == 900_000
        assert (await box.set_lifecycle(on_expiry="kill")).on_expiry == "kill"
        assert (await box.metrics()).status == "running"
        assert (await box.network()).mode == "public"
        assert (await box.set_network(mode="off")).mode == "off"
        assert (await box.network_log()).entries == ()
        assert (await tasks.metrics()).startswith("# HELP")
    assert (await box.refresh()).status == "stopped"


async def test_processes_of_tasks(tasks: AsyncClient) -> None:
    async with await tasks.create() as box:
        process = await box.processes.start("cat; echo done", stdin_open=True)
        assert [one.id for one in await box.processes.list()] == [process.id]
        assert (await (await box.processes.get(process.id)).refresh()).running
        assert await process.write("text\n") == 5
        with pytest.raises(TimedOut):
            await process.wait(timeout=0.1)
        await process.close_stdin()
        assert (await process.wait()).exit_code == 0
        assert await process.output() == b"text\ndone\n"
        assert (await process.logs()).text == "text\ndone\n"
        async with process.follow(5) as stream:
            assert "".join([event.text async for event in stream if isinstance(event, Output)]) == "done\n"
        other = await box.processes.start(["sleep", "600"])
        assert (await other.ticket(origin="https://a.example")).expires_in_s > 0
        assert (await other.signal("TERM")).id == other.id
        assert (await other.wait()).signal == "TERM"
        assert (await other.kill()).signal == "TERM"
        assert (await box.processes.kill_all()).killed >= 0


def test_one_thread_writes_to_what_it_is_attached_to_and_reads_then(box: Sandbox) -> None:
    """More than nsbox takes without being read from, and more than it takes at a time."""
    data = bytes(range(256)) * 4096
    with box.processes.start("cat", stdin_open=True).attach() as attached:
        attached.write(data)
        attached.close_stdin()
        assert b"".join(one.data for one in attached if isinstance(one, Output)) == data
        assert attached.process.info.exit_code == 0
        with pytest.raises(Conflict, match="ended"):
            attached.write(b"x")


def test_a_terminal_goes_on_though_api_is_killed(own_daemon: Daemon) -> None:
    with Client(own_daemon.url, own_daemon.key, retries=PATIENT) as client, client.create() as box:
        seen, lost = "", 0
        with box.terminal(["sh"], rows=30, columns=90) as terminal:
            # What is typed is on the screen too, but for the quotes.
            terminal.write("echo be''fore\r")
            for event in terminal:
                if isinstance(event, Output):
                    seen += event.text
                    if "before" in seen and not lost:
                        own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
                        own_daemon.wait_ready()
                        lost = 1
                elif isinstance(event, Reattached):
                    lost += 1
                    assert event.unsure == 0
                    terminal.resize(31, 91)
                    terminal.write("until [ \"$(stty size)\" = '31 91' ]; do sleep 0.1; done; exit 4\r")
        assert terminal.process.info.exit_code == 4
        assert (seen.count("before"), lost) == (1, 2)


async def test_tasks_read_and_write_what_they_are_attached_to(tasks: AsyncClient) -> None:
    data, got = bytes(range(256)) * 2048, bytearray()
    async with await tasks.create() as box:
        process = await box.processes.start("cat", stdin_open=True)
        async with process.attach() as attached, trio.open_nursery() as nursery:

            async def write() -> None:
                await attached.write(data)
                await attached.close_stdin()

            nursery.start_soon(write)
            async for event in attached:
                if isinstance(event, Output):
                    got += event.data
        assert got == data
        async with await box.terminal(["sh"]) as terminal:
            await terminal.resize(40, 120)
            with trio.move_on_after(0.2):  # a wait that is cancelled loses nothing
                async for _ in terminal:
                    pass
            await terminal.write("echo $((6 * 7)); exit\r")
            assert (await terminal.result()).exit_code == 0
            logs = await terminal.process.output()
            assert b"42" in logs
            assert terminal.offset == len(logs)


async def test_files_of_tasks(tasks: AsyncClient, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    (tmp_path / "local").write_bytes(data)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            await trio.lowlevel.checkpoint()
            yield b"%d\n" % number

    async with await tasks.create() as box:
        assert (await box.files.write("/a/b", "text", mode="0700")).size == 4
        assert await box.files.read("/a/b") == b"text"
        assert await box.files.read_text("/a/b") == "text"
        assert (await box.files.list("/a")).entries[0].mode == "0700"
        assert (await box.files.write("/c", io.BytesIO(data))).size == len(data)
        assert (await box.files.write("/d", pieces())).size == 6
        told: list[tuple[int, int | None]] = []
        await box.files.upload(tmp_path / "local", "/e", progress=lambda *so_far: told.append(so_far))
        assert told[-1] == (len(data), len(data))
        assert await box.files.download("/e", tmp_path / "back") == len(data)
        assert (tmp_path / "back").read_bytes() == data
        target = io.BytesIO()
        assert await box.files.download("/c", target) == len(data)
        assert target.getvalue() == data
        async with aclosing(box.files.stream("/e")) as stream:
            async for piece in stream:
                assert data.startswith(piece)
                break
        assert (await box.files.remove("/a", recursive=True)).deleted
        with pytest.raises(SandboxFileNotFound):
            await box.files.read("/a/b")


async def test_ports_snapshots_and_forks_of_tasks(tasks: AsyncClient, tmp_path: Path) -> None:
    async with await tasks.create() as box:
        assert (await box.ports.expose(8080, public=False)).port == 8080
        assert [one.port for one in await box.ports.list()] == [8080]
        assert (await box.ports.link(8080)).url
        assert (await box.ports.close(8080)).deleted
        await box.files.write("/x", "kept")
        taken = await box.snapshot(name="n")
        assert [one.id for one in await box.snapshots()] == [taken.id]
        assert taken.id in [one.id for one in await tasks.snapshots.list()]
        assert (await tasks.snapshots.get(taken.id)).name == "n"
        assert (await tasks.snapshots.diff(taken.id)).changes
        assert (await box.diff()).changes
        assert await tasks.snapshots.export(taken.id, tmp_path / "a.tar", format="tar") > 10_000
        assert (await tasks.snapshots.remove(taken.id)).removed
        (forked,) = await box.fork()
        assert await forked.files.read_text("/x") == "kept"
        assert (await forked.kill()).status == "stopped"


async def test_images_of_tasks(tasks: AsyncClient, registry: FakeRegistry, tmp_path: Path) -> None:
    program = tools.busybox()
    made = image([layer({"bin/busybox": program, "bin/sh": "busybox", "bin/echo": "busybox", "n": b"tasks"})])
    name = registry.push("team/tasks", made)
    assert (await tasks.images.pull(name)).digest == made.digest
    steps = []
    assert (await tasks.images.pulling(name).result(progress=steps.append)).image == name
    assert steps
    assert name in [one.image for one in (await tasks.images.list()).images]
    assert (await tasks.images.get(name)).layers
    assert await tasks.images.export(name, tmp_path / "a.oci") > 10_000
    with open(tmp_path / "a.oci", "rb") as archive:
        assert (await tasks.images.import_archive(archive, name="localhost:1/t:1")).image == "localhost:1/t:1"
    assert (await tasks.templates.build("tasks", name, setup=["echo x > /x"])).ready
    assert (await tasks.templates.building("tasks", name, setup=["echo y > /y"]).result()).id == "tasks"
    assert "tasks" in [one.id for one in await tasks.templates.list()]
    assert (await tasks.images.remove("localhost:1/t:1")).removed
    assert (await tasks.images.remove(name)).removed
    assert (await tasks.images.prune()).freed_bytes >= 0


async def test_accounts_of_tasks(tasks: AsyncClient, daemon: Daemon) -> None:
    me = await tasks.me()
    assert (me.user.role, me.user.disabled) == ("admin", False)
    assert me.plan is not None
    ann = await tasks.users.create("ann of the tasks")
    assert ann.id in [one.id for one in await tasks.users.list()]
    assert (await tasks.users.get(ann.id)).name == "ann of the tasks"
    async with AsyncClient(daemon.url, daemon.key, user=ann.id) as for_ann:
        assert (await for_ann.me()).user.id == ann.id
        assert await for_ann.list() == []
        made = await for_ann.keys.create("laptop", scopes=["sandboxes", "read-only"])
        assert (made.user_id, made.scopes) == (ann.id, ("sandboxes", "read-only"))
        async with AsyncClient(daemon.url, made.key) as herself:
            assert [one.id for one in await herself.keys.list()] == [made.id]
            with pytest.raises(Forbidden):
                await herself.create()
            with pytest.raises(Forbidden):
                await herself.users.list()
            await for_ann.keys.revoke(made.id)
            with pytest.raises(NotAuthenticated):
                await herself.list()
    assert (await tasks.users.update(ann.id, disabled=True)).disabled
    await tasks.users.remove(ann.id)
    with pytest.raises(NotFound):
        await tasks.users.get(ann.id)


async def test_a_cancelled_block_kills_its_sandbox(tasks: AsyncClient) -> None:
    seen: list[str] = []
    with trio.CancelScope() as scope:
        async with await tasks.create() as box:
            seen.append(box.id)
            scope.cancel()
            await box.exec("sleep 600")
    assert (await tasks.sandbox(seen[0]).refresh()).status == "stopped"


async def test_a_cancelled_stream_is_left_and_the_command_goes_on(tasks: AsyncClient) -> None:
    async with await tasks.create() as box:
        with trio.CancelScope() as scope:
            async with box.stream("echo go; sleep 600") as stream:
                async for event in stream:
                    if isinstance(event, Output):
                        scope.cancel()
        assert scope.cancelled_caught
        assert [one.info.kind for one in await box.processes.list()] == ["stream"]


def test_asyncio(daemon: Daemon, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.url, daemon.key) as tasks, await tasks.create() as box:
            found = await asyncio.gather(*(box.exec(f"echo {number}") for number in range(8)))
            assert [one.stdout for one in found] == [f"{number}\n" for number in range(8)]
            async with box.stream("echo a; echo b") as stream:
                text = "".join([event.text async for event in stream if isinstance(event, Output)])
            assert text == "a\nb\n"
            await box.files.write("/f", b"x" * 1_000_000)
            assert await box.files.download("/f", tmp_path / "f") == 1_000_000
            with pytest.raises(SandboxFileNotFound):
                await box.files.read("/none")
            async with await box.terminal("read line; echo got $line") as terminal:
                await terminal.write("it\r")
                text = "".join([event.text async for event in terminal if isinstance(event, Output)])
            assert "got it" in text
            waiting = asyncio.create_task(box.exec("sleep 600"))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(main(), debug=True)
