"""``GET …/files?raw=true``, beside Quart: bytes as they are, streamed, in whole or in part (RFC 9110, 14)."""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import partial

from nsbox.api import parameters, query
from nsbox.api.exchange import Exchange, Headers
from nsbox.api.middleware import RawRoute
from nsbox.api.services import FilesService, OpenFile
from nsbox.api.uploads import OCTETS, RULE, files_of
from nsbox.model.errors import Code, Problem

CHUNK = 256 * 1024
#: Until a client has shown that it reads: thousands that never do hold a piece each.
_FIRST_CHUNK, _SHOWN = 32 * 1024, 1024 * 1024
_KNOWN = parameters.names(parameters.DOWNLOAD)
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)
_RAW = re.compile(rb"(?:^|&)raw=true(?:&|$)")
_LAST_DATE = 253_402_300_799  # 9999-12-31: later years have five digits, and no HTTP date


def route(files: FilesService) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(RULE, ("GET", "HEAD"), _takes, partial(_handle, files))


def _takes(exchange: Exchange) -> bool:
    if exchange.scope["method"] not in ("GET", "HEAD") or files_of(exchange) is None:
        return False
    if _RAW.search(exchange.scope["query_string"]):
        return True
    accepted = (exchange.header(b"accept") or b"").partition(b";")[0].strip().lower()
    # Only this type alone: a list with it in is from a client that takes JSON as well.
    return accepted == OCTETS and b"list=true" not in exchange.scope["query_string"]


async def _handle(files: FilesService, exchange: Exchange, owner: str) -> None:
    sandbox_id = files_of(exchange)
    assert sandbox_id is not None
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    path = parameters.PATH.of(asked)
    parameters.RAW_FILE.of(asked)
    await exchange.read(0)  # there is no body, and its end must have been seen; one with bytes is refused
    async with exchange.while_client_waits(), files.open(owner, sandbox_id, path) as file:
        await _send(exchange, file)


async def _send(exchange: Exchange, file: OpenFile) -> None:
    modified = _http_date(file.mtime)
    headers: Headers = [
        (b"content-type", OCTETS),
        (b"accept-ranges", b"bytes"),
        (b"last-modified", modified),
    ]
    wanted = _range(exchange, file.size, modified)
    if wanted is not None:
        start, end = wanted
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, file.size)))
        await _stream(exchange, file, 206, headers, start, end)
    elif file.size:
        await _stream(exchange, file, 200, headers, 0, file.size)
    else:
        await _stream_unsized(exchange, file, headers)


def _range(exchange: Exchange, size: int, modified: bytes) -> tuple[int, int] | None:
    """The part that is asked for, as ``start, end``; ``None`` for the whole file.

    What is no single range of bytes is ignored, as the RFC allows; so is a range under a condition
    (``If-Range``) that does not hold.
    """
    header = exchange.header(b"range")
    condition = exchange.header(b"if-range")
    match = _RANGE.fullmatch((header or b"").decode("latin-1"))
    if match is None or (match[1], match[2]) == ("", "") or condition not in (None, modified):
        return None
    if match[1] == "":
        start, end = max(size - int(match[2]), 0), size
    else:
        start = int(match[1])
        end = size if match[2] == "" else min(int(match[2]) + 1, size)
        if match[2] and int(match[2]) < start:
            return None  # not a range at all
    if start >= end:
        raise Problem(Code.RANGE_NOT_SATISFIABLE, f"the file has {size} bytes", field="Range", size=size)
    return start, end


async def _stream(
    exchange: Exchange, file: OpenFile, status: int, headers: Headers, start: int, end: int
) -> None:
    length = (b"content-length", b"%d" % (end - start))
    # The first piece is read before the head goes out, so that an error of it can still be told.
    begin = start
    piece = await file.read_at(start, min(_FIRST_CHUNK, end - start))
    await exchange.send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    if exchange.scope["method"] == "HEAD":
        await exchange.send({"type": "http.response.body", "body": b""})
        return
    while piece:
        start += len(piece)
        await exchange.send({"type": "http.response.body", "body": piece, "more_body": start < end})
        if start == end:
            return
        most = CHUNK if start - begin >= _SHOWN else _FIRST_CHUNK
        piece = await file.read_at(start, min(most, end - start))
    # The file became shorter meanwhile. The answer stays unfinished, which closes the connection: a client
    # must not take the part for the whole.


async def _stream_unsized(exchange: Exchange, file: OpenFile, headers: Headers) -> None:
    """A file that says it is empty: it is, or it is one of those of /proc, which do not know their size."""
    offset = 0
    piece = await file.read_at(0, CHUNK)
    if not piece:
        headers = [*headers, (b"content-length", b"0")]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    if exchange.scope["method"] != "HEAD":
        while piece:
            await exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
            offset += len(piece)
            piece = await file.read_at(offset, CHUNK)
    await exchange.send({"type": "http.response.body", "body": b""})


def _http_date(seconds: float) -> bytes:
    """The sandbox sets the time of a file at will: what no date can say becomes the nearest one."""
    clamped = min(max(seconds, 0.0), _LAST_DATE) if seconds == seconds else 0.0
    return formatdate(clamped, usegmt=True).encode()
