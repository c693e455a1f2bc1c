"""JSON bodies of requests → what the services take. Strict: unknown and doubled members, wrong types and
values out of bounds are refused, and the member at fault is named as the client spelled it.

An optional member that is ``null`` counts as absent. The known shapes are flat, so nesting is bounded by
the types: a value of any other depth is refused where it begins, before it is built.
"""

from __future__ import annotations

import binascii
import json
import re
import signal
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar
from typing import Protocol as TypingProtocol

import msgspec

from nsbox.api.parameters import MAX_WAIT_MS
from nsbox.api.query import check_path, mode
from nsbox.model.errors import Code, Problem
from nsbox.model.image import PullPolicy
from nsbox.model.network import NetworkMode, NetworkPolicy
from nsbox.model.ports import PortSpec, Protocol
from nsbox.model.sandbox import CommandSpec, Encoding, Limits, Sandbox, SandboxSpec, TerminalSize
from nsbox.model.standby import AutoPause, OnExpiry, Standby
from nsbox.oci.templatefile import TemplateFile
from nsbox.plan.network import BadPolicyError, checked
from nsbox.service.readiness import ReadyWhen
from nsbox.settings import Bound, Settings

# execve(2): one string is at most 32 pages with its NUL (MAX_ARG_STRLEN).
MAX_STRING_BYTES = 131_071
MAX_ARGUMENTS = 4_096
# Our own bound for all strings of a command together; what is longer belongs in a file.
MAX_COMMAND_BYTES = 256 * 1024
MAX_ENV_BYTES = 64 * 1024
_MAX_REFERENCE = 512
_MAX_NAME = 200
#: New sandboxes of one request.
MAX_FORKS = 64
_HIGHEST_PORT = 65_535
#: Of a sandbox before it is paused by itself. Less than a second would pause it between two requests.
MIN_IDLE_MS, MAX_IDLE_MS = 1_000, 86_400_000
MAX_LINK_S = 30 * 86_400
_LINK_S = 3_600
_READY_MS = 30_000
_MAX_LINE = 1_000
_MAX_TERMINAL = 4_096

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
_USER = re.compile(f"{_NAME}(?::{_NAME})?")
_HIGHEST_ID = 65_535  # all that a sandbox's user namespace maps
_WHERE = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")

S = TypeVar("S", bound=msgspec.Struct)


def _between(low: int, high: int, text: str = "") -> msgspec.Meta:
    """Bounds as the OpenAPI document tells them; what refuses other values is ``_within``, which names the
    member and both bounds."""
    return msgspec.Meta(description=text or None, extra_json_schema={"minimum": low, "maximum": high})


def _setting(name: str, text: str = "") -> msgspec.Meta:
    """Bounds and default are a setting's."""
    return msgspec.Meta(description=text or None, extra_json_schema={SETTING: name})


def _text(longest: int, text: str = "", shortest: int = 0) -> msgspec.Meta:
    told: dict[str, Any] = {"maxLength": longest}
    return msgspec.Meta(
        description=text or None, extra_json_schema={**told, "minLength": shortest} if shortest else told
    )


#: In a schema, until the document is made: the setting that has the bounds.
SETTING = "x-nsbox-setting"
Vcpus: TypeAlias = Annotated[int, _setting("vcpus", "Processors.")]
MemoryMb: TypeAlias = Annotated[int, _setting("memory_mb")]
StorageMb: TypeAlias = Annotated[int, _setting("storage_mb")]
TimeoutMs: TypeAlias = Annotated[int, _setting("timeout_ms", "The sandbox's time, from its start on.")]
PortNumber: TypeAlias = Annotated[int, _between(1, _HIGHEST_PORT)]
WaitMs: TypeAlias = Annotated[int, _between(0, MAX_WAIT_MS)]
Reference: TypeAlias = Annotated[str, _text(_MAX_REFERENCE, shortest=1)]
EnvVars: TypeAlias = Annotated[
    dict[str, str], msgspec.Meta(description="Names and values, 64 KiB in all. Never given back.")
]
Command: TypeAlias = Annotated[
    str | list[str],
    msgspec.Meta(description="A string goes to `/bin/sh -c`, an array is executed as it is."),
]
User: TypeAlias = Annotated[
    str, msgspec.Meta(description="`name`, `uid`, `name:group` or `uid:gid`; root if not given.")
]
Cwd: TypeAlias = Annotated[str, msgspec.Meta(description="An absolute path; the template's if not given.")]


