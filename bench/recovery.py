"""How long nobody is answered when the API process is killed, with many sandboxes to be taken over."""

from __future__ import annotations

import os
import signal
import time

from bench import load, proc
from bench.client import Client, RefusedError
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.probe import Effort, now_ms

COUNT = 500
_BOUND_MS = 2_000.0
_PATIENCE = 60.0


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """``kill -9`` of api; from that moment until all are listed as running, and until a command has run in
    the last of them. Started again and connected to, api adopts each sandbox first."""
    client = daemon.client()
    sandboxes = [client.create() for _ in range(COUNT)]
    client.run(sandboxes[-1], ["true"])
    client.close()
    listed = Figure(
        "recovery_listed",
        f"api killed: until all {COUNT} sandboxes are answered for",
        "ms",
        Target(_BOUND_MS),
    )
    runs = Figure("recovery_runs", "api killed: until a command has run in the last of them")
    for _ in range(max(2, effort.rounds)):
        time.sleep(1.5)  # a young process that dies is started again later and later
        pressure = proc.Pressure()
        begun = now_ms()
        os.kill(_api(daemon), signal.SIGKILL)
        client = _until_all_run(daemon)
        all_there = now_ms()
        client.run(sandboxes[-1], ["true"])
        waiting, busy = pressure.share(), proc.load()
        listed.add([all_there - begun], waiting, busy)
        runs.add([now_ms() - begun], waiting, busy)
        client.close()
    client = daemon.client()
    load.kill_all(client, sandboxes)
    client.close()
    return [listed, runs]


def _api(daemon: Daemon) -> int:
    family = {proc.name_of(pid): pid for pid in proc.children(daemon.supervisor)}
    return family["nsbox-api"]


def _until_all_run(daemon: Daemon) -> Client:
    deadline = time.monotonic() + _PATIENCE
    while True:
        client = None
        try:
            # The supervisor holds the listening socket: who connects now waits for the next api.
            client = daemon.client()
            found = client.ask("GET", "/sandboxes")
            if sum(one["status"] == "running" for one in found) == COUNT:
                return client
        except (OSError, RefusedError):
            pass  # what was queued at the one that died is cut off
        if client is not None:
            client.close()
        if time.monotonic() > deadline:
            raise RefusedError(f"not all {COUNT} sandboxes are there after {_PATIENCE:.0f} s")
        time.sleep(0.005)
