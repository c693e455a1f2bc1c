"""The closed set of messages that api, keeper, init and the file agent speak.

    api ──────────── keeper          Hello/Welcome, Create → Created | Failed, Destroy → Destroyed,
     │                 │             Freeze → Frozen, Thaw → Thawed, Task → TaskDone,
     │                 │             Sweep → Swept, SetNetwork → NetworkSet, AskRefusals → Refusals;
     │                 │             unasked: Gone, Storage, NetworkState
     │                 ├─ network    Plug + network namespace → Plugged, SetPolicy → PolicySet, Unplug,
     │                 │             AskLog → LogRows; unasked: NetworkState
     │                 │ Prepare → Ready | Failed, Launch + root mount → Ready | Failed
     └──── init ◀──────┘             Attached, Running*, Exited*; Exec + 5 or 6 pipe ends → Started | Refused,
            │                        later Exited; CloseInput, Resize; Kill; Signal, KillAll → Killed;
            │                        Forget; Agent → AgentReady + socket; Dial → Dialled + socket;
            │                        Measure → Measured
            ├─ spawner            Exec + 3 pipes → Started | Refused, later Exited; Resize
            └─ agent ──── api        Read → Opened + file, Write → Writing + file, Commit, Abort, Put,
                                     Scan → Entries*, Remove → Done; each may answer Refused

One message is one packet of a SOCK_SEQPACKET socket; descriptors travel with the packet they belong to.
Both sides of every socket treat a message that is not in its set as the peer's fault and hang up.
Fields are ints, strings, tuples and dictionaries of strings, and at most one ``blob`` of raw bytes.
Strings hold bytes that are not UTF-8 as lone surrogates (``os.fsdecode``): file names need not be text.

``typing.NamedTuple`` rather than dataclasses: importing those costs every keeper and init 2 MiB.
"""

import enum
from typing import NamedTuple

#: Raised when the two sides of a socket come from different versions, as after a half-done upgrade.
PROTOCOL_VERSION = 7


# ---- api and keeper


class Hello(NamedTuple):
    """The first message of an api process to keeper."""

    version: int


class Welcome(NamedTuple):
    """keeper's answer: what it can enforce, which sandboxes live, and how many blanks are in stock."""

    version: int
    enforced: tuple[str, ...]
    sandboxes: tuple[str, ...]
    blanks: int = 0


class Create(NamedTuple):
    """Make a sandbox. ``layers`` are names of folders in ``layers/``, topmost first. Limits: 0 means none.
    ``cpu_quota_us`` is microseconds of processor time per 20 ms. ``network`` is its policy, as JSON.
    ``storage`` is the backend that holds ``storage_bytes`` and ``inodes``: ``quota`` (api has made the folder
    and given it its project), ``tmpfs``, ``watched``, or empty for none."""

    id: str
    layers: tuple[str, ...]
    hostname: str
    cpu_quota_us: int
    memory_bytes: int
    pids: int
    storage_bytes: int
    network: str
    storage: str = ""
    inodes: int = 0


class Created(NamedTuple):
    """The sandbox runs; its init listens on ``run/ID.sock``. ``cgroup``: its own, or empty where there is
    none."""

    id: str
    enforced: tuple[str, ...]
    cgroup: str = ""


class Storage(NamedTuple):
    """What a watched sandbox has written, told when it has passed its limit (its commands are being ended
    then) and when it is below it again."""

    id: str
    used_bytes: int
    used_inodes: int
    over: int


class Failed(NamedTuple):
    """A step of create failed; everything before it has been undone."""

    id: str
    stage: str
    errno: int
    detail: str


class Destroy(NamedTuple):
    """End a sandbox and everything of it. Idempotent."""

    id: str


class Destroyed(NamedTuple):
    """No process, mount, cgroup or socket of the sandbox is left."""

    id: str


class Freeze(NamedTuple):
    """Stop every process of a sandbox, init included. Idempotent."""

    id: str


