"""Who is plugged in where: boxes, slots, policies, logs. One operation at a time; each is done when it
returns, but for the removal of a link."""

import sys
from collections import deque
from typing import Final

from nsbox.host.network import connections, dns, links, nft, policy, refusals, ruleset
from nsbox.host.network.named import Named
from nsbox.host.network.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Netlink
from nsbox.host.network.policy import Policy
from nsbox.host.network.removals import Removals

#: Slots: an address for each, in the smallest network that the settings allow.
SLOTS: Final = 16_000


class Port:
    """A box's place in the network."""

    def __init__(self, slot: int, addresses: tuple[links.Address, ...]) -> None:
        self.slot, self.addresses = slot, addresses
        self.policy: Policy | None = None
        self.named = Named(slot)
        self.log = refusals.Log()


class Ports:
    """All of them. Its sockets are in the network namespace."""

    def __init__(self, plan: links.Plan) -> None:
        self._plan = plan
        self._routes = Netlink(NETLINK_ROUTE)
        self.firewall = Netlink(NETLINK_NETFILTER)
        self._tracker = Netlink(NETLINK_NETFILTER)
        self.removals = Removals()
        # Oldest first: an address rests as long as it can before somebody else has it.
        self._free = deque(range(SLOTS))
        self._boxes: dict[int, Port] = {}
        self._slots: dict[int, Port] = {}
        self._by_address: dict[str, Port] = {}

    def plug(self, number: int, slot: int, netns: int, wanted: Policy) -> Port:
        """A link for a box. Raises ``OSError``; what there is of it goes then."""
        known = slot >= 0
        if known:
            self._free.remove(slot)
        else:
            slot = self._free.popleft()
        port = Port(slot, self._plan.addresses(slot))
        try:
            if not known:
                links.plug(self._routes, slot, netns, self._plan)
            self._put(port, wanted)
        except OSError:
            self.removals.remove(slot)
            raise
        self._boxes[number] = self._slots[slot] = self._by_address[str(port.addresses[0])] = port
        return port

    def _put(self, port: Port, wanted: Policy) -> None:
        changes = policy.put(port.slot, wanted, port.policy)
        self.firewall.transact(nft.SUBSYSTEM, [*port.named.shut(), *changes])
        port.named.forget()
        port.policy = wanted

    def set_policy(self, number: int, wanted: Policy) -> None:
        """From now on that holds, for connections that are there too. Raises ``OSError``, ``KeyError``."""
        port = self._boxes[number]
        if port.policy == wanted:
            return
        earlier = port.policy
        self._put(port, wanted)
        if earlier not in (None, policy.OFF):
            self._look_again(port.slot, earlier, wanted)

    def _look_again(self, slot: int, earlier: Policy, wanted: Policy) -> None:
        """At connections that an earlier policy let through: each packet of theirs meets the new one, before
        anything else is tried. Then those that would be refused are ended, for pasta would hold them for
        hours; what is no TCP is as if it had never been. Raises ``OSError``."""
        there = self._marked(links.index(slot))
        over = [one for one in there if not _stays(one, earlier, wanted)]
        try:
            connections.end(one.connection for one in over)
            connections.drop(self._tracker, over)
        except OSError as error:
            print(f"nsbox network: connections of {slot}: {error}", file=sys.stderr, flush=True)

    def _marked(self, link: int) -> list[connections.Entry]:
        try:
            there = connections.known(self._tracker, link)
            connections.look_again(self._tracker, there)
        except OSError:
            connections.forget(self._tracker, link)  # their next packet is as if it were the first
            return []
        return there

    def unplug(self, number: int) -> None:
        """For a box that is dead. Its policy is gone when this returns; the slot is free when its link is."""
        port = self._boxes.pop(number, None)
        if port is None:
            return
        self._slots.pop(port.slot, None)
        self._by_address.pop(str(port.addresses[0]), None)
        try:
            if port.policy is not None:
                end = policy.remove(port.slot, port.policy)
                self.firewall.transact(nft.SUBSYSTEM, [*port.named.shut(), *end])
        except OSError as error:
            print(f"nsbox network: the policy of {port.slot}: {error}", file=sys.stderr, flush=True)
        self.removals.remove(port.slot)

    def removed(self) -> None:
        """Links are gone: their slots are free."""
        for slot, error in self.removals.finished():
            if error is not None:
                print(f"nsbox network: link {slot}: {error}", file=sys.stderr, flush=True)
                continue  # the slot is not used again
            self._free.append(slot)

    def log(self, number: int) -> refusals.Log | None:
        port = self._boxes.get(number)
        return port.log if port else None

    def refused_packet(self, refusal: refusals.Refusal) -> None:
        port = self._slots.get(refusal.slot)
        if port is not None:
            port.log.packet(refusal)

    # ---- for the resolver

    def slot_of(self, address: str) -> int | None:
        port = self._by_address.get(address)
        return port.slot if port else None

    def may_resolve(self, slot: int, name: str) -> bool:
        port = self._slots.get(slot)
        return port is not None and port.policy is not None and port.policy.may_resolve(name)

    def refused(self, slot: int, name: str) -> None:
        self._slots[slot].log.question(name)

    def answered(self, slot: int, name: str, found: list[dns.Answer]) -> None:
        port = self._slots.get(slot)
        if port is None or port.policy is None:
            return
        for one in found:
            port.log.learn(one.address, name)
        if port.policy.mode in (ruleset.OFF, ruleset.PUBLIC):
            return
        for one in found:
            try:
                self.firewall.transact(nft.SUBSYSTEM, port.named.open(one.address, one.seconds))
            except OSError as error:
                print(f"nsbox network: an address of {name}: {error}", file=sys.stderr, flush=True)


def _stays(entry: connections.Entry, earlier: Policy, wanted: Policy) -> bool:
    one = entry.connection
    return one is not None and wanted.keeps(one.peer, one.peer_port, earlier)
