"""The types of answers. ``views`` makes values of them, mypy holds it to them, and the OpenAPI document is
generated from them. Members are in the order they are sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias, TypedDict

from msgspec import Meta

from nsbox.model.account import Role, Scope
from nsbox.model.audit import Outcome as AuditOutcome
from nsbox.model.image import Stage
from nsbox.model.lifecycle import EndReason, State
from nsbox.model.network import NetworkMode
from nsbox.model.ports import Protocol
from nsbox.model.sandbox import Backend, Encoding, FileType, Outcome
from nsbox.model.snapshot import Kind, Standstill
from nsbox.model.standby import OnExpiry

Time: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
SandboxId: TypeAlias = Annotated[str, Meta(extra_json_schema={"pattern": "^sb_[a-z2-7]{32}$"})]
SnapshotId: TypeAlias = Annotated[str, Meta(extra_json_schema={"pattern": "^snap_[a-z2-7]{32}$"})]
Mode: TypeAlias = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-7]{4}$"})]


class StorageView(TypedDict):
    """What really holds: `storageMb` and `inodes` may differ a little from what was asked for."""

    backend: Backend
    storageMb: float
    inodes: int
    full: Annotated[bool, Meta(description="Only where the limit is watched.")]


class LimitsView(TypedDict):
    """Which limits hold on this host."""

    enforced: list[str]
    notEnforced: list[str]
    storage: StorageView | None


class OomView(TypedDict):
    """Processes that the kernel has ended for lack of memory."""

    kills: int
    lastAt: Time | None


class AutoPauseView(TypedDict):
    """When it is paused for being idle."""

    idleMs: int
    ignoreProcesses: bool


class StandbyView(TypedDict):
    """What a sandbox does by itself."""

    autoPause: AutoPauseView | None
    onExpiry: OnExpiry
    autoResume: bool


class NetworkView(TypedDict):
    """What a sandbox may reach. `enforced`: whether what the policy allows can be reached at present; what it
    refuses never can."""

    mode: NetworkMode
    allow: list[str]
    deny: list[str]
    ports: list[int | str]
    enforced: bool
    reason: NotRequired[str]


class SandboxView(TypedDict):
    """A sandbox. Its environment is never given back."""

    id: SandboxId
    status: State
    vcpus: int
    memoryMb: int
    storageMb: int
    timeoutMs: int
    templateId: str
    region: str
    createdAt: Time
    expiresAt: Annotated[Time | None, Meta(description="Null while it is paused.")]
    limits: LimitsView
    oom: OomView
    remainingMs: NotRequired[Annotated[int, Meta(description="What is left of its time while it is paused.")]]
    autoPause: AutoPauseView | None
    onExpiry: OnExpiry
    autoResume: bool
    network: NetworkView
    snapshotId: NotRequired[Annotated[str, Meta(description="The snapshot it was made from.")]]
    forkedFrom: NotRequired[Annotated[str, Meta(description="The sandbox it is a fork of.")]]
    endedAt: NotRequired[Time]
    endReason: NotRequired[EndReason]


class KilledView(TypedDict):
    """The answer to DELETE."""

    id: SandboxId
    status: State


class PausedView(TypedDict):
    """`reclaimedBytes`: the memory that was moved to swap; null where it was not tried."""

    id: SandboxId
    status: State
    reclaimedBytes: int | None


class TimeView(TypedDict):
    """How much time a sandbox has."""

    id: SandboxId
    status: State
    timeoutMs: int
    expiresAt: Time | None
    remainingMs: NotRequired[int]


class LifecycleView(TypedDict):
    """What a sandbox does by itself, as it holds now."""

    id: SandboxId
    status: State
    autoPause: AutoPauseView | None
    onExpiry: OnExpiry
    autoResume: bool


class RefusalView(TypedDict):
    """Something that was refused. `name`: what was asked for, or the name that the sandbox had last
    resolved to the address."""

    at: Time
    reason: str
    protocol: str
    address: str | None
    port: int | None
    name: str | None


class RefusalsView(TypedDict):
    """Oldest first, the last 256."""

    entries: list[RefusalView]


class SnapshotView(TypedDict):
    """What a sandbox had written at one moment. `processes`: what was done about those that might write
    meanwhile; `changed`: files that were seen to change; `skipped`: sockets; `durable`: a power cut would
    leave it."""

    id: SnapshotId
    name: str
    sandboxId: SandboxId
    templateId: str
    image: str | None
    createdAt: Time
    sizeBytes: int
    entries: int
    layers: int
    processes: Standstill
    changed: int
    skipped: int
    attributesDropped: int
    durable: bool
    vcpus: int
    memoryMb: int
    storageMb: int
    timeoutMs: int


class RemovedSnapshotView(TypedDict):
    """Nobody is given it any more."""

    id: SnapshotId
    removed: bool


class ForkedView(TypedDict):
    """The new sandboxes, all with the files of one moment."""

    sandboxes: list[SandboxView]
    processes: Standstill
    changed: int
    sizeBytes: int


class ChangeView(TypedDict):
    """A path that differs. Of one that was deleted, `size` and the rest are of what was there."""

    path: str
    pathBase64: NotRequired[str]
    change: Kind
    type: str
    size: int
    mode: Mode
    uid: int
    gid: int
    mtime: Time


class ChangesView(TypedDict):
    """A page of what differs. `next` goes into the next request's `after`."""

    changes: list[ChangeView]
    next: str | None


