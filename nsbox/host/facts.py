"""What this host offers, as plain facts. What they mean for nsbox is said by ``nsbox doctor``.

Every probe takes the roots it reads below (``proc``, ``sys``, ``etc`` …), so that it is tested on a folder.
A probe never raises: a file that is missing or unreadable is itself a fact.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from nsbox.host import quota

#: One range of this size holds all ids of the sandboxes: 0..65535, mapped in one line.
IDS_NEEDED = 65536
_PROBE_TIMEOUT_S = 20
#: Below that a daemon does not start: its record, its sockets and a sandbox's first writes need room.
FREE_NEEDED = 32 * 1024**2
#: Where systemd puts the unit of `nsbox setup --service`.
SERVICE_CGROUP = "system.slice/nsbox.service"
#: Below this number distributions keep ordinary users; useradd's own SUB_UID_MIN is the same.
_FIRST_SUB_ID = 100_000
_LAST_SUB_ID = 2**32 - 2


class Mapper(StrEnum):
    """What newuidmap or newgidmap is on this host."""

    MISSING = "missing"
    UNPRIVILEGED = "unprivileged"  # neither setuid root nor with file capabilities: it can map nothing
    READY = "ready"


class Kernel(msgspec.Struct, frozen=True):
    """The running kernel."""

    release: str
    version: tuple[int, int]


class UserNamespaces(msgspec.Struct, frozen=True, kw_only=True):
    """The switches that can forbid user namespaces to ordinary users. ``None``: this kernel has none such."""

    limit: int | None
    debian_switch: bool | None
    apparmor_restricts: bool | None
    profile: str | None  # the AppArmor profile this process runs under


class IdRange(msgspec.Struct, frozen=True):
    """A line of /etc/subuid or /etc/subgid."""

    start: int
    count: int

    @property
    def last(self) -> int:
        return self.start + self.count - 1


class Cgroup(msgspec.Struct, frozen=True, kw_only=True):
    """The cgroup v2 folder that nsbox would work in, and what may be done there."""

    mount: str | None = None
    folder: str | None = None
    delegated: bool = False
    controllers: tuple[str, ...] = ()


class Systemd(msgspec.Struct, frozen=True, kw_only=True):
    """systemd as the system's manager, and the manager of this user."""

    running: bool
    user_manager: bool


class StateDisk(msgspec.Struct, frozen=True, kw_only=True):
    """The file system that holds the state folder (or would, where the folder is not made yet)."""

    folder: str
    fstype: str | None
    free_bytes: int
    writable: bool


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """Project quotas on the file system of the state folder. ``fault``: why the pool that setup prepared
    there does not hold."""

    mounted: bool
    pool: bool
    fault: str | None = None


class Attempt(msgspec.Struct, frozen=True):
    """One thing really tried, and what it answered where it failed."""

    works: bool
    answer: str = ""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything ``doctor`` looks at."""

    user: str
    uid: int
    kernel: Kernel
    user_namespaces: UserNamespaces
    no_new_privs: bool
    sub_uids: tuple[IdRange, ...]
    sub_gids: tuple[IdRange, ...]
    free_sub_ids: IdRange | None
    newuidmap: Mapper
    newgidmap: Mapper
    cgroup: Cgroup
    systemd: Systemd
    swap: bool
    overlayfs: bool
    seccomp_filter: bool
    prctl: bool
    state: StateDisk
    quotas: Quotas
    tun: bool
    pasta: str | None
    landlock: bool
    namespaces_tried: Attempt
    proc_tried: Attempt
    overlay_tried: Attempt


def read(path: str) -> str | None:
    """The text of a file, or ``None``."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _number(path: str) -> int | None:
    try:
        return int(read(path) or "")
    except ValueError:
        return None


def kernel(proc: str = "/proc") -> Kernel:
    release = (read(f"{proc}/sys/kernel/osrelease") or "").strip()
    match = re.match(r"(\d+)\.(\d+)", release)
    return Kernel(release, (int(match[1]), int(match[2])) if match else (0, 0))


def user_namespaces(proc: str = "/proc") -> UserNamespaces:
    debian = _number(f"{proc}/sys/kernel/unprivileged_userns_clone")
    ubuntu = _number(f"{proc}/sys/kernel/apparmor_restrict_unprivileged_userns")
    return UserNamespaces(
        limit=_number(f"{proc}/sys/user/max_user_namespaces"),
        debian_switch=None if debian is None else debian != 0,
        apparmor_restricts=None if ubuntu is None else ubuntu != 0,
        profile=(read(f"{proc}/self/attr/current") or "").strip("\0\n ") or None,
    )