class Frozen(NamedTuple):
    """They have stopped, if ``errno`` is 0; else the sandbox goes on. ``cgroup``: the path of its cgroup.

    EOPNOTSUPP: this host gives no cgroup. EBUSY: not within keeper's patience. ESRCH: no such sandbox runs.
    """

    id: str
    errno: int
    cgroup: str


class Sweep(NamedTuple):
    """Look for what belongs to no box, and remove what was there the last time too."""

    key: str


class Swept(NamedTuple):
    """What was removed: ``rule name``."""

    key: str
    findings: tuple[str, ...]


class Thaw(NamedTuple):
    """Let them go on. Idempotent; cancels a freeze that has not come to its end."""

    id: str


class Thawed(NamedTuple):
    """They go on, if ``errno`` is 0."""

    id: str
    errno: int


class Gone(NamedTuple):
    """A sandbox's init died by itself; what was left of it has been removed. ``status`` is waitpid's."""

    id: str
    status: int


class Task(NamedTuple):
    """Run one of keeper's known tasks in the outer namespace; the descriptors sent along are its 0, 1, 2."""

    key: str
    name: str
    argument: str


class TaskDone(NamedTuple):
    """``status`` is waitpid's."""

    key: str
    status: int


class SetNetwork(NamedTuple):
    """Put another policy, as JSON, in the place of a sandbox's."""

    id: str
    policy: str


class NetworkSet(NamedTuple):
    """The policy holds, or ``detail`` says why the old one still does."""

    id: str
    detail: str


class AskRefusals(NamedTuple):
    """What the network has refused to a sandbox."""

    id: str


class Refusals(NamedTuple):
    """``rows`` are JSON arrays [time, reason, protocol, address, port, name], oldest first."""

    id: str
    rows: tuple[str, ...]


class NetworkState(NamedTuple):
    """Whether packets of sandboxes get out; if not, ``detail`` says why. Unasked, and after Welcome."""

    up: int
    detail: str


# ---- keeper and its network process


class Plug(NamedTuple):
    """Give box ``number`` a link into the network namespace sent along. ``slot`` -1: any that is free;
    otherwise it has that one already, and the process that knew is gone. An empty ``policy``: nothing is
    reached."""

    number: int
    slot: int
    policy: str


class Plugged(NamedTuple):
    """The link, or why there is none."""

    number: int
    slot: int
    addresses: tuple[str, ...]
    nameserver: str
    detail: str


class SetPolicy(NamedTuple):
    """The policy of a box, as JSON."""

    number: int
    policy: str


class PolicySet(NamedTuple):
    """It holds, or ``detail`` says why not."""

    number: int
    detail: str


class Unplug(NamedTuple):
    """The box is gone: its link, connections and policy go too."""

    number: int


class AskLog(NamedTuple):
    """What was refused to a box."""

    number: int


class LogRows(NamedTuple):
    """``rows`` as in Refusals."""

    number: int
    rows: tuple[str, ...]


# ---- keeper and a blank


class Prepare(NamedTuple):
    """What a blank makes ready before it knows its image or tenant. Sent once its id maps are written.

    ``devices``: names in /dev to bind from the host. ``masked``, ``readonly``: paths below /proc and /sys.
    ``budgets``: ``NAME=NUMBER`` for /proc/sys/user. ``rlimits``: ``NUMBER=SOFT:HARD`` for setrlimit.
    """

    devices: tuple[str, ...]
    masked: tuple[str, ...]
    readonly: tuple[str, ...]
    budgets: tuple[str, ...]
    rlimits: tuple[str, ...]
    shm_bytes: int


class Launch(NamedTuple):
    """What turns a blank into a sandbox's init. The root mount comes along as a descriptor.

    ``addresses`` are those of its link; an empty ``nameserver``: it has none."""

    id: str
    hostname: str
    addresses: tuple[str, ...]
    nameserver: str


