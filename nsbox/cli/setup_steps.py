"""The changes that setup makes to a host: whether one is made, what to type for it, and how it is undone."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from nsbox.host import account, facts
from nsbox.host.facts import IDS_NEEDED, IdRange, widest
from nsbox.model.errors import HostProblem

#: Below it are system users (SYS_UID_MAX of login.defs, plus one).
_FIRST_ORDINARY_UID = 1000


class Step(Protocol):
    """One change to the host."""

    @property
    def title(self) -> str: ...

    def is_done(self) -> bool: ...

    def commands(self) -> Sequence[str]:
        """What to type for the same effect."""

    def apply(self) -> None: ...


@runtime_checkable
class Undoable(Step, Protocol):
    """A change that setup itself can take back."""

    def is_undone(self) -> bool: ...

    def undo_commands(self) -> Sequence[str]:
        """What to type for the same effect."""

    def undo(self) -> None: ...


@runtime_checkable
class Dispensable(Step, Protocol):
    """A change that sandboxes can be made without: where it fails, setup says so and goes on."""

    @property
    def without(self) -> str:
        """What is then not to be had."""


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """A system tool, whose complaint becomes ours."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise HostProblem(f"{argv[0]} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        raise HostProblem(f"`{shlex.join(argv)}` failed: {(done.stderr or done.stdout).strip()}")


class MakeUser:
    """A system user with a group of its own, without a shell and without a password."""

    def __init__(self, user: str, home: str) -> None:
        self.user = user
        self.home = home
        self.title = f"the user {user}"

    def _argv(self) -> list[str]:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", self.home]
        return ["useradd", *options, "--shell", "/usr/sbin/nologin", self.user]

    def is_done(self) -> bool:
        return account.find(self.user) is not None

    def commands(self) -> Sequence[str]:
        return [shlex.join(self._argv())]

    def apply(self) -> None:
        run(self._argv())

    def is_undone(self) -> bool:
        """An account that is not as setup makes it is somebody's, and is left alone."""
        found = account.find(self.user)
        return found is None or (found.home, found.uid >= _FIRST_ORDINARY_UID) != (self.home, False)

    def undo_commands(self) -> Sequence[str]:
        return [shlex.join(["userdel", self.user])]

    def undo(self) -> None:
        run(["userdel", self.user])


class GiveIds:
    """A range in /etc/subuid and the same in /etc/subgid: useradd gives none to system users."""

    def __init__(self, user: str, etc: str = "/etc") -> None:
        self.user = user
        self.etc = etc
        self.title = f"{IDS_NEEDED} subordinate uids and gids for {user}"

    def _owned(self, kind: str) -> tuple[IdRange, ...]:
        try:
            uid = pwd.getpwnam(self.user).pw_uid
        except KeyError:
            uid = -1
        return facts.sub_ids(f"{self.etc}/sub{kind}", self.user, uid)

    def _missing(self) -> list[str]:
        return [kind for kind in ("uid", "gid") if widest(self._owned(kind)) < IDS_NEEDED]

    def is_done(self) -> bool:
        return not self._missing()

    def argv(self) -> list[str]:
        chosen = facts.free_sub_ids(self.etc)
        if chosen is None:
            raise HostProblem(
                f"no {IDS_NEEDED} subordinate ids in one piece are free in /etc/subuid and subgid"
            )
        options = [f"--add-sub{kind}s={chosen.start}-{chosen.last}" for kind in self._missing()]
        return ["usermod", *options, self.user]

    def commands(self) -> Sequence[str]:
        return [shlex.join(self.argv())]

    def apply(self) -> None:
        run(self.argv())


