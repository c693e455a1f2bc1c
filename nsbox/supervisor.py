"""The main process of ``nsbox serve``: starts keeper and api, restarts api, ends both.

It exists because neither could start the other: keeper lives in a user namespace of its own, from which no
process gets back out, and api must not have the right to use newuidmap. It stays single-threaded, since a
threaded process cannot make user namespaces, and holds the listening sockets of the API and of the proxy, so
that a restart of api loses no connection.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time

import msgspec

from nsbox.host import account, cgroups, claims, facts, heartbeat, outer, storage, systemd
from nsbox.keeper.config import Config
from nsbox.kernel import journal, python
from nsbox.kernel.namespaces import SANDBOX_IDS, IdRange
from nsbox.model.errors import HostProblem
from nsbox.plan import edge, network
from nsbox.settings import BOOTSTRAP_KEY_VARIABLE, LimitsMode, Settings

#: How long keeper may take to make its first blank, in seconds.
_KEEPER_START = 60.0
#: api is restarted after this many seconds, twice as many each time it dies young.
_FIRST_REST, _LONGEST_REST = 0.1, 10.0
_YOUNG = 30.0
_KEEPER_END = 10.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def run(settings: Settings, bootstrap_key: str | None) -> int:
    """Serve until told to stop; the exit status. Raises ``HostProblem``."""
    os.environ.pop(BOOTSTRAP_KEY_VARIABLE, None)
    edge.check(settings)
    os.umask(0o077)
    claims.state_folder(settings.state_dir)
    lock = claims.lock(settings.state_dir)
    claims.forget_address(settings.state_dir)
    delegation = cgroups.prepare()
    if settings.limits is LimitsMode.REQUIRED:
        cgroups.require(delegation)
    storage.require(settings)
    io_max = cgroups.io_max(settings, delegation)
    listener = claims.listen(settings.host, settings.port, "port")
    try:
        with claims.listen(settings.proxy_host, settings.proxy_port, "proxy-port") as proxy:
            return _Supervisor(settings, delegation, io_max, (listener, proxy), bootstrap_key).run()
    finally:
        listener.close()
        os.close(lock)


def subordinate_ids() -> tuple[IdRange, IdRange]:
    """The uid and gid ranges of this user that are large enough. Raises ``HostProblem``."""
    user, uid = account.current_name(), os.getuid()
    found = []
    for path in ("/etc/subuid", "/etc/subgid"):
        enough = [one for one in facts.sub_ids(path, user, uid) if one.count >= SANDBOX_IDS]
        if not enough:
            raise HostProblem(
                f"{user} has no range of {SANDBOX_IDS} ids in {path}",
                remedy=f"sudo nsbox setup --user {user}",
            )
        found.append(IdRange(enough[0].start, enough[0].count))
    return found[0], found[1]


class _Supervisor:
    """Two children and what happens to them."""

    def __init__(
        self,
        settings: Settings,
        delegation: cgroups.Delegation,
        io_max: str,
        listeners: tuple[socket.socket, socket.socket],
        bootstrap_key: str | None,
    ) -> None:
        self._settings, self._delegation, self._listeners = settings, delegation, listeners
        self._io_max = io_max
        self._bootstrap_key = bootstrap_key
        self._keeper = 0
        self._lifeline = -1
        self._api: subprocess.Popen[bytes] | None = None
        self._beats = -1  # api's heartbeat, our end
        self._last_beat = 0.0
        self._api_since = 0.0
        self._rest = _FIRST_REST
        self._not_before = 0.0
        self._stopping = False
        self._served = False  # an api has been ready, since this daemon was started
        self._hopeless = False

    def run(self) -> int:
        wakeup = _wakeup_pipe()
        self._start_keeper()
        self._start_api()
        try:
            while not self._stopping:
                self._wait(wakeup)
                if not self._stopping and self._api is None and time.monotonic() >= self._not_before:
                    self._start_api()
            return 0 if self._keeper and not self._hopeless else 1
        finally:
            self._end()

    # ---- keeper

    def _start_keeper(self) -> None:
        lifeline, self._lifeline = os.pipe2(os.O_CLOEXEC)
        announced, announce = os.pipe2(os.O_CLOEXEC)
        group = self._delegation.cgroup
        config = Config(
            state_dir=self._settings.state_dir,
            pool_size=self._settings.pool_size,
            cgroup=group.path if group is not None else "",
            controllers=self._delegation.controllers,
            lifeline=lifeline,
            announce=announce,
            network=network.options(self._settings),
            io_max=self._io_max,
        )
        try:
            uids, gids = subordinate_ids()
            self._keeper = outer.start(
                "nsbox.keeper.main", config.to_json(), uids, gids, (lifeline, announce)
            )
        finally:
            os.close(lifeline)
            os.close(announce)
        ready, _, _ = select.select([announced], [], [], _KEEPER_START)
        answer = os.read(announced, 64) if ready else b""
        os.close(announced)
        if answer != b"ready\n":
            self._end_keeper()
            raise HostProblem("keeper did not start", remedy="nsbox doctor")

    def _end_keeper(self) -> None:
        """Closing the lifeline asks; what does not answer is killed, and the kernel ends all it made."""
        if not self._keeper:
            return
        os.close(self._lifeline)
        deadline = time.monotonic() + _KEEPER_END
        while time.monotonic() < deadline:
            pid, _ = os.waitpid(self._keeper, os.WNOHANG)
            if pid:
                self._keeper = 0
                return
            time.sleep(0.01)
        os.kill(self._keeper, signal.SIGKILL)
        os.waitpid(self._keeper, 0)
        self._keeper = 0

    # ---- api

    def _start_api(self) -> None:
        """The settings, and the first key if one is preset, go by a pipe: neither the command line nor the
        environment of a process is a place for a secret."""
        descriptors = [listener.fileno() for listener in self._listeners]
        self._beats, beat = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._api = subprocess.Popen(
            python.command("nsbox.daemon", ",".join(str(descriptor) for descriptor in descriptors)),
            stdin=subprocess.PIPE,
            pass_fds=(*descriptors, beat),
            # Nowhere else may api write. SQLite looks when it is loaded, so api itself would be too late.
            env={**os.environ, "SQLITE_TMPDIR": self._settings.state_dir, "TMPDIR": self._settings.state_dir},
        )
        os.close(beat)
        self._api_since = self._last_beat = time.monotonic()
        orders = {
            "settings": msgspec.to_builtins(self._settings),
            "bootstrap_key": self._bootstrap_key,
            "heartbeat": beat,
            "cgroup": self._delegation.cgroup.path if self._delegation.cgroup is not None else "",
        }
        assert self._api.stdin is not None
        try:
            self._api.stdin.write(msgspec.json.encode(orders))
            self._api.stdin.close()
        except BrokenPipeError:
            pass  # it died at once: waitpid tells

    def _api_died(self, status: int) -> None:
        if self._stopping:
            return
        if status == heartbeat.GAVE_UP and not self._served:
            # It said what this host lacks. A daemon that served before tries again: its sandboxes live.
            self._stopping = self._hopeless = True
            return
        young = time.monotonic() - self._api_since < _YOUNG
        self._rest = min(self._rest * 2, _LONGEST_REST) if young else _FIRST_REST
        self._not_before = time.monotonic() + (self._rest if status else 0)
        journal.say(journal.WARNING, f"nsbox: api ended with status {status}; starting it again")

    # ---- events

    def _wait(self, wakeup: int) -> None:
        watched = [one for one in (wakeup, self._beats) if one >= 0]
        due = self._not_before if self._api is None else self._last_beat + self._settings.hang_timeout_s
        readable, _, _ = select.select(watched, [], [], max(0.0, due - time.monotonic()))
        if self._beats in readable:
            self._hear_beat()
        if wakeup in readable:
            self._signalled(os.read(wakeup, 4096))
        elif not readable and self._api is not None:
            self._end_hung_api()

    def _hear_beat(self) -> None:
        """api has had an answer from keeper, and that is all that systemd wants to know of us: the three
        processes that sandboxes hang on have all had their turn."""
        if heard := os.read(self._beats, 4096):
            self._served |= heartbeat.READY in heard
            self._last_beat = time.monotonic()
            systemd.notify("WATCHDOG=1")
        else:
            self._drop_beats()  # api is dead; SIGCHLD tells the rest

    def _drop_beats(self) -> None:
        if self._beats >= 0:
            os.close(self._beats)
            self._beats = -1

    def _end_hung_api(self) -> None:
        """Only api is replaced: sandboxes do not hang on it. If it was keeper that hung, the next one gets no
        answer either, and systemd's watchdog, which is slower than ours, ends the service."""
        assert self._api is not None
        journal.say(
            journal.ERROR,
            f"nsbox: api has not had an answer from keeper for {self._settings.hang_timeout_s} s; killing it",
        )
        self._last_beat = time.monotonic()
        self._api.kill()

    def _signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._stopping = True
        if signal.SIGHUP in numbers and self._api is not None:
            self._rest = _FIRST_REST
            self._api.send_signal(signal.SIGHUP)  # it ends without touching a sandbox, and is started again
        self._reap()

    def _reap(self) -> None:
        if self._api is not None and self._api.poll() is not None:
            status, self._api = self._api.returncode, None
            self._drop_beats()
            self._api_died(status)
        if self._keeper and os.waitpid(self._keeper, os.WNOHANG)[0]:
            self._keeper = 0
            self._stopping = True
            journal.say(journal.ERROR, "nsbox: keeper died, and every sandbox with it")

    def _end(self) -> None:
        """api first: it ends the sandboxes and says so in the record. Then keeper, with whatever is left."""
        if self._api is not None:
            self._api.send_signal(signal.SIGTERM)
            try:
                self._api.wait(self._settings.shutdown_grace_s + 5)
            except subprocess.TimeoutExpired:
                self._api.kill()
                self._api.wait()
        self._end_keeper()


def _wakeup_pipe() -> int:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader
