"""The end of the audit log that is not in the record yet, in a file: noted before it is answered.

A transaction for each request would cost 0.3 ms and a place in the queue that creates wait in; to append some
200 bytes to a file costs some microseconds, and the kernel keeps them when this process dies. (Not when the
host does: neither are the last commits to the record on disk then, see ``database``.) Each entry begins with
a newline, so that one that was cut short by a full disk spoils no other.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import msgspec

from nsbox.model.audit import Event
from nsbox.model.errors import HostProblem

FILE_NAME = "audit.tail"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Event)


class AuditTail:
    """One for the process. ``left``: what the one before it had noted and may not have written."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE_NAME)
        try:
            self._file = os.open(self._path, _FLAGS, 0o600)
            with open(self._path, "rb") as file:
                lines = file.read().split(b"\n")
        except OSError as error:
            raise HostProblem(f"{self._path} cannot be opened: {error.strerror}") from error
        self.left = [one for one in map(_event, lines) if one is not None]
        self._empty = lines == [b""]

    def add(self, event: Event) -> None:
        """Returning means that it outlives this process. Raises ``HostProblem``."""
        self._empty = False
        _write(self._file, self._path, _line(event))

    def keep(self, events: Collection[Event]) -> None:
        """All but these is in the record. Raises ``HostProblem``; then more is kept, which does no harm."""
        try:
            if events:
                self._replace(events)
            elif not self._empty:
                os.ftruncate(self._file, 0)
                self._empty = True
        except OSError as error:
            raise HostProblem(f"{self._path} cannot be shortened: {error.strerror}") from error

    def _replace(self, events: Collection[Event]) -> None:
        """At no moment is one of them in no file."""
        path = f"{self._path}.new"
        file = os.open(path, _FLAGS | os.O_TRUNC, 0o600)
        try:
            _write(file, path, b"".join(map(_line, events)))
            os.rename(path, self._path)
        except BaseException:
            os.close(file)
            raise
        os.close(self._file)
        self._file = file

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def _line(event: Event) -> bytes:
    return b"\n" + _ENCODER.encode(event)


def _event(line: bytes) -> Event | None:
    try:
        return _DECODER.decode(line)
    except msgspec.MsgspecError:
        return None


def _write(file: int, path: str, data: bytes) -> None:
    try:
        short = os.write(file, data) < len(data)
    except OSError as error:
        raise HostProblem(f"{path} cannot be written: {error.strerror}") from error
    if short:
        raise HostProblem(f"no space is left for {path}")
