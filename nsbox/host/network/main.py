"""The network's process: ``main(CONFIG)`` in the network namespace, with a socket to keeper and one of the
host.

keeper starts it, and again when it dies: links, connections and pasta stay, and keeper tells what it knew.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from typing import Final, NamedTuple

import prctl

from nsbox.host.network import links, nft, outside, policy, refusals, resolver, ruleset
from nsbox.host.network.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    Netlink,
    Request,
    attributes,
    messages,
)
from nsbox.host.network.ports import Ports
from nsbox.inside import channel
from nsbox.kernel import python
from nsbox.wire import uplink
from nsbox.wire.messages import (
    TO_NETWORK,
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

_TICK: Final = 1.0
_SOON: Final = 0.05
_NEWLINK, _DELLINK, _NEWROUTE, _DELROUTE, _GETROUTE = 16, 17, 24, 25, 26
#: Groups of a routing socket: links, and routes of both families.
_GROUPS: Final = 0x1 | 0x40 | 0x400
#: Seconds that a closed connection stays in the table of all sandboxes (the kernel says 120): it counts no
#: more for its sandbox, and this with the rate of new ones bounds how many there are of one.
_CLOSED: Final = 10
#: Seconds that one stays which one side has closed, and one that waits for the last acknowledgement (the
#: kernel says 60 and 120, and 30). pasta holds them for 7,200 and 60: a port is somebody else's no sooner,
#: and what a sandbox holds counts for it as long.
_HALF_CLOSED, _CLOSING = 7_300, 70
_TIMEOUTS: Final = {
    "time_wait": _CLOSED, "fin_wait": _HALF_CLOSED, "close_wait": _HALF_CLOSED, "last_ack": _CLOSING,
}  # fmt: skip
_TIMEOUT: Final = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{}"


class Config(NamedTuple):
    """What keeper says at the start: ``control`` leads to it, ``host`` is a routing socket in the host's
    network."""

    networks: tuple[str, ...]
    deny: tuple[str, ...]
    connections: int
    control: int
    host: int


class Network:
    """The loop, and what it knows of the host."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._control = socket.socket(fileno=config.control)
        channel.prepare(self._control)
        self._host = Netlink.adopt(config.host)
        plan = links.plan(config.networks)
        self._ports = Ports(plan)
        _write("/proc/sys/net/ipv4/ip_forward", "1")
        _write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        self._ports.firewall.transact(
            nft.SUBSYSTEM, ruleset.base(plan, config.networks, ruleset.Limits(config.connections))
        )
        # Now, for the first rule that asks for a connection's state brings the module along.
        for state, seconds in _TIMEOUTS.items():
            _write(_TIMEOUT.format(state), str(seconds), needed=False)
        self._state: tuple[bool, str] | None = None
        self._host_changed()
        self._gateway: subprocess.Popen[bytes] | None = subprocess.Popen(
            python.command("nsbox.host.network.gateway", json.dumps([str(one) for one in plan.gateways])),
            stdin=subprocess.DEVNULL,
        )
        self._log = Netlink(NETLINK_NETFILTER)
        self._log.talk(refusals.bind(ruleset.LOG_GROUP))
        self._around = Netlink(NETLINK_ROUTE, _GROUPS)
        self._routes = Netlink(NETLINK_ROUTE)
        self._nameserver = str(plan.gateways[0])
        upstream = outside.Resolvers(uplink.FORWARDER)
        self._resolvers: list[resolver.Resolver | resolver.Stream] = [
            resolver.Resolver(self._nameserver, self, self._ports, upstream.servers),
            resolver.Stream(self._nameserver, self, self._ports, upstream.direct),
        ]

    def add(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._poll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler

    def remove(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._handlers[descriptor]

    def run(self) -> int:
        self.add(self._control.fileno(), self._obey)
        self.add(self._host.fileno(), self._host_spoke)
        self.add(self._log.fileno(), self._refused)
        self.add(self._ports.removals.fileno(), self._ports.removed)
        self.add(self._around.fileno(), self._around_spoke)
        self._look_outside()
        while True:
            self._await_gateway()
            busy = sum(one.look_at_time() for one in self._resolvers)  # each looks
            ready = self._poll.poll(_SOON if self._gateway is not None else _TICK if busy else None)
            # keeper first: whoever waits for a sandbox does not wait for those who flood the resolver.
            for descriptor, _ in sorted(ready, key=lambda one: one[0] != self._control.fileno()):
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    handler()

    def _await_gateway(self) -> None:
        """Until the gateway has its addresses nothing gets out, names least of all."""
        if self._gateway is None or self._gateway.poll() is None:
            return
        if self._gateway.returncode != 0:
            sys.exit("nsbox network: the gateway could not be set up")
        self._gateway = None
        self._look_outside()

    # ---- keeper

    def _obey(self) -> None:
        received = channel.receive(self._control, TO_NETWORK)
        if received is None:
            sys.exit(0)
        message, descriptors = received
        try:
            self._carry_out(message, descriptors)
        finally:
            channel.close_all(descriptors)

    def _carry_out(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Plug():
                self._plug(message, descriptors)
            case SetPolicy(number=number, policy=wanted):
                detail = ""
                try:
                    self._ports.set_policy(number, policy.parse(wanted))
                except (OSError, KeyError, ValueError) as error:
                    detail = f"{type(error).__name__}: {error}"
                self._say(PolicySet(number, detail))
            case Unplug(number=number):
                self._ports.unplug(number)
            case AskLog(number=number):
                log = self._ports.log(number)
                rows = tuple(json.dumps(row) for row in log.rows()) if log else ()
                self._say(LogRows(number, rows))

    def _plug(self, order: Plug, descriptors: list[int]) -> None:
        try:
            wanted = policy.parse(order.policy) if order.policy else policy.OFF
            port = self._ports.plug(order.number, order.slot, descriptors[0] if descriptors else -1, wanted)
        except (OSError, ValueError, IndexError, KeyError) as error:
            self._say(Plugged(order.number, -1, (), "", f"{type(error).__name__}: {error}"))
            return
        addresses = tuple(str(one) for one in port.addresses)
        self._say(Plugged(order.number, port.slot, addresses, self._nameserver, ""))

    def _say(self, message: Message) -> None:
        channel.send(self._control, message)

    # ---- the host and the outside

    def _host_spoke(self) -> None:
        outside.drain(self._host)
        self._host_changed()

    def _host_changed(self) -> None:
        """Its addresses, and the networks that it is on: both are inside."""
        host = outside.host(self._host)
        denied = [ip_network(one, strict=False) for one in self._config.deny]
        # A default network such as a tunnel's 0.0.0.0/0 would leave nothing.
        near = [one for one in host.networks if one.prefixlen >= 8]
        never = [*outside.INSIDE, *near]
        own = [*map(ip_network, host.addresses), *denied]
        self._ports.firewall.transact(nft.SUBSYSTEM, [*ruleset.never(never), *ruleset.own(own)])
        ours = [ip_network(one) for one in self._config.networks]
        self._clash = next(
            (str(own) for own in ours for one in near if own.version == one.version and own.overlaps(one)), ""
        )

    def _around_spoke(self) -> None:
        """Each plug makes some of these: only default routes and pasta's interface mean something."""
        try:
            told = [_of_the_outside(one.kind, one.body) for one in messages(self._around.receive())]
        except OSError:
            told = [True]  # some were lost
        if any(told):
            self._look_outside()

    def _look_outside(self) -> None:
        """Packets get out when a default route leads to pasta's interface."""
        up = self._gateway is None and _has_default_route(self._routes)
        detail = "" if up else "no connection to the outside"
        if up and self._clash:
            up, detail = False, f"{self._clash} of the settings overlaps a network that the host is on"
        if (up, detail) != self._state:
            self._state = (up, detail)
            self._say(NetworkState(int(up), detail))

    def _refused(self) -> None:
        try:
            received = self._log.receive()
        except OSError:
            return  # more than fits was refused: the rest is not told
        for one in messages(received):
            told = refusals.parse(one.kind, one.body)
            if told is not None:
                self._ports.refused_packet(told)


def _of_the_outside(kind: int, body: bytes) -> bool:
    if kind in (_NEWROUTE, _DELROUTE):
        return len(body) > 1 and body[1] == 0  # the length of the destination's prefix
    return (
        kind == _DELLINK and len(body) >= 8 and int.from_bytes(body[4:8], sys.byteorder) < links.FIRST_INDEX
    )


def _has_default_route(routes: Netlink) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        body = bytes([family]) + bytes(11)
        for one in routes.dump(Request(_GETROUTE, 0, body)):
            # Without RTA_DST and with RTA_GATEWAY.
            if one.kind == _NEWROUTE and one.body[0] == family and one.body[1] == 0:
                kinds = {kind for kind, _ in attributes(one.body, 12)}
                if 5 in kinds and one.body[7] == 1:
                    return True
    return False


def _write(path: str, value: str, *, needed: bool = True) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except FileNotFoundError:
        pass  # a kernel without IPv6
    except OSError as error:
        if needed:
            raise
        print(f"nsbox network: {path}: {error.strerror}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Set up, then serve until keeper hangs up."""
    fields = json.loads(arguments[0])
    fields["networks"], fields["deny"] = tuple(fields["networks"]), tuple(fields["deny"])
    prctl.set_name("nsbox-network")
    prctl.set_pdeathsig(signal.SIGKILL)
    prctl.set_dumpable(0)
    os.umask(0o077)
    return Network(Config(**fields)).run()
