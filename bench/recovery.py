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
#: One that dies younger than this is started again later and later, in seconds.
_YOUTH = 31.0


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """``kill -9`` of api; from that moment until all are listed as running, and until a command has run in
    the last of them. Started again and connected to, api adopts each sandbox first."""
    few = Figure("recovery_one", "api killed: until its one sandbox is answered for")
    listed = Figure(
        "recovery_listed",
        f"api killed: until all {COUNT} sandboxes are answered for",
        "ms",
        Target(_BOUND_MS),
    )
    runs = Figure("recovery_runs", "api killed: until a command has run in the last of them")
    client = daemon.client()
    sandboxes = [client.create()]
    client.close()
    _kill(daemon, sandboxes, few, None)
    client = daemon.client()
    sandboxes += [client.create() for _ in range(COUNT - 1)]
    client.run(sandboxes[-1], ["true"])
    client.close()
    for _ in range(min(3, effort.rounds)):
        _kill(daemon, sandboxes, listed, runs)
    client = daemon.client()
    load.kill_all(client, sandboxes)
    client.close()
    return [few, listed, runs]


def _kill(daemon: Daemon, sandboxes: list[str], listed: Figure, runs: Figure | None) -> None:
    time.sleep(_YOUTH)
    pressure = proc.Pressure()
    begun = now_ms()
    os.kill(_api(daemon), signal.SIGKILL)
    client = _until_all_run(daemon, len(sandboxes))
    all_there = now_ms()
    client.run(sandboxes[-1], ["true"])
    done, waiting, busy = now_ms(), pressure.share(), proc.load()
    listed.add([all_there - begun], waiting, busy)
    if runs is not None:
        runs.add([done - begun], waiting, busy)
    client.close()


def _api(daemon: Daemon) -> int:
    family = {proc.name_of(pid): pid for pid in proc.children(daemon.supervisor)}
    return family["nsbox-api"]


def _until_all_run(daemon: Daemon, count: int) -> Client:
    deadline = time.monotonic() + _PATIENCE
    while True:
        client = None
        try:
            # The supervisor holds the listening socket: who connects now waits for the next api.
            client = daemon.client()
            found = client.ask("GET", "/sandboxes")
            if sum(one["status"] == "running" for one in found) == count:
                return client
        except (OSError, RefusedError):
            pass  # what was queued at the one that died is cut off
        if client is not None:
            client.close()
        if time.monotonic() > deadline:
            raise RefusedError(f"not all {count} sandboxes are there after {_PATIENCE:.0f} s")
        time.sleep(0.005)
