"""The account that the daemon runs as, and how a command started by root becomes that account."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

import nsbox
from nsbox.host.facts import IDS_NEEDED, IdRange, sub_ids, widest
from nsbox.model.errors import HostProblem

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("TERM", "COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_KEPT_PREFIXES = ("NSBOX_", "LC_")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the user database with its subordinate ids."""

    name: str
    uid: int
    gid: int
    home: str
    sub_uids: tuple[IdRange, ...]
    sub_gids: tuple[IdRange, ...]

    @property
    def has_ids(self) -> bool:
        return min(widest(self.sub_uids), widest(self.sub_gids)) >= IDS_NEEDED


def find(name: str, etc: str = "/etc") -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(
        name=name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        home=entry.pw_dir,
        sub_uids=sub_ids(f"{etc}/subuid", name, entry.pw_uid),
        sub_gids=sub_ids(f"{etc}/subgid", name, entry.pw_uid),
    )


def current_name() -> str:
    """The name of the effective user; a number where the database does not know it, as in containers."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def self_command(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """How to start this very nsbox again: the command and its environment.

    ``-P``: without it ``-m`` looks into the current folder first, and whoever can write there could put
    another ``nsbox`` into it. A package that only the current folder provided is then named in PYTHONPATH.
    """
    child = dict(environment)
    package = os.path.dirname(os.path.dirname(os.path.abspath(nsbox.__file__)))
    lasting = sys.path if sys.flags.safe_path else sys.path[1:]
    if package not in (os.path.abspath(entry) for entry in lasting if entry):
        child["PYTHONPATH"] = package
    return [sys.executable, "-P", "-m", "nsbox", *arguments], child


def service_environment(
    account: Account, environment: Mapping[str, str], run: str = "/run"
) -> dict[str, str]:
    """What the service user's process sees of root's environment: nsbox's own settings, terminal and
    language, proxies and certificates. Nothing else: the rest may hold root's paths and root's secrets."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES) or name.lower() in _PROXIES
    }
    kept |= {
        "PATH": _PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": "/bin/sh",
    }
    if os.path.isdir(f"{run}/user/{account.uid}"):
        kept["XDG_RUNTIME_DIR"] = f"{run}/user/{account.uid}"
    return kept


def drop_to(user: str, arguments: Sequence[str], defaults: Mapping[str, str] | None = None) -> NoReturn:
    """Become ``user`` for good and start ``nsbox ARGUMENTS`` again. For root only.

    ``defaults`` are variables set where the environment has none of that name. A mere setuid would not do:
    it leaves the process non-dumpable, its /proc files belong to root, and newuidmap refuses to write the
    maps of a process that is not its caller's. Only an exec mends that.
    """
    account = find(user)
    if account is None:
        raise HostProblem(
            f"nsbox does not run as root, and there is no user {user}", remedy="sudo nsbox setup"
        )
    if account.uid == 0:
        raise HostProblem(
            "nsbox does not run as root", remedy="set service_user to an ordinary or system user"
        )
    if not account.has_ids:
        raise HostProblem(
            f"the user {user} has no range of {IDS_NEEDED} subordinate ids in /etc/subuid and /etc/subgid",
            remedy=f"sudo nsbox setup --user {user}",
        )
    command, python = self_command(arguments, {})
    environment = {**(defaults or {}), **service_environment(account, os.environ), **python}
    _become(account)
    _check_readable(account)
    if not os.access(".", os.R_OK | os.X_OK):
        os.chdir(account.home if os.access(account.home, os.X_OK) else "/")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606 - replaced on purpose, without a shell


def _become(account: Account) -> None:
    """Groups first: once the uid is given away, the rest is no longer allowed."""
    os.initgroups(account.name, account.gid)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    os.umask(0o077)


def _check_readable(account: Account) -> None:
    """Checked as the new user, before the exec: Python's own message would be a riddle."""
    needed = {
        sys.executable: os.R_OK | os.X_OK,
        os.path.abspath(nsbox.__file__): os.R_OK,
        os.path.abspath(msgspec.__file__): os.R_OK,
        os.__file__: os.R_OK,
    }
    for path, mode in needed.items():
        if not os.access(path, mode):
            raise HostProblem(
                f"the user {account.name} cannot read {path}, which nsbox runs from",
                remedy="install nsbox where every user can read it, for example: "
                "sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install nsbox",
            )
