"""Commands of a sandbox: started, told apart, waited for, ended with everything they started.

Each is started by a spawner, born into a leaf cgroup of its own (clone3 with CLONE_INTO_CGROUP) where
the host delegates cgroups. No byte of a command's output passes through here: it writes into pipes that api
made. The read ends are kept as duplicates, so that nobody gets SIGPIPE when api is replaced.
"""

import errno
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from nsbox.inside import channel, processes, spawner, users
from nsbox.inside.leaves import Leaves
from nsbox.kernel import libc, rawsocket
from nsbox.kernel.rawsocket import RawSocket
from nsbox.wire.framing import WireError, encode
from nsbox.wire.messages import FROM_SPAWNER, Exec, Exited, Message, Refused, Resize, Stage, Started

#: So many idle spawners are kept, and for so long, in seconds: each is a process of the sandbox.
_IDLE_MOST = 2
_IDLE_KEEP = 10.0
#: So many of the ends that are kept of a command are of its output.
_OUTPUTS = 2
#: How long a killed tree may take to be gone before its command's end is told all the same, and how often
#: that is looked at besides, in seconds.
_DYING, _LOOK = 5.0, 0.02


#: A child that has ended: its pid, its status, and what it used if that may be asked for.
_Dead = tuple[int, int, resource.struct_rusage | None]


class Command:
    """A command. ``kept`` are duplicates of the read ends of its output, and of the write end of an input
    that stays open; ``pid`` is 0 until it runs."""

    def __init__(self, order: Exec, kept: tuple[int, ...]) -> None:
        # Not the whole order: its environment may hold secrets, which have no business here afterwards.
        self.key, self.argv, self.cwd = order.key, order.argv, order.cwd
        self.kept, self.pid = kept, 0
        self.on_terminal = order.tty != 0
        self.leaf = ""
        self.oom = False  # its leaf is gone, and the kernel killed it for lack of memory
        self.dying_until = 0.0  # once it was killed: when its end is told whatever is left of its tree
        self.started_ns = time.time_ns()


class Spawner:
    """A spawner as init sees it, and the command it has in hand."""

    def __init__(self, pid: int, sock: RawSocket, leaf: str, who: users.Credentials) -> None:
        self.pid, self.sock, self.leaf, self.who = pid, sock, leaf, who
        self.command: Command | None = None
        self.idle_since = 0.0
        # What it was asked and may not have read: it can be killed at any moment, and then another is asked.
        self.asked: tuple[Exec, list[int]] | None = None
        self.unread = False