def closed_switches(switches: UserNamespaces) -> dict[str, int]:
    """The sysctls that forbid user namespaces to everybody but root, and what they should be."""
    found = {}
    if switches.limit == 0:
        found["user.max_user_namespaces"] = 15000
    if switches.debian_switch is False:
        found["kernel.unprivileged_userns_clone"] = 1
    return found


def forbidden(switches: UserNamespaces) -> tuple[str, str] | None:
    """Which switch forbids user namespaces to everybody but root, and the command that turns it."""
    for name, value in closed_switches(switches).items():
        return f"{name} is 0", f"sudo sysctl -w {name}={value}"
    return None


def no_new_privs(proc: str = "/proc") -> bool:
    """With this bit set, a setuid program such as newuidmap gains nothing."""
    return re.search(r"^NoNewPrivs:\s*1$", read(f"{proc}/self/status") or "", re.MULTILINE) is not None


def _sub_id_lines(path: str) -> Iterator[tuple[str, IdRange]]:
    for line in (read(path) or "").splitlines():
        who, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        # isdecimal, not int(): int() takes "1_000" and "-5", which newuidmap does not.
        if start.isdecimal() and count.isdecimal():
            yield who, IdRange(int(start), int(count))


def sub_ids(path: str, user: str, uid: int) -> tuple[IdRange, ...]:
    """The ranges of one user; subuid(5) lets a line name the user or give the number."""
    return tuple(one for who, one in _sub_id_lines(path) if who in (user, str(uid)))


def all_sub_ids(path: str) -> tuple[IdRange, ...]:
    """The ranges of everybody."""
    return tuple(one for _, one in _sub_id_lines(path))


def widest(ranges: Sequence[IdRange]) -> int:
    """How many ids the largest single range has: sandboxes are mapped to one range, in one piece."""
    return max((one.count for one in ranges), default=0)


def free_range(taken: Iterable[IdRange], size: int = IDS_NEEDED) -> IdRange | None:
    """The lowest range of ``size`` ids that touches none of ``taken``: two users sharing ids could signal and
    trace each other's processes. ``None``: none is left."""
    start = _FIRST_SUB_ID
    for one in sorted(taken, key=lambda item: item.start):
        if one.start - start >= size:
            break
        start = max(start, one.start + one.count)
    if start + size - 1 > _LAST_SUB_ID:
        return None
    return IdRange(start, size)


def free_sub_ids(etc: str = "/etc") -> IdRange | None:
    """A range that is free for uids and for gids. Real users with numbers up there (directory services)
    would otherwise be the same as a sandbox's."""
    taken = [*all_sub_ids(f"{etc}/subuid"), *all_sub_ids(f"{etc}/subgid")]
    return free_range([*taken, *(IdRange(entry.pw_uid, 1) for entry in pwd.getpwall())])


def mapper(name: str, path: str | None = None) -> Mapper:
    program = shutil.which(name, path=path)
    if program is None:
        return Mapper.MISSING
    with contextlib.suppress(OSError):
        status = os.stat(program)
        if status.st_uid == 0 and status.st_mode & stat.S_ISUID:
            return Mapper.READY
    try:
        os.getxattr(program, "security.capability")
    except OSError:
        return Mapper.UNPRIVILEGED
    return Mapper.READY


def _unescape(field: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def mounts(proc: str = "/proc") -> list[tuple[str, str]]:
    """(mount point, file system type) in the order of mounting."""
    found = []
    for line in (read(f"{proc}/self/mountinfo") or "").splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) > 4:
            found.append((_unescape(fields[4]), after.split(" ", 1)[0]))
    return found


def own_cgroup(proc: str = "/proc") -> str | None:
    """This process's place in the v2 tree, from the line ``0::/path``."""
    for line in (read(f"{proc}/self/cgroup") or "").splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None


def inspect_cgroup(mount: str, folder: str) -> Cgroup:
    """Delegation is write access to the folder and to two files in it: see cgroup-v2.rst, "Delegation"."""
    needed = (folder, f"{folder}/cgroup.procs", f"{folder}/cgroup.subtree_control")
    return Cgroup(
        mount=mount,
        folder=folder,
        delegated=all(os.access(path, os.W_OK) for path in needed),
        controllers=tuple((read(f"{folder}/cgroup.controllers") or "").split()),
    )


