"""Process 1 of a sandbox: first a blank, then init.

A blank is in all its namespaces and knows no image and no tenant. It becomes init when its root arrives. init
reaps, starts commands and hands out sockets of file agents and to the sandbox's ports, each on request of api
over the listening socket it was born with. It is forked from keeper, never exec'd: after the pivot there is
nothing to import.
"""

import _socket
import errno
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar

from nsbox.inside import agent, channel, dial, names, privileges, processes, rootfs, spawner, users
from nsbox.inside.commands import Command, Commands
from nsbox.inside.leaves import Leaves
from nsbox.kernel import capabilities, libc, rawsocket
from nsbox.kernel.namespaces import become_root
from nsbox.kernel.rawsocket import RawSocket
from nsbox.wire.framing import PacketTooLarge, WireError, encode
from nsbox.wire.messages import (
    PROTOCOL_VERSION,
    TO_BLANK,
    TO_INIT,
    Agent,
    AgentReady,
    Attached,
    CloseInput,
    Dial,
    Dialled,
    Exec,
    Failed,
    Forget,
    Kill,
    KillAll,
    Killed,
    Launch,
    Measure,
    Measured,
    Message,
    Prepare,
    Ready,
    Refused,
    Resize,
    Running,
    Signal,
    Stage,
)  # fmt: skip

#: What the preparing child says to init when the root stands.
_ROOT_STANDS = b"r"
_READY = encode(Ready(""))
_NOTHING_RUNS = encode(Attached(PROTOCOL_VERSION, 0))
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Mould(NamedTuple):
    """What all inits have in common, made once by keeper: the system call filters, init's own and what
    commands add to it; what to give up; whether a sandbox's cgroup may give memory to its children; which
    resource limits the whole of a sandbox gets a part of."""

    init: libc.Filter
    command: libc.Filter
    gone: capabilities.Gone
    gives_memory: bool
    divided: tuple[int, ...] = ()


def cast(mould: Mould) -> "Init":
    """What every init needs of its own and can be made before it is forked."""
    signal.signal(signal.SIGCHLD, _noted)
    return Init(mould)


def _noted(number: int, frame: object) -> None:
    """SIGCHLD is told by the wake-up descriptor; only a handled signal is told there."""


def main(init: "Init", control: RawSocket, listener: RawSocket, cgroup: int | None, mould: Mould) -> NoReturn:
    """Be a blank, then init. ``control`` leads to keeper, ``cgroup`` is the sandbox's own as a descriptor.

    Every page that is written to here is copied for this sandbox alone, and merely running Python code writes
    to it (reference counts). So init itself runs little. The preparing child does the long work; it is the
    sandbox's first spawner afterwards, and its copies go when it ends.

    No other descriptors are open than those and the standard streams: the zygote has no more.
    """
    try:
        privileges.name_process("nsbox-init")
        if not control.recv(1, _socket.MSG_PEEK):  # keeper has written our id maps when it says something
            os._exit(1)
        init.take(control, listener)
        child = init.come_in(cgroup, libc.CLONE_NEWCGROUP, mould.gone, _prepare, control, mould)
        privileges.drop(mould.gone, mould.init)
        if child.recv(1) != _ROOT_STANDS:
            os._exit(1)  # the child has told keeper why
        control.send(_READY)
        init.serve()
    except KeeperGone:
        pass
    except BaseException as error:
        _report(control, "init", error)
    os._exit(1)


class KeeperGone(Exception):
    """The other end of the control socket is closed."""


_Order = TypeVar("_Order", Prepare, Launch)


def _expect(control: RawSocket, kind: type[_Order]) -> tuple[_Order, list[int]]:
    received = channel.receive(control, TO_BLANK)
    if received is None:
        raise KeeperGone
    message, descriptors = received
    if not isinstance(message, kind):
        raise WireError(f"got {type(message).__name__}, expected {kind.__name__}")
    return message, descriptors


