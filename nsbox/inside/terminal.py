"""A terminal of a command: made in the sandbox's own devpts, and served by the spawner that started it.

The spawner moves bytes between the terminal's master and the pipes that api made. So the master never leaves
the sandbox: what api holds are pipes of its own, with the log, the bounds and the afterlife that every
command's output has, and nothing that a sandbox could make into something else than it seems to be. The
spawner outlives api; when it is killed, the terminal hangs up.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import termios

from nsbox.inside import channel
from nsbox.kernel.rawsocket import RawSocket
from nsbox.wire.messages import TO_SPAWNER, Resize

#: As much as a terminal takes at a time, about.
_CHUNK = 4096
_END_OF_INPUT = b"\x04"
#: What a terminal and its pipe can hold when its command has ended. More is others', who may write on.
_LAST_WORDS = 256 * 1024
#: <asm-generic/ioctls.h>; not in every Python's termios.
_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430


def make(size: int) -> tuple[int, str]:
    """A new terminal: its master, and the path of the other end, which belongs to who we are. Raises
    ``OSError``."""
    # O_NONBLOCK at once: what runs inside may have put anything in this place.
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        resize(master, size)
    except OSError:
        os.close(master)
        raise
    return master, f"/dev/pts/{number}"


def resize(master: int, size: int) -> None:
    """Give it another size; the programs in its foreground get SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size >> 16 & 0xFFFF, size & 0xFFFF, 0, 0))


def relay(master: int, pid: int, streams: list[int], sock: RawSocket) -> None:
    """Until the command has ended and what it wrote is on its way."""
    watch = os.pidfd_open(pid)
    try:
        one = _Relay(master, streams[0], streams[1])
        while one.turn(watch, sock):
            pass
        one.finish()
    finally:
        os.close(watch)


class _Relay:
    """Both directions, each with one chunk in hand at most: a full pipe holds up who writes to the
    terminal, and a terminal that nobody reads holds up who writes into the pipe."""

    def __init__(self, master: int, source: int, sink: int) -> None:
        self._master, self._source, self._sink = master, source, sink
        self._typed = self._shown = b""
        self._open, self._hung_up = True, False
        os.set_blocking(source, False)
        os.set_blocking(sink, False)

    def turn(self, watch: int, sock: RawSocket) -> bool:
        """Wait for something to do, and do it. Whether the command goes on."""
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        poll.register(sock.fileno(), select.POLLIN)
        if self._open and not self._typed:
            poll.register(self._source, select.POLLIN)
        if self._shown:
            poll.register(self._sink, select.POLLOUT)
        wanted = (0 if self._shown else select.POLLIN) | (select.POLLOUT if self._typed else 0)
        if wanted and not self._hung_up:
            poll.register(self._master, wanted)
        ready = dict(poll.poll())
        if sock.fileno() in ready and not self._hear(sock):
            return False
        if self._source in ready:
            self._take()
        if ready.get(self._master, 0) & select.POLLOUT:
            self._type()
        if ready.get(self._master, 0) & ~select.POLLOUT and not self._shown:
            self._look()
        if self._shown:
            self._show()
        return watch not in ready

    def _hear(self, sock: RawSocket) -> bool:
        try:
            received = channel.receive(sock, TO_SPAWNER, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        if received is None:
            return False
        message, descriptors = received
        channel.close_all(descriptors)
        if isinstance(message, Resize):
            resize(self._master, message.tty)
        return True

    def _take(self) -> None:
        try:
            self._typed = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        if not self._typed:
            # As if the user had pressed it: a terminal has no other end of input but the hang-up.
            self._open, self._typed = False, _END_OF_INPUT

    def _type(self) -> None:
        try:
            self._typed = self._typed[os.write(self._master, self._typed) :]
        except BlockingIOError:
            pass
        except OSError:
            self._typed = b""

    def _look(self) -> bool:
        try:
            self._shown = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # Nobody has the other end open; its command may live on, and even open it again.
            self._hung_up = True
            return False
        return bool(self._shown)

    def _show(self) -> None:
        try:
            self._shown = self._shown[os.write(self._sink, self._shown) :]
        except BlockingIOError:
            pass

    def finish(self) -> None:
        """The command has ended: pass on what it wrote. A read of the terminal sees all that was written to
        it before (n_tty flushes its buffers first)."""
        left = _LAST_WORDS
        while left > 0 and (self._shown or self._look()):
            before = len(self._shown)
            self._show()
            left -= before - len(self._shown)
            if self._shown:
                poll = select.poll()
                poll.register(self._sink, select.POLLOUT)
                poll.poll()
