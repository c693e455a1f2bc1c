"""keeper's composition root and loop: ``main(CONFIG)`` in the outer namespace.

It is process 1 of a pid namespace and exec'd there, so that its memory belongs to the outer namespace: a
sandbox's root has no right over init's /proc files, though init is a fork of this very process.
"""

import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable

import prctl

from nsbox.inside import channel, privileges
from nsbox.inside.init import Mould
from nsbox.keeper import layout
from nsbox.keeper.boxes import Box, Host
from nsbox.keeper.config import Config
from nsbox.keeper.core import Keeper
from nsbox.keeper.network import Network
from nsbox.keeper.pool import Pool
from nsbox.keeper.zygote import Zygote
from nsbox.kernel import capabilities, journal, libc, mounts, seccomp
from nsbox.kernel.cgroup import Cgroup
from nsbox.plan import baseline
from nsbox.wire.framing import PacketTooLarge, WireError
from nsbox.wire.messages import TO_KEEPER, Message

#: How often what could not be done at once is tried again, in seconds.
_TICK = 0.02
_SLOW_TICK = 1.0
#: Making a blank takes a processor from the sandbox that was just made: it waits until no order has come
#: for so long, in seconds, unless the stock runs low.
_QUIET = 0.1
#: How long the end of all boxes may take before keeper leaves the rest to the kernel.
_END_PATIENCE = 5.0
#: How long api may leave its socket full, in seconds and microseconds, before keeper hangs up.
_API_READS = (2, 0)
#: So many blanks failing in a row at the start mean that this host cannot make any.
_HOPELESS = 3


class Loop:
    """poll(2), and who is called for which descriptor."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._poll = select.epoll(sizehint=64)
        self._handlers: dict[int, Callable[[], None]] = {}
        self._watched: dict[Box, int] = {}
        self._api: socket.socket | None = None
        self._ending = False
        cgroup = Cgroup(config.cgroup) if config.cgroup else None
        machine = os.uname().machine
        mould = Mould(
            libc.Filter(seccomp.init_policy(machine)),
            libc.Filter(seccomp.clone3_guard(machine)),
            capabilities.all_but(),
            "memory" in config.controllers,
            baseline.shared_rlimits(pids_are_held="pids" in config.controllers),
        )
        self._zygote = Zygote(mould)
        host = Host(cgroup, config.controllers, self._zygote, config.io_max)
        self._network = Network(json.loads(config.network), self) if config.network else None
        self.keeper = Keeper(host, Pool(config.pool_size, host), self, self.answer, self._network)
        self._listener = _listen()
        self._signals = _wakeup_pipe()

    def add(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._poll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler

    def remove(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def watch(self, box: Box) -> None:
        assert box.control is not None
        self._watched[box] = box.control.fileno()
        self.add(box.control.fileno(), lambda: self.keeper.hear(box))

    def unwatch(self, box: Box) -> None:
        descriptor = self._watched.pop(box, None)
        if descriptor is not None:
            self.remove(descriptor)

    def follow(self, reports: int) -> None:
        """Hear the storage watcher. A descriptor of one that died is closed, which takes it out of epoll."""
        self._handlers[reports] = self.keeper.hear_storage
        self._poll.register(reports, select.EPOLLIN)

    def answer(self, message: Message) -> None:
        if self._api is None:
            return
        try:
            channel.send(self._api, message)
        except (OSError, PacketTooLarge):  # it is gone, does not read, or gave a name that fills a packet
            self._hang_up()

    def start_zygote(self) -> None:
        """After everything is imported, and before anything else is done."""
        self._zygote.start()

    def run(self) -> int:
        """Serve until told to end or left alone; the exit status."""
        self.add(self._listener.fileno(), self._accept)
        self.add(self._signals, self._signalled)
        self.add(self._config.lifeline, self._end)
        self.keeper.sweeper.start()
        if self._network is not None:
            self._network.start()
        self._fill_at_start()
        os.write(self._config.announce, b"ready\n")
        os.close(self._config.announce)
        while not self._ending:
            self._turn(self._timeout())
            self.keeper.freezer.look()
            if self.keeper.wants_blank(_QUIET):
                self.keeper.refill()
            self.keeper.spare.tend(_QUIET)
            self.keeper.give_up_stuck()
            if self._network is not None:
                self._network.tick()
        return self._finish()

    def _timeout(self) -> float:
        if (rest := self.keeper.freezer.rest) is not None:
            # epoll counts in milliseconds. What is shorter is waited for by select, which takes it as a
            # descriptor.
            select.select([self._poll], [], [], rest)
            return 0
        if self.keeper.pool.wants_more:
            return 0 if self.keeper.wants_blank(_QUIET) else _QUIET / 4
        if self.keeper.spare.wanted:
            return _QUIET / 4
        return _TICK if self.keeper.remove_cgroups() else _SLOW_TICK

    def _turn(self, timeout: float) -> None:
        for descriptor, _ in self._poll.poll(timeout):
            handler = self._handlers.get(descriptor)
            if handler is not None:  # an earlier one of this turn may have removed it
                handler()

    def _fill_at_start(self) -> None:
        """One blank must work before anybody is told that sandboxes can be made."""
        self.keeper.refill()
        while not self._ending:
            if self.keeper.failures >= _HOPELESS:
                sys.exit(
                    "nsbox keeper: this host cannot make a sandbox: see the lines above, and nsbox doctor"
                )
            if self.keeper.preparing():
                self._turn(_SLOW_TICK)
                self.keeper.give_up_stuck()
                if self._network is not None:
                    self._network.tick()
            elif self.keeper.failures:
                self.keeper.refill()
            else:
                return

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # out of descriptors, for now: every sandbox hangs on this process
        channel.prepare(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *_API_READS))
        self._hang_up()
        self._api = connection
        self.add(connection.fileno(), self._receive)

    def _hang_up(self) -> None:
        if self._api is not None:
            self.remove(self._api.fileno())
            self._api.close()
            self._api = None

    def _receive(self) -> None:
        assert self._api is not None
        try:
            received = channel.receive(self._api, TO_KEEPER)
        except (WireError, OSError) as error:
            journal.say(journal.WARNING, f"nsbox keeper: api: {error}")
            received = None
        if received is None:
            self._hang_up()
            return
        message, descriptors = received
        try:
            self.keeper.obey(message, descriptors)
        finally:
            channel.close_all(descriptors)

    def _signalled(self) -> None:
        numbers = os.read(self._signals, 4096)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._end()
        self.keeper.reap()

    def _end(self) -> None:
        self._ending = True

    def _finish(self) -> int:
        """End all boxes and see them gone."""
        self._hang_up()
        try:
            os.unlink(layout.KEEPER_SOCKET)  # nobody answers there any more
        except FileNotFoundError:
            pass  # the whole folder is gone, perhaps
        self.remove(self._config.lifeline)
        patience = int(_END_PATIENCE / _TICK)
        while self.keeper.end_all() and patience:
            self._turn(_TICK)
            patience -= 1
        while self.keeper.remove_cgroups() and patience:
            self._turn(_TICK)
            patience -= 1
        return 0 if patience else 1


def _divide_budgets() -> None:
    """Bound what is counted for the makers of sandboxes, one for each (``namespaces.owner_of``)."""
    for name, whole in baseline.SHARED.items():
        try:
            with open(whole, encoding="ascii") as file:
                part = baseline.share(int(file.read()))
            with open(f"/proc/sys/user/{name}", "w", encoding="ascii") as file:
                file.write(str(part))
        except FileNotFoundError:
            pass  # a kernel without inotify


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    listener.bind(layout.KEEPER_SOCKET)
    listener.listen(4)
    return listener


def _wakeup_pipe() -> int:
    """Signals as bytes on a pipe. keeper is a process 1: it gets only the signals that it handles."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader


