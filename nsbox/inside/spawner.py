"""A process that starts commands, one at a time, as one user, from within its own leaf cgroup.

Why init does not fork commands itself: exec'ing a copy of a Python process costs several times what
posix_spawn does, which copies nothing (vfork). But posix_spawn cannot change users, load a filter or enter a
cgroup. A spawner has done all three beforehand, and what it spawns inherits them. It is used again for the
next command if nothing of the last one is left.

The command is the spawner's child, so its exit status comes from the spawner's waitpid; when the spawner is
killed, init inherits the command and reaps it.
"""

import errno
import os
import signal
from typing import NoReturn

from nsbox.inside import channel, privileges, terminal
from nsbox.inside.users import Credentials
from nsbox.kernel import libc
from nsbox.kernel.rawsocket import RawSocket
from nsbox.wire.framing import WireError
from nsbox.wire.messages import TO_SPAWNER, Exec, Exited, Refused, Stage, Started

#: Exit codes by which shells, env(1) and timeout(1) say that a program could not be run.
EXIT_CANNOT_RUN = 126
EXIT_NOT_FOUND = 127

#: More than the 200 that systemd gives to users' services: half the sandbox's memory on top of what one has.
_OOM_SCORE = b"500"
_DEFAULT_TERM = "xterm-256color"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What Python or keeper ignores or init handles: an ignored signal would stay ignored across exec.
_RESET = (signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


def run(sock: RawSocket, who: Credentials, guard: libc.Filter) -> NoReturn:
    """Start what ``sock`` asks for, as ``who``, until it is closed. Never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        privileges.close_all_but({0, 1, 2, sock.fileno()})
        privileges.name_process("nsbox-spawner")
        os.setsid()
        os.umask(0o022)
        privileges.limit_descriptors()
        privileges.become(who.uid, who.gid, who.groups)
        libc.seccomp_filter(guard)
        while received := channel.receive_alive(sock, TO_SPAWNER):
            _serve(sock, received[0], received[1], who)
        status = 0
    except (WireError, OSError):
        pass  # init is gone, or about to end us
    finally:
        os._exit(status)


def _serve(sock: RawSocket, order: object, descriptors: list[int], who: Credentials) -> None:
    if not isinstance(order, Exec):
        return  # a new size of a terminal that has gone
    master = -1
    try:
        try:
            _enter_any(order.cwd, who.home)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            detail = f"cannot use {order.cwd} as the working directory: {os.strerror(number)}"
            channel.send(sock, Refused(order.key, Stage.CWD, number, detail))
            return
        try:
            master, slave = terminal.make(order.tty) if order.tty else (-1, "")
            pid = _start(order, descriptors, who, slave)
        except OSError as error:
            number = error.errno or 0
            channel.send(sock, Refused(order.key, Stage.FORK, number, os.strerror(number)))
            return
        if order.tty:
            os.chdir("/")
            channel.send(sock, Started(order.key, pid))
            _offer_for_oom(pid)
            terminal.relay(master, pid, descriptors, sock)
    finally:
        channel.close_all(descriptors)
        if master >= 0:
            os.close(master)  # what is left on the terminal is told by SIGHUP
        os.chdir("/")
    if not order.tty:
        channel.send(sock, Started(order.key, pid))
        _offer_for_oom(pid)
    # Told before it is reaped. When a command and its spawner are killed together, the kernel may finish a
    # wait4 and then kill its caller: the status would be gone. A zombie, though, falls to init.
    channel.send(sock, Exited(order.key, *libc.await_end(pid), 0))
    os.waitpid(pid, 0)


def _offer_for_oom(pid: int) -> None:
    """Make a command a better choice for the kernel than any init, however small its processes are.

    The kernel takes the process with the most memory, and init has more than a shell: a mob of small ones
    would end the sandbox. Written from here because a process that is not dumpable, as we are, may not do it
    to itself; a program that nobody may read is not either, and stays as it is. A sandbox that undoes this
    (proc(5) lets it, down to init's own) puts nobody at risk but itself.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, _OOM_SCORE)
    except OSError:
        pass  # it is dead, or somebody has set more
    finally:
        os.close(descriptor)


def _enter_any(wanted: str, home: str) -> None:
    """Go where the order says; where it says nothing, home, or to the root if that cannot be entered."""
    if wanted:
        _enter(wanted)
        return
    try:
        _enter(home)
    except (OSError, ValueError):
        _enter("/")


def _enter(path: str) -> None:
    """Go to the command's working directory, with its user's rights.

    Without magic links: /proc/self/fd/7 would be a descriptor of ours. And a directory that getcwd cannot
    name lies outside of our root (both CVE-2024-21626).
    """
    flags = os.O_PATH | os.O_DIRECTORY
    descriptor = libc.openat2(libc.AT_FDCWD, os.fsencode(path), flags, resolve=libc.RESOLVE_NO_MAGICLINKS)
    try:
        os.fchdir(descriptor)
    finally:
        os.close(descriptor)
    if not os.getcwd().startswith("/"):
        raise OSError(errno.EACCES, "outside of the sandbox")


def _start(order: Exec, streams: list[int], who: Credentials, slave: str) -> int:
    """The command's pid; on the terminal ``slave``, if that is not empty. Raises ``OSError`` when there can
    be no process at all."""
    environ = dict(pair.partition("=")[::2] for pair in order.environ)
    environ.setdefault("PATH", _DEFAULT_PATH)
    environ.setdefault("HOME", who.home)
    if slave:
        environ.setdefault("TERM", _DEFAULT_TERM)
    libc.close_range(3, flags=libc.CLOSE_RANGE_CLOEXEC)  # nothing but the three streams gets through
    try:
        return _spawn(order.argv, environ, _actions(streams, slave))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOMEM):
            raise
        return _fail(order.argv[0], error, streams)
    except ValueError:  # a NUL, or surrogates that stand for no byte
        return _fail(order.argv[0], OSError(errno.EINVAL, ""), streams)


def _actions(streams: list[int], slave: str) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
    """What posix_spawn does about the three streams. A leader of a session gets the first terminal that it
    opens as its own, and setsid comes before these (posix_spawn(3))."""
    if not slave:
        return [(os.POSIX_SPAWN_DUP2, descriptor, wanted) for wanted, descriptor in enumerate(streams)]
    return [
        (os.POSIX_SPAWN_OPEN, 0, slave, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]


def _spawn(
    argv: tuple[str, ...],
    environ: dict[str, str],
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]],
) -> int:
    """posix_spawn along PATH. Raises the error that tells most: EACCES where something was found."""
    program = argv[0]
    places = [""] if "/" in program else [f"{place or '.'}/" for place in environ["PATH"].split(":")]
    refused: OSError | None = None
    for place in places:
        try:
            os.stat(place + program)  # much cheaper than a spawn that fails
            return os.posix_spawn(
                place + program,
                argv,
                environ,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_RESET,
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            refused = refused or error
        except PermissionError as error:
            if refused is None or isinstance(refused, (FileNotFoundError, NotADirectoryError)):
                refused = error
    raise refused or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _fail(program: str, error: OSError, streams: list[int]) -> int:
    """A process that says what is wrong and exits as a shell would: the exit code is a real one."""
    pid = os.fork()
    if pid:
        return pid
    try:
        text = f"nsbox: cannot run {program}: {os.strerror(error.errno or 0)}\n"
        os.write(streams[2], text.encode("utf-8", "surrogateescape"))
    finally:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        os._exit(EXIT_NOT_FOUND if missing else EXIT_CANNOT_RUN)
