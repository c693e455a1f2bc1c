"""``nsbox doctor``: what this host offers, why it matters, and the command that mends what is missing.

Exit status: 0, sandboxes can be made and every limit holds; 1, something required is missing; 3, sandboxes
can be made and not every limit holds (``nsbox serve --limits best-effort``). Not 2: that is click's status
for a wrong command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum

import click
import msgspec

from nsbox import settings
from nsbox.cli import filters
from nsbox.cli.output import paint
from nsbox.host import account, facts, walls
from nsbox.host.facts import FREE_NEEDED, IDS_NEEDED, Attempt, HostFacts, IdRange, Mapper, widest
from nsbox.settings import StorageMode, Walls

#: cgroup.kill came with 5.14, the last of what nsbox needs; clone into a cgroup with 5.7, overlay mounts in a
#: user namespace with 5.11, the mount calls by descriptor with 5.2.
KERNEL_NEEDED = (5, 14)
_CONTROLLERS_OF_LIMITS = ("cpu", "memory", "pids")
_FREE_WANTED = 2 * 1024**3
#: overlayfs refuses these as the writable layer: no user.* attributes, no whiteouts or no RENAME_EXCHANGE.
_NO_UPPER = ("overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "vfat", "exfat", "ntfs", "ntfs3", "ecryptfs")
_APPARMOR_REMEDY = "sudo nsbox setup --profile-only, then run: aa-exec -p nsbox -- nsbox …"


class Need(StrEnum):
    """What becomes of nsbox without it."""

    REQUIRED = "required"
    LIMITS = "limits"
    OPTIONAL = "optional"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of the host."""

    feature: str
    need: Need
    ok: bool
    found: str
    why: str
    remedy: str | None = None


class Status(StrEnum):
    """The verdict. Each is an exit status."""

    READY = "ready"
    UNUSABLE = "unusable"
    WITHOUT_LIMITS = "without all limits"

    @property
    def exit_code(self) -> int:
        return {Status.READY: 0, Status.UNUSABLE: 1, Status.WITHOUT_LIMITS: 3}[self]


def verdict(findings: Sequence[Finding]) -> Status:
    missing = {finding.need for finding in findings if not finding.ok}
    if Need.REQUIRED in missing:
        return Status.UNUSABLE
    return Status.WITHOUT_LIMITS if Need.LIMITS in missing else Status.READY


def assess(host: HostFacts, storage: StorageMode = StorageMode.AUTO) -> list[Finding]:
    """Facts to findings, in the order in which they should be mended. ``storage`` is the setting."""
    return [
        *_kernel(host),
        *_namespaces(host),
        *_ids(host),
        *_tried(host),
        *_state(host),
        *_limits(host),
        _quotas(host, storage),
        *_extras(host),
    ]


def _kernel(host: HostFacts) -> Iterator[Finding]:
    needed = ".".join(map(str, KERNEL_NEEDED))
    yield Finding(
        feature="kernel",
        need=Need.REQUIRED,
        ok=host.kernel.version >= KERNEL_NEEDED,
        found=host.kernel.release or "unknown",
        why=f"{needed} or newer can kill a whole cgroup at once and mount overlays without root",
        remedy="upgrade to Debian 12, Ubuntu 24.04 or newer",
    )
    yield Finding(
        feature="seccomp filters",
        need=Need.REQUIRED,
        ok=host.seccomp_filter,
        found="there" if host.seccomp_filter else "this kernel has none",
        why="a sandbox may make only the system calls on a list",
        remedy="use a kernel with CONFIG_SECCOMP_FILTER (every distribution's has it)",
    )
    yield Finding(
        feature="python-prctl",
        need=Need.REQUIRED,
        ok=host.prctl,
        found="can be imported" if host.prctl else "cannot be imported",
        why="capabilities are dropped through it",
        remedy="sudo apt install gcc libcap-dev python3-dev, then install nsbox again",
    )


