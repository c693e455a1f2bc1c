"""What the HTTP layer asks of the rest of nsbox. It knows these shapes and nothing behind them.

``owner`` is always the id of the user whose key was presented, or for whom an administrator acts; whatever
belongs to somebody else does not exist (``SANDBOX_NOT_FOUND``). All of these raise ``Problem`` for what a
client can be told.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from nsbox.model.account import Caller, KeyRecord, Role, User
from nsbox.model.audit import Event, Wish
from nsbox.model.command import Request
from nsbox.model.image import DiskUse, Image, Progress, Pruned, Pushed
from nsbox.model.lifecycle import State
from nsbox.model.metrics import Family, Sample
from nsbox.model.network import NetworkPolicy, NetworkState, Refusal
from nsbox.model.plan import PlanAndUse
from nsbox.model.ports import Exposed, Link, PortSpec
from nsbox.model.sandbox import (
    CommandResult,
    CommandSpec,
    Listing,
    Process,
    Sandbox,
    SandboxSpec,
    StoredInput,
    Template,
    TerminalSize,
)
from nsbox.model.snapshot import Snapshot
from nsbox.model.standby import Standby
from nsbox.oci.reference import Reference
from nsbox.oci.snapshots.orders import Changes
from nsbox.oci.templatefile import TemplateFile
from nsbox.service.accounts import KeyWish, UserChange
from nsbox.service.readiness import ReadyWhen
from nsbox.service.usage import Report
from nsbox.settings import Settings
from nsbox.store.ledger import By


class OpenFile(Protocol):
    """A regular file of a sandbox, open for reading."""

    @property
    def size(self) -> int:
        """Bytes at the time of opening; 0 for files that do not know (``/proc``)."""
        ...

    @property
    def mtime(self) -> float:
        """Seconds since the epoch. The sandbox chooses it: any float."""
        ...

    async def read_at(self, offset: int, n: int) -> bytes:
        """At most ``n`` bytes from ``offset``; none at the end."""
        ...


class Upload(Protocol):
    """A file being written beside its final name."""

    async def write(self, chunk: bytes) -> None:
        """Append. Returning means the chunk is taken, so a slow disk slows the client down."""
        ...


class SandboxesService(Protocol):
    """Sandboxes and their lives."""

    async def get(self, owner: str, sandbox_id: str) -> Sandbox:
        """The record as it is now."""
        ...

    async def list(self, owner: str, states: frozenset[State]) -> list[Sandbox]:
        """The owner's sandboxes in one of these states, oldest first."""
        ...

    async def kill(self, owner: str, sandbox_id: str) -> Sandbox:
        """Idempotent: returning means nothing of it runs any more."""
        ...

    @property
    def pauses(self) -> PausesService:
        """The standstills of sandboxes, and their time."""
        ...


class CreationsService(Protocol):
    """Sandboxes made for clients."""

    async def create(self, owner: str, spec: SandboxSpec) -> Sandbox:
        """A running sandbox, with what its template starts; when it raises, nothing of it is left. Of a
        ``spec.request`` that was made before, the first one's."""
        ...


class PausesService(Protocol):
    """Sandboxes made to stand still and to go on."""

    async def pause(self, owner: str, sandbox_id: str) -> tuple[Sandbox, int | None]:
        """The record as it was when all had stopped, and the bytes of memory given back to the host."""
        ...

    async def resume(self, owner: str, sandbox_id: str) -> Sandbox:
        """Its processes go on."""
        ...

    async def set_timeout(self, owner: str, sandbox_id: str, timeout_ms: int) -> Sandbox:
        """Its time ends so long from now, standstills not counted."""
        ...


class StandbysService(Protocol):
    """Sandboxes that are paused and resumed by themselves."""

    async def set(self, owner: str, sandbox_id: str, standby: Standby) -> Sandbox:
        """What it does by itself from now on."""
        ...


class TemplatesService(Protocol):
    """What a sandbox can be made from."""

    def resolve(self, template_id: str | None, image: str | None) -> str:
        """The template's name. Raises ``TEMPLATE_NOT_AVAILABLE`` or ``IMAGE_NOT_AVAILABLE``, field set."""
        ...

    def describe(self) -> list[dict[str, object]]:
        """All of them, with what a client may know."""
        ...


class PullService(Protocol):
    """A pull, shared by all who asked for the image."""

    async def wait(self) -> Image:
        """The image, when it is there. Raises ``Problem``."""
        ...

    def news(self) -> AsyncGenerator[Progress, None]:
        """What happens until then. Close it."""
        ...


