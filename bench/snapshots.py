"""Snapshots and forks of a sandbox with 1,000 changed files."""

from __future__ import annotations

import time

from bench.client import Client, RefusedError
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.probe import Effort, Probe, now_ms, sample

FILES = 1_000
_FORKS = 4
#: Of the sizes that source code has: 4,000 bytes each, in 20 folders.
_FILL = f"""
import os
for number in range({FILES}):
    os.makedirs(f"/work/{{number % 20}}", exist_ok=True)
    with open(f"/work/{{number % 20}}/{{number}}", "wb") as file:
        file.write(os.urandom(4000))
"""


class _Kept:
    """What was made stays until the end: ext4 without a journal, which this may run on, looks for inodes
    longer and longer after many were freed (``recently_deleted``), and that would be measured."""

    def __init__(self, daemon: Daemon, client: Client, effort: Effort) -> None:
        self._daemon, self._client, self._effort = daemon, client, effort
        self.sandboxes = [client.create(), client.create()]
        self._snapshots: list[str] = []

    def snapshot(self, sandbox: str) -> float:
        time.sleep(self._effort.pause)
        begun = now_ms()
        made = self._client.ask("POST", f"/sandboxes/{sandbox}/snapshots", {})
        taken = now_ms() - begun
        self._snapshots.append(made["id"])
        return taken

    def fork(self, sandbox: str, count: int) -> float:
        self._daemon.wait_for_inits(len(self.sandboxes) + self._daemon.pool)
        time.sleep(self._effort.pause)
        begun = now_ms()
        made = self._client.ask("POST", f"/sandboxes/{sandbox}/fork", {"count": count})
        taken = (now_ms() - begun) / count
        self.sandboxes += [one["id"] for one in made["sandboxes"]]
        return taken

    def diff(self, sandbox: str) -> float:
        begun = now_ms()
        found = self._client.ask("GET", f"/sandboxes/{sandbox}/diff?limit=2000")
        taken = now_ms() - begun
        if len(found["changes"]) < FILES:
            raise RefusedError("the diff does not have all files")
        return taken

    def remove(self) -> None:
        for sandbox in self.sandboxes:
            self._client.kill(sandbox)
        for snapshot in self._snapshots:
            self._client.ask("DELETE", f"/snapshots/{snapshot}")


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """The sandbox stands still for most of a snapshot's time."""
    client = daemon.client()
    kept = _Kept(daemon, client, effort)
    empty, full = kept.sandboxes
    client.run(full, ["python3", "-c", _FILL])
    title = f"of a sandbox with {FILES:,} changed files"
    probes = [
        Probe(
            (
                Figure("snapshot_empty", "snapshot of a sandbox with nothing changed"),
                Figure("snapshot_1000", f"snapshot {title}", target=Target(100)),
                Figure("diff_1000", f"diff {title}"),
            ),
            lambda: (kept.snapshot(empty), kept.snapshot(full), kept.diff(full)),
            max(3, effort.samples // 5),  # 100 is the most that one may keep
        ),
        Probe(
            (
                Figure("fork_1", f"fork {title}, one copy", target=Target(50)),
                Figure("fork_many", f"fork {title}, {_FORKS} copies, each", target=Target(50)),
            ),
            lambda: (kept.fork(full, 1), kept.fork(full, _FORKS)),
            max(3, effort.samples // 8),
        ),
    ]
    found = sample(probes, effort.rounds)
    kept.remove()
    client.close()
    return found
