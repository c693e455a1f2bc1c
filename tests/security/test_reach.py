"""What a sandbox reaches by default, row 8 of the acceptance list: everything inside is tried, by every
spelling, and whoever was tried says itself whether it was reached."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import new_key
from tests.e2e import hosts
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import open_files, wait_until
from tests.e2e.hosts import PORT, World
from tests.e2e.world import Inhabitant, world

__all__ = ["world"]  # a fixture

_TRY = r"""
import errno, json, socket, struct, sys, time
targets = json.loads(sys.argv[1])
waiting, reached = [], []
for kind, address, port in targets:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    icmp = kind == "icmp"
    proto = {(True, 4): 1, (True, 6): 58}.get((icmp, 6 if ":" in address else 4), 0)
    try:
        one = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, proto)
        one.setblocking(False)
        one.connect_ex((address, port))
        if kind == "udp":
            one.send(b"x")
        if icmp:
            one.send(struct.pack(">BBHHH", 128 if ":" in address else 8, 0, 0, 0, 1) + b"x" * 8)
        waiting.append((kind, address, port, one))
    except OSError as error:
        pass
deadline = time.monotonic() + float(sys.argv[2])
while waiting and time.monotonic() < deadline:
    time.sleep(0.02)
    for entry in list(waiting):
        kind, address, port, one = entry
        try:
            if one.recv(64):
                reached.append([kind, address, port])
                waiting.remove(entry)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                waiting.remove(entry)