class MakeFolder:
    """The state folder, closed to everybody else: a sandbox's files belong to subordinate ids, and the way to
    them leads through here."""

    def __init__(self, folder: str, user: str) -> None:
        self.folder = folder
        self.user = user
        self.title = f"the state folder {folder}"

    def is_done(self) -> bool:
        owner = account.find(self.user)
        try:
            status = os.lstat(self.folder)
        except OSError:
            return False
        return (
            owner is not None
            and stat.S_ISDIR(status.st_mode)
            and status.st_uid == owner.uid
            and stat.S_IMODE(status.st_mode) == 0o700
        )

    def _argv(self) -> list[str]:
        return ["install", "-d", "-m", "0700", "-o", self.user, "-g", self.user, self.folder]

    def commands(self) -> Sequence[str]:
        return [shlex.join(self._argv())]

    def apply(self) -> None:
        if os.path.islink(self.folder):
            raise HostProblem(
                f"{self.folder} is a symbolic link; setup does not follow it",
                remedy="set state_dir to where it points",
            )
        run(self._argv())

    def is_undone(self) -> bool:
        """A folder that is not as setup makes it is somebody's, and is left alone."""
        return not self.is_done()

    def _remove(self) -> list[str]:
        # Not across mounts: a disk that is mounted below is not ours to empty.
        return ["rm", "-rf", "--one-file-system", self.folder]

    def undo_commands(self) -> Sequence[str]:
        return [shlex.join(self._remove())]

    def undo(self) -> None:
        run(self._remove())


class AllowNamespaces:
    """A file of sysctls, for this boot and those to come, where one forbids user namespaces to users."""

    title = "user namespaces for ordinary users"

    def __init__(self, path: str = "/etc/sysctl.d/60-nsbox.conf", proc: str = "/proc") -> None:
        self.path, self._proc = path, proc

    @property
    def concerns(self) -> bool:
        """There is something to do, or something that was done."""
        return bool(self._closed()) or os.path.exists(self.path)

    def _closed(self) -> dict[str, int]:
        return facts.closed_switches(facts.user_namespaces(self._proc))

    def _lines(self) -> list[str]:
        """What an earlier run wrote stays: what it opened is not closed any more."""
        lines = (facts.read(self.path) or "").splitlines()
        wanted = [f"{name} = {value}" for name, value in self._closed().items()]
        return [*lines, *(one for one in wanted if one not in lines)]

    def _load(self) -> list[str]:
        return ["sysctl", "--quiet", "--load", self.path]

    def is_done(self) -> bool:
        return not self._closed()

    def commands(self) -> Sequence[str]:
        return [f"write {self.path}: {', '.join(self._lines())}", shlex.join(self._load())]

    def apply(self) -> None:
        text = "\n".join(self._lines()) + "\n"
        WriteFile(self.title, self.path, text, self._load()).apply()

    def is_undone(self) -> bool:
        return not os.path.exists(self.path)

    def undo_commands(self) -> Sequence[str]:
        return [f"rm {self.path}  # what it opened stays open until the next boot"]

    def undo(self) -> None:
        os.unlink(self.path)


class WriteFile:
    """A file of root's with a known content, and what makes it count."""

    def __init__(
        self,
        title: str,
        path: str,
        content: str,
        *after: Sequence[str],
        before_undo: Sequence[Sequence[str]] = (),
        after_undo: Sequence[Sequence[str]] = (),
    ) -> None:
        self.title = title
        self.path = path
        self.content = content
        self.after = after
        self.before_undo, self.after_undo = before_undo, after_undo

    def is_done(self) -> bool:
        return facts.read(self.path) == self.content

    def commands(self) -> Sequence[str]:
        return [f"write {self.path}", *(shlex.join(argv) for argv in self.after)]

    def apply(self) -> None:
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(self.path, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(self.content)
        except OSError as error:
            raise HostProblem(f"{self.path} cannot be written: {error.strerror}") from error
        for argv in self.after:
            run(argv)

    def is_undone(self) -> bool:
        return not os.path.exists(self.path)

    def undo_commands(self) -> Sequence[str]:
        steps = [*self.before_undo, ["rm", self.path], *self.after_undo]
        return [shlex.join(argv) for argv in steps]

    def undo(self) -> None:
        for argv in self.before_undo:
            run(argv)
        os.unlink(self.path)
        for argv in self.after_undo:
            run(argv)