def _report(control: RawSocket, stage: str, error: BaseException) -> None:
    number = getattr(error, "errno", None) or 0
    try:
        channel.send(control, Failed("", stage, number, f"{type(error).__name__}: {error}"))
    except OSError:
        pass  # keeper learns of the end from waitpid


def _prepare(sock: RawSocket, control: RawSocket, mould: Mould) -> NoReturn:
    """In the child: all that can be done before the tenant is known, then the root, then be a spawner.

    pivot_root(2) moves every process of the mount namespace that stands in the old root, init included.
    """
    stage = "prepare"
    try:
        order, _ = _expect(control, Prepare)
        os.umask(0)  # the modes of what is made in /dev are meant as written
        rootfs.stage(order)
        _bring_up_loopback()
        for pid in (os.getppid(), os.getpid()):
            privileges.limit(pid, order.rlimits)
        privileges.promise(mould.gone)
        channel.send(control, Ready(""))
        stage = "root"
        launch, descriptors = _expect(control, Launch)
        rootfs.enter(descriptors[0])
        channel.close_all(descriptors)
        socket.sethostname(launch.hostname)
        names.write(launch)
        sock.send(_ROOT_STANDS)
        privileges.drop(mould.gone, mould.init)
        spawner.run(sock, users.ROOT, mould.command)
    except KeeperGone:
        pass
    except BaseException as error:
        _report(control, stage, error)
    os._exit(1)