print(json.dumps(reached))
"""


@pytest.fixture(scope="module")
def inhabitant(world: World) -> Iterator[Inhabitant]:
    with Inhabitant(world, new_key()) as one:
        yield one


@pytest.fixture
def world_api(inhabitant: Inhabitant) -> Api:
    return inhabitant.api


@pytest.fixture
def box(world: World, world_api: Api) -> Iterator[Sandbox]:
    world.forget()
    made = world_api.sandbox()
    yield made
    world_api.kill(made.id)


Target = tuple[str, str, int]


def reached(box: Sandbox, targets: list[Target], patience: float = 3.0) -> list[Target]:
    """Which of these answered."""
    answer = box.run(["python3", "-c", _TRY, json.dumps(targets), str(patience)], timeoutMs=60_000)
    assert answer["exitCode"] == 0, answer
    return [(kind, address, port) for kind, address, port in json.loads(answer["stdout"])]


def every_way(addresses: list[str], port: int = PORT) -> list[Target]:
    return [(kind, one, port) for one in addresses for kind in ("tcp", "udp", "icmp")]


def inside(port_of_daemon: int, other: str) -> list[Target]:
    """All that is not the internet, in every spelling that the kernel takes."""
    v4 = [hosts.METADATA4, hosts.NEIGHBOUR4, hosts.ROUTER4, hosts.RESOLVER4, *hosts.PRIVATE4, hosts.HOST4]
    v4 += [
        hosts.HOST_PUBLIC4,
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.209.0.1",
        "224.0.0.1",
        "240.0.0.1",
        other,
    ]
    v4 += ["192.0.2.254", "255.255.255.255"]
    v6 = [hosts.METADATA6, hosts.NEIGHBOUR6, hosts.ROUTER6, *hosts.PRIVATE6, hosts.HOST6, hosts.HOST_PUBLIC6]
    v6 += ["::1", "::", "fd6e:7362:6f78::1", "ff02::1", "fe80::1"]
    mapped = [f"::ffff:{one}" for one in v4]
    translated = [f"64:ff9b::{one}" for one in v4] + [f"64:ff9b:1::{one}" for one in v4]
    tunnelled = [
        f"2002:{int(a):02x}{int(b):02x}:{int(c):02x}{int(d):02x}::1"
        for a, b, c, d in (x.split(".") for x in v4)
    ]
    compatible = [f"::{one}" for one in v4 if not one.startswith("0.")]
    # A ping of these is answered by the sandbox itself, and by nobody else.
    own = {"127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::"}
    found = every_way([*v4, *v6, *mapped, *translated, *tunnelled, *compatible])
    found = [one for one in found if not (one[0] == "icmp" and one[1] in own)]
    return found + [("tcp", one, port_of_daemon) for one in (*v4, *v6, *mapped)]


def test_nothing_inside_is_reached(world: World, world_api: Api, box: Sandbox, figure: Say) -> None:
    """And the internet is, by the same means: the test would notice a network that is merely down."""
    neighbour = world_api.sandbox()
    try:
        address = neighbour.out("hostname -I").split()[0]
        listener = f"import socket,time; s=socket.create_server(('0.0.0.0', {PORT})); time.sleep(60)"
        neighbour.request("POST", "/processes", {"command": ["python3", "-c", listener]})
        targets = inside(int(world_api.port or 0), address)
        good = reached(box, every_way([hosts.INTERNET4, hosts.INTERNET6]))
        assert {(kind, one) for kind, one, _ in good} == {
            (kind, one) for kind in ("tcp", "udp", "icmp") for one in (hosts.INTERNET4, hosts.INTERNET6)
        }
        world.forget()
        bad = reached(box, targets)
    finally:
        world_api.kill(neighbour.id)
    told = world.hits("around") + world.hits("host")
    print(f"\nreach: tried {len(targets)}, answered {len(bad)}, and {len(told)} hosts say they were reached")
    figure(8, tried=len(targets), bad=len(bad) + len(told))


def test_the_reach_table_bites(inhabitant: Inhabitant, box: Sandbox) -> None:
    """With the ranges taken out of the firewall, the same attempts arrive."""
    targets = every_way(
        [hosts.METADATA4, hosts.NEIGHBOUR4, hosts.PRIVATE4[0], hosts.METADATA6, hosts.NEIGHBOUR6]
    )
    assert reached(box, targets, 1.0) == []
    inside_network = inhabitant.process("nsbox-network")
    try:
        for name in ("never4", "never6"):
            _nft(inside_network, "flush", "set", "inet", "nsbox", name)
        bad = reached(box, targets)
    finally:
        _start_again(inhabitant, inside_network, box)
    print(f"\nreach without the ranges: tried {len(targets)}, reached {len(bad)}")
    assert len(bad) == len(targets)
    assert reached(box, targets, 1.0) == []


def test_a_sandbox_cannot_reach_another_also_without_the_ranges(
    inhabitant: Inhabitant, world_api: Api, box: Sandbox
) -> None:
    neighbour = world_api.sandbox()
    try:
        address = neighbour.out("hostname -I").split()[0]
        listener = f"import socket,time; s=socket.create_server(('0.0.0.0', {PORT})); time.sleep(60)"
        neighbour.request("POST", "/processes", {"command": ["python3", "-c", listener]})
        inside_network = inhabitant.process("nsbox-network")
        try:
            for name in ("never4", "never6"):
                _nft(inside_network, "flush", "set", "inet", "nsbox", name)
            assert reached(box, every_way([address]), 1.0) == []
            # Bites: with the chain that asks for the way out emptied, the neighbour answers.
            _nft(inside_network, "insert", "rule", "inet", "nsbox", "forward", "accept")
            assert reached(box, [("icmp", address, 0)]) == [("icmp", address, 0)]
        finally:
            _start_again(inhabitant, inside_network, box)
    finally:
        world_api.kill(neighbour.id)


def _nft(pid: int, *words: str) -> str:
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _start_again(inhabitant: Inhabitant, pid: int, box: Sandbox) -> None:
    """Kill the process: keeper starts another, which makes every wall anew and keeps every link."""
    os.kill(pid, 9)

    def walls_stand() -> bool:
        return inhabitant.process("nsbox-network") not in (0, pid) and bool(
            reached(box, [("tcp", hosts.INTERNET4, PORT)], 0.5)
        )

    wait_until(walls_stand, 30, "the network's process is back")


def test_a_name_that_is_bound_anew(world: World, box: Sandbox, figure: Say) -> None:
    """DNS rebinding: the first answer is of the internet, and what follows points inside. The list holds the
    name, so that each answer is looked at for addresses to open."""
    assert box.request("PUT", "/network", {"allow": ["turns.example"]}).status == 200
    script = f"""
import socket
for turn in range(3):
    for family in (socket.AF_INET, socket.AF_INET6):
        address = socket.getaddrinfo("turns.example", {PORT}, family, socket.SOCK_STREAM)[0][4][0]
        try:
            socket.create_connection((address, {PORT}), 2).recv(5)
            print("REACHED", address)
        except OSError:
            print("refused", address)