class ImagesService(Protocol):
    """The images of this host."""

    def list(self) -> list[Image]:
        """By name."""
        ...

    def find(self, name: str) -> Image:
        """Raises ``IMAGE_NOT_FOUND``."""
        ...

    def pull(self, reference: Reference) -> PullService:
        """Begin, or join in. It goes on when the client leaves."""
        ...

    async def have_room(self, more: int) -> None:
        """For so many bytes on that disk. Raises ``HOST_FULL``."""
        ...

    def spool(self) -> int:
        """A file without a name, on the disk that images are on."""
        ...

    async def import_archive(self, descriptor: int, name: str) -> Image:
        """The image of an archive that is open as ``descriptor``."""
        ...

    async def remove(self, name: str) -> Image:
        """Forget it; what lives on it keeps its layers."""
        ...

    async def prune(self, everything: bool) -> Pruned:
        """Remove what nobody needs."""
        ...

    async def disk_use(self) -> DiskUse:
        """What images take."""
        ...


class BuildingService(Protocol):
    """Templates with set-up commands."""

    async def build(self, file: TemplateFile, told: Callable[[str], None]) -> Template:
        """Raises ``BUILD_FAILED`` and what a pull raises."""
        ...


class FollowerService(Protocol):
    """Reads what a command writes, as a context. ``offset``: behind what it has given last."""

    offset: int

    def __enter__(self) -> FollowerService: ...

    def __exit__(self, *error: object) -> None: ...

    async def next(self) -> Any:
        """A ``Piece`` of one stream or a ``Gap``; waits for it. None: the command has ended, and that was
        all."""
        ...

    async def look(self) -> Any:
        """The same, without waiting. None: there is nothing more now."""
        ...

    def process(self) -> Process:
        """The command as it is now."""
        ...


class CommandsService(Protocol):
    """Commands in a sandbox. ``spec.argv`` is empty for a string: the service adds the template's shell."""

    async def run(
        self,
        owner: str,
        sandbox_id: str,
        spec: CommandSpec,
        request: Request | None = None,
        begun: Callable[[str], None] = ...,
    ) -> CommandResult:
        """Run to the end and give the result; of a ``request`` that was made before, the first one's.
        ``begun`` is told its id."""
        ...

    async def start(
        self, owner: str, sandbox_id: str, spec: CommandSpec, request: Request | None = None
    ) -> Process:
        """Start in the background."""
        ...

    async def stream(
        self, owner: str, sandbox_id: str, spec: CommandSpec, offset: int, request: Request | None = None
    ) -> FollowerService:
        """Start, and follow the output from ``offset`` on. It goes on when nobody follows."""
        ...

    async def follow(
        self, owner: str, sandbox_id: str, key: str, offset: int, *, text: bool
    ) -> FollowerService:
        """Follow the output of a command that is known by its id. ``text``: pieces end between characters."""
        ...

    async def cut(self, sandbox_id: str, key: str) -> None:
        """End a command that a client has run or followed, and left. Waits for nothing."""
        ...

    async def get(self, owner: str, sandbox_id: str, key: str) -> Process:
        """A command that is known by its id. Raises ``PROCESS_NOT_FOUND``."""
        ...

    async def wait(self, owner: str, sandbox_id: str, key: str, seconds: float) -> Process:
        """The same, once it has ended or the time is over."""
        ...

    async def signal(self, owner: str, sandbox_id: str, key: str, number: int) -> Process:
        """Send it a signal. Raises ``PROCESS_ENDED``."""
        ...

    async def write_stdin(
        self, owner: str, sandbox_id: str, key: str, data: bytes | StoredInput, patience: float
    ) -> int:
        """Write to its stdin; how much was taken in time. Raises ``PROCESS_ENDED``, ``STDIN_CLOSED``."""
        ...

    async def close_stdin(self, owner: str, sandbox_id: str, key: str) -> None:
        """Let its stdin come to its end."""
        ...

    async def resize(self, owner: str, sandbox_id: str, key: str, size: TerminalSize) -> None:
        """Give its terminal another size. Raises ``NO_TERMINAL``."""
        ...

    async def end(self, owner: str, sandbox_id: str, key: str) -> Process:
        """End it with all it started, and forget it; how it ended."""
        ...

    async def list(self, owner: str, sandbox_id: str, everything: bool = False) -> list[Process]:
        """Background processes that run; or all commands that are known."""
        ...

    async def kill_all(self, owner: str, sandbox_id: str) -> int:
        """End all background processes; how many there were."""
        ...


