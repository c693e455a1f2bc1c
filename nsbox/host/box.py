"""api's side of the conversation with a sandbox's init, which what runs inside may have taken over."""

import os
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

import trio

from nsbox.host import dialled, pipes
from nsbox.host.boxtime import BoxTime
from nsbox.host.closing import close_all, promptly
from nsbox.host.endpoint import Closed, Endpoint, Slot
from nsbox.wire.messages import (
    FROM_AGENT,
    FROM_INIT,
    PROTOCOL_VERSION,
    Agent,
    AgentReady,
    Attached,
    CloseInput,
    Dial,
    Dialled,
    Exec,
    Exited,
    Forget,
    Kill,
    KillAll,
    Killed,
    Measure,
    Measured,
    Message,
    Refused,
    Resize,
    Running,
    Signal,
    Started,
)  # fmt: skip

#: init answers at once unless something is wrong with it, in seconds.
_PATIENCE = 10.0
#: More commands than one init can have: each takes two of its descriptors, and two of ours when adopted.
_MOST_ADOPTED = 2_000
#: So many messages may come besides those that were asked for, at most: what the commands that are adopted
#: have to tell, twice over.
_UNASKED = 5_000
#: So many come for each order: of Exec two, and as many again for what was thought of too late.
_FOR_EACH = 4
#: So many questions that nobody waits for any more are remembered, for descriptors that may still come.
_MOST_GIVEN_UP = 1_000
#: Of a command whose log is lost, what init says of it is shown: so many characters.
_SHOWN = 4_096
#: What is kept of a command: the read ends of its outputs, and then perhaps the write end of its stdin.
_OUTPUTS = 2
#: A row of Measured. So many digits fit a whole number of JSON that everybody reads.
_ROW = re.compile(r"(\S{1,64}) ([0-9]{1,15}) ([0-9]{1,15})")


class Use(NamedTuple):
    """What a command uses, with all it has started: milliseconds of processor time so far, bytes of memory
    now."""

    cpu_ms: int
    memory: int


class Refusal(Exception):
    """init or an agent could not do what it was asked."""

    def __init__(self, answer: Refused) -> None:
        super().__init__(f"{answer.stage}: {answer.detail}")
        self.stage, self.errno, self.detail = answer.stage, answer.errno, answer.detail


class Unresponsive(Exception):
    """init or an agent did not answer in time, or hung up."""


class RunningCommand:
    """A command that was ordered: its pid inside (0: not started yet), and the slot where its end will be
    told."""

    def __init__(self, key: str, pid: int, exited: Slot) -> None:
        self.key, self.pid, self._exited = key, pid, exited

    @property
    def over(self) -> bool:
        """Its end has been told, or never will be."""
        return self._exited.filled

    async def wait(self) -> Exited:
        """What waitpid said. Raises ``Unresponsive`` when the sandbox is gone before that, ``Refusal`` when
        an adopted command could not be started."""
        try:
            message, _ = await self._exited.wait()
        except Closed as error:
            raise Unresponsive(str(error)) from error
        if isinstance(message, Refused):
            raise Refusal(message)
        assert isinstance(message, Exited)
        return message


class Adopted:
    """A command of an earlier api process. ``outputs``: read ends, which the taker owns, as is
    ``input``, the write end of a stdin that is kept open (-1: there is none). Its end may have been told."""

    def __init__(self, running: RunningCommand, told: Running, outputs: list[int], input_: int = -1) -> None:
        self.running, self.outputs, self.input = running, outputs, input_
        self.argv, self.started_ns = _shown(told.argv), told.started_ns
        (self.cwd,) = _shown((told.cwd,)) or ("",)

    def close(self) -> None:
        """It is not taken."""
        close_all(self.outputs)
        if self.input >= 0:
            os.close(self.input)
        self.outputs, self.input = [], -1


def _shown(words: tuple[str, ...]) -> tuple[str, ...]:
    """The first of ``words``, as text that can be written down. init may say what is none, and much of it, of
    thousands of commands."""
    found: list[str] = []
    left = _SHOWN
    for word in words:
        if left <= 0:
            break
        found.append(word[:left].encode("utf-8", "replace").decode())
        left -= len(word) + 1
    return tuple(found)