class Ready(NamedTuple):
    """The blank is prepared (``id`` empty), or init stands in its root, unprivileged, and listens."""

    id: str


# ---- api and init


class Attached(NamedTuple):
    """init's greeting to whoever connects; ``commands`` many Running and Exited messages follow. The end of a
    command that nobody has forgotten comes right after its Running.

    The newest connection takes over.
    """

    version: int
    commands: int


class Running(NamedTuple):
    """A command that was ordered by an earlier api process, with the read ends of its output. ``pid`` is 0
    before it has started: Started or Refused follows.

    ``started_ns``: since the epoch.
    """

    key: str
    pid: int
    argv: tuple[str, ...]
    cwd: str
    started_ns: int


class Exec(NamedTuple):
    """Start a command. Descriptors: stdin, stdout, stderr, and the ends to keep: the read ends of the last
    two and, if stdin stays open, its write end. An empty ``user`` is root, an empty ``cwd``
    the user's home, or / if that cannot be entered. ``environ`` holds ``NAME=value``. ``tty``: on a terminal
    of this size, ``rows << 16 | columns``; 0: on none."""

    key: str
    argv: tuple[str, ...]
    environ: tuple[str, ...]
    cwd: str
    user: str
    tty: int = 0


class CloseInput(NamedTuple):
    """Close the write end of a command's stdin that is kept: it reads its end, once nobody else has it."""

    key: str


class Resize(NamedTuple):
    """A command's terminal has another size, ``rows << 16 | columns``. Passed on to its spawner."""

    key: str
    tty: int


class Started(NamedTuple):
    """The command runs; ``pid`` is the one in the sandbox."""

    key: str
    pid: int


class Refused(NamedTuple):
    """A request could not be met. ``stage`` is the step that failed, ``errno`` the system's word on it."""

    key: str
    stage: str
    errno: int
    detail: str


class Exited(NamedTuple):
    """What waitpid said of a command; times are microseconds, ``peak_kib`` its largest resident size."""

    key: str
    status: int
    user_us: int
    system_us: int
    peak_kib: int
    oom: int


class Kill(NamedTuple):
    """End a command's whole tree."""

    key: str


class Signal(NamedTuple):
    """Send a signal to a command and what is in its process group. Killed tells whether it was there."""

    key: str
    command: str
    number: int


class KillAll(NamedTuple):
    """End every process of the sandbox but init."""

    key: str


class Killed(NamedTuple):
    """How many processes were ended by KillAll, or signalled by Signal (the group counts as one)."""

    key: str
    ended: int


class Measure(NamedTuple):
    """Tell what each command that runs uses, with all it has started."""

    key: str


class Measured(NamedTuple):
    """``rows``: "COMMAND CPU-MILLISECONDS RESIDENT-BYTES". A sandbox can make these numbers up."""

    key: str
    rows: tuple[str, ...]


class Forget(NamedTuple):
    """The api process has the result and the output: init may drop what it kept of the command."""

    key: str


class Agent(NamedTuple):
    """Open a file agent that acts as ``user``."""

    key: str
    user: str


class AgentReady(NamedTuple):
    """The agent; its socket comes along."""

    key: str


class Dial(NamedTuple):
    """Begin to connect to a port of the sandbox's own loopback; ``family`` is 4 or 6, as in IPv4 and IPv6."""

    key: str
    family: int
    port: int


class Dialled(NamedTuple):
    """The socket comes along. It may still be connecting: init waits for nobody, so api does."""

    key: str


# ---- api and a file agent


class Read(NamedTuple):
    """Open a regular file for reading."""

    path: str


class Opened(NamedTuple):
    """The file, as a descriptor. ``copied``: it is a copy in memory, since the original is not plain data."""

    size: int
    mtime_ns: int
    copied: int


class Write(NamedTuple):
    """Begin to replace a file; ``mode`` -1 keeps what is there, or takes the default for a new file."""

    path: str
    mode: int


