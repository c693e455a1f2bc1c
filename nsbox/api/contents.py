"""``GET …/files`` in JSON: what is in a file, or a folder. Bytes as they are: ``downloads``."""

from __future__ import annotations

import codecs
import os
from functools import partial

import msgspec
import trio

from nsbox.api import caps, parameters, query, views
from nsbox.api.exchange import Exchange
from nsbox.api.gradual import Gradual
from nsbox.api.middleware import RawRoute
from nsbox.api.services import FilesService, OpenFile
from nsbox.api.turns import Turns
from nsbox.api.uploads import RULE, files_of
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Encoding, Listing

_KNOWN = parameters.names(parameters.GET_FILE)
#: Files up to here are read whole, and answered at once. Of others so much is held at a time.
_SMALL = 64 * 1024
#: A listing is held while it is taken: some tens of megabytes. So many of one user are, at a time.
_LISTINGS_OF_ONE = 4
_ENCODER = msgspec.json.Encoder()


def route(files: FilesService, most: int) -> RawRoute:
    """The route, ready for the gate, behind that of ``downloads``. Files have ``most`` bytes."""
    return RawRoute(RULE, ("GET", "HEAD"), _takes, partial(_handle, files, most, Turns(_LISTINGS_OF_ONE)))


def _takes(exchange: Exchange) -> bool:
    return exchange.scope["method"] in ("GET", "HEAD") and files_of(exchange) is not None


async def _handle(files: FilesService, most: int, listings: Turns, exchange: Exchange, owner: str) -> None:
    sandbox_id = files_of(exchange)
    assert sandbox_id is not None
    asked = query.parse(exchange.scope["query_string"], _KNOWN)
    path = parameters.PATH.of(asked)
    parameters.RAW_FILE.of(asked)  # true is another route's; what is neither is refused here
    recursive = parameters.RECURSIVE.of(asked)
    while await exchange.read(caps.SMALL):  # a body means nothing
        pass
    if parameters.LIST.of(asked):
        async with exchange.while_client_waits(), listings.turn(owner):
            await _list(exchange, path, await files.list(owner, sandbox_id, path, recursive))
        return
    chosen = parameters.FILE_ENCODING.of(asked)
    wanted = None if chosen is None else Encoding(chosen)
    async with exchange.while_client_waits(), files.open(owner, sandbox_id, path) as file:
        begin = await _begin(file)
        if len(begin) > _SMALL:
            await _answer_gradually(exchange, path, _Contents(file, path, most), wanted)
            return
    if len(begin) > most:
        raise _too_large(path, most)
    await exchange.answer_json(views.file_content(path, begin, wanted))


async def _list(exchange: Exchange, path: bytes, found: Listing) -> None:
    """``files`` for a quick look, ``entries`` for the rest; made as they are sent."""
    answer = Gradual(exchange)
    await answer.write(_ENCODER.encode(views.path_view(path))[:-1])
    for name, shown in (("files", views.entry_name), ("entries", views.entry)):
        before = b',"%s":[' % name.encode()
        for one in found.entries:
            await answer.write(before + _ENCODER.encode(shown(one)))
            before = b","
        await answer.write(b"]" if found.entries else before + b"]")
    await answer.write_rest({"truncated": found.truncated})


async def _begin(file: OpenFile) -> bytes:
    """All of a small file, or more than ``_SMALL`` bytes of another. Those of /proc come in pieces."""
    data = await file.read_at(0, _SMALL + 1)
    while len(data) <= _SMALL and (more := await file.read_at(len(data), _SMALL + 1 - len(data))):
        data += more
    return data


async def _answer_gradually(
    exchange: Exchange, path: bytes, contents: _Contents, wanted: Encoding | None
) -> None:
    """Looked through once before the answer begins, for its size and for whether it is text. Who changes a
    file while it is read gets some of both, or an answer that breaks off."""
    text = await contents.look_through()
    encoding = wanted or (Encoding.UTF8 if text else Encoding.BASE64)
    answer = Gradual(exchange)
    await answer.write(_ENCODER.encode(views.path_view(path))[:-1] + b',"content":')
    try:
        await answer.write_text(contents.next, encoding, "strict" if wanted is None else "replace")
    except UnicodeDecodeError as error:
        raise Problem(
            Code.FILE_OPERATION_FAILED, "the file was changed while it was read", remedy="try again"
        ) from error
    await answer.write_rest({"encoding": encoding})


class _Contents:
    """A file that is too large to be held, twice: to look through it, and to send it."""

    def __init__(self, file: OpenFile, path: bytes, most: int) -> None:
        self._file, self._path, self._most = file, path, most
        self._offset = self._size = 0

    async def look_through(self) -> bool:
        """Whether it is UTF-8. Raises ``FILE_TOO_LARGE``."""
        if self._file.size > self._most:
            raise _too_large(self._path, self._most)
        decoder, text = codecs.getincrementaldecoder("utf-8")(), True
        while piece := await self._file.read_at(self._size, _SMALL):
            self._size += len(piece)
            if self._size > self._most:
                raise _too_large(self._path, self._most)
            text = text and _decodes(decoder, piece)
            await trio.lowlevel.checkpoint()
        return text and _decodes(decoder, b"", final=True)

    async def next(self) -> bytes:
        """Some more of what was looked through; none at the end."""
        most = min(_SMALL, self._size - self._offset)
        piece = await self._file.read_at(self._offset, most) if most else b""
        self._offset += len(piece)
        return piece


def _decodes(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(data, final)
    except UnicodeDecodeError:
        return False
    return True


def _too_large(path: bytes, most: int) -> Problem:
    return Problem(
        Code.FILE_TOO_LARGE,
        f"{os.fsdecode(path)} has more than {most} bytes",
        field="path",
        remedy="read it with raw=true, which streams files of any size",
    )
