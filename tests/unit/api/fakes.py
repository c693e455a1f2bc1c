"""Services in memory, with the real interface: what the HTTP layer is tested against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from nsbox.api.services import Listing, Services
from nsbox.model.account import DEFAULT_SCOPES, Caller, KeyRecord, Role, Scope, User, grants
from nsbox.model.audit import Event, Wish
from nsbox.model.command import Request
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import EndReason, State
from nsbox.model.metrics import Family, Point, Reading, Sample
from nsbox.model.network import NetworkPolicy, NetworkState, Refusal
from nsbox.model.period import Period
from nsbox.model.plan import Plan, PlanAndUse, Use
from nsbox.model.ports import Exposed, Link, Port, PortSpec, Protocol
from nsbox.model.sandbox import (
    CommandResult,
    CommandSpec,
    Entry,
    FileType,
    Outcome,
    Output,
    Process,
    Sandbox,
    SandboxSpec,
)
from nsbox.model.standby import Standby
from nsbox.service.readiness import ReadyWhen
from nsbox.service.usage import Report
from nsbox.settings import Settings
from nsbox.store.keys import fingerprint
from nsbox.store.ledger import By
from tests.unit.api.fake_images import FakeBuilding, FakeImages, FakePushes
from tests.unit.api.fake_snapshots import FakeDifferences, FakeExports, FakeSnapshots

KEY = "nsbox_" + "k" * 43
OTHER_KEY = "nsbox_" + "o" * 43
CREATED = 1_773_403_200.0  # 2026-03-13T12:00:00Z
MARCH = 1_772_323_200.0


class FakeAudit:
    """What was noted."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.guesses: list[str] = []
        self.asked: list[Wish] = []

    def note(self, event: Event) -> None:
        self.events.append(event)

    def note_guess(self, client: str) -> None:
        self.guesses.append(client)

    async def find(self, wish: Wish) -> list[Event]:
        self.asked.append(wish)
        return [msgspec.structs.replace(one, id=7) for one in self.events][: wish.limit]


class FakeKeys:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.callers: dict[str, Caller] = {}
        self.add(KEY, "ann", Role.ADMIN)
        self.add(OTHER_KEY, "bob", Role.USER)

    def add(self, plaintext: str, owner: str, role: Role, scopes: tuple[Scope, ...] | None = None) -> Caller:
        user = User(id=owner, name=owner, role=role)
        record = KeyRecord(
            id=f"key_{len(self.callers) + 1}",
            name="k",
            owner=owner,
            hash=fingerprint(plaintext),
            prefix="nsbox_kkkkkk",
            created_at=0.0,
            scopes=DEFAULT_SCOPES[role] if scopes is None else scopes,
        )
        caller = Caller(key=record, user=user, grants=grants(record.scopes, role))
        self.callers[plaintext] = caller
        return caller

    def find(self, presented: str) -> Caller | None:
        if self.error is not None:
            raise self.error
        return self.callers.get(presented)

    def caller(self, key_id: str) -> Caller | None:
        return next((one for one in self.callers.values() if one.key.id == key_id), None)

    def user(self, user_id: str) -> User | None:
        return next((one.user for one in self.callers.values() if one.user.id == user_id), None)


class FakeAccounts:
    """Nobody and nothing: the real one is tested with a real record."""

    async def users(self) -> list[User]:
        return []

    async def user(self, user_id: str) -> User:
        raise Problem(Code.USER_NOT_FOUND, "no")

    async def add_user(self, name: str, role: Role, plan: str) -> User:
        return User(id="us_1", name=name, role=role, plan=plan)

    async def change_user(self, user_id: str, change: Any) -> User:
        return await self.user(user_id)

    async def remove_user(self, user_id: str) -> User:
        return await self.user(user_id)

    async def keys(self, owner: str | None) -> list[KeyRecord]:
        return []

    async def make_key(self, caller: Caller, wish: Any) -> tuple[KeyRecord, str]:
        return caller.key, "nsbox_made"

    async def revoke_key(self, caller: Caller, key_id: str) -> KeyRecord:
        raise Problem(Code.KEY_NOT_FOUND, "no")