class Writing(NamedTuple):
    """The temporary file that Commit will put in place, as a descriptor."""

    key: str


class Commit(NamedTuple):
    """Put the written file in the place of the old one, atomically."""

    key: str


class Abort(NamedTuple):
    """Throw the written file away."""

    key: str


class Put(NamedTuple):
    """Write, with the contents in the message: one round trip for small files."""

    path: str
    mode: int
    blob: bytes


class Scan(NamedTuple):
    """List a directory, at most ``limit`` entries."""

    path: str
    recursive: int
    limit: int


class Entries(NamedTuple):
    """A part of a listing. ``rows`` are JSON arrays [name, kind, size, mode, uid, gid, mtime_ns, target]."""

    rows: tuple[str, ...]
    more: int
    truncated: int


class Remove(NamedTuple):
    """Remove a file or, with ``recursive``, a directory and all below it."""

    path: str
    recursive: int


class Done(NamedTuple):
    """It is done. ``size`` where bytes were written."""

    size: int


Message = (
    Hello | Welcome | Create | Created | Storage | Failed | Destroy | Destroyed | Gone | Task | TaskDone
    | SetNetwork | NetworkSet | AskRefusals | Refusals | NetworkState
    | Plug | Plugged | SetPolicy | PolicySet | Unplug | AskLog | LogRows
    | Prepare | Launch | Ready
    | Attached | Running | Exec | Started | Refused | Exited | Kill | Signal | KillAll | Killed | Forget
    | Agent | AgentReady
    | Read | Opened | Write | Writing | Commit | Abort | Put | Scan | Entries | Remove | Done
    | Dial | Dialled
    | Freeze | Frozen | Thaw | Thawed | Sweep | Swept
    | CloseInput | Resize
    | Measure | Measured
)  # fmt: skip


class Stage(enum.StrEnum):
    """Steps that can fail inside a sandbox, as named in ``Refused.stage``."""

    USER = "user"
    CWD = "cwd"
    FORK = "fork"
    EXEC = "exec"
    PATH = "path"
    TYPE = "type"
    BUSY = "busy"
    SIZE = "size"
    DIAL = "dial"
    UNKNOWN = "unknown"


#: Which messages a socket carries, by what its receiving end is. Everything else is the peer's fault.
TO_KEEPER: frozenset[type] = frozenset(
    {Hello, Create, Destroy, Freeze, Thaw, Sweep, Task, SetNetwork, AskRefusals}
)
FROM_KEEPER: frozenset[type] = frozenset(
    {
        *{Welcome, Created, Storage, Failed, Destroyed, Frozen, Thawed, Swept, Gone, TaskDone},
        *{NetworkSet, Refusals, NetworkState},
    }
)
TO_NETWORK: frozenset[type] = frozenset({Plug, SetPolicy, Unplug, AskLog})
FROM_NETWORK: frozenset[type] = frozenset({Plugged, PolicySet, LogRows, NetworkState})
TO_BLANK: frozenset[type] = frozenset({Prepare, Launch})
FROM_BLANK: frozenset[type] = frozenset({Ready, Failed})
TO_INIT: frozenset[type] = frozenset(
    {Exec, Kill, Signal, KillAll, Forget, Agent, Dial, CloseInput, Resize, Measure}
)
FROM_INIT: frozenset[type] = frozenset(
    {Attached, Running, Started, Refused, Exited, Killed, AgentReady, Dialled, Measured}
)
TO_SPAWNER: frozenset[type] = frozenset({Exec, Resize})
FROM_SPAWNER: frozenset[type] = frozenset({Started, Refused, Exited})
TO_AGENT: frozenset[type] = frozenset({Read, Write, Commit, Abort, Put, Scan, Remove})
FROM_AGENT: frozenset[type] = frozenset({Opened, Writing, Entries, Done, Refused})
