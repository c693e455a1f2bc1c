"""keeper's part in the network: it starts the three processes, starts them again, and passes orders on.

    holder    keeps the network namespace; it does nothing and has no capability, so that pasta, which has
    few, may open the namespace by its /proc entry
    network   links, firewall, resolver (nsbox.host.network), in that namespace
    pasta     carries packets between it and the host's network, as an ordinary program of the host's

They are keeper's children, in its pid namespace: pasta, which would outlive the network it serves, ends
with it.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

import prctl

from nsbox.inside import channel, privileges
from nsbox.keeper.boxes import Box
from nsbox.kernel import capabilities, journal, libc, python
from nsbox.wire import uplink
from nsbox.wire.framing import WireError
from nsbox.wire.messages import (
    FROM_NETWORK,
    AskLog,
    LogRows,
    Message,
    NetworkState,
    Plug,
    Plugged,
    PolicySet,
    SetPolicy,
    Unplug,
)  # fmt: skip

_MODULE = "nsbox.host.network.main"
#: No port of the host leads in, none of the namespace leads to the host's loopback, nor does the gateway.
_PASTA = (
    "pasta", "-f", "-q", "-e", "--config-net", "--no-map-gw", "-t", "none", "-u", "none", "-T", "none",
    "-U", "none", "-m", str(uplink.MTU), "--netns-only", "-I", uplink.INTERFACE,
    "--dns-forward", uplink.FORWARDER,
)  # fmt: skip
#: Seconds until a process that died is started again; doubled each time, unless it lived long.
_FIRST_REST, _LONGEST_REST = 1.0, 30.0
#: How long there may be no way out until that is news: pasta needs a moment at each start.
_PATIENCE = 5.0
#: After so many deaths in a row sandboxes are made without a link.
_HOPELESS = 3
#: Routing messages about addresses of both families (RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR).
_ADDRESS_GROUPS = 0x10 | 0x100
_NOT_INSTALLED = "pasta is not installed: apt-get install passt"
_NO_TUN = "/dev/net/tun cannot be used: modprobe tun && chmod 0666 /dev/net/tun"
_NOISE = b"Failed to send"  # of its words to a syslog that is not there


class Loop(Protocol):
    """keeper's own."""

    def add(self, descriptor: int, handler: Callable[[], None]) -> None: ...
    def remove(self, descriptor: int) -> None: ...


class Listener(Protocol):
    """Who hears what becomes of boxes: keeper's core."""

    def linked(self, box: Box) -> None: ...
    def policy_set(self, box: Box, detail: str) -> None: ...
    def told(self, box: Box, rows: tuple[str, ...]) -> None: ...
    def network_changed(self, state: NetworkState) -> None: ...


class Program:
    """One child: when it was started, and when it may be again."""

    def __init__(self) -> None:
        self.pid = 0
        self.failures = 0
        self._since = 0.0
        self._not_before = 0.0

    @property
    def due(self) -> bool:
        return self.pid == 0 and time.monotonic() >= self._not_before

    def started(self, pid: int) -> None:
        self.pid, self._since = pid, time.monotonic()

    def died(self) -> None:
        young = time.monotonic() - self._since < _LONGEST_REST
        self.failures = self.failures + 1 if young else 1
        self.pid = 0
        self._not_before = time.monotonic() + min(_FIRST_REST * 2 ** (self.failures - 1), _LONGEST_REST)