class ResultView(TypedDict):
    """A command that has ended. `exitCode` only when it exited, `signal` only when a signal ended it."""

    stdout: str
    stderr: str
    exitCode: int | None
    durationMs: int
    timedOut: bool
    signal: str | None
    outcome: Outcome
    truncated: bool
    stdoutTruncated: bool
    stderrTruncated: bool
    encoding: Encoding


class ProcessView(TypedDict):
    """A command that is known by its id. The bytes from `logStart` to `logEnd` of its output are kept.
    `memoryBytes` is there while it runs, what is below it once it has ended."""

    pid: int | None
    command: str | list[str]
    id: str
    cwd: str
    startedAt: Time
    status: Literal["running", "exited"]
    kind: str
    logStart: int
    logEnd: int
    stdin: Literal["open", "closed"]
    cpuMs: int | None
    memoryBytes: NotRequired[int | None]
    exitCode: NotRequired[int | None]
    signal: NotRequired[str | None]
    outcome: NotRequired[Outcome | None]
    timedOut: NotRequired[bool]
    durationMs: NotRequired[int | None]
    endedAt: NotRequired[Time | None]
    peakMemoryKb: NotRequired[int | None]


class StartedView(ProcessView):
    """A process that was just started; `ready` where `readyWhen` asked for it."""

    ready: NotRequired[bool]


class KilledProcessesView(TypedDict):
    """How many there were, nsbox's own included."""

    killed: int


class StdinView(TypedDict):
    """What was taken."""

    written: int
    closed: bool


class TicketView(TypedDict):
    """What `new WebSocket(url, protocols)` wants."""

    ticket: str
    protocols: list[str]
    expiresInS: int


class DownloadView(TypedDict):
    """`path` is below the daemon's root."""

    ticket: str
    path: str
    expiresInS: int


class ChunkView(TypedDict):
    """A part of the output."""

    stream: Literal["stdout", "stderr"]
    offset: int
    data: str


class LogView(TypedDict):
    """What a command has written, both outputs in the order they came."""

    offset: int
    nextOffset: int
    dropped: int
    encoding: Encoding
    chunks: list[ChunkView]
    process: ProcessView


class OutputEvent(TypedDict):
    """`stdout` and `stderr` of an event stream. The event's id is the offset behind its bytes."""

    offset: int
    data: str


class DroppedEvent(TypedDict):
    """These bytes are kept no longer."""

    offset: int
    until: int


class PathView(TypedDict):
    """A path. One that is not UTF-8 shows U+FFFD, and has its bytes in `pathBase64`."""

    path: str
    pathBase64: NotRequired[str]


class FileView(PathView):
    """A file. Without a wish it is text where its bytes are UTF-8, and base64 where they are not."""

    content: str
    encoding: Encoding