class ReadinessService(Protocol):
    """Waits for background processes."""

    async def wait(self, owner: str, sandbox_id: str, key: str, when: ReadyWhen) -> bool:
        """Whether it got ready."""
        ...


class FilesService(Protocol):
    """Files of a sandbox. Paths are absolute, as bytes: a file's name need not be UTF-8."""

    def open(self, owner: str, sandbox_id: str, path: bytes) -> AbstractAsyncContextManager[OpenFile]:
        """Open a regular file for reading."""
        ...

    async def write(self, owner: str, sandbox_id: str, path: bytes, data: bytes, mode: int | None) -> int:
        """Replace the file at once; the number of bytes written."""
        ...

    def upload(
        self, owner: str, sandbox_id: str, path: bytes, mode: int | None
    ) -> AbstractAsyncContextManager[Upload]:
        """Leaving the block cleanly renames the new file into place; an exception leaves the old one."""
        ...

    async def list(self, owner: str, sandbox_id: str, path: bytes, recursive: bool) -> Listing:
        """The entries of a directory."""
        ...

    async def remove(self, owner: str, sandbox_id: str, path: bytes, recursive: bool) -> None:
        """Remove a file, or a directory with all in it when ``recursive``."""
        ...


class PortsService(Protocol):
    """Ports of a sandbox that are reachable from outside."""

    async def expose(self, owner: str, sandbox_id: str, wish: PortSpec) -> tuple[Exposed, bool]:
        """Expose a port or change how it is exposed; whether it is new."""
        ...

    async def list(self, owner: str, sandbox_id: str) -> list[Exposed]:
        """The exposed ports, by number."""
        ...

    async def remove(self, owner: str, sandbox_id: str, number: int) -> None:
        """Take a port away, and close its connections."""
        ...

    async def link(self, owner: str, sandbox_id: str, number: int, seconds: int) -> Link:
        """A signed address of a port, for so long."""
        ...


class NetworkService(Protocol):
    """What a sandbox reaches."""

    def state(self) -> NetworkState:
        """Whether packets get out at all."""
        ...

    async def set(self, owner: str, sandbox_id: str, policy: NetworkPolicy) -> Sandbox:
        """Returning means the new policy holds, for connections that are there too."""
        ...

    async def log(self, owner: str, sandbox_id: str) -> list[Refusal]:
        """What was refused, oldest first; the last of them only."""
        ...


class SnapshotsService(Protocol):
    """What sandboxes had written, kept."""

    def get(self, owner: str, snapshot_id: str) -> Snapshot:
        """Raises ``SNAPSHOT_NOT_FOUND``."""
        ...

    def of_owner(self, owner: str) -> list[Snapshot]:
        """All of them, oldest first."""
        ...

    async def of_sandbox(self, owner: str, sandbox_id: str) -> list[Snapshot]:
        """Those of one sandbox."""
        ...

    def is_durable(self, record: Snapshot) -> bool:
        """Whether it is on disk."""
        ...

    async def take(
        self, owner: str, sandbox_id: str, name: str, *, must_stand: bool, request: Request | None = None
    ) -> Snapshot:
        """Returning means that it is whole; when it raises, nothing is left. Once for a ``request``."""
        ...

    async def fork(
        self, owner: str, sandbox_id: str, count: int, spec: SandboxSpec, request: Request | None = None
    ) -> tuple[list[Sandbox], Snapshot]:
        """So many sandboxes like one, or none; and what is known of the copy."""
        ...

    async def remove(self, owner: str, snapshot_id: str) -> Snapshot:
        """Nobody is given it any more; who stands on it keeps its layer."""
        ...


class DifferencesService(Protocol):
    """What has changed."""

    async def of_sandbox(self, owner: str, sandbox_id: str, behind: str, limit: int) -> Changes:
        """A page behind the one that ended with ``behind``."""
        ...

    async def of_snapshot(self, record: Snapshot, behind: str, limit: int) -> Changes:
        """The same of a snapshot."""
        ...


class ExportsService(Protocol):
    """Archives, as streams."""

    def snapshot(
        self, record: Snapshot, *, layout: bool
    ) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        """A snapshot as an OCI layout, or its files."""
        ...

    def image(self, name: str, *, layout: bool) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        """The same of an image. Raises ``IMAGE_NOT_FOUND``."""
        ...


class PushService(Protocol):
    """A push, shared by all who asked for the same."""

    async def wait(self) -> Pushed:
        """What the registry has then. Raises ``Problem``."""
        ...

    def news(self) -> AsyncGenerator[Progress, None]:
        """What happens until then. Close it."""
        ...


