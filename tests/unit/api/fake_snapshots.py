"""Snapshots, differences and exports in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from nsbox.model.errors import Code, Problem
from nsbox.model.network import NetworkPolicy
from nsbox.model.request import Request
from nsbox.model.sandbox import Limits, Sandbox, SandboxSpec, Template
from nsbox.model.snapshot import Change, Cut, Kind, Snapshot, Standstill
from nsbox.oci.snapshots.orders import Changes

NOON = 1_773_403_200.0  # 2026-03-13T12:00:00Z


class Records(Protocol):
    """The fake sandboxes."""

    async def get(self, owner: str, sandbox_id: str) -> Sandbox: ...


SNAPSHOT = Snapshot(
    id="snap_one",
    owner="admin",
    name="",
    sandbox="sb_one",
    layer="s-1",
    base=Template(name="default", layers=("s-1", "default-1")),
    limits=Limits(vcpus=2, memory_mb=768, storage_mb=128, pids=512),
    timeout_ms=120_000,
    network=NetworkPolicy(),
    created_at=NOON,
    boot_id="b",
    cut=Cut(entries=3, bytes=5, skipped=0, dropped=0, changed=0, cloned=0),
    standstill=Standstill.FROZEN,
)


class FakeSnapshots:
    """Snapshots in a dictionary; ``forked`` are the wishes of forks."""

    def __init__(self, sandboxes: Records) -> None:
        self._sandboxes = sandboxes
        self.records: dict[str, Snapshot] = {}
        self.forked: list[tuple[int, SandboxSpec]] = []
        self.requests: list[Request | None] = []
        self.must_stand: list[bool] = []

    def get(self, owner: str, snapshot_id: str) -> Snapshot:
        record = self.records.get(snapshot_id)
        if record is None or record.owner != owner:
            raise Problem(Code.SNAPSHOT_NOT_FOUND, "no")
        return record

    def of_owner(self, owner: str) -> list[Snapshot]:
        return [record for record in self.records.values() if record.owner == owner]

    async def of_sandbox(self, owner: str, sandbox_id: str) -> list[Snapshot]:
        await self._sandboxes.get(owner, sandbox_id)
        return [record for record in self.of_owner(owner) if record.sandbox == sandbox_id]

    def is_durable(self, record: Snapshot) -> bool:
        return True

    async def take(
        self, owner: str, sandbox_id: str, name: str, *, must_stand: bool, request: Request | None = None
    ) -> Snapshot:
        await self._sandboxes.get(owner, sandbox_id)
        self.must_stand.append(must_stand)
        self.requests.append(request)
        record = msgspec.structs.replace(SNAPSHOT, owner=owner, sandbox=sandbox_id, name=name)
        self.records[record.id] = record
        return record

    async def fork(
        self, owner: str, sandbox_id: str, count: int, spec: SandboxSpec, request: Request | None = None
    ) -> tuple[list[Sandbox], Snapshot]:
        record = await self._sandboxes.get(owner, sandbox_id)
        self.forked.append((count, spec))
        self.requests.append(request)
        return [record] * count, SNAPSHOT

    async def remove(self, owner: str, snapshot_id: str) -> Snapshot:
        self.get(owner, snapshot_id)
        return self.records.pop(snapshot_id)


class FakeDifferences:
    """Always the same page; ``asked`` is what was asked for."""

    def __init__(self, sandboxes: Records) -> None:
        self._sandboxes = sandboxes
        self.asked: list[tuple[str, int]] = []
        change = Change(
            path="b2RkIP8=", kind=Kind.ADDED, type="file", size=1, mode=0o644, uid=0, gid=0, mtime=NOON
        )
        self.page = Changes(changes=(change,), after="b2Rk")

    async def of_sandbox(self, owner: str, sandbox_id: str, behind: str, limit: int) -> Changes:
        await self._sandboxes.get(owner, sandbox_id)
        self.asked.append((behind, limit))
        return self.page

    async def of_snapshot(self, record: Snapshot, behind: str, limit: int) -> Changes:
        self.asked.append((behind, limit))
        return self.page


class FakeExports:
    """``pieces``, and then ``problem`` if there is one."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = [b"one", b"two"]
        self.problem: Problem | None = None
        self.asked: list[tuple[str, bool]] = []

    @asynccontextmanager
    async def snapshot(
        self, record: Snapshot, *, layout: bool
    ) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        self.asked.append((record.id, layout))
        yield self._given()

    @asynccontextmanager
    async def image(self, name: str, *, layout: bool) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        self.asked.append((name, layout))
        yield self._given()

    async def _given(self) -> AsyncGenerator[bytes, None]:
        for piece in self.pieces:
            yield piece
        if self.problem is not None:
            raise self.problem
