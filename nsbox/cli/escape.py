"""The way out of a terminal: ``~.`` at the beginning of a line, as in ssh, or ctrl-P ctrl-Q, as in docker."""

from __future__ import annotations

from typing import Final


class _Detach:
    """The user wants to leave."""


DETACH: Final = _Detach()
_TILDE, _DOT, _P, _Q = b"~", b".", b"\x10", b"\x11"
_LINE_ENDS = b"\r\n"


class Escape:
    """Looks at what is typed, byte by byte, in whatever pieces it comes. ``~~`` is one ``~``. A byte that may
    begin a way out is held back until the next one tells."""

    def __init__(self) -> None:
        self._held = b""
        self._line_begins = True

    def take(self, data: bytes) -> bytes | _Detach:
        """What of it goes to the sandbox; what stood before a way out is not worth sending any more."""
        out = bytearray()
        for number in data:
            byte = bytes((number,))
            if self._held:
                held, self._held = self._held, b""
                if held + byte in (_TILDE + _DOT, _P + _Q):
                    return DETACH
                out += held
                self._line_begins = False
                if held + byte == _TILDE + _TILDE:
                    continue
            if (byte == _TILDE and self._line_begins) or byte == _P:
                self._held = byte
                continue
            out += byte
            self._line_begins = byte in _LINE_ENDS
        return bytes(out)
