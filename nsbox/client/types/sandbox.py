"""Sandboxes, what limits them, what they use, and how they reach the network."""

from __future__ import annotations

from datetime import datetime

from nsbox.client.types.base import Answered


class Storage(Answered, frozen=True):
    """What really holds of ``storage_mb``."""

    backend: str
    storage_mb: float
    inodes: int | None = None
    full: bool = False


class EnforcedLimits(Answered, frozen=True):
    """Which limits hold on this host, by their names."""

    enforced: tuple[str, ...] = ()
    not_enforced: tuple[str, ...] = ()
    storage: Storage | None = None


class OutOfMemory(Answered, frozen=True):
    """How often the kernel ended something for lack of memory."""

    kills: int = 0
    last_at: datetime | None = None


class AutoPause(Answered, frozen=True):
    """Pause after ``idle_ms`` without a command, a file request or a connection."""

    idle_ms: int
    ignore_processes: bool = False


class Network(Answered, frozen=True):
    """What a sandbox may reach. ``enforced`` is false, with a ``reason``, while nothing gets out at all."""

    mode: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ports: tuple[int | str, ...] = ()
    enforced: bool = True
    reason: str | None = None


class SandboxInfo(Answered, frozen=True):
    """A sandbox as it was when nsbox was asked."""

    id: str
    status: str
    vcpus: int
    memory_mb: int
    storage_mb: int
    timeout_ms: int
    template_id: str
    created_at: datetime
    region: str = "local"
    expires_at: datetime | None = None
    remaining_ms: int | None = None
    limits: EnforcedLimits = EnforcedLimits()
    oom: OutOfMemory = OutOfMemory()
    auto_pause: AutoPause | None = None
    on_expiry: str = "kill"
    auto_resume: bool = False
    network: Network | None = None
    snapshot_id: str | None = None
    forked_from: str | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None


class Status(Answered, frozen=True):
    """The answer to a change: only what it is about is there."""

    id: str
    status: str
    timeout_ms: int | None = None
    expires_at: datetime | None = None
    remaining_ms: int | None = None
    reclaimed_bytes: int | None = None
    auto_pause: AutoPause | None = None
    on_expiry: str | None = None
    auto_resume: bool | None = None


class NetworkRefusal(Answered, frozen=True):
    """One connection or name that was refused."""

    at: datetime
    reason: str
    protocol: str | None = None
    address: str | None = None
    port: int | None = None
    name: str | None = None


class NetworkLog(Answered, frozen=True):
    """What was refused, oldest first."""

    entries: tuple[NetworkRefusal, ...]


class CpuUse(Answered, frozen=True):
    """Processor time since the start; ``percent`` since the sample before, 100 for one processor."""

    used_ms: int | None = None
    throttled_ms: int | None = None
    percent: float | None = None


class MemoryUse(Answered, frozen=True):
    """Bytes."""

    bytes: int | None = None
    peak_bytes: int | None = None
    swap_bytes: int | None = None


class IoUse(Answered, frozen=True):
    """Bytes since the start."""

    read_bytes: int | None = None
    written_bytes: int | None = None


class NetworkUse(Answered, frozen=True):
    """Bytes since the start."""

    received_bytes: int | None = None
    sent_bytes: int | None = None


class DiskUse(Answered, frozen=True):
    """What a sandbox has written."""

    bytes: int | None = None
    inodes: int | None = None


class Sample(Answered, frozen=True):
    """What a sandbox uses at one moment. What the host cannot tell is None."""

    at: datetime
    cpu: CpuUse = CpuUse()
    memory: MemoryUse = MemoryUse()
    io: IoUse = IoUse()
    processes: int | None = None
    network: NetworkUse | None = None
    disk: DiskUse | None = None


class Metrics(Answered, frozen=True):
    """Now, and the last hour."""

    id: str
    status: str
    now: Sample
    history: tuple[Sample, ...] = ()


class Port(Answered, frozen=True):
    """An exposed port. ``listening`` only where it was waited for."""

    port: int
    url: str
    protocol: str = "http"
    public: bool = True
    host_port: int | None = None
    listening: bool | None = None


class Link(Answered, frozen=True):
    """A signed address of a port that is not public."""

    url: str
    expires_at: datetime


class ClosedPort(Answered, frozen=True):
    """A port that is exposed no longer."""

    port: int
    deleted: bool = True