def _namespaces(host: HostFacts) -> Iterator[Finding]:
    switches = host.user_namespaces
    why = "a sandbox is made of namespaces, and without root they all hang on a user namespace"
    found, remedy = facts.forbidden(switches) or ("allowed", None)
    if remedy is None and switches.apparmor_restricts and not host.namespaces_tried.works:
        found, remedy = "AppArmor allows them only to named profiles", _APPARMOR_REMEDY
    yield Finding(
        feature="user namespaces", need=Need.REQUIRED, ok=remedy is None, found=found, why=why, remedy=remedy
    )
    yield Finding(
        feature="setuid programs",
        need=Need.REQUIRED,
        ok=not host.no_new_privs,
        found="forbidden by NoNewPrivileges" if host.no_new_privs else "allowed",
        why="newuidmap is one, and it alone may map a range of ids",
        remedy="start nsbox without NoNewPrivileges= (or docker's no-new-privileges); nsbox.service names "
        "the unit options that imply it",
    )


def _ids(host: HostFacts) -> Iterator[Finding]:
    for name, state in (("newuidmap", host.newuidmap), ("newgidmap", host.newgidmap)):
        mend = "sudo apt install uidmap" if state is Mapper.MISSING else "sudo apt install --reinstall uidmap"
        yield Finding(
            feature=name,
            need=Need.REQUIRED,
            ok=state is Mapper.READY,
            found=state.value,
            why="it gives the sandboxes user ids other than the daemon's",
            remedy=mend,
        )
    free = host.free_sub_ids
    for what, path, owned in (("uid", "/etc/subuid", host.sub_uids), ("gid", "/etc/subgid", host.sub_gids)):
        by_hand = (
            f"sudo usermod --add-sub{what}s {free.start}-{free.last} {host.user}" if free else "none free"
        )
        yield Finding(
            feature=f"subordinate {what}s",
            need=Need.REQUIRED,
            ok=widest(owned) >= IDS_NEEDED,
            found=_in_words(owned) or f"{host.user} has none in {path}",
            why=f"a sandbox has {IDS_NEEDED} {what}s of its own, in one piece",
            remedy=f"{by_hand} (or: sudo nsbox setup --user {host.user} --ids-only)",
        )


def _in_words(ranges: Sequence[IdRange]) -> str:
    return ", ".join(f"{one.start}-{one.last}" for one in ranges)


def _tried(host: HostFacts) -> Iterator[Finding]:
    yield _attempt(
        "namespaces, tried",
        host.namespaces_tried,
        "a promising host may still refuse, for instance inside a container",
        "mend what is missing above; in a container: docker run --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined",
    )
    yield _attempt(
        "a fresh /proc, tried",
        host.proc_tried,
        "a sandbox sees only its own processes; mounts over parts of /proc forbid that",
        "in a container: docker run --security-opt systempaths=unconfined",
    )


def _attempt(feature: str, tried: Attempt, why: str, remedy: str) -> Finding:
    return Finding(
        feature=feature,
        need=Need.REQUIRED,
        ok=tried.works,
        found="works" if tried.works else tried.answer or "fails",
        why=why,
        remedy=remedy,
    )


def _state(host: HostFacts) -> Iterator[Finding]:
    state = host.state
    elsewhere = "set NSBOX_STATE_DIR to a folder of yours on a local ext4, XFS or btrfs disk"
    yield Finding(
        feature="overlayfs",
        need=Need.REQUIRED,
        ok=host.overlayfs,
        found="there" if host.overlayfs else "neither built in nor a module",
        why="sandboxes share the image and keep only what they change",
        remedy="sudo modprobe overlay",
    )
    yield Finding(
        feature="state folder",
        need=Need.REQUIRED,
        ok=state.writable,
        found=state.folder if state.writable else f"{host.user} cannot write to {state.folder}",
        why="images, records and what the sandboxes write are kept there",
        remedy=elsewhere,
    )
    refused = state.fstype in _NO_UPPER or (state.fstype or "").startswith("fuse")
    tried = host.overlay_tried
    yield Finding(
        feature="overlay there, tried",
        need=Need.REQUIRED,
        ok=tried.works and not refused,
        found=f"works on {state.fstype}"
        if tried.works and not refused
        else f"{state.fstype}: {tried.answer}",
        why="not every file system can hold the writable layer of an overlay",
        remedy=elsewhere,
    )
    free = f"{state.free_bytes / 1024**3:.1f} GiB"
    yield Finding(
        feature="free disk",
        need=Need.REQUIRED if state.free_bytes < FREE_NEEDED else Need.OPTIONAL,
        ok=state.free_bytes >= _FREE_WANTED,
        found=free,
        why="an image takes up to 1 GiB, a sandbox 1 GiB by default",
        remedy=f"free some space, or {elsewhere}",
    )


