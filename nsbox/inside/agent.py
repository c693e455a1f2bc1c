"""The file agent: a child of init that acts on files as one user, for one api connection, until it hangs up.

A process of its own, for three reasons: its credentials are the user's, so the kernel decides what it may
read; a path that makes it wait keeps nobody else waiting; and it is forked once, not for every request.
"""

import errno
import os
import signal
from typing import NoReturn

from nsbox.inside import channel, files, privileges
from nsbox.inside.users import Credentials
from nsbox.kernel.rawsocket import RawSocket
from nsbox.wire.framing import MAX_PACKET, WireError
from nsbox.wire.messages import (
    TO_AGENT,
    Abort,
    Commit,
    Done,
    Entries,
    Message,
    Opened,
    Put,
    Read,
    Refused,
    Remove,
    Scan,
    Stage,
    Write,
    Writing,
)  # fmt: skip

#: A listing goes out in packets of at most this many bytes of rows.
_PART = MAX_PACKET // 4


def run(sock: RawSocket, who: Credentials) -> NoReturn:
    """Serve requests from ``sock`` as ``who``. Never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        privileges.close_all_but({0, 1, 2, sock.fileno()})
        privileges.name_process("nsbox-files")
        os.umask(0o022)
        privileges.become(who.uid, who.gid, who.groups)
        Agent(sock).serve()
        status = 0
    except (WireError, OSError):
        pass  # api is gone or not itself: nobody is left to tell
    finally:
        os._exit(status)


class Agent:
    """One connection's requests, one at a time. At most one file is being written."""

    def __init__(self, sock: RawSocket) -> None:
        self._sock = sock
        self._replacing: tuple[files.Replacement, int] | None = None

    def serve(self) -> None:
        try:
            while received := channel.receive_alive(self._sock, TO_AGENT):
                message, descriptors = received
                channel.close_all(descriptors)
                self._answer(message)
        finally:
            self._abort()  # an upload whose client left leaves nothing behind

    def _answer(self, message: Message) -> None:
        try:
            self._do(message)
        except files.Refusal as refusal:
            self._send(Refused("", refusal.stage, refusal.errno, refusal.detail))
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            self._send(Refused("", Stage.PATH, number, os.strerror(number)))

    def _do(self, message: Message) -> None:
        match message:
            case Read(path=path):
                self._read(path)
            case Write(path=path, mode=mode):
                self._abort()
                self._replacing = files.begin_replacing(path, mode)
                channel.send(self._sock, Writing(""), [self._replacing[1]])
            case Commit():
                self._commit()
            case Abort():
                self._abort()
                self._send(Done(0))
            case Put(path=path, mode=mode, blob=blob):
                self._send(Done(files.put(path, mode, blob)))
            case Scan(path=path, recursive=recursive, limit=limit):
                self._scan(path, bool(recursive), limit)
            case Remove(path=path, recursive=recursive):
                files.remove(path, bool(recursive))
                self._send(Done(0))

    def _read(self, path: str) -> None:
        descriptor, copied = files.open_for_reading(path)
        try:
            found = os.fstat(descriptor)
            channel.send(self._sock, Opened(found.st_size, found.st_mtime_ns, int(copied)), [descriptor])
        finally:
            os.close(descriptor)

    def _commit(self) -> None:
        if self._replacing is None:
            raise files.Refusal(Stage.UNKNOWN, errno.EINVAL, "nothing is being written")
        replacement, descriptor = self._replacing
        self._replacing = None
        try:
            size = os.fstat(descriptor).st_size
            files.commit(replacement, descriptor)
        finally:
            os.close(descriptor)
        self._send(Done(size))

    def _abort(self) -> None:
        if self._replacing is not None:
            replacement, descriptor = self._replacing
            self._replacing = None
            os.close(descriptor)
            files.abort(replacement)

    def _scan(self, path: str, recursive: bool, limit: int) -> None:
        part: list[str] = []
        size = count = 0
        cut = False
        for row in files.scan(path, recursive, limit):
            cut = cut or row is files.CUT or count == limit
            if row is files.CUT:
                continue
            count += 1
            if count > limit:
                break
            part.append(row)
            size += 2 * len(row)  # at worst every character is escaped again
            if size > _PART:
                self._send(Entries(tuple(part), 1, 0))
                part, size = [], 0
        self._send(Entries(tuple(part), 0, int(cut)))

    def _send(self, message: Message) -> None:
        channel.send(self._sock, message)
