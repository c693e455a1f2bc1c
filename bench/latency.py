"""One client, one request at a time."""

from __future__ import annotations

import time

from bench.client import Client
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.probe import Effort, Probe, now_ms, sample, timed

_KIB = "x" * 1024
_FILE = "/tmp/bench"


def warm(daemon: Daemon, effort: Effort) -> list[Figure]:
    """With blanks in stock, as in a daemon's ordinary life."""
    client = daemon.client()
    sandbox = client.create()
    alive = 1 + daemon.pool
    client.run(sandbox, ["true"])
    client.write(sandbox, _FILE, _KIB)
    probes = [
        _simple("health", "GET /healthz: HTTP and nothing else", client.health, effort),
        _simple("get", "GET of a sandbox: HTTP, key, route", lambda: client.get(sandbox), effort),
        Probe(
            (
                Figure("create", "create, a blank in stock", target=Target(10)),
                Figure("first_output", "create → output of the first command", target=Target(15)),
                Figure("kill", "kill"),
                Figure("whole", "create, run a command, kill"),
            ),
            lambda: life(daemon, client, alive, effort.pause),
            max(5, effort.samples // 2),
        ),
        _simple(
            "exec_string", 'exec of "true" through a shell', lambda: client.run(sandbox, "true"), effort, 4
        ),
        _simple("exec_list", 'exec of ["true"]', lambda: client.run(sandbox, ["true"]), effort, 4),
        _simple("write_1k", "write a file of 1 KiB", lambda: client.write(sandbox, _FILE, _KIB), effort),
        _simple("read_1k", "read a file of 1 KiB", lambda: client.read(sandbox, _FILE), effort),
    ]
    if client.can_pause(sandbox):
        probes.append(
            Probe(
                (
                    Figure("pause", "pause: every process stands still", target=Target(3)),
                    Figure("resume", "resume", target=Target(3)),
                ),
                lambda: standstill(client, sandbox, effort.pause),
                effort.samples,
            )
        )
    figures = sample(probes, effort.rounds)
    client.kill(sandbox)
    client.close()
    return figures


def standstill(client: Client, sandbox: str, rest: float) -> tuple[float, ...]:
    """A pause and a resume, each alone, and a rest before the next: an ordinary sandbox has one."""
    begun = now_ms()
    client.pause(sandbox)
    paused = now_ms()
    client.resume(sandbox)
    resumed = now_ms()
    time.sleep(rest)
    return paused - begun, resumed - paused


def _simple(name: str, title: str, work: object, effort: Effort, bound: float | None = None) -> Probe:
    assert callable(work)
    figure = Figure(name, title, target=None if bound is None else Target(bound))
    return Probe((figure,), timed(work), effort.samples)


def empty(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Without blanks: what a create costs when more come than were prepared for."""
    client = daemon.client()
    # Even a pool of size 0 gets one blank at the start, which proves that the host can make any.
    client.kill(client.create())
    probe = Probe(
        (
            Figure("create_empty", "create, no blank in stock", target=Target(30)),
            Figure("first_output_empty", "create → output, no blank in stock"),
            Figure("kill_empty", "kill, no blank in stock"),
            Figure("whole_empty", "create, run a command, kill; no blank in stock"),
        ),
        lambda: life(daemon, client, 0, effort.pause),
        max(5, effort.samples // 2),
    )
    figures = sample([probe], effort.rounds)
    client.close()
    return figures


def life(daemon: Daemon, client: Client, inits: int, pause: float) -> tuple[float, ...]:
    """One sandbox: until it is made, until it was heard of, its end alone, the whole.

    First, without a clock, until the stock is as it should be, so that a create that was meant to be warm is
    not cold, nor one that was meant to be cold warm; and a pause, in which the kernel clears up after the
    last sandbox, as it has time to in a daemon's ordinary life.
    """
    daemon.wait_for_inits(inits)
    time.sleep(pause)
    begun = now_ms()
    sandbox = client.create()
    created = now_ms()
    client.run(sandbox, ["echo", "here"], b'"stdout":"here\\n"')
    heard = now_ms()
    client.kill(sandbox)
    ended = now_ms()
    return created - begun, heard - begun, ended - heard, ended - begun