"""
    said = box.out(["python3", "-c", script], timeoutMs=60_000).splitlines()
    assert said[:2] == [f"REACHED {hosts.INTERNET4}", f"REACHED {hosts.INTERNET6}"]
    assert said[2:] == [f"refused {one}" for pair in hosts.REBOUND[1:] for one in pair]
    assert set(world.hits("around")) == {f"::ffff:{hosts.INTERNET4}", hosts.INTERNET6}
    figure(8, tried=len(said) - 2)


@pytest.mark.parametrize("name", ["rebind.example", "lan.example", "loop.example"])
def test_names_that_point_inside(world: World, box: Sandbox, name: str, figure: Say) -> None:
    """The name resolves; what it leads to is refused where it is dialled."""
    script = f"""
import socket
seen = sorted({{one[4][0] for one in socket.getaddrinfo({name!r}, {PORT}, type=socket.SOCK_STREAM)}})
print(seen)
for address in seen:
    try:
        socket.create_connection((address, {PORT}), 2)
        print("REACHED", address)
    except OSError:
        pass
"""
    said = box.out(["python3", "-c", script])
    assert hosts.NAMES[name][0] in said
    assert "REACHED" not in said
    assert world.hits("around") == []
    figure(8, tried=len(hosts.NAMES[name]))


def test_a_list_of_names_opens_their_addresses_and_no_others(world: World, box: Sandbox) -> None:
    wish = {"allow": ["internet.example", "rebind.example"]}
    assert box.request("PUT", "/network", wish).status == 200
    before = reached(box, [("tcp", hosts.INTERNET4, PORT)], 1.0)
    assert before == []  # the name has not been asked for yet
    for name in ("internet.example", "rebind.example"):
        assert box.run(f"getent ahosts {name}")["exitCode"] == 0
    assert box.run("getent ahosts www.internet.example")["exitCode"] != 0
    tried = every_way([hosts.INTERNET4, hosts.OTHER4, hosts.METADATA4, hosts.NEIGHBOUR4])
    assert {one[1] for one in reached(box, tried, 2.0)} == {hosts.INTERNET4}
    # Another list, and what the first one opened is shut; also when the name comes back without a question.
    for names in (["www.internet.example"], ["internet.example"]):
        assert box.request("PUT", "/network", {"allow": names}).status == 200
        assert reached(box, tried, 1.0) == []


_HOLD = f"""
import fcntl, os, socket, struct, termios, time
s = socket.create_connection(({hosts.INTERNET4!r}, {PORT}), 5)
s.recv(5)
print("open", flush=True)
while not os.path.exists("/tmp/go"):
    time.sleep(0.05)
s.send(b"x" * 100)
end = time.monotonic() + 5
left = 1
while left and time.monotonic() < end:
    time.sleep(0.05)
    left = struct.unpack("i", fcntl.ioctl(s, termios.TIOCOUTQ, bytes(4)))[0]
print("stuck" if left else "arrived", flush=True)
"""


@pytest.mark.parametrize(("wish", "said"), [({"mode": "public"}, "arrived"), ({"mode": "off"}, "stuck")])
def test_a_policy_changes_for_connections_that_are_there(
    box: Sandbox, wish: dict[str, object], said: str
) -> None:
    """What is sent on one that began under another policy is acknowledged by nobody."""
    box.write("/tmp/hold.py", _HOLD)
    box.request("POST", "/processes", {"command": "python3 /tmp/hold.py >/tmp/said 2>&1"})
    box.out("until grep -q open /tmp/said; do sleep 0.05; done", timeoutMs=30_000)
    assert box.request("PUT", "/network", wish).status == 200
    box.out("touch /tmp/go; until grep -Eq 'stuck|arrived' /tmp/said; do sleep 0.05; done", timeoutMs=30_000)
    assert box.out("tail -n 1 /tmp/said") == f"{said}\n"
    if said == "stuck":
        assert reached(box, every_way([hosts.INTERNET4]), 1.0) == []


def test_the_log_says_what_was_refused_and_which_name(box: Sandbox) -> None:
    dial = f"import socket; socket.create_connection(('{hosts.METADATA4}', 80), 2)"
    box.run(f'getent ahosts rebind.example; python3 -c "{dial}"')
    entries = box.request("GET", "/network/log").json["entries"]
    wanted = {
        "reason": "inside",
        "protocol": "tcp",
        "address": hosts.METADATA4,
        "port": 80,
        "name": "rebind.example",
    }
    assert any(wanted.items() <= one.items() for one in entries), entries


def test_a_flood_of_connections_harms_itself_alone(world: World, world_api: Api, box: Sandbox) -> None:
    """10,000 are tried; no more than the limit are held, and the neighbour gets through."""
    neighbour = world_api.sandbox()
    flood = f"""
