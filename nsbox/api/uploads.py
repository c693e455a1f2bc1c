"""``PUT …/files`` with ``application/octet-stream``, beside Quart: each chunk goes to the sandbox before the
next is read, so memory stays flat and a slow disk slows the client. (Quart takes in whatever comes: 300 MB
were seen in memory.)"""

from __future__ import annotations

import re
from functools import partial

from nsbox.api import answers, parameters, query, views
from nsbox.api.bodies import check_not_compressed
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.services import FilesService
from nsbox.model.errors import Code, Problem

OCTETS = b"application/octet-stream"
RULE = f"{BASE}/sandboxes/<sandbox_id>/files"
_FILES = re.compile(f"{BASE}/sandboxes/([^/]+)/files")
_KNOWN = parameters.names(parameters.UPLOAD)


def files_of(exchange: Exchange) -> str | None:
    """The sandbox whose files the request is for, if it is for files at all."""
    match = _FILES.fullmatch(exchange.scope["path"])
    return match[1] if match else None


def route(files: FilesService, most: int) -> RawRoute:
    """The route, ready for the gate."""
    return RawRoute(RULE, ("PUT",), _takes, partial(_handle, files, most))


def _takes(exchange: Exchange) -> bool:
    if exchange.scope["method"] != "PUT" or files_of(exchange) is None:
        return False
    kind = exchange.header(b"content-type") or b""
    return kind.partition(b";")[0].strip().lower() == OCTETS


async def _handle(files: FilesService, limit: int, exchange: Exchange, owner: str) -> None:
    sandbox_id = files_of(exchange)
    assert sandbox_id is not None
    check_not_compressed(exchange)
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    path, mode = parameters.PATH.of(asked), parameters.MODE.of(asked)
    if exchange.announced_length() > limit:
        raise Problem(Code.BODY_TOO_LARGE, f"a file may have up to {limit} bytes", limit=limit)
    size = 0
    # An error or a client that leaves ends the block with an exception: the old file stays.
    async with files.upload(owner, sandbox_id, path, mode) as upload:
        while chunk := await exchange.read(limit):
            await upload.write(chunk)
            size += len(chunk)
    await exchange.answer_json(answers.WrittenView(**views.path_view(path), written=True, size=size))