class PushesService(Protocol):
    """Images to registries. A push goes on when the client leaves."""

    def image(self, name: str, to: str | None) -> PushService:
        """Begin, or join in. Raises ``IMAGE_NOT_FOUND``, ``INVALID_FIELD``."""
        ...

    def snapshot(self, record: Snapshot, to: str) -> PushService:
        """The same of a snapshot."""
        ...


class MetersService(Protocol):
    """What a sandbox uses."""

    async def get(self, owner: str, sandbox_id: str) -> tuple[Sandbox, Sample, list[Sample]]:
        """The record, what it uses now, and the last hour."""
        ...


class FiguresService(Protocol):
    """What is told to Prometheus."""

    async def families(self, *, sandboxes: bool) -> list[Family]:
        """``sandboxes``: with what each one uses."""
        ...


class HealthService(Protocol):
    """Whether sandboxes can be made now."""

    def health(self) -> tuple[bool, dict[str, object]]:
        """Fine or not, and facts that anyone may read."""
        ...


class AuditService(Protocol):
    """Who did what."""

    def note(self, event: Event) -> None:
        """Take it down; it is written soon."""
        ...

    def note_guess(self, client: str) -> None:
        """A key was shown that opens nothing."""
        ...

    async def find(self, wish: Wish) -> list[Event]:
        """The newest first."""
        ...


class Keys(Protocol):
    """The keys in force."""

    def find(self, presented: str) -> Caller | None:
        """Whose key it is, unless it is unknown, revoked or expired, or its user is disabled."""
        ...

    def caller(self, key_id: str) -> Caller | None:
        """The same for a key that is known by its id."""
        ...

    def user(self, user_id: str) -> User | None:
        """Any user."""
        ...


class AccountsService(Protocol):
    """Users and their keys."""

    async def users(self) -> list[User]:
        """All, oldest first."""
        ...

    async def user(self, user_id: str) -> User:
        """Raises ``USER_NOT_FOUND``."""
        ...

    async def add_user(self, name: str, role: Role, plan: str) -> User:
        """Raises ``NAME_TAKEN``."""
        ...

    async def change_user(self, user_id: str, change: UserChange) -> User:
        """Raises ``NAME_TAKEN``, ``LAST_ADMIN``."""
        ...

    async def remove_user(self, user_id: str) -> User:
        """With all keys. Raises ``USER_NOT_EMPTY``, ``LAST_ADMIN``."""
        ...

    async def keys(self, owner: str | None) -> list[KeyRecord]:
        """Of one user, or all."""
        ...

    async def make_key(self, caller: Caller, wish: KeyWish) -> tuple[KeyRecord, str]:
        """A key and its plaintext. Raises ``FORBIDDEN``, ``TOO_MANY_KEYS``."""
        ...

    async def revoke_key(self, caller: Caller, key_id: str) -> KeyRecord:
        """Idempotent. Raises ``KEY_NOT_FOUND``, ``LAST_ADMIN``."""
        ...


class PlansService(Protocol):
    """What users may use."""

    async def of(self, user_id: str) -> PlanAndUse:
        """The plan of a user, and what is used of it now."""
        ...

    def settings_for(self, owner: str) -> Settings:
        """The settings, with defaults that the owner's plan allows."""
        ...

    def check_name(self, name: str) -> None:
        """Whether there is such a plan. Raises ``INVALID_FIELD``."""
        ...


class UsageService(Protocol):
    """What sandboxes have cost."""

    async def report(self, owner: str, begin: int | None, end: int | None, by: By) -> Report:
        """Of whole days, counted from the epoch; of this month where they are not given."""
        ...


class ReserveService(Protocol):
    """The free disk that is kept for those who are there already."""

    def check(self, more: int = 0) -> None:
        """Whether there is room for so many bytes. Raises ``Problem(HOST_FULL)``."""
        ...


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """All that the HTTP layer needs."""

    sandboxes: SandboxesService
    creations: CreationsService
    standbys: StandbysService
    templates: TemplatesService
    images: ImagesService
    building: BuildingService
    commands: CommandsService
    readiness: ReadinessService
    files: FilesService
    ports: PortsService
    network: NetworkService
    snapshots: SnapshotsService
    differences: DifferencesService
    exports: ExportsService
    pushes: PushesService
    health: HealthService
    meters: MetersService
    figures: FiguresService
    keys: Keys
    accounts: AccountsService
    plans: PlansService
    usage: UsageService
    audit: AuditService
    reserve: ReserveService
