"""api's side of the conversation with keeper."""

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence

import trio

from nsbox.host.closing import close_all
from nsbox.host.endpoint import Closed, Endpoint, Slot
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.wire.messages import (
    FROM_KEEPER,
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

_log = logging.getLogger(__name__)

#: keeper gives a box 20 s; beyond that it is keeper that is stuck.
_PATIENCE = 30.0
_ADVICE = {
    "cgroup": "nsbox doctor",
    "overlay": "nsbox doctor; the template's layers may be damaged",
    "folder": "free space on the state folder's disk",
    "clone": "nsbox doctor; the host may have run out of processes or namespaces",
}


class KeeperLink:
    """One connection to keeper. ``on_gone`` hears of sandboxes that ended by themselves, ``on_storage`` of
    those that pass a watched storage limit, or are below it again."""

    def __init__(
        self,
        run_dir: int,
        on_gone: Callable[[str], None],
        on_storage: Callable[[Storage], None] = lambda _: None,
    ) -> None:
        try:
            self._endpoint = Endpoint.connect(run_dir, "keeper.sock", FROM_KEEPER)
        except OSError as error:
            raise HostProblem(f"keeper does not answer: {error}", remedy="restart nsbox") from error
        self._on_gone, self._on_storage = on_gone, on_storage
        self._slots: dict[tuple[str, str], Slot] = {}
        self._lost = False
        self.enforced: tuple[str, ...] = ()
        self.blanks = 0
        self.sandboxes: tuple[str, ...] = ()
        self.answered_at = time.monotonic()
        self._one_at_a_time = trio.Lock()
        self.network = NetworkState(0, "there is no network: see the setting network")

    async def greet(self) -> tuple[str, ...]:
        """Exchange versions; the ids of the sandboxes that live. Before ``listen``."""
        await self._endpoint.send(Hello(PROTOCOL_VERSION))
        while True:
            message, descriptors = await self._endpoint.receive()
            close_all(descriptors)
            # What an earlier api was waiting for may end between our connecting and keeper's reading Hello,
            # and is told to whoever is connected. Nobody here waits for it, and Welcome tells what lives.
            if isinstance(message, NetworkState):
                self.network = message
            elif isinstance(message, Welcome) or type(message) not in FROM_KEEPER:
                break
        if not isinstance(message, Welcome) or message.version != PROTOCOL_VERSION:
            raise HostProblem("keeper is of another version than api", remedy="restart nsbox")
        self.enforced = message.enforced
        self._heard(message)
        return message.sandboxes

    async def listen(self) -> None:
        """Take in answers until keeper hangs up, which ends api too. Raises ``Closed``."""
        try:
            while True:
                message, descriptors = await self._endpoint.receive()
                close_all(descriptors)
                self._dispatch(message)
        finally:
            self._lost = True
            for slot in self._slots.values():
                slot.fail()

    def _dispatch(self, message: Message) -> None:
        match message:
            case Gone(sandbox_id, _):
                self._on_gone(sandbox_id)
            case NetworkState():
                self.network = message
            case NetworkSet():
                self._fill(("network", message.id), message)
            case Refusals():
                self._fill(("refusals", message.id), message)
            case Storage():
                self._on_storage(message)
            case Created() | Failed():
                self._fill(("create", message.id), message)
            case Destroyed():
                self._fill(("destroy", message.id), message)
            case Frozen():
                self._fill(("freeze", message.id), message)
            case Thawed():
                self._fill(("thaw", message.id), message)
            case Swept():
                self._fill(("sweep", message.key), message)
            case TaskDone():
                self._fill(("task", message.key), message)
            case Welcome():
                self._heard(message)
                self._fill(("ping", ""), message)

    def _heard(self, message: Welcome) -> None:
        self.blanks, self.answered_at = message.blanks, time.monotonic()
        self.sandboxes = message.sandboxes

    def _fill(self, key: tuple[str, str], message: Message) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            slot.fill(message, [])

    async def _ask(self, kind: str, name: str, message: Message, descriptors: Sequence[int] = ()) -> Slot:
        # Two who ask for the same thing, as two DELETEs of one sandbox do, share the answer.
        if self._lost:
            raise Closed("keeper has hung up")
        slot = self._slots.get((kind, name))
        if slot is None:
            slot = self._slots[kind, name] = Slot()
            try:
                await self._endpoint.send(message, descriptors)
            except BaseException:
                # It was not asked: whoever asks next must not wait for this one's answer.
                self._slots.pop((kind, name), None)
                slot.fail()
                raise
        return slot

    async def create(self, order: Create) -> Created:
        """Have a sandbox made. Raises ``Problem(CREATE_FAILED)``; nothing of it is left then."""
        try:
            slot = await self._ask("create", order.id, order)
            with trio.fail_after(_PATIENCE):
                answer, _ = await slot.wait()
        except (Closed, trio.TooSlowError) as error:
            self._slots.pop(("create", order.id), None)
            raise Problem(
                Code.CREATE_FAILED, f"keeper did not answer: {error}", remedy="try again"
            ) from error
        if isinstance(answer, Created):
            return answer
        assert isinstance(answer, Failed)
        why = _reason(answer.errno) if answer.errno else answer.detail
        raise Problem(
            Code.CREATE_FAILED,
            f"the sandbox could not be made: {answer.stage}: {why}",
            remedy=_ADVICE.get(answer.stage, "nsbox doctor"),
            stage=answer.stage,
        )

    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox; returns when nothing of it is left. Idempotent.

        Raises ``Problem(SANDBOX_UNRESPONSIVE)`` when that takes too long; it may be asked for again.
        """
        try:
            slot = await self._ask("destroy", sandbox_id, Destroy(sandbox_id))
            with trio.fail_after(_PATIENCE):
                await slot.wait()
        except (Closed, trio.TooSlowError) as error:
            self._slots.pop(("destroy", sandbox_id), None)
            raise Problem(
                Code.SANDBOX_UNRESPONSIVE, f"the sandbox is still being ended: {error}", remedy="try again"
            ) from error

    async def freeze(self, sandbox_id: str) -> str:
        """Stop all processes of a sandbox; the path of its cgroup. Idempotent.

        When it raises ``Problem``, they go on, unless keeper did not answer.
        """
        answer = await self._asked("freeze", sandbox_id, Freeze(sandbox_id))
        assert isinstance(answer, Frozen)
        if answer.errno:
            raise _cannot_freeze(answer.errno)
        return answer.cgroup

    async def thaw(self, sandbox_id: str) -> None:
        """Let all processes of a sandbox go on. Idempotent. Raises ``Problem``."""
        answer = await self._asked("thaw", sandbox_id, Thaw(sandbox_id))
        assert isinstance(answer, Thawed)
        if answer.errno:
            raise _cannot_freeze(answer.errno)

    async def set_network(self, sandbox_id: str, policy: str) -> None:
        """Put another policy in place; returning means it holds. Raises ``Problem``."""
        # One at a time: who shares an answer would be told of another's policy.
        async with self._one_at_a_time:
            answer = await self._asked("network", sandbox_id, SetNetwork(sandbox_id, policy))
        assert isinstance(answer, NetworkSet)
        if answer.detail:
            _log.error("the network policy of %s: %s", sandbox_id, answer.detail)
            raise Problem(Code.NETWORK_FAILED, "the policy could not be put in place; the old one holds")

    async def refusals(self, sandbox_id: str) -> tuple[str, ...]:
        """What the network has refused to it. Raises ``Problem``."""
        async with self._one_at_a_time:
            answer = await self._asked("refusals", sandbox_id, AskRefusals(sandbox_id))
        assert isinstance(answer, Refusals)
        return answer.rows

    async def _asked(self, kind: str, sandbox_id: str, question: Message) -> Message:
        try:
            slot = await self._ask(kind, sandbox_id, question)
            with trio.fail_after(_PATIENCE):
                answer, _ = await slot.wait()
        except (Closed, trio.TooSlowError) as error:
            self._slots.pop((kind, sandbox_id), None)
            raise Problem(
                Code.SANDBOX_UNRESPONSIVE, f"keeper did not answer: {error}", remedy="try again"
            ) from error
        return answer

    async def audit(self) -> tuple[str, ...]:
        """Have keeper remove what belongs to no box; what that was, as ``rule name``. Raises ``Problem``."""
        answer = await self._asked("sweep", "", Sweep(""))
        assert isinstance(answer, Swept)
        return answer.findings

    async def task(self, key: str, name: str, argument: str, descriptors: Sequence[int]) -> int:
        """Run a task in the outer namespace; its status as of waitpid. Raises ``Closed``."""
        slot = await self._ask("task", key, Task(key, name, argument), descriptors)
        answer, _ = await slot.wait()
        assert isinstance(answer, TaskDone)
        return answer.status

    async def ping(self) -> None:
        """Returns when keeper's loop has come round to us once more. Raises ``Closed``.

        Hello is the question: it changes nothing, and every keeper of this protocol knows it.
        """
        await (await self._ask("ping", "", Hello(PROTOCOL_VERSION))).wait()

    def close(self) -> None:
        self._endpoint.close()


def _reason(number: int) -> str:
    """The wire's numbers are wider than those of C."""
    try:
        return os.strerror(number)
    except OverflowError:
        return f"error {number}"


def _cannot_freeze(number: int) -> Problem:
    match number:
        case errno.EOPNOTSUPP:
            return Problem(
                Code.HOST_LACKS,
                "this host gives nsbox no cgroup, and pausing is done by the freezer of cgroup v2",
                remedy="have the operator run nsbox doctor: it says how a cgroup is delegated",
            )
        case errno.EBUSY:
            return Problem(
                Code.SANDBOX_UNRESPONSIVE,
                "the sandbox did not stop in time, so it runs on: one of its processes waits for the kernel",
                remedy="try again",
            )
        case errno.ESRCH | errno.ECANCELED:
            return Problem(Code.SANDBOX_GONE, "the sandbox ended meanwhile", remedy="create a new sandbox")
        case _:
            return Problem(
                Code.HOST_LACKS, f"the freezer does not work: {_reason(number)}", remedy="nsbox doctor"
            )