class FakeSandboxes:
    def __init__(self) -> None:
        self.records: dict[str, Sandbox] = {}
        self.specs: list[SandboxSpec] = []
        self.error: BaseException | None = None
        self.pauses = FakePauses(self)

    async def create(self, owner: str, spec: SandboxSpec) -> Sandbox:
        if self.error is not None:
            raise self.error
        self.specs.append(spec)
        record = Sandbox(
            id=f"sb_{len(self.records):032d}",
            owner=owner,
            state=State.RUNNING,
            limits=spec.limits,
            timeout_ms=spec.timeout_ms,
            template=spec.template,
            layers=(),
            env=spec.env,
            region="local",
            created_at=CREATED,
            expires_at=CREATED + spec.timeout_ms / 1000,
            deadline=0.0,
            boot_id="b",
            enforced=("memoryMb", "pids"),
            standby=spec.standby,
        )
        self.records[record.id] = record
        return record

    async def get(self, owner: str, sandbox_id: str) -> Sandbox:
        record = self.records.get(sandbox_id)
        if record is None or record.owner != owner:
            raise Problem(Code.SANDBOX_NOT_FOUND, f"there is no sandbox {sandbox_id}")
        return record

    async def list(self, owner: str, states: frozenset[State]) -> list[Sandbox]:
        return [r for r in self.records.values() if r.owner == owner and r.state in states]

    async def kill(self, owner: str, sandbox_id: str) -> Sandbox:
        record = await self.get(owner, sandbox_id)
        ended = msgspec.structs.replace(
            record, state=State.STOPPED, ended_at=CREATED + 60, end_reason=EndReason.KILLED
        )
        self.records[sandbox_id] = ended
        return ended


class FakePauses:
    def __init__(self, sandboxes: FakeSandboxes) -> None:
        self._sandboxes = sandboxes

    async def _change(self, owner: str, sandbox_id: str, **changes: Any) -> Sandbox:
        record = await self._sandboxes.get(owner, sandbox_id)
        changed = self._sandboxes.records[sandbox_id] = msgspec.structs.replace(record, **changes)
        return changed

    async def pause(self, owner: str, sandbox_id: str) -> tuple[Sandbox, int | None]:
        return await self._change(owner, sandbox_id, state=State.PAUSED, remaining_s=60.5), 4096

    async def resume(self, owner: str, sandbox_id: str) -> Sandbox:
        return await self._change(owner, sandbox_id, state=State.RUNNING, remaining_s=None)

    async def set_timeout(self, owner: str, sandbox_id: str, timeout_ms: int) -> Sandbox:
        return await self._change(owner, sandbox_id, timeout_ms=timeout_ms, remaining_s=timeout_ms / 1000)


class FakeStandbys:
    def __init__(self, sandboxes: FakeSandboxes) -> None:
        self._sandboxes = sandboxes

    async def set(self, owner: str, sandbox_id: str, standby: Standby) -> Sandbox:
        record = await self._sandboxes.get(owner, sandbox_id)
        changed = self._sandboxes.records[sandbox_id] = msgspec.structs.replace(record, standby=standby)
        return changed


class FakeTemplates:
    def resolve(self, template_id: str | None, image: str | None) -> str:
        if image == "no:such":
            raise Problem(Code.IMAGE_NOT_AVAILABLE, "there is no image no:such", field="image")
        if template_id == "nope":
            raise Problem(Code.TEMPLATE_NOT_AVAILABLE, "there is no template nope", field="templateId")
        return image or template_id or "default"

    def describe(self) -> list[dict[str, object]]:
        return [{"id": "default", "default": True, "ready": True}]