class EntryView(TypedDict):
    """An entry of a folder. `name` is relative to the folder that was listed."""

    name: str
    nameBase64: NotRequired[str]
    path: str
    pathBase64: NotRequired[str]
    type: FileType
    size: int
    mode: Mode
    uid: int
    gid: int
    mtime: Time
    target: NotRequired[str]
    targetBase64: NotRequired[str]


class ListingView(PathView):
    """A folder: `files` for a quick look, `entries` for the rest."""

    files: list[str]
    entries: list[EntryView]
    truncated: bool


class WrittenView(PathView):
    """A file as it is now."""

    written: bool
    size: int


class DeletedView(PathView):
    """A path where nothing is any more."""

    deleted: bool


class PortView(TypedDict):
    """An exposed port. `hostPort` of TCP; `listening` where it was waited for."""

    port: int
    url: str
    protocol: Protocol
    public: bool
    hostPort: NotRequired[int | None]
    listening: NotRequired[bool]


class RemovedPortView(TypedDict):
    """The port is not exposed any more."""

    port: int
    deleted: bool


class LinkView(TypedDict):
    """A signed address."""

    url: str
    expiresAt: Time


class CpuView(TypedDict):
    """`percent` is since the sample before, 100 for one processor."""

    usedMs: int | None
    throttledMs: int | None
    percent: float | None


class MemoryView(TypedDict):
    """In bytes."""

    bytes: int | None
    peakBytes: int | None
    swapBytes: int | None


class IoView(TypedDict):
    """In bytes, from its start."""

    readBytes: int | None
    writtenBytes: int | None


class TrafficView(TypedDict):
    """Of its interface, not of the loopback."""

    receivedBytes: int | None
    sentBytes: int | None


class DiskView(TypedDict):
    """What it has written."""

    bytes: int | None
    inodes: int | None


class SampleView(TypedDict):
    """What a sandbox used at a moment. What this host cannot tell is null."""

    at: Time
    cpu: CpuView
    memory: MemoryView
    io: IoView
    processes: int | None
    network: TrafficView
    disk: DiskView


class MetricsView(TypedDict):
    """What a sandbox uses now, and about every 30 s of the last hour."""

    id: SandboxId
    status: State
    now: SampleView
    history: NotRequired[list[SampleView]]


class HealthView(TypedDict):
    """Whether sandboxes can be made now, and what is not as it should be."""

    status: Literal["ok", "degraded", "unavailable", "starting"]
    reasons: list[str]
    version: str
    sandboxes: int
    enforced: list[str]


class ImageConfigView(TypedDict):
    """What the image says of the commands that run in it."""

    env: dict[str, str]
    workdir: str
    user: str
    entrypoint: list[str]
    cmd: list[str]
    labels: dict[str, str]


class LayerView(TypedDict):
    """`downloadBytes` as it travels, `sizeBytes` unpacked."""

    digest: str | None
    diffId: str | None
    downloadBytes: int
    sizeBytes: int


class ImageView(TypedDict):
    """An image that is here."""

    image: str
    digest: str
    indexDigest: str | None
    platform: str
    createdAt: str | None
    pulledAt: Time
    source: str
    sizeBytes: int
    downloadBytes: int
    shell: bool
    config: ImageConfigView
    layers: list[LayerView]


class DiskUseView(TypedDict):
    """What images take on disk."""

    images: int
    layers: int
    bytes: int
    reclaimableBytes: int
    downloadBytes: int


class ImagesView(TypedDict):
    """The images of this host, by name."""

    images: list[ImageView]
    disk: DiskUseView


class RemovedImageView(TypedDict):
    """Forgotten. Sandboxes that live keep what they stand on."""

    image: str
    removed: bool


class PrunedView(TypedDict):
    """What was removed."""

    images: list[str]
    layers: int
    freedBytes: int


class ProgressView(TypedDict):
    """A line of the progress of a pull or a push; without `layer` it is of the image as a whole."""

    stage: Stage
    layer: NotRequired[str]
    current: NotRequired[int]
    total: NotRequired[int]


class StepView(TypedDict):
    """A line of a build's progress."""

    step: str