class SetNetwork(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``PUT /sandboxes/:id/network``, and ``network`` of ``POST /sandboxes``."""

    mode: NetworkMode | None = None
    allow: list[str] | None = None
    deny: list[str] | None = None
    ports: list[int | str] | None = None

    def policy(self, settings: Settings, prefix: str = "") -> NetworkPolicy:
        """Complete: what is not given is the settings'. A list without a mode is what it looks like."""
        if self == SetNetwork():
            return NetworkPolicy(mode=settings.network_mode, allow=settings.network_allow)
        mode = self.mode or (NetworkMode.ALLOWLIST if self.allow else settings.network_mode)
        wish = NetworkPolicy(
            mode=mode,
            allow=tuple(self.allow or ()),
            deny=tuple(self.deny or ()),
            ports=tuple(self.ports or ()),
        )
        try:
            return checked(wish, settings.network_reachable)
        except BadPolicyError as error:
            raise _wrong(error.detail, prefix + error.field) from error


class Source(TypingProtocol):
    """A sandbox, or the record of what one was: where the values come from that a request leaves out."""

    @property
    def limits(self) -> Limits: ...

    @property
    def timeout_ms(self) -> int: ...

    @property
    def network(self) -> NetworkPolicy: ...


class AutoPauseWish(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``autoPause``."""

    idle_ms: Annotated[int, _between(MIN_IDLE_MS, MAX_IDLE_MS)]
    ignore_processes: bool = False


class SetLifecycle(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``PUT /sandboxes/:id/lifecycle``: as a whole, what is not given is off."""

    auto_pause: AutoPauseWish | None = None
    on_expiry: OnExpiry | None = None
    auto_resume: bool | None = None

    def standby(self) -> Standby:
        """Bounds checked."""
        return _standby(self.auto_pause, self.on_expiry, self.auto_resume)


class CreateSandbox(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes``."""

    vcpus: Vcpus | None = None
    memory_mb: MemoryMb | None = None
    storage_mb: StorageMb | None = None
    timeout_ms: TimeoutMs | None = None
    template_id: Reference | None = None
    image: Reference | None = None
    env_vars: EnvVars | None = None
    pull: PullPolicy | None = None
    network: SetNetwork | None = None
    snapshot: str | None = None
    auto_pause: AutoPauseWish | None = None
    on_expiry: OnExpiry | None = None
    auto_resume: bool | None = None

    def limits(self, settings: Settings, source: Source | None = None) -> Limits:
        """Bounds checked, defaults filled in: those of ``source``, if there is one."""
        vcpus, memory, storage = settings.vcpus, settings.memory_mb, settings.storage_mb
        if source is not None:
            old = source.limits
            vcpus, memory = _from(old.vcpus, vcpus), _from(old.memory_mb, memory)
            storage = _from(old.storage_mb, storage)
        return Limits(
            vcpus=_bounded(self.vcpus, vcpus, "vcpus"),
            memory_mb=_bounded(self.memory_mb, memory, "memoryMb"),
            storage_mb=_bounded(self.storage_mb, storage, "storageMb"),
            pids=settings.pids,
        )

    def check_references(self) -> None:
        """What names a template is short, visible text; whether it exists is asked elsewhere."""
        for field, value in (("templateId", self.template_id), ("image", self.image)):
            if value is not None and not (0 < len(value) <= _MAX_REFERENCE and value.isprintable()):
                raise _wrong(f"{field} has 1 to {_MAX_REFERENCE} visible characters", field)

        if self.snapshot is not None and (self.template_id, self.image, self.pull) != (None, None, None):
            raise _wrong("give either a snapshot or what else to make the sandbox from", "snapshot")

    def spec(self, settings: Settings, template: str, source: Source | None = None) -> SandboxSpec:
        """The wish, complete."""
        timeout, network = settings.timeout_ms, (self.network or SetNetwork()).policy(settings, "network.")
        if source is not None:
            timeout = _from(source.timeout_ms, timeout)
            network = network if self.network is not None else source.network
        return SandboxSpec(
            limits=self.limits(settings, source),
            timeout_ms=_bounded(self.timeout_ms, timeout, "timeoutMs"),
            template=template,
            env=check_env(self.env_vars, "envVars"),
            pull=self.pull,
            network=network,
            standby=_standby(self.auto_pause, self.on_expiry, self.auto_resume),
        )


class TakeSnapshot(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/snapshots``."""

    name: Annotated[str, _text(_MAX_NAME, "For people.")] = ""
    consistent: Annotated[bool, msgspec.Meta(description="Refuse rather than copy while processes run.")] = (
        False
    )

    def check(self) -> None:
        """The name is for people."""
        if len(self.name) > _MAX_NAME or not self.name.isprintable():
            raise _wrong(f"a name has up to {_MAX_NAME} visible characters", "name")


class ForkSandbox(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/fork``."""

    count: Annotated[int, _between(1, MAX_FORKS)] = 1
    vcpus: Vcpus | None = None
    memory_mb: MemoryMb | None = None
    storage_mb: StorageMb | None = None
    timeout_ms: TimeoutMs | None = None
    env_vars: EnvVars | None = None
    network: SetNetwork | None = None

    def number(self) -> int:
        """How many."""
        return _within(self.count, 1, MAX_FORKS, "count")

    def spec(self, settings: Settings, source: Sandbox) -> SandboxSpec:
        """Like the source in all that is not said. Its environment is its owner's, so the forks get it."""
        wish = CreateSandbox(
            vcpus=self.vcpus,
            memory_mb=self.memory_mb,
            storage_mb=self.storage_mb,
            timeout_ms=self.timeout_ms,
            env_vars=self.env_vars,
            network=self.network,
        )
        spec = wish.spec(settings, source.template, source)
        return msgspec.structs.replace(spec, env={**source.env, **spec.env}, standby=source.standby)


class SetTimeout(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/timeout``."""

    timeout_ms: Annotated[int, _setting("timeout_ms", "So long from now.")]

    def milliseconds(self, settings: Settings) -> int:
        """Bounds checked."""
        return _bounded(self.timeout_ms, settings.timeout_ms, "timeoutMs")


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a request that has no members."""


class PullImage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /images``."""

    image: str


class PushImage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /images/push``."""

    image: str
    to: str | None = None


class PushSnapshot(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /snapshots/:id/push``."""

    to: str


class PruneImages(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /images/prune``."""

    all: bool = False


class BuildTemplate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /templates``: the members of a template's file."""

    name: str
    image: str
    description: str = ""
    env: dict[str, str] | None = None
    workdir: str | None = None
    user: str | None = None
    shell: list[str] | None = None
    start: list[str] | None = None
    start_image: bool = False
    setup: list[str] | None = None
    setup_timeout_s: int = 600

    def file(self) -> TemplateFile:
        """Checked as a file would be."""
        env = check_env(self.env, "env")
        if self.user:
            _check_user(self.user)
        try:
            return TemplateFile(
                name=self.name,
                image=self.image,
                description=self.description[:1000],
                env=env,
                workdir=self.workdir,
                user=self.user,
                shell=tuple(self.shell) if self.shell is not None else None,
                start=tuple(self.start or ()),
                start_image=self.start_image,
                setup=tuple(self.setup or ()),
                setup_timeout_s=self.setup_timeout_s,
            )
        except ValueError as error:
            raise _wrong(str(error), str(error).partition(":")[0].partition(" ")[0]) from error


class RunCommand(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/exec``."""

    command: Command
    cwd: Cwd | None = None
    env: EnvVars | None = None
    user: User | None = None
    stdin: str | None = None
    stdin_base64: str | None = None
    timeout_ms: Annotated[int, _setting("exec_timeout_ms", "Then it is killed.")] | None = None
    encoding: Encoding | None = None

    def spec(self, settings: Settings) -> CommandSpec:
        """The wish, complete but for the shell of a string command."""
        if self.stdin is not None and self.stdin_base64 is not None:
            raise _wrong("give stdin or stdinBase64, not both", "stdinBase64")
        stdin = _base64(self.stdin_base64 or "", "stdinBase64") or (self.stdin or "").encode()
        return msgspec.structs.replace(
            _command(self.command, self.cwd, self.env, self.user),
            stdin=stdin,
            timeout_ms=_bounded(self.timeout_ms, settings.exec_timeout_ms, "timeoutMs"),
            encoding=self.encoding or Encoding.UTF8,
        )


class Ready(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``readyWhen`` of ``POST /sandboxes/:id/processes``."""

    port: PortNumber | None = None
    line: Annotated[str, _text(_MAX_LINE, "A part of a line of its output.", 1)] | None = None
    timeout_ms: WaitMs | None = None

    def when(self) -> ReadyWhen:
        """Bounds checked."""
        if (self.port is None) is (self.line is None):
            raise _wrong("give port or line, one of the two", "readyWhen")
        if self.port is not None:
            check_port(self.port, "readyWhen.port")
        if self.line is not None and (not 0 < len(self.line) <= _MAX_LINE or "\n" in self.line):
            raise _wrong(f"line is a part of one line, of 1 to {_MAX_LINE} characters", "readyWhen.line")
        wait = _READY_MS if self.timeout_ms is None else self.timeout_ms
        patience = _within(wait, 0, MAX_WAIT_MS, "readyWhen.timeoutMs") / 1000
        return ReadyWhen(port=self.port, line=self.line, patience=patience)


class Terminal(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``terminal`` of ``POST /sandboxes/:id/processes``, and a control message of a connection to one."""

    rows: Annotated[int, _between(1, _MAX_TERMINAL)] = 24
    columns: Annotated[int, _between(1, _MAX_TERMINAL)] = 80

    def size(self) -> TerminalSize:
        """Bounds checked."""
        return TerminalSize(
            _within(self.rows, 1, _MAX_TERMINAL, "terminal.rows"),
            _within(self.columns, 1, _MAX_TERMINAL, "terminal.columns"),
        )


class StartProcess(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/processes``."""

    command: Command
    cwd: Cwd | None = None
    env: EnvVars | None = None
    user: User | None = None
    ready_when: Ready | None = None
    stdin: Literal["open", "closed"] | None = None
    terminal: Terminal | None = None
    timeout_ms: Annotated[int, _setting("exec_timeout_ms", "Then it is killed; without, never.")] | None = (
        None
    )

    def spec(self, settings: Settings) -> CommandSpec:
        """The wish, complete but for the shell of a string command."""
        if self.terminal is not None and self.stdin == "closed":
            raise _wrong("the stdin of a terminal is open", "stdin")
        return msgspec.structs.replace(
            _command(self.command, self.cwd, self.env, self.user),
            stdin_open=self.stdin == "open",
            terminal=self.terminal.size() if self.terminal is not None else None,
            timeout_ms=None
            if self.timeout_ms is None
            else _bounded(self.timeout_ms, settings.exec_timeout_ms, "timeoutMs"),
        )

    def ready(self) -> ReadyWhen | None:
        """What the answer shall wait for."""
        return None if self.ready_when is None else self.ready_when.when()


class SendSignal(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/processes/:id/signal``."""

    signal: Annotated[str | int, msgspec.Meta(description="A name such as `TERM`, or a number.")]

    def number(self) -> int:
        """``TERM``, ``SIGTERM`` and 15 are the same."""
        if isinstance(self.signal, int):
            return _within(self.signal, 1, signal.SIGRTMAX, "signal")
        name = self.signal.upper().removeprefix("SIG")
        try:
            return signal.Signals[f"SIG{name}"].value
        except KeyError as error:
            raise _wrong("signal is a name such as TERM, or a number", "signal") from error


class WriteStdin(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/processes/:id/stdin`` with JSON."""

    data: str = ""
    encoding: Encoding | None = None
    close: bool = False

    def raw(self) -> bytes:
        """What is to be written."""
        return _base64(self.data, "data") if self.encoding is Encoding.BASE64 else self.data.encode()


class MakeTicket(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/processes/:id/ticket``."""

    origin: str | None = None


class WriteFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``PUT /sandboxes/:id/files`` with JSON."""

    content: str
    encoding: Encoding | None = None
    mode: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^0?[0-7]{1,4}$"})] | None = None

    def data(self, limit: int) -> bytes:
        """The bytes of the file."""
        base64 = self.encoding is Encoding.BASE64
        data = _base64(self.content, "content") if base64 else self.content.encode()
        if len(data) > limit:
            raise Problem(
                Code.BODY_TOO_LARGE,
                f"content has {len(data)} bytes; JSON takes files of up to {limit}",
                field="content",
                remedy="send the bytes themselves, with Content-Type: application/octet-stream",
                limit=limit,
            )
        return data

    def permissions(self) -> int | None:
        """``mode`` as a number."""
        return mode(self.mode)


class ExposePort(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/ports``."""

    port: PortNumber
    protocol: Protocol | None = None
    public: bool | None = None
    wait_ms: WaitMs | None = None

    def spec(self) -> PortSpec:
        """The wish, complete."""
        check_port(self.port, "port")
        if self.wait_ms is not None:
            _within(self.wait_ms, 0, MAX_WAIT_MS, "waitMs")
        protocol = self.protocol or Protocol.HTTP
        public = self.public is not False
        if protocol is Protocol.TCP and not public:
            raise _wrong("a TCP port has no way to tell who comes: it is public, or not exposed", "public")
        return PortSpec(port=self.port, protocol=protocol, public=public, wait_ms=self.wait_ms)


class MakeLink(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /sandboxes/:id/ports/:port/links``."""

    expires_in_s: Annotated[int, _between(1, MAX_LINK_S)] | None = None

    def seconds(self) -> int:
        """How long the link shall work."""
        return _within(
            _LINK_S if self.expires_in_s is None else self.expires_in_s, 1, MAX_LINK_S, "expiresInS"
        )


def check_port(port: int, field: str) -> int:
    """A port that something can listen on."""
    return _within(port, 1, _HIGHEST_PORT, field)


class Reader(Generic[S]):
    """Reads one kind of body."""

    def __init__(self, kind: type[S]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> S:
        """The body as its struct. No body at all is ``{}``: that is how people post to /sandboxes."""
        body = body or b"{}"
        try:
            value = self._decoder.decode(body)
            # msgspec lets the last of two equal members win; a proxy before us might read the first.
            # The second pass is after the first, so it meets known, flat shapes only.
            _NO_DOUBLES.decode(body.decode())
        except msgspec.ValidationError as error:
            raise _named(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(Code.INVALID_JSON, f"the body is not JSON in UTF-8: {error}") from error
        except _DoubledMemberError as error:
            field = str(error)
            raise Problem(Code.INVALID_JSON, f"the member {field!r} is given twice", field=field) from error
        return value


class _DoubledMemberError(Exception):
    pass


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DoubledMemberError(name)
            seen.add(name)


_NO_DOUBLES = json.JSONDecoder(object_pairs_hook=_refuse_doubles)


def _named(message: str) -> Problem:
    """msgspec's sentence, with the member at fault taken out of it: ``command[0]``, ``env``, ``vcpus``."""
    where = _WHERE.search(message)
    field = where[1].removesuffix("[...]") if where else None
    sentence = message[: where.start()] if where else message
    for pattern in (_UNKNOWN, _MISSING):
        if found := pattern.search(sentence):
            field = f"{field}.{found[1]}" if field else found[1]
    if field is not None:
        field = field[:200]
    return Problem(Code.INVALID_FIELD, sentence[:300], field=field)


def _wrong(detail: str, field: str, **facts: Any) -> Problem:
    return Problem(Code.INVALID_FIELD, detail, field=field, **facts)


def _too_long(detail: str, field: str, limit: int) -> Problem:
    remedy = "write a file and run that, or send the text as stdin"
    return Problem(Code.BODY_TOO_LARGE, detail, field=field, remedy=remedy, limit=limit)


def _from(old: int, bound: Bound) -> Bound:
    """The bound with the source's value for a default; within it, since settings change."""
    return msgspec.structs.replace(bound, default=min(max(old, bound.low), bound.high))


def _standby(pause: AutoPauseWish | None, on_expiry: OnExpiry | None, auto_resume: bool | None) -> Standby:
    if pause is not None:
        _within(pause.idle_ms, MIN_IDLE_MS, MAX_IDLE_MS, "autoPause.idleMs")
        wish = AutoPause(idle_ms=pause.idle_ms, ignore_processes=pause.ignore_processes)
    return Standby(
        auto_pause=None if pause is None else wish,
        on_expiry=on_expiry or OnExpiry.KILL,
        auto_resume=bool(auto_resume),
    )


def _bounded(value: int | None, bound: Bound, field: str) -> int:
    return bound.default if value is None else _within(value, bound.low, bound.high, field)


def _within(value: int, low: int, high: int, field: str) -> int:
    if not low <= value <= high:
        raise _wrong(f"{field} must be between {low} and {high}", field, minimum=low, maximum=high)
    return value


def _command(
    command: str | list[str], cwd: str | None, env: dict[str, str] | None, user: str | None
) -> CommandSpec:
    argv = (command,) if isinstance(command, str) else tuple(command)
    length = _check_argv(argv, is_list=not isinstance(command, str))
    variables = check_env(env, "env")
    length += sum(len(name.encode()) + len(value.encode()) + 2 for name, value in variables.items())
    if length > MAX_COMMAND_BYTES:
        raise _too_long(
            f"command and env have more than {MAX_COMMAND_BYTES} bytes together", "command", MAX_COMMAND_BYTES
        )
    if cwd is not None:
        check_path(cwd.encode(), "cwd")
    if user is not None:
        _check_user(user)
    return CommandSpec(
        argv=argv if isinstance(command, list) else (), command=command, cwd=cwd, env=variables, user=user
    )


def _check_argv(argv: tuple[str, ...], *, is_list: bool) -> int:
    """Returns how many bytes they are for execve, NULs included."""
    if not 1 <= len(argv) <= MAX_ARGUMENTS:
        raise _wrong(f"a command in list form has 1 to {MAX_ARGUMENTS} strings", "command")
    if not argv[0].strip():
        raise _wrong("the command is empty", "command[0]" if is_list else "command")
    total = 0
    for index, argument in enumerate(argv):
        field = f"command[{index}]" if is_list else "command"
        if "\0" in argument:
            raise _wrong("a command cannot have a NUL", field)
        length = len(argument.encode())
        if length > MAX_STRING_BYTES:
            raise _too_long(
                f"{field} has {length} bytes; the kernel takes {MAX_STRING_BYTES}", field, MAX_STRING_BYTES
            )
        total += length + 1
    return total


def check_env(env: dict[str, str] | None, field: str) -> dict[str, str]:
    """Variables that execve can carry."""
    total = 0
    for name, value in (env or {}).items():
        # A name is quoted in the answer, its value never: values are secrets.
        shown = f"{field}.{name[:100]}"
        if not name or "=" in name or "\0" in name:
            raise _wrong("the name of a variable is not empty and has no = and no NUL", shown)
        if "\0" in value:
            raise _wrong("the value of a variable cannot have a NUL", shown)
        total += len(name.encode()) + len(value.encode()) + 2
    if total > MAX_ENV_BYTES:
        raise Problem(
            Code.BODY_TOO_LARGE,
            f"{field} has more than {MAX_ENV_BYTES} bytes",
            field=field,
            remedy="write a file and read the values from it",
            limit=MAX_ENV_BYTES,
        )
    return env or {}


def _check_user(user: str) -> None:
    if not _USER.fullmatch(user):
        raise _wrong("user is a name or a number, and may have :group behind it", "user")
    for part in user.split(":"):
        if part.isdigit() and int(part) > _HIGHEST_ID:
            raise _wrong(f"the ids of a sandbox end at {_HIGHEST_ID}", "user", maximum=_HIGHEST_ID)


def _base64(text: str, field: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _wrong(f"{field} is not base64: {error}", field) from error
