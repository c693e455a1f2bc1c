"""What the network adds to a create, and how fast packets leave: beside the host itself and podman."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import outside, rivals
from bench.account import Who
from bench.client import Client
from bench.daemon import Daemon, running
from bench.figures import Figure, Target
from bench.probe import Effort, Probe, now_ms, sample
from nsbox.model.errors import HostProblem

_PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer.py")
_PORT = 8099
_SIZE = 256 << 20
_PATIENCE = 15.0
_DIRECTIONS = ("down", "up")

#: Transfers so many bytes in a direction; MiB a second.
_Transfer = Callable[[str], float]


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Creates with this daemon and with one that gives no links; then transfers, with one beside a host."""
    with running(daemon.who, daemon.pool, {"NSBOX_NETWORK": "off"}) as without:
        figures = _creates(daemon, without, effort)
    try:
        return figures + _egress(daemon, effort)
    except HostProblem as problem:
        failed = Figure("egress", "egress")
        failed.missing = str(problem)
        return [*figures, failed]


# ---- creates


def _creates(on: Daemon, off: Daemon, effort: Effort) -> list[Figure]:
    """One after the other, in turn, each from a full stock; added is the difference of neighbours."""
    clients = (on.client(), off.client())
    figures = (
        Figure("network_create_on", "create, a blank in stock, with the network"),
        Figure("network_create_off", "the same without"),
        Figure("network_added", "added by the network", target=Target(1)),
    )

    def once() -> tuple[float, ...]:
        times = [_create(*one, effort.pause) for one in zip((on, off), clients, strict=True)]
        return (*times, times[0] - times[1])

    found = sample([Probe(figures, once, effort.samples)], effort.rounds)
    for client in clients:
        client.close()
    return found


def _create(daemon: Daemon, client: Client, pause: float) -> float:
    daemon.wait_for_inits(daemon.pool)
    time.sleep(pause)
    begun = now_ms()
    sandbox = client.create()
    took = now_ms() - begun
    client.kill(sandbox)
    return took


# ---- egress


def _egress(daemon: Daemon, effort: Effort) -> list[Figure]:
    with outside.there() as far, _served(far), running(daemon.who, 1) as one:
        client = one.client()
        sandbox = _with_a_way_out(client)
        ways: dict[str, _Transfer] = {
            "host": lambda direction: _printed([sys.executable, "-I", _PEER, *_order(direction)]),
            "nsbox": _in_a_sandbox(client, sandbox),
        }
        with (
            tempfile.TemporaryDirectory(prefix="nsbox-egress-", dir="/var/tmp") as work,
            _podman(daemon.who, one.layer, work) as podman,
        ):
            if not isinstance(podman, str):
                ways["podman"] = podman
            found = [figure for direction in _DIRECTIONS for figure in _transfers(direction, ways, effort)]
        client.kill(sandbox)
        client.close()
    if isinstance(podman, str):
        missing = Figure("egress_podman", "egress of rootless podman", unit="MiB/s")
        missing.missing = podman
        found.append(missing)
    return found


def _transfers(direction: str, ways: dict[str, _Transfer], effort: Effort) -> list[Figure]:
    said = "from" if direction == "down" else "to"
    figures = tuple(
        Figure(f"egress_{direction}_{name}", f"256 MiB {said} outside, {name}", unit="MiB/s") for name in ways
    )
    probe = Probe(
        figures, lambda: tuple(way(direction) for way in ways.values()), max(3, effort.samples // 8)
    )
    return sample([probe], effort.rounds)


def _order(direction: str) -> list[str]:
    return [direction, outside.ADDRESS, str(_PORT), str(_SIZE)]


def _printed(command: list[str], **more: Any) -> float:
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 150, **more}
    done = subprocess.run(command, check=False, **options)
    if done.returncode:
        raise HostProblem(f"{command[0]}: {done.stderr.strip()[-200:]}")
    return float(done.stdout)


@contextlib.contextmanager
def _served(far: str) -> Iterator[None]:
    command = ["ip", "netns", "exec", far, sys.executable, "-I", _PEER, "serve", outside.ADDRESS, str(_PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise HostProblem("the host to reach does not serve")
            yield
        finally:
            server.kill()


def _with_a_way_out(client: Client) -> str:
    deadline = time.monotonic() + _PATIENCE
    sandbox = client.create()
    while not (network := client.get(sandbox)["network"])["enforced"]:
        if time.monotonic() > deadline:
            raise HostProblem(f"sandboxes have no way out: {network.get('reason')}")
        time.sleep(0.1)
    return sandbox


def _in_a_sandbox(client: Client, sandbox: str) -> _Transfer:
    with open(_PEER, encoding="utf-8") as file:
        client.write(sandbox, "/tmp/peer.py", file.read())

    def transfer(direction: str) -> float:
        command = ["python3", "/tmp/peer.py", *_order(direction)]
        order = {"command": command, "timeoutMs": 120_000}
        answer = client.ask("POST", f"/sandboxes/{sandbox}/exec", order)
        if direction == "up" and "ConnectionResetError" in answer["stderr"]:
            return 0.0  # pasta gave it up: docs/adr/0048, uploads to hosts on the same machine
        if answer["exitCode"] != 0:
            raise HostProblem(f"a transfer {answer['outcome']}: {answer['stderr'][-200:]}")
        return float(answer["stdout"])

    return transfer


@contextlib.contextmanager
def _podman(who: Who, layer: str, work: str) -> Iterator[_Transfer | str]:
    """A container for each transfer, with the network that podman gives by itself; or why there is none."""
    if shutil.which("podman") is None:
        yield "podman is not installed"
        return
    os.chmod(work, 0o711)
    for name in ("home", "run"):
        os.mkdir(f"{work}/{name}", 0o700)
        os.chown(f"{work}/{name}", who.uid, who.gid)
    with open(_PEER, encoding="utf-8") as file:
        peer = file.read()
    podman = ["podman", "--cgroup-manager=cgroupfs", f"--root={work}/home/storage", f"--runroot={work}/run/r"]
    base = [
        *podman, "run", "--rm", "--cgroups=disabled", "--rootfs", f"{layer}:O", "python3", "-c", peer,
    ]  # fmt: skip
    environment = who._replace(home=f"{work}/home").environment(f"{work}/run")

    def transfer(direction: str) -> float:
        command, identity = [*base, *_order(direction)], who.identity
        if who.by_root and rivals.both_cgroups():
            command, identity = rivals.in_private_cgroups(command, who), {}
        return _printed(command, env=environment, cwd=work, **identity)

    way: _Transfer | str = transfer
    try:
        transfer("down")
    except (HostProblem, OSError, ValueError, subprocess.SubprocessError) as error:
        way = f"podman: {error}"
    try:
        yield way
    finally:
        # Without root podman leaves a process behind that holds its user namespace; this command ends it.
        subprocess.run(
            [*podman, "system", "migrate"], env=environment, cwd=work, check=False, timeout=60,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who.identity,
        )  # fmt: skip