import resource, socket
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
for _ in range(10_000):
    if len(held) > hard - 100:
        for one in held[:1000]:
            one.close()
        del held[:1000]
    s = socket.socket(); s.setblocking(False); s.connect_ex(({hosts.INTERNET4!r}, {PORT})); held.append(s)
import time; time.sleep(2)
ok = 0
for s in held:
    try:
        ok += bool(s.recv(5))
    except OSError:
        pass
print(ok, flush=True)
time.sleep(5)
"""
    try:
        box.write("/tmp/flood.py", flood)
        box.request("POST", "/processes", {"command": "python3 /tmp/flood.py >/tmp/held 2>&1"})
        box.out("until test -s /tmp/held; do sleep 0.1; done", timeoutMs=60_000)
        held = int(box.out("cat /tmp/held"))
        fine = reached(neighbour, every_way([hosts.INTERNET4]))
        print(f"\n10,000 connections tried: {held} held; the neighbour reached {len(fine)} of 3")
        assert 500 < held <= 1_024 + 50  # a few close and are followed by others while it is counted
        assert len(fine) == 3
    finally:
        world_api.kill(neighbour.id)


_HELD = """
import socket, sys, time
address, port, count, seconds = sys.argv[1], *map(int, sys.argv[2:])
held, late = [], time.monotonic() + 20
for own in range(20_000, 20_000 + count):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.bind(("", own))
    s.setblocking(False)
    s.connect_ex((address, port))
    held.append(s)
    if len(held) % 50 == 0:  # the host has a queue for those that are new
        time.sleep(0.05)
greeted = 0
for s in held:
    s.settimeout(max(0.001, late - time.monotonic()))
    try:
        greeted += s.recv(5) == b"hello"
    except OSError:
        pass
print(greeted, flush=True)
time.sleep(seconds)
"""


@pytest.fixture
def hold(box: Sandbox) -> Callable[[str, int], int]:
    """Open connections from ports that are always the same, and keep them: how many were made."""

    def hold(address: str, count: int) -> int:
        box.write("/tmp/hold.py", _HELD)
        command = f"exec python3 /tmp/hold.py {address} {PORT} {count} 1000 >/tmp/held"
        box.request("POST", "/processes", {"command": command})
        return int(box.out("until test -s /tmp/held; do sleep 0.05; done; cat /tmp/held", timeoutMs=60_000))

    return hold


@pytest.mark.parametrize("address", [hosts.INTERNET4, hosts.INTERNET6])
def test_connections_of_a_killed_sandbox_are_in_nobodys_way(
    inhabitant: Inhabitant, world_api: Api, box: Sandbox, hold: Callable[[str, int], int], address: str
) -> None:
    """They end with it, also where the other side never closes. Bites: pasta held them for hours, and a
    sandbox that got the same port towards the same address was answered nothing."""
    before = _at_rest(inhabitant)
    assert hold(address, 500) == 500
    assert _held_by_pasta(inhabitant) >= before + 500 - _POOLS
    # Also after a policy that lets them go on.
    assert box.request("PUT", "/network", {"mode": "public", "deny": [hosts.OTHER4]}).status == 200
    world_api.kill(box.id)
    wait_until(lambda: _held_by_pasta(inhabitant) <= before + _POOLS, 20, "pasta has let go of them")
    following = world_api.sandbox()
    following.write("/tmp/hold.py", _HELD)
    try:
        hold_again = ["python3", "/tmp/hold.py", address, str(PORT), "500", "0"]
        assert int(following.out(hold_again, timeoutMs=60_000)) == 500
    finally:
        world_api.kill(following.id)


@pytest.mark.parametrize(
    ("wish", "stay"),
    [
        ({"mode": "off"}, 0),
        ({"mode": "public", "deny": [hosts.OTHER4]}, 300),
        ({"mode": "allowlist", "allow": [hosts.INTERNET4]}, 300),
        ({"mode": "allowlist", "allow": [hosts.OTHER4]}, 0),
        ({"mode": "public", "ports": [443]}, 0),
    ],
)
def test_connections_that_a_new_policy_refuses_are_not_held(
    inhabitant: Inhabitant, box: Sandbox, hold: Callable[[str, int], int], wish: dict[str, object], stay: int
) -> None:
    """By changing its policy to and fro a sandbox would hold ever more of the host's sockets, uncounted."""
    before = _at_rest(inhabitant)
    assert hold(hosts.INTERNET4, 300) == 300
    assert box.request("PUT", "/network", wish).status == 200
    try:
        wait_until(lambda: _held_by_pasta(inhabitant) <= before + stay + _POOLS, 20, "the others are ended")
        time.sleep(0.3)
        assert _held_by_pasta(inhabitant) >= before + stay - _POOLS
    finally:
        box.request("PUT", "/network", {"mode": "public"})