def _limits(host: HostFacts) -> Iterator[Finding]:
    group = host.cgroup
    yield Finding(
        feature="cgroup v2",
        need=Need.LIMITS,
        ok=group.mount is not None and group.folder is not None,
        found=group.mount or "not mounted",
        why="limits, pause and a sure kill are cgroup v2's",
        remedy=_UNIFIED,
    )
    yield Finding(
        feature="cgroup delegation",
        need=Need.LIMITS,
        ok=group.delegated,
        found=group.folder if group.delegated and group.folder else f"{host.user} owns no cgroup here",
        why="each sandbox is a cgroup below the daemon's",
        remedy=_delegation_remedy(host),
    )
    for name in (*_CONTROLLERS_OF_LIMITS, "io"):
        there = group.delegated and name in group.controllers
        yield Finding(
            feature=f"{name} controller",
            need=Need.OPTIONAL if name == "io" else Need.LIMITS,
            ok=there,
            found="delegated" if there else "not delegated",
            why=_WHY_CONTROLLER[name],
            remedy=_controller_remedy(host),
        )


def _quotas(host: HostFacts, storage: StorageMode) -> Finding:
    """Optional where another way to hold storageMb is taken instead, which the settings decide."""
    there, folder = host.quotas, host.state.folder
    found = "a pool that holds"
    if there.fault is not None:
        found = f"a pool that does not hold: {there.fault}"
    elif not there.pool:
        found = "mounted, no pool prepared" if there.mounted else f"{host.state.fstype} without them"
    if there.mounted:
        remedy = f"sudo nsbox setup --quota-only --user {host.user} --state-dir {folder}"
    elif host.state.fstype == "ext4":
        remedy = f"while it is not mounted: sudo tune2fs -O project,quota -Q prjquota DEVICE; {_PRJQUOTA}"
    elif host.state.fstype == "xfs":
        remedy = _PRJQUOTA
    else:
        remedy = "put the state folder on ext4 or XFS, mounted with prjquota; docs/operations.md, Disk"
    return Finding(
        feature="project quotas",
        need=Need.REQUIRED if storage is StorageMode.QUOTA else Need.OPTIONAL,
        ok=there.pool and there.fault is None,
        found=found,
        why="storageMb is a hard limit with them; else it is watched, and can be passed for a moment",
        remedy=remedy,
    )


_PRJQUOTA = "mount it with the option prjquota, then: sudo nsbox setup; docs/operations.md, Disk"
_WHY_CONTROLLER = {
    "cpu": "vcpus is held by cpu.max",
    "memory": "memoryMb is held by memory.max",
    "pids": "a fork bomb is stopped by pids.max",
    "io": "a sandbox's share of the disk's bandwidth is held by io.max",
}


_UNIFIED = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"


def _delegation_remedy(host: HostFacts) -> str:
    if _hybrid(host):
        return _UNIFIED
    if not host.systemd.running:
        mount, user = host.cgroup.mount or "/sys/fs/cgroup", host.user
        return (
            f"no systemd here; by hand: sudo sh -c 'cd {mount} && "
            "echo +cpu +memory +pids >cgroup.subtree_control; mkdir -p nsbox && "
            f"chown {user} nsbox nsbox/cgroup.procs nsbox/cgroup.subtree_control && "
            f'echo $$ >nsbox/cgroup.procs && exec su {user} -s /bin/sh -c "nsbox serve"\''
        )
    if host.systemd.user_manager:
        return _controller_remedy(host)
    return (
        f"for the service: sudo nsbox setup --service && sudo systemctl start nsbox; for {host.user}: "
        f"sudo loginctl enable-linger {host.user} && export XDG_RUNTIME_DIR=/run/user/{host.uid}"
    )


def _hybrid(host: HostFacts) -> bool:
    """cgroup v1 still holds the controllers: v2 is then mounted beside it, under this name."""
    return host.cgroup.mount is not None and host.cgroup.mount.endswith("/unified")