class Commands:
    """All commands of this sandbox. ``guard`` is the filter that they add to init's own.

    What runs in a sandbox without commands has no lambdas and no comprehensions: each makes a function and
    counts references to its names, on pages that are then copied for every sandbox (docs/adr/0017).

    ``watch`` and ``unwatch`` are init's poll, ``tell`` sends to api.
    """

    def __init__(
        self,
        leaves: Leaves,
        guard: libc.Filter,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        tell: Callable[[Message], None],
    ) -> None:
        self.leaves, self._guard = leaves, guard
        self._watch, self._unwatch, self._tell = watch, unwatch, tell
        self._spawners: dict[int, Spawner] = {}  # by pid
        self._idle: list[Spawner] = []
        self._running: dict[str, tuple[Command, Spawner]] = {}
        self._orphans: dict[int, Command] = {}  # commands whose spawner died first, by pid
        self._ended: dict[str, tuple[Exited, Command]] = {}
        self._dying: list[tuple[Exited, Command]] = []
        #: The file agents' pids, which init adds.
        self.agents: set[int] = set()
        self._kept: dict[str, tuple[int, ...]] = {}

    def running(self) -> list[Command]:
        """Those that have not ended. One without a pid has been ordered, and is about to start or be
        refused."""
        return [command for command, _ in self._running.values()] + list(self._orphans.values())

    @property
    def none(self) -> bool:
        """Neither a command nor a result is here."""
        return not (self._running or self._orphans or self._ended)

    def ended(self) -> list[tuple[Exited, Command]]:
        """Results that no api process has said it has. What they wrote may still be in the pipes."""
        return list(self._ended.values())

    # ---- start

    def start(self, order: Exec, descriptors: list[int]) -> None:
        """Start a command; Started or Refused follows. Owns the descriptors: stdin, stdout, stderr, and the
        ends to keep."""
        streams, kept = descriptors[:3], tuple(descriptors[3:])
        if len(streams) != 3 or not order.argv or order.key in self._running:
            channel.close_all(descriptors)
            detail = "a malformed request to start a command"
            self._tell(Refused(order.key, Stage.UNKNOWN, errno.EINVAL, detail))
            return
        self._kept[order.key] = kept
        self._dispatch(order, streams, Command(order, kept))

    def _dispatch(self, order: Exec, streams: list[int], command: Command) -> None:
        """Have a spawner start it. Owns ``streams``."""
        try:
            one = self._ask(order, streams)
        except users.UnknownUser as error:
            refusal = Refused(order.key, Stage.USER, errno.ENOENT, str(error))
        except OSError as error:
            number = error.errno or 0
            refusal = Refused(order.key, Stage.FORK, number, os.strerror(number))
        else:
            one.command, one.asked = command, (order, streams)
            command.leaf = one.leaf
            self._running[order.key] = command, one
            return
        channel.close_all(streams)
        self._drop(command)
        self._tell(refusal)

    def _ask(self, order: Exec, streams: list[int]) -> Spawner:
        """A spawner that has been sent the order. Raises ``UnknownUser``, ``OSError``."""
        who = users.lookup(order.user)
        while idle := self._take(who):
            try:
                channel.send(idle.sock, order, streams)
                return idle
            except OSError:
                self._retire(idle)  # it was killed while idle; take another
        new = self._fork(who)
        try:
            channel.send(new.sock, order, streams)
        except OSError:
            self._retire(new)
            raise
        return new

    def adopt_first(self, be: Callable[..., NoReturn], *about: object) -> RawSocket:
        """Fork the first spawner, for root, which has something else to do before: ``be``, given its socket
        and ``about``. Our end of its socket."""
        first = self._fork(users.ROOT, be, *about)
        self._put_away(first)
        return first.sock

    def _take(self, who: users.Credentials) -> Spawner | None:
        for one in self._idle:
            if one.who == who:
                self._idle.remove(one)
                return one
        return None

    def _fork(
        self, who: users.Credentials, be: Callable[..., NoReturn] | None = None, *about: object
    ) -> Spawner:
        ours, theirs = rawsocket.pair()
        leaf, leaf_fd = "", None
        try:
            channel.prepare(ours)
            leaf, leaf_fd = self.leaves.make()
            pid = libc.clone3(cgroup=leaf_fd)
            if pid == 0:
                if be is not None:
                    be(theirs, *about)
                spawner.run(theirs, who, self._guard)
        except OSError:
            ours.close()
            self.leaves.discard(leaf)
            raise
        finally:
            theirs.close()
            if leaf_fd is not None:
                os.close(leaf_fd)
        one = self._spawners[pid] = Spawner(pid, ours, leaf, who)
        self._watch(ours.fileno(), partial(self._hear, one))
        return one

    # ---- news

    def _hear(self, one: Spawner) -> None:
        try:
            received = channel.receive(one.sock, FROM_SPAWNER)
        except ConnectionResetError:
            # What unix(7) says when the other end was closed with something in it that nobody had read.
            one.unread, received = True, None
        except (WireError, OSError):
            received = None
        if received is None:
            self._close(one)  # it is dead; its command, if any, becomes ours and is reaped
            return
        message, descriptors = received
        channel.close_all(descriptors)
        command = one.command
        if command is None:
            return
        self._settle(one)
        if isinstance(message, Started):
            command.pid = message.pid
            self._tell(message)
        elif isinstance(message, Refused):
            self._drop(command)
            self._release(one)
            self._tell(message)
        elif isinstance(message, Exited):
            self._running.pop(command.key, None)
            self._report(message, command)
            self._release(one)

    def _settle(self, one: Spawner) -> None:
        """It has read what it was asked: let go of our copies of the streams."""
        if one.asked is not None:
            channel.close_all(one.asked[1])
            one.asked = None

    def _report(self, report: Exited, command: Command) -> None:
        if time.monotonic() < command.dying_until and self.leaves.populated(command.leaf):
            # "Killed" is said of the whole tree. The last of it is reaped here, so reap() comes by again.
            self._dying.append((report, command))
            return
        killed = os.WIFSIGNALED(report.status) and os.WTERMSIG(report.status) == signal.SIGKILL
        if killed and (command.oom or self.leaves.oom_killed(command.leaf)):
            report = report._replace(oom=1)
        self._ended[report.key] = report, command
        self._tell(report)

    def _report_dead(self) -> None:
        """Tell of killed commands whose trees are gone by now, or take too long to go."""
        dying, self._dying = self._dying, []
        for report, command in dying:
            self._report(report, command)

    def _drop(self, command: Command) -> None:
        """A command that was never started."""
        self._running.pop(command.key, None)
        channel.close_all(self._kept.pop(command.key, ()))

    def _release(self, one: Spawner) -> None:
        """A spawner has nothing in hand: keep it if its leaf holds nothing of the last command."""
        one.command = None
        if len(self._idle) < _IDLE_MOST and self.leaves.holds_only(one.leaf, one.pid):
            self._put_away(one)
        else:
            self._retire(one)

    def _put_away(self, one: Spawner) -> None:
        one.idle_since = time.monotonic()
        self._idle.append(one)

    def _retire(self, one: Spawner) -> None:
        """Hang up, upon which it ends; waitpid tells when."""
        self._close(one)

    def _close(self, one: Spawner) -> None:
        if one in self._idle:
            self._idle.remove(one)
        if one.sock.fileno() >= 0:
            self._unwatch(one.sock.fileno())
            one.sock.close()

    def let_go(self, keep: float = _IDLE_KEEP) -> float | None:
        """Retire spawners idle for ``keep`` seconds, tell of trees that are gone; seconds until
        there will be more of that to do."""
        if self._dying:
            self._report_dead()
            return _LOOK
        horizon = time.monotonic() - keep
        while self._idle and self._idle[0].idle_since <= horizon:
            self._retire(self._idle[0])
        return self._idle[0].idle_since - horizon if self._idle else None

    # ---- end

    def reap(self) -> None:
        """Take in every child that has ended: spawners, file agents, and what the dead have left to us.

        Spawners first: a command that died with its spawner is known as ours only when that is buried, and
        waitpid may name it earlier.
        """
        strangers: dict[int, bytes] = {}  # what has no name among us, and led a session
        dead = self._take_in(strangers)
        for pid, _, _ in dead:
            one = self._spawners.pop(pid, None)
            if one is not None:
                self._bury(one, strangers)
            self.agents.discard(pid)
        for pid, status, usage in dead:
            command = self._orphans.pop(pid, None)
            if command is not None and usage is not None:
                times = int(usage.ru_utime * 1e6), int(usage.ru_stime * 1e6)
                self._report(Exited(command.key, status, *times, usage.ru_maxrss, 0), command)
        if self._dying:
            self._report_dead()

    def _take_in(self, strangers: dict[int, bytes]) -> list[_Dead]:
        """Reap. Looked at before, while /proc still shows it, is what may be a command whose pid nobody has
        told.

        What spawners and agents have used nobody asks for, and wait4 would look for a class to tell it in.
        """
        nameless = False
        for one in self._spawners.values():
            nameless = nameless or (one.command is not None and not one.command.pid)
        dead: list[_Dead] = []
        while True:
            try:
                state = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return dead
            if state is None:
                return dead
            pid, usage = state.si_pid, None
            if nameless and state.si_code != os.CLD_STOPPED:
                self._look_at(pid, strangers)
            if pid in self._spawners or pid in self.agents:
                pid, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            else:
                pid, status, usage = os.wait4(pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                continue  # stopped, and going on by now
            if os.WIFSTOPPED(status):
                self._wake(pid)
            else:
                dead.append((pid, status, usage))

    def _look_at(self, pid: int, strangers: dict[int, bytes]) -> None:
        """Before a dead child is reaped and nothing tells any more which command it was."""
        if pid not in self.own and pid not in self._orphans and (name := processes.led_session(pid)):
            strangers[pid] = name

    def _wake(self, pid: int) -> None:
        """Something inside has stopped a child of ours, as ``kill -STOP -1`` does: spawners and agents go on.
        A command that was left to us may have been stopped on purpose."""
        if pid in self.own:
            os.kill(pid, signal.SIGCONT)

    @property
    def own(self) -> set[int]:
        """The pids of spawners and file agents: not the tenant's processes."""
        return self.agents | self._spawners.keys()

    def _bury(self, one: Spawner, strangers: dict[int, bytes]) -> None:
        """A spawner is dead. What it had in hand is now init's child, to be reaped in its turn."""
        while one.sock.fileno() >= 0:
            self._hear(one)  # it may have said something before it died; ends at its hang-up
        if one.command is not None:
            one.command.oom = self.leaves.oom_killed(one.leaf)
        self.leaves.discard(one.leaf)
        if one.command is None:
            return
        command, one.command = one.command, None
        self._running.pop(command.key, None)
        if one.asked is not None and one.unread:
            order, streams = one.asked
            one.asked = None
            self._dispatch(order, streams, command)
            return
        self._settle(one)
        if not command.pid:
            # Killed between taking the order and telling the pid, perhaps by the very command it had started.
            command.pid = processes.heir(command.argv, self.own | self._orphans.keys(), strangers)
            if command.pid:
                strangers.pop(command.pid, None)
                self._tell(Started(command.key, command.pid))
        if command.pid:
            self._orphans[command.pid] = command
        else:
            self._drop(command)
            self._tell(Refused(command.key, Stage.FORK, errno.ESRCH, "killed before it had started"))

    def forget(self, key: str) -> None:
        """api has what it wanted of this command: its result and its output to the end."""
        self._ended.pop(key, None)
        channel.close_all(self._kept.pop(key, ()))

    def close_input(self, key: str) -> None:
        """Let go of the write end of a command's stdin, so that it can come to its end."""
        kept = self._kept.get(key, ())
        if len(kept) <= _OUTPUTS:
            return
        self._kept[key] = kept[:_OUTPUTS]
        for command in [*self.running(), *[command for _, command in self._ended.values()]]:
            if command.key == key:
                command.kept = kept[:_OUTPUTS]
        channel.close_all(kept[_OUTPUTS:])

    def resize(self, key: str, message: Resize) -> None:
        """Pass it on to the spawner that serves the terminal. Never waits: one that was stopped does not
        read, and then the next size will do."""
        found = self._running.get(key)
        if found is None or not found[0].on_terminal:
            return
        try:
            found[1].sock.send(encode(message), socket.MSG_DONTWAIT)
        except OSError:
            pass

    def measured(self) -> tuple[str, ...]:
        """What each command that runs uses, as ``Measured`` tells it.

        Its processes are those in its leaf, which nothing leaves; without one, those that ``kill`` finds.
        A leaf's own ``cpu.stat`` would count the spawner, and every command that this one ran before.
        """
        table = processes.rows()
        by_pid = {row.pid: row for row in table}
        told = []
        for command in self.running():
            if not command.pid:
                continue
            pids = self.leaves.members(command.leaf) - self.own or processes.tree(command.pid, table)
            rows = [by_pid[pid] for pid in pids if pid in by_pid]
            milliseconds = sum(row.ticks for row in rows) * 1000 // os.sysconf("SC_CLK_TCK")
            size = sum(row.pages for row in rows) * resource.getpagesize()
            told.append(f"{command.key} {milliseconds} {size}")
        return tuple(told)

    def signal(self, key: str, number: int) -> int:
        """Send a signal to a command's process group, which is its session's first; 1 if it was there.

        Its pid is its own as long as nobody has reaped it: a spawner tells the end before it reaps, so one
        that has nothing to say has not; and orphans are reaped here."""
        found = self._running.get(key)
        if found is not None and _says_something(found[1].sock):
            self._hear(found[1])
            found = self._running.get(key)
        orphan = next((one for one in self._orphans.values() if one.key == key), None)
        command = found[0] if found is not None else orphan
        if command is None or not command.pid:
            return 0
        try:
            os.killpg(command.pid, number)
        except (OSError, ValueError, OverflowError):
            return 0
        return 1

    def kill(self, key: str) -> None:
        """End a command and everything it started.

        By its cgroup nothing can slip away; without one, a process that left the session and was
        orphaned is not found.
        """
        found = self._running.get(key)
        if found is None:
            orphan = next((one for one in self._orphans.values() if one.key == key), None)
            if orphan is not None:
                orphan.dying_until = time.monotonic() + _DYING
                processes.kill_tree(orphan.pid)
            return
        command, one = found
        command.dying_until = time.monotonic() + _DYING
        if one.leaf:
            self.leaves.kill(one.leaf)
        elif command.pid:
            processes.kill_tree(command.pid)
        else:
            os.kill(one.pid, signal.SIGKILL)


def _says_something(sock: RawSocket) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
