"""keeper's state and rules: orders from api, news from boxes, the dead, the stock of blanks.

Nothing here waits. Every order is answered when its box says so; the loop in ``__main__`` feeds in what
happened.
"""

import errno
import os
import time
from collections.abc import Callable
from typing import Protocol

from nsbox.inside import channel
from nsbox.keeper import layout, tasks
from nsbox.keeper.audit import Audit
from nsbox.keeper.boxes import Box, Host, Phase, StageError
from nsbox.keeper.freezer import Freezer
from nsbox.keeper.network import Network
from nsbox.keeper.pool import Pool
from nsbox.keeper.trash import Sweeper
from nsbox.keeper.watcher import Watcher as StorageWatcher
from nsbox.kernel import journal
from nsbox.kernel.cgroup import Cgroup
from nsbox.wire.framing import WireError
from nsbox.wire.messages import (
    FROM_BLANK,
    PROTOCOL_VERSION,
    AskRefusals,
    Create,
    Created,
    Destroy,
    Destroyed,
    Failed,
    Freeze,
    Frozen,
    Gone,
    Hello,
    Message,
    NetworkSet,
    NetworkState,
    Ready,
    Refusals,
    SetNetwork,
    Storage,
    Sweep,
    Swept,
    Task,
    TaskDone,
    Thaw,
    Thawed,
    Welcome,
)  # fmt: skip

#: A launch takes less than this, in seconds, and is not to be held up by the making of a blank.
_LAUNCH = 0.005
#: How long a box may take to prepare or to launch before it is given up, in seconds.
_PATIENCE = 20.0


class Watcher(Protocol):
    """What the loop offers: watch a box's control socket, follow what the storage watcher reports."""

    def watch(self, box: Box) -> None: ...
    def unwatch(self, box: Box) -> None: ...
    def follow(self, reports: int) -> None: ...


