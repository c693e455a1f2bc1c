"""Where the time goes: each part of a create and of an exec done alone, by its own protocol, without HTTP.

With api stopped by SIGSTOP, the bench takes its place at the sockets of keeper and of a sandbox's init. What
a request takes beyond these parts is api's own: HTTP, tasks, pipes. Needs the rights of the account that the
daemon runs as. It is the last that is done with a daemon: an api that has lost keeper is of no more use.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator

import trio
from msgspec import structs

from bench.daemon import Daemon
from bench.figures import Figure
from bench.probe import Effort, Probe, now_ms, sample, timed
from nsbox.inside import channel
from nsbox.model.lifecycle import State
from nsbox.model.sandbox import Limits, Sandbox, new_command_id, new_sandbox_id
from nsbox.store.database import Database
from nsbox.store.sandboxes import SandboxStore
from nsbox.wire import messages

_SANDBOX_ENVIRON = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")


class StrangeAnswerError(Exception):
    """keeper or an init said something else than the answer."""


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """The parts of a create, an exec and a kill, and the least that the kernel needs for a command."""
    layer = os.path.basename(daemon.layer)
    samples = max(5, effort.samples // 2)
    with (
        _record(daemon) as record,
        _api_stopped(daemon),
        _keeper(daemon) as keeper,
        _box(daemon, keeper, layer) as box,
    ):
        probes = [
            _spawn("host_spawn", ["true"], samples),
            _spawn("host_shell", ["sh", "-c", "true"], samples),
            Probe(
                (
                    Figure("init_started", "exec: init and a spawner have started `true`"),
                    Figure("init_exited", "exec: its status is told, the whole of it without api"),
                ),
                lambda: _exec(box),
                samples,
            ),
            _life_probe(daemon, keeper, layer, effort, alive=1),
            Probe(
                (
                    Figure("record_insert", "create: write the intent down"),
                    Figure("record_update", "create, and kill twice: write the new state down"),
                ),
                lambda: _write(record, layer),
                samples,
            ),
        ]
        return sample(probes, effort.rounds)


def measure_creates(daemon: Daemon, effort: Effort) -> list[Figure]:
    """The parts of a create and a kill that are not api's."""
    layer = os.path.basename(daemon.layer)
    with _api_stopped(daemon), _keeper(daemon) as keeper:
        _destroy(keeper, _create(keeper, layer))  # the one blank that every daemon makes at its start
        probe = _life_probe(daemon, keeper, layer, effort, alive=0)
        return sample([probe], effort.rounds)


@contextlib.contextmanager
def _api_stopped(daemon: Daemon) -> Iterator[None]:
    os.kill(daemon.api, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.api, signal.SIGCONT)