class FakeCommands:
    def __init__(self, sandboxes: FakeSandboxes) -> None:
        self._sandboxes = sandboxes
        self.specs: list[CommandSpec] = []
        self.processes: list[Process] = []
        self.begun: list[str] = []
        self.cuts: list[tuple[str, str]] = []
        self.requests: list[Request | None] = []
        self.written: list[Any] = []
        self.asked: list[float] = []
        self.result = CommandResult(
            outcome=Outcome.EXITED, stdout=Output(b"hello\n"), stderr=Output(), duration_ms=12, exit_code=0
        )
        self.error: BaseException | None = None
        self.hang = False
        self.running = trio.Event()
        self.cancelled = trio.Event()

    async def cut(self, sandbox_id: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.cuts.append((sandbox_id, key))

    async def run(
        self,
        owner: str,
        sandbox_id: str,
        spec: CommandSpec,
        request: Request | None = None,
        begun: Callable[[str], None] = lambda _: None,
    ) -> CommandResult:
        self.requests.append(request)
        await self._sandboxes.get(owner, sandbox_id)
        self.specs.append(spec)
        if self.error is not None:
            raise self.error
        begun("cmd_0")
        if self.hang:
            self.running.set()
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()
        return self.result

    async def begin(self, sandbox: Sandbox) -> None:
        self.begun.append(sandbox.id)
        if self.error is not None:
            raise self.error

    async def start(
        self, owner: str, sandbox_id: str, spec: CommandSpec, request: Request | None = None
    ) -> Process:
        self.requests.append(request)
        await self._sandboxes.get(owner, sandbox_id)
        self.specs.append(spec)
        process = Process(
            id=f"cmd_{len(self.processes)}",
            pid=42 + len(self.processes),
            kind="process",
            command=spec.command,
            cwd=spec.cwd or "/",
            started_at=CREATED,
        )
        self.processes.append(process)
        return process

    async def stream(
        self, owner: str, sandbox_id: str, spec: CommandSpec, offset: int, request: Request | None = None
    ) -> FakeFollower:
        return FakeFollower(self, await self.start(owner, sandbox_id, spec, request), offset)

    async def follow(self, owner: str, sandbox_id: str, key: str, offset: int, *, text: bool) -> FakeFollower:
        return FakeFollower(self, await self.get(owner, sandbox_id, key), offset)

    async def get(self, owner: str, sandbox_id: str, key: str) -> Process:
        await self._sandboxes.get(owner, sandbox_id)
        for process in self.processes:
            if process.id == key:
                return process
        raise Problem(Code.PROCESS_NOT_FOUND, "no")

    async def wait(self, owner: str, sandbox_id: str, key: str, seconds: float) -> Process:
        self.asked.append(seconds)
        return await self.get(owner, sandbox_id, key)

    async def signal(self, owner: str, sandbox_id: str, key: str, number: int) -> Process:
        process = await self.get(owner, sandbox_id, key)
        self.asked.append(number)
        return process

    async def end(self, owner: str, sandbox_id: str, key: str) -> Process:
        return await self.get(owner, sandbox_id, key)

    async def list(self, owner: str, sandbox_id: str, everything: bool = False) -> list[Process]:
        await self._sandboxes.get(owner, sandbox_id)
        return self.processes

    async def kill_all(self, owner: str, sandbox_id: str) -> int:
        await self._sandboxes.get(owner, sandbox_id)
        killed, self.processes = len(self.processes), []
        return killed


class FakeCreations:
    def __init__(self, sandboxes: FakeSandboxes, commands: FakeCommands) -> None:
        self._sandboxes, self._commands = sandboxes, commands

    async def create(self, owner: str, spec: SandboxSpec) -> Sandbox:
        record = await self._sandboxes.create(owner, spec)
        await self._commands.begin(record)
        return record


class FakeReadiness:
    def __init__(self) -> None:
        self.asked: list[ReadyWhen] = []

    async def wait(self, owner: str, sandbox_id: str, key: str, when: ReadyWhen) -> bool:
        self.asked.append(when)
        return when.line is None


class FakeFollower:
    """Gives what the test says was written, from ``offset`` on."""

    def __init__(self, commands: FakeCommands, process: Process, offset: int) -> None:
        self._commands, self._process, self.offset = commands, process, offset

    def __enter__(self) -> FakeFollower:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def next(self) -> Any:
        await trio.lowlevel.checkpoint()
        return await self.look()

    async def look(self) -> Any:
        for found in self._commands.written:
            if found.offset >= self.offset:
                data = getattr(found, "data", None)
                self.offset = found.until if data is None else found.offset + len(data)
                return found
        if self._commands.error is not None:
            raise self._commands.error
        return None

    def process(self) -> Process:
        return self._process


class FakeFile:
    def __init__(self, data: bytes, mtime: float, size: int | None = None) -> None:
        self.data = data
        self.mtime = mtime
        self.size = len(data) if size is None else size
        self.reads = 0

    async def read_at(self, offset: int, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return self.data[offset : offset + n]


class EndlessFile:
    """A large file that costs no memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.mtime = CREATED
        self.reads = 0

    async def read_at(self, offset: int, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return bytes(max(0, min(n, self.size - offset)))


class FakeUpload:
    def __init__(self, before_chunk: Callable[[], Any] | None) -> None:
        self.data = bytearray()
        self.count = 0
        self.keep = True
        self._before_chunk = before_chunk

    async def write(self, chunk: bytes) -> None:
        if self._before_chunk is not None:
            await self._before_chunk()
        self.count += len(chunk)
        if self.keep:
            self.data += chunk


class FakeFiles:
    def __init__(self, sandboxes: FakeSandboxes) -> None:
        self._sandboxes = sandboxes
        self.files: dict[bytes, bytes] = {}
        self.modes: dict[bytes, int | None] = {}
        self.removed: list[tuple[bytes, bool]] = []
        self.listing = Listing(
            [
                Entry(
                    name="index.js",
                    path="/app/index.js",
                    type=FileType.FILE,
                    size=3,
                    mode=0o100644,
                    uid=0,
                    gid=0,
                    mtime=CREATED,
                )
            ]
        )
        self.listed: list[tuple[bytes, bool]] = []
        self.opened: Any = None
        self.mtime = CREATED
        self.before_chunk: Callable[[], Any] | None = None
        self.keep_uploads = True
        self.aborted = trio.Event()
        self.uploaded = 0

    def _get(self, path: bytes) -> bytes:
        if path not in self.files:
            raise Problem(Code.FILE_NOT_FOUND, f"there is no {path.decode('utf-8', 'surrogateescape')}")
        return self.files[path]

    @asynccontextmanager
    async def open(self, owner: str, sandbox_id: str, path: bytes) -> AsyncIterator[Any]:
        await self._sandboxes.get(owner, sandbox_id)
        yield self.opened or FakeFile(self._get(path), self.mtime)

    async def write(self, owner: str, sandbox_id: str, path: bytes, data: bytes, mode: int | None) -> int:
        await self._sandboxes.get(owner, sandbox_id)
        self.files[path], self.modes[path] = data, mode
        return len(data)

    @asynccontextmanager
    async def upload(
        self, owner: str, sandbox_id: str, path: bytes, mode: int | None
    ) -> AsyncIterator[FakeUpload]:
        await self._sandboxes.get(owner, sandbox_id)
        upload = FakeUpload(self.before_chunk)
        upload.keep = self.keep_uploads
        try:
            yield upload
        except BaseException:
            self.aborted.set()
            raise
        self.uploaded = upload.count
        self.files[path], self.modes[path] = bytes(upload.data), mode

    async def list(self, owner: str, sandbox_id: str, path: bytes, recursive: bool) -> Listing:
        await self._sandboxes.get(owner, sandbox_id)
        self.listed.append((path, recursive))
        return self.listing

    async def remove(self, owner: str, sandbox_id: str, path: bytes, recursive: bool) -> None:
        await self._sandboxes.get(owner, sandbox_id)
        self.removed.append((path, recursive))


class FakeNetwork:
    def __init__(self, sandboxes: FakeSandboxes) -> None:
        self._sandboxes = sandboxes
        self.up = NetworkState(up=True)
        self.entries: list[Refusal] = []

    def state(self) -> NetworkState:
        return self.up

    async def set(self, owner: str, sandbox_id: str, policy: NetworkPolicy) -> Sandbox:
        record = await self._sandboxes.get(owner, sandbox_id)
        changed = msgspec.structs.replace(record, network=policy)
        self._sandboxes.records[sandbox_id] = changed
        return changed

    async def log(self, owner: str, sandbox_id: str) -> list[Refusal]:
        await self._sandboxes.get(owner, sandbox_id)
        return self.entries


class FakeHealth:
    fine = True

    def health(self) -> tuple[bool, dict[str, object]]:
        return self.fine, {"sandboxes": 0, "reasons": [], "version": "0", "enforced": []}


class FakePorts:
    """Ports in a dictionary; ``wishes`` are what was asked for."""

    def __init__(self, sandboxes: FakeSandboxes) -> None:
        self._sandboxes = sandboxes
        self.exposed: dict[int, Exposed] = {}
        self.wishes: list[PortSpec] = []

    async def expose(self, owner: str, sandbox_id: str, wish: PortSpec) -> tuple[Exposed, bool]:
        await self._sandboxes.get(owner, sandbox_id)
        self.wishes.append(wish)
        new = wish.port not in self.exposed
        port = Port(
            port=wish.port,
            protocol=wish.protocol,
            public=wish.public,
            host_port=30_000 if wish.protocol is Protocol.TCP else None,
        )
        exposed = Exposed(
            port=port, url=f"http://preview-{wish.port}/", listening=None if wish.wait_ms is None else True
        )
        self.exposed[wish.port] = exposed
        return exposed, new

    async def list(self, owner: str, sandbox_id: str) -> list[Exposed]:
        await self._sandboxes.get(owner, sandbox_id)
        return list(self.exposed.values())

    async def remove(self, owner: str, sandbox_id: str, number: int) -> None:
        await self._sandboxes.get(owner, sandbox_id)
        if self.exposed.pop(number, None) is None:
            raise Problem(Code.PORT_NOT_EXPOSED, "no")

    async def link(self, owner: str, sandbox_id: str, number: int, seconds: int) -> Link:
        await self._sandboxes.get(owner, sandbox_id)
        return Link(url=f"http://preview-{number}/?t", expires_at=CREATED + seconds)


class FakeMeters:
    def __init__(self, sandboxes: FakeSandboxes) -> None:
        self._sandboxes = sandboxes

    async def get(self, owner: str, sandbox_id: str) -> tuple[Sandbox, Sample, list[Sample]]:
        record = await self._sandboxes.get(owner, sandbox_id)
        reading = Reading(cpu_us=1_500_000, memory=4096)
        return record, Sample(CREATED, reading, 12.5), [Sample(CREATED - 30, Reading())]


class FakeFigures:
    async def families(self, *, sandboxes: bool) -> list[Family]:
        labels = (("sandbox", 'a"b\\c\nd'),) if sandboxes else ()
        return [
            Family("nsbox_x", "gauge", "X.", (Point(1, labels),)),
            Family("nsbox_none", "gauge", "N.", ()),
        ]


class FakePlans:
    """A plan that is as wide as the settings. ``settings`` is what defaults are taken from."""

    def __init__(self) -> None:
        self.settings = Settings()

    async def of(self, user_id: str) -> PlanAndUse:
        plan = Plan(
            name="unlimited",
            compute_seconds_per_month=None,
            vcpus=4,
            memory_mb=4096,
            storage_mb=102_400,
            timeout_ms=86_400_000,
            sandboxes=1000,
        )
        return PlanAndUse(plan, Use(period_start=MARCH, period_end=MARCH + 31 * 86_400, compute_seconds=7))

    def settings_for(self, owner: str) -> Settings:
        return self.settings

    def check_name(self, name: str) -> None:
        if name == "none":
            raise Problem(Code.INVALID_FIELD, "there is no plan 'none'", field="plan")


class FakeUsage:
    """``lines`` by owner; ``asked`` is how it was asked."""

    def __init__(self) -> None:
        self.lines: dict[str, list[tuple[str, int]]] = {}
        self.asked: list[tuple[str, int | None, int | None, By]] = []

    async def report(self, owner: str, begin: int | None, end: int | None, by: By) -> Report:
        self.asked.append((owner, begin, end, by))
        period = Period(begin if begin is not None else 20_000, end if end is not None else 20_030)
        return Report(period, by, self.lines.get(owner, []))


class FakeReserve:
    """``full``: what is said of anything more."""

    def __init__(self) -> None:
        self.full: Problem | None = None

    def check(self, more: int = 0) -> None:
        if self.full is not None:
            raise self.full


class Fakes:
    """The fakes, and the bundle of them."""

    def __init__(self) -> None:
        self.sandboxes = FakeSandboxes()
        self.templates = FakeTemplates()
        self.images = FakeImages()
        self.building = FakeBuilding()
        self.commands = FakeCommands(self.sandboxes)
        self.files = FakeFiles(self.sandboxes)
        self.ports = FakePorts(self.sandboxes)
        self.network = FakeNetwork(self.sandboxes)
        self.health = FakeHealth()
        self.keys = FakeKeys()
        self.audit = FakeAudit()
        self.readiness = FakeReadiness()
        self.snapshots = FakeSnapshots(self.sandboxes)
        self.differences = FakeDifferences(self.sandboxes)
        self.exports = FakeExports()
        self.pushes = FakePushes()
        self.plans, self.usage = FakePlans(), FakeUsage()
        self.reserve = FakeReserve()
        self.services = Services(
            sandboxes=self.sandboxes,
            creations=FakeCreations(self.sandboxes, self.commands),
            standbys=FakeStandbys(self.sandboxes),
            templates=self.templates,
            images=self.images,
            building=self.building,
            commands=self.commands,
            readiness=self.readiness,
            files=self.files,
            ports=self.ports,
            network=self.network,
            snapshots=self.snapshots,
            differences=self.differences,
            exports=self.exports,
            pushes=self.pushes,
            health=self.health,
            meters=FakeMeters(self.sandboxes),
            figures=FakeFigures(),
            keys=self.keys,
            accounts=FakeAccounts(),
            plans=self.plans,
            usage=self.usage,
            audit=self.audit,
            reserve=self.reserve,
        )
