"""Starting keeper: a process in a new user, mount and pid namespace, with its ids mapped by newuidmap.

Who calls this must be single-threaded (clone3 runs no fork handlers) and must not have no_new_privs, under
which the kernel ignores newuidmap's set-user-ID bit.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import NoReturn

from nsbox.host import facts
from nsbox.kernel import journal, libc, python
from nsbox.kernel.namespaces import KEEPER_FLAGS, IdRange, become_root, outer_map_arguments
from nsbox.model.errors import HostProblem

#: All that keeper's environment holds: it is inherited by every init, and could hold secrets otherwise.
ENVIRONMENT: Mapping[str, str] = {
    # pasta may be one that the operator built.
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


def start(module: str, argument: str, uids: IdRange, gids: IdRange, inherited: tuple[int, ...]) -> int:
    """Run ``main(ARGUMENT)`` of MODULE as root of the outer namespace; its pid.

    ``inherited`` descriptors stay open in it. Raises ``HostProblem`` when the namespace or the maps are
    refused.
    """
    mapped, tell = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = libc.clone3(KEEPER_FLAGS)
        except OSError as error:
            found = facts.forbidden(facts.user_namespaces())
            why, remedy = found or (error.strerror or str(error), "nsbox doctor")
            raise HostProblem(f"this host refuses user namespaces: {why}", remedy=remedy) from error
        if pid == 0:
            os.close(tell)
            _become(mapped, module, argument, inherited)
        try:
            _map(pid, uids, gids)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        os.write(tell, b"x")
        return pid
    finally:
        os.close(mapped)
        os.close(tell)


def _environment() -> dict[str, str]:
    """With the name of the journal's stream, where there is one: keeper's lines carry a priority then."""
    stream = os.environ.get(journal.VARIABLE)
    return {**ENVIRONMENT, **({journal.VARIABLE: stream} if stream else {})}


def _map(pid: int, uids: IdRange, gids: IdRange) -> None:
    for program, own, subordinate in (("newuidmap", os.getuid(), uids), ("newgidmap", os.getgid(), gids)):
        arguments = [program, *outer_map_arguments(pid, own, subordinate)]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=20)
        except FileNotFoundError as error:
            raise HostProblem(f"{program} is not installed", remedy="sudo apt-get install uidmap") from error
        if done.returncode:
            raise HostProblem(f"{' '.join(arguments)}: {done.stderr.strip()}", remedy="nsbox doctor")


def _forget_signals() -> None:
    """Handle each signal as the kernel does by itself, and block none.

    What is ignored or blocked stays so across every fork and exec, down to the commands in sandboxes: a shell
    ignores SIGQUIT for what it starts in the background, and nohup SIGHUP.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _become(mapped: int, module: str, argument: str, inherited: tuple[int, ...]) -> NoReturn:
    """In the child: wait for the ids, become root there, exec. The exec makes the outer namespace the owner
    of the process's memory, and so of that of every init forked from it."""
    try:
        if os.read(mapped, 1) == b"x":
            become_root()
            signal.set_wakeup_fd(-1)
            _forget_signals()
            for descriptor in inherited:
                os.set_inheritable(descriptor, True)
            os.execve(sys.executable, python.command(module, argument), _environment())  # noqa: S606
    except BaseException as error:
        os.write(2, f"nsbox: cannot start {module}: {error!r}\n".encode())
    finally:
        os._exit(127)
