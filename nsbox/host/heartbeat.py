"""api's word to the supervisor, byte by byte through a pipe: it serves, and keeper has answered it."""

from __future__ import annotations

import os

#: Once, when it serves; and whenever keeper has answered.
READY, BEAT = b"r", b"."
#: api's exit status when the host lacks something, which it has said then.
GAVE_UP = 1


def send(pipe: int, word: bytes) -> None:
    """Nothing where nobody listens (-1)."""
    if pipe < 0:
        return
    try:
        os.write(pipe, word)
    except BlockingIOError:
        pass  # a pipeful is unread: the supervisor does not look, and what it would see is no news
