"""A world of test hosts, in network namespaces: what a daemon under test has for an outside.

    neighbour ── lan ── daemon's host ── router ── internet, metadata, private hosts, a name server

The daemon is started in the namespace ``host``. Made with ip(8), as root, and removed again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from typing import Any

from nsbox.kernel import libc
from tests.e2e.daemon import Daemon

#: The host's addresses; the first network is the LAN that it is on.
HOST4, HOST6 = "192.168.77.2", "fd77::2"
ROUTER4, ROUTER6 = "192.168.77.1", "fd77::1"
#: A second interface of the host, with a public address.
HOST_PUBLIC4, HOST_PUBLIC6 = "11.7.7.7", "2a0a:7::7"
NEIGHBOUR4, NEIGHBOUR6 = "192.168.77.9", "fd77::9"
INTERNET4, INTERNET6 = "11.22.33.44", "2a0a:1234::44"
#: A second host of the internet, which no name leads to.
OTHER4, OTHER6 = "11.22.33.45", "2a0a:1234::45"
METADATA4, METADATA6 = "169.254.169.254", "fd00:ec2::254"
RESOLVER4 = "192.168.77.53"
PRIVATE4 = ("10.1.2.3", "172.16.5.4", "100.64.1.1", "198.18.0.9", "192.0.0.9")
PRIVATE6 = ("fc00:1::1", "fec0::1", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:1::1", "100::7")
#: What listens everywhere: this port, TCP and UDP.
PORT = 8099
NAMES = {
    "internet.example": (INTERNET4, INTERNET6),
    "www.internet.example": (OTHER4, OTHER6),
    "rebind.example": (METADATA4, METADATA6),
    "lan.example": (NEIGHBOUR4, NEIGHBOUR6),
    "loop.example": ("127.0.0.1", "::ffff:169.254.169.254"),
}
#: A name that is never answered.
SILENT = "silent.example"
#: What ``turns.example`` answers, first, second and from then on: of each family on its own.
REBOUND = ((INTERNET4, INTERNET6), (METADATA4, METADATA6), (NEIGHBOUR4, NEIGHBOUR6))

_HITS = """
import collections, contextlib, resource, select, socket, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
port, log = int(sys.argv[1]), sys.argv[2]
sockets = []
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    one = socket.socket(socket.AF_INET6, kind)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        one.listen(512)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sockets.append(one)
print("ready", flush=True)
kept = collections.deque(maxlen=min(20_000, most - 100))
while True:
    for one in select.select(sockets, [], [])[0]:
        if one.type == socket.SOCK_STREAM:
            client, address = one.accept()
            where = client.getsockname()[0]
            with contextlib.suppress(OSError):  # it may be gone already
                client.send(b"hello")
            kept.append(client)
        else:
            data, ancillary, _, address = one.recvmsg(2048, 256)
            where = socket.inet_ntop(socket.AF_INET6, ancillary[0][2][:16]) + "/udp"
            # From the address that was asked: a wildcard socket would answer from that of the route back.
            source = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, ancillary[0][2][:16] + bytes(4))
            one.sendmsg([b"hello"], [source], 0, address)
        with open(log, "a") as file:
            file.write(f"{where}\\n")