@contextlib.contextmanager
def _connected(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(30)
        sock.connect(path)
        channel.prepare(sock)
        yield sock


@contextlib.contextmanager
def _keeper(daemon: Daemon) -> Iterator[socket.socket]:
    with _connected(f"{daemon.state}/run/keeper.sock") as sock:
        channel.send(sock, messages.Hello(messages.PROTOCOL_VERSION))
        _expect(sock, messages.FROM_KEEPER, messages.Welcome)
        yield sock


def _expect(sock: socket.socket, known: frozenset[type], wanted: type) -> None:
    received = channel.receive(sock, known)
    if received is None:
        raise StrangeAnswerError("the other side hung up")
    channel.close_all(received[1])
    if not isinstance(received[0], wanted):
        raise StrangeAnswerError(f"{received[0]} instead of {wanted.__name__}")


# ---- create and kill


def _create(keeper: socket.socket, layer: str) -> str:
    name = new_sandbox_id()
    order = messages.Create(
        id=name, layers=(layer,), hostname="bench", cpu_quota_us=100_000, memory_bytes=512 << 20, pids=512,
        storage_bytes=1 << 30, network='{"mode": "public"}',
    )  # fmt: skip
    channel.send(keeper, order)
    _expect(keeper, messages.FROM_KEEPER, messages.Created)
    return name


def _destroy(keeper: socket.socket, name: str) -> None:
    channel.send(keeper, messages.Destroy(name))
    _expect(keeper, messages.FROM_KEEPER, messages.Destroyed)


@contextlib.contextmanager
def _attached(daemon: Daemon, name: str) -> Iterator[socket.socket]:
    with _connected(f"{daemon.state}/run/{name}.sock") as sock:
        _expect(sock, messages.FROM_INIT, messages.Attached)
        yield sock


@contextlib.contextmanager
def _box(daemon: Daemon, keeper: socket.socket, layer: str) -> Iterator[socket.socket]:
    name = _create(keeper, layer)
    try:
        with _attached(daemon, name) as sock:
            yield sock
    finally:
        _destroy(keeper, name)


def _life_probe(daemon: Daemon, keeper: socket.socket, layer: str, effort: Effort, alive: int) -> Probe:
    """``alive``: how many sandboxes there are besides."""
    suffix = "" if daemon.pool else "_empty"
    figures = (
        Figure(f"keeper_create{suffix}", "create: keeper makes a sandbox"),
        Figure(f"init_attach{suffix}", "create: connect to its init and be greeted"),
        Figure(f"keeper_destroy{suffix}", "kill: keeper ends it"),
    )

    def once() -> tuple[float, ...]:
        daemon.wait_for_inits(daemon.pool + alive)
        time.sleep(effort.pause)
        begun = now_ms()
        name = _create(keeper, layer)
        created = now_ms()
        with _attached(daemon, name):
            attached = now_ms()
        before = now_ms()
        _destroy(keeper, name)
        return created - begun, attached - created, now_ms() - before

    return Probe(figures, once, max(5, effort.samples // 2))


# ---- exec


def _exec(box: socket.socket) -> tuple[float, ...]:
    """With pipes, as api makes them, read to their ends."""
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
    key = new_command_id()
    begun = now_ms()
    try:
        order = messages.Exec(key=key, argv=("true",), environ=_SANDBOX_ENVIRON, cwd="/", user="")
        channel.send(box, order, [in_read, out_write, err_write, out_read, err_read])
        channel.close_all([in_read, out_write, err_write])
        _expect(box, messages.FROM_INIT, messages.Started)
        started = now_ms()
        _expect(box, messages.FROM_INIT, messages.Exited)
        exited = now_ms()
        channel.send(box, messages.Forget(key))
    finally:
        channel.close_all([in_write, out_read, err_read])
    return started - begun, exited - begun


def _spawn(name: str, argv: list[str], samples: int) -> Probe:
    """The floor: the same program, spawned and waited for by this process, in no sandbox."""

    def once() -> None:
        os.waitpid(os.posix_spawnp(argv[0], argv, {"PATH": "/usr/bin:/bin"}), 0)

    figure = Figure(name, f"posix_spawn and wait on the host: {' '.join(argv)}")
    return Probe((figure,), timed(once), samples)


# ---- the record


@contextlib.contextmanager
def _record(daemon: Daemon) -> Iterator[SandboxStore]:
    """A record of our own, on the daemon's disk, written by api's code."""
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-", dir=os.path.dirname(daemon.state)) as folder:
        database = Database(folder)
        try:
            yield SandboxStore(database)
        finally:
            database.close()


def _write(store: SandboxStore, layer: str) -> tuple[float, ...]:
    limits = Limits(vcpus=1, memory_mb=512, storage_mb=1024, pids=512)
    record = Sandbox(
        id=new_sandbox_id(), owner="bench", state=State.CREATING, limits=limits, timeout_ms=1_800_000,
        template="default", layers=(layer,), env={}, region="local", created_at=0, expires_at=0, deadline=0,
        boot_id="bench",
    )  # fmt: skip

    async def write() -> tuple[float, ...]:
        begun = now_ms()
        await store.insert(record)
        inserted = now_ms()
        await store.update(structs.replace(record, state=State.RUNNING))
        return inserted - begun, now_ms() - inserted

    return trio.run(write)
