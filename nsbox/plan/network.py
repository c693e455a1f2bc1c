"""From a policy as a client says it to what the network's process is told. Pure."""

import json

from nsbox.model import domains
from nsbox.model.network import Network, NetworkMode, NetworkPolicy, parse_network
from nsbox.settings import NetworkUse, Settings

#: More would make a chain of rules that each new connection walks.
MOST_ENTRIES = 128
_HIGHEST_PORT = 65_535


class BadPolicyError(ValueError):
    """A policy that cannot be. ``field`` is the member at fault."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field, self.detail = field, detail


def options(settings: Settings) -> str:
    """What keeper tells the network's process, as JSON; empty where there is to be no network."""
    if settings.network is NetworkUse.OFF:
        return ""
    return json.dumps(
        {
            "networks": [settings.network_ipv4, settings.network_ipv6],
            "deny": list(settings.network_deny),
            "connections": settings.network_connections,
        }
    )


def checked(policy: NetworkPolicy, reachable: tuple[str, ...]) -> NetworkPolicy:
    """The policy with names in their normal form. Raises ``BadPolicyError``."""
    for field in ("allow", "deny", "ports"):
        if len(getattr(policy, field)) > MOST_ENTRIES:
            raise BadPolicyError(field, f"{field} has at most {MOST_ENTRIES} entries")
    if policy.mode is NetworkMode.OFF and (policy.allow or policy.ports):
        raise BadPolicyError("allow" if policy.allow else "ports", "with the mode off nothing is allowed")
    allow = tuple(_entry(one, f"allow[{index}]") for index, one in enumerate(policy.allow))
    deny = tuple(_entry(one, f"deny[{index}]") for index, one in enumerate(policy.deny))
    if policy.mode is NetworkMode.PUBLIC:
        for index, one in enumerate(allow):
            found = parse_network(one)
            if found is None or not _granted(found, reachable):
                raise BadPolicyError(
                    f"allow[{index}]", f"{one}: the mode public allows the internet; to allow this "
                    "alone, the mode is allowlist",
                )  # fmt: skip
    for index, port in enumerate(policy.ports):
        _ports(port, f"ports[{index}]")
    return NetworkPolicy(mode=policy.mode, allow=allow, deny=deny, ports=policy.ports)


def _entry(text: str, field: str) -> str:
    network = parse_network(text)
    if network is not None:
        return str(network.network_address) if network.num_addresses == 1 else str(network)
    name = domains.normal(text)
    if name is None:
        raise BadPolicyError(field, f"{text[:100]!r} is no address, no network and no name")
    return name


def _ports(value: int | str, field: str) -> tuple[int, int]:
    low, dash, high = str(value).partition("-")
    # isdecimal knows digits of every script; int does too, a port has but these.
    if not all(
        part.isascii() and part.isdecimal() and len(part) <= 5 for part in ((low, high) if dash else (low,))
    ):
        raise BadPolicyError(field, "a port is a number, or two as from-to")
    first, last = int(low), int(high if dash else low)
    if not 1 <= first <= last <= _HIGHEST_PORT:
        raise BadPolicyError(field, f"ports are from 1 to {_HIGHEST_PORT}, the lower one first")
    return first, last


def _granted(network: Network, reachable: tuple[str, ...]) -> bool:
    found = [parse_network(one) for one in reachable]
    return any(
        one is not None and one.version == network.version and network.subnet_of(one)  # type: ignore[arg-type]
        for one in found
    )


def told(policy: NetworkPolicy, reachable: tuple[str, ...]) -> str:
    """A checked policy as JSON for host/network/policy.py."""
    entries = [(one, parse_network(one)) for one in policy.allow]
    allow = [network for _, network in entries if network is not None]
    refused = [(one, parse_network(one)) for one in policy.deny]
    return json.dumps(
        {
            "mode": policy.mode.value,
            "allow": [str(one) for one in allow if not _granted(one, reachable)],
            "granted": [str(one) for one in allow if _granted(one, reachable)],
            "deny": [str(network) for _, network in refused if network is not None],
            "names": [one for one, network in entries if network is None],
            "refused": [one for one, network in refused if network is None],
            "ports": [_ports(port, "ports") for port in policy.ports],
        }
    )
