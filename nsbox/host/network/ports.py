"""Who is plugged in where: boxes, slots, policies, logs. One operation at a time; each is done when it
returns."""

import sys
from collections import deque
from errno import ENOENT
from typing import Final

from nsbox.host.network import conntrack, dns, links, nft, policy, refusals, ruleset
from nsbox.host.network.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Netlink
from nsbox.host.network.policy import Policy

#: How long an answer's address may be dialled, in seconds, however short it is meant to be kept: programs
#: keep addresses, and connections that are there stay anyway.
_SHORTEST, _LONGEST = 300, 3_600
#: Slots: an address for each, in the smallest network that the settings allow.
SLOTS: Final = 16_000


class Port:
    """A box's place in the network."""

    def __init__(self, slot: int, addresses: tuple[links.Address, ...]) -> None:
        self.slot, self.addresses = slot, addresses
        self.policy: Policy | None = None
        self.log = refusals.Log()


class Ports:
    """All of them. Its sockets are in the network namespace."""

    def __init__(self, plan: links.Plan) -> None:
        self._plan = plan
        self._routes = Netlink(NETLINK_ROUTE)
        self.firewall = Netlink(NETLINK_NETFILTER)
        self._tracker = Netlink(NETLINK_NETFILTER)
        # Oldest first: an address rests as long as it can before somebody else has it.
        self._free = deque(range(SLOTS))
        self._boxes: dict[int, Port] = {}
        self._slots: dict[int, Port] = {}
        self._by_address: dict[str, Port] = {}

    def plug(self, number: int, slot: int, netns: int, wanted: Policy) -> Port:
        """A link for a box. Raises ``OSError``; nothing is left of it then."""
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
            self._forget_link(port)
            raise
        self._boxes[number] = self._slots[slot] = self._by_address[str(port.addresses[0])] = port
        return port

    def _put(self, port: Port, wanted: Policy) -> None:
        self.firewall.transact(nft.SUBSYSTEM, policy.put(port.slot, wanted, port.policy))
        port.policy = wanted

    def set_policy(self, number: int, wanted: Policy) -> None:
        """From now on that holds, for connections that are there too. Raises ``OSError``, ``KeyError``."""
        port = self._boxes[number]
        if port.policy == wanted:
            return
        fresh = port.policy == policy.OFF
        self._put(port, wanted)
        if not fresh:
            self._forget_connections(port)

    def _forget_connections(self, port: Port) -> None:
        """Their next packet is looked at as if it were the first; addresses of names count no more either."""
        try:
            conntrack.forget(self._tracker, links.index(port.slot))
        except OSError as error:
            print(f"nsbox network: conntrack: {error}", file=sys.stderr, flush=True)

    def unplug(self, number: int) -> None:
        """Nothing of it is left, and the slot is free, when this returns."""
        port = self._boxes.pop(number, None)
        if port is None:
            return
        self._slots.pop(port.slot, None)
        self._by_address.pop(str(port.addresses[0]), None)
        try:
            if port.policy is not None:
                self.firewall.transact(nft.SUBSYSTEM, policy.remove(port.slot, port.policy))
        except OSError as error:
            print(f"nsbox network: the policy of {port.slot}: {error}", file=sys.stderr, flush=True)
        self._forget_link(port)

    def _forget_link(self, port: Port) -> None:
        try:
            links.unplug(self._routes, port.slot)
        except OSError as error:
            print(f"nsbox network: link {port.slot}: {error}", file=sys.stderr, flush=True)
            return  # the slot is not used again
        self._forget_connections(port)
        self._free.append(port.slot)

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
        key = nft.native(links.index(slot))
        for one in found:
            life = 1_000 * min(max(one.seconds, _SHORTEST), _LONGEST)
            target, element = f"named{4 if len(one.address) == 4 else 6}", key + one.address
            try:
                # Made anew, since a timeout that runs is not changed by adding the same once more.
                self.firewall.transact(nft.SUBSYSTEM, [
                    nft.add_elements(target, [element], life), nft.delete_element(target, element),
                    nft.add_elements(target, [element], life),
                ])  # fmt: skip
            except OSError as error:
                if error.errno != ENOENT:
                    print(f"nsbox network: {target}: {error}", file=sys.stderr, flush=True)
