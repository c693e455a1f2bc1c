"""Many clients at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bench import proc
from bench.client import Client, RefusedError
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.probe import Effort, now_ms

_T = TypeVar("_T")
CLIENTS = 16


def burst(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Many creates at the same moment, each on a connection of its own."""
    count = effort.crowd
    made = Figure(
        f"burst_{count}_made", f"{count} creates at once: sandboxes that run", "", Target(count, True)
    )
    wall = Figure(f"burst_{count}_wall", f"{count} creates at once: until the last one")
    each = Figure(f"burst_{count}_each", f"{count} creates at once: each")
    for _ in range(max(1, effort.rounds // 2)):
        daemon.wait_for_inits(daemon.pool)
        clients = [daemon.client() for _ in range(count)]
        pressure = proc.Pressure()
        begun = now_ms()
        answers = [(*told, at - begun) for told, at in together(clients, lambda one: (_tried(one), now_ms()))]
        waiting, load = pressure.share(), proc.load()
        running = [sandbox for sandbox, _, _ in answers if sandbox]
        made.add([len(running)], waiting, load)
        wall.add([max(at for _, _, at in answers)], waiting, load)
        each.add([at for _, _, at in answers], waiting, load)
        made.note = next((refusal for _, refusal, _ in answers if refusal), "")
        kill_all(clients[0], running)
        for client in clients:
            client.close()
    return [made, wall, each]


def _tried(client: Client) -> tuple[str, str]:
    """A sandbox that says it is running, or why there is none."""
    try:
        sandbox = client.create()
        client.run(sandbox, ["true"])
        return sandbox, ""
    except (RefusedError, OSError) as error:
        return "", str(error)


def throughput(daemon: Daemon, effort: Effort) -> list[Figure]:
    """How much gets done when many clients never pause. What these clients cost is in it: same host."""
    clients = [daemon.client() for _ in range(CLIENTS)]
    sandboxes = dict(zip(clients, together(clients, Client.create), strict=True))
    execs = Figure("execs_16", f'exec of ["true"] by {CLIENTS} clients', "/s")
    exec_each = Figure("execs_16_each", f'exec of ["true"] by {CLIENTS} clients: each')
    lives = Figure("creates_kills_16", f"create and kill by {CLIENTS} clients", "/s")
    life_each = Figure("creates_kills_16_each", f"create and kill by {CLIENTS} clients: each pair")
    for _ in range(max(1, effort.rounds // 2)):
        _flood(clients, lambda client: client.run(sandboxes[client], ["true"]), effort, execs, exec_each)
        _flood(clients, lambda client: client.kill(client.create()), effort, lives, life_each)
    for client in clients:
        client.kill(sandboxes[client])
        client.close()
    return [execs, exec_each, lives, life_each]


def _flood(
    clients: Sequence[Client], work: Callable[[Client], None], effort: Effort, rate: Figure, each: Figure
) -> None:
    pressure = proc.Pressure()
    begun = time.perf_counter()
    until = begun + effort.seconds

    def repeat(client: Client) -> list[float]:
        times = []
        while time.perf_counter() < until:
            start = now_ms()
            work(client)
            times.append(now_ms() - start)
        return times

    times = [one for many in together(clients, repeat) for one in many]
    seconds = time.perf_counter() - begun
    waiting, load = pressure.share(), proc.load()
    rate.add([len(times) / seconds], waiting, load)
    each.add(times, waiting, load)


def together(clients: Sequence[Client], work: Callable[[Client], _T]) -> list[_T]:
    """``work`` for every client, in as many threads, begun together."""
    gate = threading.Barrier(len(clients))

    def one(client: Client) -> _T:
        gate.wait()
        return work(client)

    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(one, clients))


def kill_all(client: Client, sandboxes: Sequence[str]) -> None:
    for sandbox in sandboxes:
        client.kill(sandbox)
