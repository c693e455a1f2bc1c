"""Finding, asking for and preparing the delegated part of the cgroup tree."""

import os
import shutil
import sys
from collections.abc import Mapping

import msgspec

from nsbox.host import facts
from nsbox.host.account import find
from nsbox.kernel.cgroup import CONTROLLERS, DAEMON_WEIGHT, OPTIONAL_CONTROLLERS, Cgroup
from nsbox.model.errors import HostProblem
from nsbox.settings import LimitsMode, Settings

#: Set in the environment of the process that systemd-run starts, so that it does not ask again.
_SCOPED = "NSBOX_IN_SCOPE"
_OWN = "nsbox-"


class Delegation(msgspec.Struct, frozen=True):
    """``cgroup``: where keeper may make cgroups, None if nowhere; ``controllers``: those they get."""

    cgroup: Cgroup | None
    controllers: tuple[str, ...]


def scope_command(
    command: list[str], environment: Mapping[str, str], systemd: facts.Systemd
) -> list[str] | None:
    """How a user gets a delegated cgroup from systemd, or None where that is not needed or possible."""
    here = facts.cgroup()
    enough = here.delegated and set(CONTROLLERS.values()) <= set(here.controllers)
    if enough or environment.get(_SCOPED) or not systemd.user_manager or not shutil.which("systemd-run"):
        return None
    options = ["--user", "--scope", "--quiet", "--collect", "-p", "Delegate=yes"]
    return ["systemd-run", *options, "--", "env", f"{_SCOPED}=1", *command]


def delegate_as_root(user: str) -> None:
    """Before root becomes ``user``: make a cgroup, give it away and go there.

    Under systemd delegation is systemd's business (the unit's, or a scope's), so only a
    host without systemd is touched: there nobody else manages the tree.
    """
    here = facts.cgroup()
    account = find(user)
    if account is None or here.folder is None or os.path.isdir("/run/systemd/system"):
        return
    given = Cgroup(here.folder).child(f"{_OWN}{user}-{os.getpid()}")
    try:
        _remove_stale(Cgroup(here.folder))
        _enable_all(Cgroup(here.folder))
        given.create()
        given.delegate(account.uid, account.gid)
        given.files.processes = [os.getpid()]
    except OSError as error:
        print(f"nsbox: no cgroup can be made for {user}: {error}", file=sys.stderr)


def prepare() -> Delegation:
    """Move this process to a leaf of the cgroup it owns, and give the controllers to its neighbours.

    The leaf comes first: a cgroup with processes cannot give controllers to its children (the "no internal
    processes" rule of cgroups(7)). Call before any other process is started.
    """
    here = facts.cgroup()
    if not here.delegated or here.folder is None:
        return Delegation(None, ())
    top = Cgroup(here.folder)
    _remove_stale(top)
    own = top.child(f"{_OWN}{os.getpid()}")
    leaf = own.child("daemon")
    try:
        own.create()
        leaf.create()
        leaf.files.processes = [os.getpid()]
    except OSError as error:
        print(f"nsbox: cannot use the cgroup {top.path}: {error}", file=sys.stderr)
        return Delegation(None, ())
    _enable_all(top)
    given = tuple(_enable_all(own))
    if "cpu" in given:
        leaf.files.cpu_weight = DAEMON_WEIGHT
    return Delegation(own, given)


def _enable_all(cgroup: Cgroup) -> list[str]:
    """Give the children every controller that is to be had; which those are."""
    there = cgroup.files.controllers
    wanted = [*CONTROLLERS.values(), *OPTIONAL_CONTROLLERS]
    return [name for name in wanted if name in there and _enabled(cgroup, name)]


def _enabled(cgroup: Cgroup, controller: str) -> bool:
    try:
        cgroup.enable([controller])
    except OSError:
        return False
    return True


def _remove_stale(top: Cgroup) -> None:
    """Remove what daemons before this one left: their supervisor stood in it to the last."""
    for name in os.listdir(top.path):
        # One whose daemon is still starting is empty too: the name ends with its pid.
        if name.startswith(_OWN) and not os.path.exists(f"/proc/{name.rpartition('-')[2]}"):
            stale = top.child(name)
            if not stale.populated():
                stale.remove()


def require(delegation: Delegation) -> None:
    """Raise ``HostProblem`` unless every limit can be enforced."""
    missing = [limit for limit, name in CONTROLLERS.items() if name not in delegation.controllers]
    if missing:
        raise HostProblem(
            f"this host cannot enforce {', '.join(missing)}: the controllers are not delegated",
            remedy="nsbox doctor says how to mend it; --limits=best-effort serves without and says so",
        )


def io_max(settings: Settings, delegation: Delegation) -> str:
    """The line for a sandbox's io.max, or nothing where the settings ask for none.

    Raises ``HostProblem`` where they do and it cannot be held, unless that is allowed.
    """
    asked = {
        "rbps": settings.io_read_bps,
        "wbps": settings.io_write_bps,
        "riops": settings.io_read_iops,
        "wiops": settings.io_write_iops,
    }
    limits = [f"{name}={number}" for name, number in asked.items() if number]
    if not limits:
        return ""
    device = facts.whole_disk(settings.state_dir)
    if device is not None and "io" in delegation.controllers:
        return " ".join([device, *limits])
    lacking = "the io controller is not delegated" if device else "its state folder is on no known disk"
    if settings.limits is LimitsMode.REQUIRED:
        raise HostProblem(
            f"this host cannot enforce the io_* settings: {lacking}",
            remedy="take them out, or --limits=best-effort serves without",
        )
    print(f"nsbox: the io_* settings are not enforced: {lacking}", file=sys.stderr)
    return ""


def oom_kills(path: str) -> int:
    """How many processes the kernel has ended in a cgroup, and below, for lack of memory. 0 where that is
    not counted."""
    for line in (facts.read(f"{path}/memory.events") or "").splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill":
            return int(number)
    return 0