def _clear_leftovers(config: Config) -> None:
    """Remove what an earlier keeper left: it is dead, and so is every process it had."""
    for name in os.listdir(layout.RUN):
        if name.endswith(".sock"):
            os.unlink(f"{layout.RUN}/{name}")
    for name in os.listdir(layout.SANDBOXES):
        os.rename(
            f"{layout.SANDBOXES}/{name}", f"{layout.TRASH}/{name}.left.{os.getpid()}.{os.urandom(4).hex()}"
        )
    if config.cgroup:
        for name in os.listdir(config.cgroup):
            if name.startswith("box-"):
                leftover = Cgroup(f"{config.cgroup}/{name}")
                leftover.kill()
                leftover.remove()


def main(arguments: list[str]) -> int:
    """Set up what needs keeper's place in the namespaces, then run."""
    config = Config.from_json(arguments[0])
    privileges.name_process("nsbox-keeper")
    libc.set_command_line(b"nsbox")  # sandboxes see it as that of their process 1
    prctl.set_pdeathsig(signal.SIGKILL)
    # Not readable by anybody but the outer root; every init inherits this with the memory.
    prctl.set_dumpable(0)
    for descriptor in (config.lifeline, config.announce):
        os.set_inheritable(descriptor, False)
    mounts.make_private()
    mounts.mount_new("proc", "/proc", attributes=libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _divide_budgets()
    os.umask(0o077)
    os.chdir(config.state_dir)
    for folder in layout.FOLDERS:
        os.makedirs(folder, 0o700, exist_ok=True)
    _clear_leftovers(config)
    loop = Loop(config)
    # A collection would write to every object's header and so copy the pages that all inits share.
    gc.collect()
    gc.disable()
    gc.freeze()
    loop.start_zygote()
    return loop.run()
