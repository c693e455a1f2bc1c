"""What a change of policy does to connections that are there, whatever else fails."""

from __future__ import annotations

import errno
from ipaddress import ip_address, ip_network

import pytest

from nsbox.host.network import connections, links
from nsbox.host.network import ports as ports_module
from nsbox.host.network.connections import Connection, Entry
from nsbox.host.network.policy import Policy
from nsbox.host.network.ports import Port, Ports

_PUBLIC = Policy("public")
_LISTED = Policy("allowlist", allow=(ip_network("11.22.33.44/32"),))
_OWN = ip_address("11.7.7.7")
_STAYS = Entry(b"stays", Connection(_OWN, 1, ip_address("11.22.33.44"), 443))
_OVER = Entry(b"over", Connection(_OWN, 2, ip_address("11.22.33.45"), 443))
_NO_TCP = Entry(b"no tcp", None)


class Kernel:
    """What was asked of it, in order. ``refuses``: what fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, object]] = []
        self.refuses: set[str] = set()
        for name in ("known", "look_again", "end", "drop", "forget"):
            monkeypatch.setattr(connections, name, self._answer(name))

        def put(_: Ports, port: Port, wanted: Policy) -> None:
            self.asked.append(("policy", wanted.mode))
            port.policy = wanted

        monkeypatch.setattr(Ports, "_put", put)

    def _answer(self, name: str) -> object:
        def answer(*arguments: object) -> list[Entry]:
            told = arguments[-1]
            self.asked.append((name, told if isinstance(told, int) else list(told)))  # type: ignore[call-overload]
            if name in self.refuses:
                raise OSError(errno.ENOBUFS, "No buffer space available")
            return [_STAYS, _OVER, _NO_TCP]

        return answer


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Ports:
    for needs_a_kernel in ("Netlink", "Removals"):
        monkeypatch.setattr(ports_module, needs_a_kernel, lambda *_: None)
    made = Ports(links.plan(("10.209.0.0/16", "fd6e:7362:6f78::/64")))
    made._boxes[1] = Port(7, ())
    made._boxes[1].policy = _PUBLIC
    return made


_LINK = links.index(7)
_EVERY = [_STAYS, _OVER, _NO_TCP]
_FIRST = [("policy", "allowlist"), ("known", _LINK), ("look_again", _EVERY)]
_THEN = [("end", [_OVER.connection, None]), ("drop", [_OVER, _NO_TCP])]


def test_those_that_are_refused_end(ports: Ports, kernel: Kernel) -> None:
    ports.set_policy(1, _LISTED)
    assert kernel.asked == _FIRST + _THEN
    ports.set_policy(1, _LISTED)
    assert kernel.asked == _FIRST + _THEN  # it was so


@pytest.mark.parametrize("refused", ["end", "drop"])
def test_the_policy_holds_for_all_before_any_is_ended(ports: Ports, kernel: Kernel, refused: str) -> None:
    kernel.refuses = {refused}
    ports.set_policy(1, _LISTED)
    assert kernel.asked[:3] == _FIRST


@pytest.mark.parametrize("refused", ["known", "look_again"])
def test_what_cannot_be_looked_at_again_is_forgotten(ports: Ports, kernel: Kernel, refused: str) -> None:
    kernel.refuses = {refused}
    ports.set_policy(1, _LISTED)
    assert kernel.asked[-3:] == [("forget", _LINK), ("end", []), ("drop", [])]


def test_a_policy_that_cannot_be_had_is_no_success(ports: Ports, kernel: Kernel) -> None:
    kernel.refuses = {"known", "forget"}
    with pytest.raises(OSError, match="buffer space"):
        ports.set_policy(1, _LISTED)