def _bring_up_loopback() -> None:
    """By ioctl (netdevice(7)): pyroute2 would cost each keeper 9 MB."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


class Init:
    """The loop of a sandbox's process 1. Single-threaded, and it never waits for anything but its poll."""

    _listener: RawSocket
    _control: RawSocket
    _wakeup: int

    def __init__(self, mould: Mould) -> None:
        self._api: RawSocket | None = None
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.commands = Commands(
            Leaves(mould.gives_memory), mould.command, self._watch, self._unwatch, self._send
        )

    def take(self, control: RawSocket, listener: RawSocket) -> None:
        """What only the forked process has."""
        self._control, self._listener = control, listener
        self._wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Process 1 gets from inside only the signals it handles, and it handles none but SIGCHLD.
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def come_in(
        self,
        cgroup: int | None,
        new: int,
        gone: capabilities.Gone,
        be: Callable[..., NoReturn],
        *about: object,
    ) -> RawSocket:
        """Be root of the namespaces, leave keeper's of the kinds ``new`` too, fork the first child, in a leaf
        of ``cgroup``, and have nothing of ``gone`` come back by an exec. Our end of the child's socket."""
        become_root()
        privileges.die_with_parent(signal.SIGKILL)
        libc.unshare(new)
        self.commands.leaves.use(cgroup)
        child = self.commands.adopt_first(be, *about)
        privileges.promise(gone)
        return child

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._poll.register(descriptor, select.POLLIN)
        self._handlers[descriptor] = handler

    def _unwatch(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._handlers[descriptor]

    def serve(self) -> None:
        """Until keeper goes away, which it does by killing us."""
        self.begin()
        while True:
            self.turn()

    def begin(self) -> None:
        """Listen to keeper, to api and to the ends of children."""
        self._watch(self._control.fileno(), self._hear_keeper)
        self._watch(self._listener.fileno(), self._accept)
        self._watch(self._wakeup, self._woken)

    def turn(self) -> None:
        """Wait for something to happen, and see to it."""
        patience = self.commands.let_go()
        for descriptor, _ in self._poll.poll(None if patience is None else patience * 1000 + 1):
            handler = self._handlers.get(descriptor)
            if handler is not None:  # an earlier one of this turn may have removed it
                handler()

    def close(self) -> None:
        """Give back what ``take`` was given and made; for a rehearsal."""
        self._control.close()
        self._listener.close()
        os.close(self._wakeup)

    def _hear_keeper(self) -> None:
        """It goes away, or wants everything ended: the sandbox has written more than it may."""
        if not self._control.recv(1):
            raise KeeperGone
        processes.kill_all(self.commands.own)

    def _woken(self) -> None:
        os.read(self._wakeup, 4096)
        self.commands.reap()

    def _accept(self) -> None:
        """The newest connection takes over: the api process before it is gone or about to be."""
        try:
            connection = rawsocket.accept(self._listener)
        except OSError:
            return  # out of descriptors, for now: that must not end the sandbox
        channel.prepare(connection)
        # init must never wait for api: one that does not read its socket loses the connection instead.
        connection.setblocking(False)
        self._hang_up()
        self._api = connection
        self._watch(connection.fileno(), self._receive)
        self._greet(connection)

    def _hang_up(self) -> None:
        if self._api is not None:
            self._unwatch(self._api.fileno())
            self._api.close()
            self._api = None

    def _receive(self) -> None:
        assert self._api is not None
        try:
            received = channel.receive(self._api, TO_INIT)
        except BlockingIOError:
            return
        except (WireError, OSError):
            received = None
        if received is None:
            self._hang_up()
            return
        message, descriptors = received
        if isinstance(message, Exec):
            self.commands.start(message, descriptors)
            return
        channel.close_all(descriptors)
        self._handle(message)

    def _handle(self, message: Message) -> None:
        match message:
            case Kill(key=key):
                self.commands.kill(key)
            case Signal(key=key, command=command, number=number):
                self._send(Killed(key, self.commands.signal(command, number)))
            case KillAll(key=key):
                self._send(Killed(key, processes.kill_all(self.commands.own)))
            case Measure(key=key):
                self._send(Measured(key, self.commands.measured()))
            case Forget(key=key):
                self.commands.forget(key)
            case CloseInput(key=key):
                self.commands.close_input(key)
            case Resize(key=key):
                self.commands.resize(key, message)
            case Agent(key=key, user=user):
                self._open_agent(key, user)
            case Dial(key=key, family=family, port=port):
                self._dial(key, family, port)

    def _greet(self, connection: RawSocket) -> None:
        if self.commands.none:
            try:
                connection.send(_NOTHING_RUNS)  # ready-made: most sandboxes are only ever greeted like this
            except OSError:
                self._hang_up()  # it was gone before its turn came
            return
        running, ended = self.commands.running(), self.commands.ended()
        self._send(Attached(PROTOCOL_VERSION, len(running) + 2 * len(ended)))
        for command in running:
            self._introduce(command)
        for report, command in ended:
            self._introduce(command)
            self._send(report)

    def _introduce(self, command: Command) -> None:
        told = Running(command.key, command.pid, command.argv, command.cwd, command.started_ns)
        self._send(told, command.kept)

    def _open_agent(self, key: str, user: str) -> None:
        try:
            who = users.lookup(user)
        except users.UnknownUser as error:
            self._send(Refused(key, Stage.USER, errno.ENOENT, str(error)))
            return
        try:
            ours, theirs = rawsocket.pair()
        except OSError as error:
            self._send(Refused(key, Stage.FORK, error.errno or 0, os.strerror(error.errno or 0)))
            return
        try:
            channel.prepare(ours)
            pid = libc.clone3()
            if pid == 0:
                agent.run(ours, who)
            self.commands.agents.add(pid)
            self._send(AgentReady(key), [theirs.fileno()])
        except OSError as error:
            self._send(Refused(key, Stage.FORK, error.errno or 0, os.strerror(error.errno or 0)))
        finally:
            ours.close()
            theirs.close()

    def _dial(self, key: str, family: int, port: int) -> None:
        try:
            sock = dial.begin(family, port)
        except OSError as error:
            self._send(Refused(key, Stage.DIAL, error.errno or 0, os.strerror(error.errno or 0)))
            return
        self._send(Dialled(key), [sock.fileno()])
        sock.close()

    def _send(self, message: Message, descriptors: tuple[int, ...] | list[int] = ()) -> None:
        if self._api is None:
            return
        try:
            channel.send(self._api, message, descriptors)
        except (OSError, PacketTooLarge):
            self._hang_up()
