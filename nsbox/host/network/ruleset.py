"""The walls of the network: what a packet meets on its way out of a sandbox. As requests for nft.py.

    raw         a source address that does not belong to the link is dropped; DNS is not tracked
    input       from a sandbox: DNS to the gateway, within a rate, and nothing else
    forward     from a sandbox → ``out``; to a sandbox: answers only
    out         known connections pass, but for those that the sandbox's chain has changed for since; other
                sandboxes, the host itself and too many connections do not; then the sandbox's own chain, by
                its link. A link without one goes nowhere
    postrouting what leaves takes the address that pasta's interface has

Everything is decided on the address that is dialled, in a namespace that no sandbox has a right in. Names
play no part but to put addresses into ``named``, and what is in ``never`` was refused before.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Final, NamedTuple

from nsbox.host.network import nft
from nsbox.host.network.connections import LOOK_AGAIN
from nsbox.host.network.links import GROUP, Plan
from nsbox.host.network.netlink import Request
from nsbox.host.network.nft import TCP, UDP, Hook, Meta, Verdict
from nsbox.wire import uplink

Network = IPv4Network | IPv6Network

LOG_GROUP: Final = 1
#: Enough of a refused packet for its addresses and ports, behind IPv6 extension headers too.
_LOGGED_BYTES: Final = 128
#: Per sandbox: lines of the log, DNS questions, new connections; each a second, and at once. The last is what
#: the host can bear: a socket of pasta's that was closed keeps one of the host's 28,000 ports for a minute.
_LOG_RATE, _DNS_RATE, _NEW_RATE = (20, 100), (200, 400), (100, 2_000)
_VERSIONS: Final = (4, 6)
_POLICY: Final = "policies"
_DNS_PORT: Final = 53

OFF, PUBLIC = "off", "public"


class Limits(NamedTuple):
    """``connections``: how many a sandbox may have at a time."""

    connections: int


def base(plan: Plan, networks: tuple[str, ...], limits: Limits) -> list[Request]:
    """The table as it is before the first link."""
    return [
        *nft.fresh_table(),
        *_sets(),
        *_chains(),
        *_raw(plan),
        *_refusals(),
        *_input(plan),
        *_forward(limits),
        *_standing_policies(),
        *_output(),
        *_postrouting(networks),
    ]


def _sets() -> list[Request]:
    made = [nft.new_set(1, _POLICY, [nft.IFINDEX], verdicts=True)]
    number = 1
    for version in _VERSIONS:
        address = nft.IPV4 if version == 4 else nft.IPV6
        for name, types, flags in (
            (f"never{version}", [address], nft.INTERVAL),
            (f"self{version}", [address], nft.INTERVAL),
            (f"named{version}", [nft.IFINDEX, address], nft.TIMEOUT),
        ):
            number += 1
            made.append(nft.new_set(number, name, types, flags=flags))
    for name in ("logged", "asking", "opening", "connected"):
        number += 1
        made.append(nft.new_set(number, name, [nft.IFINDEX], flags=nft.DYNAMIC, size=65_536))
    return made


def _chains() -> list[Request]:
    bases = [
        nft.base_chain("raw", Hook.PREROUTING, -300, Verdict.ACCEPT),
        nft.base_chain("input", Hook.INPUT, 0, Verdict.ACCEPT),
        nft.base_chain("forward", Hook.FORWARD, 0, Verdict.DROP),
        nft.base_chain("rawout", Hook.OUTPUT, -300, Verdict.ACCEPT),
        nft.base_chain("output", Hook.OUTPUT, 0, Verdict.ACCEPT),
        nft.base_chain("postrouting", Hook.POSTROUTING, 100, Verdict.ACCEPT, "nat"),
    ]
    return bases + [nft.chain(name) for name in ("out", *_REASONS, "never", OFF, PUBLIC)]


#: Chains that refuse, and so the reasons a log line can have.
_REASONS = ("refuse_policy", "refuse_inside", "refuse_many", "refuse_network")


def _from_sandbox() -> list[bytes]:
    return nft.meta_is(Meta.IIFGROUP, GROUP)


def _raw(plan: Plan) -> list[Request]:
    return [
        nft.rule("raw", nft.meta_is(Meta.IIFGROUP, GROUP, negate=True), nft.then(Verdict.ACCEPT)),
        nft.rule("raw", nft.wrong_way(), nft.then(Verdict.DROP)),
        # Questions are answered here and never forwarded: in the connection table a flood of them would only
        # take the place of others.
        nft.rule(
            "raw", nft.address_within(*_host(plan)), nft.protocol(UDP), _to_resolver(),
            nft.untracked(),
        ),
        nft.rule(
            "rawout", nft.meta_is(Meta.OIFGROUP, GROUP), nft.protocol(UDP),
            nft.port_between(_DNS_PORT, _DNS_PORT, source=True), nft.untracked(),
        ),
    ]  # fmt: skip


def _to_resolver() -> list[bytes]:
    return nft.port_between(_DNS_PORT, _DNS_PORT)


def _host(plan: Plan) -> tuple[bytes, bytes]:
    return plan.gateways[0].packed, b"\xff" * 4


def _refusals() -> list[Request]:
    made = []
    for reason in _REASONS:
        noted = nft.log(LOG_GROUP, reason.removeprefix("refuse_"), _LOGGED_BYTES)
        made += [
            nft.rule(reason, nft.rate("logged", *_LOG_RATE, over=False), noted),
            nft.rule(reason, nft.rejected()),
        ]
    return made


def _input(plan: Plan) -> list[Request]:
    """What is addressed to the network namespace itself."""
    dns = nft.address_within(*_host(plan))
    return [
        # From pasta come answers to what the resolver asked; a neighbour solicitation of its gateway is
        # answered, since without that there is no IPv6.
        nft.rule("input", nft.state(nft.ESTABLISHED | nft.RELATED), nft.then(Verdict.ACCEPT)),
        nft.rule(
            "input",
            nft.meta_is(Meta.IIFNAME, uplink.INTERFACE),
            nft.protocol(nft.ICMPV6),
            nft.then(Verdict.ACCEPT),
        ),
        nft.rule("input", nft.meta_is(Meta.IIFNAME, uplink.INTERFACE), nft.then(Verdict.DROP)),
        nft.rule("input", nft.meta_is(Meta.IIFGROUP, GROUP, negate=True), nft.then(Verdict.ACCEPT)),
        nft.rule("input", dns, nft.rate("asking", *_DNS_RATE, over=True), nft.then(Verdict.DROP)),
        *(
            nft.rule(
                "input",
                dns,
                nft.protocol(one),
                _to_resolver(),
                nft.then(Verdict.ACCEPT),
            )
            for one in (UDP, TCP)
        ),
        nft.rule("input", nft.then(Verdict.GOTO, "refuse_network")),
    ]


def _forward(limits: Limits) -> list[Request]:
    known = nft.state(nft.ESTABLISHED | nft.RELATED)
    return [
        nft.rule("forward", _from_sandbox(), nft.then(Verdict.GOTO, "out")),
        nft.rule("forward", nft.meta_is(Meta.OIFGROUP, GROUP), known, nft.then(Verdict.ACCEPT)),
        nft.rule("out", known, nft.mark_lacks(LOOK_AGAIN), nft.then(Verdict.ACCEPT)),
        nft.rule("out", known, nft.verdict_by_link(_POLICY)),
        nft.rule("out", known, nft.then(Verdict.GOTO, "refuse_policy")),
        nft.rule(
            "out",
            nft.meta_is(Meta.OIFNAME, uplink.INTERFACE, negate=True),
            nft.then(Verdict.GOTO, "refuse_inside"),
        ),
        *(
            nft.rule(
                "out", nft.address_in(version, f"self{version}"), nft.then(Verdict.GOTO, "refuse_inside")
            )
            for version in _VERSIONS
        ),
        nft.rule("out", nft.state(nft.INVALID), nft.then(Verdict.DROP)),
        nft.rule(
            "out",
            nft.connections_over("connected", limits.connections),
            nft.then(Verdict.GOTO, "refuse_many"),
        ),
        nft.rule("out", nft.rate("opening", *_NEW_RATE, over=True), nft.then(Verdict.GOTO, "refuse_many")),
        nft.rule("out", nft.mark_by_link()),
        nft.rule("out", nft.verdict_by_link(_POLICY)),
        nft.rule("out", nft.then(Verdict.GOTO, "refuse_policy")),
    ]


def _standing_policies() -> list[Request]:
    """Those that most sandboxes have, shared by them."""
    return [
        *(
            nft.rule(
                "never", nft.address_in(version, f"never{version}"), nft.then(Verdict.GOTO, "refuse_inside")
            )
            for version in _VERSIONS
        ),
        nft.rule(OFF, nft.then(Verdict.GOTO, "refuse_policy")),
        nft.rule(PUBLIC, nft.then(Verdict.JUMP, "never")),
        nft.rule(PUBLIC, nft.then(Verdict.ACCEPT)),
    ]


def _output() -> list[Request]:
    """To a sandbox the namespace itself says nothing but what the resolver answers, and errors."""
    to_sandbox = nft.meta_is(Meta.OIFGROUP, GROUP)
    return [
        nft.rule("output", nft.meta_is(Meta.OIFGROUP, GROUP, negate=True), nft.then(Verdict.ACCEPT)),
        nft.rule(
            "output", nft.state(nft.ESTABLISHED | nft.RELATED | nft.UNTRACKED), nft.then(Verdict.ACCEPT)
        ),
        *(
            nft.rule("output", to_sandbox, nft.protocol(one), nft.then(Verdict.ACCEPT))
            for one in (nft.ICMP, nft.ICMPV6)
        ),
        nft.rule("output", nft.then(Verdict.DROP)),
    ]


def _postrouting(networks: tuple[str, ...]) -> list[Request]:
    made = []
    for one in map(ip_network, networks):
        source = nft.address_within(one.network_address.packed, one.netmask.packed, source=True)
        leaving = nft.meta_is(Meta.OIFNAME, uplink.INTERFACE)
        made.append(nft.rule("postrouting", leaving, source, nft.masqueraded()))
    return made


# ---- what changes


def never(networks: Iterable[Network]) -> list[Request]:
    """Replace what nobody reaches unless it was granted."""
    return [
        request
        for version in _VERSIONS
        for request in _replace(f"never{version}", [one for one in networks if one.version == version])
    ]


def _replace(name: str, networks: list[Network]) -> list[Request]:
    found = ranges(networks)
    return [nft.empty_set(name), *([nft.add_ranges(name, found)] if found else [])]


def ranges(networks: list[Network]) -> list[tuple[bytes, bytes]]:
    """Networks of one family as half-open ranges, in order and apart; an end that is empty is the last
    address."""
    made = []
    for one in sorted(collapse_addresses(networks)):  # type: ignore[type-var]
        size = one.max_prefixlen // 8
        above = int(one.broadcast_address) + 1
        end = above.to_bytes(size, "big") if above < 1 << 8 * size else b""
        made.append((one.network_address.packed, end))
    return _joined(made)


def _joined(ranges: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Ranges that touch are one: an end and a start at one address would contradict each other."""
    made: list[tuple[bytes, bytes]] = []
    for start, end in ranges:
        if made and made[-1][1] == start:
            made[-1] = (made[-1][0], end)
        else:
            made.append((start, end))
    return made


def own(networks: Iterable[Network]) -> list[Request]:
    """Replace what nobody reaches, whatever was granted: the host's own addresses, and the operator's
    list."""
    found = list(networks)
    return [
        request
        for version in _VERSIONS
        for request in _replace(f"self{version}", [one for one in found if one.version == version])
    ]