class Outage:
    """When the operator is told that nothing gets out, and that it does again."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._down, self._told = True, False

    def look(self, state: NetworkState) -> None:
        """At each change, and now and then."""
        if state.up:
            if self._told:
                _log("sandboxes get out again")
            self._down, self._told = False, False
            return
        if not self._down:
            self._since, self._down = time.monotonic(), True
        if not self._told and time.monotonic() - self._since >= _PATIENCE:
            _log(f"no way out: {state.detail}")
            self._told = True


class Network:
    """``options`` are those of host/network/main.py, as JSON's objects."""

    def __init__(self, options: dict[str, object], loop: Loop) -> None:
        self._options, self._loop = options, loop
        self.listener: Listener
        self._holder = 0
        self._network, self._pasta = Program(), Program()
        self._control: socket.socket | None = None
        self._complaints = -1
        self._boxes: dict[int, Box] = {}
        self._inner = NetworkState(0, "the network is being set up")
        self._outer = ""  # why pasta does not run
        self._state: NetworkState | None = None
        self._outage = Outage()

    def start(self) -> None:
        """Before the first box. Raises ``OSError`` when there can be no network namespace."""
        self._holder = libc.clone3(libc.CLONE_NEWNET)
        if self._holder == 0:
            _hold()
        self.tick()

    def tick(self) -> None:
        """Start what is not there."""
        if self._network.due:
            self._start_network()
        if self._pasta.due:
            self._start_pasta()
        self._outage.look(self.state)

    @property
    def state(self) -> NetworkState:
        """Whether packets get out."""
        if self._inner.up and self._pasta.pid:
            return NetworkState(1, "")
        return NetworkState(0, self._outer or self._inner.detail or "pasta is being started")

    def _note(self) -> None:
        if self.state != self._state:
            self._state = self.state
            self._outage.look(self._state)
            self.listener.network_changed(self._state)

    # ---- orders

    def plug(self, box: Box) -> None:
        """Give a box that is being prepared its link; ``linked`` says when, also when there will be none."""
        if self._network.failures >= _HOPELESS:
            return
        box.plugging = True
        self._boxes[box.number] = box
        self._plug(box)

    def _plug(self, box: Box) -> None:
        if self._control is None:
            return  # told when it is there
        if box.slot >= 0:
            self._send(Plug(box.number, box.slot, box.policy))
            return
        try:
            netns = os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # it is dead, and unplugged soon
        try:
            self._send(Plug(box.number, -1, box.policy), [netns])
        finally:
            os.close(netns)

    def set_policy(self, box: Box, policy: str) -> None:
        """``policy_set`` says when it holds."""
        box.policy, box.policy_pending = policy, True
        self._send(SetPolicy(box.number, policy))

    def unplug(self, box: Box) -> None:
        if self._boxes.pop(box.number, None) is not None:
            self._send(Unplug(box.number))

    def ask_log(self, box: Box) -> bool:
        """``told`` brings it; False when there is nobody to ask."""
        if self._control is None or box.number not in self._boxes:
            return False
        self._send(AskLog(box.number))
        return True

    def _send(self, message: Message, descriptors: tuple[int, ...] | list[int] = ()) -> None:
        if self._control is None:
            return
        try:
            channel.send(self._control, message, descriptors)
        except OSError as error:
            _log(f"network process: {error}")  # waitpid tells the rest

    # ---- the network process

    def _start_network(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        host = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        with theirs, host:
            host.bind((0, _ADDRESS_GROUPS))
            netns = os.open(f"/proc/{self._holder}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            pid = libc.clone3()
            if pid == 0:
                _become_network(netns, theirs.fileno(), host.fileno(), self._options)
            os.close(netns)
        self._network.started(pid)
        channel.prepare(ours)
        self._control = ours
        self._loop.add(ours.fileno(), self._hear)
        for box in list(self._boxes.values()):
            self._plug(box)

    def _hear(self) -> None:
        assert self._control is not None
        try:
            received = channel.receive(self._control, FROM_NETWORK)
        except (WireError, OSError) as error:
            _log(f"network process: {error}")
            received = None
        if received is None:
            self._hang_up()
            return
        message, descriptors = received
        channel.close_all(descriptors)
        match message:
            case NetworkState():
                self._network.failures = 0
                self._inner = message
                if message.up:
                    self._outer = ""
                self._note()
            case Plugged():
                self._plugged(message)
            case PolicySet(number=number, detail=detail):
                self._policy_set(number, detail)
            case LogRows(number=number, rows=rows):
                box = self._boxes.get(number)
                if box is not None:
                    self.listener.told(box, rows)

    def _plugged(self, message: Plugged) -> None:
        box = self._boxes.get(message.number)
        if box is None:
            return
        if message.detail:
            _log(f"{box.name} has no link: {message.detail}")
        box.slot = message.slot
        box.addresses, box.nameserver = message.addresses, message.nameserver
        if box.policy_pending:  # the process that was asked is dead; this one began with the policy
            self._policy_set(box.number, message.detail)
        if box.plugging:
            box.plugging = False
            self.listener.linked(box)

    def _policy_set(self, number: int, detail: str) -> None:
        box = self._boxes.get(number)
        if box is not None and box.policy_pending:
            box.policy_pending = False
            self.listener.policy_set(box, detail)

    def _hang_up(self) -> None:
        if self._control is not None:
            self._loop.remove(self._control.fileno())
            self._control.close()
            self._control = None

    # ---- pasta

    def _start_pasta(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        pid = libc.clone3()
        if pid == 0:
            _become_pasta(self._holder, writer)
        os.close(writer)
        self._pasta.started(pid)
        self._complaints = reader

    def _pasta_died(self, status: int) -> None:
        try:
            said = os.read(self._complaints, 4096)
        except OSError:
            said = b""
        os.close(self._complaints)
        lines = [one for one in said.split(b"\n") if one.strip() and not one.startswith(_NOISE)]
        if os.waitstatus_to_exitcode(status) == _MISSING:
            self._outer = _NOT_INSTALLED
        elif any(b"tun" in one.lower() for one in lines) or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            self._outer = _NO_TUN
        else:
            last = lines[-1].decode("utf-8", "replace")[:200] if lines else f"status {status}"
            self._outer = f"pasta ended: {last}"
        self._pasta.died()
        self._note()

    # ---- deaths

    def reaped(self, pid: int, status: int) -> bool:
        """Whether that child was one of ours."""
        if pid == self._pasta.pid:
            self._pasta_died(status)
        elif pid == self._network.pid:
            self._network_died()
        elif pid == self._holder:
            sys.exit("nsbox keeper: the network namespace's holder died")
        else:
            return False
        return True

    def _network_died(self) -> None:
        self._network.died()
        self._hang_up()
        self._inner = NetworkState(0, "the network process died; it is started again")
        _log(f"{self._inner.detail}")
        if self._network.failures >= _HOPELESS:
            for box in [one for one in self._boxes.values() if one.plugging]:
                del self._boxes[box.number]
                box.plugging = False
                self.listener.linked(box)
        self._note()


_MISSING = 127


def _hold() -> NoReturn:
    try:
        _calm()
        privileges.redirect_standard_streams()
        privileges.close_all_but({0, 1, 2})
        privileges.name_process("nsbox-netns")
        capabilities.drop_to(())
        prctl.set_dumpable(1)
        privileges.die_with_parent(signal.SIGKILL)
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _calm() -> None:
    """As a fresh process, but deaf to what a terminal says to all of us: keeper ends these, after the
    boxes."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _become_network(netns: int, control: int, host: int, options: dict[str, object]) -> NoReturn:
    try:
        _calm()
        libc.setns(netns, libc.CLONE_NEWNET)
        privileges.close_all_but({0, 1, 2, control, host})
        for descriptor in (control, host):
            os.set_inheritable(descriptor, True)
        privileges.die_with_parent(signal.SIGKILL)
        told = json.dumps({**options, "control": control, "host": host})
        os.execv(sys.executable, python.command(_MODULE, told))  # noqa: S606
    finally:
        os._exit(_MISSING)


def _become_pasta(holder: int, complaints: int) -> NoReturn:
    try:
        _calm()
        # Python ignores it, and pasta of 2023 takes "was ignored" for a failure of signal(2).
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDWR)
        # A pipe that nobody empties must not stop it.
        os.set_blocking(complaints, False)
        for wanted, descriptor in enumerate((null, complaints, complaints)):
            os.dup2(descriptor, wanted)
        privileges.close_all_but({0, 1, 2})
        privileges.die_with_parent(signal.SIGKILL)
        os.execvp(_PASTA[0], [*_PASTA, "--netns", f"/proc/{holder}/ns/net"])  # noqa: S606
    finally:
        os._exit(_MISSING)


def _log(text: str) -> None:
    journal.say(journal.WARNING, f"nsbox keeper: network: {text}")
