"""api's end of a message socket: asynchronous, and distrustful of the other side."""

import array
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from nsbox.host.closing import close_all, promptly
from nsbox.wire.framing import (
    MAX_PACKET,
    SEND_BUFFER,
    WireError,
    decode,
    descriptors_in,
    encode,
)
from nsbox.wire.messages import AgentReady, Dialled, Message, Opened, Running, Writing

#: O_NONBLOCK is not enough: it is a property of the open file description, and that of an agent's socket came
#: from the sandbox, which may have kept a duplicate and clear it.
_RECEIVING = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT

#: For all descriptors that one packet can carry (SCM_MAX_FD in the kernel). For what there is no room the
#: kernel closes itself, within our recvmsg(2), and that may wait as any close may: see ``closing``.
_ROOM = socket.CMSG_SPACE(253 * array.array("i").itemsize)
#: How many descriptors come with a message; with all others, none. More is nobody's mistake.
_CARRIED: dict[type, int] = {Running: 3, AgentReady: 1, Dialled: 1, Opened: 1, Writing: 1}

#: One for all endpoints: it is read into and decoded from with no await between.
_buffer = bytearray(MAX_PACKET)


class Closed(Exception):
    """The other side hung up, or sent what it must not."""


class Unread(Closed):
    """The other side was gone before it had read what was sent: asking somebody else does nothing twice."""


class Endpoint:
    """A SEQPACKET connection that speaks messages; ``expected`` are those that may come in."""

    def __init__(self, sock: socket.socket, expected: frozenset[type]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._sock = sock
        self._expected = expected
        self._sending = trio.Lock()

    @classmethod
    def connect(cls, directory: int, name: str, expected: frozenset[type]) -> "Endpoint":
        """Connect to the socket ``name`` in a directory given as a descriptor.

        By way of /proc/self/fd, since a socket's path may have 108 bytes only and a state folder's may be
        longer. Raises ``OSError``.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            # A listener whose backlog is full would have us wait, with every other sandbox, until it accepts.
            sock.setblocking(False)
            sock.connect(f"/proc/self/fd/{directory}/{name}")
            return cls(sock, expected)
        except BaseException:
            sock.close()
            raise

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send ``message``. Raises ``Unread``, ``PacketTooLarge``."""
        packet = encode(message)
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        async with self._sending:
            while True:
                try:
                    self._sock.sendmsg([packet], ancillary, socket.MSG_DONTWAIT)
                    return
                except BlockingIOError:
                    await _until(trio.lowlevel.wait_writable, self._sock)
                except OSError as error:
                    raise Unread(str(error)) from error

    async def receive(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors, which the caller owns. Raises ``Closed``."""
        await trio.lowlevel.checkpoint()  # a peer that floods us must not hold the loop
        while True:
            try:
                size, ancillary, flags, _ = self._sock.recvmsg_into([_buffer], _ROOM, _RECEIVING)
            except BlockingIOError:
                await _until(trio.lowlevel.wait_readable, self._sock)
                continue
            except ConnectionResetError as error:
                # What unix(7) says when the other end was closed with something in it that nobody had read.
                raise Unread(str(error)) from error
            except OSError as error:
                raise Closed(str(error)) from error
            return self._decoded(size, descriptors_in(ancillary), flags)

    def _decoded(self, size: int, descriptors: list[int], flags: int) -> tuple[Message, list[int]]:
        try:
            if not size:
                raise Closed("the other side hung up")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Closed("a packet larger than any message")
            message = decode(memoryview(_buffer)[:size], self._expected)
            if len(descriptors) > _CARRIED.get(type(message), 0):
                raise Closed(f"{len(descriptors)} descriptors came with {type(message).__name__}")
            return message, descriptors
        except (Closed, WireError) as error:
            close_all(descriptors)
            raise Closed(str(error)) from error

    @property
    def broken(self) -> bool:
        """Whether something is there to be read though nothing was asked: the other side has hung up."""
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        """Hang up; whoever waits in ``receive`` is told."""
        trio.lowlevel.notify_closing(self._sock.fileno())
        with promptly():  # its queue may hold descriptors that nobody has read
            self._sock.close()


async def _until(able: Callable[[int], Awaitable[None]], sock: socket.socket) -> None:
    """Raises ``Closed`` when we ourselves hang up meanwhile."""
    try:
        await able(sock.fileno())
    except trio.ClosedResourceError as error:
        raise Closed("we hung up") from error


class Slot:
    """An answer that is waited for."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._answer: tuple[Message, list[int]] | None = None

    def fill(self, message: Message, descriptors: list[int]) -> None:
        self._answer = (message, descriptors)
        self._event.set()

    def fail(self) -> None:
        """No answer will come."""
        self._event.set()

    @property
    def filled(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> tuple[Message, list[int]]:
        """The answer and its descriptors. Raises ``Closed`` when none will come."""
        await self._event.wait()
        if self._answer is None:
            raise Closed("the connection ended before the answer came")
        return self._answer
