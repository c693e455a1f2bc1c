"""The ordinary account that the daemons and the rivals run as."""

from __future__ import annotations

import os
import pwd
from typing import Any, NamedTuple

from nsbox.host import account as accounts
from nsbox.model.errors import HostProblem

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Who(NamedTuple):
    """``by_root``: we are root, and processes of this account are made by giving root up."""

    name: str
    uid: int
    gid: int
    home: str
    by_root: bool

    @property
    def identity(self) -> dict[str, Any]:
        """Arguments of subprocess.Popen that make a process of this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.by_root else {}

    def environment(self, runtime_dir: str) -> dict[str, str]:
        """For programs that look for their configuration in a home and for a place for sockets."""
        found = {"PATH": _PATH, "HOME": self.home, "USER": self.name, "XDG_RUNTIME_DIR": runtime_dir}
        return found | {"LANG": "C.UTF-8"}


def choose(name: str | None) -> Who:
    """The account ``name`` (root only), else the current user. Raises ``HostProblem``."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        return Who(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, by_root=False)
    wanted = name or os.environ.get("NSBOX_SERVICE_USER") or "nsbox"
    found = accounts.find(wanted)
    if found is None or found.uid == 0 or not found.has_ids:
        raise HostProblem(
            f"{wanted} is no ordinary account with subordinate ids",
            remedy=f"give another with --account, or run: nsbox setup --user {wanted}",
        )
    return Who(found.name, found.uid, found.gid, found.home, by_root=True)