def cgroup(proc: str = "/proc", user_manager_of: int | None = None) -> Cgroup:
    """The folder this process is in or, where that is not delegated, the one the user's systemd manager owns,
    or that of the running service, where this user is the service's.

    ``user_manager_of`` is the uid whose manager can be asked for a scope.
    """
    mount = next((point for point, fstype in mounts(proc) if fstype == "cgroup2"), None)
    place = own_cgroup(proc)
    if mount is None or place is None:
        return Cgroup(mount=mount)
    here = inspect_cgroup(mount, os.path.normpath(f"{mount}/{place}"))
    if here.delegated:
        return here
    uid = user_manager_of
    manager = f"user.slice/user-{uid}.slice/user@{uid}.service" if uid is not None else None
    # Only the service's own user may write there, so this is never somebody else's service.
    for other in (manager, SERVICE_CGROUP):
        if other is not None and (theirs := inspect_cgroup(mount, f"{mount}/{other}")).delegated:
            return theirs
    return here


def systemd(environment: Mapping[str, str], uid: int, run: str = "/run") -> Systemd:
    runtime = environment.get("XDG_RUNTIME_DIR") or f"{run}/user/{uid}"
    return Systemd(
        running=os.path.isdir(f"{run}/systemd/system"),
        # systemd-run prefers the private socket and takes the bus where there is none.
        user_manager=os.path.exists(f"{runtime}/systemd/private") or os.path.exists(f"{runtime}/bus"),
    )


def swap(proc: str = "/proc") -> bool:
    return len((read(f"{proc}/swaps") or "").splitlines()) > 1


def overlayfs(proc: str = "/proc", modules: str = "/lib/modules") -> bool:
    """Built in or loaded, or a module that the first mount will load."""
    if re.search(r"\boverlay$", read(f"{proc}/filesystems") or "", re.MULTILINE):
        return True
    return "/overlay.ko" in (read(f"{modules}/{kernel(proc).release}/modules.dep") or "")


def seccomp_filter(proc: str = "/proc") -> bool:
    return "errno" in (read(f"{proc}/sys/kernel/seccomp/actions_avail") or "").split()


def landlock(sys: str = "/sys") -> bool:
    return "landlock" in (read(f"{sys}/kernel/security/lsm") or "").split(",")


def prctl_importable() -> bool:
    """Really imported: the extension may be there and its libcap may not."""
    try:
        importlib.import_module("prctl")
    except ImportError:
        return False
    return True


def filesystem_type(path: str, proc: str = "/proc") -> str | None:
    """By the longest mount point above ``path``; st_dev would not do, btrfs invents device numbers."""
    best: tuple[str, str] | None = None
    for point, fstype in mounts(proc):
        above = path == point or path.startswith(point.rstrip("/") + "/")
        # Not "longer than": of two mounts on one point the later one hides the earlier.
        if above and (best is None or len(point) >= len(best[0])):
            best = (point, fstype)
    return best[1] if best else None


def project_quota(path: str, proc: str = "/proc") -> bool:
    """Whether the file system that holds ``path`` was mounted with project quotas. XFS says prjquota as well,
    whatever the option was called."""
    best, options = "", ""
    place = os.path.realpath(nearest_existing(path))
    for line in (read(f"{proc}/self/mountinfo") or "").splitlines():
        before, separator, after = line.partition(" - ")
        fields, more = before.split(" "), after.split(" ")
        if separator and len(fields) > 4 and len(more) > 2:
            point = _unescape(fields[4])
            above = place == point or place.startswith(point.rstrip("/") + "/")
            if above and len(point) >= len(best):
                best, options = point, more[2]
    return "prjquota" in options.split(",")


def quotas(folder: str, proc: str = "/proc") -> Quotas:
    """The pool is tried and not believed: quotas can be turned off under a file that names them."""
    pool = quota.load(folder)
    fault = quota.probe(folder, pool) if pool is not None else None
    return Quotas(mounted=project_quota(folder, proc), pool=pool is not None, fault=fault)


def whole_disk(folder: str, proc: str = "/proc", sys: str = "/sys") -> str | None:
    """``MAJOR:MINOR`` of the disk that holds a folder. io.max takes disks, not partitions."""
    try:
        found = os.stat(folder).st_dev
    except OSError:
        return None
    number = f"{os.major(found)}:{os.minor(found)}"
    if os.major(found) == 0:  # btrfs and its like have numbers of their own: the mount's source is the disk
        source = _mount_source(number, proc)
        if source is None:
            return None
        number = source
    block = f"{sys}/dev/block/{number}"
    if os.path.exists(f"{block}/partition"):
        return (read(f"{block}/../dev") or "").strip() or None
    return number if os.path.exists(block) else None