"""


def _ip(*words: str, namespace: str | None = None) -> None:
    inside = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *inside, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join([*inside, *words])}: {done.stderr}")


class World:
    """The namespaces ``host`` and ``around``: the second plays everybody else."""

    def __init__(self, folder: str) -> None:
        mark = f"nsbox{os.getpid()}"
        self.host, self.around = f"{mark}h", f"{mark}a"
        self.folder = folder
        self._children: list[subprocess.Popen[Any]] = []

    def make(self) -> None:
        for one in (self.host, self.around):
            _ip("netns", "add", one)
            _ip("link", "set", "lo", "up", namespace=one)
        _ip(
            "link",
            "add",
            "lan",
            "type",
            "veth",
            "peer",
            "name",
            "lan",
            "netns",
            self.around,
            namespace=self.host,
        )
        _ip(
            "link",
            "add",
            "wan",
            "type",
            "veth",
            "peer",
            "name",
            "wan",
            "netns",
            self.around,
            namespace=self.host,
        )
        for name, here in (
            ("lan", ((HOST4, 24), (HOST6, 64))),
            ("wan", ((HOST_PUBLIC4, 24), (HOST_PUBLIC6, 64))),
        ):
            for address, length in here:
                self._address(self.host, name, f"{address}/{length}")
            _ip("link", "set", name, "up", namespace=self.host)
            _ip("link", "set", name, "up", namespace=self.around)
        for address in (
            f"{ROUTER4}/24",
            f"{RESOLVER4}/24",
            f"{NEIGHBOUR4}/24",
            f"{ROUTER6}/64",
            f"{NEIGHBOUR6}/64",
        ):
            self._address(self.around, "lan", address)
        far = (INTERNET4, OTHER4, METADATA4, *PRIVATE4, INTERNET6, OTHER6, METADATA6, *PRIVATE6)
        for address in far:
            self._address(self.around, "lo", f"{address}/{128 if ':' in address else 32}")
        self._address(self.around, "wan", "11.7.7.1/24")
        _ip("route", "add", "default", "via", ROUTER4, namespace=self.host)
        _ip("-6", "route", "add", "default", "via", ROUTER6, "dev", "lan", namespace=self.host)
        os.makedirs(f"/etc/netns/{self.host}", exist_ok=True)
        with open(f"/etc/netns/{self.host}/resolv.conf", "w", encoding="ascii") as file:
            file.write(f"nameserver {RESOLVER4}\n")
        # As systemd leaves it on a real host: pasta pings for those inside by ping sockets.
        subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                self.host,
                "sh",
                "-c",
                "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range",
            ],
            check=True,
        )
        for namespace, name in ((self.around, "around"), (self.host, "host")):
            self._listen(namespace, name)
        threading.Thread(target=self._resolve, args=[self._dns_socket()], daemon=True).start()

    @staticmethod
    def _address(namespace: str, device: str, address: str) -> None:
        more = ["nodad"] if ":" in address else []
        _ip("addr", "add", address, "dev", device, *more, namespace=namespace)

    def _listen(self, namespace: str, name: str) -> None:
        child = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                namespace,
                sys.executable,
                "-c",
                textwrap.dedent(_HITS),
                str(PORT),
                self.log(name),
            ],
            stdout=subprocess.PIPE,
        )
        self._children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"

    def log(self, name: str) -> str:
        return f"{self.folder}/{name}.hits"

    def hits(self, name: str) -> list[str]:
        """Who of these was reached, since ``forget``."""
        try:
            with open(self.log(name), encoding="ascii") as file:
                return file.read().split()
        except FileNotFoundError:
            return []

    def forget(self) -> None:
        for name in ("around", "host"):
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self.log(name), 0)

    def enter(self, namespace: str) -> int:
        return os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)

    def _dns_socket(self) -> socket.socket:
        """Made by a thread that is in the namespace, and ends there."""
        made: list[socket.socket] = []

        def work() -> None:
            descriptor = self.enter(self.around)
            libc.setns(descriptor, libc.CLONE_NEWNET)
            os.close(descriptor)
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind((RESOLVER4, 53))
            made.append(one)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return made[0]

    @staticmethod
    def _resolve(server: socket.socket) -> None:
        """A name server that answers with whatever NAMES says: also with what is inside."""
        turns = {1: 0, 28: 0}
        while True:
            try:
                query, client = server.recvfrom(2048)
            except OSError:
                return
            labels, offset = [], 12
            while query[offset]:
                labels.append(query[offset + 1 : offset + 1 + query[offset]].decode().lower())
                offset += query[offset] + 1
            kind = int.from_bytes(query[offset + 1 : offset + 3], "big")
            question = query[12 : offset + 5]
            name = ".".join(labels)
            if name == SILENT:
                continue
            known = NAMES.get(name)
            if name == "turns.example" and kind in turns:
                known = REBOUND[min(turns[kind], len(REBOUND) - 1)]
                turns[kind] += 1
            data = b""
            if known and kind in (1, 28):
                family, text = (socket.AF_INET, known[0]) if kind == 1 else (socket.AF_INET6, known[1])
                data = socket.inet_pton(family, text)
            record = (
                b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\5" + len(data).to_bytes(2, "big") + data
            )
            flags = b"\x81\x80" if known else b"\x81\x83"
            counts = b"\0\1" + (b"\0\1" if data else b"\0\0") + b"\0\0\0\0"
            server.sendto(query[:2] + flags + counts + question + (record if data else b""), client)

    def remove(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        for one in (self.host, self.around):
            subprocess.run(["ip", "netns", "del", one], check=False, capture_output=True)
        shutil.rmtree(f"/etc/netns/{self.host}", ignore_errors=True)


class WorldDaemon(Daemon):
    """A daemon whose host is the namespace ``host``. Clients reach it by that host's loopback."""

    world: World

    def command(self, *more: str) -> list[str]:
        return ["ip", "netns", "exec", self.world.host, *super().command("--host", HOST_PUBLIC4, *more)]
