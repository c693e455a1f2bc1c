# Made from asynchronous/bytes.py by scripts/blocking_client.py: change that one, and run it.
"""Large bodies, in both directions."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from typing import IO

from nsbox.client.blocking import waiting
from nsbox.client.blocking.driver import Driver
from nsbox.client.call import Request, T
from nsbox.client.errors import ConnectionFailed, from_answer
from nsbox.client.fetching import Fetching
from nsbox.client.placing import opened
from nsbox.client.sending import Tell, Upload


def collect(pieces: Generator[bytes, None, None]) -> bytes:
    """All of them."""
    with closing(pieces):
        return b"".join(list(pieces))


def put(driver: Driver, request: Request, upload: Upload, read: Callable[[bytes], T]) -> T:
    """Send it. What can be read again is sent again after a loss: a file is written as a whole or not."""
    attempts = driver.attempts()
    with driver.discreet():
        while True:
            try:
                answer = driver.ask(request._replace(body=upload))
            except ConnectionFailed as error:
                if not upload.replayable:
                    raise
                driver.sleep(attempts.lost(error, safe=True))
                continue
            if 200 <= answer.status < 300:
                return read(answer.body)
            refusal = from_answer(answer.status, answer.body, answer.headers.get("retry-after"))
            if not upload.replayable:
                raise refusal
            driver.sleep(attempts.refused(refusal, safe=True))


def fetch_to(
    driver: Driver,
    request: Request,
    target: str | os.PathLike[str] | IO[bytes],
    tell: Tell | None = None,
) -> int:
    """The number of bytes."""
    fetching = Fetching(request, driver.attempts(), can_restart=True)
    with opened(target) as file:
        start = file.tell() if file.seekable() else 0
        if not file.seekable():
            fetching = Fetching(request, driver.attempts(), can_restart=False)
        with closing(driver.fetch(fetching)) as pieces:
            at = 0
            for where, piece in pieces:
                if where != at:
                    file.seek(start + where)
                    file.truncate()
                waiting.in_thread(file.write, piece)
                at = where + len(piece)
                if tell is not None:
                    tell(at, fetching.total)
        if at != fetching.offset:  # begun anew, and then empty
            file.seek(start + fetching.offset)
            file.truncate()
    return fetching.offset