#: Sockets that pasta keeps ready, 32 of each family; it has them or not.
_POOLS = 64


def _held_by_pasta(inhabitant: Inhabitant) -> int:
    """Its sockets: one for each connection, and some."""
    return sum(one.startswith("socket:") for one in open_files(inhabitant.pasta()))


def _at_rest(inhabitant: Inhabitant) -> int:
    """What it holds when what other tests have left is gone."""
    counts = [_held_by_pasta(inhabitant)]
    while len(counts) < 5 or len(set(counts[-5:])) > 1:
        assert len(counts) < 200
        time.sleep(0.1)
        counts.append(_held_by_pasta(inhabitant))
    return counts[-1]


_SHORT = """
import select, socket, struct, sys, time
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
opened, begun = 0, time.monotonic()
while time.monotonic() - begun < seconds:
    made = []
    for _ in range(50):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex((address, port))
        made.append(s)
    poll = select.poll()
    for s in made:
        poll.register(s, select.POLLOUT)
    end = time.monotonic() + 0.5
    while made and time.monotonic() < end:
        for number, event in poll.poll(100):
            opened += not event & (select.POLLERR | select.POLLHUP)
            poll.unregister(number)
            s = next(one for one in made if one.fileno() == number)
            # A reset: such an entry counts no more for its sandbox, and stays in the table for a while.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
            made.remove(s)
print(opened, time.monotonic() - begun)
"""


def test_short_connections_are_bounded_by_their_rate(box: Sandbox) -> None:
    """However many are open at a time: what a sandbox has closed is kept by the table, and by the host."""
    box.write("/tmp/short.py", _SHORT)
    said = box.out(["python3", "/tmp/short.py", hosts.INTERNET4, str(PORT), "8"], timeoutMs=60_000)
    opened, seconds = map(float, said.split())
    print(f"\nshort connections: {opened:.0f} in {seconds:.1f} s")
    assert 500 < opened <= 2_000 + 100 * seconds + 100


_ASK = """
import socket, struct, sys, time
name, seconds = sys.argv[1], float(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((open("/etc/resolv.conf").read().split()[1], 53))
s.setblocking(False)
labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
question = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + labels + b"\\0\\0\\1\\0\\1"
begun, asked, answered, told = time.monotonic(), 0, 0, False
while time.monotonic() - begun < seconds:
    if not told and time.monotonic() - begun > 1:
        print("soaked", flush=True)
        told = True
    for _ in range(50):
        try:
            s.send(question)
            asked += 1
        except BlockingIOError:
            break
    try:
        while s.recv(2048):
            answered += 1
    except BlockingIOError:
        pass
print(asked, answered, time.monotonic() - begun, flush=True)
"""


@pytest.mark.parametrize("name", ["internet.example", hosts.SILENT])
def test_a_flood_of_questions_harms_itself_alone(world_api: Api, box: Sandbox, name: str) -> None:
    """Also of questions that nobody answers, which wait. The neighbour is answered at the first try, while it
    lasts; and no more of the flood is looked at than the rate says. Two flood, for the rate keeps one from
    taking all the room that there is for questions that wait."""
    neighbour, other = world_api.sandbox(), world_api.sandbox()
    try:
        neighbour.out("echo options attempts:1 timeout:4 >>/etc/resolv.conf")
        for one in (box, other):
            one.write("/tmp/flood.py", _ASK)
            one.request("POST", "/processes", {"command": f"python3 /tmp/flood.py {name} 12 >/tmp/said 2>&1"})
        for one in (box, other):
            one.out("until grep -q soaked /tmp/said; do sleep 0.05; done", timeoutMs=30_000)
        # All the time: how much room there is comes and goes with the questions that are given up.
        found = []
        while box.run("grep -Eq '^[0-9]' /tmp/said")["exitCode"]:
            found.append(neighbour.run("getent ahosts internet.example", timeoutMs=20_000)["exitCode"])
        asked, answered, seconds = map(float, box.out("tail -n 1 /tmp/said").split())
    finally:
        world_api.kill(neighbour.id)
        world_api.kill(other.id)
    print(f"\n{asked:.0f} questions for {name} in {seconds:.0f} s, {answered:.0f} answered")
    print(f"meanwhile the neighbour asked {len(found)} times, and was answered {found.count(0)} times")
    assert found.count(0) == len(found) > 0
    assert asked > 4_000
    assert answered <= 1.2 * (400 + 200 * seconds)