def _controller_remedy(host: HostFacts) -> str:
    if _hybrid(host):
        return _UNIFIED
    if not host.systemd.running:
        return "enable it in the cgroup.subtree_control of every folder above"
    return (
        "sudo mkdir -p /etc/systemd/system/user@.service.d && "
        "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | "
        "sudo tee /etc/systemd/system/user@.service.d/nsbox.conf && "
        "sudo systemctl daemon-reload, then log in again"
    )


def _extras(host: HostFacts) -> Iterator[Finding]:
    yield Finding(
        feature="systemd",
        need=Need.OPTIONAL,
        ok=host.systemd.running,
        found="running" if host.systemd.running else "not running",
        why="it delegates cgroups and keeps the service up",
    )
    yield Finding(
        feature="swap",
        need=Need.OPTIONAL,
        ok=host.swap,
        found="in use" if host.swap else "none",
        why="a paused sandbox can give its memory back",
        remedy="sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
        "sudo swapon /swapfile",
    )
    yield Finding(
        feature="pasta",
        need=Need.OPTIONAL,
        ok=host.pasta is not None,
        found=host.pasta or "missing",
        why="sandboxes reach the internet through it",
        remedy="sudo apt install passt",
    )
    yield Finding(
        feature="/dev/net/tun",
        need=Need.OPTIONAL,
        ok=host.tun,
        found="can be opened" if host.tun else f"{host.user} cannot open it",
        why="pasta needs it",
        remedy="sudo modprobe tun && sudo chmod 0666 /dev/net/tun",
    )
    yield Finding(
        feature="landlock",
        need=Need.OPTIONAL,
        ok=host.landlock,
        found="active" if host.landlock else "not active",
        why="one of the walls around api: with it, it writes in the state folder only",
    )


def _walls(chosen: settings.Settings) -> Finding:
    """What an api that is started here and now gets."""
    on = chosen.api_walls is Walls.ON
    expected = walls.expected(chosen.api_memory_mb) if on else walls.InForce()
    return Finding(
        feature="walls around api",
        need=Need.OPTIONAL,
        ok=expected.all,
        found=str(expected),
        why="whoever takes api over gets no further than api must",
        remedy=None if on else 'api_walls = "on" in the settings',
    )


def render(findings: Sequence[Finding]) -> Iterator[str]:
    width = max(len(finding.feature) for finding in findings)
    for finding in findings:
        yield f"{_mark(finding)} {finding.feature:<{width}}  {finding.found}"
        if not finding.ok:
            yield f"     {'':<{width}}  {finding.why}"
            if finding.remedy:
                yield f"     {'':<{width}}  remedy: {finding.remedy}"


def _mark(finding: Finding) -> str:
    if finding.ok:
        return paint("yes ", "green")
    if finding.need is Need.OPTIONAL:
        return paint("opt.", "yellow")
    return paint("NO  ", "red", bold=True)


_CLOSING = {
    Status.READY: "Sandboxes can be made here, and every limit holds.",
    Status.WITHOUT_LIMITS: "Sandboxes can be made here, but not every limit holds: "
    "nsbox serve --limits best-effort",
    Status.UNUSABLE: "Sandboxes cannot be made here yet: mend what says NO, from the top.",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="All findings as one JSON document.")
@click.option("--state-dir", metavar="DIR", help="Where the daemon keeps (or shall keep) its state.")
@click.option("--seccomp", "lists_calls", is_flag=True, help="Print which system calls sandboxes may make.")
def doctor(as_json: bool, state_dir: str | None, lists_calls: bool) -> None:
    """Say what this host offers, why it matters, and the command that mends what is missing.

    Exit status: 0 all is there; 1 something required is missing; 3 only limits are missing.
    """
    if lists_calls:
        calls = filters.calls()
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode({"calls": calls})).decode())
        else:
            click.echo("\n".join(filters.render(calls)))
        return
    chosen = settings.load(os.environ, {"state_dir": state_dir})
    host = facts.gather(account.current_name(), os.geteuid(), chosen.state_dir, os.environ)
    findings = [*assess(host, chosen.storage), _walls(chosen)]
    status = verdict(findings)
    if as_json:
        document = {"status": status, "findings": findings}
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        for line in render(findings):
            click.echo(line)
        click.echo(_CLOSING[status])
    sys.exit(status.exit_code)