class PushedLayerView(TypedDict):
    """`outcome`: `uploaded`, `mounted` (from another repository of the registry) or `present` (it was there).
    `sizeBytes` as it travels."""

    digest: str
    sizeBytes: int
    outcome: Literal["uploaded", "mounted", "present"]


class PushedView(TypedDict):
    """An image that a registry has now. `sentBytes`: of layers that were uploaded."""

    image: str
    digest: str
    sentBytes: int
    layers: list[PushedLayerView]


class TemplateView(TypedDict):
    """What sandboxes can be made from. `ready`: a create need not pull it."""

    id: str
    default: bool
    description: NotRequired[str]
    image: NotRequired[str]
    setup: NotRequired[bool]
    ready: bool


class BuiltView(TypedDict):
    """A template that was built."""

    id: str
    image: str
    layers: int
    ready: bool


class UserView(TypedDict):
    """Whose sandboxes, snapshots and keys."""

    id: str
    name: str
    role: Role
    plan: str
    createdAt: Time
    disabled: bool


class KeyView(TypedDict):
    """Everything but the key itself, which nobody knows any more."""

    id: str
    name: str
    prefix: str
    userId: str
    scopes: list[Scope]
    createdAt: Time
    expiresAt: Time | None
    lastUsedAt: Time | None
    revokedAt: Time | None


class MadeKeyView(KeyView):
    """A new key; `key` is told this once."""

    key: str


class KeysView(TypedDict):
    """Keys, by the time they were made."""

    keys: list[KeyView]


class UsersView(TypedDict):
    """All users."""

    users: list[UserView]


class RemovedUserView(TypedDict):
    """Gone, with the keys."""

    id: str
    removed: bool


class PlanView(TypedDict):
    """What a user may use at most; null: without a bound."""

    name: str
    computeSecondsPerMonth: int | None
    vcpus: int | None
    memoryMb: int | None
    storageMb: int | None
    timeoutMs: int | None
    sandboxes: int | None


class UseView(TypedDict):
    """What was used of it in this period."""

    periodStart: Time
    periodEnd: Time
    computeSeconds: int
    computeSecondsLimit: int | None


class MeView(TypedDict):
    """Who the request is for, and with which key."""

    user: UserView
    key: KeyView
    plan: PlanView
    usage: UseView


#: In this form because of ``from``, which Python keeps for itself.
AuditEventView = TypedDict(
    "AuditEventView",
    {
        "id": int,
        "at": Time,
        "action": Annotated[str, Meta(description="The operation, by its name in this document.")],
        "userId": str | None,
        "keyId": str | None,
        "onBehalfOf": Annotated[str | None, Meta(description="The user that an administrator acted for.")],
        "sandboxId": str | None,
        "target": Annotated[str | None, Meta(description="What else the path names.")],
        "from": Annotated[str, Meta(description="The client's address.")],
        "outcome": AuditOutcome,
        "status": Annotated[int, Meta(description="0: the client left before there was an answer.")],
        "count": Annotated[int, Meta(description="Guesses of keys are summed up.")],
    },
)


class UsageLineView(TypedDict):
    """Which name it has depends on `by`; a key is null for what was made before keys were noted."""

    day: NotRequired[str]
    sandboxId: NotRequired[str | None]
    keyId: NotRequired[str | None]
    computeSeconds: int


#: Compute seconds of a time; `to` is not in it. Made by a call, since `from` is a word of Python.
UsageView = TypedDict(
    "UsageView",
    {
        "from": Time,
        "to": Time,
        "by": Literal["day", "sandbox", "key", "total"],
        "computeSeconds": int,
        "usage": list[UsageLineView],
    },
)


class AuditView(TypedDict):
    """The newest first. `next` goes into the next request's `before`."""

    events: list[AuditEventView]
    next: int | None


class ProblemView(TypedDict):
    """An error (RFC 9457). Rely on `code`; sentences may change. Some have further members, such as `minimum`
    and `maximum`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: NotRequired[
        Annotated[str, Meta(description="The part of the request that is wrong, as the client wrote it.")]
    ]
    remedy: NotRequired[str]
    incident: NotRequired[Annotated[str, Meta(description="What the operator finds in the log.")]]


#: Answers whose members are not all known here.
Document: TypeAlias = dict[str, Any]
