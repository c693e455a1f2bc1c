"""A sandbox's policy, as it comes over the wire, and the chain that it becomes."""

import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, NamedTuple

from nsbox.host.network import links, nft, ruleset
from nsbox.host.network.links import Address
from nsbox.host.network.netlink import Request
from nsbox.host.network.nft import TCP, UDP, Verdict
from nsbox.model import domains

_MAP: Final = "policies"
Network = IPv4Network | IPv6Network
#: Ports of name servers: with names to refuse, other resolvers than ours are not asked.
_NAME_SERVERS: Final = (53, 853)


class Policy(NamedTuple):
    """``granted``: what the operator lets be opened although it is inside. ``allow``: what a list allows.
    ``ports``: pairs; none means all. ``names`` and ``refused`` are patterns."""

    mode: str
    allow: tuple[Network, ...] = ()
    granted: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    names: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def standing(self) -> bool:
        """Whether one of the shared chains says it all."""
        return self.mode == ruleset.OFF or self == Policy(ruleset.PUBLIC)

    def may_resolve(self, name: str) -> bool:
        if self.mode == ruleset.OFF or domains.matches(self.refused, name):
            return False
        return self.mode == ruleset.PUBLIC or domains.matches(self.names, name)

    def keeps(self, address: Address, port: int, earlier: "Policy") -> bool:
        """Whether a TCP connection that ``earlier`` let through goes on. The rules below decide; this only
        says which connections need not be held any more. What names had opened is shut by then, and an
        address that the operator had granted is inside without it."""
        if self.mode == ruleset.OFF or _within(address, self.deny):
            return False
        if self.refused and port in _NAME_SERVERS:
            return False
        if self.ports and not any(low <= port <= high for low, high in self.ports):
            return False
        if _within(address, self.granted):
            return True
        if _within(address, earlier.granted):
            return False
        return self.mode == ruleset.PUBLIC or _within(address, self.allow)


OFF = Policy(ruleset.OFF)


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in one for one in networks)


def parse(text: str) -> Policy:
    """From JSON of plan/network.py. Raises ``ValueError``."""
    try:
        return _parsed(json.loads(text))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no policy: {type(error).__name__}: {error}") from error


def _parsed(told: Any) -> Policy:
    networks = {
        name: tuple(_network(one) for one in told.pop(name, ())) for name in ("allow", "granted", "deny")
    }
    return Policy(
        mode=str(told["mode"]),
        ports=tuple((int(low), int(high)) for low, high in told.get("ports", ())),
        names=tuple(told.get("names", ())),
        refused=tuple(told.get("refused", ())),
        **networks,
    )


def _network(told: Any) -> Network:
    if not isinstance(told, str):  # ip_network takes numbers as well, True among them
        raise TypeError(f"{told!r} is no network")
    return ip_network(told)


def chain_name(slot: int) -> str:
    return f"sandbox{slot}"


def put(slot: int, new: Policy, old: Policy | None) -> list[Request]:
    """The requests that make ``new`` hold for a link. One batch: at no time does neither hold."""
    key = nft.native(links.index(slot))
    made: list[Request] = []
    if old is not None:
        made.append(nft.delete_element(_MAP, key))
    own = chain_name(slot)
    if not new.standing:
        made += [nft.chain(own), *([nft.empty_chain(own)] if old is not None and not old.standing else [])]
        made += _rules(own, new)
    made.append(nft.add_verdict(_MAP, key, Verdict.GOTO, new.mode if new.standing else own))
    if new.standing and old is not None and not old.standing:
        made += nft.delete_chain(own)
    return made


def remove(slot: int, old: Policy) -> list[Request]:
    made = [nft.delete_element(_MAP, nft.native(links.index(slot)))]
    return made + ([] if old.standing else nft.delete_chain(chain_name(slot)))


def _to(network: Network) -> list[bytes]:
    return nft.address_within(network.network_address.packed, network.netmask.packed)


def _rules(name: str, policy: Policy) -> list[Request]:
    refuse = nft.then(Verdict.GOTO, "refuse_policy")
    accept = nft.then(Verdict.ACCEPT)
    made = [nft.rule(name, _to(one), refuse) for one in policy.deny]
    if policy.refused:
        made += [
            nft.rule(name, nft.protocol(kind), nft.port_between(port, port), refuse)
            for kind in (TCP, UDP)
            for port in _NAME_SERVERS
        ]
    made += _ports(name, policy.ports, refuse)
    made += [nft.rule(name, _to(one), accept) for one in policy.granted]
    made.append(nft.rule(name, nft.then(Verdict.JUMP, "never")))
    if policy.mode == ruleset.PUBLIC:
        return [*made, nft.rule(name, accept)]
    made += [nft.rule(name, _to(one), accept) for one in policy.allow]
    made += [
        nft.rule(name, nft.link_and_address_in(version, f"named{version}"), accept) for version in (4, 6)
    ]
    return [*made, nft.rule(name, refuse)]


def _ports(name: str, ports: tuple[tuple[int, int], ...], refuse: bytes) -> list[Request]:
    """Refuse every port between those that are allowed, and whatever has none."""
    if not ports:
        return []
    made = [
        nft.rule(
            name, nft.meta_is(nft.Meta.L4PROTO, TCP, negate=True), nft.meta_is(nft.Meta.L4PROTO, UDP,
            negate=True), refuse,
        )
    ]  # fmt: skip
    free = 0
    for low, high in [*sorted(ports), (65_536, 65_536)]:
        if free < low:
            made.append(nft.rule(name, nft.port_between(free, low - 1), refuse))
        free = max(free, high + 1)
    return made