def _mount_source(number: str, proc: str) -> str | None:
    for line in (read(f"{proc}/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[2:3] == [number]:
            try:
                device = os.stat(_unescape(after.split(" ")[1])).st_rdev
            except (OSError, IndexError):
                return None
            return f"{os.major(device)}:{os.minor(device)}" if device else None
    return None


def nearest_existing(path: str) -> str:
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def state_disk(folder: str, proc: str = "/proc") -> StateDisk:
    place = os.path.realpath(nearest_existing(folder))
    try:
        figures = os.statvfs(place)
        free = figures.f_bavail * figures.f_frsize
    except OSError:
        free = 0
    return StateDisk(
        folder=folder,
        fstype=filesystem_type(place, proc),
        free_bytes=free,
        writable=os.access(place, os.W_OK | os.X_OK),
    )


def boot_id(proc: str = "/proc") -> str:
    """The same for as long as the machine is up: CLOCK_BOOTTIME means nothing beyond it."""
    return (read(f"{proc}/sys/kernel/random/boot_id") or "").strip()


def boot_time() -> float:
    """Seconds since boot, those asleep included; no clock change moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def attempt(argv: Sequence[str]) -> Attempt:
    """Run a short command and keep the last line of what it complains about."""
    # A file and not a pipe, and a session of its own: util-linux' unshare, refused a namespace,
    # leaves a child behind that waits for ever and keeps a pipe open (seen with 2.38).
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        except OSError as error:
            return Attempt(False, str(error))
        try:
            status = process.wait(_PROBE_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            return Attempt(False, str(error))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    if status == 0:
        return Attempt(True)
    return Attempt(False, lines[-1] if lines else f"{argv[0]} ended with status {status}")


# util-linux does the probing, in programs of its own: a user namespace cannot be left again.
# --map-auto runs newuidmap and newgidmap as nsbox does. --map-root-user matters too: Ubuntu lets the bare
# unshare succeed and then refuses every use of the namespace.
_UNSHARE = ("unshare", "--user", "--map-root-user", "--map-auto")

_OVERLAY = """
cd "$1" && mkdir lower upper work merged && : >lower/file &&
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged &&
rm merged/file && mkdir merged/file && test -c upper/file -o -d upper/file
status=$?
umount merged 2>/dev/null
rm -rf lower upper work merged
exit $status
"""


def try_namespaces() -> Attempt:
    """A user namespace with a whole range of ids in it, and a mount namespace."""
    return attempt([*_UNSHARE, "--mount", "true"])


def try_proc() -> Attempt:
    """A fresh /proc. Refused in most containers: something is mounted over parts of theirs."""
    return attempt([*_UNSHARE, "--mount", "--pid", "--fork", "--mount-proc", "true"])


def try_overlay(folder: str) -> Attempt:
    """An overlay whose upper layer is on the disk of the state folder. Leaves nothing behind: the folder
    ``work/work`` belongs to mode 000, so the removal, too, happens inside."""
    place = nearest_existing(folder)
    scratch = os.path.join(place, f".nsbox-probe-{os.getpid()}")
    try:
        os.mkdir(scratch, 0o700)
    except OSError as error:
        return Attempt(False, f"{place}: {error.strerror}")
    try:
        return attempt([*_UNSHARE, "--mount", "sh", "-c", _OVERLAY, "sh", scratch])
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(scratch)


def gather(user: str, uid: int, state_dir: str, environment: Mapping[str, str]) -> HostFacts:
    """All facts about the host as this process sees it; ``user`` is who it runs as."""
    managers = systemd(environment, uid)
    return HostFacts(
        user=user,
        uid=uid,
        kernel=kernel(),
        user_namespaces=user_namespaces(),
        no_new_privs=no_new_privs(),
        sub_uids=sub_ids("/etc/subuid", user, uid),
        sub_gids=sub_ids("/etc/subgid", user, uid),
        free_sub_ids=free_sub_ids(),
        newuidmap=mapper("newuidmap"),
        newgidmap=mapper("newgidmap"),
        cgroup=cgroup(user_manager_of=uid if managers.user_manager else None),
        systemd=managers,
        swap=swap(),
        overlayfs=overlayfs(),
        seccomp_filter=seccomp_filter(),
        prctl=prctl_importable(),
        state=state_disk(state_dir),
        quotas=quotas(state_dir),
        tun=os.access("/dev/net/tun", os.R_OK | os.W_OK),
        pasta=shutil.which("pasta"),
        landlock=landlock(),
        namespaces_tried=try_namespaces(),
        proc_tried=try_proc(),
        overlay_tried=try_overlay(state_dir),
    )