class Box:
    """One sandbox's init. ``time`` stands still while the sandbox is paused: init answers nobody then, so
    nothing is asked."""

    def __init__(self, run_dir: int, sandbox_id: str) -> None:
        self._endpoint = Endpoint.connect(run_dir, f"{sandbox_id}.sock", FROM_INIT)
        self._answers: dict[str, Slot] = {}
        self._exits: dict[str, Slot] = {}
        self._unstarted: dict[str, RunningCommand] = {}
        self._given_up: dict[str, None] = {}
        self._may_say = _UNASKED
        self._answered = trio.Event()
        self.time = BoxTime()
        self.closed = False
        #: When its commands were last ended for having passed its storage limit, by the monotonic clock.
        self.full_at = -1.0

    async def attach(self) -> list[Adopted]:
        """Take over; the commands of the api process before that nobody has forgotten. Before ``listen``."""
        adopted: list[Adopted] = []
        try:
            with trio.fail_after(_PATIENCE):
                first, descriptors = await self._endpoint.receive()
                close_all(descriptors)
                if not isinstance(first, Attached) or first.version != PROTOCOL_VERSION:
                    raise Unresponsive("init is of another version")
                if first.commands > _MOST_ADOPTED:
                    raise Unresponsive(f"init claims {first.commands} commands")
                for _ in range(first.commands):
                    await self._adopt(adopted)
        except BaseException as error:
            self.close()
            for one in adopted:
                one.close()
            if isinstance(error, Closed | trio.TooSlowError):
                raise Unresponsive(str(error)) from error
            raise
        return adopted

    async def _adopt(self, adopted: list[Adopted]) -> None:
        message, descriptors = await self._endpoint.receive()
        if isinstance(message, Running) and message.key not in self._exits:
            slot = self._exits[message.key] = Slot()
            running = RunningCommand(message.key, message.pid, slot)
            outputs, others = descriptors[:_OUTPUTS], descriptors[_OUTPUTS:]
            adopted.append(Adopted(running, message, pipes.reclaimed(outputs), pipes.reclaimed_input(others)))
            if not message.pid:
                self._unstarted[message.key] = running
            return
        close_all(descriptors)
        if not isinstance(message, Exited):
            raise Unresponsive(f"init sent {type(message).__name__} where a command was expected")
        if message.key in self._exits:
            self._dispatch(message, [])
        else:
            await self._endpoint.send(Forget(message.key))

    async def listen(self) -> None:
        """Take in messages until init hangs up or says what it must not; then everybody who waits is told."""
        try:
            while self._may_say > 0:  # a flood would have us read for ever, and the others wait for each turn
                message, descriptors = await self._endpoint.receive()
                self._may_say -= 1
                if not self._dispatch(message, descriptors):
                    close_all(descriptors)
                    if descriptors and not self._was_asked(message):
                        break
        except Closed:
            pass
        finally:
            self.closed = True
            self.time.go_on()  # whoever waits for a resume is told as well
            for slot in (*self._answers.values(), *self._exits.values()):
                slot.fail()
            self._endpoint.close()

    def _dispatch(self, message: Message, descriptors: list[int]) -> bool:
        """Hand a message to who waits for it; whether somebody took its descriptors."""
        if isinstance(message, Exited):
            ended = self._exits.pop(message.key, None)
            if ended is not None:
                ended.fill(message, [])
            return False  # no descriptor belongs to it
        if isinstance(message, Started | Refused) and message.key in self._unstarted:
            adopted = self._unstarted.pop(message.key)
            if isinstance(message, Started):
                adopted.pid = message.pid
            elif (ended := self._exits.pop(message.key, None)) is not None:
                ended.fill(message, [])
            return False
        if isinstance(message, Started | Refused | Killed | AgentReady | Dialled | Measured):
            slot = self._answers.pop(message.key, None)
        else:
            slot = None
        if slot is None:
            return False  # an answer that nobody waits for any more, or an invented one
        slot.fill(message, descriptors)
        return True

    def _was_asked(self, message: Message) -> bool:
        """Whether descriptors that nobody takes are the late answer to a question. Those that come by
        themselves, in a flood, would cost everybody the time that it takes to close them."""
        if isinstance(message, AgentReady | Dialled) and message.key in self._given_up:
            del self._given_up[message.key]
            return True
        return False

    def _give_up(self, key: str) -> None:
        self._given_up[key] = None
        if len(self._given_up) > _MOST_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    async def _ask(
        self, key: str, message: Message, descriptors: Sequence[int] = ()
    ) -> tuple[Message, list[int]]:
        await self.time.going()
        if self.closed:
            raise Unresponsive("the sandbox is gone")
        slot = self._answers[key] = Slot()
        try:
            self._may_say = min(self._may_say + _FOR_EACH, _UNASKED)
            with self.time.fail_after(_PATIENCE):
                await self._endpoint.send(message, descriptors)
                answer, received = await slot.wait()
        except (Closed, trio.TooSlowError) as error:
            raise Unresponsive(str(error) or "no answer in time") from error
        finally:
            if self._answers.pop(key, None) is not None and isinstance(message, Agent | Dial):
                self._give_up(key)
            self._answered.set()
        if isinstance(answer, Refused):
            close_all(received)
            raise Refusal(answer)
        return answer, received

    async def quiet(self) -> None:
        """Returns when init owes no answer: it may be frozen then. While ``time`` stands still, no question
        is asked, so it stays so. Raises ``Unresponsive``."""
        try:
            with trio.fail_after(_PATIENCE):
                while self._answers:
                    self._answered = trio.Event()
                    await self._answered.wait()
        except trio.TooSlowError as error:
            raise Unresponsive("init does not come to rest") from error

    async def exec(self, order: Exec, descriptors: Sequence[int]) -> RunningCommand:
        """Start a command. The descriptors stay the caller's. Raises ``Refusal``, ``Unresponsive``."""
        exited = self._exits[order.key] = Slot()
        try:
            answer, received = await self._ask(order.key, order, descriptors)
            close_all(received)
            if not isinstance(answer, Started):
                raise Unresponsive(f"init answered {type(answer).__name__} to Exec")
        except BaseException:
            self._exits.pop(order.key, None)
            raise
        return RunningCommand(order.key, answer.pid, exited)

    async def kill(self, key: str) -> None:
        """End a command's tree. Its end is told through its slot."""
        await self._tell(Kill(key))

    async def close_input(self, key: str) -> None:
        """init shall keep a command's stdin open no longer."""
        await self._tell(CloseInput(key))

    async def resize(self, key: str, tty: int) -> None:
        """Give a command's terminal another size."""
        await self._tell(Resize(key, tty))

    async def forget(self, key: str) -> None:
        """Nothing more is wanted of a command."""
        await self._tell(Forget(key))

    async def _tell(self, message: Message) -> None:
        try:
            with self.time.fail_after(_PATIENCE):  # one that does not read keeps us waiting for room
                await self._endpoint.send(message)
        except (Closed, trio.TooSlowError) as error:
            raise Unresponsive(str(error) or "no answer in time") from error

    async def signal(self, key: str, command: str, number: int) -> bool:
        """Send a signal to a command's process group; whether it was there."""
        answer, received = await self._ask(key, Signal(key, command, number))
        close_all(received)
        return isinstance(answer, Killed) and answer.ended == 1

    async def kill_all(self, key: str) -> int:
        """End every process; how many there were."""
        answer, received = await self._ask(key, KillAll(key))
        close_all(received)
        return answer.ended if isinstance(answer, Killed) else 0

    async def measure(self, key: str) -> dict[str, Use]:
        """What commands that run use, by their keys. Nothing while the sandbox stands still: nobody waits for
        it to go on, nor wakes it, for that. Raises ``Refusal``, ``Unresponsive``."""
        if self.time.stands:
            return {}
        answer, received = await self._ask(key, Measure(key))
        close_all(received)
        rows = map(_ROW.fullmatch, answer.rows) if isinstance(answer, Measured) else ()
        return {row[1]: Use(int(row[2]), int(row[3])) for row in rows if row is not None}

    async def open_agent(self, key: str, user: str) -> Endpoint:
        """A new file agent for ``user``. Raises ``Refusal``, ``Unresponsive``."""
        answer, received = await self._ask(key, Agent(key, user))
        if not isinstance(answer, AgentReady) or len(received) != 1:
            close_all(received)
            raise Unresponsive("init sent no agent")
        return _agent_endpoint(received[0])

    async def dial(self, key: str, family: int, port: int) -> socket.socket:
        """A connected socket to a port inside, over IPv4 or IPv6. Raises ``dialled.NotListening``,
        ``Refusal``, ``Unresponsive``. Use it with MSG_DONTWAIT and ``dialled.close`` only."""
        answer, received = await self._ask(key, Dial(key, family, port))
        if not isinstance(answer, Dialled) or len(received) != 1:
            close_all(received)
            raise Unresponsive("init sent no socket")
        try:
            return await dialled.connected(received[0], family, port)
        except dialled.Impostor as error:
            raise Unresponsive(f"init sent something else for a socket: {error}") from error
        except trio.TooSlowError as error:
            raise Unresponsive("what listens there does not accept connections") from error

    def close(self) -> None:
        self._endpoint.close()


def _agent_endpoint(descriptor: int) -> Endpoint:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        close_all([descriptor])
        raise Unresponsive("init sent something else for an agent") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        with promptly():
            sock.close()
        raise Unresponsive("init sent something else for an agent")
    return Endpoint(sock, FROM_AGENT)