def test_a_packet_under_anothers_address_is_dropped(world: World, world_api: Api, box: Sandbox) -> None:
    """Any program may bind to an address that is not its host's, and with IPv6 send from it (IPV6_FREEBIND;
    IPv4 looks for the route back first). The answer would be somebody else's, who may have no network."""
    neighbour = world_api.sandbox(network={"mode": "off"})
    forged = f"""
import socket, sys
for source in (*[sys.argv[1]] * 10, "::"):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, 78, 1)
    s.bind((source, 0))
    s.settimeout(20)
    s.sendto(b"x", ({hosts.INTERNET6!r}, {PORT}))
print(s.recv(5))
"""
    try:
        address = neighbour.out("hostname -I").split()[1]
        assert "hello" in box.out(["python3", "-c", forged, address], timeoutMs=30_000)
    finally:
        world_api.kill(neighbour.id)
    assert world.hits("around") == [f"{hosts.INTERNET6}/udp"]  # the last, which is its own


# ---- last, for without the bounds it leaves pasta busy for a minute

_FILL = """
import socket, sys, time
address, port = sys.argv[1], int(sys.argv[2])
end = time.monotonic() + float(sys.argv[3])
tried = 0
while time.monotonic() < end:
    for offset in range(200):
        # As many as there can be: short connections, and packets to ever other ports.
        s = socket.socket(); s.setblocking(False); s.connect_ex((address, port)); s.close()
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            u.sendto(b"x", (address, 1024 + tried % 60_000))
        except OSError:
            pass
        u.close()
        tried += 2
    time.sleep(0.001)
print(tried)
"""


def _entries(pid: int) -> int:
    """In the connection table, which all sandboxes share."""
    return _kernels_word(pid, "nf_conntrack_count")


def _kernels_word(pid: int, name: str) -> int:
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "cat", f"/proc/sys/net/netfilter/{name}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_connection_table_is_not_filled_by_one(
    inhabitant: Inhabitant, world_api: Api, box: Sandbox
) -> None:
    """Whatever a sandbox sends, the table that all share holds a few thousand entries of it. Bites: without
    the bounds it is ten times that within the same seconds."""
    neighbour = world_api.sandbox()
    inside_network = inhabitant.process("nsbox-network")
    box.write("/tmp/fill.py", _FILL)
    fill = ["python3", "/tmp/fill.py", hosts.INTERNET4, str(PORT), "5"]
    try:
        before = _entries(inside_network)  # of floods that other tests have made
        tried = int(box.out(fill, timeoutMs=60_000))
        entries = _entries(inside_network) - before
        assert len(reached(neighbour, every_way([hosts.INTERNET4]))) == 3
        _nft(inside_network, "insert", "rule", "inet", "nsbox", "out", "accept")
        box.out(fill, timeoutMs=60_000)
        without = _entries(inside_network)
    finally:
        _start_again(inhabitant, inside_network, neighbour)
        world_api.kill(neighbour.id)
    print(f"\nconnection table: {tried} tried, {entries} entries; without the bounds {without}")
    assert tried > 10_000
    assert entries < 5_000
    keeps = {
        one: _kernels_word(inhabitant.process("nsbox-network"), f"nf_conntrack_tcp_timeout_{one}")
        for one in ("time_wait", "fin_wait", "close_wait", "last_ack")
    }
    assert keeps["time_wait"] == 10
    # No port is given to somebody else while pasta holds it for two hours, and for a minute.
    assert min(keeps["fin_wait"], keeps["close_wait"]) > 7_200
    assert keeps["last_ack"] > 60
    assert without > 2 * entries