class Keeper:
    """All boxes. ``answer`` sends a message to api, if one is connected."""

    def __init__(
        self,
        host: Host,
        pool: Pool,
        watcher: Watcher,
        answer: Callable[[Message], None],
        network: Network | None = None,
    ) -> None:
        self._host, self.pool, self._watcher, self._answer = host, pool, watcher, answer
        self._network = network
        if network is not None:
            network.listener = self
        self.sweeper = Sweeper()
        self.freezer = Freezer(answer)
        self.storage = StorageWatcher()
        self.audit = Audit()
        self._boxes: dict[int, Box] = {}  # by pid
        self._by_id: dict[str, Box] = {}
        self._tasks: dict[int, str] = {}
        self.spare = tasks.Spare()
        self._since: dict[int, float] = {}  # when a box began to prepare or launch, by pid
        self._cgroups: list[Cgroup] = []  # of dead boxes, not yet removable
        self._last_order = 0.0
        self.failures = 0  # boxes that failed to prepare, since the last that did not

    # ---- orders from api

    def obey(self, message: Message, descriptors: list[int]) -> None:
        """Carry out one message of api."""
        self._last_order = time.monotonic()
        match message:
            case Hello():
                # Those still being made too: the api that ordered them is gone, and this one ends them.
                ids = tuple(box.id for box in self._by_id.values() if box.phase is not Phase.ENDING)
                self._answer(Welcome(PROTOCOL_VERSION, self._host.enforced, ids, len(self.pool)))
                if self._network is not None:
                    self._answer(self._network.state)
            case Create():
                self._create(message)
            case Destroy(id=sandbox_id):
                self._destroy(sandbox_id)
            case Freeze(id=sandbox_id):
                if (box := self._running(sandbox_id)) is None:
                    self._answer(Frozen(sandbox_id, errno.ESRCH, ""))
                else:
                    self.freezer.freeze(box)
            case Thaw(id=sandbox_id):
                box = self._running(sandbox_id)
                self._answer(Thawed(sandbox_id, errno.ESRCH if box is None else self.freezer.thaw(box)))
            case Sweep(key=key):
                self._answer(Swept(key, self._sweep()))
            case Task():
                self._start_task(message, descriptors)
            case SetNetwork(id=sandbox_id, policy=policy):
                self._set_network(sandbox_id, policy)
            case AskRefusals(id=sandbox_id):
                self._ask_refusals(sandbox_id)

    def _create(self, order: Create) -> None:
        if order.id in self._by_id or not layout.is_order(order):
            detail = "a bad order, or a second sandbox of one id"
            self._answer(Failed(order.id[:64], "order", errno.EINVAL, detail))
            return
        box = self.pool.take()
        if box is None:
            try:
                box = self.new_box()
            except StageError as failed:
                self._answer(Failed(order.id, failed.stage, failed.error.errno or 0, str(failed.error)))
                return
        box.order = order
        self._by_id[order.id] = box
        if box.phase is Phase.BLANK:
            self._launch(box)

    def _launch(self, box: Box) -> None:
        self._since[box.pid] = time.monotonic()
        if self._network is not None and box.slot >= 0 and box.order is not None:
            self._network.set_policy(box, box.order.network)  # holds by the time that init has its root
        try:
            box.launch()
        except StageError as failed:
            self._fail(box, failed.stage, failed.error.errno or 0, str(failed.error))
            return
        if not self.storage.pid and box.order is not None and box.order.storage == "watched":
            self._watch_storage()

    def _watch_storage(self) -> None:
        try:
            self.storage.start()
        except OSError as error:
            _log(f"no storage is watched for now: {error}")
            self.storage.pid = 0
            return
        self._watcher.follow(self.storage.reports)

    def hear_storage(self) -> None:
        """The storage watcher has found somebody above the limit, or below it again.

        api first: it tells whoever waits for a command why that ended.
        """
        for report in self.storage.read():
            box = self._by_id.get(report.id)
            if box is None or box.phase is not Phase.RUNNING:
                continue
            self._answer(Storage(report.id, report.size, report.inodes, int(report.over)))
            if report.over:
                try:
                    box.end_commands()
                except OSError as error:
                    _log(f"{box.name}: its commands cannot be ended: {error}")

    def _fail(self, box: Box, stage: str, number: int, detail: str) -> None:
        """A box that was to become a sandbox will not. The answer is given now; removal follows its death."""
        if box.order is not None:
            self._by_id.pop(box.id, None)
            self._answer(Failed(box.id, stage, number, detail))
        self.pool.drop(box)  # now and not at its death, lest an order gets it meanwhile
        self._end(box)

    def _end(self, box: Box) -> None:
        """Nothing that a box says counts from now on."""
        self._since.pop(box.pid, None)
        self.freezer.forget(box)
        box.kill()

    def _destroy(self, sandbox_id: str) -> None:
        box = self._by_id.get(sandbox_id)
        if box is None:
            self._answer(Destroyed(sandbox_id))
            return
        if box.phase in (Phase.PREPARING, Phase.LAUNCHING):
            self._answer(
                Failed(sandbox_id, "destroyed", errno.ECANCELED, "destroyed while it was being created")
            )
        box.destroy_asked = True
        self._end(box)

    def _sweep(self) -> tuple[str, ...]:
        boxes = self._boxes.values()
        pending = {one.path for one in self._cgroups}
        known = {box.cgroup.path for box in boxes if box.cgroup is not None} | pending
        findings, strays = self.audit.look(
            [box.name for box in boxes],
            [box.id for box in boxes if box.id],
            known,
            self._host.cgroup,
            self.sweeper.discard,
        )
        self._cgroups += strays
        self.remove_cgroups()
        return findings

    def _running(self, sandbox_id: str) -> Box | None:
        box = self._by_id.get(sandbox_id)
        return box if box is not None and box.phase is Phase.RUNNING else None

    def _start_task(self, task: Task, descriptors: list[int]) -> None:
        try:
            self._tasks[tasks.start(task, descriptors, self.spare)] = task.key
        except (tasks.BadTask, OSError) as error:
            _log(f"task {task.name}: {error}")
            self._answer(TaskDone(task.key, 127 << 8))

    # ---- boxes

    def wants_blank(self, quiet: float) -> bool:
        """Whether one should be made now: the stock is low, or not full and no order has come for so long."""
        since = time.monotonic() - self._last_order
        return self.pool.wants_more and since >= (_LAUNCH if self.pool.low else quiet)

    def preparing(self) -> bool:
        """Whether some box is not yet a blank."""
        return any(box.phase is Phase.PREPARING for box in self._boxes.values())

    def new_box(self) -> Box:
        """Clone a box and watch it. Raises ``StageError``; nothing of it is left then."""
        box = self.pool.make()
        try:
            box.clone()
        except StageError:
            if box.pid > 0:
                self._boxes[box.pid] = box
                box.kill()
            else:
                self._remove(box)
            self.pool.rest()
            raise
        self._boxes[box.pid] = box
        self._since[box.pid] = time.monotonic()
        self._watcher.watch(box)
        if self._network is not None:
            self._network.plug(box)
        return box

    def refill(self) -> None:
        """Put one more blank in stock."""
        try:
            self.pool.stock(self.new_box())
        except StageError as failed:
            self.failures += 1
            _log(f"cannot make a blank: {failed}")

    def hear(self, box: Box) -> None:
        """A box's control socket is readable."""
        assert box.control is not None
        try:
            received = channel.receive(box.control, FROM_BLANK)
        except (WireError, OSError) as error:
            received = None
            _log(f"{box.name}: {error}")
        if received is None:
            self._watcher.unwatch(box)  # waitpid tells the rest
            return
        message, descriptors = received
        channel.close_all(descriptors)
        if box.phase not in (Phase.PREPARING, Phase.LAUNCHING):
            self._watcher.unwatch(box)  # it is being ended, or has no reason to speak
        elif isinstance(message, Failed):
            _log(f"{box.name} failed at {message.stage}: {message.detail}")
            self.failures += box.phase is Phase.PREPARING
            self._fail(box, message.stage, message.errno, message.detail)
        elif isinstance(message, Ready):
            self._ready(box)

    def _ready(self, box: Box) -> None:
        if box.phase is Phase.PREPARING:
            box.prepared = True
        else:
            box.ready = True
        self._go_on(box)

    def _go_on(self, box: Box) -> None:
        """Into the next phase, when both init and the network have done their part."""
        if box.phase is Phase.PREPARING and box.prepared and not box.plugging:
            self._since.pop(box.pid, None)
            box.phase = Phase.BLANK
            self.failures = 0
            if box.order is not None:
                self._launch(box)
        elif box.phase is Phase.LAUNCHING and box.ready and not box.policy_pending:
            self._since.pop(box.pid, None)
            box.phase = Phase.RUNNING
            self._watcher.unwatch(box)
            box.hear_no_more()
            self._answer(Created(box.id, box.enforced, box.cgroup.path if box.cgroup else ""))

    # ---- the network

    def linked(self, box: Box) -> None:
        """A box has its link, or will have none."""
        self._go_on(box)

    def policy_set(self, box: Box, detail: str) -> None:
        """A box's policy holds, or not."""
        if box.phase is Phase.RUNNING:
            self._answer(NetworkSet(box.id, detail))
        elif detail and box.phase is Phase.LAUNCHING:
            self._fail(box, "network", 0, detail)
        else:
            self._go_on(box)

    def told(self, box: Box, rows: tuple[str, ...]) -> None:
        self._answer(Refusals(box.id, rows))

    def network_changed(self, state: NetworkState) -> None:
        self._answer(state)

    def _set_network(self, sandbox_id: str, policy: str) -> None:
        box = self._by_id.get(sandbox_id)
        if self._network is None or box is None or box.slot < 0:
            self._answer(NetworkSet(sandbox_id, ""))  # without a link nothing is reached, whatever is allowed
        else:
            self._network.set_policy(box, policy)

    def _ask_refusals(self, sandbox_id: str) -> None:
        box = self._by_id.get(sandbox_id)
        if self._network is None or box is None or not self._network.ask_log(box):
            self._answer(Refusals(sandbox_id, ()))

    def reap(self) -> None:
        """Take in every dead child: boxes, tasks, the sweeper, orphans of the pid namespace."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._boxes:
                self._bury(self._boxes.pop(pid), status)
            elif pid in self._tasks:
                self._answer(TaskDone(self._tasks.pop(pid), status))
            elif pid == self.spare.pid:
                self.spare.forget()
            elif pid == self.sweeper.pid:
                self.sweeper.start()
            elif self._network is not None and self._network.reaped(pid, status):
                pass
            elif pid == self.storage.pid:
                _log("the storage watcher died; starting another")
                self._watch_storage()
            elif pid == self._host.zygote.pid:
                _log("the zygote died; starting another")
                self._host.zygote.start()

    def _bury(self, box: Box, status: int) -> None:
        """Remove what is left of a box whose init is dead, then tell."""
        expected, phase = box.destroy_asked, box.phase
        self._watcher.unwatch(box)
        self.freezer.forget(box)
        self._since.pop(box.pid, None)
        self.pool.drop(box)
        self._remove(box)
        if self._by_id.get(box.id) is not box:
            return
        del self._by_id[box.id]
        if expected:
            self._answer(Destroyed(box.id))
        elif phase is Phase.RUNNING:
            self._answer(Gone(box.id, status))
        else:
            self._answer(Failed(box.id, "init", 0, f"init ended with status {status} before it was ready"))

    def _remove(self, box: Box) -> None:
        box.close()
        if self._network is not None:
            self._network.unplug(box)
        if box.order is not None:
            self.sweeper.discard(box.folder)
        if box.cgroup is not None:
            self._cgroups.append(box.cgroup)
            self.remove_cgroups()

    def remove_cgroups(self) -> bool:
        """Remove the cgroups of the dead; whether some are left to try again."""
        self._cgroups = [one for one in self._cgroups if not _removed(one)]
        return bool(self._cgroups)

    def give_up_stuck(self) -> None:
        """End boxes that have been preparing or launching for too long."""
        horizon = time.monotonic() - _PATIENCE
        for pid in [pid for pid, since in self._since.items() if since < horizon]:
            box = self._boxes[pid]
            del self._since[pid]
            self._fail(
                box, "time", errno.ETIMEDOUT, f"not ready after {_PATIENCE:.0f} s ({box.phase.name.lower()})"
            )

    def end_all(self) -> int:
        """Kill every box; how many there still are."""
        for box in self._boxes.values():
            if box.phase is not Phase.ENDING:
                box.destroy_asked = True
                box.kill()
        return len(self._boxes)


def _removed(cgroup: Cgroup) -> bool:
    try:
        return cgroup.remove()
    except OSError as error:
        _log(f"{cgroup}: {error}")
        return True


def _log(text: str) -> None:
    journal.say(journal.WARNING, f"nsbox keeper: {text}")
