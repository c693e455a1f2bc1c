"""Bytes from nsbox, over as many connections as it takes.

A file is gone on with where the connection was lost (``Range``), if nsbox can tell that it is still the same
(``If-Range``). A date tells that only when the file had been at rest for a while (RFC 9110, 8.8.2.2): what
changed twice within a second has one date. Where it cannot be told, and for archives, which are made anew
each time, the bytes come from the beginning again: a file on our side can take that, a stream cannot."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from nsbox.client.call import Request
from nsbox.client.errors import ConnectionFailed, UnexpectedAnswer, from_answer
from nsbox.client.retries import Answer, Attempts

_AT_REST = 1.0


class Fetching:
    """One download. ``offset``: how many bytes are here. ``total``: how many there are, if that is known."""

    def __init__(self, request: Request, attempts: Attempts, *, can_restart: bool) -> None:
        self._request, self._attempts, self._can_restart = request, attempts, can_restart
        self._same = ""
        self.offset = 0
        self.total: int | None = None

    def request(self) -> Request:
        """What to ask for now."""
        if not self.offset or not self._same:
            return self._request
        more = (("Range", f"bytes={self.offset}-"), ("If-Range", self._same))
        return self._request._replace(headers=(*self._request.headers, *more))

    def begun(self, status: int, headers: Mapping[str, str]) -> int:
        """Where the bytes of this answer go: on from where we are, or to the beginning. Raises
        ``UnexpectedAnswer`` when that is not possible."""
        length = _number(headers.get("content-length"))
        if status == 206 and headers.get("content-range", "").startswith(f"bytes {self.offset}-"):
            return self.offset
        if self.offset and not self._can_restart:
            raise UnexpectedAnswer("the download broke off, and what is there now is another file")
        self.offset, self.total = 0, length
        self._same = headers.get("last-modified", "") if _is_strong(headers) else ""
        return 0

    def refused(self, answer: Answer) -> float:
        """The pause after an error. Raises ``ApiError``."""
        error = from_answer(answer.status, answer.body, answer.headers.get("retry-after"))
        return self._attempts.refused(error, safe=True)

    def lost(self, error: ConnectionFailed) -> float:
        """The pause after a connection that is gone. Raises it when it is time to give up."""
        if self.offset and not self._can_restart and not self._same:
            raise error
        return self._attempts.lost(error, safe=True)

    def took(self, count: int) -> None:
        """So many more bytes are here."""
        self.offset += count
        self._attempts.progressed()


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _is_strong(headers: Mapping[str, str]) -> bool:
    try:
        changed = parsedate_to_datetime(headers["last-modified"])
        now = parsedate_to_datetime(headers["date"])
        return (now - changed).total_seconds() > _AT_REST
    except (KeyError, ValueError, TypeError):
        return False
