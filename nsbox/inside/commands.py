"""Commands of a sandbox: started, told apart, waited for, ended with everything they started.

A command is the leader of a session and, where the host delegates cgroups, alone in a leaf cgroup that it is
*born* into (clone3 with CLONE_INTO_CGROUP). No byte of its output passes through here: it writes into pipes
that api made. The read ends are kept as duplicates, so that nobody gets SIGPIPE when api is replaced.
"""

import errno
import os
import signal
from typing import NamedTuple, NoReturn

from nsbox.inside import processes, users
from nsbox.kernel import libc, seccomp
from nsbox.wire.messages import Exec, Exited, Stage

#: Exit codes by which shells, env(1) and timeout(1) say that a program could not be run.
EXIT_CANNOT_RUN = 126
EXIT_NOT_FOUND = 127

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CannotStart(Exception):  # noqa: N818
    """A command could not be started; ``stage`` and ``errno`` say at which step and why."""

    def __init__(self, stage: Stage, number: int, detail: str) -> None:
        super().__init__(detail)
        self.stage, self.errno, self.detail = stage, number, detail


class Command(NamedTuple):
    """A command that runs. ``kept`` are duplicates of the read ends of its output."""

    key: str
    pid: int
    kept: tuple[int, ...]
    leaf: str


class Commands:
    """All commands of this sandbox, by key. ``cgroup`` is the sandbox's own cgroup as a descriptor, or None."""

    def __init__(self, cgroup: int | None) -> None:
        self._cgroup = cgroup
        self._running: dict[str, Command] = {}
        self._by_pid: dict[int, Command] = {}
        self._ended: dict[str, Exited] = {}
        self._kept: dict[str, tuple[int, ...]] = {}
        self._serial = 0
        self._oom_kills = self._count_oom_kills()
        self._clone3_guard = seccomp.clone3_guard(os.uname().machine)

    def running(self) -> list[Command]:
        return list(self._running.values())

    def ended(self) -> list[Exited]:
        """Results that no api process has taken yet."""
        return list(self._ended.values())

    def start(self, order: Exec, descriptors: list[int]) -> int:
        """Start a command; its pid. ``descriptors``: stdin, stdout, stderr, and the read ends to keep.

        Owns the descriptors: all are closed or kept on return. Raises ``CannotStart``.
        """
        streams, kept = descriptors[:3], tuple(descriptors[3:])
        try:
            command = self._start(order, streams, kept)
        except CannotStart:
            for descriptor in kept:
                os.close(descriptor)
            raise
        finally:
            for descriptor in streams:
                os.close(descriptor)
        self._running[order.key] = self._by_pid[command.pid] = command
        self._kept[order.key] = kept
        return command.pid

    def _start(self, order: Exec, streams: list[int], kept: tuple[int, ...]) -> Command:
        if len(streams) != 3 or not order.argv or order.key in self._running:
            raise CannotStart(Stage.FORK, errno.EINVAL, "a malformed request to start a command")
        try:
            who = users.lookup(order.user)
        except users.UnknownUser as error:
            raise CannotStart(Stage.USER, errno.ENOENT, str(error)) from error
        directory = _open_directory(order.cwd or "/")
        leaf, leaf_fd = self._make_leaf()
        try:
            pid = libc.clone3(cgroup=leaf_fd)
            if pid == 0:
                _run(order, streams, who, directory, self._clone3_guard)
        except OSError as error:
            self._remove_leaf(leaf)
            raise CannotStart(Stage.FORK, error.errno or 0, os.strerror(error.errno or 0)) from error
        finally:
            os.close(directory)
            if leaf_fd is not None:
                os.close(leaf_fd)
        return Command(order.key, pid, kept, leaf)

    def reap(self) -> list[Exited]:
        """Take in every child that has ended; what is to be reported. Orphans are reaped and not reported."""
        reports = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            command = self._by_pid.pop(pid, None)
            if command is None:
                continue
            del self._running[command.key]
            self._remove_leaf(command.leaf)
            report = Exited(
                key=command.key,
                status=status,
                user_us=int(usage.ru_utime * 1e6),
                system_us=int(usage.ru_stime * 1e6),
                peak_kib=usage.ru_maxrss,
                oom=int(self._was_oom(status)),
            )
            self._ended[command.key] = report
            reports.append(report)
        return reports

    def forget(self, key: str) -> None:
        """api has what it wanted of this command: its result and its output to the end."""
        self._ended.pop(key, None)
        for descriptor in self._kept.pop(key, ()):
            os.close(descriptor)

    def kill(self, key: str) -> None:
        """End a command and everything it started.

        By its cgroup nothing can slip away; without one, a process that left the session and was
        orphaned is not found.
        """
        command = self._running.get(key)
        if command is None:
            return
        if command.leaf:
            self._write_leaf(command.leaf, "cgroup.kill", b"1")
        else:
            processes.kill_tree(command.pid)

    def _make_leaf(self) -> tuple[str, int | None]:
        if self._cgroup is None:
            return "", None
        self._serial += 1
        leaf = f"c{self._serial}"
        try:
            os.mkdir(leaf, 0o755, dir_fd=self._cgroup)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            return leaf, os.open(leaf, flags, dir_fd=self._cgroup)
        except OSError as error:
            raise CannotStart(
                Stage.FORK, error.errno or 0, f"no cgroup for the command: {error.strerror}"
            ) from error

    def _remove_leaf(self, leaf: str) -> None:
        if not leaf:
            return
        try:
            os.rmdir(leaf, dir_fd=self._cgroup)
        except OSError:
            pass  # something the command started lives on in it: it goes with the sandbox

    def _write_leaf(self, leaf: str, name: str, value: bytes) -> None:
        descriptor = os.open(f"{leaf}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._cgroup)
        try:
            os.write(descriptor, value)
        finally:
            os.close(descriptor)

    def _was_oom(self, status: int) -> bool:
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            return False
        before, self._oom_kills = self._oom_kills, self._count_oom_kills()
        return self._oom_kills > before

    def _count_oom_kills(self) -> int:
        if self._cgroup is None:
            return 0
        try:
            descriptor = os.open("memory.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._cgroup)
        except OSError:
            return 0
        try:
            rows = dict(line.split() for line in os.read(descriptor, 4096).decode().splitlines())
        finally:
            os.close(descriptor)
        return int(rows.get("oom_kill", 0))


def _open_directory(path: str) -> int:
    """The working directory as a descriptor.

    Without magic links: ``/proc/self/fd/7`` would be init's own descriptor 7 (CVE-2024-21626).
    """
    try:
        flags = os.O_PATH | os.O_DIRECTORY
        return libc.openat2(libc.AT_FDCWD, os.fsencode(path), flags, resolve=libc.RESOLVE_NO_MAGICLINKS)
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or errno.EINVAL
        raise CannotStart(
            Stage.CWD, number, f"cannot use {path!r} as the working directory: {os.strerror(number)}"
        ) from error


def _run(order: Exec, streams: list[int], who: users.Credentials, directory: int, guard: bytes) -> NoReturn:
    """In the child: become the command. Whatever fails is told on the command's stderr, as a shell would."""
    program = order.argv[0]
    try:
        os.setsid()
        _reset_signals()
        _place_streams(streams)
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
        program = order.cwd  # what a failure of the next lines is about
        os.fchdir(directory)
        if not os.getcwd().startswith("/"):
            raise OSError(errno.EACCES, "outside of the sandbox")
        program = order.argv[0]
        libc.close_range(3)
        os.umask(0o022)
        environ = dict(pair.partition("=")[::2] for pair in order.environ)
        environ.setdefault("PATH", _DEFAULT_PATH)
        environ.setdefault("HOME", who.home)
        libc.seccomp_filter(guard)
        _execute(order.argv, environ)
    except OSError as error:
        number = error.errno or 0
        os.write(
            2, f"nsbox: cannot run {program}: {os.strerror(number)}\n".encode("utf-8", "surrogateescape")
        )
        os._exit(EXIT_NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else EXIT_CANNOT_RUN)
    except BaseException as error:
        os.write(2, f"nsbox: cannot run {program}: {error!r}\n".encode("utf-8", "backslashreplace"))
    os._exit(EXIT_CANNOT_RUN)


def _reset_signals() -> None:
    """Python ignores two signals, and an ignored signal stays ignored across exec."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _place_streams(streams: list[int]) -> None:
    for wanted, descriptor in enumerate(streams):
        os.dup2(descriptor, wanted)


def _execute(argv: tuple[str, ...], environ: dict[str, str]) -> None:
    """execve along PATH. Raises the error that tells most: EACCES where something was found, else ENOENT."""
    program = argv[0]
    if "/" in program:
        os.execve(program, argv, environ)  # noqa: S606
    refused: OSError | None = None
    for directory in environ["PATH"].split(":"):
        try:
            os.execve(f"{directory or '.'}/{program}", argv, environ)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            refused = error
    raise refused or FileNotFoundError(errno.ENOENT, program)
